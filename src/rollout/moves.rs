//! What follows from a verdict: raise a step, promote, hold, or roll back.
//!
//! This is the only place where the weight changes. It does not judge: the verdict is an argument and becomes
//! part of the decision.

use std::time::Duration;

use super::gates;
use super::machine::Rollout;
use super::stage::Stage;
use super::window::ArmWindow;
use super::{Action, Advance, Arm, Cause, DecisionKind, Phase, Verdict, Weight};

impl Rollout {
    /// All gates pass: go to the next step or promote, unless an operator has to act first.
    pub(super) fn advance(&mut self, now: Duration, verdict: Verdict) -> Vec<Action> {
        let from = self.weight();
        if let Some(signature) = &self.stage.promote_on_pass {
            let text = format!("promoted from {from} {signature}: {}", verdict.figures());
            return self.promote(now, text, verdict);
        }
        let to = self.policy.next_step(from);
        let next = to.map_or("promotion".to_string(), |to| format!("raise to {to}"));
        let waits = match (self.policy.advance, to) {
            (Advance::DryRun, Some(to)) => Some(DecisionKind::WouldRaise { from, to }),
            (Advance::DryRun, None) => Some(DecisionKind::WouldPromote),
            (Advance::Manual, _) => Some(DecisionKind::Ready { to }),
            (Advance::Auto, _) if self.awaits_confirm() => {
                Some(DecisionKind::AwaitingConfirm { to })
            }
            (Advance::Auto, _) => None,
        };
        if let Some(kind) = waits {
            let word = match kind {
                DecisionKind::Ready { .. } => "an operator may order the",
                DecisionKind::AwaitingConfirm { .. } => "a confirmation is needed for the",
                _ => "a dry run: would go on to the",
            };
            let text = format!("the gates pass at {from}; {word} {next}: {}", verdict.figures());
            return self.report_ready(now, kind, text, verdict);
        }
        let Some(to) = to else {
            let text = format!("promoted from {from}: {}", verdict.figures());
            return self.promote(now, text, verdict);
        };
        let text = self.noted(format!("raised from {from} to {to}: {}", verdict.figures()));
        let action = self.enter(now, to);
        vec![action, self.decide(now, DecisionKind::Raised { from, to }, text, verdict)]
    }

    /// Whether the next raise, or the promotion, still needs a person's confirmation.
    pub(super) fn awaits_confirm(&self) -> bool {
        let asked = self.policy.asks_before(self.policy.next_step(self.weight()));
        asked && !self.stage.confirmed && self.self_test.is_none()
    }

    fn report_ready(
        &mut self,
        now: Duration,
        kind: DecisionKind,
        text: String,
        verdict: Verdict,
    ) -> Vec<Action> {
        if self.stage.reported.ready {
            return Vec::new();
        }
        self.stage.reported.ready = true;
        vec![self.decide(now, kind, text, verdict)]
    }

    /// A self-test records what the gates say of the stage and continues in any case.
    pub(super) fn advance_test(&mut self, now: Duration, verdict: Verdict) -> Vec<Action> {
        let (stable, canary) = (self.stage.arm(Arm::Stable), self.stage.arm(Arm::Canary));
        let ratios = super::selftest::noise(&self.policy, stable, canary);
        let mut report = String::new();
        if let Some(test) = &mut self.self_test {
            test.note(&verdict, ratios);
            report = test.report();
        }
        let from = self.weight();
        if let Some(to) = self.policy.next_step(from) {
            let action = self.enter(now, to);
            let text = format!("self-test: raised from {from} to {to}: {}", verdict.figures());
            return vec![
                action,
                self.decide(now, DecisionKind::Raised { from, to }, text, verdict),
            ];
        }
        self.phase = Phase::SelfTested { report: report.clone() };
        let routing = self.close(now);
        let decision = self.decide(now, DecisionKind::SelfTestDone, report, verdict);
        vec![routing, Action::UnloadCanary, decision]
    }

    /// Past the bake time, and not all gates pass: report it, and report it again if it lasts.
    pub(super) fn hold(&mut self, now: Duration, verdict: Verdict) -> Vec<Action> {
        let patience = self.policy.bake.saturating_add(self.policy.stall_after);
        let stalls = self.stage.age(now) >= patience;
        let reported = if stalls { self.stage.reported.stalled } else { self.stage.reported.held };
        if reported {
            return Vec::new();
        }
        self.stage.reported.held = true;
        self.stage.reported.stalled = stalls;
        let (kind, word) = match stalls {
            true => (DecisionKind::Stalled, "stalled"),
            false => (DecisionKind::Held, "held"),
        };
        let age = gates::span(self.stage.age(now));
        let text = format!("{word} at {} for {age}: {}", self.weight(), verdict.blocking());
        vec![self.decide(now, kind, text, verdict)]
    }

    pub(super) fn promote(&mut self, now: Duration, text: String, verdict: Verdict) -> Vec<Action> {
        self.phase = Phase::Promoted;
        let routing = self.close(now);
        let decision = self.decide(now, DecisionKind::Promoted, text, verdict);
        vec![Action::Promote, routing, decision]
    }

    pub(super) fn roll_back(&mut self, now: Duration, cause: Cause, reason: String) -> Vec<Action> {
        let (from, verdict) = (self.weight(), self.verdict(now));
        let text = format!("rolled back from {from} ({}): {reason}", cause.as_str());
        self.phase = Phase::RolledBack { reason };
        let routing = self.close(now);
        let decision = self.decide(now, DecisionKind::RolledBack { cause }, text, verdict);
        vec![routing, Action::UnloadCanary, decision]
    }

    /// Begins a stage with fresh counts.
    pub(super) fn enter(&mut self, now: Duration, weight: Weight) -> Action {
        let share = (weight, self.policy.routed(weight));
        let next = Stage::new(self.stage.epoch + 1, share, now);
        let ended = std::mem::replace(&mut self.stage, next);
        for arm in Arm::BOTH {
            let past = &mut self.past[arm.index()];
            *past = past.plus(&ended.arm(arm).counts);
        }
        if ended.weight < Weight::FULL {
            let [stable, _] = ended.arms;
            self.refer_to(stable);
        }
        self.begin_evidence(now);
        self.routing()
    }

    /// Stable's data below 100 % become the reference: its latencies from all stages together, and its counts
    /// from the last stage, unless these are too few to replace the earlier ones.
    fn refer_to(&mut self, mut stable: ArmWindow) {
        let seen = stable.counts.requests;
        match &mut self.reference {
            None if seen == 0 => {}
            None => self.reference = Some(stable),
            Some(known) if seen >= known.counts.requests || seen >= self.policy.min_requests => {
                stable.absorb_latencies(known);
                *known = stable;
            }
            Some(known) => known.absorb_latencies(&stable),
        }
    }

    /// With each stage, a new component of every kind of evidence begins.
    pub(super) fn begin_evidence(&mut self, now: Duration) {
        let stage = (self.stage.epoch, self.stage.weight);
        let reference = self.reference.as_ref().map(|window| &window.counts);
        self.evidence.begin_stage(now, stage, &self.policy, reference);
        if let Some(exact) = &mut self.exact {
            let at_full_weight = reference.filter(|_| self.stage.routed == Weight::FULL);
            exact.begin_stage(now, &self.policy, at_full_weight);
        }
        self.votes.begin(now);
        self.retries.begin(now);
    }

    /// Ends the rollout: no traffic, a new epoch, and the last stage's counts kept for display.
    pub(super) fn close(&mut self, now: Duration) -> Action {
        self.stage.epoch += 1;
        self.stage.weight = Weight::ZERO;
        self.stage.routed = Weight::ZERO;
        self.stage.since = now;
        self.stage.promote_on_pass = None;
        self.routing()
    }

    pub(super) fn routing(&self) -> Action {
        let Stage { weight, routed, epoch: stage, .. } = self.stage;
        Action::SetWeight { weight, routed, stage }
    }
}
