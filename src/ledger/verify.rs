//! Verification: whether the file still contains what was written to it.
//!
//! Every row's hash is recomputed, and gaps are accepted only where a pruning in the chain announces them.
//! The entries are folded and compared with the stored state, and the end is compared with the head stored
//! separately from the rows. The result names the first row that cannot be trusted. Verification does not
//! check decisions; that is what a replay is for.

use std::collections::BTreeMap;

use rusqlite::types::ValueRef;

use super::chain::{Hash, Head, JOURNAL, Linked};
use super::entry::{Entry, Gap, Pruned};
use super::error::LedgerError;
use super::read::{Reader, View, unsigned};
use super::state::State;

/// What a verification found.
#[derive(Debug, Clone, PartialEq)]
pub struct Verification {
    /// Number of rows in the file.
    pub rows: u64,
    /// Number of rows that are batches of the journal.
    pub batches: u64,
    /// Number of pruned rows.
    pub pruned: u64,
    /// The end of the chain, as computed from the rows.
    pub head: Head,
    /// The first problem, if any.
    pub problem: Option<Problem>,
}

/// Something that differs from what was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// The row, or the row after which something is missing.
    pub seq: u64,
    /// The problem.
    pub what: String,
}

impl Reader {
    /// Verifies the whole ledger. With `expected`, also checks that the chain contains that head, which was
    /// noted earlier and kept elsewhere. Fails if the ledger cannot be read; what is wrong with its content is in the
    /// result.
    pub fn verify(&self, expected: Option<&Head>) -> Result<Verification, LedgerError> {
        let view = self.view();
        // One read transaction, so that a server that writes at the same time does not disturb it.
        let transaction = view.conn.unchecked_transaction().map_err(|e| view.sqlite(e))?;
        let found = verify(view, expected);
        transaction.finish().map_err(|e| view.sqlite(e))?;
        found
    }
}

fn verify(view: View<'_>, expected: Option<&Head>) -> Result<Verification, LedgerError> {
    let (noted, state) = view.end()?;
    let mut walk = Walk::new(gaps(view)?, expected.copied());
    walk.all(view)?;
    let found = &mut walk.found;
    if found.problem.is_none() {
        found.problem = ending(found.head, noted, &walk.state, &state, walk.expected);
    }
    Ok(walk.found)
}

/// Problems at the end of the chain, when the rows themselves are in order.
fn ending(
    head: Head,
    noted: Head,
    folded: &State,
    state: &State,
    missing: Option<Head>,
) -> Option<Problem> {
    let seq = head.seq;
    let problem = |what: String| Some(Problem { seq, what });
    if head.seq < noted.seq {
        return problem(format!("the rows after it, up to {}, are missing", noted.seq));
    }
    if head != noted {
        return problem(format!("the end was recorded as row {} with another hash", noted.seq));
    }
    if folded != state {
        return problem("the stored state does not match the entries".to_owned());
    }
    let expected = missing?;
    let what = match expected.seq > seq {
        true => format!("row {}, whose hash is known from elsewhere, is missing", expected.seq),
        false => format!("row {} is gone, its hash cannot be compared", expected.seq),
    };
    problem(what)
}

/// All announced gaps by their first row, the longest for each; and the state after the first gap.
fn gaps(view: View<'_>) -> Result<BTreeMap<u64, (Gap, Option<State>)>, LedgerError> {
    let mut gaps: BTreeMap<u64, (Gap, Option<State>)> = BTreeMap::new();
    for kept in view.entries_of_kind("pruned")? {
        let Entry::Pruned(pruned) = kept.entry else { continue };
        let Pruned { gaps: announced, state, .. } = *pruned;
        for gap in announced {
            let longer = gaps.get(&gap.first).is_none_or(|(known, _)| known.last <= gap.last);
            // A gap announces earlier rows, never later ones.
            if longer && gap.last < kept.seq {
                gaps.insert(gap.first, (gap, state.clone().filter(|_| gap.first == 1)));
            }
        }
    }
    Ok(gaps)
}

struct Walk {
    gaps: BTreeMap<u64, (Gap, Option<State>)>,
    state: State,
    /// The externally known head, until its row is reached.
    expected: Option<Head>,
    found: Verification,
}

impl Walk {
    fn new(gaps: BTreeMap<u64, (Gap, Option<State>)>, expected: Option<Head>) -> Walk {
        let found =
            Verification { rows: 0, batches: 0, pruned: 0, head: Head::EMPTY, problem: None };
        Walk { gaps, state: State::default(), expected, found }
    }

    fn all(&mut self, view: View<'_>) -> Result<(), LedgerError> {
        let sqlite = |error| view.sqlite(error);
        let query = "SELECT seq, at_unix_ms, kind, rollout, hash, body FROM ledger ORDER BY seq";
        let mut statement = view.conn.prepare(query).map_err(sqlite)?;
        let mut rows = statement.query([]).map_err(sqlite)?;
        while let Some(row) = rows.next().map_err(sqlite)? {
            let seq = unsigned(row, 0).map_err(sqlite)?;
            if let Err(what) = self.row(seq, row) {
                self.found.problem = Some(Problem { seq, what });
                return Ok(());
            }
        }
        Ok(())
    }

    fn row(&mut self, seq: u64, row: &rusqlite::Row<'_>) -> Result<(), String> {
        self.cross(seq)?;
        let text = |column| row.get::<_, String>(column).map_err(|error| error.to_string());
        let (kind, rollout) = (text(2)?, text(3)?);
        let at_unix_ms: i64 = row.get(1).map_err(|error| error.to_string())?;
        let hash: Hash = row.get(4).map_err(|error| error.to_string())?;
        let body = match (row.get_ref(5).map_err(|error| error.to_string())?, &*kind) {
            (ValueRef::Blob(body), JOURNAL) => body,
            (ValueRef::Text(body), other) if other != JOURNAL => body,
            _ => return Err("its body is of another type than was written".to_owned()),
        };
        let linked = Linked { at_unix_ms, kind: &kind, rollout: &rollout, body };
        let head = self.found.head.link(&linked);
        if head.hash != hash {
            return Err("its content, or its place, is not what was written".to_owned());
        }
        self.found.head = head;
        self.pass()?;
        self.found.rows += 1;
        if kind == JOURNAL {
            self.found.batches += 1;
            return Ok(());
        }
        let body = std::str::from_utf8(body).map_err(|error| error.to_string())?;
        let entry = Entry::from_columns(&kind, body).map_err(|error| error.to_string())?;
        self.state.apply(seq, at_unix_ms, &entry);
        Ok(())
    }

    /// Crosses announced gaps up to the row before `seq`.
    fn cross(&mut self, seq: u64) -> Result<(), String> {
        let due = self.found.head.seq + 1;
        if due == seq {
            return Ok(());
        }
        let Some((gap, state)) = self.gaps.get(&due) else {
            return Err(format!("rows {due} to {} are missing", seq - 1));
        };
        if gap.last >= seq {
            return Err(format!("rows {due} to {} were pruned, yet this one is here", gap.last));
        }
        self.found.pruned += gap.last - gap.first + 1;
        self.found.head = Head { seq: gap.last, hash: gap.hash };
        if let Some(state) = state {
            self.state = state.clone();
        }
        self.pass()?;
        self.cross(seq)
    }

    /// Compares with the externally known head when its row is reached.
    fn pass(&mut self) -> Result<(), String> {
        match self.expected {
            Some(expected) if expected.seq == self.found.head.seq => {
                self.expected = None;
                match expected == self.found.head {
                    true => Ok(()),
                    false => Err("its hash is not the one known from elsewhere".to_owned()),
                }
            }
            _ => Ok(()),
        }
    }
}
