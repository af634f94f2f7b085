//! The two guarantees of the intervals, tested on simulated runs on a machine that drifts and is disturbed.
//!
//! The speed of the machine is a random walk with a trend. Bursts of another program slow it down, for times that are
//! unrelated to the blocks. The requests of a block share this speed, so they are far from independent. TTFT, time per
//! token and rates of one round are as correlated as in real runs.

use super::super::plan::{Load, Size, blocks};
use super::*;

/// The pace of a machine over time: a trend, a random walk, and bursts.
struct Machine {
    random: Random,
    time: f64,
    walk: f64,
    trend: f64,
    burst_until: f64,
    next_burst: f64,
    slower: f64,
}

impl Machine {
    fn new(seed: u64, trend: f64) -> Machine {
        let mut random = Random::new(seed, 99);
        let next_burst = 20.0 * random.exponential();
        Machine { random, time: 0.0, walk: 0.0, trend, burst_until: 0.0, next_burst, slower: 1.0 }
    }

    fn normal(&mut self) -> f64 {
        let (u, v) = (1.0 - self.random.uniform(), self.random.uniform());
        (-2.0 * u.ln()).sqrt() * (std::f64::consts::TAU * v).cos()
    }

    /// How long work of `seconds` takes now.
    fn run(&mut self, seconds: f64) -> f64 {
        self.walk += 0.03 * seconds.sqrt() * self.normal();
        if self.time >= self.next_burst {
            self.burst_until = self.time + 6.0 * self.random.exponential();
            self.next_burst = self.burst_until + 20.0 * self.random.exponential();
            self.slower = 1.2 + self.random.uniform();
        }
        let burst = if self.time < self.burst_until { self.slower } else { 1.0 };
        let took = seconds * burst * (self.walk + self.trend * self.time).exp();
        self.time += took;
        took
    }
}

/// The figures of one run of 16 rounds in which all of B's steps take `factor` times as long.
fn run(seed: u64, factor: f64) -> Group {
    let size = Size { rounds: 16, requests: 4, versions: 2, seed };
    let mut machine = Machine::new(seed, 0.002);
    let (mut ttft, mut tpot, mut seconds, mut tokens) = (vec![], vec![], Vec::new(), Vec::new());
    for block in blocks(0, Load::Concurrency(1), &size) {
        let version = block.version.index();
        let of = |value| Value { value, round: block.round, version };
        let factor = if version == 1 { factor } else { 1.0 };
        for request in &block.requests {
            let length = 0.5 + Random::new(seed, request.prompt as u64).uniform();
            let noise = 1.0 + 0.1 * machine.normal().abs() + 0.2 * machine.random.exponential();
            let first = machine.run(0.01 * factor * length * noise);
            let steps: Vec<f64> = (0..4).map(|_| machine.run(0.02 * factor)).collect();
            let took = steps.iter().sum::<f64>();
            ttft.push(of(first));
            tpot.push(of(took / 4.0));
            seconds.push(of(first + took));
            tokens.push(of(5.0));
        }
    }
    let sum = |values: &[Value]| {
        let mut sums = [vec![0.0; 16], vec![0.0; 16]];
        values.iter().for_each(|value| sums[value.version][value.round] += value.value);
        sums
    };
    let ones: Vec<Value> = ttft.iter().map(|value| Value { value: 1.0, ..*value }).collect();
    let mut figures = vec![Data::Sums { over: sum(&seconds), under: sum(&tokens) }];
    for values in [ttft, tpot, seconds] {
        figures.push(Data::Sums { over: sum(&values), under: sum(&ones) });
        let quantile = |share| Data::Quantile { share, values: values.clone() };
        figures.extend([0.5, 0.9, 0.99].map(quantile));
    }
    Group { rounds: 16, figures }
}

const RUNS: u64 = 100;

fn analysed(seed: u64, factor: f64) -> Vec<Interval> {
    let method = Method { swaps: 399, seed, allowance: 0.0, ..Method::default() };
    let all = intervals(&[run(seed, factor)], &method).remove(0);
    all.into_iter().map(|interval| interval.expect("enough rounds")).collect()
}

#[test]
fn equal_versions_are_called_equal_in_at_least_90_of_100_runs() {
    let called = (0..RUNS).filter(|seed| analysed(*seed, 1.0).iter().any(|one| one.differs));
    let called = called.count();
    assert!(called <= 10, "{called} of {RUNS} equal pairs were called different; 5 are expected");
}

#[test]
fn all_intervals_contain_the_true_factor_in_at_least_90_of_100_runs() {
    let (mut held, mut found) = (0, 0);
    for seed in 0..RUNS {
        let factor = if seed % 2 == 0 { 1.1 } else { 1.5 };
        let all = analysed(1000 + seed, factor);
        held += usize::from(all.iter().all(|one| (one.low..=one.high).contains(&factor)));
        found += usize::from(all[0].differs);
    }
    assert!(
        held >= 90,
        "{held} of {RUNS} runs contain the factor in every interval; 95 are expected"
    );
    assert!(found >= 90, "the slower version is found in {found} of {RUNS} runs");
}
