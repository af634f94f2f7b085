//! The data that are waiting to be written, in order and within limits.
//!
//! It knows batches, entries and limits. It does not know about the file or the thread that empties the
//! queue.

use tokio::sync::oneshot;

use super::chain::Head;
use super::codec::Batch;
use super::entry::{Entry, Stamp};
use super::error::LedgerError;
use super::fold::{Effect, effect};
use super::store::{Content, Draft};
use crate::rollout::Event;

/// A batch of this size is handed over without waiting for the flush interval.
const FULL_BATCH: usize = 64 << 10;
/// Entries that may wait.
const MAX_ENTRIES: usize = 4096;

/// How much may wait and how long a journal may get, in bytes.
#[derive(Debug, Clone, Copy)]
pub(super) struct Bounds {
    pub(super) journal: u64,
    pub(super) backlog: usize,
}

type Sender = oneshot::Sender<Result<Head, LedgerError>>;

/// Rows for one transaction, and the callers that wait for them.
#[derive(Debug, Default)]
pub(super) struct Work {
    pub(super) drafts: Vec<Draft>,
    pub(super) tickets: Vec<Sender>,
    /// Bytes of journal among the drafts.
    bytes: usize,
    entries: usize,
}

#[derive(Debug)]
pub(super) struct OpenJournal {
    rollout: String,
    batch: Batch,
    /// Time of the batch's last event.
    at_unix_ms: i64,
    /// Bytes in earlier batches.
    bytes: u64,
    /// Promoted: only an order that undoes the promotion still matters.
    settled: bool,
}

impl OpenJournal {
    /// The journal of `rollout` from event `next` on, after `bytes` bytes.
    pub(super) fn new(rollout: &str, next: u64, bytes: u64, settled: bool) -> OpenJournal {
        let rollout = rollout.to_owned();
        OpenJournal { rollout, batch: Batch::new(next), at_unix_ms: 0, bytes, settled }
    }
}

/// The buffer between the recording threads and the writer.
#[derive(Debug)]
pub(super) struct Queue {
    bounds: Bounds,
    journal: Option<OpenJournal>,
    /// The rollout that entries belong to, whether or not its journal is still open.
    rollout: String,
    work: Work,
    pub(super) closing: bool,
}

impl Queue {
    /// An empty queue, with the journal and the id of a rollout that continues.
    pub(super) fn new(bounds: Bounds, journal: Option<OpenJournal>) -> Queue {
        let rollout = journal.as_ref().map(|one| one.rollout.clone()).unwrap_or_default();
        Queue { bounds, journal, rollout, work: Work::default(), closing: false }
    }

    /// Whether the writer should not wait for the flush interval.
    pub(super) fn urgent(&self) -> bool {
        self.closing || !self.work.drafts.is_empty()
    }

    pub(super) fn is_empty(&self) -> bool {
        let open = self.journal.as_ref().is_some_and(|journal| !journal.batch.is_empty());
        self.work.drafts.is_empty() && !open
    }

    pub(super) fn take(&mut self) -> Work {
        self.seal();
        std::mem::take(&mut self.work)
    }

    /// Adds an event to the open journal, if there is one. Returns whether a batch is full.
    pub(super) fn record(&mut self, at: Stamp, event: &Event) -> bool {
        match &self.journal {
            Some(journal) if !journal.settled => self.add(at, event),
            _ => false,
        }
    }

    fn add(&mut self, at: Stamp, event: &Event) -> bool {
        let Some(journal) = &mut self.journal else { return false };
        journal.batch.push(at.rollout, event);
        journal.at_unix_ms = at.unix_ms;
        if journal.batch.len() < FULL_BATCH {
            return false;
        }
        self.seal();
        true
    }

    /// Adds an event and the entries that followed from it; returns how many entries had to be refused.
    pub(super) fn commit(
        &mut self,
        at: Stamp,
        event: Option<&Event>,
        entries: Vec<Entry>,
        ticket: Sender,
    ) -> u64 {
        let count = entries.len();
        if self.work.entries + count > MAX_ENTRIES {
            // Without these entries, the journal would lead to decisions that are not in the ledger.
            self.end_journal("too many entries were waiting to be written", at.unix_ms);
            let why = "too many entries are waiting for the disk".to_owned();
            let _ = ticket.send(Err(LedgerError::NotWritten { why }));
            return count as u64;
        }
        let opening = |entry: &Entry| matches!(entry, Entry::RolloutOpened(_));
        let first = entries.iter().rposition(opening).map_or(0, |at| at + 1);
        let mut entries = entries.into_iter();
        for entry in entries.by_ref().take(first) {
            self.entry(at, entry);
        }
        if let Some(event) = event {
            self.add(at, event);
        }
        self.seal();
        for entry in entries {
            self.entry(at, entry);
        }
        self.work.tickets.push(ticket);
        0
    }

    fn entry(&mut self, at: Stamp, entry: Entry) {
        if let Entry::RolloutOpened(opening) = &entry {
            self.seal();
            self.journal = Some(OpenJournal::new(&opening.rollout, 0, 0, false));
            self.rollout.clone_from(&opening.rollout);
        }
        let effect = match &entry {
            Entry::Decision(decision) => effect(decision.kind),
            Entry::RolloutAbandoned { .. } => Effect::Over,
            _ => Effect::GoesOn,
        };
        self.push(at.unix_ms, entry);
        match effect {
            Effect::GoesOn => {}
            Effect::Promoted => {
                if let Some(journal) = &mut self.journal {
                    journal.settled = true;
                }
            }
            Effect::RolledBack | Effect::Undone | Effect::Over => {
                self.journal = None;
                self.rollout.clear();
            }
        }
    }

    fn push(&mut self, at_unix_ms: i64, entry: Entry) {
        let (rollout, content) = (self.rollout.clone(), Content::Entry(entry));
        self.work.drafts.push(Draft { at_unix_ms, rollout, content });
        self.work.entries += 1;
    }

    /// Makes a row of the events collected so far, and ends the journal when it exceeds a limit.
    fn seal(&mut self) {
        let Some(journal) = &mut self.journal else { return };
        if journal.batch.is_empty() {
            return;
        }
        let (at_unix_ms, rollout) = (journal.at_unix_ms, journal.rollout.clone());
        let fresh = Batch::new(journal.batch.next());
        let bytes = std::mem::replace(&mut journal.batch, fresh).into_bytes();
        journal.bytes += bytes.len() as u64;
        self.work.bytes += bytes.len();
        let long = journal.bytes >= self.bounds.journal;
        self.work.drafts.push(Draft { at_unix_ms, rollout, content: Content::Journal(bytes) });
        if long {
            self.end_journal("the rollout's journal has reached its size limit", at_unix_ms);
        } else if self.work.bytes >= self.bounds.backlog {
            self.end_journal("too many events were waiting for the disk", at_unix_ms);
        }
    }

    fn end_journal(&mut self, why: &str, at_unix_ms: i64) {
        let Some(journal) = self.journal.take() else { return };
        let events = journal.batch.next() - journal.batch.count();
        tracing::warn!(rollout = %journal.rollout, events, "journal ended, a replay ends here: {why}");
        self.push(at_unix_ms, Entry::JournalEnded { why: why.to_owned(), events });
    }
}
