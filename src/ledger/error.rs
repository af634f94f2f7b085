//! What can go wrong with a ledger; the messages name the file and the remedy.
//!
//! Only this file knows SQLite's result codes. It is one enum with whole sentences because most of these
//! errors reach an operator whose server did not start, and who has nothing but the text.

use std::io;
use std::path::{Path, PathBuf};

use rusqlite::ErrorCode;

/// Why the ledger could not be opened, read or written.
#[derive(Debug, thiserror::Error)]
pub enum LedgerError {
    /// The file belongs to something else.
    #[error(
        "{} is not a serin ledger ({why}): give another path; serin will not touch this file",
        path.display()
    )]
    NotALedger {
        /// The file.
        path: PathBuf,
        /// How this was detected.
        why: String,
    },
    /// A newer serin wrote it.
    #[error(
        "{} was written by a newer serin (its schema is {found}, this build knows {known}): \
         start a newer serin, or give a new path to begin a new ledger",
        path.display()
    )]
    NewerSchema {
        /// The file.
        path: PathBuf,
        /// Its schema.
        found: i64,
        /// The newest schema that this build reads.
        known: i64,
    },
    /// Another process has it open for writing.
    #[error(
        "{} is in use by another serin{}: stop that one, or give each server a ledger of its own",
        path.display(), holder.as_ref().map(|pid| format!(" (process {pid})")).unwrap_or_default()
    )]
    InUse {
        /// The ledger.
        path: PathBuf,
        /// The other's process id, if it is known.
        holder: Option<String>,
    },
    /// The place cannot be written to.
    #[error(
        "cannot write {}: {why}; the ledger needs a directory on a local disk that this user may \
         write to",
        path.display()
    )]
    CannotWrite {
        /// The file.
        path: PathBuf,
        /// The operating system's reason.
        why: String,
    },
    /// There is no ledger there.
    #[error("there is no ledger at {}: check the path", path.display())]
    Missing {
        /// The file.
        path: PathBuf,
    },
    /// The disk is full.
    #[error(
        "the disk that holds {} is full: free some space; what a running server has not written yet \
         is kept in memory and written then",
        path.display()
    )]
    DiskFull {
        /// The ledger.
        path: PathBuf,
    },
    /// The file is damaged or was altered.
    #[error(
        "{} is damaged: {why}; keep the file for examination, and give a new path to begin a new \
         ledger",
        path.display()
    )]
    Damaged {
        /// The ledger.
        path: PathBuf,
        /// What was found.
        why: String,
    },
    /// SQLite failed in some other way.
    #[error("{}: {source}", path.display())]
    Sqlite {
        /// The ledger.
        path: PathBuf,
        /// SQLite's own message.
        source: rusqlite::Error,
    },
    /// There is no such rollout in the ledger.
    #[error(
        "{} has no rollout {rollout}: it was pruned, or the id is wrong; list the rollouts to see \
         which there are", path.display()
    )]
    NoRollout {
        /// The ledger.
        path: PathBuf,
        /// The requested id.
        rollout: String,
    },
    /// The export could not be written completely.
    #[error("the export was cut short: {why}")]
    NotExported {
        /// Why.
        why: String,
    },
    /// The commit failed and will not be retried.
    #[error("not written to the ledger: {why}")]
    NotWritten {
        /// Why.
        why: String,
    },
}

impl LedgerError {
    /// An SQLite error about the ledger at `path`, with a better message where there is one.
    pub(super) fn sqlite(path: &Path, source: rusqlite::Error) -> LedgerError {
        let path = path.to_owned();
        match source.sqlite_error_code() {
            Some(ErrorCode::DiskFull) => LedgerError::DiskFull { path },
            Some(ErrorCode::NotADatabase) => {
                LedgerError::NotALedger { path, why: "it is not an SQLite file".into() }
            }
            Some(ErrorCode::DatabaseCorrupt) => {
                LedgerError::Damaged { path, why: source.to_string() }
            }
            Some(ErrorCode::ReadOnly | ErrorCode::CannotOpen | ErrorCode::PermissionDenied) => {
                LedgerError::CannotWrite { path, why: source.to_string() }
            }
            Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => {
                LedgerError::InUse { path, holder: None }
            }
            _ => LedgerError::Sqlite { path, source },
        }
    }

    /// A file system error about a file of the ledger.
    pub(super) fn io(path: &Path, source: &io::Error) -> LedgerError {
        let path = path.to_owned();
        match source.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
                LedgerError::DiskFull { path }
            }
            _ => LedgerError::CannotWrite { path, why: source.to_string() },
        }
    }

    pub(super) fn damaged(path: &Path, why: impl Into<String>) -> LedgerError {
        LedgerError::Damaged { path: path.to_owned(), why: why.into() }
    }
}
