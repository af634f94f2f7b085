//! Retention: what is deleted when the file exceeds its limits.
//!
//! The journals of the oldest finished rollouts go first, then all rows of the oldest finished rollouts. The
//! running rollout, and one whose promotion can still be undone, are never touched. Every deleted range is
//! announced by an entry that keeps its last hash. The state before the oldest remaining row goes into that
//! entry too, so the chain can still be followed and the state still be checked. Journals go first because
//! they are nearly all of the bytes, while the decisions are what people will ask about in a year.

use rusqlite::{Connection, params};

use super::chain::{Hash, JOURNAL};
use super::entry::{Entry, Gap, Pruned};
use super::error::LedgerError;
use super::read::{Recorded, signed, unsigned};
use super::state::State;
use super::store::{Content, Draft, Store};

/// How much is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Retention {
    /// Bytes of the file in use.
    pub max_bytes: u64,
    /// Finished rollouts.
    pub keep_rollouts: usize,
}

impl Default for Retention {
    fn default() -> Retention {
        Retention { max_bytes: 256 << 20, keep_rollouts: 50 }
    }
}

/// Deletes what exceeds the limits; returns whether anything was deleted.
pub(super) fn prune(
    store: &mut Store,
    retention: &Retention,
    at_unix_ms: i64,
) -> Result<bool, LedgerError> {
    let mut any = false;
    loop {
        let rollouts = store.view().openings()?;
        let State { running, promoted, .. } = &store.state;
        let running = running.as_ref().or(promoted.as_ref()).map(|running| running.opened);
        let finished: Vec<&Recorded> =
            rollouts.iter().filter(|one| running.is_none_or(|first| one.first < first)).collect();
        let excess = finished.len().saturating_sub(retention.keep_rollouts);
        if excess > 0 {
            forget(store, &finished[..excess], at_unix_ms)?;
        } else if store.used()? <= retention.max_bytes {
            return Ok(any);
        } else if !drop_a_journal(store, &finished, at_unix_ms)? {
            let Some(oldest) = finished.first() else { return Ok(any) };
            forget(store, &[*oldest], at_unix_ms)?;
        }
        any = true;
    }
}

/// Deletes the journal of the oldest finished rollout that still has one.
fn drop_a_journal(
    store: &mut Store,
    finished: &[&Recorded],
    at_unix_ms: i64,
) -> Result<bool, LedgerError> {
    for one in finished {
        let last = one.last.min(store.head.seq);
        let gaps = runs(&store.conn, one.first, last);
        let gaps = gaps.map_err(|error| store.view().sqlite(error))?;
        if gaps.is_empty() {
            continue;
        }
        let journals = vec![one.opening.rollout.clone()];
        drop_rows(store, Pruned { journals, forgotten: vec![], gaps, state: None }, at_unix_ms)?;
        return Ok(true);
    }
    Ok(false)
}

/// Deletes everything up to the end of the last of these rollouts, which are the oldest.
fn forget(store: &mut Store, oldest: &[&Recorded], at_unix_ms: i64) -> Result<(), LedgerError> {
    let Some(newest) = oldest.last() else { return Ok(()) };
    let row = row_up_to(&store.conn, newest.last).map_err(|error| store.view().sqlite(error))?;
    let (last, hash) = row;
    let state = state_after(store, last)?;
    let forgotten = oldest.iter().map(|one| one.opening.rollout.clone()).collect();
    let gaps = vec![Gap { first: 1, last, hash }];
    drop_rows(store, Pruned { journals: vec![], forgotten, gaps, state: Some(state) }, at_unix_ms)
}

fn drop_rows(store: &mut Store, pruned: Pruned, at_unix_ms: i64) -> Result<(), LedgerError> {
    tracing::info!(journals = ?pruned.journals, forgotten = ?pruned.forgotten, "ledger pruned");
    let gaps = pruned.gaps.clone();
    let content = Content::Entry(Entry::Pruned(Box::new(pruned)));
    let draft = Draft { at_unix_ms, rollout: String::new(), content };
    store.transact(&[draft], |conn| {
        let mut delete = conn.prepare_cached("DELETE FROM ledger WHERE seq BETWEEN ?1 AND ?2")?;
        for gap in &gaps {
            delete.execute(params![signed(gap.first), signed(gap.last)])?;
        }
        Ok(())
    })?;
    let vacuum = store.conn.execute_batch("PRAGMA incremental_vacuum");
    vacuum.map_err(|error| store.view().sqlite(error))
}

/// The state after row `last`, computed from the entries and from an earlier pruning, if any.
fn state_after(store: &Store, last: u64) -> Result<State, LedgerError> {
    let view = store.view();
    let (mut state, mut from) = (State::default(), 0);
    for kept in view.entries_of_kind("pruned")? {
        let Entry::Pruned(pruned) = kept.entry else { continue };
        let first = pruned.gaps.iter().find(|gap| gap.first == 1);
        if let (Some(gap), Some(kept)) = (first, pruned.state)
            && gap.last >= from
        {
            (state, from) = (kept, gap.last);
        }
    }
    for kept in view.entries(from, last, usize::MAX)? {
        state.apply(kept.seq, kept.at_unix_ms, &kept.entry);
    }
    Ok(state)
}

/// The last existing row up to `seq`. Rows between it and `seq`, if any, are in a gap announced before.
fn row_up_to(conn: &Connection, seq: u64) -> rusqlite::Result<(u64, Hash)> {
    let query = "SELECT seq, hash FROM ledger WHERE seq <= ?1 ORDER BY seq DESC LIMIT 1";
    conn.query_row(query, [signed(seq)], |row| Ok((unsigned(row, 0)?, row.get(1)?)))
}

/// The ranges of journal rows between two rows.
fn runs(conn: &Connection, first: u64, last: u64) -> rusqlite::Result<Vec<Gap>> {
    let query = "SELECT seq, hash FROM ledger
        WHERE seq BETWEEN ?1 AND ?2 AND kind = ?3 ORDER BY seq";
    let mut statement = conn.prepare_cached(query)?;
    let mut rows = statement.query(params![signed(first), signed(last), JOURNAL])?;
    let mut gaps: Vec<Gap> = Vec::new();
    while let Some(row) = rows.next()? {
        let (seq, hash) = (unsigned(row, 0)?, row.get(1)?);
        match gaps.last_mut() {
            Some(gap) if gap.last + 1 == seq => (gap.last, gap.hash) = (seq, hash),
            _ => gaps.push(Gap { first: seq, last: seq, hash }),
        }
    }
    Ok(gaps)
}
