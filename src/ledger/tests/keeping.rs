//! Old rollouts are deleted, the newest and what must not be forgotten stay, and the chain stays valid.

use super::*;
use crate::rollout::Operator;

fn rollouts(path: &std::path::Path, retention: Retention, ids: std::ops::Range<u32>, count: u64) {
    let options = Options { retention, ..options() };
    let (ledger, _) = Ledger::open(path, options, at(0), "test", "v1").expect("it opens");
    let mut served = Served::patient();
    for number in ids {
        drop(served.start(&ledger, &format!("r{number}")));
        let _ = served.traffic(&ledger, count);
        let ended = served.order(&ledger, Operator::Rollback).expect("a decision");
        ended.wait().expect("durable");
    }
    served.start(&ledger, "last").wait().expect("durable");
    let _ = served.traffic(&ledger, count);
}

#[test]
fn the_oldest_rollouts_go_by_number() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("ledger.db");
    let retention = Retention { keep_rollouts: 3, ..Retention::default() };
    rollouts(&path, retention, 0..8, 60);
    let reader = Reader::open(&path).expect("it opens");
    let verification = reader.verify(None).expect("reads");
    assert_eq!(verification.problem, None);
    assert!(verification.pruned > 10, "{verification:?}");
    let ids: Vec<String> =
        reader.rollouts().expect("reads").into_iter().map(|one| one.opening.rollout).collect();
    assert_eq!(ids, ["r5", "r6", "r7", "last"]);
    assert_eq!(reader.state().expect("reads").rejected.len(), 8, "of forgotten rollouts too");
    for id in ids {
        let recorded = reader.rollout(&id).expect("there");
        let (replayed, comparison) = reader.replay(&recorded).expect("reads");
        assert_eq!(comparison.difference, None);
        assert!(replayed.events > 60);
    }
    drop(reader);
    // Prune once more what is already pruned.
    let retention = Retention { keep_rollouts: 1, ..Retention::default() };
    rollouts_after(&path, retention);
}

/// Ends the running rollout and runs two more.
fn rollouts_after(path: &std::path::Path, retention: Retention) {
    let (ledger, _) = open(path);
    let entry = Entry::RolloutAbandoned { why: "test".to_owned() };
    ledger.commit(at(1), None, vec![entry]).wait().expect("durable");
    drop(ledger);
    rollouts(path, retention, 8..10, 30);
    assert_intact(path);
    let state = Reader::open(path).expect("opens").state().expect("reads");
    assert_eq!(state.rejected.len(), 10);
}

#[test]
fn journals_go_before_decisions_when_the_file_is_large() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("ledger.db");
    let max_bytes = 600 << 10;
    rollouts(&path, Retention { max_bytes, keep_rollouts: 50 }, 0..12, 4000);
    assert_intact(&path);
    let reader = Reader::open(&path).expect("it opens");
    let found = reader.rollouts().expect("reads");
    assert_eq!(found.len(), 13, "every rollout's entries are there");
    let journals: Vec<bool> =
        found.iter().map(|one| reader.journal(one).next().is_some()).collect();
    assert!(!journals[0] && !journals[5], "{journals:?}");
    assert!(journals[12], "the running one's stays");
    let kept = journals.iter().position(|kept| *kept).expect("the last");
    assert!(journals[kept..].iter().all(|kept| *kept), "the oldest go first: {journals:?}");
    assert!(found.iter().all(|one| one.decisions.len() >= 2 || one.opening.rollout == "last"));
    let size = std::fs::metadata(&path).expect("it is there").len();
    assert!(size < 2 * max_bytes, "the file shrinks: {size}");
}

#[test]
fn a_bound_that_cannot_be_met_drops_all_but_the_running_one() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("ledger.db");
    rollouts(&path, Retention { max_bytes: 1, keep_rollouts: 50 }, 0..4, 100);
    assert_intact(&path);
    let reader = Reader::open(&path).expect("it opens");
    let ids: Vec<String> =
        reader.rollouts().expect("reads").into_iter().map(|one| one.opening.rollout).collect();
    assert_eq!(ids, ["last"]);
    drop(reader);
    assert!(open(&path).1.interrupted.expect("it runs").machine.is_ok());
}

#[test]
fn a_gap_that_nobody_announced_is_found() {
    for (number, sql) in [
        // A row between pruned ranges and one in the kept part.
        "DELETE FROM ledger WHERE seq = (SELECT min(seq) FROM ledger)",
        "DELETE FROM ledger WHERE seq = (SELECT max(seq) FROM ledger WHERE kind = 'pruned')",
        "UPDATE ledger SET body = replace(body, '\"last\":', '\"last\":1') WHERE kind = 'pruned'",
        "UPDATE ledger SET body = replace(body, 'digest-of-r0', 'digest-of-rx')
            WHERE kind = 'pruned'",
    ]
    .into_iter()
    .enumerate()
    {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("ledger.db");
        rollouts(&path, Retention { keep_rollouts: 2, ..Retention::default() }, 0..5, 40);
        assert_intact(&path);
        tamper(&path, sql);
        assert!(verified(&path).problem.is_some(), "change {number}");
    }
}
