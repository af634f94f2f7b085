//! Where things stand, as the entries tell it.
//!
//! Plain data; `fold` says how an entry changes it. It is kept beside the entries so that a start need not read years of
//! them, and pruning does not forget which models were rejected.

use serde::{Deserialize, Serialize};

use super::opening::{Model, Opening};
use crate::rollout::Weight;

/// Rejected models that are remembered; the oldest go first.
pub const MAX_REJECTED: usize = 500;

/// What a server needs to know at its start.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct State {
    /// What the configuration of the last server named as stable.
    #[serde(default)]
    pub configured: Option<String>,
    /// The model in service.
    pub stable: Option<Model>,
    /// The rollout that runs.
    pub running: Option<Running>,
    /// The last rollout, if it was promoted: an operator may still undo that.
    pub promoted: Option<Running>,
    /// Models that failed, oldest first, each once.
    pub rejected: Vec<Rejection>,
    /// Versions under which the process was killed without an explanation, oldest first, each once.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub suspects: Vec<Suspect>,
    /// The process whose unclean end was written down last.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub last_end: String,
}

/// A version under which the process was killed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Suspect {
    /// Its digest.
    pub digest: String,
    /// How often since it was last well.
    pub ends: u32,
}

/// A rollout under way, as of its last committed decision.
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
    /// Why its events are recorded no further, if they are not.
    pub journal_ended: Option<String>,
}

/// A model that failed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rejection {
    /// Its digest.
    pub digest: String,
    /// Why.
    pub reason: String,
    /// A short name: the cause of the rollback, or `order` when it was rejected outright.
    pub cause: String,
    /// The rollout that it failed in, or none.
    pub rollout: String,
    /// When, in milliseconds since 1970 UTC.
    pub at_unix_ms: i64,
}
