//! Tests of the rollout with exact evidence: what rolls back, holds and passes, with small seeded traffic.
//!
//! `benches/judging.rs` measures how often this happens over thousands of rollouts.

use std::time::Duration;

use super::testing::*;
use super::*;

/// Random traffic at the weight in force.
struct Traffic {
    trial: Trial,
    luck: Luck,
}

impl Traffic {
    fn begin(change: impl FnOnce(&mut Policy)) -> Traffic {
        let mut policy = Policy { warmup_requests: 0, ..Policy::default() };
        change(&mut policy);
        Traffic { trial: Trial::start(policy), luck: Luck(7) }
    }

    fn unit(&mut self) -> f64 {
        self.luck.unit()
    }

    /// Requests of other parties each, until something follows; `change` makes the canary what it is.
    fn send(&mut self, count: u64, mut change: impl FnMut(&mut Outcome, f64)) -> Vec<Action> {
        for n in 0..count {
            let share = self.trial.rollout.routed().fraction();
            let arm = if self.unit() < share { Arm::Canary } else { Arm::Stable };
            let luck = self.unit();
            let time = Duration::from_secs_f64(0.1 * (0.9 + 0.2 * self.unit()));
            let origin = from(Some(n), None);
            let mut one = Outcome { origin, ttft: Some(time), ..self.trial.ok(arm) };
            change(&mut one, luck);
            self.trial.now += Duration::from_millis(10);
            let actions = self.trial.step(Event::Outcome(one));
            if !actions.is_empty() {
                return actions;
            }
        }
        Vec::new()
    }

    /// The end of the bake time.
    fn tick(&mut self) -> Vec<Action> {
        self.trial.now += Duration::from_secs(900);
        self.trial.step(Event::Tick)
    }

    fn state(&self, name: GateName) -> &'static str {
        self.trial.gate(name).state.as_str()
    }
}

fn flagged(flag: Flag, rate: f64) -> impl FnMut(&mut Outcome, f64) {
    move |one, luck| {
        if one.arm == Arm::Canary && luck < rate {
            one.flags = Flags::NONE.with(flag);
        }
    }
}

#[test]
fn an_equal_canary_rises_and_part_of_the_traffic_is_held_back_at_the_end() {
    let mut traffic = Traffic::begin(|_| ());
    for next in [25, 50, 100] {
        assert!(traffic.send(8000, |_, _| ()).is_empty());
        traffic.tick();
        assert_eq!(traffic.trial.weight(), next);
    }
    let view = traffic.trial.view();
    assert_eq!((view.weight, view.routed), (Weight::FULL, percent(90)));
    assert!(view.reference.is_none(), "stable is still beside it");
    traffic.send(8000, |_, _| ());
    assert_eq!(kinds(&traffic.tick()), [DecisionKind::Promoted]);
}

#[test]
fn errors_roll_back_even_in_the_warm_up_and_at_the_last_step() {
    let fails = |one: &mut Outcome, _| {
        if one.arm == Arm::Canary {
            one.class = Class::ModelError;
        }
    };
    let mut traffic = Traffic::begin(|p| p.warmup_requests = 10);
    assert!(rolled_back(&traffic.send(1000, fails), Cause::Errors));
    let canary = traffic.trial.view().arm(Arm::Canary).total;
    assert!(canary.warmup <= 5, "{canary:?}");
    let mut late = Traffic::begin(|_| ());
    late.trial.order(Operator::SetWeight(Weight::FULL)).expect("running");
    assert!(late.send(600, |_, _| ()).is_empty());
    assert!(rolled_back(&late.send(100, fails), Cause::Fault), "ten in a row come first");
}

#[test]
fn each_quality_flag_does_what_the_policy_says() {
    for flag in Flag::ALL {
        for action in
            [SignalAction::Rollback, SignalAction::Hold, SignalAction::Notify, SignalAction::Off]
        {
            let mut traffic = Traffic::begin(|p| set(&mut p.quality, flag, action));
            let actions = traffic.send(8000, flagged(flag, 0.3));
            let gate = GateName::Quality(flag);
            match action {
                SignalAction::Rollback => {
                    assert!(rolled_back(&actions, Cause::Quality), "{flag:?}");
                    let text = traffic.trial.view().last_decision.expect("a rollback").text;
                    assert!(text.contains(flag.phrase()), "{text}");
                }
                SignalAction::Hold => {
                    assert_eq!(kinds(&traffic.tick()), [DecisionKind::Held], "{flag:?}");
                    assert_eq!(traffic.state(gate), "fail");
                }
                SignalAction::Notify => {
                    let noticed = DecisionKind::Noticed { gate: GateName::Quality(flag) };
                    assert_eq!(kinds(&traffic.trial.step(Event::Tick)), [noticed]);
                    assert_eq!(traffic.state(gate), "noted");
                    assert_eq!(kinds(&traffic.tick()), [raised(5, 25)], "told once: {flag:?}");
                }
                SignalAction::Off => {
                    assert_eq!(kinds(&traffic.tick()), [raised(5, 25)]);
                    assert!(traffic.trial.view().verdict.gate(gate).is_none());
                }
            }
        }
    }
}

fn set(quality: &mut QualityActions, flag: Flag, action: SignalAction) {
    let of = match flag {
        Flag::Empty => &mut quality.empty,
        Flag::Length => &mut quality.length,
        Flag::Loop => &mut quality.looping,
        Flag::Structure => &mut quality.structure,
        Flag::UnknownTool => &mut quality.unknown_tool,
        Flag::Script => &mut quality.script,
        Flag::Refusal => &mut quality.refusal,
        Flag::Cancelled => &mut quality.cancelled,
        Flag::Rescued => &mut quality.rescued,
    };
    *of = action;
}

#[test]
fn a_slower_canary_is_held_and_an_equal_one_is_not() {
    for (factor, passes) in [(1.0, true), (1.3, false)] {
        let mut traffic = Traffic::begin(|_| ());
        traffic.send(8000, |one, _| {
            if one.arm == Arm::Canary {
                one.ttft = one.ttft.map(|time| time.mul_f64(factor));
            }
        });
        let want = if passes { raised(5, 25) } else { DecisionKind::Held };
        assert_eq!(kinds(&traffic.tick()), [want], "{}", traffic.trial.gate(GateName::Ttft).text);
        assert_eq!(traffic.trial.weight(), if passes { 25 } else { 5 });
    }
}

#[test]
fn a_rare_kind_of_work_is_judged_before_it_has_a_p99_of_its_own() {
    for (factor, passes) in [(1.0, true), (2.0, false)] {
        let mut traffic = Traffic::begin(|policy| policy.steps = vec![Weight(50), Weight::FULL]);
        let mut long = 0;
        traffic.send(1200, |one, luck| {
            if luck < 0.03 {
                long += u32::from(one.arm == Arm::Stable);
                let factor = if one.arm == Arm::Canary { factor } else { 1.0 };
                one.prompt_tokens = 4000;
                one.ttft = one.ttft.map(|time| time.mul_f64(20.0 * factor));
            }
        });
        assert!(long < 30, "too few for a p99: {long}");
        let want = if passes { raised(50, 100) } else { DecisionKind::Held };
        assert_eq!(kinds(&traffic.tick()), [want], "{}", traffic.trial.gate(GateName::Ttft).text);
    }
}

#[test]
fn a_ttft_that_is_longer_by_less_than_the_floor_is_not_slower() {
    for (longer, passes) in [(190, true), (400, false)] {
        let mut traffic = Traffic::begin(|_| ());
        traffic.send(8000, |one, _| {
            let longer = if one.arm == Arm::Canary { longer } else { 0 };
            one.ttft = one.ttft.map(|time| time / 250 + Duration::from_micros(longer));
        });
        let want = if passes { raised(5, 25) } else { DecisionKind::Held };
        assert_eq!(kinds(&traffic.tick()), [want], "{}", traffic.trial.gate(GateName::Ttft).text);
    }
}

#[test]
fn clients_that_leave_a_silent_canary_are_evidence() {
    let mut traffic = Traffic::begin(|_| ());
    traffic.send(8000, |one, _| {
        if one.arm == Arm::Canary {
            one.class = Class::ClientCancel;
            one.ttft = Some(Duration::from_secs(1));
            (one.tpot, one.censored) = (None, true);
        }
    });
    assert_eq!(kinds(&traffic.tick()), [DecisionKind::Held]);
    assert_eq!(traffic.state(GateName::Ttft), "fail");
}

#[test]
fn samples_that_only_one_arm_tends_to_have_do_not_hold() {
    // Nearly all of the canary's replies run next to one of stable, but not the other way round.
    let mut traffic = Traffic::begin(|_| ());
    traffic.send(8000, |one, luck| one.matched = one.arm == Arm::Canary || luck < 0.3);
    assert_eq!(
        kinds(&traffic.tick()),
        [raised(5, 25)],
        "{}",
        traffic.trial.gate(GateName::Ttft).text
    );
}

#[test]
fn votes_and_retries_hold() {
    for votes in [true, false] {
        let mut traffic = Traffic::begin(|_| ());
        traffic.send(8000, |_, _| ());
        let stage = traffic.trial.rollout.stage();
        for n in 0..30 {
            let arm = if n % 3 == 0 { Arm::Stable } else { Arm::Canary };
            let origin = from(Some(n), Some(n));
            let event = match votes {
                true => Event::Feedback { arm, stage, positive: false, origin },
                false => Event::Retry { arm, stage, origin },
            };
            traffic.trial.step(event);
        }
        assert_eq!(kinds(&traffic.tick()), [DecisionKind::Held]);
        let name = if votes { GateName::Feedback } else { GateName::Retries };
        assert_eq!(traffic.state(name), "fail");
    }
}

#[test]
fn one_session_that_always_fails_counts_once_at_each_weight() {
    let mut traffic = Traffic::begin(|_| ());
    traffic.send(1000, |_, _| ());
    let poison = |traffic: &Traffic| Outcome {
        class: Class::ModelError,
        origin: from(Some(1), Some(1)),
        ..traffic.trial.ok(Arm::Canary)
    };
    for _ in 0..50 {
        traffic.trial.now += Duration::from_secs(90);
        traffic.trial.oks(Arm::Canary, 1);
        let one = poison(&traffic);
        assert!(traffic.trial.send(1, one).is_empty());
    }
    let gate = traffic.trial.gate(GateName::Errors);
    assert!(gate.evidence.is_some_and(|e| e < 10.0), "{}", gate.text);
}

#[test]
fn a_party_that_is_alone_decides_and_is_named() {
    let mut traffic = Traffic::begin(|p| p.fault_streak = 1000);
    traffic.send(2000, |one, luck| {
        one.origin.party = Some(1);
        if one.arm == Arm::Canary && luck < 0.5 {
            one.class = Class::ModelError;
        }
    });
    let view = traffic.trial.view();
    assert!(matches!(view.phase, Phase::RolledBack { .. }));
    let text = view.last_decision.expect("a rollback").text;
    assert!(text.contains("of one party"), "{text}");
}

#[test]
fn strict_mode_waits_for_certainty() {
    let mut traffic = Traffic::begin(|p| p.mode = Mode::Strict);
    traffic.send(8000, |_, _| ());
    assert_eq!(kinds(&traffic.tick()), [DecisionKind::Held]);
    assert_eq!(traffic.state(GateName::Errors), "inconclusive", "no errors, no certainty");
    assert_eq!(traffic.state(GateName::Ttft), "inconclusive");
    let mut faster = Traffic::begin(|p| p.mode = Mode::Strict);
    faster.send(30_000, |one, luck| {
        if luck < 0.05 {
            one.class = Class::ModelError;
        }
        let factor = if one.arm == Arm::Canary { 0.7 } else { 1.0 };
        one.ttft = one.ttft.map(|time| time.mul_f64(factor / (1.05 - luck)));
    });
    let text = faster.trial.gate(GateName::Ttft).text;
    assert_eq!(faster.state(GateName::Ttft), "pass", "{text}");
}

#[test]
fn a_gate_acts_at_the_evidence_that_its_text_names() {
    let limit = |gate| Policy::default().evidence_limit(gate).map(f64::round);
    assert_eq!(limit(GateName::Errors), Some(25.0), "1/alpha, of which errors have four fifths");
    assert_eq!(limit(GateName::Ttft), Some(20.0));
    assert_eq!(limit(GateName::Bake), None);
    let plain = Policy { evidence: EvidenceRule::None, ..Policy::default() };
    assert_eq!(plain.evidence_limit(GateName::Errors), None);
}
