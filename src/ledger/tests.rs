//! Tests of the ledger's public interface, with real files.

mod damage;
mod full;
mod keeping;
mod resuming;

use std::time::Duration;

use proptest::prelude::*;

use super::testing::*;
use super::*;
use crate::rollout::{
    Advance, Cause, ConfirmAt, Decision, DecisionKind, EvidenceRule, Flag, GateName, GateState,
    Mode, Policy, Weight,
};

fn kinds(path: &std::path::Path) -> Vec<String> {
    let conn = rusqlite::Connection::open(path).expect("it opens");
    let mut statement = conn.prepare("SELECT kind FROM ledger ORDER BY seq").expect("valid");
    let rows = statement.query_map([], |row| row.get(0)).expect("runs");
    rows.map(|row| row.expect("a text")).collect()
}

#[test]
fn the_journal_comes_before_the_decision_that_it_leads_to() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("ledger.db");
    let long = Options { flush_every: Duration::from_secs(3600), ..options() };
    let (ledger, _) = Ledger::open(&path, long, at(0), "test", "v1").expect("it opens");
    let mut served = Served::new();
    served.start(&ledger, "r1").wait().expect("durable");
    let _ = served.traffic(&ledger, 50);
    let ticket = served.order(&ledger, crate::rollout::Operator::Pause).expect("a decision");
    ticket.wait().expect("durable");
    let wanted = ["server_started", "rollout_opened", "journal", "decision", "journal", "decision"];
    assert_eq!(kinds(&path), wanted);
}

#[test]
fn events_reach_the_disk_without_a_commit() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("ledger.db");
    let (ledger, _) = open(&path);
    let mut served = Served::new();
    served.start(&ledger, "r1").wait().expect("durable");
    let _ = served.traffic(&ledger, 10);
    let reader = ledger.reader().expect("it opens");
    let recorded = reader.rollout("r1").expect("it is there");
    for _ in 0..1000 {
        if reader.journal(&recorded).count() == 11 {
            return;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    panic!("the events are not flushed");
}

#[test]
fn a_ticket_can_be_awaited() {
    let dir = tempfile::tempdir().expect("a directory");
    let (ledger, _) = open(&dir.path().join("ledger.db"));
    let entry = Entry::Rejected { digest: "d".to_owned(), reason: "r".to_owned() };
    let ticket = ledger.commit(at(1), None, vec![entry]);
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
    let head = runtime.block_on(ticket).expect("durable");
    assert_eq!(ledger.reader().expect("opens").head().expect("reads"), head);
}

#[test]
fn an_export_has_every_row_once() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("ledger.db");
    let head = written(&path);
    let reader = Reader::open(&path).expect("it opens");
    let rows = verified(&path).rows;
    for (bodies, wanted) in [(Bodies::Raw, rows), (Bodies::Expanded, rows)] {
        let mut out = Vec::new();
        assert_eq!(export(&reader, bodies, &mut out).expect("it reads"), wanted);
        let text = String::from_utf8(out).expect("text");
        assert_eq!(text.lines().count() as u64, wanted);
        let last: serde_json::Value =
            serde_json::from_str(text.lines().last().expect("a line")).expect("JSON");
        assert_eq!(last["hash"], to_hex(&head.hash));
        assert_eq!(last["body"]["decided"], "paused");
    }
    let mut entries = Vec::new();
    let count = export(&reader, Bodies::Entries, &mut entries).expect("it reads");
    assert_eq!(count, rows - verified(&path).batches);
}

fn float() -> impl Strategy<Value = f64> {
    prop_oneof![
        any::<f64>().prop_filter("finite", |value| value.is_finite()),
        0.0..2.0f64,
        Just(-0.0)
    ]
}

proptest! {
    #[test]
    fn policies_return_exactly(
        floats in (float(), float(), float(), float()),
        steps in prop::collection::vec(0u8..=100, 0..6),
        (bake, stall) in (any::<u64>(), 0u32..1_000_000_000),
        counts in (any::<u64>(), any::<u64>(), any::<u32>()),
    ) {
        let policy = Policy {
            steps: steps.into_iter().filter_map(Weight::new).collect(),
            bake: Duration::from_secs(bake),
            stall_after: Duration::new(7, stall),
            min_requests: counts.0,
            warmup_requests: counts.1,
            fault_streak: counts.2,
            max_error_ratio: floats.0,
            max_latency_ratio: floats.1,
            min_throughput_ratio: floats.2,
            alone_allowance: floats.3,
            alpha: floats.0,
            max_key_share: floats.1,
            advance: Advance::Manual,
            mode: Mode::Strict,
            evidence: EvidenceRule::None,
            confirm: vec![ConfirmAt::Promote, ConfirmAt::Before(Weight::FULL)],
            ..Policy::default()
        };
        let text = serde_json::to_string(&policy).expect("JSON");
        let read = serde_json::from_str::<Policy>(&text);
        // The texts are compared too, since -0.0 equals 0.0.
        prop_assert_eq!(format!("{:?}", read.as_ref().ok()), format!("{:?}", Some(&policy)));
    }
}

/// Ledgers of earlier builds contain these: names on disk do not change when names in the code do.
#[test]
fn what_was_written_before_is_read() {
    let decision = r#"{"decided":{"rolled_back":{"cause":"errors"}},"text":"t","weight":0,"stage":3,
        "at":{"secs":9,"nanos":1},"rollout":"r","gates":[
        {"gate":"errors","state":{"fail":"2x"},"text":"2x","value":2.0,"threshold":1.5,"evidence":21.0,
         "interval":[1.5,3.0],"samples":[10,20]},
        {"gate":"bake","state":"pass","text":"","value":null,"threshold":null,"samples":[0,0]},
        {"gate":"feedback","state":{"not_judged":"none"},"text":"","value":null,"threshold":null,"samples":[0,0]}],
        "counts":[{"requests":10,"votes_down":1},{"requests":20,"errors":4}]}"#;
    let Entry::Decision(decision) = Entry::from_columns("decision", decision).expect("it reads")
    else {
        panic!("a decision")
    };
    assert_eq!(decision.kind, DecisionKind::RolledBack { cause: Cause::Errors });
    assert_eq!(decision.at, Duration::new(9, 1));
    assert_eq!(decision.verdict.gates[0].interval, Some((1.5, 3.0)));
    assert_eq!(decision.verdict.gates[2].state, GateState::NotJudged("none".to_owned()));
    assert_eq!((decision.verdict.counts[0].votes_down, decision.verdict.counts[1].errors), (1, 4));
    for (text, kind) in [
        (r#"{"ready":{"to":25}}"#, DecisionKind::Ready { to: Weight::new(25) }),
        (r#"{"awaiting_confirm":{"to":null}}"#, DecisionKind::AwaitingConfirm { to: None }),
        (r#""would_roll_back""#, DecisionKind::WouldRollBack),
        (r#""self_test_done""#, DecisionKind::SelfTestDone),
    ] {
        assert_eq!(serde_json::from_str::<DecisionKind>(text).expect("it reads"), kind);
    }
    let policy = r#"{"steps":[5,100],"bake":{"secs":9,"nanos":0},"advance":"dry_run","confirm":[5,null],
        "mode":"best_effort","evidence":"e_value","alpha":0.1}"#;
    let policy: Policy = serde_json::from_str(policy).expect("it reads");
    let confirm = [ConfirmAt::Before(Weight::new(5).expect("at most 100")), ConfirmAt::Promote];
    assert_eq!((policy.confirm.as_slice(), policy.advance), (&confirm[..], Advance::DryRun));
    assert_eq!(policy.min_requests, Policy::default().min_requests);
    for (text, command) in [
        (r#"{"command":{"set_weight":25},"by":"me"}"#, "set_weight"),
        (r#"{"command":"promote_now","by":"me","reason":"why"}"#, "promote_now"),
    ] {
        let order: crate::rollout::Order = serde_json::from_str(text).expect("it reads");
        assert_eq!((order.command.as_str(), order.by.as_str()), (command, "me"));
    }
    for bad in [r#"{"command":{"set_weight":101},"by":"me"}"#, r#"{"command":"fly","by":"me"}"#] {
        assert!(serde_json::from_str::<crate::rollout::Order>(bad).is_err());
    }
}

/// Every kind of decision and every state of a gate.
#[test]
fn decisions_return_exactly() {
    let weight = |percent| Weight::new(percent).expect("at most 100");
    let (from, to) = (weight(5), weight(25));
    let mut kinds = vec![
        DecisionKind::Started,
        DecisionKind::Raised { from, to },
        DecisionKind::Promoted,
        DecisionKind::Held,
        DecisionKind::Stalled,
        DecisionKind::Paused,
        DecisionKind::Resumed,
        DecisionKind::WeightSet { from, to },
        DecisionKind::PromotionOrdered,
        DecisionKind::StableFault,
        DecisionKind::Noticed { gate: GateName::Quality(Flag::Script) },
        DecisionKind::Noticed { gate: GateName::CrossRead },
        DecisionKind::Ready { to: Some(to) },
        DecisionKind::AwaitingConfirm { to: None },
        DecisionKind::Confirmed,
        DecisionKind::WouldRaise { from, to },
        DecisionKind::WouldPromote,
        DecisionKind::WouldRollBack,
        DecisionKind::Undone,
        DecisionKind::SelfTestDone,
    ];
    let causes = [Cause::Errors, Cause::Quality, Cause::Fault, Cause::Operator];
    kinds.extend(causes.map(|cause| DecisionKind::RolledBack { cause }));
    let mut rollout = crate::rollout::Rollout::new(policy());
    let start = crate::rollout::Event::Start { rollout: "r".to_owned(), self_test: false };
    let actions = rollout.step(Duration::from_nanos(1_234_567_891), start).expect("it starts");
    let Some(Entry::Decision(decision)) = decisions(actions).pop() else { panic!("a decision") };
    let text = || "a \"text\"\n".to_owned();
    let states = [
        GateState::Pass,
        GateState::Fail(text()),
        GateState::Inconclusive(text()),
        GateState::NotJudged(text()),
        GateState::Noted(text()),
    ];
    for (number, kind) in kinds.into_iter().enumerate() {
        let mut decision = Decision { kind, ..(*decision).clone() };
        for (gate, state) in decision.verdict.gates.iter_mut().zip(states.iter().cycle()) {
            gate.state = state.clone();
            gate.name = if number == 0 { GateName::Retries } else { gate.name };
            gate.value = Some(0.1 + number as f64 / 3.0);
        }
        assert_eq!(decision.verdict.gates.len(), GateName::all().count());
        let entry = Entry::Decision(Box::new(decision));
        let (kind, body) = entry.to_columns().expect("JSON");
        assert_eq!(Entry::from_columns(&kind, &body).expect("it reads"), entry);
    }
}
