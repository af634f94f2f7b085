//! The state machine: which event, in which phase, leads to which actions.
//!
//! It owns the current stage. It asks `gates` for verdicts, and `evidence` whether the canary must be rolled back, and
//! turns the results into [`Action`]s. `orders` handles operators' commands, and `moves` the consequences of a verdict.
//! It does not know how an action is carried out, or what a quantile is. The transitions:
//!
//! ```text
//! Idle, RolledBack, Promoted, SelfTested --Start--> Running at the first step
//! Running --Tick, gates pass--> Running at the next step; from 100 % (or by order) Promoted
//! Running --outcome that proves a regression, canary fault, operator--> RolledBack
//! Running --operator--> Running paused, resumed, or at another weight; Promoted
//! Running, a self-test --Tick, last step judged--> SelfTested
//! Promoted --operator's undo--> RolledBack
//! ```
//!
//! Weights rise only at ticks, while rollbacks happen at any event. A verdict with all its quantiles costs
//! microseconds, and raising a second later loses nothing. The error rule costs nanoseconds, and every second of
//! a bad canary costs users. A tick that returns no action leaves the machine unchanged, so that a journal need
//! not record idle ticks.

use std::time::Duration;

use super::error_gate;
use super::evidence::Evidence;
use super::exact::{Draw, Exact, Moment, Regression};
use super::forecast;
use super::gates::{self, GateInput};
use super::selftest::SelfTest;
use super::signal::Signal;
use super::stage::Stage;
use super::view::{ArmView, View};
use super::window::{ArmWindow, ErrorDedup};
use super::{
    Action, Advance, Arm, Cause, Counts, Decision, DecisionKind, Event, EvidenceRule, GateName,
    GateState, Origin, Outcome, Overall, Phase, Policy, Reading, StepError, Verdict, Weight,
};

/// What a user holds against an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Complaint {
    Vote,
    Retry,
}

/// The life of one canary: up the steps, or out. A new [`Event::Start`] begins the next one on the same
/// machine. Stage epochs rise through all of them and never repeat.
#[derive(Debug, Clone, PartialEq)]
pub struct Rollout {
    pub(super) policy: Policy,
    pub(super) phase: Phase,
    pub(super) rollout: Option<String>,
    pub(super) stage: Stage,
    pub(super) evidence: Evidence,
    /// The evidence by exact probabilities, if the policy wants it: two thirds of a rollout's size, so not moved with it.
    pub(super) exact: Option<Box<Exact>>,
    pub(super) noticed: Vec<GateName>,
    /// Thumbs down.
    pub(super) votes: Signal,
    pub(super) retries: Signal,
    /// Stable as it was before the canary took all traffic: counts of the last stage with enough data,
    /// latencies of all stages.
    pub(super) reference: Option<ArmWindow>,
    /// Counts of this rollout's earlier stages, by [`Arm::index`].
    pub(super) past: [Counts; 2],
    pub(super) charged: ErrorDedup,
    /// Outcomes of this canary so far, counted up to the policy's warm-up.
    pub(super) warmed: u64,
    /// What a self-test has recorded so far; `None` in a real rollout.
    pub(super) self_test: Option<SelfTest>,
    pub(super) last_decision: Option<Decision>,
}

impl Rollout {
    /// Idle: no canary, weight zero. An invalid policy (see [`validate`](Policy::validate)) is refused at
    /// [`Event::Start`].
    pub fn new(policy: Policy) -> Rollout {
        Rollout {
            evidence: Evidence::new(&policy),
            exact: None,
            noticed: Vec::new(),
            policy,
            phase: Phase::Idle,
            rollout: None,
            stage: Stage::new(0, (Weight::ZERO, Weight::ZERO), Duration::ZERO),
            votes: Signal::new(),
            retries: Signal::new(),
            reference: None,
            past: [Counts::default(); 2],
            charged: ErrorDedup::default(),
            warmed: 0,
            self_test: None,
            last_decision: None,
        }
    }

    /// Like [`Rollout::new`], with stage epochs that continue from `epoch`. Used for the rollout after
    /// another one whose outcomes may still arrive, and for replaying a recorded one.
    pub fn after_epoch(policy: Policy, epoch: u64) -> Rollout {
        let stage = Stage::new(epoch, (Weight::ZERO, Weight::ZERO), Duration::ZERO);
        Rollout { stage, ..Rollout::new(policy) }
    }

    /// Processes one event at time `now` since the caller's origin. The actions have to be carried out in the
    /// order given.
    ///
    /// Fails if a rollout cannot start or an operator's order does not apply now; the state is unchanged then, as it is
    /// after a tick that returns no action. All other events do nothing unless a rollout runs. If `now` goes back, no
    /// time has passed.
    pub fn step(&mut self, now: Duration, event: Event) -> Result<Vec<Action>, StepError> {
        let running = matches!(self.phase, Phase::Running { .. });
        match event {
            Event::Start { rollout, self_test } => self.start(now, rollout, self_test),
            Event::Operator(order) => self.operate(now, &order),
            _ if !running => Ok(Vec::new()),
            Event::Outcome(outcome) => Ok(self.outcome(now, &outcome)),
            Event::Feedback { arm, stage, positive, origin } => {
                self.stage.vote(arm, stage, positive);
                match positive {
                    true => self.votes.begin_if_due(now, self.policy.bake),
                    false => self.complaint(now, (arm, stage), &origin, Complaint::Vote),
                }
                Ok(Vec::new())
            }
            Event::Retry { arm, stage, origin } => {
                self.stage.retry(arm, stage);
                self.complaint(now, (arm, stage), &origin, Complaint::Retry);
                Ok(Vec::new())
            }
            Event::Reading(reading) => Ok(self.read(now, &reading)),
            Event::Fault { arm, what } => Ok(self.fault(now, arm, what)),
            Event::Throttled { time } => {
                self.stage.slowed(now, time);
                Ok(Vec::new())
            }
            Event::Tick => Ok(self.tick(now)),
        }
    }

    /// The canary's share of the traffic; zero unless a rollout runs.
    pub fn weight(&self) -> Weight {
        self.stage.weight
    }

    /// The share that is routed to the canary: less than [`weight`](Rollout::weight) while a part of the traffic
    /// is held back on stable.
    pub fn routed(&self) -> Weight {
        self.stage.routed
    }

    /// The current stage epoch, to be stamped on every request when it is routed.
    pub fn stage(&self) -> u64 {
        self.stage.epoch
    }

    /// The policy of this rollout.
    pub fn policy(&self) -> &Policy {
        &self.policy
    }

    /// The state of the rollout.
    pub fn phase(&self) -> &Phase {
        &self.phase
    }

    /// Everything that can be shown at time `now`.
    pub fn view(&self, now: Duration) -> View {
        let idle = self.phase == Phase::Idle;
        let view = |arm: Arm| {
            let window = self.stage.arm(arm);
            ArmView::new(arm, window, self.past[arm.index()].plus(&window.counts))
        };
        let running = matches!(self.phase, Phase::Running { .. });
        let at_full_weight = self.stage.routed == Weight::FULL;
        let reference = self.reference.as_ref().filter(|_| at_full_weight);
        View {
            phase: self.phase.clone(),
            rollout: self.rollout.clone(),
            self_test: self.self_test.is_some(),
            weight: self.weight(),
            routed: self.stage.routed,
            stage: self.stage.epoch,
            step: self.policy.steps.iter().position(|step| *step == self.weight()),
            steps: self.policy.steps.clone(),
            stage_age: if idle { Duration::ZERO } else { self.stage.age(now) },
            bake: self.policy.bake,
            throttled: self.stage.throttled,
            promotion_ordered: self.stage.promote_on_pass.is_some(),
            awaiting_confirm: running && self.awaits_confirm(),
            arms: Arm::BOTH.map(view),
            reference: reference.map(|window| ArmView::new(Arm::Stable, window, window.counts)),
            forecast: running.then(|| forecast::forecast(&self.gate_input(now))),
            verdict: match &self.last_decision {
                _ if running => self.verdict(now),
                Some(decision) => decision.verdict.clone(),
                None => Verdict::default(),
            },
            last_decision: self.last_decision.clone(),
        }
    }
}

/// Processing of events.
impl Rollout {
    fn outcome(&mut self, now: Duration, outcome: &Outcome) -> Vec<Action> {
        let current = outcome.stage == self.stage.epoch;
        self.stage.arm_mut(outcome.arm).counts.other_stage += u64::from(!current);
        let Some(weight) = self.evidence.stages.weight(outcome.stage) else { return Vec::new() };
        let cold = self.is_cold(outcome);
        if !outcome.judged {
            self.stage.arm_mut(outcome.arm).counts.unjudged += u64::from(current);
            return Vec::new();
        }
        if self.exact.is_none() && self.is_copy(now, outcome) {
            self.stage.arm_mut(outcome.arm).counts.deduplicated += u64::from(current);
            return Vec::new();
        }
        if current {
            self.stage.take(outcome, cold, self.policy.max_key_share);
        }
        if let Some(exact) = &mut self.exact {
            let moment = Moment { now, policy: &self.policy, weight, current };
            let cold = cold || self.warmed < self.policy.warmup_requests;
            exact.observe(&moment, outcome, cold);
        } else if !cold && outcome.class.counts() {
            let stage = (self.stage.epoch, self.stage.weight);
            self.evidence.observe(now, stage, outcome, &self.policy);
        }
        self.check_errors(now)
    }

    /// Whether the outcome falls into the canary's warm-up. Pinned and synthetic requests also warm it up;
    /// requests that never ran, or ran only in part, do not.
    fn is_cold(&mut self, outcome: &Outcome) -> bool {
        if outcome.arm != Arm::Canary || self.warmed >= self.policy.warmup_requests {
            return false;
        }
        self.warmed += u64::from(outcome.class.counts());
        true
    }

    fn is_copy(&mut self, now: Duration, outcome: &Outcome) -> bool {
        match outcome.origin.cluster {
            Some(session) if outcome.class.is_error() => {
                let key = (outcome.arm, session, outcome.class);
                self.charged.is_copy(now, self.policy.dedup_window, key)
            }
            _ => false,
        }
    }

    fn check_errors(&mut self, now: Duration) -> Vec<Action> {
        if self.stage.is_fault(self.policy.fault_streak, self.exact.as_deref()) {
            let reason = self.stage.streak.text();
            return match self.self_test {
                Some(_) => self.note_regression(),
                None => self.roll_back(now, Cause::Fault, reason),
            };
        }
        if self.stage.reported.regression {
            return Vec::new();
        }
        let Some((cause, reason)) = self.regression(now) else { return Vec::new() };
        if self.self_test.is_some() {
            return self.note_regression();
        }
        if self.policy.advance != Advance::DryRun {
            return self.roll_back(now, cause, reason);
        }
        self.stage.reported.regression = true;
        let verdict = self.verdict(now);
        let text = format!("a dry run: would roll back from {}: {reason}", self.weight());
        vec![self.decide(now, DecisionKind::WouldRollBack, text, verdict)]
    }

    /// Whether the canary must be rolled back, and why.
    fn regression(&self, now: Duration) -> Option<(Cause, String)> {
        let (stable, canary) = (&self.baseline().counts, &self.stage.arm(Arm::Canary).counts);
        let Some(exact) = &self.exact else {
            self.evidence.regression(&self.policy, stable, canary)?;
            let counts = (stable, canary);
            let gate = error_gate::gate(&self.evidence, &self.policy, self.weight(), counts);
            return Some((Cause::Errors, gate.text));
        };
        let (cause, name) = match exact.regression(&self.policy)? {
            Regression::Errors | Regression::FullWeightTest => (Cause::Errors, GateName::Errors),
            Regression::Flag(flag) => (Cause::Quality, GateName::Quality(flag)),
            Regression::Reading => (Cause::Quality, GateName::CrossRead),
        };
        let gate = self.verdict(now).gate(name).map(|gate| gate.text.clone());
        Some((cause, gate.unwrap_or_default()))
    }

    fn read(&mut self, now: Duration, reading: &Reading) -> Vec<Action> {
        let Some(weight) = self.evidence.stages.weight(reading.stage) else { return Vec::new() };
        let Some(exact) = &mut self.exact else { return Vec::new() };
        exact.read(&Draw::of(reading.writer, &reading.origin, weight), reading);
        self.check_errors(now)
    }

    /// A thumbs down, or a regenerated answer.
    fn complaint(
        &mut self,
        now: Duration,
        (arm, stage): (Arm, u64),
        origin: &Origin,
        what: Complaint,
    ) {
        let Some(exact) = &mut self.exact else {
            let signal = match what {
                Complaint::Vote => &mut self.votes,
                Complaint::Retry => &mut self.retries,
            };
            signal.begin_if_due(now, self.policy.bake);
            return signal.observe(&self.evidence.stages, stage, arm, None);
        };
        let Some(weight) = self.evidence.stages.weight(stage) else { return };
        let current = stage == self.stage.epoch;
        let moment = Moment { now, policy: &self.policy, weight, current };
        let draw = Draw::of(arm, origin, weight);
        match what {
            Complaint::Vote => exact.vote(&moment, &draw),
            Complaint::Retry => exact.retry(&moment, &draw),
        }
    }

    /// Reports gates that the policy only wants reported, each once.
    fn notices(&mut self, now: Duration) -> Vec<Action> {
        let exact = self.exact.as_deref().filter(|_| self.self_test.is_none());
        let new = exact.and_then(|exact| {
            exact.notices(&self.policy).find(|gate| !self.noticed.contains(gate))
        });
        let Some(gate) = new else { return Vec::new() };
        self.noticed.push(gate);
        let verdict = self.verdict(now);
        let figures = verdict.gate(gate).map(|gate| gate.text.clone());
        let text = format!("noticed, nothing is changed: {}", figures.unwrap_or_default());
        vec![self.decide(now, DecisionKind::Noticed { gate }, text, verdict)]
    }

    /// Empty evidence by exact probabilities, if the policy wants it.
    pub(super) fn new_exact(&self) -> Option<Box<Exact>> {
        (self.policy.evidence == EvidenceRule::Exact).then(|| Box::new(Exact::new(&self.policy)))
    }

    fn note_regression(&mut self) -> Vec<Action> {
        if let Some(test) = &mut self.self_test {
            test.rolled_back = true;
        }
        self.stage.reported.regression = true;
        Vec::new()
    }

    fn fault(&mut self, now: Duration, arm: Arm, what: String) -> Vec<Action> {
        match arm {
            Arm::Canary => self.roll_back(now, Cause::Fault, what),
            Arm::Stable => {
                let verdict = self.verdict(now);
                let text = format!("stable is at fault, nothing is changed: {what}");
                vec![self.decide(now, DecisionKind::StableFault, text, verdict)]
            }
        }
    }

    fn tick(&mut self, now: Duration) -> Vec<Action> {
        let notices = self.notices(now);
        if !notices.is_empty() {
            return notices;
        }
        let judged = self.phase == (Phase::Running { paused: false })
            && self.weight() != Weight::ZERO
            && self.stage.age(now) >= self.policy.bake;
        if !judged {
            return Vec::new();
        }
        let verdict = self.verdict(now);
        if self.self_test.is_some() {
            let pass = |name| verdict.gate(name).is_some_and(|g| g.state == GateState::Pass);
            return match pass(GateName::Bake) && pass(GateName::Requests) {
                true => self.advance_test(now, verdict),
                false => self.hold(now, verdict),
            };
        }
        match verdict.overall() {
            Overall::Pass => self.advance(now, verdict),
            Overall::Fail | Overall::Inconclusive => self.hold(now, verdict),
        }
    }
}

/// Derived state.
impl Rollout {
    /// What the canary is compared with: stable next to it, or at 100 % stable as it was before.
    fn baseline(&self) -> &ArmWindow {
        let at_full_weight = self.stage.routed == Weight::FULL;
        let reference = self.reference.as_ref().filter(|_| at_full_weight);
        reference.unwrap_or_else(|| self.stage.arm(Arm::Stable))
    }

    fn gate_input(&self, now: Duration) -> GateInput<'_> {
        GateInput {
            policy: &self.policy,
            evidence: &self.evidence,
            exact: self.exact.as_deref(),
            votes: &self.votes,
            retries: &self.retries,
            weight: self.weight(),
            routed: self.stage.routed,
            age: self.stage.age(now),
            stable: self.baseline(),
            canary: self.stage.arm(Arm::Canary),
        }
    }

    pub(super) fn verdict(&self, now: Duration) -> Verdict {
        gates::judge(&self.gate_input(now))
    }

    /// A text about the current stage, with a note if its figures are less reliable.
    pub(super) fn noted(&self, text: String) -> String {
        match self.stage.throttled {
            Duration::ZERO => text,
            time => {
                let time = gates::span(time);
                format!("{text}; the device was throttled for {time} at this weight")
            }
        }
    }

    pub(super) fn decide(
        &mut self,
        at: Duration,
        kind: DecisionKind,
        text: String,
        verdict: Verdict,
    ) -> Action {
        let rollout = self.rollout.clone().unwrap_or_default();
        let (weight, stage, text) = (self.weight(), self.stage.epoch, self.noted(text));
        let decision = Decision { at, rollout, kind, weight, stage, text, verdict };
        self.last_decision = Some(decision.clone());
        Action::Decision(decision)
    }
}
