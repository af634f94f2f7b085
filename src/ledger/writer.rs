//! The writer: one thread that owns the file, and the handle through which all other threads use it.
//!
//! Recording an event pushes it to a buffer under a lock. The buffer is written every quarter of a second, or
//! at once with the next commit, each time in one transaction and in the order in which events were recorded.
//! It does not know an async runtime; a [`Ticket`] can be awaited or blocked on. It reads no clock: rows
//! carry the times that they are passed in with.
//!
//! A commit includes the event that led to it, because the journal must never be ahead of the decisions. If a
//! replay saw the tick that raised the weight, but no committed raise, it would resume above the last
//! committed weight.
//!
//! A failed write is retried with the same rows until it succeeds. [`Health`] reports the failure and tickets
//! stay open meanwhile, so that a raise waits for a working disk. The backlog is bounded: at the limit, first
//! the journal ends, and then entries are refused and counted.

use std::future::Future;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::thread::JoinHandle;
use std::time::Duration;

use parking_lot::{Condvar, Mutex};
use tokio::sync::{oneshot, watch};

use super::chain::Head;
use super::entry::{Entry, Stamp};
use super::error::LedgerError;
use super::prune::{Retention, prune};
use super::queue::{Bounds, Queue, Work};
use super::read::Reader;
use super::resume::{Resume, resume};
use super::store::Store;
use crate::rollout::Event;

/// Settings of the ledger.
#[derive(Debug, Clone)]
pub struct Options {
    /// Events reach the disk at least this often.
    pub flush_every: Duration,
    /// A failed write is retried after this time.
    pub retry_after: Duration,
    /// What is kept.
    pub retention: Retention,
    /// Maximum bytes of journal per rollout; beyond it, the journal ends.
    pub max_journal: u64,
    /// Maximum bytes that may wait in memory while the disk does not accept writes.
    pub max_backlog: usize,
    /// Maximum pages of the file, to simulate a full disk; 0 for no limit.
    #[cfg(test)]
    pub(super) most_pages: Arc<std::sync::atomic::AtomicU32>,
}

impl Default for Options {
    fn default() -> Options {
        Options {
            flush_every: Duration::from_millis(250),
            retry_after: Duration::from_secs(1),
            retention: Retention::default(),
            max_journal: 128 << 20,
            max_backlog: 16 << 20,
            #[cfg(test)]
            most_pages: Arc::default(),
        }
    }
}

impl Options {
    /// The defaults, with this retention.
    pub fn keeping(retention: Retention) -> Options {
        Options { retention, ..Options::default() }
    }
}

/// Whether the data reaches the disk.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Health {
    /// Why the last write failed, with the remedy; `None` if it succeeded.
    pub failing: Option<String>,
    /// Entries that were refused because the backlog was full.
    pub lost: u64,
}

/// The durable, append-only record of a server. Dropping it writes what is still pending.
#[derive(Debug)]
pub struct Ledger {
    path: PathBuf,
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug)]
struct Shared {
    queue: Mutex<Queue>,
    wake: Condvar,
    health: watch::Sender<Health>,
}

impl Ledger {
    /// Opens the ledger at `path`, creates it if there is none, and returns the state at the last stop.
    ///
    /// It replays the journal of a rollout that was running, so it takes time in proportion to the journal's
    /// length. If the rollout can continue, its journal continues too. Fails if the file cannot be opened or created,
    /// belongs to something else or to another process, or is damaged.
    pub fn open(
        path: &Path,
        options: Options,
        at: Stamp,
        version: &str,
        configured: &str,
    ) -> Result<(Ledger, Resume), LedgerError> {
        let store = Store::open(path)?;
        let resume = resume(&store)?;
        let bounds = Bounds { journal: options.max_journal, backlog: options.max_backlog };
        let queue = Queue::new(bounds, resume.journal());
        let (health, _) = watch::channel(Health::default());
        let shared = Arc::new(Shared { queue: Mutex::new(queue), wake: Condvar::new(), health });
        let worker = Worker { store, shared: shared.clone(), options };
        let thread = std::thread::Builder::new()
            .name("serin-ledger".to_owned())
            .spawn(move || worker.run())
            .map_err(|error| LedgerError::io(path, &error))?;
        let ledger = Ledger { path: path.to_owned(), shared, thread: Some(thread) };
        let (version, configured) = (version.to_owned(), configured.to_owned());
        drop(ledger.commit(at, None, vec![Entry::ServerStarted { version, configured }]));
        Ok((ledger, resume))
    }

    /// Records an event that the rollout processed and that led to no entry. Idle ticks need not be recorded,
    /// because they change nothing. Does nothing unless a rollout's journal is open.
    pub fn record(&self, at: Stamp, event: &Event) {
        let full = self.shared.queue.lock().record(at, event);
        if full {
            self.shared.wake.notify_one();
        }
    }

    /// Writes entries in one transaction, together with the event that led to them and everything recorded
    /// before. The ticket resolves when the transaction is on disk.
    ///
    /// [`Entry::RolloutOpened`] opens the rollout's journal, with `event` as its first; a decision that ends
    /// the rollout closes it.
    pub fn commit(&self, at: Stamp, event: Option<&Event>, entries: Vec<Entry>) -> Ticket {
        let (sender, receiver) = oneshot::channel();
        let refused = self.shared.queue.lock().commit(at, event, entries, sender);
        if refused > 0 {
            self.shared.health.send_modify(|health| health.lost += refused);
        }
        self.shared.wake.notify_one();
        Ticket(receiver)
    }

    /// Whether the data reaches the disk.
    pub fn health(&self) -> Health {
        let mut health = self.shared.health.borrow().clone();
        if self.thread.as_ref().is_none_or(JoinHandle::is_finished) {
            health.failing = Some("the ledger's writer has stopped; restart the server".to_owned());
        }
        health
    }

    /// Notifies when the health changes.
    pub fn watch(&self) -> watch::Receiver<Health> {
        self.shared.health.subscribe()
    }

    /// The same ledger, opened for reading. Fails as [`Reader::open`] does.
    pub fn reader(&self) -> Result<Reader, LedgerError> {
        Reader::open(&self.path)
    }

    /// The path of the file.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Ledger {
    fn drop(&mut self) {
        self.shared.queue.lock().closing = true;
        self.shared.wake.notify_one();
        if let Some(thread) = self.thread.take() {
            // A panic there has already been reported by the panic hook.
            let _ = thread.join();
        }
    }
}

/// A pending commit. Awaiting it takes as long as the disk takes; dropping it cancels nothing.
#[derive(Debug)]
#[must_use = "a decision is only durable when its ticket says so"]
pub struct Ticket(oneshot::Receiver<Result<Head, LedgerError>>);

impl Ticket {
    /// Blocks until it is done. Must not be called from async code: await it there. Fails if it could not be written,
    /// or if the ledger has been closed.
    pub fn wait(self) -> Result<Head, LedgerError> {
        self.0.blocking_recv().unwrap_or_else(|_| Err(gone()))
    }

    /// The result, if it is available.
    #[cfg(test)]
    pub(super) fn answer(&mut self) -> Option<Result<Head, LedgerError>> {
        self.0.try_recv().ok()
    }
}

impl Future for Ticket {
    type Output = Result<Head, LedgerError>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        Pin::new(&mut self.0).poll(context).map(|answer| answer.unwrap_or_else(|_| Err(gone())))
    }
}

fn gone() -> LedgerError {
    LedgerError::NotWritten { why: "the ledger was closed before it could be written".to_owned() }
}

struct Worker {
    store: Store,
    shared: Arc<Shared>,
    options: Options,
}

impl Worker {
    fn run(mut self) {
        loop {
            let (work, closing) = self.next();
            if !work.drafts.is_empty() && !self.write(work) {
                return;
            }
            if closing && self.shared.queue.lock().is_empty() {
                return;
            }
        }
    }

    /// Waits until there is a commit or a full batch, or until it is time to flush.
    fn next(&self) -> (Work, bool) {
        let mut queue = self.shared.queue.lock();
        if !queue.urgent() {
            let _ = self.shared.wake.wait_for(&mut queue, self.options.flush_every);
        }
        (queue.take(), queue.closing)
    }

    /// Writes the rows, retrying until it succeeds; `false` if the ledger closes before that.
    fn write(&mut self, work: Work) -> bool {
        let before = self.rollout();
        loop {
            #[cfg(test)]
            self.limit_pages();
            match self.store.append(&work.drafts) {
                Ok(head) => {
                    self.publish_health(None);
                    for ticket in work.tickets {
                        let _ = ticket.send(Ok(head));
                    }
                    break;
                }
                Err(error) => self.publish_health(Some(error.to_string())),
            }
            let mut queue = self.shared.queue.lock();
            if queue.closing {
                return false;
            }
            let _ = self.shared.wake.wait_for(&mut queue, self.options.retry_after);
        }
        if before != self.rollout()
            && let Some(last) = work.drafts.last()
            && let Err(error) = prune(&mut self.store, &self.options.retention, last.at_unix_ms)
        {
            tracing::warn!(%error, "the ledger could not be pruned; retrying at the next rollout");
        }
        true
    }

    #[cfg(test)]
    fn limit_pages(&self) {
        let pages = self.options.most_pages.load(std::sync::atomic::Ordering::Relaxed);
        let pages = if pages == 0 { i64::from(u32::MAX) - 1 } else { i64::from(pages) };
        // SQLite never sets the limit below the current size of the file.
        let set = format!("PRAGMA max_page_count = {pages}");
        self.store.conn.query_row(&set, [], |_| Ok(())).expect("the pragma is known");
    }

    fn rollout(&self) -> Option<u64> {
        let state = &self.store.state;
        state.running.as_ref().or(state.promoted.as_ref()).map(|running| running.opened)
    }

    /// Publishes the result of the last write; a change is logged once.
    fn publish_health(&self, failing: Option<String>) {
        self.shared.health.send_if_modified(|health| {
            if health.failing == failing {
                return false;
            }
            match &failing {
                Some(why) => {
                    tracing::error!(alert = true, "the ledger is not being written: {why}")
                }
                None => tracing::info!("the ledger is being written again"),
            }
            health.failing = failing;
            true
        });
    }
}
