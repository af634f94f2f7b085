//! A full disk: serving continues, nothing is lost or written twice, and the failure is reported.

use std::sync::atomic::Ordering;

use super::*;
use crate::rollout::Operator;

fn until(ledger: &Ledger, what: impl Fn(&Health) -> bool) -> Health {
    for _ in 0..10_000 {
        let health = ledger.health();
        if what(&health) {
            return health;
        }
        std::thread::sleep(Duration::from_millis(2));
    }
    panic!("{:?}", ledger.health());
}

#[test]
fn a_full_disk_shows_and_passes() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("ledger.db");
    let options = options();
    let pages = options.most_pages.clone();
    let (ledger, _) = Ledger::open(&path, options, at(0), "test", "v1").expect("it opens");
    let mut served = Served::patient();
    served.start(&ledger, "r1").wait().expect("durable");
    pages.store(1, Ordering::Relaxed);
    let _ = served.traffic(&ledger, 4000);
    let _ = served.order(&ledger, Operator::Pause);
    let health = until(&ledger, |health| health.failing.is_some());
    let why = health.failing.expect("it fails");
    assert!(why.contains("is full") && why.contains("ledger.db"), "{why}");
    let mut ticket = served.order(&ledger, Operator::Resume).expect("a decision");
    std::thread::sleep(Duration::from_millis(50));
    assert!(ticket.answer().is_none(), "not durable yet");
    pages.store(0, Ordering::Relaxed);
    ticket.wait().expect("durable at last");
    assert_eq!(until(&ledger, |health| health.failing.is_none()), Health::default());
    drop(ledger);
    assert_intact(&path);
    let (_ledger, resume) = open(&path);
    let machine = resume.interrupted.expect("it runs").machine.expect("all events are there");
    assert_eq!(machine.rollout.view(served.now), served.rollout.view(served.now));
}

#[test]
fn what_waits_is_bounded() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("ledger.db");
    let options = Options { max_backlog: 200 << 10, ..options() };
    let pages = options.most_pages.clone();
    let (ledger, _) = Ledger::open(&path, options, at(0), "test", "v1").expect("it opens");
    let mut served = Served::patient();
    served.start(&ledger, "r1").wait().expect("durable");
    pages.store(1, Ordering::Relaxed);
    let _ = served.traffic(&ledger, 4000);
    until(&ledger, |health| health.failing.is_some());
    let _ = served.traffic(&ledger, 20_000);
    let fault = || Entry::AlertSent { to: "a".into(), text: "b".into(), error: None };
    let mut lost = 0;
    while ledger.health().lost == 0 {
        lost += 1;
        assert!(lost < 10_000, "entries are bounded");
        drop(ledger.commit(at(1), None, vec![fault()]));
    }
    let refused = ledger.commit(at(1), None, vec![fault(), fault()]).wait();
    assert!(matches!(refused, Err(LedgerError::NotWritten { .. })));
    assert_eq!(ledger.health().lost, 3);
    pages.store(0, Ordering::Relaxed);
    until(&ledger, |health| health.failing.is_none());
    drop(ledger);
    assert_intact(&path);
    let (_ledger, resume) = open(&path);
    let why = resume.interrupted.expect("it runs").machine.map(drop).expect_err("journal ended");
    assert!(matches!(why, CannotContinue::JournalEnded { .. }), "{why}");
}

#[test]
fn closing_over_a_full_disk_tells_those_who_wait() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("ledger.db");
    let options = options();
    let pages = options.most_pages.clone();
    let (ledger, _) = Ledger::open(&path, options, at(0), "test", "v1").expect("it opens");
    let mut served = Served::patient();
    served.start(&ledger, "r1").wait().expect("durable");
    pages.store(1, Ordering::Relaxed);
    let _ = served.traffic(&ledger, 4000);
    let ticket = served.order(&ledger, Operator::Pause).expect("a decision");
    drop(ledger);
    assert!(matches!(ticket.wait(), Err(LedgerError::NotWritten { .. })));
    assert_intact(&path);
    let (_ledger, resume) = open(&path);
    assert!(resume.interrupted.expect("it runs").machine.is_ok(), "as of before");
}
