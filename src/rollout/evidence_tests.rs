//! Tests of the error evidence of earlier versions (by the weight of the stage), with examples and seeded random data:
//! what must roll back and what must not.

use std::time::Duration;

use super::testing::*;
use super::*;

/// splitmix64.
struct Coin(u64);

impl Coin {
    fn toss(&mut self, p: f64) -> bool {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        let unit = ((z ^ (z >> 31)) >> 11) as f64 / (1u64 << 53) as f64;
        unit < p
    }
}

fn manual(percent_: u8, change: impl FnOnce(&mut Policy)) -> Trial {
    let mut policy = Policy {
        steps: vec![percent(percent_), Weight::FULL],
        warmup_requests: 0,
        advance: Advance::Manual,
        evidence: EvidenceRule::EValue,
        ..Policy::default()
    };
    change(&mut policy);
    Trial::start(policy)
}

/// Sends requests until a rollback, up to a limit. Returns the number of requests.
fn until_back(trial: &mut Trial, coin: &mut Coin, rates: [f64; 2], most: u64) -> Option<u64> {
    (1..=most).find(|_| {
        trial.now += Duration::from_millis(1);
        let canary = coin.toss(trial.rollout.weight().fraction());
        let arm = if canary { Arm::Canary } else { Arm::Stable };
        let class = if coin.toss(rates[arm.index()]) { Class::ModelError } else { Class::Ok };
        let one = Outcome { class, ttft: None, tpot: None, ..trial.ok(arm) };
        trial.step(Event::Outcome(one));
        matches!(trial.rollout.phase(), Phase::RolledBack { .. })
    })
}

#[test]
fn equal_models_are_seldom_rolled_back_and_the_bare_rule_often_does() {
    let back = |evidence| {
        let runs = (0..100).filter(|seed| {
            let mut trial = manual(25, |p| {
                p.evidence = evidence;
                p.bake = Duration::from_secs(2);
            });
            until_back(&mut trial, &mut Coin(*seed), [0.02, 0.02], 4000).is_some()
        });
        runs.count()
    };
    let (with, without) = (back(EvidenceRule::EValue), back(EvidenceRule::None));
    assert!(with <= 5, "{with} of 100");
    assert!(without >= 40, "{without} of 100: the comparison is real");
}

#[test]
fn a_worse_canary_is_found_in_time() {
    for (at, ratio, document) in [(5, 10.0, 600), (25, 5.0, 550), (50, 3.0, 1200)] {
        let mut found: Vec<u64> = (0..41)
            .map(|seed| {
                let mut trial = manual(at, |_| ());
                let rates = [0.01, 0.01 * ratio];
                until_back(&mut trial, &mut Coin(seed), rates, 9999).unwrap_or(9999)
            })
            .collect();
        found.sort_unstable();
        assert!(found[20] < document * 2, "{at} % {ratio}x: {}", found[20]);
    }
}

#[test]
fn errors_of_an_earlier_stage_still_count_as_evidence() {
    let mut trial = Trial::earlier();
    trial.bake_well();
    assert_eq!(trial.weight(), 25);
    let late = Outcome { stage: 1, class: Class::Timeout, ..trial.ok(Arm::Canary) };
    let actions = trial.send(9, late);
    assert!(rolled_back(&actions, Cause::Errors), "nine late errors");
}

#[test]
fn outcomes_of_an_earlier_rollout_count_nowhere() {
    let mut trial = Trial::earlier();
    trial.oks(Arm::Stable, 300);
    trial.order(Operator::Rollback).expect("running");
    trial.step(start("r2"));
    trial.oks(Arm::Stable, 300);
    let late = Outcome { stage: 1, class: Class::Timeout, ..trial.ok(Arm::Canary) };
    assert!(trial.send(50, late).is_empty());
    let gate = trial.gate(GateName::Errors);
    assert_eq!(gate.samples, (300, 0));
}

#[test]
fn a_drifting_base_rate_is_no_regression() {
    // 0.2, 1, then 3 % on both arms, at 5, 25 and 50 %.
    let mut trial = Trial::earlier();
    for (errors, of) in [(2, 1000), (10, 1000), (30, 1000)] {
        for arm in Arm::BOTH {
            trial.oks(arm, of - errors);
        }
        for _ in 0..errors {
            assert!(trial.errors(Arm::Stable, 1).is_empty());
            assert!(trial.errors(Arm::Canary, 1).is_empty());
        }
        let next = [25, 50, 100].into_iter().find(|next| *next > trial.weight());
        let next = percent(next.expect("three stages"));
        trial.order(Operator::SetWeight(next)).expect("running");
    }
}

#[test]
fn the_gate_shows_ratio_evidence_and_interval() {
    let mut trial = Trial::earlier();
    trial.oks(Arm::Stable, 9900);
    trial.errors(Arm::Stable, 100);
    trial.oks(Arm::Canary, 495);
    trial.errors(Arm::Canary, 5);
    let gate = trial.gate(GateName::Errors);
    assert_eq!(gate.state, GateState::Pass, "{}", gate.text);
    assert!(gate.value.is_some_and(|ratio| (ratio - 1.0).abs() < 0.01), "{gate:?}");
    assert!(gate.evidence.is_some_and(|e| e < 1.0));
    let (low, high) = gate.interval.expect("errors enough");
    assert!(low < 1.0 && high > 1.0, "{low} {high}");
    assert_eq!(gate.samples, (10_000, 500));
    assert_eq!(trial.view().verdict.counts[1].requests, 500);
}

#[test]
fn strict_asks_for_certainty() {
    let mut trial = manual(50, |p| {
        p.mode = Mode::Strict;
        p.fault_streak = 1000;
    });
    trial.oks(Arm::Stable, 990);
    trial.oks(Arm::Canary, 990);
    trial.errors(Arm::Stable, 10);
    trial.errors(Arm::Canary, 10);
    let gate = trial.gate(GateName::Errors);
    assert_eq!(gate.state.as_str(), "inconclusive", "{}", gate.text);
    for _ in 0..40 {
        trial.errors(Arm::Stable, 5);
        trial.errors(Arm::Canary, 5);
        trial.oks(Arm::Stable, 500);
        trial.oks(Arm::Canary, 500);
    }
    let gate = trial.gate(GateName::Errors);
    assert_eq!(gate.state, GateState::Pass, "{}", gate.text);
    assert!(gate.interval.is_some_and(|(_, high)| high < 1.5), "{}", gate.text);
}

#[test]
fn a_key_that_only_fails_cannot_roll_back_alone_but_others_with_it_can() {
    let mut trial = manual(5, |p| p.fault_streak = 1000);
    let keyed = |trial: &mut Trial, key, class, arm| {
        let one = Outcome { class, origin: from(Some(key), None), ..trial.ok(arm) };
        trial.step(Event::Outcome(one))
    };
    for key in 2..200 {
        keyed(&mut trial, key, Class::Ok, Arm::Stable);
        keyed(&mut trial, key, Class::Ok, Arm::Canary);
    }
    for _ in 0..100 {
        assert!(keyed(&mut trial, 1, Class::ModelError, Arm::Canary).is_empty());
    }
    let gate = trial.gate(GateName::Errors);
    assert_eq!(gate.state.as_str(), "inconclusive", "{}", gate.text);
    assert!(gate.text.contains("of 20"), "{}", gate.text);
    assert!(trial.view().arm(Arm::Canary).counts.over_share == 0, "half of the sample at most");
    let mut others = Vec::new();
    for key in 2..9 {
        others.extend(keyed(&mut trial, key, Class::ModelError, Arm::Canary));
    }
    assert!(rolled_back(&others, Cause::Errors), "{}", trial.gate(GateName::Errors).text);
}

#[test]
fn a_lone_key_can_roll_back() {
    let mut trial = manual(5, |_| ());
    let key = Some(1);
    trial.send(300, Outcome { origin: from(key, None), ..trial.ok(Arm::Stable) });
    trial.send(30, Outcome { origin: from(key, None), ..trial.ok(Arm::Canary) });
    let bad =
        Outcome { origin: from(key, None), class: Class::ModelError, ..trial.ok(Arm::Canary) };
    assert!(rolled_back(&trial.send(9, bad), Cause::Errors));
}

#[test]
fn a_key_is_not_more_than_its_share_of_the_sample() {
    let mut trial = Trial::earlier();
    trial.oks(Arm::Canary, 50);
    trial.send(500, Outcome { origin: from(Some(1), None), ..trial.ok(Arm::Canary) });
    let counts = trial.view().arm(Arm::Canary).counts;
    assert!((100..=121).contains(&counts.requests), "{counts:?}");
    assert_eq!(counts.requests + counts.over_share, 550);
}

#[test]
fn a_streak_of_one_key_or_session_is_no_fault_while_others_are_active() {
    for (key, session) in [(Some(7), None), (None, Some(7))] {
        let mut trial = Trial::bare();
        trial.oks(Arm::Stable, 100);
        let bad = Outcome {
            origin: from(key, session),
            class: Class::ModelError,
            ..trial.ok(Arm::Canary)
        };
        for _ in 0..40 {
            trial.now += Duration::from_secs(61);
            assert!(trial.send(1, bad.clone()).is_empty());
            trial.oks(Arm::Stable, 1);
        }
        let actions = trial.errors(Arm::Canary, 1);
        assert!(rolled_back(&actions, Cause::Fault), "somebody else meets the same");
    }
}

#[test]
fn at_full_weight_a_dying_canary_goes_and_a_drift_stays() {
    let begin = || {
        let mut trial = manual(50, |p| p.fault_streak = 1000);
        trial.oks(Arm::Stable, 2970);
        trial.oks(Arm::Canary, 2970);
        trial.errors(Arm::Stable, 30);
        trial.errors(Arm::Canary, 30);
        trial.order(Operator::SetWeight(Weight::FULL)).expect("running");
        trial
    };
    let mut drift = begin();
    assert_eq!(until_back(&mut drift, &mut Coin(1), [0.0, 0.03], 5000), None);
    assert_eq!(drift.gate(GateName::Errors).state, GateState::Pass);
    let mut dying = begin();
    assert!(until_back(&mut dying, &mut Coin(1), [0.0, 0.3], 5000).is_some_and(|n| n < 100));
    let decision = dying.view().last_decision.expect("rolled back");
    assert!(
        decision.text.contains("alone, stable's were 1.00 % (30 of 3000)"),
        "{}",
        decision.text
    );
}

#[test]
fn the_view_says_how_long_it_takes() {
    let mut trial = Trial::earlier();
    trial.oks(Arm::Stable, 1900);
    trial.oks(Arm::Canary, 100);
    trial.errors(Arm::Stable, 19);
    trial.now += Duration::from_secs(100);
    let forecast = trial.view().forecast.expect("running");
    assert_eq!(forecast.requests_per_second, Some([19.19, 1.0]));
    let left = |name| forecast.gates.iter().find(|(known, _)| *known == name).map(|(_, at)| *at);
    assert_eq!(left(GateName::Bake), Some(Some(Duration::from_secs(800))));
    assert_eq!(left(GateName::Requests), Some(Some(Duration::from_secs(200))));
    assert_eq!(left(GateName::Ttft), None, "a hundred samples are there");
    assert!(forecast.detectable_error_ratio.is_some_and(|ratio| (3.0..8.0).contains(&ratio)));
    assert_eq!(forecast.detectable_exceedance, Some(0.06), "6 of 100, by the formula");
    assert!(forecast.until_doubled_errors.is_some_and(|t| t > Duration::from_secs(300)));
}
