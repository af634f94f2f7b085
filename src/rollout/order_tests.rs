//! Tests of policies and operators' orders, by example: manual, dry run, confirmations, undo, self-test.

use std::time::Duration;

use super::testing::*;
use super::*;

fn with(change: impl FnOnce(&mut Policy)) -> Trial {
    let mut policy = Policy { warmup_requests: 0, ..Policy::default() };
    change(&mut policy);
    Trial::start(policy)
}

fn text(actions: &[Action]) -> &str {
    let decision = actions.iter().find_map(|action| match action {
        Action::Decision(decision) => Some(decision.text.as_str()),
        _ => None,
    });
    decision.expect("a decision")
}

#[test]
fn by_hand_the_gates_say_that_they_pass_and_raise_nothing() {
    let mut trial = with(|p| p.advance = Advance::Manual);
    let ready = DecisionKind::Ready { to: Some(percent(25)) };
    assert_eq!(kinds(&trial.bake_well()), [ready]);
    assert!(trial.step(Event::Tick).is_empty(), "said once");
    assert_eq!(trial.weight(), 5);
    trial.order(Operator::SetWeight(percent(25))).expect("running");
    let ready = DecisionKind::Ready { to: Some(percent(50)) };
    assert_eq!(kinds(&trial.bake_well()), [ready], "once per stage");
    trial.oks(Arm::Stable, 100);
    let back = trial.errors(Arm::Canary, 9);
    assert!(rolled_back(&back, Cause::Errors), "it still rolls back: {back:?}");
}

#[test]
fn a_dry_run_says_what_it_would_do_and_acts_on_faults_only() {
    let mut trial = with(|p| p.advance = Advance::DryRun);
    let would = DecisionKind::WouldRaise { from: percent(5), to: percent(25) };
    assert_eq!(kinds(&trial.bake_well()), [would]);
    assert!(trial.step(Event::Tick).is_empty(), "said once");
    trial.oks(Arm::Stable, 100);
    assert_eq!(kinds(&trial.errors(Arm::Canary, 9)), [DecisionKind::WouldRollBack]);
    assert!(DecisionKind::WouldRollBack.is_alert());
    assert_eq!(trial.weight(), 5, "untouched");
    let dead = Event::Fault { arm: Arm::Canary, what: "dead".to_string() };
    assert!(rolled_back(&trial.step(dead), Cause::Fault));
}

#[test]
fn a_confirmation_is_asked_for_once_and_lets_one_raise_go() {
    let at = vec![ConfirmAt::Before(percent(50)), ConfirmAt::Promote];
    let mut trial = with(|p| p.confirm = at);
    assert_eq!(trial.order(Operator::Confirm), Err(StepError::NothingToConfirm));
    assert_eq!(kinds(&trial.bake_well()), [raised(5, 25)]);
    let asks = DecisionKind::AwaitingConfirm { to: Some(percent(50)) };
    assert_eq!(kinds(&trial.bake_well()), [asks]);
    assert!(trial.view().awaiting_confirm);
    assert!(trial.step(Event::Tick).is_empty(), "asked once");
    let confirmed = trial.order(Operator::Confirm).expect("asked for");
    assert_eq!(kinds(&confirmed), [DecisionKind::Confirmed]);
    assert_eq!(text(&confirmed), "the raise to 50 % confirmed by ann: a drill");
    assert_eq!(trial.order(Operator::Confirm), Ok(Vec::new()), "twice is once");
    assert_eq!(kinds(&trial.step(Event::Tick)), [raised(25, 50)]);
    assert_eq!(kinds(&trial.bake_well()), [raised(50, 100)]);
    let asks = DecisionKind::AwaitingConfirm { to: None };
    assert_eq!(kinds(&trial.bake_well()), [asks]);
    trial.order(Operator::Confirm).expect("asked for");
    assert_eq!(kinds(&trial.step(Event::Tick)), [DecisionKind::Promoted]);
}

#[test]
fn a_promotion_can_be_undone_once() {
    let mut trial = with(|_| ());
    assert_eq!(trial.order(Operator::Undo), Err(StepError::NothingToUndo));
    trial.order(Operator::PromoteNow).expect("running");
    let stage = trial.rollout.stage();
    let undone = trial.order(Operator::Undo).expect("promoted");
    let off = Action::SetWeight { weight: Weight::ZERO, routed: Weight::ZERO, stage: stage + 1 };
    assert_eq!(undone[..2], [Action::Undo, off]);
    assert_eq!(kinds(&undone), [DecisionKind::Undone]);
    let reason = "promotion undone by ann: a drill".to_string();
    assert_eq!(*trial.rollout.phase(), Phase::RolledBack { reason });
    assert!(matches!(trial.order(Operator::Undo), Err(StepError::NotRunning { .. })));
}

#[test]
fn decisions_say_who_and_why() {
    let mut trial = with(|_| ());
    let paused = trial.order(Operator::Pause).expect("running");
    assert_eq!(text(&paused), "paused at 5 % by ann: a drill");
    let order = Order { command: Operator::Resume, by: "bo".to_string(), reason: None };
    let resumed = trial.step(Event::Operator(order));
    assert_eq!(text(&resumed), "resumed at 5 % by bo");
    let set = trial.order(Operator::SetWeight(percent(30))).expect("running");
    assert_eq!(text(&set), "weight set from 5 % to 30 % by ann: a drill");
    let ordered = trial.order(Operator::Promote).expect("running");
    assert!(text(&ordered).starts_with("to be promoted by ann: a drill, as soon as"));
    assert!(text(&trial.bake_well()).starts_with("promoted from 30 % by ann: a drill: "));
}

#[test]
fn a_self_test_goes_to_its_end_and_changes_nothing() {
    let mut trial = with(|p| p.evidence = EvidenceRule::EValue);
    trial.order(Operator::Rollback).expect("running");
    trial.step(Event::Start { rollout: "aa".to_string(), self_test: true });
    assert_eq!(trial.order(Operator::PromoteNow), Err(StepError::SelfTest));
    let slow = Outcome { ttft: Some(Duration::from_millis(150)), ..trial.ok(Arm::Canary) };
    assert_eq!(kinds(&trial.bake(slow)), [raised(5, 25)], "whatever the gates say");
    trial.oks(Arm::Stable, 100);
    assert!(trial.errors(Arm::Canary, 12).is_empty(), "noted, not acted upon");
    assert_eq!(kinds(&trial.bake_well()), [raised(25, 50)]);
    assert_eq!(kinds(&trial.bake_well()), [raised(50, 100)]);
    let done = trial.bake_well();
    assert_eq!(kinds(&done), [DecisionKind::SelfTestDone]);
    let Phase::SelfTested { report } = trial.rollout.phase().clone() else { panic!("not ended") };
    for part in
        ["over 4 stages", "ttft failed 1", "errors would have rolled back", "ttft p99 1.00 to"]
    {
        assert!(report.contains(part), "{part} in {report}");
    }
    let off = Action::SetWeight {
        weight: Weight::ZERO,
        routed: Weight::ZERO,
        stage: trial.rollout.stage(),
    };
    assert_eq!(done[..2], [off, Action::UnloadCanary]);
}
