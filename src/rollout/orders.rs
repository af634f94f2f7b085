//! Operators' orders and their effects.
//!
//! Every decision that follows says who ordered it and why. An order that makes no sense is refused with a
//! text that says what to do, and changes nothing.

use std::time::Duration;

use super::evidence::Evidence;
use super::machine::Rollout;
use super::selftest::SelfTest;
use super::signal::Signal;
use super::stage::Stage;
use super::window::ErrorDedup;
use super::{
    Action, Cause, Counts, DecisionKind, Operator, Order, Overall, Phase, StepError, Weight,
};

impl Rollout {
    pub(super) fn start(
        &mut self,
        now: Duration,
        rollout: String,
        self_test: bool,
    ) -> Result<Vec<Action>, StepError> {
        if let Phase::Running { .. } = self.phase {
            let rollout = self.rollout.clone().unwrap_or_default();
            return Err(StepError::AlreadyRunning { rollout });
        }
        self.policy.validate().map_err(StepError::Policy)?;
        let first = self.policy.next_step(Weight::ZERO).unwrap_or(Weight::ZERO);
        self.phase = Phase::Running { paused: false };
        self.evidence = Evidence::new(&self.policy);
        self.votes = Signal::new();
        self.retries = Signal::new();
        self.reference = None;
        self.past = [Counts::default(); 2];
        self.charged = ErrorDedup::default();
        self.noticed = Vec::new();
        self.warmed = 0;
        self.self_test = self_test.then(SelfTest::default);
        self.exact = self.new_exact();
        self.stage = Stage::new(self.stage.epoch + 1, (first, self.policy.routed(first)), now);
        self.begin_evidence(now);
        let what = if self_test { "self-test" } else { "rollout" };
        let text = format!("{what} {rollout} starts at {first}");
        self.rollout = Some(rollout);
        let verdict = self.verdict(now);
        Ok(vec![self.routing(), self.decide(now, DecisionKind::Started, text, verdict)])
    }

    pub(super) fn operate(
        &mut self,
        now: Duration,
        order: &Order,
    ) -> Result<Vec<Action>, StepError> {
        let paused = match (&self.phase, order.command) {
            (Phase::Promoted, Operator::Undo) => return Ok(self.undo(now, order)),
            (Phase::Running { .. }, Operator::Undo) => return Err(StepError::NothingToUndo),
            (Phase::Running { paused }, _) => *paused,
            (phase, _) => return Err(StepError::NotRunning { phase: phase.clone() }),
        };
        match order.command {
            Operator::Pause if paused => Ok(Vec::new()),
            Operator::Resume if !paused => Ok(Vec::new()),
            Operator::Pause => Ok(self.set_paused(now, true, order)),
            Operator::Resume => Ok(self.set_paused(now, false, order)),
            Operator::SetWeight(weight) => Ok(self.set_weight(now, weight, order)),
            Operator::Promote | Operator::PromoteNow if self.self_test.is_some() => {
                Err(StepError::SelfTest)
            }
            Operator::PromoteNow => Ok(self.promote_by_order(now, order)),
            Operator::Promote if paused => Err(StepError::Paused),
            Operator::Promote => self.order_promotion(now, order),
            Operator::Rollback | Operator::Undo => {
                Ok(self.roll_back(now, Cause::Operator, order.signature()))
            }
            Operator::Confirm => self.confirm(now, order),
        }
    }

    fn set_paused(&mut self, now: Duration, paused: bool, order: &Order) -> Vec<Action> {
        self.phase = Phase::Running { paused };
        let (kind, word) = match paused {
            true => (DecisionKind::Paused, "paused"),
            false => (DecisionKind::Resumed, "resumed"),
        };
        let verdict = self.verdict(now);
        let text = format!("{word} at {} {}", self.weight(), order.signature());
        vec![self.decide(now, kind, text, verdict)]
    }

    fn set_weight(&mut self, now: Duration, to: Weight, order: &Order) -> Vec<Action> {
        let (from, verdict) = (self.weight(), self.verdict(now));
        let text = format!("weight set from {from} to {to} {}", order.signature());
        let text = self.noted(text);
        let action = self.enter(now, to);
        vec![action, self.decide(now, DecisionKind::WeightSet { from, to }, text, verdict)]
    }

    fn promote_by_order(&mut self, now: Duration, order: &Order) -> Vec<Action> {
        let verdict = self.verdict(now);
        let gates = match verdict.overall() {
            Overall::Pass => "all gates pass".to_string(),
            _ => format!("despite: {}", verdict.blocking()),
        };
        let text = format!("promoted from {} {}; {gates}", self.weight(), order.signature());
        self.promote(now, text, verdict)
    }

    fn order_promotion(&mut self, now: Duration, order: &Order) -> Result<Vec<Action>, StepError> {
        if self.weight() == Weight::ZERO {
            return Err(StepError::NoTraffic);
        }
        let verdict = self.verdict(now);
        if verdict.overall() == Overall::Pass {
            return Ok(self.promote_by_order(now, order));
        }
        if self.stage.promote_on_pass.is_some() {
            return Ok(Vec::new());
        }
        let signature = order.signature();
        let text =
            format!("to be promoted {signature}, as soon as these are met: {}", verdict.blocking());
        self.stage.promote_on_pass = Some(signature);
        Ok(vec![self.decide(now, DecisionKind::PromotionOrdered, text, verdict)])
    }

    fn confirm(&mut self, now: Duration, order: &Order) -> Result<Vec<Action>, StepError> {
        let to = self.policy.next_step(self.weight());
        if !self.policy.asks_before(to) {
            return Err(StepError::NothingToConfirm);
        }
        if self.stage.confirmed {
            return Ok(Vec::new());
        }
        self.stage.confirmed = true;
        let what = to.map_or("promotion".to_string(), |to| format!("the raise to {to}"));
        let verdict = self.verdict(now);
        let text = format!("{what} confirmed {}", order.signature());
        Ok(vec![self.decide(now, DecisionKind::Confirmed, text, verdict)])
    }

    /// The former stable serves again. During the promotion's epoch the canary had no traffic, so nothing is
    /// judged on the way.
    fn undo(&mut self, now: Duration, order: &Order) -> Vec<Action> {
        let reason = format!("promotion undone {}", order.signature());
        let verdict = self.last_decision.as_ref().map(|d| d.verdict.clone()).unwrap_or_default();
        self.phase = Phase::RolledBack { reason: reason.clone() };
        let routing = self.close(now);
        let decision = self.decide(now, DecisionKind::Undone, reason, verdict);
        vec![Action::Undo, routing, decision]
    }
}
