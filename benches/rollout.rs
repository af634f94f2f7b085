//! The cost of the rollout: a route for every request, an outcome for every reply, a verdict at every tick.
//!
//! Targets: an outcome below 1 us, a verdict below 50 us.

use std::hint::black_box;
use std::time::Duration;

use criterion::{Criterion, criterion_group, criterion_main};
use serin::rollout::*;
use serin::routing::{RouteInput, pick};

fn outcome(i: u64, stage: u64) -> Outcome {
    let arm = if i.is_multiple_of(20) { Arm::Canary } else { Arm::Stable };
    // One in a hundred fails, on either arm.
    let class = if i % 101 == 100 { Class::ModelError } else { Class::Ok };
    Outcome {
        origin: Origin { party: Some(i % 7), cluster: Some(i), routed: None },
        prompt_tokens: 20 + (i * 31 % 500) as u32,
        ttft: Some(Duration::from_micros(80_000 + i * 7919 % 40_000)),
        tpot: Some(Duration::from_micros(8_000 + i * 104_729 % 4_000)),
        e2e: Duration::from_secs(1),
        output_tokens: 90,
        matched: true,
        ..Outcome::new(arm, class, stage)
    }
}

/// A rollout in its third hour at 5 %, with a hundred requests per second.
fn seasoned(evidence: EvidenceRule) -> (Rollout, Duration, u64) {
    let mut rollout =
        Rollout::new(Policy { advance: Advance::Manual, evidence, ..Policy::default() });
    let start = Event::Start { rollout: "bench".into(), self_test: false };
    let _ = rollout.step(Duration::ZERO, start);
    let mut now = Duration::ZERO;
    let requests = 100 * 3600 * 3;
    for i in 0..requests {
        now += Duration::from_millis(10);
        let _ = rollout.step(now, Event::Outcome(outcome(i, rollout.stage())));
    }
    assert!(matches!(rollout.phase(), Phase::Running { .. }), "{:?}", rollout.phase());
    (rollout, now, requests)
}

fn costs(c: &mut Criterion) {
    // The first rule compares weights, and no times: what exact probabilities cost is the difference.
    for (name, rule) in
        [("outcome", EvidenceRule::Exact), ("outcome by the first rule", EvidenceRule::EValue)]
    {
        let (mut rollout, now, mut i) = seasoned(rule);
        let stage = rollout.stage();
        c.bench_function(name, |b| {
            b.iter(|| {
                i += 1;
                rollout.step(now, Event::Outcome(black_box(outcome(i, stage))))
            });
        });
    }
    let (mut rollout, now, mut i) = seasoned(EvidenceRule::Exact);
    let stage = rollout.stage();
    c.bench_function("outcome that errs", |b| {
        b.iter(|| {
            i += 1;
            let class = Class::Timeout;
            let arm = if i.is_multiple_of(20) { Arm::Canary } else { Arm::Stable };
            let one = Outcome { class, arm, ..outcome(i, stage) };
            rollout.step(now, Event::Outcome(black_box(one)))
        });
    });
    let (mut rollout, now, _) = seasoned(EvidenceRule::Exact);
    let _ = rollout.step(now, Event::Tick);
    c.bench_function("tick with its verdict", |b| {
        b.iter(|| rollout.step(black_box(now), Event::Tick));
    });
    c.bench_function("view with verdict and forecast", |b| b.iter(|| rollout.view(black_box(now))));
}

fn routing(c: &mut Criterion) {
    let weight = Weight::new(5).expect("at most 100");
    let drawn = RouteInput {
        rollout: "5f3b1c9a77d0",
        key: None,
        pin: None,
        draw: 0.3,
        weight,
        canary_up: true,
    };
    let sticky = RouteInput { key: Some("user-8c1f6f52-9f0e-4f0e-8d0a-1b7f1f0c2d3e"), ..drawn };
    c.bench_function("route by draw", |b| b.iter(|| pick(&black_box(drawn))));
    c.bench_function("route by session key", |b| b.iter(|| pick(&black_box(sticky))));
}

criterion_group!(benches, costs, routing);
criterion_main!(benches);
