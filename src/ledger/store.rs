//! The file: opening it, and appending rows in whole transactions.
//!
//! It knows SQLite and the single table. It does not know about threads, clocks or when to write. Why SQLite
//! and not a file of lines: transactions that survive a power cut are what it is made for. There is a
//! separate lock file instead of SQLite's exclusive mode, because readers (an export, a verification) must
//! work while the server runs, and a second server must not start.

use std::fs::{File, TryLockError};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};

use rusqlite::{Connection, TransactionBehavior, params};

use super::chain::{Head, JOURNAL, Linked};
use super::connection::connect;
use super::entry::Entry;
use super::error::LedgerError;
use super::read::{View, page_bytes};
use super::state::State;

const INSERT: &str = "INSERT INTO ledger (seq, at_unix_ms, kind, rollout, hash, body)
    VALUES (?1, ?2, ?3, ?4, ?5, ?6)";

const SET_META: &str = "INSERT INTO meta (key, value) VALUES (?1, ?2)
    ON CONFLICT (key) DO UPDATE SET value = excluded.value";

#[derive(Debug, Clone)]
pub(super) struct Draft {
    pub(super) at_unix_ms: i64,
    pub(super) rollout: String,
    pub(super) content: Content,
}

#[derive(Debug, Clone)]
pub(super) enum Content {
    /// A batch of events, encoded.
    Journal(Vec<u8>),
    Entry(Entry),
}

/// The open file, and what is known of its end.
#[derive(Debug)]
pub(super) struct Store {
    pub(super) path: PathBuf,
    pub(super) conn: Connection,
    pub(super) head: Head,
    pub(super) state: State,
    /// The end that a failed transaction would have produced; the transaction may have reached the disk
    /// nevertheless.
    doubtful: Option<(Head, State)>,
    _lock: Lock,
}

impl Store {
    /// Opens the ledger, or creates one if there is none.
    pub(super) fn open(path: &Path) -> Result<Store, LedgerError> {
        let lock = lock(path)?;
        let conn = connect(path)?;
        let view = View { conn: &conn, path };
        let (head, state) = view.end()?;
        view.check_end(&head)?;
        Ok(Store { path: path.to_owned(), conn, head, state, doubtful: None, _lock: lock })
    }

    pub(super) fn view(&self) -> View<'_> {
        View { conn: &self.conn, path: &self.path }
    }

    /// Bytes of the file in use.
    pub(super) fn used(&self) -> Result<u64, LedgerError> {
        page_bytes(&self.conn).map_err(|error| self.sqlite(error))
    }

    /// Appends the rows, all or none, and returns when they are on disk.
    ///
    /// A commit that failed may be durable nevertheless. If the same rows are passed in again, they are found
    /// and not written twice.
    pub(super) fn append(&mut self, drafts: &[Draft]) -> Result<Head, LedgerError> {
        self.transact(drafts, |_| Ok(()))
    }

    /// Like [`Store::append`], but runs `also` first, in the same transaction.
    pub(super) fn transact(
        &mut self,
        drafts: &[Draft],
        also: impl FnOnce(&Connection) -> rusqlite::Result<()>,
    ) -> Result<Head, LedgerError> {
        let rows = drafts.iter().map(columns).collect::<Result<Vec<_>, _>>();
        let rows = rows.map_err(|error| self.sqlite(json(error)))?;
        let linked = link(self.head, drafts, &rows);
        let linked = match self.settle()? {
            true if linked.last().map(|(head, _)| *head) == Some(self.head) => {
                return Ok(self.head);
            }
            true => link(self.head, drafts, &rows),
            false => linked,
        };
        let (head, mut state) = (linked.last().map_or(self.head, |row| row.0), self.state.clone());
        for ((head, row), draft) in linked.iter().zip(drafts) {
            if let Content::Entry(entry) = &draft.content {
                state.apply(head.seq, row.at_unix_ms, entry);
            }
        }
        match write(&mut self.conn, &linked, &head, &state, also) {
            Ok(()) => {
                (self.head, self.state) = (head, state);
                Ok(head)
            }
            Err(error) => {
                self.doubtful = Some((head, state));
                Err(self.sqlite(error))
            }
        }
    }

    /// Whether the last failed transaction, if any, reached the disk.
    fn settle(&mut self) -> Result<bool, LedgerError> {
        let Some((head, state)) = &self.doubtful else { return Ok(false) };
        let durable = self.view().end()?.0 == *head;
        if durable {
            (self.head, self.state) = (*head, state.clone());
        }
        self.doubtful = None;
        Ok(durable)
    }

    fn sqlite(&self, error: rusqlite::Error) -> LedgerError {
        LedgerError::sqlite(&self.path, error)
    }
}

fn columns(draft: &Draft) -> Result<(String, Vec<u8>), serde_json::Error> {
    match &draft.content {
        Content::Journal(bytes) => Ok((JOURNAL.to_owned(), bytes.clone())),
        Content::Entry(entry) => {
            let (kind, body) = entry.to_columns()?;
            Ok((kind, body.into_bytes()))
        }
    }
}

fn link<'a>(
    mut head: Head,
    drafts: &'a [Draft],
    rows: &'a [(String, Vec<u8>)],
) -> Vec<(Head, Linked<'a>)> {
    let linked = rows.iter().zip(drafts).map(|((kind, body), draft)| {
        let Draft { at_unix_ms, rollout, .. } = draft;
        let row = Linked { at_unix_ms: *at_unix_ms, kind, rollout, body };
        head = head.link(&row);
        (head, row)
    });
    linked.collect()
}

fn write(
    conn: &mut Connection,
    rows: &[(Head, Linked<'_>)],
    head: &Head,
    state: &State,
    also: impl FnOnce(&Connection) -> rusqlite::Result<()>,
) -> rusqlite::Result<()> {
    let transaction = conn.transaction_with_behavior(TransactionBehavior::Immediate)?;
    also(&transaction)?;
    {
        let mut insert = transaction.prepare_cached(INSERT)?;
        for (Head { seq, hash }, row) in rows {
            let Linked { at_unix_ms, kind, rollout, body } = row;
            match std::str::from_utf8(body) {
                Ok(text) if *kind != JOURNAL => {
                    insert.execute(params![*seq as i64, at_unix_ms, kind, rollout, hash, text])?;
                }
                _ => {
                    insert.execute(params![*seq as i64, at_unix_ms, kind, rollout, hash, body])?;
                }
            }
        }
        let mut set = transaction.prepare_cached(SET_META)?;
        set.execute(params!["head", serde_json::to_string(head).map_err(json)?])?;
        if rows.iter().any(|(_, row)| row.kind != JOURNAL) {
            set.execute(params!["state", serde_json::to_string(state).map_err(json)?])?;
        }
    }
    transaction.commit()
}

fn json(error: serde_json::Error) -> rusqlite::Error {
    rusqlite::Error::ToSqlConversionFailure(Box::new(error))
}

/// Takes the lock that prevents a second server. It is released when the process ends, in whatever way.
fn lock(path: &Path) -> Result<Lock, LedgerError> {
    let mut name = path.as_os_str().to_owned();
    name.push(".lock");
    let beside = PathBuf::from(name);
    let io = |error: std::io::Error| LedgerError::io(path, &error);
    let mut file = File::options()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .open(&beside)
        .map_err(io)?;
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            let mut holder = String::new();
            let read = file.read_to_string(&mut holder);
            let holder = read.ok().map(|_| holder.trim().to_owned()).filter(|pid| !pid.is_empty());
            return Err(LedgerError::InUse { path: path.to_owned(), holder });
        }
        Err(TryLockError::Error(error)) => return Err(io(error)),
    }
    // The process id only helps to find the holder: a full disk must not keep a server from starting.
    let _ = file.set_len(0).and_then(|()| write!(file, "{}", std::process::id()));
    Ok(Lock(file))
}

#[derive(Debug)]
struct Lock(File);

impl Drop for Lock {
    /// Closing alone is not enough: a process that is being spawned at this moment has a copy of the handle
    /// until it calls exec, and would keep the lock.
    fn drop(&mut self) {
        let _ = self.0.unlock();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn draft(number: i64) -> Draft {
        let entry = Entry::ServerStarted { version: number.to_string(), configured: String::new() };
        Draft { at_unix_ms: number, rollout: String::new(), content: Content::Entry(entry) }
    }

    /// The store after a commit that reached the disk although it reported an error.
    fn doubtful(store: &mut Store, rows: &[Draft]) {
        let before = (store.head, store.state.clone());
        let head = store.append(rows).expect("it is written");
        store.doubtful = Some((head, store.state.clone()));
        (store.head, store.state) = before;
    }

    #[test]
    fn a_commit_in_doubt_is_written_once() {
        let dir = tempfile::tempdir().expect("a directory");
        let mut store = Store::open(&dir.path().join("ledger.db")).expect("it opens");
        store.append(&[draft(1)]).expect("it is written");
        doubtful(&mut store, &[draft(2), draft(3)]);
        let head = store.append(&[draft(2), draft(3)]).expect("it is there");
        assert_eq!(head.seq, 3);
        // Rows other than those in doubt are written after them.
        doubtful(&mut store, &[draft(4)]);
        assert_eq!(store.append(&[draft(5)]).expect("it is written").seq, 5);
        let entries = store.view().entries(0, u64::MAX, 99).expect("it reads");
        let times: Vec<i64> = entries.iter().map(|kept| kept.at_unix_ms).collect();
        assert_eq!(times, [1, 2, 3, 4, 5]);
        store.view().check_end(&store.head).expect("the end is the noted one");
    }

    #[test]
    fn a_commit_that_failed_is_written_when_it_is_tried_again() {
        let dir = tempfile::tempdir().expect("a directory");
        let mut store = Store::open(&dir.path().join("ledger.db")).expect("it opens");
        let rows = [draft(1), draft(2)];
        let failed = store.transact(&rows, |_| Err(rusqlite::Error::InvalidQuery));
        failed.expect_err("nothing was written");
        assert_eq!(store.append(&rows).expect("it is written").seq, 2);
        assert_eq!(store.view().entries(0, u64::MAX, 99).expect("it reads").len(), 2);
    }
}
