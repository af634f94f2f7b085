//! The entries of the ledger: one for each event, besides the journal, that someone may ask about later.
//!
//! Plain data and its JSON. It does not know where an entry is stored. Models are identified by a digest of
//! their content and not only by name, because a folder's name does not tell what was in it on that day.

use serde::{Deserialize, Serialize};

use super::chain::Hash;
use super::ends::HowEnded;
use super::opening::{Model, Opening};
use super::state::State;
use crate::rollout::{Arm, Decision, Order, Weight};

/// A point in time: wall-clock time for people, the rollout's clock for the machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stamp {
    /// Milliseconds since 1970 UTC.
    pub unix_ms: i64,
    /// The rollout's clock.
    pub rollout: std::time::Duration,
}

/// Something that happened.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Entry {
    /// A server opened the ledger.
    ServerStarted {
        /// Its version.
        version: String,
        /// The model that its configuration names as stable.
        configured: String,
    },
    /// A rollout begins; its journal follows.
    RolloutOpened(Box<Opening>),
    /// A rollout of an earlier process continues.
    RolloutResumed {
        /// The weight at which it continues.
        weight: Weight,
        /// Its stage epoch.
        stage: u64,
        /// Events that were replayed.
        events: u64,
    },
    /// A rollout of an earlier process does not continue.
    RolloutAbandoned {
        /// Why.
        why: String,
    },
    /// The rollout decided, with the verdict and all its figures.
    Decision(Box<Decision>),
    /// An operator gave an order.
    Order {
        /// The command, author and reason.
        order: Order,
        /// Why it was refused, if it was.
        refused: Option<String>,
    },
    /// An operator, or the configuration, asked for a canary.
    LoadOrdered {
        /// Where it is.
        path: String,
        /// Who asked.
        by: String,
        /// Why.
        reason: Option<String>,
        /// Load it even if its content was rejected before.
        retry: bool,
        /// Load stable a second time, to be judged against itself.
        self_test: bool,
        /// What it can do less than stable, which was allowed.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        allowed: Vec<String>,
        /// Why it was refused, if it was.
        refused: Option<String>,
    },
    /// A model was loaded.
    ModelLoaded {
        /// For which arm.
        arm: Arm,
        /// The model.
        model: Model,
    },
    /// A model was unloaded.
    ModelUnloaded {
        /// The model.
        model: Model,
        /// Why.
        why: String,
        /// Bytes of memory that were freed.
        freed: u64,
        /// Bytes that were not freed; zero unless something leaks.
        kept: u64,
    },
    /// The canary became stable.
    ModelsSwapped {
        /// Stable from now on.
        stable: Model,
        /// Stable until now.
        former: Model,
    },
    /// Requests are routed by this weight from now on.
    WeightChanged {
        /// The canary's share.
        weight: Weight,
        /// The stage epoch.
        stage: u64,
    },
    /// An engine, device or load fault.
    Fault {
        /// The arm at fault.
        arm: Arm,
        /// What happened.
        what: String,
    },
    /// An alert was sent, or sending failed.
    AlertSent {
        /// The receiver.
        to: String,
        /// Its text.
        text: String,
        /// Why it was not delivered.
        error: Option<String>,
    },
    /// A model must not be tried again.
    Rejected {
        /// Its digest.
        digest: String,
        /// Why.
        reason: String,
    },
    /// A rejected model may be tried again.
    Pardoned {
        /// Its digest.
        digest: String,
        /// Who allowed it.
        by: String,
        /// Why.
        reason: String,
    },
    /// The running rollout's events are no longer recorded: a replay ends here.
    JournalEnded {
        /// Why.
        why: String,
        /// Number of events recorded until then.
        events: u64,
    },
    /// The previous process did not shut down in an orderly way.
    UncleanEnd {
        /// The id of that process.
        #[serde(default, skip_serializing_if = "String::is_empty")]
        id: String,
        /// How it ended, as far as is known.
        how: HowEnded,
        /// The version on trial, if there was one.
        canary: Option<Model>,
    },
    /// A version has served long enough that earlier kills no longer count against it.
    CanaryWell {
        /// Its digest.
        digest: String,
    },
    /// Old rows were deleted.
    Pruned(Box<Pruned>),
}

/// What a pruning deleted, and what is needed to follow the chain across the gap.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Pruned {
    /// Rollouts whose journals were deleted; their entries remain unless they are in `forgotten`.
    pub journals: Vec<String>,
    /// Rollouts that were deleted completely.
    pub forgotten: Vec<String>,
    /// The deleted rows.
    pub gaps: Vec<Gap>,
    /// The state after the last row of the gap that begins at row 1, if there is one.
    pub state: Option<State>,
}

/// A range of rows that was deleted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Gap {
    /// The first row's number.
    pub first: u64,
    /// The last row's number.
    pub last: u64,
    /// The last row's hash.
    #[serde(with = "super::chain::hex")]
    pub hash: Hash,
}

impl Entry {
    /// The entry's kind and body, as stored in two columns.
    pub(super) fn to_columns(&self) -> Result<(String, String), serde_json::Error> {
        let whole = serde_json::to_value(self)?;
        let one = whole.as_object().and_then(|object| object.iter().next());
        match one {
            Some((kind, body)) => Ok((kind.clone(), body.to_string())),
            None => Err(serde::ser::Error::custom("an entry has a kind and a body")),
        }
    }

    /// The entry stored in two columns.
    pub(super) fn from_columns(kind: &str, body: &str) -> Result<Entry, serde_json::Error> {
        let body: serde_json::Value = serde_json::from_str(body)?;
        let whole = serde_json::Map::from_iter([(kind.to_owned(), body)]);
        serde_json::from_value(serde_json::Value::Object(whole))
    }
}
