//! A ledger that is killed at any moment keeps everything it reported as durable.
//!
//! The test runs itself again as a child process, which commits as fast as it can and prints each
//! acknowledged commit. The parent kills it and checks the file. `SERIN_LEDGER_KILLS` sets the number of
//! kills (default 40). This tests a killed process; after a power cut it depends on fsync and the disk.

use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use super::testing::*;
use super::*;
use crate::rollout::{Operator, Phase, Rollout};

const CHILD: &str = "SERIN_LEDGER_CHILD";

/// Not a test when run by itself: the body of the child process.
#[test]
fn child() {
    let Some(path) = std::env::var_os(CHILD).map(PathBuf::from) else { return };
    let retention = Retention { keep_rollouts: 3, ..Retention::default() };
    let options = Options { retention, flush_every: Duration::from_millis(1), ..options() };
    let (ledger, resume) = Ledger::open(&path, options, at(0), "child", "v1").expect("it opens");
    let mut served = match resume.interrupted {
        Some(interrupted) => {
            let machine = interrupted.machine.expect("it goes on");
            Served::taken_up(machine.rollout, machine.clock)
        }
        None => Served::patient(),
    };
    let mut number = 0u32;
    loop {
        number += 1;
        let ticket = match served.rollout.phase() {
            Phase::Running { .. } if number.is_multiple_of(25) => {
                served.order(&ledger, Operator::Rollback)
            }
            Phase::Running { paused: true } => served.order(&ledger, Operator::Resume),
            Phase::Running { paused: false } => {
                let _ = served.traffic(&ledger, 5);
                served.order(&ledger, Operator::Pause)
            }
            _ => {
                let id = format!("{}-{number}", std::process::id());
                Some(served.start(&ledger, &id))
            }
        };
        let head = ticket.expect("a decision").wait().expect("durable");
        let (weight, stage) = (served.rollout.weight().percent(), served.rollout.stage());
        let line = format!("ack {} {} {weight} {stage}\n", head.seq, to_hex(&head.hash));
        std::io::stdout().write_all(line.as_bytes()).expect("the parent reads");
    }
}

/// The last commit that the child reported as durable.
struct Acknowledged {
    head: Head,
    weight: u8,
    stage: u64,
}

/// Kills a child `after` its first acknowledged commit, or after its start if it should not wait for a
/// commit.
fn run_and_kill(path: &Path, after: Duration, wait: bool) -> Option<Acknowledged> {
    let mut child = Command::new(std::env::current_exe().expect("this test"))
        .args(["--exact", "ledger::crash::child", "--nocapture", "--test-threads=1"])
        .env(CHILD, path)
        .stdout(Stdio::piped())
        .stderr(Stdio::inherit())
        .spawn()
        .expect("it starts");
    let out = child.stdout.take().expect("piped");
    let (first, begun) = std::sync::mpsc::channel();
    let lines = std::thread::spawn(move || {
        // Names of tests may be printed before the first one.
        let lines = BufReader::new(out).lines().map_while(Result::ok);
        let acks = lines.filter_map(|line| line.split_once("ack ").map(|(_, ack)| ack.to_owned()));
        // The receiver may be gone.
        let told = acks.inspect(|_| {
            let _ = first.send(());
        });
        told.collect::<Vec<String>>()
    });
    if wait {
        begun.recv_timeout(Duration::from_secs(60)).expect("the child commits something");
    }
    std::thread::sleep(after);
    assert_eq!(child.try_wait().expect("it is ours"), None, "the child ended by itself");
    child.kill().expect("it runs");
    child.wait().expect("it ends");
    let lines = lines.join().expect("read");
    lines.iter().rev().find_map(|line| {
        let mut parts = line.split(' ');
        let head = Head { seq: parts.next()?.parse().ok()?, hash: from_hex(parts.next()?)? };
        let (weight, stage) = (parts.next()?.parse().ok()?, parts.next()?.parse().ok()?);
        Some(Acknowledged { head, weight, stage })
    })
}

#[test]
fn what_was_acknowledged_survives_kill() {
    let kills = std::env::var("SERIN_LEDGER_KILLS").ok().and_then(|text| text.parse().ok());
    let kills: u64 = kills.unwrap_or(40);
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("ledger.db");
    let mut acknowledged = 0;
    for number in 0..kills {
        // Every fourth child may also die while it opens the ledger and replays what is there.
        let wait = !number.is_multiple_of(4);
        let after = Duration::from_micros(number * 7919 % 80_000);
        let Some(last) = run_and_kill(&path, after, wait) else { continue };
        acknowledged += 1;
        let reader = Reader::open(&path).expect("it opens");
        let verification = reader.verify(Some(&last.head)).expect("it reads");
        println!("kill {number}: {} rows, {} pruned", verification.rows, verification.pruned);
        assert_eq!(verification.problem, None, "kill {number}");
        check_against(&reader, &last, verification.head);
        for recorded in reader.rollouts().expect("it reads") {
            let (_, comparison) = reader.replay(&recorded).expect("it reads");
            assert_eq!(comparison.difference, None, "kill {number}");
        }
    }
    assert!(
        acknowledged >= kills * 3 / 4,
        "only {acknowledged} of {kills} got far enough to matter"
    );
}

/// If nothing was committed after the acknowledged commit, the state must be the acknowledged one.
fn check_against(reader: &Reader, last: &Acknowledged, head: Head) {
    assert!(head.seq >= last.head.seq);
    let later = reader.entries(last.head.seq, usize::MAX).expect("it reads");
    if later.iter().any(|kept| matches!(kept.entry, Entry::Decision(_))) {
        return;
    }
    match reader.state().expect("it reads").running {
        Some(running) => {
            assert_eq!((running.weight.percent(), running.stage), (last.weight, last.stage));
            let recorded = reader.rollout(&running.opening.rollout).expect("there");
            let (replayed, _) = reader.replay(&recorded).expect("it reads");
            let machine: &Rollout = &replayed.rollout;
            assert_eq!((machine.weight().percent(), machine.stage()), (last.weight, last.stage));
        }
        None => assert_eq!(last.weight, 0),
    }
}
