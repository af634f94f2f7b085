//! The evidence from cross-reading: each model reads replies of the other.
//!
//! There are three kinds of expected change. A canary fits one if the following holds.
//!
//! *Same*: all of these are below their limits: the mean KL divergence (at some positions of each reply), the loss in
//! likelihood of a reply under the model that did not write it, the share of positions where the most likely token
//! differs, how much sharper one distribution is than the other, and the share of requests for which the models got
//! different prompts or sampling.
//!
//! *Similar*: the canary's replies are at most a limit less plausible to stable than stable's own replies, or stable's
//! replies are at most a limit less plausible to the canary than to stable. The condition for *Different* holds as
//! well.
//!
//! *Different*: no more than a fifth of the canary's replies are far outside the range of stable's own replies (their
//! nats per byte under stable).
//!
//! A mean is tested by betting (Waudby-Smith and Ramdas, arXiv:2010.09686): bets that a value in [0, cap] is above `m`
//! gain nothing in the long run if its mean is at most `m`. Whether one arm's replies are above a median is tested with
//! exact probabilities, as for latency ([`timing`](super::timing)). All tests are valid at any time.

use std::time::Duration;

use super::bets::{Bet, Factors};
use super::door::{Door, WhenFull};
use super::parties::Parties;
use super::quantile::{Quantile, bin};
use super::signal::{Draw, Finding};
use super::timing::Spread;
use crate::rollout::capital::Stakes;
use crate::rollout::evalue::{RUNGS, ln_sum};
use crate::rollout::keys::slot;
use crate::rollout::reading::{Expect, Read, Reading, chances};
use crate::rollout::signal::Restarts;
use crate::rollout::{Arm, CrossRead};

/// The share of the stake that each rung bets.
const SHARES: [f64; RUNGS] = [0.03, 0.07, 0.15, 0.25, 0.4, 0.55, 0.75, 0.95];
/// A value counts as at most this multiple of its limit.
const CAP: f64 = 20.0;
/// The share of requests that may be asked otherwise of the same model.
const OTHERWISE: f64 = 0.02;
/// The share of another model's replies that may be gross.
const GROSS: f64 = 0.2;
/// How much sharper, or less sharp, the same model may be: ln of a ratio.
const SHARPER: f64 = 0.15;
/// Stable's own replies that must have been read before others are compared with their median, and with the most and
/// the least of them.
const LEAST: (u32, u32) = (10, 20);
/// A reply is gross above `OVER` times the p99 of stable's own, and below `UNDER` times their p1.
const OVER: f64 = 2.0;
const UNDER: f64 = 0.25;

/// A mean that must not be above a limit.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Mean {
    limit: f64,
    stakes: Stakes<RUNGS>,
    pub(crate) count: u64,
    sum: f64,
    squares: f64,
}

impl Mean {
    fn new(limit: f64) -> Mean {
        let mut stakes = Stakes::new();
        stakes.restart(1);
        Mean { limit, stakes, count: 0, sum: 0.0, squares: 0.0 }
    }

    fn observe(&mut self, x: f64, slot: Option<usize>) {
        (self.count, self.sum, self.squares) = (self.count + 1, self.sum + x, self.squares + x * x);
        let of_limit = (x / self.limit).clamp(0.0, CAP);
        let factors = SHARES.map(|share| (share * (of_limit - 1.0)).ln_1p());
        self.stakes.settle(&factors, slot);
    }

    /// The mean, and 1.96 standard errors around it; `None` before the first value.
    pub(crate) fn interval(&self) -> Option<(f64, f64, f64)> {
        let n = self.count as f64;
        let mean = (self.count > 0).then(|| self.sum / n)?;
        let variance = (self.squares / n - mean * mean).max(0.0);
        let off = 1.96 * (variance / n).sqrt();
        Some((mean, (mean - off).max(0.0), mean + off))
    }

    pub(crate) fn mean(&self) -> Option<f64> {
        self.interval().map(|(mean, ..)| mean)
    }
}

/// Whether a figure of the canary's replies is above that of stable's by more than a limit: half of them, or more than
/// a tenth.
#[derive(Debug, Clone, PartialEq)]
struct Excess {
    limit: f64,
    median: Quantile,
    highest_tenth: Quantile,
    factors: Factors,
    by_median: Stakes<RUNGS>,
    by_highest: Stakes<RUNGS>,
}

impl Excess {
    fn new(limit: f64) -> Excess {
        Excess {
            limit,
            median: Quantile::new(2),
            highest_tenth: Quantile::new(10),
            factors: Factors::default(),
            by_median: Stakes::new(),
            by_highest: Stakes::new(),
        }
    }

    fn restart(&mut self, k: u32) {
        self.by_median.restart(k);
        self.by_highest.restart(k);
    }

    fn observe(&mut self, x: f32, p: f64, draw: &Draw) {
        let canary = draw.arm == Arm::Canary;
        let at = level(f64::from(x) - if canary { self.limit } else { 0.0 });
        let slot = draw.party.map(slot);
        if self.median.count() >= LEAST.0 {
            let bet = if at > self.median.bin() { Bet::BadHalf } else { Bet::GoodHalf };
            self.by_median.settle(self.factors.of(p, bet, canary), slot);
        }
        if self.highest_tenth.count() >= LEAST.1 && at > self.highest_tenth.bin() {
            self.by_highest.settle(self.factors.of(p, Bet::Seldom, canary), slot);
        }
        if !canary {
            self.median.add(at);
            self.highest_tenth.add(at);
        }
    }
}

/// What a test of what is expected is about.
#[derive(Debug, Clone, Copy)]
enum About {
    Kl,
    Likelihood,
    Differing,
    Sharpness,
    AskedOtherwise,
    NatsPerByte,
    ImplausibleTokens,
    Gross,
}

/// One test of what is expected. All parts must say so.
struct Test<'a> {
    about: About,
    parts: [&'a Stakes<RUNGS>; 2],
}

impl<'a> Test<'a> {
    fn of(about: About, mean: &'a Mean) -> Test<'a> {
        Test { about, parts: [&mean.stakes; 2] }
    }

    fn log_e(&self, log_e: &impl Fn(&Stakes<RUNGS>) -> f64) -> f64 {
        let [one, other] = self.parts;
        let first = log_e(one);
        if std::ptr::eq(one, other) { first } else { first.min(log_e(other)) }
    }
}

/// What stable finds in the replies of one arm, summed over replies.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub(crate) struct Found {
    pub(crate) replies: u64,
    nats: f64,
    implausible: f64,
}

impl Found {
    /// Mean nats per byte; `NaN` without replies.
    pub(crate) fn nats(&self) -> f64 {
        self.nats / self.replies as f64
    }

    /// Mean share of implausible tokens; `NaN` without replies.
    pub(crate) fn implausible(&self) -> f64 {
        self.implausible / self.replies as f64
    }
}

/// All that was read.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Readings {
    expect: Expect,
    share: f64,
    door: Door,
    restarts: Restarts,
    spread: Spread,
    pub(crate) kl: Mean,
    pub(crate) differing: Mean,
    sharper: Mean,
    /// Replies that are more likely to whoever did not write them count as zero.
    excess: Mean,
    pub(crate) otherwise: Mean,
    nats: Excess,
    implausible: Excess,
    /// By how much the canary finds stable's replies worse than stable does, in nats per byte.
    backwards: Mean,
    pub(crate) gross: Mean,
    /// Of stable's own replies, in nats per byte to stable: the highest and the lowest of a hundred.
    high: Quantile,
    low: Quantile,
    /// By writer: [`Arm::index`].
    pub(crate) found: [Found; 2],
    /// ln of the e-value: asked for after every request, of which few are read.
    total: f64,
}

impl Readings {
    pub(crate) fn new(rule: &CrossRead) -> Readings {
        let mut readings = Readings {
            expect: rule.expect,
            share: rule.share,
            door: Door::new(WhenFull::Forget),
            restarts: Restarts::default(),
            spread: Spread::default(),
            kl: Mean::new(rule.max_kl),
            differing: Mean::new(rule.max_differing),
            sharper: Mean::new(SHARPER),
            excess: Mean::new(rule.max_kl),
            otherwise: Mean::new(OTHERWISE),
            nats: Excess::new(rule.max_excess),
            implausible: Excess::new(rule.max_implausible),
            backwards: Mean::new(rule.max_excess),
            gross: Mean::new(GROSS),
            high: Quantile::new(100),
            low: Quantile::new(100),
            found: [Found::default(); 2],
            total: f64::NEG_INFINITY,
        };
        readings.total = readings.by(Stakes::log_e);
        readings
    }

    /// A stage begins.
    pub(crate) fn begin(&mut self, now: Duration) {
        let k = self.restarts.begin(now);
        self.spread = Spread::default();
        self.nats.restart(k);
        self.implausible.restart(k);
        self.total = self.by(Stakes::log_e);
    }

    /// One reply that both have read.
    pub(crate) fn observe(&mut self, draw: &Draw, reading: &Reading) {
        // A conversation or a session counts once at each weight.
        let Some(p) = self.door.count(draw.cluster, draw.w, draw.arm) else { return };
        let slot = draw.party.map(slot);
        let [by_stable, by_canary] = reading.read;
        self.note(draw.arm, by_stable);
        self.otherwise.observe(f64::from(u8::from(reading.asked_otherwise)), slot);
        if let Some(agreement) = reading.agreement {
            self.kl.observe(f64::from(agreement.kl).max(0.0), slot);
            self.differing.observe(f64::from(agreement.differing), slot);
            self.sharper.observe(f64::from(agreement.sharper).abs(), slot);
            self.excess.observe(f64::from(agreement.excess).max(0.0), slot);
        }
        if draw.arm == Arm::Stable {
            let worse = f64::from(by_canary.nats - by_stable.nats).max(0.0);
            self.backwards.observe(worse, slot);
        } else if self.high.count() >= LEAST.1 {
            let gross = self.is_gross(by_stable);
            self.gross.observe(f64::from(u8::from(gross)), slot);
        }
        self.compare(p, draw, by_stable);
        self.total = self.by(Stakes::log_e);
    }

    fn note(&mut self, writer: Arm, by_stable: Read) {
        let found = &mut self.found[writer.index()];
        found.replies += 1;
        found.nats += f64::from(by_stable.nats);
        found.implausible += f64::from(by_stable.implausible);
    }

    /// What stable finds in it, next to what stable has found in its own.
    fn compare(&mut self, p: f64, draw: &Draw, by_stable: Read) {
        // As many replies of one arm are read as of the other.
        let [stable, canary] = chances(self.share, draw.w);
        let odds = p / (1.0 - p) * canary / stable;
        let p = odds / (1.0 + odds);
        // Which replies can be read, for their length, may depend on the arm.
        let odds = odds * self.spread.correction();
        self.spread.add(p, draw.arm);
        let p = odds / (1.0 + odds);
        self.nats.observe(by_stable.nats, p, draw);
        self.implausible.observe(by_stable.implausible, p, draw);
        if draw.arm == Arm::Stable {
            let at = level(f64::from(by_stable.nats));
            self.high.add(at);
            self.low.add(HIGHEST - at);
        }
    }

    fn is_gross(&self, read: Read) -> bool {
        let nats = f64::from(read.nats);
        let (high, low) = (of_level(self.high.bin()), of_level(HIGHEST - self.low.bin()));
        nats > OVER * high || nats < UNDER * low
    }

    /// The tests of what is expected.
    fn tests(&self) -> Vec<Test<'_>> {
        let gross = Test::of(About::Gross, &self.gross);
        match self.expect {
            Expect::Same => vec![
                Test::of(About::Kl, &self.kl),
                Test::of(About::Likelihood, &self.excess),
                Test::of(About::Differing, &self.differing),
                Test::of(About::Sharpness, &self.sharper),
                Test::of(About::AskedOtherwise, &self.otherwise),
            ],
            Expect::Similar => {
                let forwards = [
                    (About::NatsPerByte, &self.nats),
                    (About::ImplausibleTokens, &self.implausible),
                ];
                let by_each = forwards.into_iter().flat_map(|(about, excess)| {
                    [&excess.by_median, &excess.by_highest]
                        .map(|part| Test { about, parts: [part, &self.backwards.stakes] })
                });
                by_each.chain([gross]).collect()
            }
            Expect::Different => vec![gross],
        }
    }

    /// A test in words, with its figure and its limit.
    fn text(&self, about: About) -> String {
        let percent = |share: f64| format!("{:.0} %", 100.0 * share);
        let of = |of: &Mean| of.mean().unwrap_or(0.0);
        let more = |what: &str, excess: &Excess| {
            format!(
                "stable finds more {what} in the canary's replies than in its own (limit {} more), and the canary \
                 {:.2} more nats per byte in stable's than stable (limit {})",
                excess.limit,
                of(&self.backwards),
                self.backwards.limit
            )
        };
        match about {
            About::Kl => format!("KL divergence {:.3} (limit {})", of(&self.kl), self.kl.limit),
            About::Likelihood => format!(
                "replies are less likely to the other model by {:.3} nats per token (limit {})",
                of(&self.excess),
                self.excess.limit
            ),
            About::Differing => format!(
                "another most likely token at {} of the places (limit {})",
                percent(of(&self.differing)),
                percent(self.differing.limit)
            ),
            About::Sharpness => format!(
                "logits are spread by a factor of {:.2} (limit {:.2})",
                of(&self.sharper).exp(),
                SHARPER.exp()
            ),
            About::AskedOtherwise => format!(
                "another prompt or other sampling in {} of the requests (limit {})",
                percent(of(&self.otherwise)),
                percent(OTHERWISE)
            ),
            About::NatsPerByte => more("nats per byte", &self.nats),
            About::ImplausibleTokens => more("implausible tokens", &self.implausible),
            About::Gross => format!(
                "{} of the canary's replies are beyond any of stable's own (limit {})",
                percent(of(&self.gross)),
                percent(GROSS)
            ),
        }
    }

    /// The test with the most evidence, in words with figures.
    pub(crate) fn cause(&self) -> String {
        let tests = self.tests().into_iter();
        let most = tests.max_by(|a, b| a.log_e(&Stakes::log_e).total_cmp(&b.log_e(&Stakes::log_e)));
        most.map_or_else(String::new, |test| self.text(test.about))
    }

    /// ln of the e-value against what is expected: the mean over tests, and of a test with several parts the least.
    pub(crate) fn log_e(&self) -> f64 {
        self.total
    }

    fn by(&self, log_e: impl Fn(&Stakes<RUNGS>) -> f64) -> f64 {
        let tests = self.tests();
        let logs: Vec<f64> = tests.iter().map(|test| test.log_e(&log_e)).collect();
        ln_sum(&logs) - (logs.len() as f64).ln()
    }

    /// What the evidence amounts to at this limit, given as ln of the e-value that is needed.
    pub(crate) fn finding(&self, limit: f64, parties: &Parties) -> Finding {
        if self.log_e() < limit {
            return Finding::Below;
        }
        let tests = self.tests();
        let parts = tests.iter().flat_map(|test| test.parts);
        let mut slots: Vec<usize> = parts.flat_map(|part| part.slots()).collect();
        slots.sort_unstable();
        slots.dedup();
        let holds = |slot: usize| self.by(|stakes| stakes.log_e_without(slot)) >= limit;
        let mut optional = slots.into_iter().filter(|slot| parties.can_do_without(*slot));
        if optional.all(holds) { Finding::Proved } else { Finding::OneParty }
    }
}

/// The highest of [`level`].
const HIGHEST: usize = 1983;

/// A figure from 1e-6 upwards on a logarithmic scale.
fn level(x: f64) -> usize {
    bin(Duration::from_secs_f64(x.clamp(0.0, 1e3)))
}

/// The lowest figure of a level, about.
fn of_level(level: usize) -> f64 {
    2f64.powf(level as f64 / 64.0) * 1.024e-6
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rollout::testing::Luck;
    use crate::rollout::{Agreement, Origin};

    const LIMIT: f64 = 3.0;

    /// What the arms' replies are like to both readers: nats per byte of each reader, and the KL divergence.
    #[derive(Debug, Clone, Copy)]
    struct Pair {
        of_stable: [f64; 2],
        of_canary: [f64; 2],
        kl: f64,
        otherwise: f64,
        sharper: f32,
    }

    const ALIKE: Pair = Pair {
        of_stable: [0.5, 0.5],
        of_canary: [0.5, 0.5],
        kl: 0.02,
        otherwise: 0.0,
        sharper: 0.02,
    };

    /// Reads replies until something is proved, at most `replies`. Returns how many it took.
    fn found_after(expect: Expect, pair: &Pair, seed: u64, replies: u32) -> Option<u32> {
        let mut readings = Readings::new(&CrossRead { expect, ..CrossRead::default() });
        let (mut luck, mut parties) = (Luck(seed), Parties::new());
        (0..1000).for_each(|party| parties.count(Some(party)));
        readings.begin(Duration::ZERO);
        for n in 0..replies {
            let draw = Draw {
                arm: if luck.unit() < 0.5 { Arm::Canary } else { Arm::Stable },
                party: Some(u64::from(n)),
                cluster: Some(u64::from(n)),
                w: 0.5,
            };
            let medians = if draw.arm == Arm::Canary { pair.of_canary } else { pair.of_stable };
            let text = luck.near(1.0, 0.3);
            let read = medians.map(|median| Read {
                nats: (text * luck.near(median, 0.1)) as f32,
                implausible: 0.0,
            });
            let kl = luck.near(pair.kl, 0.8) as f32;
            let agreement = Agreement { kl, differing: 0.05, sharper: pair.sharper, excess: kl };
            let reading = Reading {
                writer: draw.arm,
                stage: 1,
                origin: Origin::default(),
                read,
                agreement: Some(agreement),
                asked_otherwise: luck.unit() < pair.otherwise,
            };
            readings.observe(&draw, &reading);
            if readings.finding(LIMIT, &parties) == Finding::Proved {
                return Some(n + 1);
            }
        }
        None
    }

    fn found(expect: Expect, pair: &Pair) -> usize {
        (0..100).filter(|seed| found_after(expect, pair, *seed, 100).is_some()).count()
    }

    #[test]
    fn what_is_as_expected_is_never_flagged() {
        let better = Pair { of_stable: [0.5, 0.45], of_canary: [0.55, 0.35], ..ALIKE };
        let other = Pair { of_stable: [0.5, 0.8], of_canary: [0.8, 0.5], kl: 1.0, ..ALIKE };
        for (expect, pair) in [
            (Expect::Same, ALIKE),
            (Expect::Similar, ALIKE),
            (Expect::Similar, better),
            (Expect::Different, other),
        ] {
            let flagged =
                (0..100).filter(|seed| found_after(expect, &pair, *seed, 2000).is_some()).count();
            assert!(flagged <= 5, "{expect:?}, {pair:?}: {flagged}");
        }
    }

    #[test]
    fn what_is_not_as_expected_is_found_within_a_hundred_replies() {
        let requantised_badly = Pair { kl: 0.4, ..ALIKE };
        let asked_otherwise = Pair { otherwise: 0.25, ..ALIKE };
        let doubled = Pair { sharper: 0.69, ..ALIKE };
        let broken = Pair { of_stable: [0.5, 2.0], of_canary: [2.0, 0.6], ..ALIKE };
        let gibberish = Pair { of_stable: [0.5, 3.0], of_canary: [4.0, 3.0], ..ALIKE };
        let looping = Pair { of_canary: [0.02, 0.02], ..ALIKE };
        for (expect, pair) in [
            (Expect::Same, requantised_badly),
            (Expect::Same, asked_otherwise),
            (Expect::Same, doubled),
            (Expect::Similar, broken),
            (Expect::Different, gibberish),
            (Expect::Different, looping),
        ] {
            let found = found(expect, &pair);
            assert!(found >= 95, "{expect:?}, {pair:?}: {found}");
        }
    }

    #[test]
    fn one_party_proves_nothing_while_others_are_active() {
        let mut readings =
            Readings::new(&CrossRead { expect: Expect::Same, ..CrossRead::default() });
        let mut parties = Parties::new();
        (0..1000).for_each(|party| parties.count(Some(party)));
        readings.begin(Duration::ZERO);
        let draw = Draw { arm: Arm::Canary, party: Some(1), cluster: None, w: 0.5 };
        let agreement = Some(Agreement { kl: 5.0, differing: 0.9, sharper: 0.0, excess: 0.0 });
        let (origin, read) = (Origin::default(), [Read::default(); 2]);
        let reading = Reading {
            writer: Arm::Canary,
            stage: 1,
            origin,
            read,
            agreement,
            asked_otherwise: true,
        };
        (0..100).for_each(|_| readings.observe(&draw, &reading));
        assert_eq!(readings.finding(LIMIT, &parties), Finding::OneParty);
    }
}
