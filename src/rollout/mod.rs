//! The rollout as a pure state machine: events and a time go in, actions come out.
//!
//! What it is: the rules by which a canary's share of the traffic rises, holds or falls to zero.
//! [`Rollout::step`] takes one [`Event`] and returns the [`Action`]s that follow from it; somebody
//! else carries them out. What it does not know: clocks, sockets, engines, text, storage. Time is
//! an argument, a `Duration` since an origin that the caller chooses.
//!
//! Why a state machine and not a task that sleeps and looks: a rollback has to come from the very
//! outcome that proves it, every decision has to be replayable from a ledger, and both can only be
//! tested when nothing here waits or reads anything by itself.
//!
//! Reading order: [`plan`](Policy) (what is wanted), [`outcome`](Outcome) (what is seen),
//! `window` and `latency` (what is remembered of it), `evidence` (when the errors count as a
//! regression), `gates` and [`verdict`](Verdict) (what it amounts to), `machine` (what follows),
//! [`view`](View) (what is shown).
//!
//! Three rules hold throughout. Errors and faults of the canary roll back and nothing else does:
//! a slow canary is held. Rollback is decided at every event; raising only at a [`Event::Tick`] or
//! an operator's word. No judgement crosses a stage: each weight gets counts of its own, under an
//! epoch that the outcomes carry from the moment they were routed.

mod evidence;
mod gates;
mod latency;
mod machine;
mod outcome;
mod plan;
mod stage;
mod verdict;
mod view;
mod window;

#[cfg(test)]
mod properties;
#[cfg(test)]
mod tests;

use std::fmt;
use std::time::Duration;

pub use machine::{Rollout, StepError};
pub use outcome::{Class, Outcome};
pub use plan::{Policy, PolicyError};
pub use verdict::{Gate, GateName, GateState, Overall, Verdict};
pub use view::{ArmView, Latency, View};
pub use window::Counts;

/// One of the two models that a request can be answered by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Arm {
    /// The version in service.
    Stable,
    /// The version on trial.
    Canary,
}

impl Arm {
    /// Both arms, in the order of every `[T; 2]` that is kept per arm.
    pub const BOTH: [Arm; 2] = [Arm::Stable, Arm::Canary];

    /// The name used in headers, labels and texts.
    pub const fn as_str(self) -> &'static str {
        match self {
            Arm::Stable => "stable",
            Arm::Canary => "canary",
        }
    }

    /// The arm that this one is compared with.
    pub const fn other(self) -> Arm {
        match self {
            Arm::Stable => Arm::Canary,
            Arm::Canary => Arm::Stable,
        }
    }

    /// The arm's place in a `[T; 2]` kept per arm; see [`Arm::BOTH`].
    pub const fn index(self) -> usize {
        match self {
            Arm::Stable => 0,
            Arm::Canary => 1,
        }
    }
}

impl fmt::Display for Arm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The canary's share of the traffic in whole percent, 0 to 100.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Weight(u8);

impl Weight {
    /// No traffic for the canary.
    pub const ZERO: Weight = Weight(0);
    /// All traffic for the canary.
    pub const FULL: Weight = Weight(100);

    /// A weight of `percent`, or `None` above 100.
    pub const fn new(percent: u8) -> Option<Weight> {
        if percent <= 100 { Some(Weight(percent)) } else { None }
    }

    /// The share in percent, 0 to 100.
    pub const fn percent(self) -> u8 {
        self.0
    }

    /// The share as a fraction, 0.0 to 1.0.
    pub fn fraction(self) -> f64 {
        f64::from(self.0) / 100.0
    }
}

impl fmt::Display for Weight {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} %", self.0)
    }
}

/// Something that happened and that the rollout has to know of.
#[derive(Debug, Clone, PartialEq)]
pub enum Event {
    /// The canary is loaded and ready: begin at the first step.
    Start {
        /// The rollout's id, part of every sticky assignment and every decision.
        rollout: String,
    },
    /// A request ended.
    Outcome(Outcome),
    /// A user rated an answer.
    Feedback {
        /// The arm that gave the answer.
        arm: Arm,
        /// The stage epoch in force when the request was routed.
        stage: u64,
        /// Thumbs up (`true`) or down.
        positive: bool,
    },
    /// Engine dead, device error, load failure: the canary rolls back at once, stable only alerts.
    Fault {
        /// The arm at fault.
        arm: Arm,
        /// What went wrong, for the decision's text.
        what: String,
    },
    /// Time passed. Weights rise, holds and stalls are noticed only at ticks; once a second is ample.
    Tick,
    /// An operator's command.
    Operator(Operator),
}

/// What an operator may order while a rollout runs.
#[derive(Debug, Clone, PartialEq)]
pub enum Operator {
    /// Raise no more until resumed. Errors and faults still roll back. Twice is the same as once.
    Pause,
    /// Take up a paused rollout; nothing if it is not paused.
    Resume,
    /// Begin a new stage, with fresh counts, at this weight; paused stays paused. Zero holds the
    /// canary without traffic. The next automatic raise goes to the first step above this weight.
    SetWeight(Weight),
    /// Promote the canary, skipping the steps that remain.
    Promote {
        /// `true`: at once, whatever the gates say, paused or not. `false`: as soon as the gates of
        /// the current stage pass, which may be at once; refused while paused or without traffic.
        now: bool,
    },
    /// Take the canary out, for this reason.
    Rollback {
        /// The operator's reason, kept in the phase and the decision.
        reason: String,
    },
}

/// What the caller has to carry out, in the order given.
///
/// In a rollback `SetWeight` stands first, so that no further request reaches the canary. In a
/// promotion it follows `Promote`, so that none falls back to the former stable in between.
#[derive(Debug, Clone, PartialEq)]
pub enum Action {
    /// Route by this weight from now on.
    SetWeight {
        /// The canary's new share.
        weight: Weight,
        /// The new stage epoch, to be stamped on every request routed from now on.
        stage: u64,
    },
    /// Swap the pointers: the canary becomes stable; the former stable is then unloaded.
    Promote,
    /// Drain the canary and unload it.
    UnloadCanary,
    /// For log, ledger and alert.
    Decision(Decision),
}

/// One decision with all that it rests on.
#[derive(Debug, Clone, PartialEq)]
pub struct Decision {
    /// When, since the caller's origin.
    pub at: Duration,
    /// The rollout it belongs to.
    pub rollout: String,
    /// What was decided.
    pub kind: DecisionKind,
    /// The weight after the decision.
    pub weight: Weight,
    /// The stage epoch after the decision.
    pub stage: u64,
    /// One line for people, with figures.
    pub text: String,
    /// The verdict at that moment, on the stage that the decision ended or left standing.
    pub verdict: Verdict,
}

/// The kinds of decision.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum DecisionKind {
    /// A rollout began at its first step.
    Started,
    /// The gates passed and the weight rose to the next step.
    Raised {
        /// The weight before.
        from: Weight,
        /// The weight after.
        to: Weight,
    },
    /// The canary was taken out.
    RolledBack {
        /// Why.
        cause: Cause,
    },
    /// The canary became stable.
    Promoted,
    /// The bake time is over and the gates do not pass: said once per stage.
    Held,
    /// Still held `stall_after` past the bake time: said once per stage, worth an alert.
    Stalled,
    /// An operator paused the rollout.
    Paused,
    /// An operator resumed it.
    Resumed,
    /// An operator set the weight by hand.
    WeightSet {
        /// The weight before.
        from: Weight,
        /// The weight after.
        to: Weight,
    },
    /// An operator asked for promotion as soon as the current stage's gates pass.
    PromotionOrdered,
    /// Stable is at fault: an alert, nothing is changed.
    StableFault,
}

impl DecisionKind {
    /// A short name from a bounded set, fit for a label or a ledger column.
    pub const fn as_str(self) -> &'static str {
        match self {
            DecisionKind::Started => "started",
            DecisionKind::Raised { .. } => "raised",
            DecisionKind::RolledBack { .. } => "rolled_back",
            DecisionKind::Promoted => "promoted",
            DecisionKind::Held => "held",
            DecisionKind::Stalled => "stalled",
            DecisionKind::Paused => "paused",
            DecisionKind::Resumed => "resumed",
            DecisionKind::WeightSet { .. } => "weight_set",
            DecisionKind::PromotionOrdered => "promotion_ordered",
            DecisionKind::StableFault => "stable_fault",
        }
    }

    /// Whether somebody should be woken or told: rollback, stall, a fault of stable.
    pub const fn is_alert(self) -> bool {
        matches!(
            self,
            DecisionKind::RolledBack { .. } | DecisionKind::Stalled | DecisionKind::StableFault
        )
    }
}

/// Why a canary was rolled back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Cause {
    /// Its error rate against stable's.
    Errors,
    /// A fault reported by the engine, or a streak of errors while stable succeeded.
    Fault,
    /// An operator's command.
    Operator,
}

impl Cause {
    /// A short name from a bounded set, fit for a label or a ledger column.
    pub const fn as_str(self) -> &'static str {
        match self {
            Cause::Errors => "errors",
            Cause::Fault => "fault",
            Cause::Operator => "operator",
        }
    }
}

/// Where a rollout stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Phase {
    /// No rollout yet.
    Idle,
    /// A canary is on trial.
    Running {
        /// Whether raising is suspended by an operator.
        paused: bool,
    },
    /// The last rollout ended with the canary taken out.
    RolledBack {
        /// Why, in words.
        reason: String,
    },
    /// The last rollout ended with the canary as the new stable.
    Promoted,
}

impl Phase {
    /// A short name from a bounded set.
    pub const fn as_str(&self) -> &'static str {
        match self {
            Phase::Idle => "idle",
            Phase::Running { paused: false } => "running",
            Phase::Running { paused: true } => "paused",
            Phase::RolledBack { .. } => "rolled_back",
            Phase::Promoted => "promoted",
        }
    }
}
