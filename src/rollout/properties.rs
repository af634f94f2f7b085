//! Properties that hold for every sequence of events, however long and with any clock.
//!
//! Two million steps: `SERIN_CASES=4200 cargo test --release --lib properties -- --nocapture`.

use std::time::Duration;

use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::TestRunner;

use super::testing::percent;
use super::*;

/// A small policy, so that a few hundred events can complete a rollout.
fn policy() -> Policy {
    Policy {
        bake: Duration::from_secs(10),
        min_requests: 6,
        warmup_requests: 2,
        fault_streak: 4,
        stall_after: Duration::from_secs(30),
        ..Policy::default()
    }
}

/// The same policy in each mode.
fn variant(which: u8) -> Policy {
    let some = percent(25);
    match which {
        0 => policy(),
        1 => Policy { mode: Mode::Strict, ..policy() },
        2 => Policy { advance: Advance::Manual, ..policy() },
        3 => Policy { advance: Advance::DryRun, ..policy() },
        4 => Policy { confirm: vec![ConfirmAt::Before(some), ConfirmAt::Promote], ..policy() },
        5 => Policy { evidence: EvidenceRule::EValue, ..policy() },
        _ => Policy { evidence: EvidenceRule::None, max_key_share: 1.0, ..policy() },
    }
}

/// An event that still has to be adapted to the current stage, after the clock has moved.
#[derive(Debug, Clone)]
enum Plan {
    /// An outcome; its stage is the current one minus this number.
    Outcome(Outcome, u64),
    /// This many good outcomes on each arm.
    Good(usize),
    Plain(Event),
}

#[derive(Debug, Clone, Copy)]
enum Clock {
    Forward(Duration),
    Back(Duration),
    Set(Duration),
}

impl Clock {
    fn apply(self, now: Duration) -> Duration {
        match self {
            Clock::Forward(by) => now.saturating_add(by),
            Clock::Back(by) => now.saturating_sub(by),
            Clock::Set(to) => to,
        }
    }
}

fn clock() -> impl Strategy<Value = Clock> {
    let ms = |range: std::ops::Range<u64>| range.prop_map(Duration::from_millis);
    prop_oneof![
        80 => ms(0..4_000).prop_map(Clock::Forward),
        6 => ms(0..100_000).prop_map(Clock::Forward),
        6 => ms(0..100_000).prop_map(Clock::Back),
        1 => Just(Clock::Set(Duration::ZERO)),
        1 => Just(Clock::Set(Duration::MAX)),
    ]
}

fn arm() -> impl Strategy<Value = Arm> {
    prop_oneof![Just(Arm::Stable), Just(Arm::Canary)]
}

fn latency() -> impl Strategy<Value = Option<Duration>> {
    let some = |range: std::ops::Range<u64>| range.prop_map(|us| Some(Duration::from_micros(us)));
    prop_oneof![
        10 => some(100_000..105_000),
        1 => some(0..2_000_000),
        1 => Just(Some(Duration::MAX)),
        1 => Just(None),
    ]
}

fn outcome() -> impl Strategy<Value = Outcome> {
    let class = prop_oneof![
        20 => Just(Class::Ok),
        1 => Just(Class::ModelError),
        1 => Just(Class::Timeout),
        1 => Just(Class::ClientCancel),
        1 => Just(Class::Rejected),
        1 => Just(Class::InvalidRequest),
    ];
    let session = prop::option::of(0u64..4);
    let key = prop::option::of(0u64..3);
    let who = (session, key);
    let parts = (arm(), class, prop::bool::weighted(0.9), who, latency(), latency(), 0u32..999);
    parts.prop_map(|(arm, class, judged, (session, key), ttft, tpot, output_tokens)| Outcome {
        judged,
        origin: Origin { party: key, cluster: session, routed: None },
        ttft,
        censored: class == Class::ClientCancel && output_tokens % 3 == 0,
        tpot,
        e2e: Duration::from_secs(1),
        prompt_tokens: output_tokens,
        output_tokens,
        flags: Flags::from_bits(if output_tokens > 900 { output_tokens as u16 } else { 0 }),
        matched: output_tokens % 2 == 0,
        ..Outcome::new(arm, class, 0)
    })
}

fn operator() -> impl Strategy<Value = Operator> {
    prop_oneof![
        4 => Just(Operator::Pause),
        8 => Just(Operator::Resume),
        4 => (0u8..=100).prop_map(|percent| Operator::SetWeight(Weight(percent))),
        1 => any::<bool>().prop_map(|now| if now { Operator::PromoteNow } else { Operator::Promote }),
        1 => Just(Operator::Rollback),
        1 => Just(Operator::Confirm),
        1 => Just(Operator::Undo),
    ]
}

fn order(command: Operator) -> Plan {
    Plan::Plain(Event::Operator(Order { command, by: "ann".to_string(), reason: None }))
}

fn plan() -> impl Strategy<Value = Plan> {
    let start = |self_test| Plan::Plain(Event::Start { rollout: "r".to_string(), self_test });
    let fault = |arm| Plan::Plain(Event::Fault { arm, what: "dead".to_string() });
    let throttled = |seconds| Plan::Plain(Event::Throttled { time: Duration::from_secs(seconds) });
    let origin = Origin::default();
    let vote =
        move |(arm, stage, positive)| Plan::Plain(Event::Feedback { arm, stage, positive, origin });
    prop_oneof![
        60 => (outcome(), prop_oneof![12 => Just(0u64), 1 => 0u64..4])
            .prop_map(|(outcome, behind)| Plan::Outcome(outcome, behind)),
        20 => (1usize..10).prop_map(Plan::Good),
        30 => Just(Plan::Plain(Event::Tick)),
        6 => (arm(), 0u64..20, any::<bool>()).prop_map(vote),
        3 => (arm(), 0u64..20).prop_map(|(arm, stage)| Plan::Plain(Event::Retry { arm, stage, origin: Origin::default() })),
        1 => (arm(), 0u64..20, 0.5f32..1.5).prop_map(move |(writer, stage, nats)| {
            let read = [Read { nats, implausible: 0.1 }, Read { nats: 1.0, implausible: 0.0 }];
            let agreement = Some(Agreement { kl: nats, differing: 0.2, sharper: 0.0, excess: 0.1 });
            Plan::Plain(Event::Reading(Reading { writer, stage, origin, read, agreement, asked_otherwise: false }))
        }),
        6 => operator().prop_map(order),
        8 => prop::bool::weighted(0.1).prop_map(start),
        1 => arm().prop_map(fault),
        2 => (0u64..10_000).prop_map(throttled),
    ]
}

fn plans() -> impl Strategy<Value = Vec<(Clock, Plan)>> {
    prop::collection::vec((clock(), plan()), 100..300)
}

fn good(arm: Arm, stage: u64) -> Outcome {
    Outcome {
        ttft: Some(Duration::from_millis(100)),
        tpot: Some(Duration::from_millis(100)),
        e2e: Duration::from_secs(1),
        output_tokens: 10,
        ..Outcome::new(arm, Class::Ok, stage)
    }
}

/// The plan as events of the current stage.
fn events(plan: &Plan, stage: u64) -> Vec<Event> {
    match plan {
        Plan::Outcome(outcome, behind) => {
            let stage = stage.saturating_sub(*behind);
            vec![Event::Outcome(Outcome { stage, ..outcome.clone() })]
        }
        Plan::Good(count) => Arm::BOTH
            .iter()
            .flat_map(|arm| std::iter::repeat_n(Event::Outcome(good(*arm, stage)), *count))
            .collect(),
        Plan::Plain(event) => vec![event.clone()],
    }
}

type Step = (Duration, Event, Result<Vec<Action>, StepError>);

/// Runs the plans and checks each step against the invariants; returns all steps.
fn run(policy: &Policy, plans: &[(Clock, Plan)]) -> Result<Vec<Step>, TestCaseError> {
    let mut rollout = Rollout::new(policy.clone());
    let mut now = Duration::from_secs(1000);
    let mut steps = Vec::new();
    for (clock, plan) in plans {
        now = clock.apply(now);
        let mut before = rollout.view(now);
        for event in events(plan, rollout.stage()) {
            let whole = (event == Event::Tick).then(|| rollout.clone());
            let result = rollout.step(now, event.clone());
            if whole.is_some() && result == Ok(Vec::new()) {
                prop_assert!(whole.as_ref() == Some(&rollout), "an idle tick changed the state");
            }
            let after = rollout.view(now);
            check(policy, &before, &event, &result, &after)?;
            before = after;
            steps.push((now, event, result));
        }
    }
    Ok(steps)
}

fn check(
    policy: &Policy,
    before: &View,
    event: &Event,
    result: &Result<Vec<Action>, StepError>,
    after: &View,
) -> Result<(), TestCaseError> {
    let actions = result.as_deref().unwrap_or_default();
    let ordered = matches!(event, Event::Start { .. } | Event::Operator(_));
    let was_running = matches!(before.phase, Phase::Running { .. });
    let is_running = matches!(after.phase, Phase::Running { .. });
    if !is_running {
        prop_assert_eq!(after.weight, Weight::ZERO);
    }
    let undone = before.phase == Phase::Promoted
        && matches!(event, Event::Operator(Order { command: Operator::Undo, .. }));
    if !was_running && !matches!(event, Event::Start { .. }) && !undone {
        prop_assert!(actions.is_empty());
        prop_assert_eq!(before.stage, after.stage);
        prop_assert_eq!(result.is_err(), matches!(event, Event::Operator(_)));
    }
    if !ordered {
        prop_assert!(result.is_ok());
    }
    if result.is_err() {
        prop_assert_eq!(before, after);
    }
    if after.weight > before.weight && !ordered {
        check_raise(policy, before, event, after)?;
    }
    if after.phase == Phase::Promoted && was_running && !ordered {
        prop_assert_eq!(before.verdict.overall(), Overall::Pass);
        prop_assert!(before.weight == Weight::FULL || before.promotion_ordered);
    }
    if policy.advance == Advance::DryRun && was_running && !ordered {
        let fault = matches!(event, Event::Fault { .. })
            || after
                .last_decision
                .as_ref()
                .is_some_and(|d| d.kind == DecisionKind::RolledBack { cause: Cause::Fault });
        let ordered = before.promotion_ordered || before.self_test;
        prop_assert!(fault || ordered || before.weight == after.weight, "a dry run acted");
    }
    check_actions(before, actions, after)?;
    check_figures(policy, after)
}

/// Checks an automatic raise: at a tick, not paused, baked, all gates passed, exactly one step up.
fn check_raise(
    policy: &Policy,
    before: &View,
    event: &Event,
    after: &View,
) -> Result<(), TestCaseError> {
    prop_assert!(policy.advance == Advance::Auto || before.self_test);
    prop_assert!(!before.awaiting_confirm);
    prop_assert_eq!(event, &Event::Tick);
    prop_assert_eq!(&before.phase, &Phase::Running { paused: false });
    prop_assert!(before.stage_age >= before.bake);
    prop_assert!(before.self_test || before.verdict.overall() == Overall::Pass);
    prop_assert!(before.arm(Arm::Canary).counts.requests >= policy.min_requests);
    let next = before.steps.iter().find(|step| **step > before.weight);
    prop_assert_eq!(Some(&after.weight), next);
    prop_assert_eq!(after.arm(Arm::Canary).counts, Counts::default());
    Ok(())
}

/// The actions report every change: each new epoch comes with its weight, and only then.
fn check_actions(before: &View, actions: &[Action], after: &View) -> Result<(), TestCaseError> {
    let routed = actions.iter().find_map(|action| match action {
        Action::SetWeight { weight, stage, .. } => Some((*weight, *stage)),
        _ => None,
    });
    match routed {
        Some(routed) => {
            prop_assert_eq!(routed, (after.weight, after.stage));
            prop_assert_eq!(after.stage, before.stage + 1);
        }
        None => prop_assert_eq!((before.weight, before.stage), (after.weight, after.stage)),
    }
    let rolled_back = matches!(after.phase, Phase::RolledBack { .. });
    if rolled_back && !actions.is_empty() {
        let off =
            Action::SetWeight { weight: Weight::ZERO, routed: Weight::ZERO, stage: after.stage };
        let wanted = match before.phase {
            Phase::Promoted => [Action::Undo, off],
            _ => [off, Action::UnloadCanary],
        };
        prop_assert_eq!(&actions[..2], &wanted);
    }
    let promotes = actions.contains(&Action::Promote);
    prop_assert!(!(promotes && before.self_test), "a self-test promoted");
    let decisions = actions.iter().filter(|action| matches!(action, Action::Decision(_))).count();
    prop_assert_eq!(decisions, usize::from(!actions.is_empty()));
    Ok(())
}

fn check_figures(policy: &Policy, view: &View) -> Result<(), TestCaseError> {
    for gate in &view.verdict.gates {
        prop_assert!(gate.value.is_none_or(f64::is_finite), "{}", gate.text);
        prop_assert!(gate.evidence.is_none_or(|e| e.is_finite() && e >= 0.0), "{}", gate.text);
        let ends = gate.interval.unwrap_or((0.0, 0.0));
        prop_assert!(ends.0 <= ends.1 && ends.1.is_finite(), "{}: {ends:?}", gate.text);
        prop_assert!(!gate.text.is_empty() && !gate.text.contains("NaN"), "{}", gate.text);
        let fails = gate.state.as_str() == "fail";
        let errors = gate.name == GateName::Errors && matches!(view.phase, Phase::Running { .. });
        let meant = !view.self_test && policy.advance != Advance::DryRun;
        prop_assert!(!(fails && errors && meant), "a regression was left running: {}", gate.text);
    }
    for arm in &view.arms {
        prop_assert!(arm.counts.errors <= arm.counts.requests);
        prop_assert!(arm.counts.requests <= arm.total.requests);
        prop_assert!(arm.tokens_per_second.is_none_or(|rate| rate.is_finite() && rate > 0.0));
    }
    Ok(())
}

/// How many sequences each property is tested with; `SERIN_CASES` sets it.
fn cases() -> ProptestConfig {
    let given = std::env::var("SERIN_CASES").ok();
    let cases = given.map_or(64, |text| text.parse().expect("a number"));
    ProptestConfig { source_file: Some(file!()), ..ProptestConfig::with_cases(cases) }
}

#[test]
fn every_step_keeps_the_rules() {
    let steps = std::cell::Cell::new(0);
    let mut runner = TestRunner::new(cases());
    let kept = runner.run(&(plans(), 0u8..7), |(plans, which)| {
        steps.set(steps.get() + run(&variant(which), &plans)?.len());
        Ok(())
    });
    kept.unwrap_or_else(|broken| panic!("{broken}"));
    println!("{} steps", steps.get());
}

proptest! {
    #![proptest_config(cases())]

    #[test]
    fn a_replay_gives_the_same_actions(plans in plans(), which in 0u8..7) {
        let mut again = Rollout::new(variant(which));
        for (now, event, result) in run(&variant(which), &plans)? {
            prop_assert_eq!(again.step(now, event), result);
        }
    }

    #[test]
    fn a_healthy_canary_under_a_sane_clock_is_promoted(
        counts in prop::collection::vec(8usize..40, 4),
        wait in 10_000u64..20_000,
    ) {
        let mut rollout = Rollout::new(policy());
        let mut now = Duration::ZERO;
        let mut weights = Vec::new();
        let _ = rollout.step(now, Event::Start { rollout: "r".to_string(), self_test: false });
        for count in counts {
            weights.push(rollout.weight().percent());
            for event in events(&Plan::Good(count), rollout.stage()) {
                prop_assert_eq!(rollout.step(now, event), Ok(Vec::new()));
            }
            now += Duration::from_millis(wait);
            let _ = rollout.step(now, Event::Tick);
        }
        prop_assert_eq!(weights, vec![5, 25, 50, 100]);
        prop_assert_eq!(rollout.phase(), &Phase::Promoted);
    }
}

/// The generator is useful only if it reaches every kind of ending.
#[test]
fn the_sequences_go_everywhere() {
    let mut runner = TestRunner::deterministic();
    let mut seen = std::collections::BTreeSet::new();
    for which in (0..6).cycle().take(96) {
        let plans = plans().new_tree(&mut runner).expect("a strategy without filters").current();
        for (_, _, result) in run(&variant(which), &plans).expect("the rules hold") {
            for action in result.unwrap_or_default() {
                if let Action::Decision(decision) = action {
                    seen.insert(match decision.kind {
                        DecisionKind::RolledBack { cause } => cause.as_str(),
                        DecisionKind::Raised { to: Weight::FULL, .. } => "raised to the top",
                        kind => kind.as_str(),
                    });
                }
            }
        }
    }
    for kind in [
        "started",
        "raised",
        "raised to the top",
        "errors",
        "fault",
        "operator",
        "promoted",
        "held",
        "stalled",
        "paused",
        "resumed",
        "weight_set",
        "promotion_ordered",
        "stable_fault",
        "self_test_done",
        "undone",
        "ready",
        "would_raise",
        "would_roll_back",
        "awaiting_confirm",
        "confirmed",
    ] {
        assert!(seen.contains(kind), "{kind} in {seen:?}");
    }
}
