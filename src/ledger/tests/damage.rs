//! Changes made to the file behind the ledger's back are found, at the right row.

use super::*;

/// Writes a ledger, changes it, and returns where the verification stops.
fn found(change: impl FnOnce(&std::path::Path)) -> (Head, Option<Problem>) {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("ledger.db");
    let head = written(&path);
    assert_intact(&path);
    change(&path);
    (head, verified(&path).problem)
}

#[track_caller]
fn assert_found(seq: u64, sql: &str) {
    let (_, problem) = found(|path| tamper(path, sql));
    let problem = problem.expect("it is found");
    assert_eq!(problem.seq, seq, "{sql}: {}", problem.what);
}

#[test]
fn edits_are_found() {
    assert_found(2, "UPDATE ledger SET body = replace(body, '1.5', '9.5') WHERE seq = 2");
    assert_found(3, "UPDATE ledger SET body = body || x'00' WHERE seq = 3");
    assert_found(4, "UPDATE ledger SET at_unix_ms = at_unix_ms + 1 WHERE seq = 4");
    assert_found(4, "UPDATE ledger SET rollout = 'r9' WHERE seq = 4");
    assert_found(4, "UPDATE ledger SET kind = 'fault' WHERE seq = 4");
    assert_found(5, "UPDATE ledger SET hash = zeroblob(32) WHERE seq = 5");
    assert_found(2, "UPDATE ledger SET body = CAST(body AS BLOB) WHERE seq = 2");
}

#[test]
fn what_is_missing_or_moved_is_found() {
    assert_found(4, "DELETE FROM ledger WHERE seq = 3");
    assert_found(2, "DELETE FROM ledger WHERE seq = 1");
    assert_found(
        3,
        "UPDATE ledger SET seq = -3 WHERE seq = 3; UPDATE ledger SET seq = 3 WHERE seq = 4;
         UPDATE ledger SET seq = 4 WHERE seq = -3",
    );
    // The last row but one takes the last one's number.
    assert_found(
        3,
        "DELETE FROM ledger WHERE seq = 3; UPDATE ledger SET seq = seq - 1 WHERE seq = 4",
    );
}

#[test]
fn a_missing_row_is_called_missing() {
    let (_, problem) = found(|path| tamper(path, "DELETE FROM ledger WHERE seq IN (3, 4)"));
    let what = problem.expect("it is found").what;
    assert!(what.contains("rows 3 to 4 are missing"), "{what}");
}

#[test]
fn a_cut_tail_is_found() {
    let cut = "DELETE FROM ledger WHERE seq > (SELECT max(seq) - 2 FROM ledger)";
    let (head, problem) = found(|path| tamper(path, cut));
    let problem = problem.expect("it is found");
    assert_eq!(problem.seq, head.seq - 2, "{}", problem.what);
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("ledger.db");
    written(&path);
    tamper(&path, cut);
    let refused = Ledger::open(&path, options(), at(9), "test", "v1").expect_err("it is damaged");
    assert!(matches!(refused, LedgerError::Damaged { .. }), "{refused}");
}

#[test]
fn a_cut_tail_with_a_matching_head_is_found_by_a_head_kept_elsewhere() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("ledger.db");
    let head = written(&path);
    let reader = Reader::open(&path).expect("it opens");
    assert_eq!(reader.verify(Some(&head)).expect("reads").problem, None);
    // Delete the last row, a pause, which left no trace in the state.
    tamper(&path, "DELETE FROM ledger WHERE seq = (SELECT max(seq) FROM ledger)");
    let conn = rusqlite::Connection::open(&path).expect("it opens");
    let query = "SELECT seq, hash FROM ledger ORDER BY seq DESC LIMIT 1";
    let last: (i64, Hash) =
        conn.query_row(query, [], |row| Ok((row.get(0)?, row.get(1)?))).expect("a row");
    let forged = serde_json::to_string(&Head { seq: last.0 as u64, hash: last.1 }).expect("JSON");
    conn.execute("UPDATE meta SET value = ?1 WHERE key = 'head'", [forged]).expect("runs");
    assert_eq!(reader.verify(None).expect("reads").problem, None, "the documented limit");
    let problem = reader.verify(Some(&head)).expect("reads").problem.expect("it is found");
    assert!(problem.what.contains("is missing"), "{}", problem.what);
    let other = Head { seq: 3, hash: head.hash };
    let problem = reader.verify(Some(&other)).expect("reads").problem.expect("it is found");
    assert_eq!(problem.seq, 3, "{}", problem.what);
}

#[test]
fn a_forged_state_is_found() {
    let forge = "UPDATE meta SET value = replace(value, 'digest-of-r1', 'digest-of-rx')
        WHERE key = 'state'";
    let (head, problem) = found(|path| tamper(path, forge));
    assert_eq!(problem.expect("it is found").seq, head.seq);
}

#[test]
fn other_files_are_refused_and_left_alone() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("notes.txt");
    let text = "not a database, but long enough to be read as the header of one. ".repeat(20);
    std::fs::write(&path, &text).expect("written");
    let refused = Ledger::open(&path, options(), at(0), "test", "v1").expect_err("it is text");
    assert!(matches!(refused, LedgerError::NotALedger { .. }), "{refused}");
    assert_eq!(std::fs::read_to_string(&path).expect("reads"), text);

    let path = dir.path().join("other.db");
    tamper(&path, "CREATE TABLE other (x); INSERT INTO other VALUES (1)");
    let refused = Ledger::open(&path, options(), at(0), "test", "v1").expect_err("another's");
    assert!(refused.to_string().contains("another program"), "{refused}");

    let path = dir.path().join("newer.db");
    written(&path);
    tamper(&path, "PRAGMA user_version = 2; UPDATE meta SET value = value");
    for refused in [
        Ledger::open(&path, options(), at(0), "test", "v1").map(drop).expect_err("newer"),
        Reader::open(&path).map(drop).expect_err("newer"),
    ] {
        assert!(refused.to_string().contains("newer serin"), "{refused}");
        assert!(refused.to_string().contains("newer.db"), "{refused}");
    }
}

#[test]
fn places_that_cannot_be_written_are_named() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("none").join("ledger.db");
    let refused = Ledger::open(&path, options(), at(0), "test", "v1").expect_err("no directory");
    assert!(matches!(refused, LedgerError::CannotWrite { .. }), "{refused}");
    assert!(refused.to_string().contains("none/ledger.db"), "{refused}");
    let refused = Reader::open(&path).expect_err("nothing there");
    assert!(matches!(refused, LedgerError::Missing { .. }), "{refused}");
}

#[test]
fn two_servers_cannot_share_a_ledger() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("ledger.db");
    let (first, _) = open(&path);
    let refused = Ledger::open(&path, options(), at(0), "test", "v1").expect_err("in use");
    let pid = std::process::id().to_string();
    assert!(matches!(&refused, LedgerError::InUse { holder: Some(by), .. } if *by == pid));
    assert!(refused.to_string().contains(&pid), "{refused}");
    first.reader().expect("readers are welcome").verify(None).expect("it reads");
    drop(first);
    drop(open(&path));
}
