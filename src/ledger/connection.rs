//! The SQLite file: opening it to write or to read, its one table, and what marks it as a ledger.

use std::path::Path;
use std::time::Duration;

use rusqlite::{Connection, OpenFlags};

use super::error::LedgerError;

/// Marks the file as a ledger, in SQLite's header: "SERN".
const APPLICATION_ID: i64 = 0x5345_524e;
/// The schema that this build writes.
const SCHEMA: i64 = 1;

const CREATE: &str = "
    CREATE TABLE ledger (
        seq INTEGER PRIMARY KEY,
        at_unix_ms INTEGER NOT NULL,
        kind TEXT NOT NULL,
        rollout TEXT NOT NULL,
        hash BLOB NOT NULL,
        body BLOB NOT NULL
    );
    CREATE INDEX entries ON ledger (seq, kind) WHERE kind <> 'journal';
    CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;";

/// Opens the file for writing, and creates the tables if it is new.
pub(super) fn connect(path: &Path) -> Result<Connection, LedgerError> {
    let sqlite = |error| LedgerError::sqlite(path, error);
    let mut conn = Connection::open(path).map_err(sqlite)?;
    conn.busy_timeout(Duration::from_secs(2)).map_err(sqlite)?;
    let tables: i64 = conn
        .query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0))
        .map_err(sqlite)?;
    if tables == 0 {
        // Both take effect only before the first table is created.
        conn.pragma_update(None, "auto_vacuum", "INCREMENTAL").map_err(sqlite)?;
        conn.pragma_update(None, "journal_mode", "WAL").map_err(sqlite)?;
        create(&mut conn).map_err(sqlite)?;
    }
    check_kind(&conn, path)?;
    if conn.is_readonly("main").map_err(sqlite)? {
        let why = "the file is read-only".to_owned();
        return Err(LedgerError::CannotWrite { path: path.to_owned(), why });
    }
    conn.pragma_update(None, "journal_mode", "WAL").map_err(sqlite)?;
    conn.pragma_update(None, "synchronous", "FULL").map_err(sqlite)?;
    conn.pragma_update(None, "journal_size_limit", 16 << 20).map_err(sqlite)?;
    // In KiB. Rows are appended and rarely read again.
    conn.pragma_update(None, "cache_size", -512).map_err(sqlite)?;
    Ok(conn)
}

fn create(conn: &mut Connection) -> rusqlite::Result<()> {
    let transaction = conn.transaction()?;
    transaction.execute_batch(CREATE)?;
    transaction.pragma_update(None, "application_id", APPLICATION_ID)?;
    transaction.pragma_update(None, "user_version", SCHEMA)?;
    transaction.commit()
}

/// Refuses files of other programs and of newer builds.
fn check_kind(conn: &Connection, path: &Path) -> Result<(), LedgerError> {
    let sqlite = |error| LedgerError::sqlite(path, error);
    let pragma = |name: &str| conn.pragma_query_value(None, name, |row| row.get::<_, i64>(0));
    let path = path.to_owned();
    if pragma("application_id").map_err(sqlite)? != APPLICATION_ID {
        let why = "it is the SQLite file of another program".to_owned();
        return Err(LedgerError::NotALedger { path, why });
    }
    match pragma("user_version").map_err(sqlite)? {
        SCHEMA => Ok(()),
        found if found > SCHEMA => Err(LedgerError::NewerSchema { path, found, known: SCHEMA }),
        found => Err(LedgerError::Damaged { path, why: format!("its schema is {found}") }),
    }
}

pub(super) fn connect_to_read(path: &Path) -> Result<Connection, LedgerError> {
    let sqlite = |error| LedgerError::sqlite(path, error);
    if !path.exists() {
        return Err(LedgerError::Missing { path: path.to_owned() });
    }
    let conn = Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_ONLY);
    let conn = conn.map_err(sqlite)?;
    conn.busy_timeout(Duration::from_secs(2)).map_err(sqlite)?;
    check_kind(&conn, path)?;
    Ok(conn)
}
