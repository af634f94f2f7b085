//! Which decisions become alerts, and their texts: what happened, why, and what was done.
//!
//! It only builds alerts; delivering them is the task of `alerts`.

use super::ledger_handle::unix_ms;
use super::{Control, ControlState, Deployment, identity};
use crate::alerts::{Alert, AlertId, Kind, ModelVersion, WeightChange};
use crate::ledger::{Health, Model, Running};
use crate::rollout::{Cause, Decision, DecisionKind, Weight};
use crate::sanitize;
use serde_json::json;
use std::sync::Weak;
use std::sync::atomic::Ordering;
use tokio::sync::watch;

/// What is done about a device that has failed while a canary was on it.
const LOST: &str = "the server ends; started again it serves stable alone and refuses this version";
/// What is done about a version that is refused before it is there.
const NOT_LOADED: &str = "this version is not loaded again; stable serves alone";

/// Sends what this decision is worth, if anything.
pub(super) fn of_decision(control: &Control, state: &ControlState, decision: &Decision) {
    let Some((kind, done)) = meaning(decision.kind) else { return };
    let rolled_back = matches!(decision.kind, DecisionKind::RolledBack { .. });
    let done = match rolled_back {
        true if control.device_fault().is_some() => LOST,
        true if state.resuming.is_some() => NOT_LOADED,
        _ => done,
    };
    // Once the models have changed places, no canary has a share.
    let swapped = matches!(kind, Kind::Promoted | Kind::Undone);
    let weight = (!swapped).then(|| WeightChange {
        before: state.decisions.back().map_or(0, |decision| decision.weight.percent()),
        after: decision.weight.percent(),
    });
    let (what, why) = decision.text.split_once(": ").unwrap_or((&decision.text, ""));
    let why = with_losses(kind, why, &state.less);
    let about = AlertContext {
        rollout: Some(&decision.rollout),
        stage: decision.stage,
        weight,
        canary: state.trial.as_ref().map(short),
    };
    send(control, kind, about, [what, &why, done]);
}

/// Who confirms or finds a promotion is told once more what was allowed at the load.
fn with_losses(kind: Kind, why: &str, less: &[String]) -> String {
    match kind {
        Kind::AwaitingConfirmation | Kind::Promoted if !less.is_empty() => {
            format!("{why}; it can do less than stable could: {}", less.join("; "))
        }
        _ => why.to_owned(),
    }
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
        DecisionKind::WouldRollBack => (
            Kind::RolledBack,
            "nothing: this is a dry run; to remove the canary, roll it back by hand",
        ),
        DecisionKind::Promoted => (Kind::Promoted, "the canary is stable now"),
        DecisionKind::Stalled => {
            (Kind::Stalled, "the weight is held; look at the gates, then promote or roll back")
        }
        DecisionKind::StableFault => {
            (Kind::StableFault, "nothing was changed; a person has to look at stable")
        }
        DecisionKind::AwaitingConfirm { .. } => {
            (Kind::AwaitingConfirmation, "the weight is held until somebody confirms it")
        }
        DecisionKind::Noticed { .. } => (Kind::Noticed, "nothing was changed; read some replies"),
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

/// Tells once that the canary's real share is far from what was set, until it is near again.
pub(super) fn watch_share(control: &Control) {
    let share = control.recent.lock().share();
    let skewed = share.is_skewed();
    if control.skewed.swap(skewed, Ordering::Relaxed) || !skewed {
        return;
    }
    let state = control.state.lock();
    let Some(trial) = state.trial.as_ref() else { return };
    let about = AlertContext { canary: Some(short(trial)), ..AlertContext::default() };
    let percent = |share: f64| format!("{:.1} %", 100.0 * share);
    let what = format!("the canary has {} of the latest requests", percent(share.canary));
    let why = format!(
        "{} were set; a few long sessions or conversations make up much of the traffic",
        percent(share.expected)
    );
    let done = "nothing was changed; until the shares are close again, steps take more or less time than planned";
    let body =
        json!({"share": share.canary, "expected": share.expected, "share_of": share.requests});
    control.notes.publish("traffic_skew", false, body);
    send(control, Kind::TrafficSkew, about, [&what, &why, done]);
}

/// The device has failed and no rollout ran. `candidate`: a canary was being loaded.
pub(super) fn device_lost(control: &Control, stage: u64, why: &str, candidate: bool) {
    let about = AlertContext { stage, ..AlertContext::default() };
    let (kind, done) = match candidate {
        true => (Kind::Fault, LOST),
        false => (Kind::StableFault, "the server ends, to be started again"),
    };
    send(control, kind, about, ["the device has failed", why, done]);
}

/// The process before ended under a version that is refused from now on; no rollout of it can be rolled back.
pub(super) fn refused(control: &Control, canary: &Model, why: &str) {
    let about = AlertContext { canary: Some(short(canary)), ..AlertContext::default() };
    send(
        control,
        Kind::Fault,
        about,
        ["the server died while a canary was in service", why, NOT_LOADED],
    );
}

/// Something waits because the ledger has refused it.
pub(super) fn held(control: &Control, what: &str, why: &str) {
    let done = "serving continues unchanged; writing is retried until the ledger accepts it";
    send(control, Kind::LedgerFailed, AlertContext::default(), [what, why, done]);
}

/// Where a rollout stood that is taken up.
pub(super) struct ResumedAt<'a> {
    pub weight: Weight,
    pub stage: u64,
    /// What else is to be said of it.
    pub remark: Option<&'a str>,
    pub why_not: Option<&'a str>,
}

/// A rollout of an earlier process goes on, or, for a reason, does not.
pub(super) fn resumed(control: &Control, running: &Running, stood: ResumedAt<'_>) {
    let ResumedAt { weight, stage, remark, why_not } = stood;
    let weight = weight.percent();
    let what = format!("the server was restarted in the middle of a rollout at {weight} %");
    let (why, done) = match why_not {
        None => (
            remark.unwrap_or_default().to_owned(),
            format!("it goes on at {weight} % with all that was counted"),
        ),
        Some(why) => (why.to_owned(), "the rollout was given up; stable serves alone".to_owned()),
    };
    let after = if why_not.is_none() { weight } else { 0 };
    let change = WeightChange { before: weight, after };
    let about = AlertContext {
        rollout: Some(&running.opening.rollout),
        stage,
        weight: Some(change),
        canary: Some(short(&running.opening.canary)),
    };
    send(control, Kind::ResumedAfterCrash, about, [&what, &why, &done]);
}

pub(super) async fn watch_ledger(control: Weak<Control>, mut health: watch::Receiver<Health>) {
    while health.changed().await.is_ok() {
        let failing = health.borrow_and_update().failing.clone();
        let Some(control) = control.upgrade() else { return };
        if let Some(why) = failing {
            let done = "serving goes on; no weight rises until it can be written again";
            let texts = ["the ledger cannot be written", why.as_str(), done];
            send(&control, Kind::LedgerFailed, AlertContext::default(), texts);
        }
    }
}

#[derive(Default)]
struct AlertContext<'a> {
    rollout: Option<&'a str>,
    stage: u64,
    weight: Option<WeightChange>,
    canary: Option<ModelVersion>,
}

fn send(control: &Control, kind: Kind, about: AlertContext<'_>, [what, why, done]: [&str; 3]) {
    let Some(alerts) = &control.alerts else { return };
    let stable = control.routes.read().stable.as_deref().map(version);
    alerts.send(Alert {
        id: AlertId::from_bits(uuid::Uuid::new_v4().as_u128()),
        at_unix: u64::try_from(unix_ms() / 1000).unwrap_or(0),
        kind,
        severity: kind.severity(),
        model: control.name.to_string(),
        rollout: about.rollout.map(str::to_owned),
        stage: about.stage,
        stable,
        canary: about.canary,
        weight: about.weight,
        what: sanitize::line(what),
        why: sanitize::line(why),
        done: sanitize::line(done),
    });
}

fn version(deployment: &Deployment) -> ModelVersion {
    short(&super::ledger_handle::model(deployment))
}

fn short(model: &Model) -> ModelVersion {
    let digest = identity::short(&model.digest);
    ModelVersion { version: model.version.clone(), digest }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_allowed_is_said_when_it_matters() {
        let less = ["its context is 256 tokens, stable's 512".to_owned()];
        for kind in [Kind::AwaitingConfirmation, Kind::Promoted] {
            assert!(with_losses(kind, "gates pass", &less).ends_with(&less[0]), "{kind:?}");
            assert_eq!(with_losses(kind, "gates pass", &[]), "gates pass");
        }
        assert_eq!(with_losses(Kind::RolledBack, "errors", &less), "errors");
    }
}
