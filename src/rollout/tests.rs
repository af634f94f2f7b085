//! Whole rollouts by example: a trial feeds a machine and keeps the resulting actions.

use std::time::Duration;

use super::testing::*;
use super::*;

#[test]
fn a_good_canary_rises_with_the_bake_time_and_is_promoted() {
    let mut trial = Trial::start(Policy::default());
    let started = trial.now;
    let mut seen = Vec::new();
    let mut last = Vec::new();
    for _ in 0..3700 {
        let actions = trial.second(20);
        if !actions.is_empty() {
            let at = (trial.now - started).as_secs();
            seen.extend(kinds(&actions).into_iter().map(|kind| (at, kind)));
            last = actions;
        }
    }
    let expected = [
        (900, raised(5, 25)),
        (1800, raised(25, 50)),
        (2700, raised(50, 100)),
        (3600, DecisionKind::Promoted),
    ];
    assert_eq!(seen, expected);
    let stage = trial.rollout.stage();
    assert_eq!(stage, 5, "one epoch per weight, the last one for none");
    assert_eq!(
        last[..2],
        [Action::Promote, Action::SetWeight { weight: Weight::ZERO, routed: Weight::ZERO, stage }]
    );
    assert_eq!(*trial.rollout.phase(), Phase::Promoted);
    assert_eq!(trial.weight(), 0);
}

#[test]
fn with_little_traffic_the_requests_decide_when() {
    let mut trial = Trial::start(Policy::default());
    let started = trial.now;
    // 5 % of 4 per second: 310 canary requests, ten of them warm-up, take 1,550 s.
    let mut held = None;
    while trial.weight() == 5 {
        let actions = trial.second(4);
        if kinds(&actions) == [DecisionKind::Held] {
            held = Some((trial.now - started).as_secs());
        }
    }
    assert_eq!(held, Some(900), "the hold is told once, when the bake time is over");
    let after = (trial.now - started).as_secs();
    assert!((1540..=1560).contains(&after), "{after}");
}

#[test]
fn the_very_outcome_that_proves_it_rolls_back() {
    let mut trial = Trial::bare();
    trial.oks(Arm::Stable, 980);
    trial.errors(Arm::Stable, 20);
    trial.oks(Arm::Canary, 97);
    assert!(trial.errors(Arm::Canary, 2).is_empty(), "two errors are below the minimum");
    let actions = trial.errors(Arm::Canary, 1);
    assert!(rolled_back(&actions, Cause::Errors), "3 of 100 is 1.5 times 20 of 1000");
    assert_eq!(
        actions[0],
        Action::SetWeight { weight: Weight::ZERO, routed: Weight::ZERO, stage: 2 }
    );
    assert_eq!((trial.weight(), trial.rollout.stage()), (0, 2));
    let decision = trial.view().last_decision.expect("a rollback");
    for figure in ["3.00 % (3 of 100)", "2.00 % (20 of 1000)", "ratio 1.50", "limit 1.50"] {
        assert!(decision.text.contains(figure), "{figure} in {}", decision.text);
    }
    assert_eq!(decision.verdict.overall(), Overall::Fail);
    assert_eq!(trial.view().verdict, decision.verdict);
    assert_eq!(trial.view().arm(Arm::Canary).counts.errors, 3, "still to be seen");
}

#[test]
fn a_better_stable_rolls_back_as_well_as_a_worse_canary() {
    let mut trial = Trial::bare();
    trial.oks(Arm::Stable, 98);
    trial.errors(Arm::Stable, 2);
    trial.oks(Arm::Canary, 147);
    trial.oks(Arm::Stable, 49);
    assert!(trial.errors(Arm::Canary, 3).is_empty(), "2.00 % against 1.34 %: ratio 1.49");
    assert!(rolled_back(&trial.oks(Arm::Stable, 1), Cause::Errors), "2.00 % against 1.33 %");
}

#[test]
fn a_stable_arm_without_errors_makes_three_enough() {
    let mut trial = Trial::bare();
    trial.oks(Arm::Stable, 10);
    trial.oks(Arm::Canary, 46);
    assert!(trial.errors(Arm::Canary, 3).is_empty(), "49 outcomes are below the minimum");
    assert!(rolled_back(&trial.oks(Arm::Canary, 1), Cause::Errors));
    assert!(trial.view().last_decision.expect("a rollback").text.contains("ratio infinite"));
}

#[test]
fn one_error_against_none_holds_without_rolling_back() {
    let mut trial = Trial::bare();
    trial.errors(Arm::Canary, 1);
    assert_eq!(kinds(&trial.bake_well()), [DecisionKind::Held]);
    assert_eq!(trial.weight(), 5);
    assert_eq!(trial.gate(GateName::Errors).state.as_str(), "inconclusive");
}

#[test]
fn without_any_stable_request_nothing_is_compared() {
    let mut trial = Trial::warm();
    trial.oks(Arm::Canary, 300);
    assert!(trial.errors(Arm::Canary, 9).is_empty());
    trial.now += Duration::from_secs(900);
    assert_eq!(kinds(&trial.step(Event::Tick)), [DecisionKind::Held]);
}

#[test]
fn outcomes_and_votes_of_another_stage_are_excluded_and_counted() {
    let mut trial = Trial::bare();
    trial.bake_well();
    assert_eq!(trial.weight(), 25);
    trial.oks(Arm::Stable, 100);
    let late = Outcome { stage: 1, class: Class::Timeout, ..trial.ok(Arm::Canary) };
    assert!(trial.send(200, late).is_empty());
    trial.step(Event::Feedback {
        arm: Arm::Canary,
        stage: 1,
        positive: false,
        origin: Origin::default(),
    });
    let view = trial.view();
    let canary = view.arm(Arm::Canary);
    assert_eq!((canary.counts.requests, canary.counts.errors), (0, 0));
    assert_eq!(canary.counts.other_stage, 201);
    assert_eq!((canary.total.requests, canary.total.other_stage), (300, 201));
}

#[test]
fn pinned_and_replayed_requests_take_no_part() {
    let mut trial = Trial::warm();
    trial.oks(Arm::Stable, 100);
    let pinned = Outcome { judged: false, class: Class::ModelError, ..trial.ok(Arm::Canary) };
    assert!(trial.send(200, pinned).is_empty());
    let counts = trial.view().arm(Arm::Canary).counts;
    assert_eq!((counts.requests, counts.unjudged), (0, 200));
}

#[test]
fn what_is_not_the_models_doing_is_in_no_rate() {
    let mut trial = Trial::warm();
    trial.oks(Arm::Stable, 100);
    trial.oks(Arm::Canary, 100);
    for class in [Class::ClientCancel, Class::Rejected, Class::InvalidRequest] {
        let outcome = Outcome { class, ..trial.ok(Arm::Canary) };
        assert!(trial.send(50, outcome).is_empty());
    }
    let view = trial.view();
    let canary = view.arm(Arm::Canary);
    assert_eq!(canary.error_rate, Some(0.0));
    let counts = canary.counts;
    assert_eq!((counts.requests, counts.cancels), (100, 50));
    assert_eq!((counts.rejected, counts.invalid), (50, 50));
}

#[test]
fn a_poison_prompt_retried_is_one_error() {
    let mut trial = Trial::bare();
    trial.oks(Arm::Stable, 100);
    trial.oks(Arm::Canary, 100);
    let poison =
        Outcome { class: Class::ModelError, origin: from(None, Some(7)), ..trial.ok(Arm::Canary) };
    assert!(trial.send(40, poison.clone()).is_empty());
    let counts = trial.view().arm(Arm::Canary).counts;
    assert_eq!((counts.requests, counts.errors, counts.deduplicated), (101, 1, 39));
    trial.now += Duration::from_secs(60);
    trial.send(1, poison.clone());
    trial.send(1, Outcome { class: Class::Timeout, ..poison.clone() });
    assert_eq!(
        trial.view().phase,
        Phase::RolledBack {
            reason: "errors 2.91 % (3 of 103) against stable's 0.00 % (0 of 100): ratio infinite, \
                 limit 1.50"
                .to_string()
        }
    );
}

#[test]
fn the_first_outcomes_of_a_canary_are_not_judged() {
    let mut trial = Trial::start(Policy { evidence: EvidenceRule::EValue, ..Policy::default() });
    trial.oks(Arm::Stable, 100);
    trial.errors(Arm::Canary, 9);
    trial.oks(Arm::Canary, 1);
    let counts = trial.view().arm(Arm::Canary).counts;
    assert_eq!((counts.requests, counts.errors, counts.warmup), (0, 0, 10));
    trial.oks(Arm::Canary, 5);
    assert_eq!(trial.view().arm(Arm::Canary).counts.requests, 5);
    assert_eq!(trial.view().arm(Arm::Stable).counts.requests, 100, "stable is warm");
}

#[test]
fn synthetic_requests_warm_a_canary_too() {
    let mut trial = Trial::start(Policy::default());
    let synthetic = Outcome { judged: false, ..trial.ok(Arm::Canary) };
    trial.send(10, synthetic);
    trial.oks(Arm::Canary, 1);
    assert_eq!(trial.view().arm(Arm::Canary).counts.requests, 1);
}

#[test]
fn a_streak_of_errors_is_a_fault_while_stable_succeeds() {
    let mut trial = Trial::start(Policy { evidence: EvidenceRule::EValue, ..Policy::default() });
    trial.errors(Arm::Canary, 9);
    trial.oks(Arm::Stable, 5);
    assert!(rolled_back(&trial.errors(Arm::Canary, 1), Cause::Fault), "even in the warm-up");
}

#[test]
fn a_streak_of_errors_on_both_arms_is_not_the_canarys_fault() {
    let mut trial = Trial::bare();
    trial.errors(Arm::Canary, 5);
    trial.errors(Arm::Stable, 5);
    assert!(trial.errors(Arm::Canary, 20).is_empty());
    assert!(trial.oks(Arm::Stable, 5).is_empty(), "as many successes as errors");
    assert!(rolled_back(&trial.oks(Arm::Stable, 1), Cause::Fault), "stable recovered alone");
}

#[test]
fn a_success_breaks_the_streak() {
    let mut trial = Trial::bare();
    trial.oks(Arm::Stable, 1);
    for _ in 0..4 {
        assert!(trial.errors(Arm::Canary, 9).is_empty());
        trial.oks(Arm::Stable, 100);
        trial.oks(Arm::Canary, 1);
    }
}

#[test]
fn a_fault_of_the_canary_rolls_back_and_one_of_stable_only_alerts() {
    let mut trial = Trial::warm();
    let what = "kernel launch failed".to_string();
    let stable = trial.step(Event::Fault { arm: Arm::Stable, what: what.clone() });
    assert_eq!(kinds(&stable), [DecisionKind::StableFault]);
    assert_eq!((stable.len(), trial.weight()), (1, 5));
    assert!(DecisionKind::StableFault.is_alert());
    let canary = trial.step(Event::Fault { arm: Arm::Canary, what: what.clone() });
    assert!(rolled_back(&canary, Cause::Fault));
    assert_eq!(*trial.rollout.phase(), Phase::RolledBack { reason: what });
}

#[test]
fn a_worse_p99_holds_and_stalls_but_never_rolls_back() {
    for (ttft, tpot, name) in [(120, 10, GateName::Ttft), (100, 12, GateName::Tpot)] {
        let mut trial = Trial::earlier();
        let slow = Outcome {
            ttft: Some(Duration::from_millis(ttft)),
            tpot: Some(Duration::from_millis(tpot)),
            ..trial.ok(Arm::Canary)
        };
        trial.send(14, slow);
        // 14 in 314 are far above 1 %: only the tail is slow.
        let actions = trial.bake_well();
        assert_eq!(kinds(&actions), [DecisionKind::Held]);
        assert_eq!(trial.gate(name).state.as_str(), "fail");
        assert!(trial.step(Event::Tick).is_empty(), "told once");
        trial.now += Duration::from_secs(3600);
        assert_eq!(kinds(&trial.step(Event::Tick)), [DecisionKind::Stalled]);
        assert!(trial.step(Event::Tick).is_empty(), "one alert");
        assert_eq!(trial.weight(), 5);
    }
}

#[test]
fn fewer_tokens_per_second_hold() {
    let mut trial = Trial::earlier();
    let slow = Outcome { tpot: Some(Duration::from_micros(11_300)), ..trial.ok(Arm::Canary) };
    assert_eq!(kinds(&trial.bake(slow)), [DecisionKind::Held]);
    let gate = trial.gate(GateName::Throughput);
    assert_eq!((gate.state.as_str(), gate.samples), ("fail", (300, 300)));
    assert!(gate.text.starts_with("median 88."), "{}", gate.text);
}

#[test]
fn worse_feedback_holds_and_absent_feedback_does_not() {
    let mut trial = Trial::earlier();
    trial.votes(Arm::Stable, 18, 2);
    trial.votes(Arm::Canary, 17, 3);
    assert_eq!(kinds(&trial.bake_well()), [DecisionKind::Held]);
    let gate = trial.gate(GateName::Feedback);
    assert_eq!((gate.state.as_str(), gate.samples), ("fail", (20, 20)));
    assert!(gate.evidence.is_some_and(|e| e >= 20.0), "{}", gate.text);
    trial.votes(Arm::Stable, 0, 60);
    assert_eq!(kinds(&trial.step(Event::Tick)), [raised(5, 25)], "stable's caught up");
    let why = trial.gate(GateName::Feedback).state;
    assert_eq!(why, GateState::NotJudged("no feedback".to_string()));
}

#[test]
fn answers_asked_for_again_hold() {
    let mut trial = Trial::warm();
    let stage = trial.rollout.stage();
    assert_eq!(trial.gate(GateName::Retries).state.as_str(), "not_judged");
    for _ in 0..4 {
        trial.step(Event::Retry { arm: Arm::Canary, stage, origin: Origin::default() });
    }
    assert_eq!(kinds(&trial.bake_well()), [DecisionKind::Held]);
    assert_eq!(trial.gate(GateName::Retries).state.as_str(), "fail");
    assert_eq!(trial.view().arm(Arm::Canary).counts.retries, 4);
    assert_eq!(trial.weight(), 5, "it holds and does not roll back");
}

#[test]
fn at_full_weight_the_canary_is_compared_with_stable_as_it_was() {
    let mut trial = Trial::earlier();
    for _ in 0..3 {
        trial.errors(Arm::Stable, 3);
        trial.bake_well();
    }
    assert_eq!(trial.weight(), 100);
    let reference = trial.view().reference.expect("frozen at 50 %");
    assert_eq!((reference.counts.requests, reference.counts.errors), (303, 3));
    let slow = Outcome { ttft: Some(Duration::from_millis(120)), ..trial.ok(Arm::Canary) };
    trial.send(300, slow);
    trial.now += Duration::from_secs(900);
    assert_eq!(kinds(&trial.step(Event::Tick)), [DecisionKind::Held]);
}

#[test]
fn errors_at_full_weight_roll_back_against_the_reference() {
    let mut trial = Trial::bare();
    for _ in 0..3 {
        trial.errors(Arm::Stable, 3);
        trial.bake_well();
    }
    trial.oks(Arm::Canary, 197);
    assert!(trial.errors(Arm::Canary, 2).is_empty());
    assert!(rolled_back(&trial.errors(Arm::Canary, 1), Cause::Errors), "1.50 % to 0.99 %");
}

#[test]
fn a_scrap_of_stable_traffic_does_not_replace_a_good_reference() {
    let mut trial = Trial::earlier();
    trial.oks(Arm::Stable, 5000);
    trial.order(Operator::SetWeight(percent(50))).expect("running");
    trial.oks(Arm::Stable, 2);
    trial.order(Operator::SetWeight(Weight::FULL)).expect("running");
    assert_eq!(trial.view().reference.map(|stable| stable.counts.requests), Some(5000));
}

#[test]
fn paused_it_never_rises_but_still_rolls_back() {
    let mut trial = Trial::bare();
    assert_eq!(kinds(&trial.order(Operator::Pause).expect("running")), [DecisionKind::Paused]);
    assert_eq!(trial.order(Operator::Pause), Ok(Vec::new()), "twice is once");
    assert!(trial.bake_well().is_empty());
    assert_eq!(trial.order(Operator::Promote), Err(StepError::Paused));
    let mut other = trial.clone();
    let resumed = trial.order(Operator::Resume).expect("running");
    assert_eq!(kinds(&resumed), [DecisionKind::Resumed]);
    assert_eq!(kinds(&trial.step(Event::Tick)), [raised(5, 25)]);
    assert!(rolled_back(&other.errors(Arm::Canary, 3), Cause::Errors));
}

#[test]
fn a_weight_set_by_hand_is_a_stage_of_its_own() {
    let mut trial = Trial::warm();
    trial.oks(Arm::Canary, 100);
    let actions = trial.order(Operator::SetWeight(percent(30))).expect("running");
    assert_eq!(
        actions[0],
        Action::SetWeight { weight: percent(30), routed: percent(30), stage: 2 }
    );
    assert_eq!(trial.view().arm(Arm::Canary).counts.requests, 0);
    assert_eq!(trial.view().step, None);
    assert_eq!(kinds(&trial.bake_well()), [raised(30, 50)], "to the first step above");
}

#[test]
fn a_weight_of_zero_by_hand_stays_until_changed() {
    let mut trial = Trial::warm();
    trial.order(Operator::SetWeight(Weight::ZERO)).expect("running");
    assert!(trial.bake_well().is_empty());
    assert_eq!(trial.order(Operator::Promote), Err(StepError::NoTraffic));
    assert_eq!(*trial.rollout.phase(), Phase::Running { paused: false });
    trial.order(Operator::SetWeight(percent(5))).expect("running");
    assert_eq!(kinds(&trial.bake_well()), [raised(5, 25)]);
}

#[test]
fn promotion_by_order_is_at_once_or_when_the_gates_pass() {
    let mut at_once = Trial::warm();
    at_once.order(Operator::Pause).expect("running");
    let actions = at_once.order(Operator::PromoteNow).expect("running");
    assert_eq!(kinds(&actions), [DecisionKind::Promoted]);
    assert_eq!(actions[0], Action::Promote);

    let mut by_gates = Trial::warm();
    let ordered = by_gates.order(Operator::Promote).expect("running");
    assert_eq!(kinds(&ordered), [DecisionKind::PromotionOrdered]);
    assert!(by_gates.view().promotion_ordered);
    assert_eq!(by_gates.order(Operator::Promote), Ok(Vec::new()));
    assert_eq!(kinds(&by_gates.bake_well()), [DecisionKind::Promoted], "from 5 %");
    assert!(!by_gates.view().promotion_ordered);
}

#[test]
fn an_operator_rolls_back_at_any_time_while_it_runs() {
    let mut trial = Trial::warm();
    let actions = trial.order(Operator::Rollback).expect("running");
    assert!(rolled_back(&actions, Cause::Operator));
    let reason = "by ann: a drill".to_string();
    assert_eq!(*trial.rollout.phase(), Phase::RolledBack { reason });
    let again = trial.order(Operator::Resume).expect_err("it has ended");
    assert!(again.to_string().contains("start a new one"), "{again}");
}

#[test]
fn a_new_rollout_begins_afresh_under_new_epochs() {
    let mut trial = Trial::warm();
    trial.errors(Arm::Canary, 2);
    let running = start("r2");
    let refused = trial.rollout.step(trial.now, running.clone()).expect_err("r1 is running");
    assert_eq!(refused, StepError::AlreadyRunning { rollout: "r1".to_string() });
    trial.order(Operator::Rollback).expect("running");
    let actions = trial.step(running);
    assert_eq!(actions[0], Action::SetWeight { weight: percent(5), routed: percent(5), stage: 3 });
    let view = trial.view();
    assert_eq!(view.rollout.as_deref(), Some("r2"));
    assert_eq!(view.arm(Arm::Canary).total, Counts::default());
}

#[test]
fn a_policy_that_makes_no_sense_does_not_start() {
    let mut rollout = Rollout::new(Policy { steps: Vec::new(), ..Policy::default() });
    let refused = rollout.step(SECOND, start("r1"));
    assert_eq!(refused, Err(StepError::Policy(PolicyError::FirstStepZero)));
    assert_eq!(*rollout.phase(), Phase::Idle);
    let order = Order { command: Operator::Pause, by: "ann".to_string(), reason: None };
    let none = rollout.step(SECOND, Event::Operator(order)).expect_err("idle");
    assert_eq!(none.to_string(), "no rollout is running: start one first");
}

#[test]
fn the_view_shows_the_stage() {
    let mut trial = Trial::warm();
    trial.oks(Arm::Stable, 100);
    trial.now += Duration::from_secs(10);
    let view = trial.view();
    assert_eq!((view.weight.percent(), view.step, view.stage), (5, Some(0), 1));
    assert_eq!(view.stage_age, Duration::from_secs(10));
    let stable = view.arm(Arm::Stable);
    assert_eq!((stable.arm, stable.mean_output_tokens), (Arm::Stable, Some(90.0)));
    let ttft = stable.ttft.expect("samples").p99.as_secs_f64();
    assert!((0.100..0.1004).contains(&ttft), "{ttft}");
    let rate = stable.tokens_per_second.expect("samples");
    assert!((99.6..=100.0).contains(&rate), "{rate}");
    let canary = view.arm(Arm::Canary);
    assert_eq!((canary.ttft, canary.error_rate), (None, None));
    assert_eq!(view.verdict.overall(), Overall::Inconclusive);
}

#[test]
fn decisions_tell_for_how_long_the_device_was_throttled_in_their_stage() {
    let mut trial = Trial::warm();
    let seconds = Duration::from_secs;
    let text = |actions: &[Action]| match actions.last() {
        Some(Action::Decision(decision)) => decision.text.clone(),
        other => panic!("no decision: {other:?}"),
    };
    trial.now += seconds(100);
    for _ in 0..7 {
        assert!(trial.step(Event::Throttled { time: seconds(5) }).is_empty());
    }
    assert_eq!(trial.view().throttled, seconds(35));
    let raised = text(&trial.bake_well());
    assert!(raised.ends_with("; the device was throttled for 35.0 s at this weight"), "{raised}");
    assert_eq!(trial.view().throttled, Duration::ZERO, "the next stage begins anew");
    let quiet = text(&trial.bake_well());
    assert!(!quiet.contains("throttled"), "{quiet}");
    trial.now += seconds(10);
    trial.step(Event::Throttled { time: seconds(60) });
    assert_eq!(trial.view().throttled, seconds(10), "most of it was before this stage");
    let order = trial.order(Operator::SetWeight(Weight(7))).unwrap();
    assert!(text(&order).ends_with("throttled for 10.0 s at this weight"));
}
