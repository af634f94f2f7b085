//! The cost of the ledger: recording an event, committing a decision, and replaying a journal.
//!
//! It prints figures without judging them. The first argument is the directory to use (default: the temporary
//! one); commits are as fast as its disk's fsync.

use std::path::Path;
use std::time::{Duration, Instant};

use serin::ledger::{Entry, Ledger, Model, Opening, Options, Reader, Stamp};
use serin::rollout::{Action, Arm, Class, Event, Origin, Outcome, Policy, Rollout};

const EVENTS: u64 = 1_000_000;
const COMMITS: usize = 1000;

fn main() {
    let given = std::env::args().nth(1).filter(|arg| !arg.starts_with('-'));
    let base = given.map_or_else(std::env::temp_dir, Into::into);
    let dir = base.join(format!("serin-ledger-bench-{}", std::process::id()));
    std::fs::create_dir_all(&dir).expect("the directory can be made");
    let path = dir.join("ledger.db");
    let bytes = record(&path);
    commit(&dir.join("commits.db"));
    replay(&path, bytes);
    std::fs::remove_dir_all(&dir).expect("the directory can be removed");
}

fn stamp(nanos: u64) -> Stamp {
    let rollout = Duration::from_nanos(nanos);
    Stamp { unix_ms: rollout.as_millis() as i64, rollout }
}

fn open(path: &Path) -> Ledger {
    let options = Options { max_backlog: 1 << 30, ..Options::default() };
    Ledger::open(path, options, stamp(0), "bench", "v1").expect("the ledger opens").0
}

/// An outcome with a session, as the gateway creates them.
fn outcome(number: u64, stage: u64) -> Event {
    let noise = number.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let ttft = Duration::from_nanos(80_000_000 + (noise >> 38));
    let tpot = Duration::from_nanos(14_000_000 + (noise >> 42));
    let output_tokens = 20 + (noise >> 55) as u32;
    let end = Duration::from_nanos(noise >> 48);
    Event::Outcome(Outcome {
        origin: Origin { party: Some(noise), cluster: Some(noise), routed: None },
        ttft: Some(ttft),
        tpot: Some(tpot),
        e2e: ttft + tpot * (output_tokens - 1) + end,
        output_tokens,
        matched: number.is_multiple_of(2),
        ..Outcome::new(
            if number.is_multiple_of(4) { Arm::Canary } else { Arm::Stable },
            Class::Ok,
            stage,
        )
    })
}

fn start(ledger: &Ledger) -> (Rollout, Entry) {
    let policy = Policy { bake: Duration::from_secs(1 << 30), ..Policy::default() };
    let mut rollout = Rollout::new(policy.clone());
    let name = |name: &str| Model {
        path: name.into(),
        version: name.into(),
        digest: name.into(),
        inherited: None,
    };
    let opening = Opening {
        rollout: "bench".into(),
        policy,
        epoch: 0,
        stable: name("stable"),
        canary: name("canary"),
    };
    let event = Event::Start { rollout: "bench".into(), self_test: false };
    let actions = rollout.step(Duration::ZERO, event.clone()).expect("it starts");
    let decision = actions.into_iter().find_map(|action| match action {
        Action::Decision(decision) => Some(Entry::Decision(Box::new(decision))),
        _ => None,
    });
    let decision = decision.expect("a start is a decision");
    let entries = vec![Entry::RolloutOpened(Box::new(opening)), decision.clone()];
    ledger.commit(stamp(0), Some(&event), entries).wait().expect("durable");
    (rollout, decision)
}

/// Groups of a hundred, since reading the clock costs as much as recording.
fn record(path: &Path) -> u64 {
    let ledger = open(path);
    let (rollout, _) = start(&ledger);
    let events: Vec<Event> = (0..1000).map(|number| outcome(number, rollout.stage())).collect();
    let before = std::fs::metadata(path).map_or(0, |data| data.len());
    let mut took = Vec::new();
    for group in 0..EVENTS / 100 {
        let begun = Instant::now();
        for number in 0..100 {
            let number = group * 100 + number;
            ledger.record(stamp(number * 9_999_991), &events[(number % 1000) as usize]);
        }
        took.push(begun.elapsed() / 100);
        // A thousandth of the time is spent recording: far from saturation, as in production.
        if group.is_multiple_of(100) {
            std::thread::sleep(Duration::from_millis(10));
        }
    }
    print("record", &mut took);
    drop(ledger);
    let bytes = std::fs::metadata(path).map_or(0, |data| data.len()).saturating_sub(before);
    println!("file: {:.1} bytes per outcome", bytes as f64 / EVENTS as f64);
    bytes
}

fn commit(path: &Path) {
    let ledger = open(path);
    let (_, decision) = start(&ledger);
    let mut took = Vec::new();
    for number in 0..COMMITS as u64 {
        let begun = Instant::now();
        let ticket = ledger.commit(stamp(number), Some(&Event::Tick), vec![decision.clone()]);
        ticket.wait().expect("durable");
        took.push(begun.elapsed());
    }
    print("commit", &mut took);
}

fn replay(path: &Path, bytes: u64) {
    let reader = Reader::open(path).expect("it opens");
    let recorded = reader.rollout("bench").expect("it is there");
    let begun = Instant::now();
    let read = reader.journal(&recorded).count();
    println!("read: {:.1} million events/s", read as f64 / begun.elapsed().as_secs_f64() / 1e6);
    let begun = Instant::now();
    let (replayed, comparison) = reader.replay(&recorded).expect("it reads");
    let took = begun.elapsed().as_secs_f64();
    println!("replay: {:.1} million events/s", replayed.events as f64 / took / 1e6);
    println!("replayed decisions agree: {}", comparison.difference.is_none());
    let begun = Instant::now();
    let found = reader.verify(None).expect("it reads");
    let took = begun.elapsed().as_secs_f64();
    println!(
        "verify: {:.0} MiB/s, intact: {}",
        bytes as f64 / took / 1048576.0,
        found.problem.is_none()
    );
}

fn print(what: &str, took: &mut [Duration]) {
    took.sort_unstable();
    let at = |share: f64| took[((took.len() - 1) as f64 * share) as usize];
    println!("{what}: p50 {:?}, p99 {:?}, most {:?}", at(0.5), at(0.99), at(1.0));
}
