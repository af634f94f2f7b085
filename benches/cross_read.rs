//! Simulated rollouts of models that read each other: how many are held, and after how many replies.
//!
//! The readings are real: `serin compare A B --json` wrote them. Each rollout is the real state machine; it takes
//! readings of both writers in random order from the file, with many parties, as the server would sample them. Seeded.
//!
//! `cargo bench --bench cross_read -- [--runs N] [--replies N] EXPECT=FILE...` prints a Markdown table; EXPECT is same,
//! similar or different.

use std::time::Duration;

use serde_json::Value;
use serin::rollout::{
    Agreement, Arm, Class, CrossRead, Event, Expect, GateName, GateState, Origin, Outcome, Policy,
    Read, Reading, Rollout,
};

/// splitmix64.
struct Rng(u64);

impl Rng {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    fn below(&mut self, n: usize) -> usize {
        (self.next() % n as u64) as usize
    }
}

/// The readings of a file, by writer.
fn readings(path: &str) -> [Vec<Reading>; 2] {
    let text = std::fs::read_to_string(path).unwrap_or_else(|error| panic!("{path}: {error}"));
    let all: Value = serde_json::from_str(&text).unwrap_or_else(|error| panic!("{path}: {error}"));
    let all = all["readings"].as_array().unwrap_or_else(|| panic!("{path}: no readings"));
    let number = |value: &Value| value.as_f64().map(|x| x as f32);
    let read = |value: &Value| Read {
        nats: number(&value["nats"]).expect("nats"),
        implausible: number(&value["implausible"]).expect("implausible"),
    };
    let one = |one: &Value| Reading {
        writer: if one["writer"] == "canary" { Arm::Canary } else { Arm::Stable },
        stage: 0,
        origin: Origin::default(),
        read: [read(&one["by_stable"]), read(&one["by_canary"])],
        agreement: number(&one["kl"]).map(|kl| Agreement {
            kl,
            differing: number(&one["differing"]).expect("differing"),
            sharper: number(&one["sharper"]).expect("sharper"),
            excess: number(&one["excess"]).expect("excess"),
        }),
        asked_otherwise: one["asked_otherwise"] == true,
    };
    let all: Vec<Reading> = all.iter().map(one).collect();
    Arm::BOTH.map(|arm| all.iter().filter(|one| one.writer == arm).copied().collect())
}

/// Replies read until the gate fails; `None` if it does not within `most`.
fn held_after(pool: &[Vec<Reading>; 2], expect: Expect, seed: u64, most: u32) -> Option<u32> {
    let cross_read = CrossRead { expect, ..CrossRead::default() };
    let mut rollout = Rollout::new(Policy { cross_read, ..Policy::default() });
    let (mut now, mut rng) = (Duration::ZERO, Rng(seed));
    let start = Event::Start { rollout: format!("r{seed}"), self_test: false };
    rollout.step(now, start).expect("the policy is valid");
    let stage = rollout.stage();
    for n in 1..=most {
        now += Duration::from_secs(1);
        let arm = if rng.next() & 1 == 0 { Arm::Stable } else { Arm::Canary };
        let of = &pool[arm.index()];
        let origin = Origin {
            party: Some(rng.below(40) as u64),
            cluster: Some(rng.next()),
            routed: Some(rollout.routed()),
        };
        let outcome = Outcome { origin, ..Outcome::new(arm, Class::Ok, stage) };
        let _ = rollout.step(now, Event::Outcome(outcome));
        let reading = Reading { stage, origin, ..of[rng.below(of.len())] };
        let _ = rollout.step(now, Event::Reading(reading));
        let verdict = rollout.view(now).verdict;
        let gate = verdict.gate(GateName::CrossRead).expect("it is on");
        if matches!(gate.state, GateState::Fail(_)) {
            return Some(n);
        }
    }
    None
}

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).filter(|one| one != "--bench").collect();
    let number = |name: &str, default: u32| {
        let at = arguments.iter().position(|one| one == name);
        let text = at.and_then(|at| arguments.get(at + 1));
        text.map_or(default, |text| {
            text.parse().unwrap_or_else(|_| panic!("{name} takes a number"))
        })
    };
    let (runs, most) = (number("--runs", 100), number("--replies", 100));
    println!("# Models that read each other: {runs} rollouts each, at most {most} replies read\n");
    println!("| expected | readings of | held | after (median, replies read) |");
    println!("|---|---|---|---|");
    for argument in &arguments {
        let Some((expect, path)) = argument.split_once('=') else { continue };
        let expect: Expect = expect.parse().unwrap_or_else(|error| panic!("{argument}: {error}"));
        let pool = readings(path);
        let held = (0..u64::from(runs)).filter_map(|seed| held_after(&pool, expect, seed, most));
        let mut held: Vec<u32> = held.collect();
        held.sort_unstable();
        let name = path.rsplit('/').next().unwrap_or(path).trim_end_matches(".json");
        let median = held.get(held.len() / 2).map_or("-".to_owned(), u32::to_string);
        println!("| {} | {name} | {} of {runs} | {median} |", expect.as_str(), held.len());
    }
}
