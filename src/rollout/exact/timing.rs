//! Whether one measure of latency is worse on the canary, at equal work.
//!
//! Replies are compared within strata: the same kind of sample, and the same amount of work by powers of two. A reply
//! is slow if its time is above the quantile of stable's past times in its stratum; from a canary's time, the floor is
//! first subtracted and the allowed ratio divided out. Slow replies are then tested like errors, by the exact
//! probability that they are on the canary. For the p99, only slow replies count. For the median, both slow and fast
//! replies count, because half of all replies are slow. No limit is frozen and no rate is assumed, so a drift of both
//! arms is not held against the canary. The quantile is from stable alone, because a slow canary would soon raise a
//! common one; any limit from the past is valid. Rare kinds of work have too few samples for their own p99: their
//! median is used instead, multiplied by the ratio of p99 to median in the other strata.
//!
//! Whether a reply has a sample may depend on the arm: at 5 %, nearly all of the canary's replies run next to one of
//! stable's, but not the other way round. So the probability is corrected for the actual spread of this stage's and
//! stratum's samples over the arms, as far as it differs by more than chance. Slow replies are then compared with the
//! other replies of the same stratum.
//!
//! If the client left before the first token, the time is only a lower bound: the reply counts as slow if it is already
//! above the quantile, and is ignored otherwise. It does not know which latency is measured.

use std::time::Duration;

use super::bets::{Bet, Factors};
use super::parties::Parties;
use super::quantile::{Quantile, bin};
use super::signal::{Draw, Finding};
use crate::rollout::Arm;
use crate::rollout::capital::{Stakes, add};
use crate::rollout::evalue::{RUNGS, ln_sum};
use crate::rollout::keys::slot;
use crate::rollout::signal::Restarts;

/// Stable's samples of a stratum before its median, and its p99, are used.
const LEAST: (u32, u32) = (8, 50);
/// The bin of a sample that is exactly at its stratum's median.
const LEVEL: usize = 512;
/// Number of strata; further kinds of work are counted with the last.
const STRATA: usize = 32;
/// The first strata weigh as much together as all others: common kinds of work appear first.
const COMMON: usize = 12;

/// One sample.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Sample {
    pub(crate) time: Duration,
    /// The time is a lower bound.
    pub(crate) censored: bool,
    /// Samples are compared only with those of the same stratum.
    pub(crate) stratum: u16,
}

/// The stratum of an amount of work: its power of two, whether the sample comes from a matched step, and how much
/// larger the step was, in half powers of two.
pub(crate) fn stratum(work: u32, matched: bool, crowd: u8) -> u16 {
    let octave = u32::BITS - work.leading_zeros();
    u16::from(crowd) << 7 | (octave as u16) << 1 | u16::from(matched)
}

/// How the samples of one stage and stratum are spread over the arms.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub(super) struct Spread {
    canary: f64,
    expected: f64,
    variance: f64,
    all: f64,
}

impl Spread {
    pub(super) fn add(&mut self, p: f64, arm: Arm) {
        self.canary += f64::from(u8::from(arm == Arm::Canary));
        self.expected += p;
        self.variance += p * (1.0 - p);
        self.all += 1.0;
    }

    /// What the odds of the canary have to be multiplied by, in steps of 10 %. One standard deviation of the
    /// difference counts as chance.
    pub(super) fn correction(&self) -> f64 {
        let off = self.canary - self.expected;
        if off * off <= self.variance {
            return 1.0;
        }
        let beyond = off.signum() * (off.abs() - self.variance.sqrt());
        let share = (self.expected + beyond + 1.0) / (self.expected + 1.0);
        let rest = self.all - self.expected;
        let odds = share / ((rest - beyond + 1.0) / (rest + 1.0));
        let steps = (odds.clamp(0.05, 20.0).ln() / STEP).round();
        (steps * STEP).exp()
    }
}

/// ln of 1.1.
const STEP: f64 = 0.095_310_179_804_324_87;

#[derive(Debug, Clone, PartialEq)]
struct Stratum {
    median: Quantile,
    p99: Quantile,
    by_median: Stakes<RUNGS>,
    by_p99: Stakes<RUNGS>,
    spread: Spread,
}

impl Stratum {
    fn median_limit(&self) -> Option<usize> {
        (self.median.count() >= LEAST.0).then(|| self.median.bin())
    }

    /// Of its own samples, or of its median and what others are above theirs.
    fn p99_limit(&self, above_median: &Quantile) -> Option<usize> {
        if self.p99.count() >= LEAST.1 {
            return Some(self.p99.bin());
        }
        let median = self.median_limit()?;
        (above_median.count() >= LEAST.1)
            .then(|| (median + above_median.bin()).saturating_sub(LEVEL))
    }
}

/// Which part of a distribution a gate is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Part {
    /// Median and p99.
    Whole,
    Median,
    P99,
}

/// The evidence about one measure.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Timing {
    /// The canary's times are divided by this.
    allowed: f64,
    /// What the canary may need longer in any case.
    floor: Duration,
    restarts: Restarts,
    factors: Factors,
    by_median: Stakes<RUNGS>,
    by_p99: Stakes<RUNGS>,
    /// What each of `strata` is the stratum of.
    keys: Vec<u16>,
    strata: Vec<Stratum>,
    /// How far stable's samples are above the median of their stratum, in bins above [`LEVEL`].
    above_median: Quantile,
    /// Log stakes on the canary being better than allowed, for the median and for the p99.
    certain: [[f64; RUNGS]; 2],
    /// Samples counted, by [`Arm::index`].
    pub(crate) counted: [u64; 2],
    /// Samples above the p99 of the past, by [`Arm::index`].
    pub(crate) slow: [u64; 2],
}

impl Timing {
    /// The canary may be `allowed` times as slow, and longer by `floor`.
    pub(crate) fn new(allowed: f64, floor: Duration) -> Timing {
        Timing {
            allowed,
            floor,
            restarts: Restarts::default(),
            factors: Factors::default(),
            by_median: Stakes::new(),
            by_p99: Stakes::new(),
            keys: Vec::new(),
            strata: Vec::new(),
            above_median: Quantile::new(100),
            certain: [[0.0; RUNGS]; 2],
            counted: [0; 2],
            slow: [0; 2],
        }
    }

    /// A stage begins: a component of the capital, and new spreads, because they depend on the weight.
    pub(crate) fn begin(&mut self, now: Duration) {
        let k = self.restarts.begin(now);
        self.restart(k);
        self.strata.iter_mut().for_each(|stratum| stratum.spread = Spread::default());
    }

    fn restart(&mut self, k: u32) {
        self.by_median.restart(k);
        self.by_p99.restart(k);
        for stratum in &mut self.strata {
            stratum.by_median.restart(k);
            stratum.by_p99.restart(k);
        }
    }

    /// One sample, which under equal arms lies on the canary with probability `p`.
    pub(crate) fn observe(
        &mut self,
        now: Duration,
        interval: Duration,
        (draw, p): (&Draw, f64),
        sample: Sample,
    ) {
        if let Some(k) = self.restarts.due(now, interval) {
            self.restart(k);
        }
        let canary = draw.arm == Arm::Canary;
        let allowed = |time: Duration| time.saturating_sub(self.floor).div_f64(self.allowed);
        let adjusted = if canary { allowed(sample.time) } else { sample.time };
        let (at, bin) = (self.stratum_at(sample.stratum), bin(adjusted));
        let stratum = &self.strata[at];
        let odds = p / (1.0 - p) * stratum.spread.correction();
        let event = Event { p: odds / (1.0 + odds), canary, slot: draw.party.map(slot) };
        let judged = |limit: Option<usize>| {
            let slow = bin > limit?;
            (slow || !sample.censored).then_some(slow)
        };
        let half = judged(stratum.median_limit());
        let tail = judged(stratum.p99_limit(&self.above_median));
        if let Some(slow) = half {
            self.bet_on_half(at, &event, slow);
        }
        if tail == Some(true) {
            self.bet_on_tail(at, &event);
            self.slow[draw.arm.index()] += 1;
        }
        if sample.censored {
            return;
        }
        self.counted[draw.arm.index()] += 1;
        let stratum = &mut self.strata[at];
        stratum.spread.add(p, draw.arm);
        if !canary {
            if let Some(median) = stratum.median_limit() {
                self.above_median.add((LEVEL + bin).saturating_sub(median).min(2 * LEVEL - 1));
            }
            stratum.median.add(bin);
            stratum.p99.add(bin);
        }
    }

    fn stratum_at(&mut self, key: u16) -> usize {
        if let Some(at) = self.keys.iter().position(|known| *known == key) {
            return at;
        }
        if self.strata.len() < STRATA {
            let mut stratum = Stratum {
                median: Quantile::new(2),
                p99: Quantile::new(100),
                by_median: Stakes::new(),
                by_p99: Stakes::new(),
                spread: Spread::default(),
            };
            // One component for all restarts so far, then one with each.
            stratum.by_median.restart(1);
            stratum.by_p99.restart(1);
            self.keys.push(key);
            self.strata.push(stratum);
        }
        self.strata.len() - 1
    }

    fn bet_on_half(&mut self, at: usize, event: &Event, slow: bool) {
        let (bet, opposite) = match slow {
            true => (Bet::BadHalf, Bet::GoodHalf),
            false => (Bet::GoodHalf, Bet::BadHalf),
        };
        let factors = self.factors.of(event.p, bet, event.canary);
        self.by_median.settle(factors, event.slot);
        self.strata[at].by_median.settle(factors, event.slot);
        add(&mut self.certain[0], self.factors.of(event.p, opposite, event.canary));
    }

    fn bet_on_tail(&mut self, at: usize, event: &Event) {
        let factors = self.factors.of(event.p, Bet::Seldom, event.canary);
        self.by_p99.settle(factors, event.slot);
        self.strata[at].by_p99.settle(factors, event.slot);
        add(&mut self.certain[1], self.factors.of(event.p, Bet::Rarer, event.canary));
    }

    /// ln of the e-value: the mean of the pooled one and of the mean over strata, for each quantile.
    pub(crate) fn log_e(&self, part: Part) -> f64 {
        self.mean(part, Stakes::log_e)
    }

    fn mean(&self, part: Part, log_e: impl Fn(&Stakes<RUNGS>) -> f64) -> f64 {
        let over = |pooled: &Stakes<RUNGS>, one: fn(&Stratum) -> &Stakes<RUNGS>| {
            let mut logs = vec![log_e(pooled)];
            let weight =
                |at: usize| 2.0 * if at < COMMON { COMMON } else { STRATA - COMMON } as f64;
            let strata = self.strata.iter().enumerate();
            logs.extend(strata.map(|(at, s)| log_e(one(s)) - weight(at).ln()));
            ln_sum(&logs) - 2f64.ln()
        };
        let median = || over(&self.by_median, |stratum| &stratum.by_median);
        let p99 = || over(&self.by_p99, |stratum| &stratum.by_p99);
        match part {
            Part::Median => median(),
            Part::P99 => p99(),
            Part::Whole => ln_sum(&[median(), p99()]) - 2f64.ln(),
        }
    }

    /// What the evidence amounts to at this limit, given as ln of the e-value that is needed. `log_e` is that of the part.
    pub(crate) fn finding(
        &self,
        (part, log_e): (Part, f64),
        limit: f64,
        parties: &Parties,
    ) -> Finding {
        if log_e < limit {
            return Finding::Below;
        }
        let mut slots: Vec<usize> = self.by_median.slots().chain(self.by_p99.slots()).collect();
        slots.sort_unstable();
        slots.dedup();
        let holds = |slot: usize| self.mean(part, |stakes| stakes.log_e_without(slot)) >= limit;
        let mut optional = slots.into_iter().filter(|slot| parties.can_do_without(*slot));
        if optional.all(holds) { Finding::Proved } else { Finding::OneParty }
    }

    /// Whether it is certain, at this limit, that the canary is within what is allowed.
    pub(crate) fn is_certain(&self, part: Part, limit: f64) -> bool {
        let [median, p99] = self.certain.map(|logs| ln_sum(&logs) - (RUNGS as f64).ln());
        match part {
            Part::Median => median >= limit,
            Part::P99 => p99 >= limit,
            Part::Whole => median >= limit && p99 >= limit,
        }
    }
}

/// A sample as a bet sees it.
struct Event {
    p: f64,
    canary: bool,
    slot: Option<usize>,
}
