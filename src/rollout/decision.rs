//! Decisions and their results: kinds, causes, phases.
//!
//! Plain data, and the short names that labels and the ledger use. `machine` makes the decisions.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{GateName, Verdict, Weight};

/// One decision and the data that it is based on.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Decision {
    /// When, since the caller's origin.
    pub at: Duration,
    /// The rollout it belongs to.
    pub rollout: String,
    /// What was decided.
    #[serde(rename = "decided")]
    pub kind: DecisionKind,
    /// The weight after the decision.
    pub weight: Weight,
    /// The stage epoch after the decision.
    pub stage: u64,
    /// One line for people, with figures.
    pub text: String,
    /// The verdict at that moment, on the stage that the decision ended or left unchanged.
    #[serde(flatten)]
    pub verdict: Verdict,
}

named! {
    /// The kinds of decision.
    #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
    #[serde(rename_all = "snake_case")]
    pub enum DecisionKind {
        /// A rollout began at its first step.
        Started = "started",
        /// The gates passed and the weight rose to the next step.
        Raised {
            /// The weight before.
            from: Weight,
            /// The weight after.
            to: Weight,
        } = "raised",
        /// The canary was taken out.
        RolledBack {
            /// Why.
            cause: Cause,
        } = "rolled_back",
        /// The canary became stable.
        Promoted = "promoted",
        /// The bake time is over and the gates do not pass. Reported once per stage.
        Held = "held",
        /// Still held `stall_after` past the bake time. Reported once per stage, and alerts.
        Stalled = "stalled",
        /// An operator paused the rollout.
        Paused = "paused",
        /// An operator resumed it.
        Resumed = "resumed",
        /// An operator set the weight by hand.
        WeightSet {
            /// The weight before.
            from: Weight,
            /// The weight after.
            to: Weight,
        } = "weight_set",
        /// An operator asked for promotion as soon as the current stage's gates pass.
        PromotionOrdered = "promotion_ordered",
        /// Stable is at fault: raises an alert and changes nothing.
        StableFault = "stable_fault",
        /// In manual mode: the gates pass, and an operator may raise the weight. Reported once per stage.
        Ready {
            /// The weight of the possible raise; `None` for a promotion.
            to: Option<Weight>,
        } = "ready",
        /// The gates pass, but the policy requires a confirmation. Reported once per stage.
        AwaitingConfirm {
            /// The weight that waits for confirmation; `None` for the promotion.
            to: Option<Weight>,
        } = "awaiting_confirm",
        /// An operator gave the confirmation.
        Confirmed = "confirmed",
        /// In a dry run: the weight would have risen. Reported once per stage.
        WouldRaise {
            /// The current weight.
            from: Weight,
            /// The weight that it would have risen to.
            to: Weight,
        } = "would_raise",
        /// In a dry run: the canary would have been promoted. Reported once per stage.
        WouldPromote = "would_promote",
        /// In a dry run: the canary would have been rolled back. Reported once per stage.
        WouldRollBack = "would_roll_back",
        /// A gate that is only reported would fail. Reported once per rollout.
        Noticed {
            /// The gate.
            #[serde(rename = "flag")]
            gate: GateName,
        } = "noticed",
        /// An operator reversed a promotion.
        Undone = "undone",
        /// A self-test finished; the text is its report.
        SelfTestDone = "self_test_done",
    }
}

impl DecisionKind {
    /// Whether people should be notified: a rollback (done, undone or only due), a stall, a fault of stable.
    pub const fn is_alert(self) -> bool {
        matches!(
            self,
            DecisionKind::RolledBack { .. }
                | DecisionKind::WouldRollBack
                | DecisionKind::Noticed { .. }
                | DecisionKind::Undone
                | DecisionKind::Stalled
                | DecisionKind::StableFault
        )
    }
}

named! {
    /// Why a canary was rolled back.
    #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
    #[serde(rename_all = "snake_case")]
    pub enum Cause {
        /// Its error rate against stable's.
        Errors = "errors",
        /// A quality flag is more frequent on it than on stable.
        Quality = "quality",
        /// A fault reported by the engine, or a streak of canary errors while stable succeeded.
        Fault = "fault",
        /// An operator's command.
        Operator = "operator",
    }
}

/// The state of a rollout.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Phase {
    /// No rollout yet.
    Idle,
    /// A canary is on trial.
    Running {
        /// Whether raising is suspended by an operator.
        paused: bool,
    },
    /// The last rollout ended with a rollback.
    RolledBack {
        /// Why, in words.
        reason: String,
    },
    /// The last rollout ended with the canary as the new stable.
    Promoted,
    /// The last rollout was a self-test, and it finished; nothing was changed.
    SelfTested {
        /// How often each gate would have raised an alarm, and the noise.
        report: String,
    },
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
            Phase::SelfTested { .. } => "self_tested",
        }
    }
}
