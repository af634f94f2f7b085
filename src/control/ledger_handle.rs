//! The ledger as the control room uses it: there may be none, and either way it is known what it would say.
//!
//! Folds every entry into the state that a restart would find, so that a rejected version is refused
//! whether or not decisions are kept on disk. Reads the wall clock for the rows; decides nothing.

use crate::ledger::{Entry, Health, Ledger, Model, Rejection, Stamp, State, Ticket};
use crate::rollout::Event;
use parking_lot::Mutex;
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tokio::sync::watch;

/// The record of what was decided.
pub(super) struct LedgerHandle {
    ledger: Option<Ledger>,
    state: Mutex<State>,
}

impl LedgerHandle {
    /// A book over a ledger that was just opened, or over none.
    pub fn new(ledger: Option<Ledger>, state: State) -> LedgerHandle {
        LedgerHandle { ledger, state: Mutex::new(state) }
    }

    /// An event that led to nothing.
    pub fn record(&self, at: Duration, event: &Event) {
        if let Some(ledger) = &self.ledger {
            ledger.record(stamp(at), event);
        }
    }

    /// What is to be kept, with the event that led to it. `None` when nothing is kept.
    pub fn commit(
        &self,
        at: Duration,
        event: Option<&Event>,
        entries: Vec<Entry>,
    ) -> Option<Ticket> {
        let at = stamp(at);
        {
            let mut state = self.state.lock();
            entries.iter().for_each(|entry| state.apply(0, at.unix_ms, entry));
        }
        self.ledger.as_ref().map(|ledger| ledger.commit(at, event, entries))
    }

    /// What was to be kept and was refused, once more.
    pub fn again(&self, at: Duration, entries: Vec<Entry>) -> Option<Ticket> {
        self.ledger.as_ref().map(|ledger| ledger.commit(stamp(at), None, entries))
    }

    /// What is to be kept and nobody waits for.
    pub fn note(&self, at: Duration, entry: Entry) {
        drop(self.commit(at, None, vec![entry]));
    }

    /// Why a version must not be tried again, if it must not.
    pub fn rejection(&self, digest: &str) -> Option<Rejection> {
        self.state.lock().rejected.iter().find(|one| one.digest == digest).cloned()
    }

    /// Kills without an explanation that a version has had since it was last well.
    pub fn unexplained_ends(&self, digest: &str) -> u32 {
        self.state.lock().unexplained_ends(digest)
    }

    /// Whether it is known already how that process ended, and what followed from it.
    pub fn knows_end(&self, id: &str) -> bool {
        !id.is_empty() && self.state.lock().last_end == id
    }

    /// Whether that is the content of the model in service, or its place.
    pub fn is_stable(&self, digest: &str) -> bool {
        let is = |one: &Model| one.digest == digest || unread(Path::new(&one.path)) == digest;
        self.state.lock().stable.as_ref().is_some_and(is)
    }

    /// Where the ledger is, if there is one, and whether it is being written.
    pub fn health(&self) -> Option<(String, Health)> {
        self.ledger.as_ref().map(|ledger| (ledger.path().display().to_string(), ledger.health()))
    }

    /// To be told when the ledger fails or is well again.
    pub fn watch(&self) -> Option<watch::Receiver<Health>> {
        self.ledger.as_ref().map(Ledger::watch)
    }
}

/// Stands for the digest of a model whose content is not known yet: what happens while it is being opened is held
/// against the place it is loaded from.
pub(super) fn unread(path: &Path) -> String {
    let real = std::fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    format!("not read: {}", real.display())
}

/// A deployment as the ledger names it.
pub(super) fn model(deployment: &super::Deployment) -> Model {
    Model {
        path: deployment.path.display().to_string(),
        version: deployment.version.to_string(),
        digest: deployment.digest.clone(),
    }
}

fn stamp(rollout: Duration) -> Stamp {
    Stamp { unix_ms: unix_ms(), rollout }
}

/// Milliseconds since 1970.
pub(super) fn unix_ms() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}
