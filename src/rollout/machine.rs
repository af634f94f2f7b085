//! The machine: which event, in which phase, leads to which actions.
//!
//! It owns the present stage, asks `gates` for verdicts and `evidence` whether the canary has to
//! go, and turns the answers into [`Action`]s. It does not know how an action is carried out, nor
//! what a quantile is. The transitions:
//!
//! ```text
//! Idle, RolledBack, Promoted --Start--> Running at the first step
//! Running --Tick, gates pass--> Running at the next step; from 100 % (or by order) Promoted
//! Running --outcome that proves a regression, canary fault, operator--> RolledBack
//! Running --operator--> Running paused, resumed, or at another weight; Promoted
//! ```
//!
//! Why weights rise only at ticks while rollbacks come with any event: a verdict with all its
//! quantiles costs microseconds and nothing is lost by raising a second later; the error rule costs
//! nanoseconds and a second of a bad canary is lost to users.

use std::fmt;
use std::time::Duration;

use super::evidence::Evidence;
use super::gates::{self, Stand};
use super::stage::Stage;
use super::view::{ArmView, View};
use super::window::{ArmWindow, Charged};
use super::{
    Action, Arm, Cause, Counts, Decision, DecisionKind, Event, Operator, Outcome, Overall, Phase,
    Policy, PolicyError, Verdict, Weight,
};

/// Why an operator's command, or a start, makes no sense now; the text says what to do.
#[derive(Debug, Clone, PartialEq)]
pub enum StepError {
    /// A rollout runs already.
    AlreadyRunning {
        /// Its id.
        rollout: String,
    },
    /// The policy is not valid.
    Policy(PolicyError),
    /// No rollout runs: none yet, or the last one has ended.
    NotRunning {
        /// Where the last rollout stands.
        phase: Phase,
    },
    /// Promotion by the gates was asked for while paused.
    Paused,
    /// Promotion by the gates was asked for at a weight of zero.
    NoTraffic,
}

impl fmt::Display for StepError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            StepError::AlreadyRunning { rollout } => write!(
                f,
                "rollout {rollout} is running: promote it or roll it back before starting another"
            ),
            StepError::Policy(error) => write!(f, "the rollout policy is not valid: {error}"),
            StepError::NotRunning { phase: Phase::RolledBack { reason } } => write!(
                f,
                "the rollout has been rolled back ({reason}): start a new one first"
            ),
            StepError::NotRunning { phase: Phase::Promoted } => {
                f.write_str("the canary has been promoted: start a new rollout first")
            }
            StepError::NotRunning { .. } => {
                f.write_str("no rollout is running: start one first")
            }
            StepError::Paused => f.write_str(
                "the rollout is paused: resume it, or promote at once without regard to the gates",
            ),
            StepError::NoTraffic => f.write_str(
                "the canary's weight is 0 %, so there is nothing to judge: set a weight, or promote \
                 at once without regard to the gates",
            ),
        }
    }
}

impl std::error::Error for StepError {}

/// One canary's way up, or out. A new [`Event::Start`] begins the next one on the same machine;
/// stage epochs rise through all of them and never repeat.
#[derive(Debug, Clone, PartialEq)]
pub struct Rollout {
    policy: Policy,
    phase: Phase,
    rollout: Option<String>,
    stage: Stage,
    evidence: Evidence,
    /// Stable as it was before the canary took all traffic.
    reference: Option<ArmWindow>,
    /// Counts of this rollout's earlier stages, by [`Arm::index`].
    past: [Counts; 2],
    charged: Charged,
    /// Outcomes of this canary so far, up to the policy's warm-up.
    warmed: u64,
    last_decision: Option<Decision>,
}

impl Rollout {
    /// Idle: no canary, weight zero. A policy that does not [`validate`](Policy::validate) is
    /// refused at [`Event::Start`].
    pub fn new(policy: Policy) -> Rollout {
        Rollout {
            evidence: Evidence::new(&policy),
            policy,
            phase: Phase::Idle,
            rollout: None,
            stage: Stage::new(0, Weight::ZERO, Duration::ZERO),
            reference: None,
            past: [Counts::default(); 2],
            charged: Charged::default(),
            warmed: 0,
            last_decision: None,
        }
    }

    /// Takes in one event at time `now` since the caller's origin; the actions are to be carried
    /// out in the order given.
    ///
    /// Outcomes, votes, faults and ticks never err, and do nothing unless a rollout runs. `now` may
    /// jump: going back reads as no time passed. Errors leave everything as it was.
    pub fn step(&mut self, now: Duration, event: Event) -> Result<Vec<Action>, StepError> {
        let running = matches!(self.phase, Phase::Running { .. });
        match event {
            Event::Start { rollout } => self.start(now, rollout),
            Event::Operator(command) => self.operate(now, command),
            _ if !running => Ok(Vec::new()),
            Event::Outcome(outcome) => Ok(self.outcome(now, &outcome)),
            Event::Feedback { arm, stage, positive } => {
                self.stage.vote(arm, stage, positive);
                Ok(Vec::new())
            }
            Event::Fault { arm, what } => Ok(self.fault(now, arm, what)),
            Event::Tick => Ok(self.tick(now)),
        }
    }

    /// The canary's share of the traffic; zero unless a rollout runs.
    pub fn weight(&self) -> Weight {
        self.stage.weight
    }

    /// The stage epoch in force, to be stamped on every request when it is routed.
    pub fn stage(&self) -> u64 {
        self.stage.epoch
    }

    /// Where the rollout stands.
    pub fn phase(&self) -> &Phase {
        &self.phase
    }

    /// The policy it was made with.
    pub fn policy(&self) -> &Policy {
        &self.policy
    }

    /// Everything there is to show at time `now`.
    pub fn view(&self, now: Duration) -> View {
        let idle = self.phase == Phase::Idle;
        let view = |arm: Arm| {
            let window = self.stage.arm(arm);
            ArmView::new(arm, window, self.past[arm.index()].plus(&window.counts))
        };
        let running = matches!(self.phase, Phase::Running { .. });
        let reference = self.reference.as_ref().filter(|_| self.weight() == Weight::FULL);
        View {
            phase: self.phase.clone(),
            rollout: self.rollout.clone(),
            weight: self.weight(),
            stage: self.stage.epoch,
            step: self.policy.steps.iter().position(|step| *step == self.weight()),
            steps: self.policy.steps.clone(),
            stage_age: if idle { Duration::ZERO } else { self.stage.age(now) },
            bake: self.policy.bake,
            promotion_ordered: self.stage.promote_on_pass,
            arms: Arm::BOTH.map(view),
            reference: reference.map(|window| ArmView::new(Arm::Stable, window, window.counts)),
            verdict: match &self.last_decision {
                _ if running => self.verdict(now),
                Some(decision) => decision.verdict.clone(),
                None => Verdict::default(),
            },
            last_decision: self.last_decision.clone(),
        }
    }
}

/// What is seen.
impl Rollout {
    fn outcome(&mut self, now: Duration, outcome: &Outcome) -> Vec<Action> {
        let arm = outcome.arm;
        if outcome.stage != self.stage.epoch {
            self.stage.arm_mut(arm).counts.other_stage += 1;
            return Vec::new();
        }
        let cold = self.is_cold(outcome);
        if !outcome.judged {
            self.stage.arm_mut(arm).counts.unjudged += 1;
            return Vec::new();
        }
        if self.is_copy(now, outcome) {
            self.stage.arm_mut(arm).counts.deduplicated += 1;
            return Vec::new();
        }
        self.stage.streak.note(outcome);
        if cold {
            self.stage.arm_mut(arm).counts.warmup += 1;
        } else {
            self.stage.arm_mut(arm).record(outcome);
            if outcome.class.counts() {
                self.evidence.observe(now, arm, outcome.class.is_error());
            }
        }
        self.check_errors(now)
    }

    /// Whether the outcome falls into the canary's warm-up. Pinned and synthetic requests warm it
    /// as well as any other; what never ran, or ran only in part, does not.
    fn is_cold(&mut self, outcome: &Outcome) -> bool {
        if outcome.arm != Arm::Canary || self.warmed >= self.policy.warmup_requests {
            return false;
        }
        self.warmed += u64::from(outcome.class.counts());
        true
    }

    fn is_copy(&mut self, now: Duration, outcome: &Outcome) -> bool {
        match outcome.session {
            Some(session) if outcome.class.is_error() => {
                let key = (outcome.arm, session, outcome.class);
                self.charged.is_copy(now, self.policy.dedup_window, key)
            }
            _ => false,
        }
    }

    fn check_errors(&mut self, now: Duration) -> Vec<Action> {
        if self.stage.streak.is_fault(self.policy.fault_streak, self.weight()) {
            let reason = self.stage.streak.text();
            return self.roll_back(now, Cause::Fault, reason);
        }
        let (stable, canary) = (&self.baseline().counts, &self.stage.arm(Arm::Canary).counts);
        if self.evidence.regressed(&self.policy, stable, canary) {
            let reason = self.evidence.gate(&self.policy, stable, canary).text;
            return self.roll_back(now, Cause::Errors, reason);
        }
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
        let judged = self.phase == (Phase::Running { paused: false })
            && self.weight() != Weight::ZERO
            && self.stage.age(now) >= self.policy.bake;
        if !judged {
            return Vec::new();
        }
        let verdict = self.verdict(now);
        match verdict.overall() {
            Overall::Pass => self.advance(now, verdict),
            Overall::Fail | Overall::Inconclusive => self.hold(now, verdict),
        }
    }
}

/// What an operator orders.
impl Rollout {
    fn start(&mut self, now: Duration, rollout: String) -> Result<Vec<Action>, StepError> {
        if let Phase::Running { .. } = self.phase {
            let rollout = self.rollout.clone().unwrap_or_default();
            return Err(StepError::AlreadyRunning { rollout });
        }
        self.policy.validate().map_err(StepError::Policy)?;
        let first = self.policy.next_step(Weight::ZERO).unwrap_or(Weight::ZERO);
        self.phase = Phase::Running { paused: false };
        self.evidence = Evidence::new(&self.policy);
        self.reference = None;
        self.past = [Counts::default(); 2];
        self.charged = Charged::default();
        self.warmed = 0;
        self.stage = Stage::new(self.stage.epoch + 1, first, now);
        self.evidence.begin_stage(now, first);
        let text = format!("rollout {rollout} starts at {first}");
        self.rollout = Some(rollout);
        let verdict = self.verdict(now);
        Ok(vec![self.routing(), self.decide(now, DecisionKind::Started, text, verdict)])
    }

    fn operate(&mut self, now: Duration, command: Operator) -> Result<Vec<Action>, StepError> {
        let Phase::Running { paused } = self.phase else {
            return Err(StepError::NotRunning { phase: self.phase.clone() });
        };
        match command {
            Operator::Pause if paused => Ok(Vec::new()),
            Operator::Resume if !paused => Ok(Vec::new()),
            Operator::Pause => Ok(self.set_paused(now, true)),
            Operator::Resume => Ok(self.set_paused(now, false)),
            Operator::SetWeight(weight) => Ok(self.set_weight(now, weight)),
            Operator::Promote { now: true } => {
                let verdict = self.verdict(now);
                let text = match verdict.overall() {
                    Overall::Pass => "promoted by an operator; all gates pass".to_string(),
                    _ => format!("promoted by an operator in spite of: {}", verdict.blocking()),
                };
                Ok(self.promote(now, text, verdict))
            }
            Operator::Promote { now: false } if paused => Err(StepError::Paused),
            Operator::Promote { now: false } => self.order_promotion(now),
            Operator::Rollback { reason } => Ok(self.roll_back(now, Cause::Operator, reason)),
        }
    }

    fn set_paused(&mut self, now: Duration, paused: bool) -> Vec<Action> {
        self.phase = Phase::Running { paused };
        let (kind, word) = match paused {
            true => (DecisionKind::Paused, "paused"),
            false => (DecisionKind::Resumed, "resumed"),
        };
        let verdict = self.verdict(now);
        vec![self.decide(now, kind, format!("{word} at {}", self.weight()), verdict)]
    }

    fn set_weight(&mut self, now: Duration, to: Weight) -> Vec<Action> {
        let (from, verdict) = (self.weight(), self.verdict(now));
        let action = self.enter(now, to);
        let text = format!("weight set by an operator from {from} to {to}");
        vec![action, self.decide(now, DecisionKind::WeightSet { from, to }, text, verdict)]
    }

    fn order_promotion(&mut self, now: Duration) -> Result<Vec<Action>, StepError> {
        if self.weight() == Weight::ZERO {
            return Err(StepError::NoTraffic);
        }
        let verdict = self.verdict(now);
        if verdict.overall() == Overall::Pass {
            let text = "promoted by an operator; all gates pass".to_string();
            return Ok(self.promote(now, text, verdict));
        }
        if self.stage.promote_on_pass {
            return Ok(Vec::new());
        }
        self.stage.promote_on_pass = true;
        let text = format!("to be promoted as soon as these are met: {}", verdict.blocking());
        Ok(vec![self.decide(now, DecisionKind::PromotionOrdered, text, verdict)])
    }
}

/// What follows.
impl Rollout {
    /// All gates pass: to the next step, or out at the top.
    fn advance(&mut self, now: Duration, verdict: Verdict) -> Vec<Action> {
        let from = self.weight();
        let next = self.policy.next_step(from).filter(|_| !self.stage.promote_on_pass);
        let Some(to) = next else {
            let text = format!("promoted from {from}: {}", verdict.figures());
            return self.promote(now, text, verdict);
        };
        let action = self.enter(now, to);
        let text = format!("raised from {from} to {to}: {}", verdict.figures());
        vec![action, self.decide(now, DecisionKind::Raised { from, to }, text, verdict)]
    }

    /// Past the bake time and not all gates pass: say so once, and once more when it lasts.
    fn hold(&mut self, now: Duration, verdict: Verdict) -> Vec<Action> {
        let patience = self.policy.bake.saturating_add(self.policy.stall_after);
        let stalls = self.stage.age(now) >= patience;
        let told = if stalls { self.stage.stalled } else { self.stage.held };
        if told {
            return Vec::new();
        }
        self.stage.held = true;
        self.stage.stalled = stalls;
        let (kind, word) = match stalls {
            true => (DecisionKind::Stalled, "stalled"),
            false => (DecisionKind::Held, "held"),
        };
        let age = gates::span(self.stage.age(now));
        let text = format!("{word} at {} for {age}: {}", self.weight(), verdict.blocking());
        vec![self.decide(now, kind, text, verdict)]
    }

    fn promote(&mut self, now: Duration, text: String, verdict: Verdict) -> Vec<Action> {
        self.phase = Phase::Promoted;
        let routing = self.close(now);
        let decision = self.decide(now, DecisionKind::Promoted, text, verdict);
        vec![Action::Promote, routing, decision]
    }

    fn roll_back(&mut self, now: Duration, cause: Cause, reason: String) -> Vec<Action> {
        let (from, verdict) = (self.weight(), self.verdict(now));
        let text = format!("rolled back from {from} ({}): {reason}", cause.as_str());
        self.phase = Phase::RolledBack { reason };
        let routing = self.close(now);
        let decision = self.decide(now, DecisionKind::RolledBack { cause }, text, verdict);
        vec![routing, Action::UnloadCanary, decision]
    }

    /// Begins a stage with fresh counts. What stable did below 100 % becomes the reference, unless
    /// it is too little to replace the one there is.
    fn enter(&mut self, now: Duration, weight: Weight) -> Action {
        let next = Stage::new(self.stage.epoch + 1, weight, now);
        let ended = std::mem::replace(&mut self.stage, next);
        for arm in Arm::BOTH {
            let past = &mut self.past[arm.index()];
            *past = past.plus(&ended.arm(arm).counts);
        }
        let [stable, _] = ended.arms;
        let seen = stable.counts.requests;
        let known = self.reference.as_ref().map_or(0, |window| window.counts.requests);
        let enough = seen > 0 && (seen >= known || seen >= self.policy.min_requests);
        if ended.weight < Weight::FULL && enough {
            self.reference = Some(stable);
        }
        self.evidence.begin_stage(now, weight);
        self.routing()
    }

    /// Ends the rollout: no traffic under a new epoch, the last stage's counts left to be seen.
    fn close(&mut self, now: Duration) -> Action {
        self.stage.epoch += 1;
        self.stage.weight = Weight::ZERO;
        self.stage.since = now;
        self.stage.promote_on_pass = false;
        self.routing()
    }

    fn routing(&self) -> Action {
        Action::SetWeight { weight: self.weight(), stage: self.stage.epoch }
    }

    /// What the canary is compared with: stable beside it, or at 100 % stable as it was before.
    fn baseline(&self) -> &ArmWindow {
        let reference = self.reference.as_ref().filter(|_| self.weight() == Weight::FULL);
        reference.unwrap_or_else(|| self.stage.arm(Arm::Stable))
    }

    fn verdict(&self, now: Duration) -> Verdict {
        gates::judge(&Stand {
            policy: &self.policy,
            evidence: &self.evidence,
            age: self.stage.age(now),
            stable: self.baseline(),
            canary: self.stage.arm(Arm::Canary),
        })
    }

    fn decide(
        &mut self,
        at: Duration,
        kind: DecisionKind,
        text: String,
        verdict: Verdict,
    ) -> Action {
        let rollout = self.rollout.clone().unwrap_or_default();
        let (weight, stage) = (self.weight(), self.stage.epoch);
        let decision = Decision { at, rollout, kind, weight, stage, text, verdict };
        self.last_decision = Some(decision.clone());
        Action::Decision(decision)
    }
}
