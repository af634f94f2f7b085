//! Why an order was refused, with a text that says what to do instead.
//!
//! One enum for the whole machine. The HTTP layer decides on the status.

use std::fmt;

use super::{Phase, PolicyError};

/// Why an operator's order, or a start, is not possible now; the text says what to do.
#[derive(Debug, Clone, PartialEq)]
pub enum StepError {
    /// A rollout is already running.
    AlreadyRunning {
        /// Its id.
        rollout: String,
    },
    /// The policy is not valid.
    Policy(PolicyError),
    /// No rollout runs: none yet, or the last one has ended.
    NotRunning {
        /// The state of the last rollout.
        phase: Phase,
    },
    /// Promotion by the gates was requested while paused.
    Paused,
    /// Promotion by the gates was requested at a weight of zero.
    NoTraffic,
    /// A confirmation was given, but the policy requires none.
    NothingToConfirm,
    /// There is no promotion to undo.
    NothingToUndo,
    /// Promotion was requested in a self-test.
    SelfTest,
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
            StepError::NothingToConfirm => f.write_str(
                "the policy asks for no confirmation at this weight: there is nothing to confirm",
            ),
            StepError::NothingToUndo => f.write_str(
                "nothing was promoted yet: roll the canary back instead of undoing",
            ),
            StepError::SelfTest => f.write_str(
                "a self-test cannot be promoted: roll it back and start a rollout instead",
            ),
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
