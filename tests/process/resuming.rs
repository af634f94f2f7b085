//! After a restart, before a rollout is resumed: orders that stop are accepted, and orders that raise are
//! refused. And a raise that the ledger refuses to record is not carried out until the ledger accepts it.

use crate::support::once_free;
use serin::control::{ConditionalOrder, Control, ControlError, Life, LoadOrder, ResumePlan, Start};
use serin::ledger::{Entry, Ledger, Options, Reader, Stamp};
use serin::rollout::{Operator, Order, Policy, Weight};
use serin::serving::Gateway;
use serin::serving::testing::FakeServer;
use serin::text::GenerationDefaults;
use std::path::Path;
use std::time::Duration;
use tempfile::TempDir;

fn folder() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/models/tiny-v1"))
}

/// A server with the ledger in `dir`; an interrupted rollout is not resumed yet.
async fn start(dir: &Path) -> (Gateway, ResumePlan) {
    let mut server = FakeServer::replying(folder(), 1024, "Hello.").expect("a server");
    server.policy = Policy { bake: Duration::from_secs(3600), ..Policy::default() };
    let at = Stamp { unix_ms: 0, rollout: Duration::ZERO };
    let open = || Ledger::open(&dir.join("serin.ledger"), Options::default(), at, "0", "stable");
    let (ledger, resume) = once_free(open).await;
    let (life, _) = Life::begin(&dir.join("serin.ledger"), None);
    let (start, take_up) = Start::from_ledger(ledger, resume, None);
    server.start = Start { life, ..start };
    (server.start().await.expect("a started server"), take_up)
}

async fn interrupted(dir: &Path, percent: u8) -> (Gateway, ResumePlan) {
    let (gateway, _) = start(dir).await;
    let asked = LoadOrder::of("canary", "a test");
    gateway.control().load_canary(asked).await.expect("a canary");
    give(gateway.control(), set(percent)).await.expect("granted");
    drop(gateway);
    start(dir).await
}

fn set(percent: u8) -> Operator {
    Operator::SetWeight(Weight::new(percent).expect("a weight"))
}

async fn give(control: &Control, command: Operator) -> Result<(), ControlError> {
    let expect = Some(control.status().revision);
    let order = Order { command, by: "a test".to_owned(), reason: None };
    control.order(ConditionalOrder { order, expect }).await
}

fn resumed(dir: &Path) -> Vec<u8> {
    let entries = Reader::open(&dir.join("serin.ledger")).expect("a ledger");
    let entries = entries.entries(0, usize::MAX).expect("entries");
    let weight = |entry: &Entry| match entry {
        Entry::RolloutResumed { weight, .. } => Some(weight.percent()),
        _ => None,
    };
    entries.iter().filter_map(|kept| weight(&kept.entry)).collect()
}

#[tokio::test]
async fn what_raises_is_refused_until_the_rollout_is_taken_up() {
    let dir = TempDir::new().unwrap();
    let (gateway, take_up) = interrupted(dir.path(), 25).await;
    let control = gateway.control();
    let raises = [
        Operator::PromoteNow,
        Operator::Promote,
        Operator::Resume,
        Operator::Confirm,
        Operator::Undo,
        set(50),
    ];
    for command in raises {
        assert_eq!(give(control, command).await, Err(ControlError::Resuming), "{command:?}");
    }
    let asked = LoadOrder { retry: true, ..LoadOrder::of("canary", "a test") };
    assert_eq!(control.load_canary(asked).await.err(), Some(ControlError::Resuming));
    let (status, clock) = (control.status(), control.now());
    assert_eq!((status.weight, status.weight_wanted.unwrap_or(status.weight)), (0, 25));
    assert!(status.remarks[0].contains("is being taken up"), "{:?}", status.remarks);
    // Lowered and paused in the meantime, it resumes in that state.
    give(control, set(10)).await.expect("granted");
    give(control, Operator::Pause).await.expect("granted");
    tokio::time::sleep(Duration::from_millis(250)).await;
    assert_eq!(control.now(), clock, "the rollout's clock stands");
    control.take_up(take_up).await;
    let status = control.status();
    assert_eq!((status.weight, status.weight_wanted.unwrap_or(status.weight)), (10, 10));
    assert!(status.paused);
    assert!(status.remarks.is_empty(), "{:?}", status.remarks);
    give(control, Operator::Resume).await.expect("granted");
    give(control, set(50)).await.expect("granted");
    assert_eq!(control.status().weight, 50);
    assert!(control.now() >= clock);
    assert_eq!(resumed(dir.path()), [10], "the weight in force");
}

#[tokio::test]
async fn a_canary_that_is_rolled_back_before_it_is_there_is_not_loaded() {
    let dir = TempDir::new().unwrap();
    let (gateway, take_up) = interrupted(dir.path(), 25).await;
    let control = gateway.control();
    let report = control.rollback("a test".to_owned(), Some("no".to_owned()), None).await;
    assert!(matches!(report, Ok(None)), "{report:?}");
    control.take_up(take_up).await;
    let status = control.status();
    assert_eq!(status.phase, "rolled_back");
    assert!(control.models().canary.is_none() && status.unloads.is_empty(), "it was never loaded");
    let asked = LoadOrder::of("canary", "a test");
    let refused = control.load_canary(asked).await.expect_err("it is remembered");
    assert!(refused.to_string().contains("rejected before"), "{refused}");
    drop(gateway);
    let (_gateway, take_up) = start(dir.path()).await;
    assert!(!take_up.is_some() && resumed(dir.path()).is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_raise_that_the_ledger_refuses_waits_until_it_takes_it() {
    let dir = TempDir::new().unwrap();
    let (gateway, take_up) = interrupted(dir.path(), 5).await;
    let control = gateway.control().clone();
    control.take_up(take_up).await;
    let path = dir.path().join("serin.ledger");
    let other = rusqlite::Connection::open(&path).expect("it opens");
    other.busy_timeout(Duration::from_secs(10)).expect("set");
    other.execute_batch("BEGIN IMMEDIATE").expect("the file is held");
    // Each refused order is an entry; in the end no more are accepted.
    for _ in 0..9000 {
        assert!(give(&control, Operator::Undo).await.is_err());
    }
    let raise = tokio::spawn({
        let control = control.clone();
        async move { give(&control, set(50)).await }
    });
    for _ in 0..500 {
        if control.view().weight.percent() == 50 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    tokio::time::sleep(Duration::from_millis(500)).await;
    let status = control.status();
    assert_eq!((status.weight, status.weight_wanted.unwrap_or(status.weight)), (5, 50));
    assert!(
        status.remarks.iter().any(|text| text.contains("the raise to 50 % waits")),
        "{:?}",
        status.remarks
    );
    other.execute_batch("ROLLBACK").expect("it is let go");
    for _ in 0..1500 {
        if control.status().weight == 50 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let status = control.status();
    assert_eq!(status.weight, 50, "{:?}", status.remarks);
    assert!(status.remarks.is_empty(), "{:?}", status.remarks);
    let _ = raise.await.expect("no panic");
    let state = Reader::open(&path).expect("a ledger").state().expect("a state");
    assert_eq!(state.running.expect("a rollout").weight.percent(), 50);
}

/// A canary that is being rolled back may kill the process before the rollback is recorded: the crash still
/// counts against it.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_rolled_back_is_on_trial_until_the_ledger_has_it() {
    let dir = TempDir::new().unwrap();
    let (gateway, take_up) = interrupted(dir.path(), 25).await;
    let control = gateway.control().clone();
    control.take_up(take_up).await;
    let on_trial = || {
        let text = std::fs::read_to_string(dir.path().join("serin.ledger.life")).expect("a file");
        text.contains("\"version\":\"canary\"")
    };
    assert!(on_trial());
    let other = rusqlite::Connection::open(dir.path().join("serin.ledger")).expect("it opens");
    other.busy_timeout(Duration::from_secs(10)).expect("set");
    other.execute_batch("BEGIN IMMEDIATE").expect("the file is held");
    let order = tokio::spawn({
        let control = control.clone();
        async move { control.rollback("a test".to_owned(), None, None).await }
    });
    for _ in 0..500 {
        if control.models().canary.is_none() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert!(control.models().canary.is_none() && on_trial());
    other.execute_batch("ROLLBACK").expect("it is let go");
    order.await.expect("no panic").expect("granted");
    assert!(!on_trial());
}

/// If a process is killed before it has recorded how the previous one ended, that end still counts exactly
/// once.
#[tokio::test]
async fn an_end_counts_once_however_often_the_start_after_it_is_interrupted() {
    let dir = TempDir::new().unwrap();
    let (gateway, take_up) = interrupted(dir.path(), 25).await;
    gateway.control().take_up(take_up).await;
    let life = dir.path().join("serin.ledger.life");
    let left = std::fs::read(&life).expect("a file");
    let mut gateway = gateway;
    for start in 0..3 {
        drop(gateway);
        // As if the process had not yet recorded it.
        std::fs::write(&life, &left).expect("written");
        let (_, last) = Life::begin(&dir.path().join("serin.ledger"), None);
        gateway = self::start(dir.path()).await.0;
        assert!(gateway.control().settle_previous_exit(last).await.is_none(), "start {start}");
        let state = Reader::open(&dir.path().join("serin.ledger")).expect("a ledger").state();
        let suspects = state.expect("a state").suspects;
        assert_eq!(suspects.iter().map(|one| one.ends).collect::<Vec<_>>(), [1], "start {start}");
    }
}

/// A canary with other sampling defaults that was told to take stable's has them after a restart, as canary and as the
/// promoted version.
#[tokio::test]
async fn inherited_sampling_defaults_survive_a_restart() {
    let dir = TempDir::new().unwrap();
    let own = GenerationDefaults { repetition_penalty: Some(1.3), ..GenerationDefaults::default() };
    let start = async |stable: &str| {
        let mut server = FakeServer::replying(folder(), 1024, "Hello.").expect("a server");
        (server.stable, server.canary_defaults) = (stable.into(), Some(own.clone()));
        let at = Stamp { unix_ms: 0, rollout: Duration::ZERO };
        let path = dir.path().join("serin.ledger");
        let open = || Ledger::open(&path, Options::default(), at, "0", "stable");
        let (ledger, resume) = once_free(open).await;
        let (life, _) = Life::begin(&path, None);
        let (start, take_up) = Start::from_ledger(ledger, resume, None);
        server.start = Start { life, ..start };
        let gateway = server.start().await.expect("a started server");
        gateway.control().take_up(take_up).await;
        gateway
    };
    let gateway = start("stable").await;
    let defaults = gateway.control().models().stable.unwrap().defaults.clone();
    assert_ne!(defaults, own);
    let asked = LoadOrder { inherit: true, ..LoadOrder::of("canary", "a test") };
    let canary = gateway.control().load_canary(asked).await.expect("a canary");
    assert_eq!((&canary.defaults, canary.inherited), (&defaults, true));
    assert!(gateway.control().status().differences.is_empty());
    drop(gateway);

    let gateway = start("stable").await;
    let again = gateway.control().models().canary.expect("the rollout was taken up");
    assert_eq!((&again.defaults, &again.digest), (&defaults, &canary.digest));
    give(gateway.control(), Operator::PromoteNow).await.expect("promoted");
    drop(gateway);

    let gateway = start("canary").await;
    let stable = gateway.control().models().stable.unwrap();
    assert_eq!((&stable.defaults, &stable.digest), (&defaults, &canary.digest));
}
