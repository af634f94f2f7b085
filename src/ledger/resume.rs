//! What a server needs to know at startup: the state when the last server stopped.
//!
//! A rollout that was running is replayed from its journal into a machine with exactly the same counts and
//! evidence. The decisions on the way must match the committed ones; otherwise the rollout is not resumed.
//! What happens to a rollout that cannot be resumed is decided elsewhere.

use std::time::Duration;

use super::error::LedgerError;
use super::queue::OpenJournal;
use super::read::signed;
use super::replay::{Difference, compare, replay};
use super::state::{Rejection, Running, State};
use super::store::Store;
use crate::rollout::Rollout;

/// The state at the last stop.
#[derive(Debug)]
pub struct Resume {
    /// The state after the last committed entry: stable, the running rollout, rejected models.
    pub state: State,
    /// The interrupted rollout, and whether it can continue.
    pub interrupted: Option<Interrupted>,
    /// Otherwise, the last rollout if its promotion can still be undone, with the machine that can do so.
    pub promoted: Option<Interrupted>,
}

/// A rollout that was running.
#[derive(Debug)]
pub struct Interrupted {
    /// The state after its last committed decision.
    pub running: Running,
    /// The machine to continue with, or why there is none.
    pub machine: Result<Continued, CannotContinue>,
}

/// A machine as it was, except for events that had not reached the disk.
#[derive(Debug)]
pub struct Continued {
    /// The machine; its weight and stage are the last committed ones.
    pub rollout: Rollout,
    /// The time at which the rollout's clock continues: the time while no server ran does not count.
    pub clock: Duration,
    /// Number of replayed events.
    pub events: u64,
    journal_bytes: u64,
}

/// Why a rollout cannot continue. Its weight and stage are still known.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum CannotContinue {
    /// Its events were not recorded to the end.
    #[error("its events were not recorded to the end: {why}")]
    JournalEnded {
        /// Why not.
        why: String,
    },
    /// The replay does not reach the committed decisions: another version of serin judged it.
    #[error("its replay leads to different decisions: {0}")]
    Diverged(Difference),
    /// The journal cannot be read.
    #[error("its journal cannot be read: {why}")]
    Damaged {
        /// Why not.
        why: String,
    },
}

impl Resume {
    /// The entry that says why a model was rejected, if it was.
    pub fn rejection(&self, digest: &str) -> Option<&Rejection> {
        self.state.rejected.iter().find(|one| one.digest == digest)
    }

    pub(super) fn journal(&self) -> Option<OpenJournal> {
        let settled = self.interrupted.is_none();
        let found = self.interrupted.as_ref().or(self.promoted.as_ref())?;
        let Interrupted { running, machine } = found;
        let machine = machine.as_ref().ok()?;
        let rollout = &running.opening.rollout;
        Some(OpenJournal::new(rollout, machine.events, machine.journal_bytes, settled))
    }
}

/// Reads the state, and replays the interrupted rollout.
pub(super) fn resume(store: &Store) -> Result<Resume, LedgerError> {
    let state = store.state.clone();
    let interrupted = |running: &Option<Running>| -> Result<Option<Interrupted>, LedgerError> {
        let Some(running) = running.clone() else { return Ok(None) };
        let machine = continued(store, &running)?;
        Ok(Some(Interrupted { running, machine }))
    };
    let (interrupted, promoted) = (interrupted(&state.running)?, interrupted(&state.promoted)?);
    Ok(Resume { state, interrupted, promoted })
}

fn continued(
    store: &Store,
    running: &Running,
) -> Result<Result<Continued, CannotContinue>, LedgerError> {
    if let Some(why) = running.journal_ended.clone() {
        return Ok(Err(CannotContinue::JournalEnded { why }));
    }
    let view = store.view();
    let machine = Rollout::after_epoch(running.opening.policy.clone(), running.opening.epoch);
    let journal = view.journal(&running.opening.rollout, running.opened, u64::MAX);
    let replayed = match replay(machine, journal) {
        Ok(replayed) => replayed,
        Err(LedgerError::Damaged { why, .. }) => return Ok(Err(CannotContinue::Damaged { why })),
        Err(error) => return Err(error),
    };
    let committed = view.rollouts()?.pop().map(|one| one.decisions).unwrap_or_default();
    if let Some(difference) = compare(&committed, &replayed.decisions).difference {
        return Ok(Err(CannotContinue::Diverged(difference)));
    }
    let query = "SELECT coalesce(sum(length(body)), 0) FROM ledger WHERE seq > ?1";
    let journal_bytes = store
        .conn
        .query_row(query, [signed(running.opened)], |row| super::read::unsigned(row, 0))
        .map_err(|error| view.sqlite(error))?;
    let (rollout, clock, events) = (replayed.rollout, replayed.clock, replayed.events);
    Ok(Ok(Continued { rollout, clock, events, journal_bytes }))
}
