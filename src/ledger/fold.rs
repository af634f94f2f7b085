//! How each entry changes where things stand.
//!
//! [`State::apply`] folds one entry in; the state after any row is the fold of all entries up to it, so that it can
//! always be checked against them.

use super::ends::HowEnded;
use super::entry::Entry;
use super::opening::Model;
use super::state::{KillCount, MAX_REJECTED, Rejection, Running, State};
use crate::rollout::{Arm, Decision, DecisionKind, Weight};

/// What a decision means for its rollout.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Effect {
    GoesOn,
    /// It ends with the canary in service.
    Promoted,
    /// It ends with the canary rolled back.
    RolledBack,
    /// Its promotion is undone: the former stable is in service again.
    Undone,
    /// It ends without a verdict on the canary.
    Over,
}

/// The only place that says which decisions end a rollout.
pub(super) fn effect(kind: DecisionKind) -> Effect {
    match kind {
        DecisionKind::Started
        | DecisionKind::Raised { .. }
        | DecisionKind::Held
        | DecisionKind::Stalled
        | DecisionKind::Paused
        | DecisionKind::Resumed
        | DecisionKind::WeightSet { .. }
        | DecisionKind::PromotionOrdered
        | DecisionKind::StableFault
        | DecisionKind::Noticed { .. }
        | DecisionKind::Ready { .. }
        | DecisionKind::AwaitingConfirm { .. }
        | DecisionKind::Confirmed
        | DecisionKind::WouldRaise { .. }
        | DecisionKind::WouldPromote
        | DecisionKind::WouldRollBack => Effect::GoesOn,
        DecisionKind::Promoted => Effect::Promoted,
        DecisionKind::RolledBack { .. } => Effect::RolledBack,
        DecisionKind::Undone => Effect::Undone,
        DecisionKind::SelfTestDone => Effect::Over,
    }
}

impl State {
    /// Applies the entry in row `seq`.
    pub fn apply(&mut self, seq: u64, at_unix_ms: i64, entry: &Entry) {
        match entry {
            Entry::RolloutOpened(opening) => {
                self.stable = Some(opening.stable.clone());
                self.promoted = None;
                self.running = Some(Running {
                    opening: (**opening).clone(),
                    opened: seq,
                    weight: Weight::ZERO,
                    stage: opening.epoch,
                    journal_ended: None,
                });
            }
            Entry::RolloutAbandoned { .. } => self.running = None,
            Entry::Decision(decision) => self.decided(at_unix_ms, decision),
            Entry::ModelLoaded { arm: Arm::Stable, model } => {
                self.stable = Some(model.clone());
            }
            Entry::ModelsSwapped { stable, .. } => self.stable = Some(stable.clone()),
            Entry::Rejected { digest, reason } => self.reject(Rejection {
                digest: digest.clone(),
                reason: reason.clone(),
                cause: "order".to_owned(),
                rollout: String::new(),
                at_unix_ms,
            }),
            Entry::Pardoned { digest, .. } => {
                self.rejected.retain(|one| one.digest != *digest);
                self.reset_kills(digest);
            }
            Entry::UncleanEnd { id, how, canary } => {
                self.last_end.clone_from(id);
                if let (HowEnded::Unexplained, Some(canary)) = (how, canary) {
                    self.count_kill(&canary.digest);
                }
            }
            Entry::CanaryWell { digest } => self.reset_kills(digest),
            Entry::JournalEnded { why, .. } => {
                if let Some(running) = self.running.as_mut().or(self.promoted.as_mut()) {
                    running.journal_ended = Some(why.clone());
                }
            }
            Entry::ServerStarted { configured, .. } => self.configured = Some(configured.clone()),
            Entry::RolloutResumed { .. }
            | Entry::Order { .. }
            | Entry::LoadOrdered { .. }
            | Entry::ModelLoaded { .. }
            | Entry::ModelUnloaded { .. }
            | Entry::WeightChanged { .. }
            | Entry::Fault { .. }
            | Entry::AlertSent { .. }
            | Entry::Pruned(_) => {}
        }
    }

    /// Number of unexplained kills under a version since it was last healthy.
    pub fn unexplained_ends(&self, digest: &str) -> u32 {
        self.suspects.iter().find(|one| one.digest == digest).map_or(0, |one| one.ends)
    }

    fn count_kill(&mut self, digest: &str) {
        if digest.is_empty() {
            // The process died before the content was known.
            return;
        }
        let ends = self.unexplained_ends(digest).saturating_add(1);
        self.reset_kills(digest);
        self.suspects.push(KillCount { digest: digest.to_owned(), ends });
        let excess = self.suspects.len().saturating_sub(MAX_REJECTED);
        self.suspects.drain(..excess);
    }

    fn reset_kills(&mut self, digest: &str) {
        self.suspects.retain(|one| one.digest != digest);
    }

    fn decided(&mut self, at_unix_ms: i64, decision: &Decision) {
        let ours = |running: &Running| running.opening.rollout == decision.rollout;
        let (running, promoted) = (&mut self.running, &mut self.promoted);
        let found = running.take_if(|one| ours(one)).or_else(|| promoted.take_if(|one| ours(one)));
        let Some(mut running) = found else { return };
        match effect(decision.kind) {
            Effect::GoesOn => {
                running.weight = decision.weight;
                running.stage = decision.stage;
                self.running = Some(running);
            }
            Effect::Promoted => {
                self.stable = Some(running.opening.canary.clone());
                running.weight = decision.weight;
                running.stage = decision.stage;
                self.promoted = Some(running);
            }
            Effect::RolledBack => self.failed(at_unix_ms, decision, running.opening.canary),
            Effect::Undone => {
                self.stable = Some(running.opening.stable);
                self.failed(at_unix_ms, decision, running.opening.canary);
            }
            Effect::Over => {}
        }
    }

    /// Stable's own content, which a self-test loads as canary, is never recorded as failed.
    fn failed(&mut self, at_unix_ms: i64, decision: &Decision, canary: Model) {
        if self.stable.as_ref().is_some_and(|stable| stable.digest == canary.digest) {
            return;
        }
        let cause = match decision.kind {
            DecisionKind::RolledBack { cause } => cause.as_str(),
            other => other.as_str(),
        };
        self.reject(Rejection {
            digest: canary.digest,
            reason: decision.text.clone(),
            cause: cause.to_owned(),
            rollout: decision.rollout.clone(),
            at_unix_ms,
        });
    }

    fn reject(&mut self, rejection: Rejection) {
        // The rejection replaces the kill count. When tried again, the version starts from zero.
        self.reset_kills(&rejection.digest);
        self.rejected.retain(|one| one.digest != rejection.digest);
        self.rejected.push(rejection);
        let excess = self.rejected.len().saturating_sub(MAX_REJECTED);
        self.rejected.drain(..excess);
    }
}
