//! The ledger as `control` uses it. If no ledger is kept, the state that it would have is still tracked.
//!
//! Every entry is folded into the state that a restart would find, so a rejected version is refused whether or not
//! decisions are kept on disk. It reads the wall clock for the rows, and decides nothing.

use super::identity::{self, same};
use crate::ledger::{Entry, Health, Ledger, Model, Rejection, Stamp, State, Ticket};
use crate::rollout::Event;
use parking_lot::Mutex;
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tokio::sync::watch;

pub(super) struct LedgerHandle {
    ledger: Option<Ledger>,
    state: Mutex<State>,
}

impl LedgerHandle {
    /// The handle of a ledger that was just opened, or over none.
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

    /// Why a version must not be tried again, if it must not. Its digest is the one that the ledger has, which
    /// may be of an earlier form.
    pub fn rejection(&self, digest: &str) -> Option<Rejection> {
        self.state.lock().rejected.iter().find(|one| same(&one.digest, digest)).cloned()
    }

    /// Kills without an explanation that a version has had since it was last well.
    pub fn unexplained_ends(&self, digest: &str) -> u32 {
        let state = self.state.lock();
        let of = state.suspects.iter().filter(|one| same(&one.digest, digest));
        of.map(|one| one.ends).sum()
    }

    /// The digests, as the ledger has them, under which something is held against a version.
    pub fn held_against(&self, digest: &str) -> Vec<String> {
        let state = self.state.lock();
        let rejected = state.rejected.iter().map(|one| &one.digest);
        let suspects = state.suspects.iter().map(|one| &one.digest);
        let mut held: Vec<String> =
            rejected.chain(suspects).filter(|one| same(one, digest)).cloned().collect();
        held.sort_unstable();
        held.dedup();
        held
    }

    /// Whether it is known already how that process ended, and what followed from it.
    pub fn knows_end(&self, id: &str) -> bool {
        !id.is_empty() && self.state.lock().last_end == id
    }

    /// The model that was in service last.
    pub fn stable(&self) -> Option<Model> {
        self.state.lock().stable.clone()
    }

    /// Whether that is the content of the model in service, or its place.
    pub fn is_stable(&self, digest: &str) -> bool {
        let is = |one: &Model| same(&one.digest, digest) || unread(Path::new(&one.path)) == digest;
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

pub(super) fn model(deployment: &super::Deployment) -> Model {
    Model {
        path: deployment.path.display().to_string(),
        version: deployment.version.to_string(),
        digest: deployment.digest.clone(),
        inherited: deployment.inherited.then(|| identity::as_json(&deployment.defaults)),
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ledger::KillCount;

    const BROKEN: &str = "v2:aa:weights";
    const MENDED: &str = "v2:bb:weights";

    fn handle(rejected: &str) -> LedgerHandle {
        let rejection = Rejection {
            digest: rejected.to_owned(),
            reason: "errors".to_owned(),
            cause: "order".to_owned(),
            rollout: String::new(),
            at_unix_ms: 0,
        };
        let kills = |digest: &str, ends| KillCount { digest: digest.to_owned(), ends };
        LedgerHandle::new(
            None,
            State {
                rejected: vec![rejection],
                suspects: vec![kills("weights", 1), kills(BROKEN, 2), kills("other", 4)],
                stable: Some(Model {
                    path: "/nowhere".to_owned(),
                    version: "v".to_owned(),
                    digest: rejected.to_owned(),
                    inherited: None,
                }),
                ..State::default()
            },
        )
    }

    #[test]
    fn a_mended_template_is_not_what_was_rejected() {
        let handle = handle(BROKEN);
        assert!(handle.rejection(BROKEN).is_some() && handle.is_stable(BROKEN));
        assert!(handle.rejection(MENDED).is_none() && !handle.is_stable(MENDED));
        assert_eq!((handle.unexplained_ends(BROKEN), handle.unexplained_ends(MENDED)), (3, 1));
    }

    #[test]
    fn what_an_earlier_serin_knew_by_its_weights_is_known_still() {
        let handle = handle("weights");
        for digest in [BROKEN, MENDED, "weights"] {
            assert_eq!(handle.rejection(digest).expect("it is known").digest, "weights");
            assert!(handle.is_stable(digest), "{digest}");
        }
        assert!(handle.rejection("v2:aa:other").is_none() && !handle.is_stable("v2:aa:other"));
        assert_eq!(handle.held_against(BROKEN), [BROKEN, "weights"], "what a pardon has to name");
        assert_eq!(handle.held_against(MENDED), ["weights"]);
    }
}
