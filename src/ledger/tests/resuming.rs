//! After a restart a server has the same machine as before, and recorded rollouts can be judged again.

use super::*;
use crate::rollout::{Arm, Event, Operator, Phase, Rollout};

fn continued(resume: Resume) -> Continued {
    let interrupted = resume.interrupted.expect("a rollout was under way");
    interrupted.machine.expect("it can go on")
}

#[test]
fn a_rollout_goes_on_with_the_very_machine_it_had() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("ledger.db");
    let (mut ledger, resume) = open(&path);
    assert!(resume.interrupted.is_none());
    let mut served = Served::new();
    drop(served.start(&ledger, "r0"));
    let _ = served.order(&ledger, Operator::Rollback);
    drop(served.start(&ledger, "r1"));
    // Across raises, and with a restart in each stage.
    while *served.rollout.phase() != Phase::Promoted {
        let _ = served.traffic(&ledger, 170);
        drop(ledger);
        let (next, resume) = open(&path);
        ledger = next;
        if let Phase::Running { .. } = served.rollout.phase() {
            assert_eq!(resume.state.stable, Some(model("stable")));
            let running = resume.state.running.clone().expect("it runs");
            assert_eq!(running.weight, served.rollout.weight());
            assert_eq!(running.stage, served.rollout.stage());
            let taken_up = continued(resume);
            assert_eq!(taken_up.clock, served.now);
            let view = taken_up.rollout.view(served.now);
            assert_eq!(view, served.rollout.view(served.now));
            served = Served::taken_up(taken_up.rollout, served.now);
        } else {
            assert!(resume.interrupted.is_none());
            assert_eq!(resume.state.stable, Some(model("r1")), "the promoted one");
        }
        assert!(served.now < Duration::from_secs(3600), "it is promoted at last");
    }
    drop(ledger);
    assert_intact(&path);
    let reader = Reader::open(&path).expect("it opens");
    for id in ["r0", "r1"] {
        let recorded = reader.rollout(id).expect("it is there");
        let (replayed, comparison) = reader.replay(&recorded).expect("it reads");
        assert_eq!(comparison.difference, None);
        assert_eq!(comparison.recorded, recorded.decisions.len());
        assert_eq!(replayed.refused, 0);
    }
}

#[test]
fn rejections_are_remembered_and_pardoned() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("ledger.db");
    let (ledger, _) = open(&path);
    let mut served = Served::new();
    drop(served.start(&ledger, "r1"));
    let fault = Event::Fault { arm: Arm::Canary, what: "dead".to_owned() };
    let _ = served.feed(&ledger, fault);
    drop(ledger);
    let (ledger, resume) = open(&path);
    let rejection = resume.rejection("digest-of-r1").expect("it is known");
    assert_eq!((&*rejection.cause, &*rejection.rollout), ("fault", "r1"));
    assert!(rejection.reason.contains("dead"));
    let (by, reason) = ("ann".to_owned(), "it was the disk".to_owned());
    let entry = Entry::Pardoned { digest: "digest-of-r1".to_owned(), by, reason };
    ledger.commit(at(1), None, vec![entry]).wait().expect("durable");
    drop(ledger);
    assert!(open(&path).1.state.rejected.is_empty());
    assert_intact(&path);
}

#[test]
fn a_rollout_that_does_not_go_on_is_abandoned() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("ledger.db");
    written(&path);
    let (ledger, resume) = open(&path);
    assert_eq!(continued(resume).rollout.phase(), &Phase::Running { paused: true });
    let entry = Entry::RolloutAbandoned { why: "the canary is gone".to_owned() };
    ledger.commit(at(1), None, vec![entry]).wait().expect("durable");
    ledger.record(at(2), &Event::Tick);
    drop(ledger);
    assert_eq!(open(&path).1.state.running, None);
    assert_intact(&path);
}

#[test]
fn a_journal_past_its_bound_ends_and_says_so() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("ledger.db");
    let small = Options { max_journal: 2000, ..options() };
    let (ledger, _) = Ledger::open(&path, small, at(0), "test", "v1").expect("it opens");
    let mut served = Served::new();
    drop(served.start(&ledger, "r1"));
    let _ = served.traffic(&ledger, 240);
    let _ = served.order(&ledger, Operator::Pause);
    let _ = served.traffic(&ledger, 240);
    let weight = served.rollout.weight();
    let _ = served.order(&ledger, Operator::Resume);
    drop(ledger);
    let (_ledger, resume) = open(&path);
    let interrupted = resume.interrupted.expect("it runs");
    assert_eq!(interrupted.running.weight, weight);
    let why = interrupted.machine.map(drop).expect_err("it cannot go on as it was");
    assert!(why.to_string().contains("size limit"), "{why}");
    let reader = Reader::open(&path).expect("it opens");
    let recorded = reader.rollout("r1").expect("it is there");
    let ended = |kept: &Kept| match &kept.entry {
        Entry::JournalEnded { events, .. } => Some(*events),
        _ => None,
    };
    let entries = reader.entries(0, usize::MAX).expect("it reads");
    let events = entries.iter().find_map(ended).expect("it says so");
    assert_eq!(reader.journal(&recorded).count() as u64, events);
    assert!(events <= 242, "no event after the start, the traffic and the pause: {events}");
    assert_eq!(recorded.decisions.last().expect("one").kind, DecisionKind::Resumed);
}

#[test]
fn a_machine_that_judges_otherwise_is_not_taken_up() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("ledger.db");
    let (ledger, _) = open(&path);
    let mut served = Served::new();
    drop(served.start(&ledger, "r1"));
    let _ = served.traffic(&ledger, 300);
    // A decision that this machine did not take, but another version of it might have.
    let event = Event::Tick;
    let mut other = Rollout::new(policy());
    let start = Event::Start { rollout: "r1".to_owned(), self_test: false };
    let entries = decisions(other.step(served.now, start).expect("it starts"));
    drop(ledger.commit(served.stamp(), Some(&event), entries));
    drop(ledger);
    let (_ledger, resume) = open(&path);
    let why = resume.interrupted.expect("it runs").machine.map(drop).expect_err("it diverged");
    assert!(matches!(why, CannotContinue::Diverged(_)), "{why}");
}

#[test]
fn another_policy_is_judged_on_the_same_events() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("ledger.db");
    let (ledger, _) = open(&path);
    let mut served = Served::new();
    drop(served.start(&ledger, "r1"));
    while *served.rollout.phase() != Phase::Promoted {
        let _ = served.traffic(&ledger, 100);
    }
    drop(ledger);
    let reader = Reader::open(&path).expect("it opens");
    let recorded = reader.rollout("r1").expect("it is there");
    let kinds = |decisions: &[Decision]| decisions.iter().map(|one| one.kind).collect::<Vec<_>>();
    let judge = |policy| {
        let grid = Duration::from_millis(50);
        reader.rejudge(&recorded, policy, grid).expect("it reads")
    };
    let same = judge(policy());
    assert_eq!(kinds(&same.decisions), kinds(&recorded.decisions));
    let hasty = judge(Policy { bake: Duration::from_secs(4), ..policy() });
    let end = |decisions: &[Decision]| decisions.last().expect("one").at;
    assert_eq!(hasty.rollout.phase(), &Phase::Promoted);
    assert!(end(&hasty.decisions) < end(&recorded.decisions));
    let wary = judge(Policy { min_requests: 100_000, ..policy() });
    assert_eq!(wary.rollout.weight().percent(), 5);
    assert_eq!(wary.decisions.last().expect("one").kind, DecisionKind::Held);
}

#[test]
fn a_promotion_can_be_undone_after_a_restart() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("ledger.db");
    let none = Retention { max_bytes: 1, keep_rollouts: 0 };
    let (ledger, _) =
        Ledger::open(&path, Options { retention: none, ..options() }, at(0), "test", "v1")
            .expect("opens");
    let mut served = Served::new();
    drop(served.start(&ledger, "r1"));
    while *served.rollout.phase() != Phase::Promoted {
        let _ = served.traffic(&ledger, 100);
    }
    // No longer relevant, and not recorded.
    let _ = served.traffic(&ledger, 50);
    drop(ledger);
    let (ledger, resume) = open(&path);
    assert_eq!(resume.state.stable, Some(model("r1")));
    let machine = resume.promoted.expect("it was promoted").machine.expect("it can be replayed");
    assert_eq!(machine.rollout.phase(), &Phase::Promoted);
    let mut served = Served::taken_up(machine.rollout, served.now);
    drop(served.order(&ledger, Operator::Undo).expect("a decision"));
    drop(ledger);
    let (_ledger, resume) = open(&path);
    assert_eq!(resume.state.stable, Some(model("stable")));
    assert_eq!(resume.rejection("digest-of-r1").expect("known").cause, "undone");
    assert!(resume.promoted.is_none() && resume.interrupted.is_none());
    let reader = Reader::open(&path).expect("it opens");
    let recorded = reader.rollout("r1").expect("it is there");
    let (replayed, comparison) = reader.replay(&recorded).expect("it reads");
    assert_eq!(comparison.difference, None);
    assert_eq!(replayed.refused, 0);
    assert_intact(&path);
}
