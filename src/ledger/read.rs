//! Reading: entries, rollouts and their journals, from any connection to the file.
//!
//! A [`Reader`] can read a ledger while a server writes it, and always sees whole transactions. It changes
//! nothing and never blocks the server.

use std::path::{Path, PathBuf};
use std::time::Duration;
use std::vec;

use rusqlite::{Connection, OptionalExtension, Row, params};

use super::chain::{Hash, Head, JOURNAL};
use super::codec;
use super::connection::connect_to_read;
use super::entry::Entry;
use super::error::LedgerError;
use super::opening::Opening;
use super::state::State;
use crate::rollout::{Decision, Event};

/// A ledger opened for reading.
#[derive(Debug)]
pub struct Reader {
    path: PathBuf,
    conn: Connection,
}

/// An entry in its row.
#[derive(Debug, Clone, PartialEq)]
pub struct Kept {
    /// The row's number.
    pub seq: u64,
    /// When, in milliseconds since 1970 UTC.
    pub at_unix_ms: i64,
    /// The rollout that it belongs to, or an empty text.
    pub rollout: String,
    /// The entry itself.
    pub entry: Entry,
}

/// A rollout in the ledger.
#[derive(Debug, Clone, PartialEq)]
pub struct Recorded {
    /// How it began.
    pub opening: Opening,
    /// When, in milliseconds since 1970 UTC.
    pub at_unix_ms: i64,
    /// The row of its opening.
    pub first: u64,
    /// The last row that can belong to it.
    pub last: u64,
    /// Its decisions in order.
    pub decisions: Vec<Decision>,
    /// Why its events were not recorded to the end, if so.
    pub journal_ended: Option<String>,
}

impl Reader {
    /// Opens the ledger at `path`, which must exist. Fails if there is no file, or if it is no ledger that this build
    /// reads.
    pub fn open(path: &Path) -> Result<Reader, LedgerError> {
        Ok(Reader { path: path.to_owned(), conn: connect_to_read(path)? })
    }

    pub(super) fn view(&self) -> View<'_> {
        View { conn: &self.conn, path: &self.path }
    }

    /// The end of the chain: this is the hash to keep elsewhere. Fails if the ledger cannot be read or is damaged.
    pub fn head(&self) -> Result<Head, LedgerError> {
        Ok(self.view().end()?.0)
    }

    /// The state after the last entry. Fails as [`Reader::head`] does.
    pub fn state(&self) -> Result<State, LedgerError> {
        Ok(self.view().end()?.1)
    }

    /// At most `limit` entries after row `after`, in order. Fails as [`Reader::head`] does.
    pub fn entries(&self, after: u64, limit: usize) -> Result<Vec<Kept>, LedgerError> {
        self.view().entries(after, u64::MAX, limit)
    }

    /// The last `limit` entries before row `before`, in order. Fails as [`Reader::head`] does.
    pub fn last(&self, before: u64, limit: usize) -> Result<Vec<Kept>, LedgerError> {
        self.view().last(before, limit)
    }

    /// All rollouts, oldest first. Fails as [`Reader::head`] does.
    pub fn rollouts(&self) -> Result<Vec<Recorded>, LedgerError> {
        self.view().rollouts()
    }

    /// The rollout of that id. Fails if there is none, or as [`Reader::head`] does.
    pub fn rollout(&self, id: &str) -> Result<Recorded, LedgerError> {
        let found = self.rollouts()?.into_iter().rev().find(|one| one.opening.rollout == id);
        let missing = || LedgerError::NoRollout { path: self.path.clone(), rollout: id.to_owned() };
        found.ok_or_else(missing)
    }

    /// The events of that rollout; none if its journal was pruned.
    pub fn journal(&self, of: &Recorded) -> Journal<'_> {
        self.view().journal(&of.opening.rollout, of.first, of.last)
    }
}

/// A connection and the path for its errors.
#[derive(Debug, Clone, Copy)]
pub(super) struct View<'a> {
    pub(super) conn: &'a Connection,
    pub(super) path: &'a Path,
}

impl<'a> View<'a> {
    pub(super) fn sqlite(&self, error: rusqlite::Error) -> LedgerError {
        LedgerError::sqlite(self.path, error)
    }

    fn meta<T: serde::de::DeserializeOwned>(&self, key: &str) -> Result<Option<T>, LedgerError> {
        let query = "SELECT value FROM meta WHERE key = ?1";
        let text: Option<String> = self
            .conn
            .query_row(query, [key], |row| row.get(0))
            .optional()
            .map_err(|error| self.sqlite(error))?;
        let read = |text: String| {
            serde_json::from_str(&text)
                .map_err(|error| LedgerError::damaged(self.path, format!("its {key}: {error}")))
        };
        text.map(read).transpose()
    }

    /// The end of the chain and the state there.
    pub(super) fn end(&self) -> Result<(Head, State), LedgerError> {
        let head = self.meta("head")?.unwrap_or(Head::EMPTY);
        Ok((head, self.meta("state")?.unwrap_or_default()))
    }

    /// Whether the last row is the expected one. A full verification takes longer.
    pub(super) fn check_end(&self, head: &Head) -> Result<(), LedgerError> {
        let last: Option<(u64, Hash)> = self
            .conn
            .query_row("SELECT seq, hash FROM ledger ORDER BY seq DESC LIMIT 1", [], |row| {
                Ok((unsigned(row, 0)?, row.get(1)?))
            })
            .optional()
            .map_err(|error| self.sqlite(error))?;
        let (seq, hash) = last.unwrap_or((Head::EMPTY.seq, Head::EMPTY.hash));
        if (Head { seq, hash }) == *head {
            return Ok(());
        }
        let why = match seq == head.seq {
            true => format!("row {seq}, its last, has a different hash than recorded"),
            false => format!("its last row is {seq} where {} was noted", head.seq),
        };
        Err(LedgerError::damaged(self.path, why))
    }

    /// At most `limit` entries in rows above `after`, up to `until`.
    pub(super) fn entries(
        &self,
        after: u64,
        until: u64,
        limit: usize,
    ) -> Result<Vec<Kept>, LedgerError> {
        let query = "SELECT seq, at_unix_ms, rollout, kind, body FROM ledger INDEXED BY entries
            WHERE seq > ?1 AND seq <= ?2 AND kind <> 'journal' ORDER BY seq LIMIT ?3";
        self.kept(query, params![signed(after), signed(until), signed(limit as u64)])
    }

    fn last(&self, before: u64, limit: usize) -> Result<Vec<Kept>, LedgerError> {
        let query = "SELECT seq, at_unix_ms, rollout, kind, body FROM ledger INDEXED BY entries
            WHERE seq < ?1 AND kind <> 'journal' ORDER BY seq DESC LIMIT ?2";
        let mut kept = self.kept(query, params![signed(before), signed(limit as u64)])?;
        kept.reverse();
        Ok(kept)
    }

    /// All entries of one kind, in order.
    pub(super) fn entries_of_kind(&self, kind: &str) -> Result<Vec<Kept>, LedgerError> {
        let query = "SELECT seq, at_unix_ms, rollout, kind, body FROM ledger INDEXED BY entries
            WHERE kind = ?1 AND kind <> 'journal' ORDER BY seq";
        self.kept(query, params![kind])
    }

    fn kept(&self, query: &str, given: impl rusqlite::Params) -> Result<Vec<Kept>, LedgerError> {
        let sqlite = |error| self.sqlite(error);
        let mut statement = self.conn.prepare_cached(query).map_err(sqlite)?;
        let rows = statement.query_map(given, |row| {
            let (kind, body): (String, String) = (row.get(3)?, row.get(4)?);
            Ok((unsigned(row, 0)?, row.get(1)?, row.get(2)?, kind, body))
        });
        rows.map_err(sqlite)?
            .map(|row| {
                let (seq, at_unix_ms, rollout, kind, body) = row.map_err(sqlite)?;
                let entry = Entry::from_columns(&kind, &body).map_err(|error| {
                    LedgerError::damaged(self.path, format!("row {seq} ({kind}): {error}"))
                })?;
                Ok(Kept { seq, at_unix_ms, rollout, entry })
            })
            .collect()
    }

    /// All rollouts, oldest first, without their decisions: those are most of what there is to read.
    pub(super) fn openings(&self) -> Result<Vec<Recorded>, LedgerError> {
        let opened = self.entries_of_kind("rollout_opened")?;
        let mut ends: Vec<u64> = opened.iter().skip(1).map(|kept| kept.seq - 1).collect();
        ends.push(u64::MAX);
        let mut rollouts: Vec<Recorded> = Vec::with_capacity(opened.len());
        for (kept, last) in opened.into_iter().zip(ends) {
            let Kept { seq, at_unix_ms, entry: Entry::RolloutOpened(opening), .. } = kept else {
                continue;
            };
            rollouts.push(Recorded {
                opening: *opening,
                at_unix_ms,
                first: seq,
                last,
                decisions: Vec::new(),
                journal_ended: None,
            });
        }
        Ok(rollouts)
    }

    pub(super) fn rollouts(&self) -> Result<Vec<Recorded>, LedgerError> {
        let mut rollouts = self.openings()?;
        for kind in ["decision", "journal_ended"] {
            for kept in self.entries_of_kind(kind)? {
                let after = rollouts.partition_point(|one| one.first <= kept.seq);
                let Some(one) = after.checked_sub(1).map(|at| &mut rollouts[at]) else { continue };
                match kept.entry {
                    Entry::Decision(decision) => one.decisions.push(*decision),
                    Entry::JournalEnded { why, .. } => one.journal_ended = Some(why),
                    _ => {}
                }
            }
        }
        Ok(rollouts)
    }

    pub(super) fn journal(&self, rollout: &str, first: u64, last: u64) -> Journal<'a> {
        Journal {
            view: *self,
            rollout: rollout.to_owned(),
            after: first,
            last,
            next: 0,
            batch: Vec::new().into_iter(),
        }
    }
}

/// The events of a rollout in order, read a batch at a time.
#[derive(Debug)]
pub struct Journal<'a> {
    view: View<'a>,
    rollout: String,
    after: u64,
    last: u64,
    next: u64,
    batch: vec::IntoIter<(Duration, Event)>,
}

impl Journal<'_> {
    /// Reads the next batch; `false` at the end.
    fn advance(&mut self) -> Result<bool, LedgerError> {
        let query = "SELECT seq, body FROM ledger
            WHERE seq > ?1 AND seq <= ?2 AND kind = ?3 AND rollout = ?4 ORDER BY seq LIMIT 1";
        let sqlite = |error| self.view.sqlite(error);
        let mut statement = self.view.conn.prepare_cached(query).map_err(sqlite)?;
        let given = params![signed(self.after), signed(self.last), JOURNAL, self.rollout];
        let row: Option<(u64, Vec<u8>)> = statement
            .query_row(given, |row| Ok((unsigned(row, 0)?, row.get(1)?)))
            .optional()
            .map_err(sqlite)?;
        let Some((seq, body)) = row else { return Ok(false) };
        let damaged = |why: String| LedgerError::damaged(self.view.path, why);
        let batch = codec::decode(&body).map_err(|e| damaged(format!("row {seq}: {e}")))?;
        if batch.first != self.next {
            let (found, wanted) = (batch.first, self.next);
            let why = format!("row {seq} begins with event {found} where {wanted} is due");
            return Err(damaged(why));
        }
        self.after = seq;
        self.next += batch.events.len() as u64;
        self.batch = batch.events.into_iter();
        Ok(true)
    }
}

impl Iterator for Journal<'_> {
    type Item = Result<(Duration, Event), LedgerError>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            if let Some(event) = self.batch.next() {
                return Some(Ok(event));
            }
            match self.advance() {
                Ok(true) => {}
                Ok(false) => return None,
                Err(error) => {
                    // Nothing after a damaged batch can be trusted.
                    self.after = self.last;
                    return Some(Err(error));
                }
            }
        }
    }
}

/// Bytes of the file in use, including those in the write-ahead log.
pub(super) fn page_bytes(conn: &Connection) -> rusqlite::Result<u64> {
    let pragma = |name: &str| conn.pragma_query_value(None, name, |row| unsigned(row, 0));
    Ok((pragma("page_count")? - pragma("freelist_count")?) * pragma("page_size")?)
}

/// A column that is never negative.
pub(super) fn unsigned(row: &Row<'_>, column: usize) -> rusqlite::Result<u64> {
    let value: i64 = row.get(column)?;
    u64::try_from(value).map_err(|_| rusqlite::Error::IntegralValueOutOfRange(column, value))
}

/// A row number as SQLite stores it.
pub(super) fn signed(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}
