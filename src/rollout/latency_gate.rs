//! The latency and throughput gates: is the canary's tail within 10 % of stable's, and its median rate at
//! least 0.9 of stable's?
//!
//! A ratio of two sample p99s is mostly noise, so the p99 is judged by exceedance. tau is the allowed ratio
//! times stable's p99. The canary is within the limit if at most 1 % of its replies are above tau; the Confidence
//! Sequence Method decides this. Stable's p99 is not known exactly either: an upper bound of it is used to fail the
//! canary, and a lower bound to certify it. With fewer than 299 samples of stable there is no upper bound, and its
//! largest sample is used instead. (With n samples, 1 in n + 1 of equal replies is above that, so the test is still
//! valid.) Certifying waits until there are enough samples.
//!
//! tau is computed from all of stable's samples of the stage at each judgement (docs/decisions/008). The samples
//! compared are always concurrent (same stage) and of the same kind (matched steps or not). The gate can only hold,
//! never roll back.
//!
//! At 100 % nothing is concurrent, so stable's samples are taken from all stages below 100 %. As for errors,
//! `alone_allowance` times as many replies may be above tau. Otherwise one slow hour would hold the rollout for ever.

use std::time::Duration;

use super::histogram::Histogram;
use super::stats::{csm_rejects, median_ranks, tail_above, tail_below};
use super::verdict::{Gate, GateName, GateState};
use super::{Mode, Policy};

/// Below this many samples on either arm nothing is judged. If the policy raises on fewer requests, latency
/// is judged on that number.
const LEAST: u64 = 100;
/// From this many samples on, a p99 has a true upper bound at 5 %.
pub(crate) const BOUNDED: u64 = 299;
/// The share of replies that are above a p99.
pub(crate) const TAIL: f64 = 0.01;

/// Both arms' samples of one measure, and whether the stage otherwise has enough data.
pub(crate) struct Pair<'a> {
    pub(crate) policy: &'a Policy,
    pub(crate) stable: &'a Histogram,
    pub(crate) canary: &'a Histogram,
    /// The share of canary replies that may be above tau: 1 %, at 100 % more.
    pub(crate) tail: f64,
    /// Both arms have the requests that the policy requires: missing samples will not come.
    pub(crate) full: bool,
}

/// The minimum samples of each arm for judging latency.
pub(crate) fn least(policy: &Policy) -> u64 {
    LEAST.min(policy.min_requests).max(1)
}

impl Pair<'_> {
    fn samples(&self) -> (u64, u64) {
        (self.stable.count(), self.canary.count())
    }

    /// The state when there are too few samples to compare.
    ///
    /// If no request of a full stage has such a sample on either arm (answers of one token have no time per
    /// token), there is nothing to judge. If only one arm lacks them, the weight is held.
    fn lacking(&self) -> Option<GateState> {
        let (stable, canary) = self.samples();
        let least = least(self.policy);
        if (stable, canary) == (0, 0) && self.full {
            let why = "no request on either arm has a sample".to_string();
            return Some(GateState::NotJudged(why));
        }
        (stable < least || canary < least).then(|| {
            let missing =
                format!("{canary} canary and {stable} stable samples, {least} needed of each");
            GateState::Inconclusive(missing)
        })
    }

    fn gate(&self, name: GateName, threshold: f64, state: GateState) -> Gate {
        let threshold = Some(threshold);
        Gate { threshold, samples: self.samples(), ..Gate::bare(name, state) }
    }
}

/// The p99 gate of time to first token or time per token.
pub(crate) fn latency(name: GateName, pair: &Pair<'_>) -> Gate {
    let limit = pair.policy.max_latency_ratio;
    if let Some(state) = pair.lacking() {
        return pair.gate(name, limit, state);
    }
    let (Some(stable), Some(canary)) = (pair.stable.quantile(0.99), pair.canary.quantile(0.99))
    else {
        return pair.gate(name, limit, GateState::Inconclusive("no samples".into()));
    };
    let ratio = canary.as_secs_f64() / stable.as_secs_f64();
    let accuse = Exceedance::new(pair, upper(pair.stable, pair.policy.alpha).0);
    let certify = Exceedance::new(pair, lower(pair.stable, pair.policy.alpha));
    let judged = match pair.policy.mode {
        Mode::BestEffort => &accuse,
        Mode::Strict if accuse.rejected => &accuse,
        Mode::Strict => &certify,
    };
    let text = format!(
        "p99 {canary:.1?} against stable's {stable:.1?}: ratio {ratio:.2}, limit {limit:.2}; {}",
        judged.text()
    );
    let state = if accuse.rejected {
        GateState::Fail(text.clone())
    } else if pair.policy.mode == Mode::BestEffort || certify.certified {
        GateState::Pass
    } else if pair.stable.count() < BOUNDED {
        let missing = format!("{} of {BOUNDED} stable samples", pair.stable.count());
        GateState::Inconclusive(missing)
    } else {
        GateState::Inconclusive(format!("{text}; not yet certain"))
    };
    let interval = ratio_interval(pair);
    Gate { value: Some(ratio), text, interval, ..pair.gate(name, limit, state) }
}

/// The canary's replies above a line that 1 % may exceed.
struct Exceedance {
    line: Duration,
    above: u64,
    of: u64,
    tail: f64,
    rejected: bool,
    certified: bool,
}

impl Exceedance {
    fn new(pair: &Pair<'_>, p99: Duration) -> Exceedance {
        let line = p99.mul_f64(pair.policy.max_latency_ratio);
        let (above, of) = (pair.canary.count_above(line), pair.canary.count());
        let decided = csm_rejects(of, above, pair.tail, pair.policy.alpha);
        let high = above as f64 > pair.tail * of as f64;
        let (rejected, certified) = (decided && high, decided && !high);
        Exceedance { line, above, of, tail: pair.tail, rejected, certified }
    }

    fn text(&self) -> String {
        let Exceedance { line, above, of, tail, .. } = self;
        let share = 100.0 * *above as f64 / *of as f64;
        let word = match (self.rejected, self.certified) {
            (true, _) => "too many",
            (_, true) => "certain to be within",
            _ => "not too many",
        };
        let may = 100.0 * tail;
        format!("{above} of {of} above {line:.1?} ({share:.1} %, {may:.0} % may be): {word}")
    }
}

/// An upper bound of the p99, and whether it is a true bound (or only the largest sample).
fn upper(samples: &Histogram, delta: f64) -> (Duration, bool) {
    let above = tail_above(samples.count(), TAIL, delta);
    let bound = samples.at_rank(samples.count() - above.unwrap_or(0));
    (bound.unwrap_or(Duration::MAX), above.is_some())
}

fn lower(samples: &Histogram, delta: f64) -> Duration {
    let above = tail_below(samples.count(), TAIL, delta);
    samples.at_rank(samples.count().saturating_sub(above)).unwrap_or_default()
}

/// The possible range of the ratio of the p99s: both arms' bounds against each other. `None` if one arm has
/// too few samples for an upper bound.
fn ratio_interval(pair: &Pair<'_>) -> Option<(f64, f64)> {
    let delta = pair.policy.alpha;
    let bounds = |samples: &Histogram| {
        let (high, honest) = upper(samples, delta);
        honest.then(|| (lower(samples, delta).as_secs_f64(), high.as_secs_f64()))
    };
    let ((stable_low, stable_high), (low, high)) = (bounds(pair.stable)?, bounds(pair.canary)?);
    Some((low / stable_high, high / stable_low))
}

/// The gate of the median decode rate, from times per token.
pub(crate) fn throughput(pair: &Pair<'_>) -> Gate {
    let name = GateName::Throughput;
    let limit = pair.policy.min_throughput_ratio;
    if let Some(state) = pair.lacking() {
        return pair.gate(name, limit, state);
    }
    let rates = |samples: &Histogram| {
        let (low, high) = median_ranks(samples.count());
        let rate = |time: Option<Duration>| time.map_or(f64::NAN, |t| 1.0 / t.as_secs_f64());
        let median = rate(samples.quantile(0.5));
        (rate(samples.at_rank(high)), median, rate(samples.at_rank(low)))
    };
    let (stable, canary) = (rates(pair.stable), rates(pair.canary));
    let ratio = canary.1 / stable.1;
    let (low, high) = (canary.0 / stable.2, canary.2 / stable.0);
    let text = format!(
        "median {:.1} tokens/s against stable's {:.1}: ratio {ratio:.2} ({low:.2} to {high:.2}), \
         least {limit:.2}",
        canary.1, stable.1
    );
    let state = if high < limit {
        GateState::Fail(text.clone())
    } else if pair.policy.mode == Mode::BestEffort || low >= limit {
        GateState::Pass
    } else {
        GateState::Inconclusive(format!("{text}; not yet certain"))
    };
    let interval = Some((low, high));
    Gate { value: Some(ratio), text, interval, ..pair.gate(name, limit, state) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn samples(of: u64, ms: u64, slow: u64, slow_ms: u64) -> Histogram {
        let mut samples = Histogram::default();
        (0..of - slow).for_each(|_| samples.record(Duration::from_millis(ms)));
        (0..slow).for_each(|_| samples.record(Duration::from_millis(slow_ms)));
        samples
    }

    fn state(mode: Mode, stable: &Histogram, canary: &Histogram) -> &'static str {
        let policy = &Policy { mode, ..Policy::default() };
        let gate =
            latency(GateName::Ttft, &Pair { policy, stable, canary, tail: TAIL, full: true });
        assert!(gate.value.is_none_or(f64::is_finite), "{}", gate.text);
        gate.state.as_str()
    }

    #[test]
    fn a_few_slow_replies_may_be_chance_and_many_are_not() {
        let stable = samples(1000, 100, 0, 0);
        let canary = |slow| samples(300, 100, slow, 150);
        assert_eq!(state(Mode::BestEffort, &stable, &canary(4)), "pass", "1.3 %");
        assert_eq!(state(Mode::BestEffort, &stable, &canary(14)), "fail", "4.7 %");
        assert_eq!(state(Mode::BestEffort, &stable, &samples(300, 109, 0, 0)), "pass");
        assert_eq!(state(Mode::BestEffort, &stable, &samples(300, 112, 0, 0)), "fail");
    }

    #[test]
    fn a_hold_ends_when_later_samples_no_longer_support_it() {
        let stable = samples(1000, 100, 0, 0);
        assert_eq!(state(Mode::BestEffort, &stable, &samples(300, 100, 14, 150)), "fail");
        assert_eq!(state(Mode::BestEffort, &stable, &samples(1200, 100, 14, 150)), "pass");
    }

    #[test]
    fn stables_own_tail_is_allowed_for() {
        // 1 % of stable's samples are slow: the upper bound of its p99 is among them.
        let stable = samples(1000, 100, 10, 150);
        assert_eq!(state(Mode::BestEffort, &stable, &samples(300, 100, 14, 150)), "pass");
        assert_eq!(state(Mode::BestEffort, &stable, &samples(300, 100, 14, 170)), "fail");
    }

    #[test]
    fn strict_takes_299_of_stable_and_984_of_the_canary() {
        let (few, many) = (samples(298, 100, 0, 0), samples(299, 100, 0, 0));
        let canary = |of| samples(of, 100, 0, 0);
        assert_eq!(state(Mode::Strict, &many, &canary(983)), "inconclusive");
        assert_eq!(state(Mode::Strict, &many, &canary(984)), "pass");
        assert_eq!(state(Mode::BestEffort, &few, &canary(100)), "pass");
        assert_eq!(state(Mode::BestEffort, &few, &canary(99)), "inconclusive");
    }

    #[test]
    fn below_299_samples_there_is_no_honest_bound() {
        assert!(!upper(&samples(298, 100, 0, 0), 0.05).1);
        assert!(upper(&samples(299, 100, 0, 0), 0.05).1);
    }

    #[test]
    fn throughput_fails_by_its_upper_end_and_is_certain_by_its_lower() {
        let judge = |mode, canary: &Histogram| {
            let policy = &Policy { mode, ..Policy::default() };
            let stable = &samples(1000, 10, 300, 12);
            let gate = throughput(&Pair { policy, stable, canary, tail: TAIL, full: true });
            let (low, high) = gate.interval.expect("samples enough");
            assert!(low <= high);
            gate.state.as_str()
        };
        assert_eq!(judge(Mode::BestEffort, &samples(300, 10, 0, 0)), "pass");
        assert_eq!(judge(Mode::Strict, &samples(300, 10, 0, 0)), "pass");
        assert_eq!(judge(Mode::BestEffort, &samples(300, 12, 0, 0)), "fail");
        let mixed = samples(300, 10, 150, 12);
        assert_eq!(judge(Mode::BestEffort, &mixed), "pass", "it may be either");
        assert_eq!(judge(Mode::Strict, &mixed), "inconclusive");
    }
}
