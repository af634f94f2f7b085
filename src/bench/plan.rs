//! What is run, in which order: load points, rounds of blocks, requests and their arrival times.
//!
//! Two versions are compared in *rounds* of four blocks, in the order ABBA or BAAB, chosen by a fair coin. Both blocks
//! of a pair run the same prompts with the same seeds. A drift that is linear in time cancels within a round. Because
//! the coin is fair, swapping equal versions within a round does not change how likely the data are, whatever the
//! machine does meanwhile. The intervals rely on this alone (`statistics`). A single version runs in one block per
//! point, as an outside load generator would. It is pure, and does not know what a prompt is or how a request is sent.

use super::random::Random;
use std::fmt;
use std::time::Duration;

/// How requests arrive.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Load {
    /// Closed loop: so many requests are under way; when one ends, the next is sent.
    Concurrency(usize),
    /// Open loop: a Poisson process with so many requests per second.
    Rate(f64),
}

/// One setting at which both versions are measured.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Point {
    /// How requests arrive.
    pub load: Load,
    /// Tokens of context before each prompt, the same context for all.
    pub depth: usize,
    /// Whether tokens may be found in the prefix cache.
    pub prefix_cache: bool,
}

named! {
    /// Which of the two versions.
    #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
    pub enum Version {
        /// The base of all ratios.
        A = "A",
        /// The one that is compared with it.
        B = "B",
    }
}

/// One request of a block.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Planned {
    /// Number of the prompt; a source with fewer prompts takes them in turn.
    pub prompt: usize,
    /// Seed of the draws.
    pub seed: u64,
    /// When it arrives, from the start of the block; zero in a closed loop.
    pub at: Duration,
}

/// A stretch of time in which one version answers.
#[derive(Debug, Clone, PartialEq)]
pub struct Block {
    /// Who answers.
    pub version: Version,
    /// Number of the round, from 0.
    pub round: usize,
    /// Number of the pair within the point; both blocks of a pair have the same requests.
    pub pair: usize,
    /// Its requests, in order.
    pub requests: Vec<Planned>,
}

/// How much is run at each point.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Size {
    /// Rounds of four blocks.
    pub rounds: usize,
    /// Requests of a block; 0: by the load ([`Size::of_block`]).
    pub requests: usize,
    /// Number of versions, 1 or 2.
    pub versions: usize,
    /// Seed of everything that is random.
    pub seed: u64,
}

/// Fewest requests of a block, unless told otherwise.
const LEAST_REQUESTS: usize = 4;
/// Length of a block in an open loop, unless told otherwise.
const OPEN_BLOCK: f64 = 4.0;

impl Size {
    /// Requests of one block: in a closed loop twice its concurrency, in an open loop those of four seconds.
    pub fn of_block(&self, load: Load) -> usize {
        let by_load = match load {
            Load::Concurrency(concurrency) => 2 * concurrency,
            Load::Rate(rate) => (OPEN_BLOCK * rate).ceil() as usize,
        };
        if self.requests > 0 { self.requests } else { by_load.max(LEAST_REQUESTS) }
    }

    /// Requests of each version at one point.
    pub fn of_point(&self, load: Load) -> usize {
        2 * self.rounds * self.of_block(load)
    }
}

/// The blocks of the point with this number, in the order in which they run.
pub fn blocks(number: usize, load: Load, size: &Size) -> Vec<Block> {
    let count = size.of_block(load);
    let first = number * size.of_point(load);
    if size.versions == 1 {
        let requests = requests(first, size.of_point(load), load, size.seed);
        return vec![Block { version: Version::A, round: 0, pair: 0, requests }];
    }
    let mut coins = Random::new(size.seed, 0x00c0_1200 + number as u64);
    let mut blocks = Vec::new();
    for round in 0..size.rounds {
        let (first_version, second) = match coins.coin() {
            true => (Version::A, Version::B),
            false => (Version::B, Version::A),
        };
        for (half, order) in [[first_version, second], [second, first_version]].iter().enumerate() {
            let pair = 2 * round + half;
            let requests = requests(first + pair * count, count, load, size.seed);
            blocks.extend(order.map(|version| {
                let requests = requests.clone();
                Block { version, round, pair, requests }
            }));
        }
    }
    blocks
}

/// So many requests from prompt `first` on.
fn requests(first: usize, count: usize, load: Load, seed: u64) -> Vec<Planned> {
    let mut arrivals = Random::new(seed, 0x0a44_1000_0000 + first as u64);
    let mut at = 0.0;
    let one = |prompt: usize| {
        if let Load::Rate(rate) = load {
            at += arrivals.exponential() / rate;
        }
        let seed = Random::new(seed, prompt as u64).bits();
        Planned { prompt, seed, at: Duration::from_secs_f64(at) }
    };
    (first..first + count).map(one).collect()
}

/// The request whose replies are compared, of the prompt with the number `prompt`: with another seed than any measured
/// request of the same prompt.
pub fn compared(prompt: usize, seed: u64) -> Planned {
    let seed = Random::new(seed, (1 << 61) + prompt as u64).bits();
    Planned { prompt, seed, at: Duration::ZERO }
}

/// Every combination of loads, depths and cache settings.
pub fn points(loads: &[Load], depths: &[usize], caches: &[bool]) -> Vec<Point> {
    let mut all = Vec::new();
    for &prefix_cache in caches {
        for &depth in depths {
            all.extend(loads.iter().map(|&load| Point { load, depth, prefix_cache }));
        }
    }
    all
}

impl Version {
    /// The place of the version in pairs: 0 or 1.
    pub fn index(self) -> usize {
        self as usize
    }
}

impl fmt::Display for Load {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Load::Concurrency(concurrency) => write!(f, "concurrency {concurrency}"),
            Load::Rate(rate) => write!(f, "{rate} requests/s"),
        }
    }
}

impl fmt::Display for Point {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let cache = if self.prefix_cache { "on" } else { "off" };
        write!(f, "{}, depth {}, prefix cache {cache}", self.load, self.depth)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    fn size(rounds: usize, requests: usize, seed: u64) -> Size {
        Size { rounds, requests, versions: 2, seed }
    }

    fn load() -> impl Strategy<Value = Load> {
        prop_oneof![(1usize..20).prop_map(Load::Concurrency), (0.1f64..100.0).prop_map(Load::Rate)]
    }

    proptest! {
        #[test]
        fn both_versions_run_the_same_requests_next_to_each_other(
            load in load(), rounds in 1usize..20, requests in 1usize..9, seed: u64, number in 0usize..5,
        ) {
            let all = blocks(number, load, &size(rounds, requests, seed));
            prop_assert_eq!(all.len(), 4 * rounds);
            for (round, four) in all.chunks(4).enumerate() {
                let [one, two, three, four] = four else { unreachable!() };
                prop_assert!(one.version != two.version && two.version == three.version);
                prop_assert!(three.version != four.version);
                prop_assert!(one.requests == two.requests && three.requests == four.requests);
                prop_assert!(one.pair == two.pair && three.pair == four.pair);
                prop_assert!([one, two, three, four].iter().all(|block| block.round == round));
            }
            let prompts = |version| all.iter().filter(move |block| block.version == version)
                .flat_map(|block| &block.requests).map(|request| request.prompt);
            let distinct: BTreeSet<usize> = prompts(Version::A).collect();
            prop_assert_eq!(distinct.len(), size(rounds, requests, seed).of_point(load));
            prop_assert_eq!(&distinct, &prompts(Version::B).collect());
            prop_assert_eq!(distinct.first(), Some(&(number * distinct.len())), "no prompt twice");
        }

        #[test]
        fn arrivals_are_in_order_and_reproducible(rate in 0.1f64..100.0, seed: u64) {
            let all = blocks(0, Load::Rate(rate), &size(2, 50, seed));
            prop_assert_eq!(&all, &blocks(0, Load::Rate(rate), &size(2, 50, seed)));
            for block in &all {
                prop_assert!(block.requests.windows(2).all(|pair| pair[0].at <= pair[1].at));
            }
        }
    }

    #[test]
    fn a_poisson_process_has_its_rate_and_its_spread() {
        let all = requests(0, 20_000, Load::Rate(8.0), 3);
        let last = all.last().unwrap().at.as_secs_f64();
        assert!((20_000.0 / last - 8.0).abs() < 0.2, "{last}");
        let gaps: Vec<f64> =
            all.windows(2).map(|pair| (pair[1].at - pair[0].at).as_secs_f64()).collect();
        let mean = gaps.iter().sum::<f64>() / gaps.len() as f64;
        let deviation = gaps.iter().map(|gap| (gap - mean).powi(2)).sum::<f64>();
        let deviation = (deviation / gaps.len() as f64).sqrt();
        assert!((deviation / mean - 1.0).abs() < 0.05, "exponential gaps: {deviation} {mean}");
    }

    #[test]
    fn one_version_runs_in_one_block_and_both_orders_occur() {
        let one = blocks(0, Load::Concurrency(4), &Size { versions: 1, ..size(8, 0, 1) });
        assert_eq!((one.len(), one[0].requests.len()), (1, 2 * 8 * 8));
        let many = blocks(0, Load::Concurrency(1), &size(64, 1, 1));
        let first = many.iter().step_by(4).filter(|block| block.version == Version::A).count();
        assert!((16..=48).contains(&first), "a coin that is not fair: {first} of 64");
    }

    #[test]
    fn points_are_all_combinations() {
        let loads = [Load::Concurrency(1), Load::Concurrency(8)];
        let all = points(&loads, &[0, 4096], &[false, true]);
        assert_eq!(all.len(), 8);
        assert_eq!(all[1].to_string(), "concurrency 8, depth 0, prefix cache off");
    }
}
