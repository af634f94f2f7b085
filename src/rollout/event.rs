//! The inputs and outputs of the rollout: events, operators' orders, actions.
//!
//! Plain data. It does not know who sent an order over which protocol, or how an action is carried out. An
//! order carries a name and a reason because the ledger and the alert must say who took a decision long after
//! the request is gone.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{Arm, Decision, Origin, Outcome, Reading, Weight};

/// An event that the rollout has to process.
#[derive(Debug, Clone, PartialEq)]
pub enum Event {
    /// The canary is loaded and ready: begin at the first step.
    Start {
        /// The rollout's id, part of every sticky assignment and every decision.
        rollout: String,
        /// The canary is a second copy of stable. It is judged as usual, but never promoted or rolled back.
        /// The final report says how often each gate would have raised an alarm.
        self_test: bool,
    },
    /// A request ended.
    Outcome(Outcome),
    /// A user rated an answer.
    Feedback {
        /// The arm that gave the answer.
        arm: Arm,
        /// The stage epoch when the request was routed.
        stage: u64,
        /// Thumbs up (`true`) or down.
        positive: bool,
        /// Of the request that was answered.
        origin: Origin,
    },
    /// A user regenerated an answer. It is charged to the arm that gave the earlier answer.
    Retry {
        /// The arm that gave the earlier answer.
        arm: Arm,
        /// The stage epoch when the earlier request was routed.
        stage: u64,
        /// Of the earlier request.
        origin: Origin,
    },
    /// Both models have read a reply.
    Reading(Reading),
    /// Engine dead, device error, load failure. For the canary this is an immediate rollback; for stable only
    /// an alert.
    Fault {
        /// The arm at fault.
        arm: Arm,
        /// What went wrong, for the decision's text.
        what: String,
    },
    /// Heat or a power limit slowed the device down, so figures measured in that time are less reliable.
    Throttled {
        /// How long it lasted, up to now.
        time: Duration,
    },
    /// Time passed. Raises, holds and stalls are noticed only at ticks; once a second is ample.
    Tick,
    /// An operator's order.
    Operator(Order),
}

/// An operator's command, with its author and reason.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Order {
    /// The command.
    pub command: Operator,
    /// The author, as written to the ledger.
    pub by: String,
    /// The reason, in the operator's words.
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

named! {
    /// The commands that are allowed while a rollout runs. [`Operator::Undo`] is allowed after a promotion.
    #[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
    #[serde(rename_all = "snake_case")]
    pub enum Operator {
        /// Raise no more until resumed. Errors and faults still roll back. Pausing twice is the same as once.
        Pause = "pause",
        /// Resume a paused rollout; does nothing if it is not paused.
        Resume = "resume",
        /// Begin a new stage, with fresh counts, at this weight. A paused rollout stays paused. Zero keeps the
        /// canary loaded without traffic. The next automatic raise goes to the first step above this weight.
        SetWeight(Weight) = "set_weight",
        /// Promote the canary as soon as the gates of the current stage pass, which may be at once, and skip the
        /// remaining steps. Refused while paused or without traffic.
        Promote = "promote",
        /// Promote the canary at once, whatever the gates say, even if paused.
        PromoteNow = "promote_now",
        /// Roll the canary back.
        Rollback = "rollback",
        /// After a promotion: return the former stable to service.
        Undo = "undo",
        /// Approve the next raise, or the promotion, of this stage if the policy requires a confirmation.
        Confirm = "confirm",
    }
}

impl Operator {
    /// The requested weight, in percent.
    pub fn percent(self) -> Option<u8> {
        match self {
            Operator::SetWeight(weight) => Some(weight.percent()),
            _ => None,
        }
    }
}

/// What the caller has to carry out, in this order.
///
/// In a rollback, `SetWeight` comes first, so that no further request reaches the canary. In a promotion it
/// follows `Promote`, so that no request goes to the former stable in between.
#[derive(Debug, Clone, PartialEq)]
pub enum Action {
    /// Use this weight for routing from now on.
    SetWeight {
        /// The canary's new share.
        weight: Weight,
        /// The share that is routed to it: less while a part of the traffic is held back on stable.
        routed: Weight,
        /// The new stage epoch, to be stamped on every request routed from now on.
        stage: u64,
    },
    /// Swap the pointers: the canary becomes stable, and the former stable is then unloaded.
    Promote,
    /// Swap the pointers back: the former stable serves again, and the promoted version is unloaded.
    Undo,
    /// Drain the canary and unload it.
    UnloadCanary,
    /// A decision for the log, the ledger and alerts.
    Decision(Decision),
}
