//! What the ledger says besides the journal: one entry per thing that somebody may ask about later.
//!
//! Plain data and its JSON. It does not know where an entry is kept. Why models appear by content
//! digest and not by name alone: the name of a folder says nothing about what was in it that day.

use serde::{Deserialize, Serialize};

use super::chain::Hash;
use super::ends::HowEnded;
use super::opening::{Model, Opening};
use super::state::State;
use crate::rollout::{Arm, Decision, Order, Weight};

/// When: by the wall for people, by the rollout's clock for the machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stamp {
    /// Milliseconds since 1970 UTC.
    pub unix_ms: i64,
    /// The rollout's clock.
    pub rollout: std::time::Duration,
}

/// One thing that happened.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Entry {
    /// A server began to use the ledger.
    ServerStarted {
        /// Its version.
        version: String,
        /// The model that its configuration names as stable.
        configured: String,
    },
    /// A rollout begins; its journal follows.
    RolloutOpened(Box<Opening>),
    /// A rollout of an earlier process goes on.
    RolloutResumed {
        /// The weight that it goes on at.
        weight: Weight,
        /// Its stage epoch.
        stage: u64,
        /// Events that were replayed.
        events: u64,
    },
    /// A rollout of an earlier process does not go on.
    RolloutAbandoned {
        /// Why.
        why: String,
    },
    /// The rollout decided, with the verdict and all its figures.
    Decision(Box<Decision>),
    /// An operator ordered something.
    Order {
        /// What, who, why.
        order: Order,
        /// Why it was not granted, if it was not.
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
        /// Also if its content was rejected before.
        retry: bool,
        /// Stable once more, to be judged against itself.
        self_test: bool,
        /// Why it was not granted, if it was not.
        refused: Option<String>,
    },
    /// A model was loaded.
    ModelLoaded {
        /// For which arm.
        arm: Arm,
        /// Which.
        model: Model,
    },
    /// A model was unloaded.
    ModelUnloaded {
        /// Which.
        model: Model,
        /// Why.
        why: String,
        /// Bytes of memory that came back.
        freed: u64,
        /// Bytes that did not; zero unless something leaks.
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
        /// Whose.
        arm: Arm,
        /// What.
        what: String,
    },
    /// An alert was sent, or could not be.
    AlertSent {
        /// To whom.
        to: String,
        /// What it said.
        text: String,
        /// Why it did not arrive.
        error: Option<String>,
    },
    /// A model must not be tried again.
    Rejected {
        /// Its digest.
        digest: String,
        /// Why.
        reason: String,
    },
    /// A model may be tried again after all.
    Pardoned {
        /// Its digest.
        digest: String,
        /// Who said so.
        by: String,
        /// Why.
        reason: String,
    },
    /// The running rollout's events are recorded no further: a replay ends here.
    JournalEnded {
        /// Why.
        why: String,
        /// Events recorded until then.
        events: u64,
    },
    /// The process before did not end in order.
    UncleanEnd {
        /// Which process that was.
        #[serde(default, skip_serializing_if = "String::is_empty")]
        id: String,
        /// How, as far as it can be known.
        how: HowEnded,
        /// The version that was in force, if one was.
        canary: Option<Model>,
    },
    /// A version has been in force for so long that ends before no longer count against it.
    CanaryWell {
        /// Its digest.
        digest: String,
    },
    /// Old rows were dropped.
    Pruned(Box<Pruned>),
}

/// What a pruning dropped, and what is needed to follow the chain across it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Pruned {
    /// Rollouts whose journals were dropped; their entries remain unless they are in `forgotten`.
    pub journals: Vec<String>,
    /// Rollouts of which nothing remains.
    pub forgotten: Vec<String>,
    /// The rows that are gone.
    pub gaps: Vec<Gap>,
    /// The state after the last row of the gap that begins at row 1, if there is one.
    pub state: Option<State>,
}

/// A stretch of rows that is gone.
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
    /// The entry's kind and body, as two columns hold them.
    pub(super) fn to_columns(&self) -> Result<(String, String), serde_json::Error> {
        let whole = serde_json::to_value(self)?;
        let one = whole.as_object().and_then(|object| object.iter().next());
        match one {
            Some((kind, body)) => Ok((kind.clone(), body.to_string())),
            None => Err(serde::ser::Error::custom("an entry has a kind and a body")),
        }
    }

    /// The entry that two columns hold.
    pub(super) fn from_columns(kind: &str, body: &str) -> Result<Entry, serde_json::Error> {
        let body: serde_json::Value = serde_json::from_str(body)?;
        let whole = serde_json::Map::from_iter([(kind.to_owned(), body)]);
        serde_json::from_value(serde_json::Value::Object(whole))
    }
}
