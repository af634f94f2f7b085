//! Which decisions people are told of, and in which words: what happened, why, and what was done.
//!
//! Builds alerts; who gets them and how is the alerts' room.

use super::book::unix_ms;
use super::{Control, Deployment};
use crate::alerts::{Alert, AlertId, Kind, ModelVersion, WeightChange};
use crate::ledger::{Health, Model, Running};
use crate::rollout::{Cause, Decision, DecisionKind};
use std::sync::Weak;
use tokio::sync::watch;

/// Digits of a digest that tell versions apart.
const DIGITS: usize = 12;

/// Sends what this decision is worth, if anything.
pub(super) fn of_decision(control: &Control, before: Option<&Decision>, decision: &Decision) {
    let Some((kind, done)) = meaning(decision.kind) else { return };
    let weight = WeightChange {
        before: before.map_or(0, |decision| decision.weight.percent()),
        after: decision.weight.percent(),
    };
    let (what, why) = decision.text.split_once(": ").unwrap_or((&decision.text, ""));
    send(control, kind, decision.stage, Some(&decision.rollout), Some(weight), [what, why, done]);
}

/// The alert that a kind of decision is, and what was done about it.
fn meaning(kind: DecisionKind) -> Option<(Kind, &'static str)> {
    Some(match kind {
        DecisionKind::RolledBack { cause: Cause::Fault } => {
            (Kind::Fault, "the canary gets no more requests and is being unloaded")
        }
        DecisionKind::RolledBack { .. } => {
            (Kind::RolledBack, "the canary gets no more requests and is being unloaded")
        }
        DecisionKind::WouldRollBack => {
            (Kind::RolledBack, "nothing: this is a dry run; roll it back by hand if it should go")
        }
        DecisionKind::Promoted => (Kind::Promoted, "the canary is stable now"),
        DecisionKind::Stalled => {
            (Kind::Stalled, "the weight is held; look at the gates, then promote or roll back")
        }
        DecisionKind::StableFault => {
            (Kind::StableFault, "nothing was changed; stable needs a person")
        }
        DecisionKind::AwaitingConfirm { .. } => {
            (Kind::AwaitingConfirmation, "the weight is held until somebody confirms it")
        }
        DecisionKind::Undone => (Kind::Undone, "the former stable serves again"),
        DecisionKind::Started
        | DecisionKind::Raised { .. }
        | DecisionKind::Held
        | DecisionKind::Paused
        | DecisionKind::Resumed
        | DecisionKind::WeightSet { .. }
        | DecisionKind::PromotionOrdered
        | DecisionKind::Ready { .. }
        | DecisionKind::Confirmed
        | DecisionKind::WouldRaise { .. }
        | DecisionKind::WouldPromote
        | DecisionKind::SelfTestDone => return None,
    })
}

/// A rollout of an earlier process goes on, or, for a reason, does not.
pub(super) fn resumed(control: &Control, running: &Running, why_not: Option<&str>) {
    let weight = running.weight.percent();
    let what = format!("the server was restarted in the middle of a rollout at {weight} %");
    let (why, done) = match why_not {
        None => (String::new(), format!("it goes on at {weight} % with all that was counted")),
        Some(why) => (why.to_owned(), "the rollout was given up; stable serves alone".to_owned()),
    };
    let after = if why_not.is_none() { weight } else { 0 };
    let change = WeightChange { before: weight, after };
    let rollout = Some(running.opening.rollout.as_str());
    let texts = [what.as_str(), why.as_str(), done.as_str()];
    send(control, Kind::ResumedAfterCrash, running.stage, rollout, Some(change), texts);
}

/// Tells when the ledger cannot be written.
pub(super) async fn watch_ledger(control: Weak<Control>, mut health: watch::Receiver<Health>) {
    while health.changed().await.is_ok() {
        let failing = health.borrow_and_update().failing.clone();
        let Some(control) = control.upgrade() else { return };
        if let Some(why) = failing {
            let done = "serving goes on; no weight rises until it can be written again";
            let texts = ["the ledger cannot be written", why.as_str(), done];
            send(&control, Kind::LedgerFailed, 0, None, None, texts);
        }
    }
}

fn send(
    control: &Control,
    kind: Kind,
    stage: u64,
    rollout: Option<&str>,
    weight: Option<WeightChange>,
    [what, why, done]: [&str; 3],
) {
    let Some(alerts) = &control.alerts else { return };
    let routes = control.routes.read();
    let alert = Alert {
        id: AlertId::from_bits(uuid::Uuid::new_v4().as_u128()),
        at_unix: u64::try_from(unix_ms() / 1000).unwrap_or(0),
        kind,
        severity: kind.severity(),
        model: control.name.to_string(),
        rollout: rollout.map(str::to_owned),
        stage,
        stable: routes.stable.as_deref().map(version),
        canary: routes.canary.as_deref().map(version),
        weight,
        what: what.to_owned(),
        why: why.to_owned(),
        done: done.to_owned(),
    };
    drop(routes);
    alerts.send(alert);
}

fn version(deployment: &Deployment) -> ModelVersion {
    let Model { version, digest, .. } = super::book::model(deployment);
    ModelVersion { version, digest: digest.chars().take(DIGITS).collect() }
}
