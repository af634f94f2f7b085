//! What goes into the rollout and what comes out: events, operators' orders, actions.
//!
//! Plain data. It knows neither who asked over which wire nor how an action is carried out. Why an
//! order carries a name and a reason: a decision that a person took must say whose it was, in the
//! ledger and in the alert, long after the request is forgotten.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{Arm, Decision, Outcome, Weight};

/// Something that happened and that the rollout has to know of.
#[derive(Debug, Clone, PartialEq)]
pub enum Event {
    /// The canary is loaded and ready: begin at the first step.
    Start {
        /// The rollout's id, part of every sticky assignment and every decision.
        rollout: String,
        /// The canary is a second copy of stable: judge as ever, but neither promote nor roll back,
        /// and report at the end how often each gate would have raised an alarm.
        self_test: bool,
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
    /// A user asked for the answer again: charged to the arm that gave the one before.
    Retry {
        /// The arm that answered before.
        arm: Arm,
        /// The stage epoch in force when that answer's request was routed.
        stage: u64,
    },
    /// Engine dead, device error, load failure: the canary rolls back at once, stable only alerts.
    Fault {
        /// The arm at fault.
        arm: Arm,
        /// What went wrong, for the decision's text.
        what: String,
    },
    /// Heat or a limit on its power slowed the device down: what was measured meanwhile says less.
    Throttled {
        /// For how long, until now.
        time: Duration,
    },
    /// Time passed. Weights rise, holds and stalls are noticed only at ticks; once a second is ample.
    Tick,
    /// An operator's order.
    Operator(Order),
}

/// An operator's command, with who gave it and why.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Order {
    /// What.
    pub command: Operator,
    /// Who: a name fit for a ledger.
    pub by: String,
    /// Why, in the operator's words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

impl Order {
    /// `by NAME: REASON`, or without the reason if none was given.
    pub(crate) fn signature(&self) -> String {
        match &self.reason {
            Some(reason) => format!("by {}: {reason}", self.by),
            None => format!("by {}", self.by),
        }
    }
}

/// What an operator may order while a rollout runs; [`Operator::Undo`] after it was promoted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Operator {
    /// Raise no more until resumed. Errors and faults still roll back. Twice is the same as once.
    Pause,
    /// Take up a paused rollout; nothing if it is not paused.
    Resume,
    /// Begin a new stage, with fresh counts, at this weight; paused stays paused. Zero holds the
    /// canary without traffic. The next automatic raise goes to the first step above this weight.
    SetWeight(Weight),
    /// Promote the canary, skipping the steps that remain, as soon as the gates of the current stage
    /// pass, which may be at once; refused while paused or without traffic.
    Promote,
    /// Promote the canary at once, whatever the gates say, paused or not.
    PromoteNow,
    /// Take the canary out.
    Rollback,
    /// After a promotion: put the former stable back into service.
    Undo,
    /// Let the next raise, or the promotion, of this stage go if the policy asks for a confirmation.
    Confirm,
}

impl Operator {
    /// The order's name, as the ledger writes it.
    pub fn as_str(self) -> &'static str {
        match self {
            Operator::Pause => "pause",
            Operator::Resume => "resume",
            Operator::SetWeight(_) => "set_weight",
            Operator::Promote => "promote",
            Operator::PromoteNow => "promote_now",
            Operator::Rollback => "rollback",
            Operator::Undo => "undo",
            Operator::Confirm => "confirm",
        }
    }

    /// The weight that is asked for, in percent.
    pub fn percent(self) -> Option<u8> {
        match self {
            Operator::SetWeight(weight) => Some(weight.percent()),
            _ => None,
        }
    }
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
    /// Swap the pointers back: the former stable serves again; the promoted version leaves.
    Undo,
    /// Drain the canary and unload it.
    UnloadCanary,
    /// For log, ledger and alert.
    Decision(Decision),
}
