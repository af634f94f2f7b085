//! Test helpers: a server reduced to its use of the ledger, and ways to damage a file.

use std::path::Path;
use std::time::Duration;

use rusqlite::Connection;

use super::*;
use crate::rollout::{
    Action, Arm, Class, Event, Operator, Order, Origin, Outcome, Policy, Rollout,
};

pub(super) const STEP: Duration = Duration::from_millis(40);

pub(super) fn policy() -> Policy {
    Policy {
        bake: Duration::from_secs(10),
        min_requests: 3,
        rollback_min_requests: 3,
        warmup_requests: 2,
        ..Policy::default()
    }
}

pub(super) fn model(name: &str) -> Model {
    let (path, digest) = (format!("/models/{name}"), format!("digest-of-{name}"));
    Model { path, version: name.to_owned(), digest, inherited: None }
}

pub(super) fn at(seconds: u64) -> Stamp {
    Stamp { unix_ms: 1_000_000 + 1000 * seconds as i64, rollout: Duration::from_secs(seconds) }
}

pub(super) fn options() -> Options {
    let (flush_every, retry_after) = (Duration::from_millis(5), Duration::from_millis(10));
    Options { flush_every, retry_after, ..Options::default() }
}

/// Opens as a server does.
pub(super) fn open(path: &Path) -> (Ledger, Resume) {
    Ledger::open(path, options(), at(0), "test", "v1").expect("the ledger opens")
}

/// A machine and its ledger, with a clock that the test controls.
pub(super) struct Served {
    pub(super) rollout: Rollout,
    pub(super) now: Duration,
    sent: u64,
}

impl Served {
    pub(super) fn new() -> Served {
        Served { rollout: Rollout::new(policy()), now: Duration::from_secs(1), sent: 0 }
    }

    /// A server whose canary stays at its first weight, however long it runs.
    pub(super) fn patient() -> Served {
        let policy = Policy { bake: Duration::from_secs(1 << 20), ..policy() };
        Served { rollout: Rollout::new(policy), ..Served::new() }
    }

    pub(super) fn taken_up(rollout: Rollout, now: Duration) -> Served {
        Served { rollout, now, sent: 0 }
    }

    pub(super) fn stamp(&self) -> Stamp {
        Stamp { unix_ms: self.now.as_millis() as i64, rollout: self.now }
    }

    pub(super) fn start(&mut self, ledger: &Ledger, id: &str) -> Ticket {
        let opening = Opening {
            rollout: id.to_owned(),
            policy: self.rollout.policy().clone(),
            epoch: self.rollout.stage(),
            stable: model("stable"),
            canary: model(id),
        };
        let event = Event::Start { rollout: id.to_owned(), self_test: false };
        let mut entries = vec![Entry::RolloutOpened(Box::new(opening))];
        let actions = self.rollout.step(self.now, event.clone()).expect("it starts");
        entries.extend(decisions(actions));
        ledger.commit(self.stamp(), Some(&event), entries)
    }

    /// Steps the machine and records the results, as control does.
    pub(super) fn feed(&mut self, ledger: &Ledger, event: Event) -> Option<Ticket> {
        let actions = self.rollout.step(self.now, event.clone()).expect("the event makes sense");
        let entries = decisions(actions);
        if !entries.is_empty() {
            return Some(ledger.commit(self.stamp(), Some(&event), entries));
        }
        if event != Event::Tick {
            ledger.record(self.stamp(), &event);
        }
        None
    }

    pub(super) fn order(&mut self, ledger: &Ledger, command: Operator) -> Option<Ticket> {
        let order = Order { command, by: "ann".to_owned(), reason: Some("because".to_owned()) };
        self.feed(ledger, Event::Operator(order))
    }

    /// Traffic on both arms with a tick in between; returns the last commit, if any.
    pub(super) fn traffic(&mut self, ledger: &Ledger, count: u64) -> Option<Ticket> {
        let mut last = None;
        for _ in 0..count {
            self.sent += 1;
            let canary = self.sent * 37 % 100 < u64::from(self.rollout.routed().percent());
            let arm = if canary { Arm::Canary } else { Arm::Stable };
            let outcome = outcome(arm, self.rollout.stage(), self.sent);
            self.now += STEP + Duration::from_nanos(self.sent * 7919 % 1_000_003);
            last = self.feed(ledger, Event::Outcome(outcome)).or(last);
            last = self.feed(ledger, Event::Tick).or(last);
        }
        last
    }
}

pub(super) fn decisions(actions: Vec<Action>) -> Vec<Entry> {
    let decision = |action| match action {
        Action::Decision(decision) => Some(Entry::Decision(Box::new(decision))),
        _ => None,
    };
    actions.into_iter().filter_map(decision).collect()
}

/// A successful reply with unusual figures.
pub(super) fn outcome(arm: Arm, stage: u64, number: u64) -> Outcome {
    let noise = number.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 40;
    let (ttft, tpot) = (Duration::from_nanos(90_000_000 + noise), Duration::from_nanos(9_000_000));
    let output_tokens = 50 + (noise % 200) as u32;
    Outcome {
        origin: Origin {
            cluster: Some(number.wrapping_mul(0xd134_2543_de82_ef95)),
            ..Origin::default()
        },
        ttft: Some(ttft),
        tpot: Some(tpot),
        e2e: ttft + tpot * (output_tokens - 1) + Duration::from_nanos(noise % 50),
        output_tokens,
        matched: noise.is_multiple_of(2),
        ..Outcome::new(arm, Class::Ok, stage)
    }
}

/// A complete ledger with one whole rollout and the beginning of another.
pub(super) fn written(path: &Path) -> Head {
    let (ledger, _) = open(path);
    let mut served = Served::new();
    drop(served.start(&ledger, "r1"));
    let _ = served.traffic(&ledger, 600);
    let _ = served.order(&ledger, Operator::Rollback);
    drop(served.start(&ledger, "r2"));
    let _ = served.traffic(&ledger, 300);
    let ticket = served.order(&ledger, Operator::Pause).expect("a decision");
    ticket.wait().expect("durable")
}

/// Changes the file without going through the ledger.
pub(super) fn tamper(path: &Path, sql: &str) {
    let conn = Connection::open(path).expect("it opens");
    let changed = conn
        .execute_batch(sql)
        .and_then(|()| conn.query_row("SELECT total_changes()", [], |row| row.get::<_, i64>(0)));
    assert!(changed.expect("the statement runs") > 0, "{sql} changed nothing");
}

pub(super) fn verified(path: &Path) -> Verification {
    Reader::open(path).expect("it opens").verify(None).expect("it reads")
}

#[track_caller]
pub(super) fn assert_intact(path: &Path) {
    assert_eq!(verified(path).problem, None);
}
