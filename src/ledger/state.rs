//! The current state, derived from the entries.
//!
//! Plain data; `fold` applies entries to it. It is stored next to the entries because a start must not read years of
//! them, and because pruning must not forget which models were rejected.

use serde::{Deserialize, Serialize};

use super::opening::{Model, Opening};
use crate::rollout::Weight;

/// Number of rejected models that are remembered; the oldest are forgotten first.
pub const MAX_REJECTED: usize = 500;

/// What a server needs to know at startup.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct State {
    /// The model that the configuration of the last server named as stable.
    #[serde(default)]
    pub configured: Option<String>,
    /// The model in service.
    pub stable: Option<Model>,
    /// The running rollout.
    pub running: Option<Running>,
    /// The last rollout, if it was promoted: an operator may still undo the promotion.
    pub promoted: Option<Running>,
    /// Models that failed, oldest first, each once.
    pub rejected: Vec<Rejection>,
    /// Versions under which the process was killed without an explanation, oldest first, each once.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub suspects: Vec<KillCount>,
    /// The last process whose unclean end was recorded.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub last_end: String,
}

/// A version under which the process was killed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KillCount {
    /// Its digest.
    pub digest: String,
    /// Number of kills since it was last healthy.
    pub ends: u32,
}

/// A running rollout, as of its last committed decision.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Running {
    /// How it began.
    pub opening: Opening,
    /// The row of its opening.
    pub opened: u64,
    /// The canary's share.
    pub weight: Weight,
    /// The stage epoch.
    pub stage: u64,
    /// Why its events are no longer recorded, if so.
    pub journal_ended: Option<String>,
}

/// A model that failed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rejection {
    /// Its digest.
    pub digest: String,
    /// Why.
    pub reason: String,
    /// A short name: the cause of the rollback, or `order` if it was rejected by an order.
    pub cause: String,
    /// The rollout in which it failed, or empty.
    pub rollout: String,
    /// When, in milliseconds since 1970 UTC.
    pub at_unix_ms: i64,
}
