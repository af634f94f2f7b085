//! Thousands of seeded rollouts through the state machine: how often equally good models are rolled back, and
//! how soon a worse one is found. Prints one report. It uses only `serin::rollout` and its own random
//! generator, so it runs anywhere and always gives the same figures.
//!
//! `cargo run --release --example rollout_simulation [SHARE [SECTION]]`; SHARE (default 1) scales the number
//! of repetitions; SECTION runs only one section.

use std::collections::BTreeMap;
use std::time::Duration;

use serin::rollout::*;

/// splitmix64: small, seedable, good enough for coin tosses.
struct Coin(u64);

impl Coin {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// Uniform in [0, 1).
    fn unit(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1u64 << 53) as f64
    }

    fn toss(&mut self, p: f64) -> bool {
        self.unit() < p
    }

    /// Log-normal around `median` ms, with a heavy tail: the p99 is twice the median.
    fn latency(&mut self, median: f64) -> Duration {
        let (u, v) = (1.0 - self.unit(), self.unit());
        let normal = (-2.0 * u.ln()).sqrt() * (std::f64::consts::TAU * v).cos();
        Duration::from_secs_f64(median * (0.3 * normal).exp() / 1e3)
    }
}

const SECOND: Duration = Duration::from_secs(1);

fn weight(percent: u8) -> Weight {
    Weight::new(percent).unwrap_or(Weight::ZERO)
}

fn outcome(arm: Arm, stage: u64, error: bool) -> Outcome {
    Outcome {
        arm,
        class: if error { Class::ModelError } else { Class::Ok },
        stage,
        judged: true,
        session: None,
        key: None,
        ttft: None,
        tpot: None,
        e2e: SECOND,
        output_tokens: 20,
        matched: true,
    }
}

/// A canary that stays at one weight.
struct Fixed {
    rollout: Rollout,
    now: Duration,
}

impl Fixed {
    /// `bake`: number of requests per interval of evidence, at one request per millisecond.
    fn new(percent: u8, bake: u64, policy: Policy) -> Fixed {
        let steps = vec![weight(percent), Weight::FULL];
        let bake = Duration::from_millis(bake);
        let warmup_requests = 0;
        let advance = Advance::Manual;
        let policy = Policy { steps, bake, warmup_requests, advance, fault_streak: 1000, ..policy };
        let mut rollout = Rollout::new(policy);
        let start = Event::Start { rollout: "sim".into(), self_test: false };
        let _ = rollout.step(Duration::ZERO, start);
        Fixed { rollout, now: Duration::ZERO }
    }

    fn send(&mut self, outcome: Outcome) -> bool {
        self.now += Duration::from_millis(1);
        let _ = self.rollout.step(self.now, Event::Outcome(outcome));
        matches!(self.rollout.phase(), Phase::RolledBack { .. })
    }

    fn toss(&mut self, coin: &mut Coin, rates: [f64; 2]) -> bool {
        let canary = coin.toss(self.rollout.weight().fraction());
        let arm = if canary { Arm::Canary } else { Arm::Stable };
        let error = coin.toss(rates[arm.index()]);
        self.send(outcome(arm, self.rollout.stage(), error))
    }
}

fn median(values: &mut [u64]) -> u64 {
    values.sort_unstable();
    values.get(values.len() / 2).copied().unwrap_or(0)
}

/// How the base error rate changes over a ramp, from 0 to 1.
#[derive(Clone, Copy)]
enum Base {
    Fixed(f64),
    Steps,
    Smooth,
}

impl Base {
    fn at(self, stage: u64, within: f64) -> f64 {
        match self {
            Base::Fixed(rate) => rate,
            Base::Steps => [0.002, 0.01, 0.01, 0.03][(stage as usize - 1).min(3)],
            Base::Smooth => {
                let ramp = (stage as f64 - 1.0 + within.min(1.0)) / 4.0;
                0.002 * 15f64.powf(ramp.min(1.0))
            }
        }
    }
}

/// How a ramp of equal models ended.
#[derive(PartialEq)]
enum End {
    Promoted,
    RolledBack(u8),
    /// Still held at this weight after twenty times the required time.
    Held,
}

/// The latencies of a ramp.
#[derive(Clone, Copy, PartialEq)]
enum Speed {
    None,
    /// Independent.
    Even,
    /// Three times as slow for about 100 consecutive requests, on both arms, a twentieth of the time.
    Bursts,
}

/// The whole ramp 5, 25, 50, 100 of equal models: at least 6,500 requests per stage, so that 5 % are about
/// 300.
fn ramp(seed: u64, base: Base, evidence: EvidenceRule, speed: Speed) -> (End, u32) {
    const STAGE: u64 = 6_500;
    let mut coin = Coin(seed);
    let bake = Duration::from_millis(STAGE);
    let policy = Policy { bake, warmup_requests: 0, evidence, ..Policy::default() };
    let mut rollout = Rollout::new(policy);
    let start = Event::Start { rollout: "sim".into(), self_test: false };
    let _ = rollout.step(Duration::ZERO, start);
    let (mut since, mut stage, mut alarms, mut busy) = (0, 1, 0, false);
    for i in 1..STAGE * 80 {
        let now = Duration::from_millis(i);
        if rollout.stage() != stage {
            (since, stage) = (i, rollout.stage());
        }
        let percent = rollout.weight().percent();
        let canary = coin.toss(rollout.weight().fraction());
        let arm = if canary { Arm::Canary } else { Arm::Stable };
        let error = coin.toss(base.at(stage, (i - since) as f64 / STAGE as f64));
        let mut one = outcome(arm, stage, error);
        if speed == Speed::Bursts {
            busy = coin.toss(if busy { 0.99 } else { 0.0005 });
        }
        if speed != Speed::None {
            let slow = if busy { 3.0 } else { 1.0 };
            one.ttft = Some(coin.latency(100.0 * slow));
            one.tpot = Some(coin.latency(10.0 * slow));
        }
        let _ = rollout.step(now, Event::Outcome(one));
        if i % 100 == 0 {
            alarms += u32::from(held_for_latency(&rollout.step(now, Event::Tick)));
        }
        match rollout.phase() {
            Phase::RolledBack { .. } => return (End::RolledBack(percent), alarms),
            Phase::Promoted => return (End::Promoted, alarms),
            _ => {}
        }
    }
    (End::Held, alarms)
}

fn held_for_latency(actions: &Result<Vec<Action>, StepError>) -> bool {
    let failed = |verdict: &Verdict, name| {
        verdict.gate(name).is_some_and(|gate| gate.state.as_str() == "fail")
    };
    actions.iter().flatten().any(|action| match action {
        Action::Decision(Decision { kind: DecisionKind::Held, verdict, .. }) => {
            failed(verdict, GateName::Ttft) || failed(verdict, GateName::Tpot)
        }
        _ => false,
    })
}

fn equal_models(runs: u64) {
    println!("\n## Equal models, ramp 5, 25, 50, 100 %: {runs} rollouts each\n");
    println!("| base error rate | rolled back | promoted | held | the bare rule rolls back |");
    println!("|---|---|---|---|---|");
    let bases = [
        ("0.2 %", Base::Fixed(0.002)),
        ("1 %", Base::Fixed(0.01)),
        ("5 %", Base::Fixed(0.05)),
        ("0.2, 1, 1, 3 % by stage", Base::Steps),
        ("0.2 to 3 %, drifting", Base::Smooth),
    ];
    for (name, base) in bases {
        let mut ends: BTreeMap<&str, u64> = BTreeMap::new();
        for seed in 0..runs {
            let end = match ramp(seed, base, EvidenceRule::EValue, Speed::None).0 {
                End::RolledBack(_) => "back",
                End::Promoted => "up",
                End::Held => "held",
            };
            *ends.entry(end).or_default() += 1;
            let bare = ramp(seed, base, EvidenceRule::None, Speed::None).0;
            *ends.entry("bare").or_default() += u64::from(matches!(bare, End::RolledBack(_)));
        }
        let share = |end| 100.0 * ends.get(end).copied().unwrap_or(0) as f64 / runs as f64;
        let (back, up, held, bare) = (share("back"), share("up"), share("held"), share("bare"));
        println!("| {name} | {back:.2} % | {up:.1} % | {held:.1} % | {bare:.1} % |");
    }
}

fn bare_rule(runs: u64) {
    println!(
        "\n## The bare ratio at every request, 10,000 requests, 1 %, equal models: {runs} runs\n"
    );
    println!("| minimum of canary requests | 5 % | 25 % | 50 % | the document |");
    println!("|---|---|---|---|---|");
    for (least, document) in [(20, "63 / 72 / 78 %"), (300, "30 / 45 / 59 %")] {
        let mut cells = Vec::new();
        for percent in [5, 25, 50] {
            let policy = Policy {
                evidence: EvidenceRule::None,
                rollback_min_requests: least,
                rollback_min_errors: 1,
                ..Policy::default()
            };
            let mut fired = 0;
            for seed in 0..runs {
                let mut coin = Coin(1_000_000 + seed);
                let mut fixed = Fixed::new(percent, 1_000_000, policy.clone());
                fired += u64::from((0..10_000).any(|_| fixed.toss(&mut coin, [0.01, 0.01])));
            }
            cells.push(format!("{:.1} %", 100.0 * fired as f64 / runs as f64));
        }
        println!("| {least} | {} | {document} |", cells.join(" | "));
    }
}

fn detection(runs: u64) {
    println!(
        "\n## Requests until a worse canary is rolled back, 1 % base: medians of {runs} runs\n"
    );
    println!("| weight | 1.5x | 2x | 3x | 5x | 10x |");
    println!("|---|---|---|---|---|---|");
    let document: [(u8, [u64; 5]); 3] = [
        (5, [64_000, 19_000, 5_300, 1_900, 600]),
        (25, [16_000, 4_900, 1_600, 550, 165]),
        (50, [13_000, 3_300, 1_200, 420, 144]),
    ];
    for (percent, row) in document {
        let mut cells = Vec::new();
        for (ratio, want) in [1.5, 2.0, 3.0, 5.0, 10.0].into_iter().zip(row) {
            let mut found: Vec<u64> = (0..runs)
                .map(|seed| {
                    let mut coin = Coin(2_000_000 + seed);
                    let mut fixed = Fixed::new(percent, 20_000, Policy::default());
                    let most = 20 * want;
                    (1..=most).find(|_| fixed.toss(&mut coin, [0.01, 0.01 * ratio])).unwrap_or(most)
                })
                .collect();
            let got = median(&mut found);
            cells.push(format!("{got} ({:.2} of {want})", got as f64 / want as f64));
        }
        println!("| {percent} % | {} |", cells.join(" | "));
    }
}

fn late_break(runs: u64) {
    println!(
        "\n## Broken after eight healthy bake intervals of 6,500 requests: medians of {runs} runs\n"
    );
    println!("| weight | 2x | 3x | 5x | 10x | rolled back before it broke |");
    println!("|---|---|---|---|---|---|");
    let document = [(5, [19_000, 5_300, 1_900, 600]), (25, [4_900, 1_600, 550, 165])];
    for (percent, row) in document {
        let (mut cells, mut early) = (Vec::new(), 0);
        for (ratio, want) in [2.0, 3.0, 5.0, 10.0].into_iter().zip(row) {
            let mut found = Vec::new();
            for seed in 0..runs {
                let mut coin = Coin(3_000_000 + seed);
                let mut fixed = Fixed::new(percent, 6_500, Policy::default());
                if (0..8 * 6_500).any(|_| fixed.toss(&mut coin, [0.01, 0.01])) {
                    early += 1;
                    continue;
                }
                let most = 20 * want;
                let after = (1..=most).find(|_| fixed.toss(&mut coin, [0.01, 0.01 * ratio]));
                found.push(after.unwrap_or(most));
            }
            let got = median(&mut found);
            cells.push(format!("{got} ({:.2} of {want})", got as f64 / want as f64));
        }
        println!("| {percent} % | {} | {early} of {} |", cells.join(" | "), 4 * runs);
    }
}

fn at_full_weight(runs: u64) {
    println!("\n## Broken only at 100 %, 1 % base before: {runs} runs\n");
    println!("| canary's error rate at 100 % | rolled back within 20,000 | median requests |");
    println!("|---|---|---|");
    for rate in [0.01, 0.03, 0.05, 0.10, 0.20, 0.50] {
        let (mut found, mut started) = (Vec::new(), 0);
        for seed in 0..runs {
            let mut coin = Coin(4_000_000 + seed);
            let mut fixed = Fixed::new(50, 6_500, Policy::default());
            if (0..6_500).any(|_| fixed.toss(&mut coin, [0.01, 0.01])) {
                continue;
            }
            started += 1;
            let order = Order {
                command: Operator::SetWeight(Weight::FULL),
                by: "sim".into(),
                reason: None,
            };
            let _ = fixed.rollout.step(fixed.now, Event::Operator(order));
            found.extend((1..=20_000u64).find(|_| fixed.toss(&mut coin, [0.01, rate])));
        }
        let share = 100.0 * found.len() as f64 / started as f64;
        let requests = if found.is_empty() { "-".into() } else { median(&mut found).to_string() };
        println!("| {:.0} % | {share:.1} % | {requests} |", 100.0 * rate);
    }
}

fn latency(runs: u64) {
    let mut alarms = 0;
    let ramps = runs / 5;
    for seed in 0..ramps {
        alarms += ramp(5_000_000 + seed, Base::Fixed(0.01), EvidenceRule::EValue, Speed::Even).1;
    }
    println!("\n## Latency gates\n");
    println!(
        "Equal models, log-normal latencies, ramp 5 to 100 %: {alarms} holds for TTFT or time per \
         token in {ramps} ramps of four stages ({:.2} % of stages, two gates each).\n",
        100.0 * f64::from(alarms) / (4.0 * ramps as f64)
    );
    println!(
        "| true exceedance | failed within 20,000 canary requests | median canary requests | the document |"
    );
    println!("|---|---|---|---|");
    for (share, document) in
        [(0.01, "-"), (0.02, "1600"), (0.03, "420"), (0.05, "124"), (0.10, "21")]
    {
        let runs = runs / 5;
        let mut found = Vec::new();
        for seed in 0..runs {
            found.extend(first_alarm(6_000_000 + seed, share));
        }
        let part = 100.0 * found.len() as f64 / runs as f64;
        let requests = if found.is_empty() { "-".into() } else { median(&mut found).to_string() };
        println!("| {:.0} % | {part:.1} % | {requests} | {document} |", 100.0 * share);
    }
}

/// The canary request at which the TTFT gate first fails, checked after every tenth (after each of the first
/// hundred); 5,000 samples of stable are known.
fn first_alarm(seed: u64, share: f64) -> Option<u64> {
    let mut coin = Coin(seed);
    let policy = Policy { min_requests: 1, ..Policy::default() };
    let mut fixed = Fixed::new(50, 1_000_000_000, policy);
    let stage = fixed.rollout.stage();
    let reply = |arm, ms: f64| Outcome {
        ttft: Some(Duration::from_secs_f64(ms / 1e3)),
        ..outcome(arm, stage, false)
    };
    for i in 0..5_000u64 {
        // 1 % of stable's samples are above 100 ms, uniformly up to 101: tau is 110 ms.
        let ms = if i % 100 == 0 { 100.0 + coin.unit() } else { 50.0 };
        fixed.send(reply(Arm::Stable, ms));
    }
    for n in 1..=20_000u64 {
        let ms = if coin.toss(share) { 200.0 } else { 50.0 };
        fixed.send(reply(Arm::Canary, ms));
        if n < 100 || n % 10 == 0 {
            let view = fixed.rollout.view(fixed.now);
            let gate = view.verdict.gate(GateName::Ttft);
            if gate.is_some_and(|gate| gate.state.as_str() == "fail") {
                return Some(n);
            }
        }
    }
    None
}

/// One key among ten sends only failing prompts, in sessions that it knows to be on the canary.
fn poison_key(runs: u64) {
    println!(
        "\n## A key that sends only failing prompts to the canary, equal models at 5 %: {runs} runs\n"
    );
    println!("| | rolled back |");
    println!("|---|---|");
    for (name, share) in [("no share is capped", 1.0), ("`max_key_share` 0.5", 0.5)] {
        let mut back = 0;
        for seed in 0..runs {
            let mut coin = Coin(7_000_000 + seed);
            let policy = Policy { max_key_share: share, ..Policy::default() };
            let mut fixed = Fixed::new(5, 6_500, policy);
            let stage = fixed.rollout.stage();
            back += u64::from((0..20_000u64).any(|i| {
                if i % 20 == 0 {
                    let session = Some(i);
                    let one = outcome(Arm::Canary, stage, true);
                    return fixed.send(Outcome { key: Some(1), session, ..one });
                }
                let arm = if coin.toss(0.05) { Arm::Canary } else { Arm::Stable };
                let error = coin.toss(0.01);
                let key = Some(2 + i % 9);
                fixed.send(Outcome { key, session: Some(i), ..outcome(arm, stage, error) })
            }));
        }
        println!("| {name} | {:.1} % |", 100.0 * back as f64 / runs as f64);
    }
    let mut found = Vec::new();
    for seed in 0..runs {
        let mut coin = Coin(7_500_000 + seed);
        let mut fixed = Fixed::new(5, 20_000, Policy::default());
        let stage = fixed.rollout.stage();
        found.extend((1..=40_000u64).find(|_| {
            let arm = if coin.toss(0.05) { Arm::Canary } else { Arm::Stable };
            let error = coin.toss(if arm == Arm::Canary { 0.05 } else { 0.01 });
            let key = Some(2 + coin.next() % 5);
            fixed.send(Outcome { key, ..outcome(arm, stage, error) })
        }));
    }
    let got = median(&mut found);
    println!(
        "\nThe price: a 5x canary at 5 % under five equal keys takes {got} requests (1900 without keys)."
    );
}

/// Prompts that fail on either model, each retried in its sticky session.
fn copies(runs: u64) {
    println!(
        "\n## Each failing prompt retried three times on its sticky session, equal models at 5 %: {runs} runs\n"
    );
    println!("| de-duplication | rolled back within 50,000 requests |");
    println!("|---|---|");
    for (name, window) in [("off", Duration::ZERO), ("60 s", Duration::from_secs(60))] {
        let mut back = 0;
        for seed in 0..runs {
            let mut coin = Coin(8_000_000 + seed);
            let policy = Policy { dedup_window: window, ..Policy::default() };
            let mut fixed = Fixed::new(5, 6_500, policy);
            let stage = fixed.rollout.stage();
            back += u64::from((0..50_000u64).any(|i| {
                let arm = if coin.toss(0.05) { Arm::Canary } else { Arm::Stable };
                let error = coin.toss(0.01);
                let one = Outcome { session: Some(i), ..outcome(arm, stage, error) };
                (0..if error { 4 } else { 1 }).any(|_| fixed.send(one.clone()))
            }));
        }
        println!("| {name} | {:.1} % |", 100.0 * back as f64 / runs as f64);
    }
}

/// At least a million steps of arbitrary events: the invariants hold.
fn anything(steps: u64) {
    let mut coin = Coin(9);
    let policy = Policy {
        bake: 2 * SECOND,
        min_requests: 5,
        warmup_requests: 2,
        fault_streak: 6,
        ..Policy::default()
    };
    let mut rollout = Rollout::new(policy.clone());
    let mut again = Rollout::new(policy);
    let (mut now, mut raised, mut ended) = (Duration::ZERO, 0u64, 0u64);
    for i in 0..steps {
        now = match coin.next() % 1000 {
            0 => now.saturating_sub(Duration::from_secs(coin.next() % 100)),
            1 => now + Duration::from_secs(coin.next() % 100),
            _ => now + Duration::from_millis(coin.next() % 60),
        };
        let event = any_event(&mut coin, rollout.stage(), i);
        let before = (rollout.weight(), rollout.phase().clone());
        let tick = event == Event::Tick;
        let whole = (tick && i % 8 == 0).then(|| rollout.clone());
        let ordered = matches!(event, Event::Operator(_) | Event::Start { .. });
        let actions = rollout.step(now, event.clone());
        assert_eq!(actions, again.step(now, event), "a replay differs at step {i}");
        if let Some(whole) = whole
            && actions.as_ref().is_ok_and(Vec::is_empty)
        {
            assert!(whole == rollout, "an idle tick changed the state at step {i}");
        }
        let rose = rollout.weight() > before.0 && !ordered;
        raised += u64::from(rose);
        assert!(!rose || (tick && before.1 == Phase::Running { paused: false }), "step {i}");
        let runs = matches!(rollout.phase(), Phase::Running { .. });
        ended += u64::from(!runs && matches!(before.1, Phase::Running { .. }));
        assert!(runs || rollout.weight() == Weight::ZERO, "weight after the end at step {i}");
    }
    println!("\n## Anything at all\n");
    println!(
        "{steps} random steps, each replayed on a second machine with identical actions; {raised} \
         raises, {ended} ends; idle ticks left the state as it was; no weight after an end."
    );
}

fn any_event(coin: &mut Coin, stage: u64, i: u64) -> Event {
    let arm = if coin.toss(0.5) { Arm::Canary } else { Arm::Stable };
    let stage = stage.saturating_sub(u64::from(coin.toss(0.05)));
    let command = match coin.next() % 12 {
        0 => Operator::Pause,
        1 if coin.toss(0.2) => Operator::PromoteNow,
        1 => Operator::Promote,
        2 => Operator::Rollback,
        3 => Operator::SetWeight(weight((coin.next() % 101) as u8)),
        4 => Operator::Undo,
        5 => Operator::Confirm,
        _ => Operator::Resume,
    };
    match coin.next() % 200 {
        0 => Event::Operator(Order { command, by: "sim".into(), reason: None }),
        1 | 2 => Event::Start { rollout: format!("r{i}"), self_test: coin.toss(0.1) },
        3 => Event::Fault { arm, what: "dead".into() },
        4..8 => Event::Feedback { arm, stage, positive: coin.toss(0.7) },
        8..10 => Event::Retry { arm, stage },
        10..40 => Event::Tick,
        _ => {
            let error = coin.toss(0.02);
            let latency = Some(coin.latency(100.0));
            let key = coin.toss(0.5).then(|| coin.next() % 4);
            let session = coin.toss(0.5).then(|| coin.next() % 50);
            let judged = coin.toss(0.95);
            let one = outcome(arm, stage, error);
            Event::Outcome(Outcome { key, session, judged, ttft: latency, tpot: latency, ..one })
        }
    }
}

/// Equal models on a machine with slow periods.
fn bursts(runs: u64) {
    let (mut held, mut alarms) = (0, 0);
    for seed in 0..runs {
        let base = Base::Fixed(0.01);
        let (end, holds) = ramp(9_000_000 + seed, base, EvidenceRule::EValue, Speed::Bursts);
        alarms += holds;
        held += u64::from(end == End::Held);
    }
    println!("\n## Slow spells on both arms, equal models: {runs} ramps\n");
    println!(
        "Three times as slow for some 100 requests on end, 5 % of the time: {alarms} holds for TTFT \
         or time per token ({:.2} % of stages, two gates each); {held} ramps did not come to an end.",
        100.0 * f64::from(alarms) / (4.0 * runs as f64)
    );
}

/// A section's name, its function, and its repetitions.
type Section = (&'static str, fn(u64), f64);

const SECTIONS: [Section; 10] = [
    ("equal", equal_models, 2000.0),
    ("bare", bare_rule, 2000.0),
    ("detection", detection, 400.0),
    ("late", late_break, 300.0),
    ("full-weight", at_full_weight, 1000.0),
    ("latency", latency, 1000.0),
    ("bursts", bursts, 300.0),
    ("key", poison_key, 500.0),
    ("copies", copies, 500.0),
    ("anything", anything, 1e6),
];

fn main() {
    let share: f64 = std::env::args().nth(1).and_then(|a| a.parse().ok()).unwrap_or(1.0);
    let only = std::env::args().nth(2);
    println!("# Simulated rollouts\n");
    println!("`cargo run --release --example rollout_simulation {share}`; all seeds fixed.");
    for (name, section, runs) in SECTIONS {
        if only.as_deref().is_none_or(|only| only == name) {
            section((runs * share).max(20.0) as u64);
        }
    }
}
