//! Carries out what the rollout decided, in the given order, and in the right order relative to the ledger.
//!
//! The rule: commit before raising, after lowering. A lower weight takes effect at once and is written afterwards. A
//! higher weight, or a swap of models, waits until it is written. The stage epoch ensures that a raise that had to wait
//! does not undo a later reduction.

use super::ledger_handle::model;
use super::unload::Previous;
use super::{Control, ControlState, Deployment, alerting, keep};
use crate::ledger::{Entry, LedgerError, Ticket};
use crate::metrics;
use crate::rollout::{Action, Decision, Event, Weight};
use serde_json::json;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};
use tokio::sync::mpsc::UnboundedReceiver;
use tokio::sync::oneshot;

/// What the ledger has refused is handed in again after this time.
const AGAIN_AFTER: Duration = Duration::from_secs(1);

/// Something that is being written down, and what may happen once it is.
pub(super) struct Commit {
    ticket: Option<Ticket>,
    /// What the ticket is for, in case that it has to be handed in again.
    entries: Vec<Entry>,
    actions: Vec<Action>,
    done: oneshot::Sender<()>,
}

/// Resolves when all is written and carried out.
pub(super) type Done = oneshot::Receiver<()>;

impl Control {
    /// Carries out `actions`, which followed from `event` at `now`, and writes them down after `entries`.
    pub(super) fn act(
        &self,
        state: &mut ControlState,
        now: Duration,
        event: Option<&Event>,
        actions: Vec<Action>,
        mut entries: Vec<Entry>,
    ) -> Done {
        state.revision += 1;
        entries.extend(actions.iter().filter_map(|action| self.entry_of(state, action)));
        let waits = self.raises(&actions);
        let later = match waits {
            true => actions,
            false => {
                actions.into_iter().for_each(|action| self.carry_out(state, action));
                Vec::new()
            }
        };
        let ticket = self.ledger.commit(now, event, entries.clone());
        let (done, wait) = oneshot::channel();
        // The task ends with the process only.
        let _ = self.commits.send(Commit { ticket, entries, actions: later, done });
        wait
    }

    /// Whether anything among them must not be in force before it is written down.
    fn raises(&self, actions: &[Action]) -> bool {
        let weight = self.routes.read().weight;
        actions.iter().any(|action| match action {
            Action::SetWeight { weight: to, .. } => *to > weight,
            Action::Promote | Action::Undo => true,
            Action::UnloadCanary | Action::Decision(_) => false,
        })
    }

    fn entry_of(&self, state: &ControlState, action: &Action) -> Option<Entry> {
        let routes = self.routes.read();
        let swap = |to: &Option<Arc<Deployment>>| {
            let (to, from) = (to.as_deref()?, routes.stable.as_deref()?);
            Some(Entry::ModelsSwapped { stable: model(to), former: model(from) })
        };
        match action {
            Action::SetWeight { weight, stage, .. } => {
                Some(Entry::WeightChanged { weight: *weight, stage: *stage })
            }
            Action::Promote => swap(&routes.canary),
            Action::Undo => {
                swap(&state.previous.as_ref().map(|previous| previous.deployment.clone()))
            }
            Action::UnloadCanary => None,
            Action::Decision(decision) => Some(Entry::Decision(Box::new(decision.clone()))),
        }
    }

    pub(super) fn carry_out(&self, state: &mut ControlState, action: Action) {
        match action {
            Action::SetWeight { weight, routed, stage } => {
                self.set_routing((weight, routed), stage);
            }
            Action::Promote => self.swap(state),
            Action::Undo => self.swap_back(state),
            Action::UnloadCanary => self.retire_canary("rolled back"),
            Action::Decision(decision) => self.announce(state, decision),
        }
    }

    fn set_routing(&self, (weight, routed): (Weight, Weight), stage: u64) {
        let mut routes = self.routes.write();
        if stage < routes.stage {
            return;
        }
        let changed = routes.weight != weight;
        routes.weight = weight;
        routes.routed = routed;
        routes.stage = stage;
        drop(routes);
        if changed {
            let body = json!({"weight": weight.percent(), "stage": stage});
            self.notes.publish("weight", false, body);
        }
    }

    /// The canary becomes stable: one pointer moves, no weights do. The former stable waits for a while, in
    /// case that is taken back, and is then unloaded.
    fn swap(&self, state: &mut ControlState) {
        let former = {
            let mut routes = self.routes.write();
            let Some(canary) = routes.canary.take() else { return };
            routes.replace_stable(canary)
        };
        self.life.on_trial(None);
        self.share_turns();
        let Some(deployment) = former else { return };
        self.give_share(&deployment, self.deployments.canary_priority);
        if self.deployments.keep_previous.is_zero() {
            self.retire(deployment, "replaced", self.deployments.finish);
        } else {
            let until = Instant::now() + self.deployments.keep_previous;
            state.previous = Some(Previous { deployment, until });
        }
    }

    /// Stable gets every turn that is its own, the canary as many of them as the configuration says; and what
    /// stable's steps cost is what both are measured by.
    pub(super) fn share_turns(&self) {
        let routes = self.routes.read();
        if let Some(stable) = &routes.stable {
            let _ = self.engine.set_reference(stable.lane);
        }
        let shares = [(&routes.stable, 1.0), (&routes.canary, self.deployments.canary_priority)];
        for (deployment, share) in shares {
            deployment.iter().for_each(|deployment| self.give_share(deployment, share));
        }
    }

    fn give_share(&self, deployment: &Deployment, share: f64) {
        // An engine that has stopped gives no turns to anybody.
        let _ = self.engine.set_share(deployment.lane, share);
    }

    /// The former stable serves again; the promoted version leaves.
    fn swap_back(&self, state: &mut ControlState) {
        let Some(Previous { deployment, .. }) = state.previous.take() else { return };
        let promoted = self.routes.write().replace_stable(deployment);
        self.share_turns();
        if let Some(promoted) = promoted {
            self.retire(promoted, "undone", self.deployments.drain);
        }
    }

    /// Until that is written down, an end is still held against it (`commit`).
    pub(super) fn retire_canary(&self, reason: &'static str) {
        let canary = self.routes.write().remove_canary();
        if let Some(deployment) = canary {
            self.retire(deployment, reason, self.deployments.drain);
        }
    }

    /// What is in force is what the ledger has: where that is no canary, none is on trial.
    fn off_trial(&self, state: &ControlState) {
        let idle = state.loading.is_none() && state.resuming.is_none();
        if idle && self.routes.read().canary.is_none() {
            self.life.on_trial(None);
        }
    }

    fn announce(&self, state: &mut ControlState, decision: Decision) {
        let Decision { kind, rollout, weight, stage, text, .. } = &decision;
        metrics::decision(kind.as_str());
        let body = json!({
            "decision": kind.as_str(), "rollout": rollout, "weight": weight.percent(), "stage": stage,
            "text": text, "gates": super::status::gates(&decision.verdict),
        });
        self.notes.publish("decision", kind.is_alert(), body);
        alerting::of_decision(self, state, &decision);
        keep(&mut state.decisions, decision);
    }
}

/// Carries out what waits for the ledger, in order. What the ledger refuses is handed in again until it is
/// written: a raise that is not on the disk does not happen.
pub(super) async fn commit(control: Weak<Control>, mut inbox: UnboundedReceiver<Commit>) {
    while let Some(Commit { ticket, entries, actions, done }) = inbox.recv().await {
        let mut waiting = ticket;
        while let Some(ticket) = waiting.take() {
            let Err(error) = ticket.await else { break };
            if let Some(control) = control.upgrade() {
                control.hold(&error, &actions);
            }
            tokio::time::sleep(AGAIN_AFTER).await;
            let Some(control) = control.upgrade() else { return };
            waiting = control.ledger.again(control.now(), entries.clone());
        }
        let Some(control) = control.upgrade() else { return };
        {
            let mut state = control.state.lock();
            state.held = None;
            actions.into_iter().for_each(|action| control.carry_out(&mut state, action));
            control.off_trial(&state);
        }
        // Nobody may be waiting.
        let _ = done.send(());
    }
}

impl Control {
    /// The ledger has refused what `actions` wait for: that is said, once.
    fn hold(&self, error: &LedgerError, actions: &[Action]) {
        let mut state = self.state.lock();
        if state.held.is_some() {
            return;
        }
        let weight = actions.iter().find_map(|action| match action {
            Action::SetWeight { weight, .. } => Some(*weight),
            _ => None,
        });
        let what = match weight {
            _ if actions.contains(&Action::Promote) => "the promotion waits".to_owned(),
            _ if actions.contains(&Action::Undo) => {
                "the return to the former stable waits".to_owned()
            }
            Some(weight) => format!("the raise to {weight} waits"),
            None => "a decision waits".to_owned(),
        };
        let text = format!("{what} until the ledger takes it: {error}");
        self.notes.publish("held", true, json!({"what": what, "why": error.to_string()}));
        alerting::held(self, &what, &error.to_string());
        state.held = Some(text);
        state.revision += 1;
    }
}
