//! Errors and requests by stratum, one per bake interval of a stage, and the ratio over them.
//!
//! Counts of different weights or hours are never pooled: with a base rate that drifts during a ramp, two
//! equal models would show a ratio of 2 (Simpson's paradox). The ratio is that of Mantel and Haenszel, sum(a
//! n_s / N) / sum(b n_c / N). It can be computed over all strata or from a given one on. A rollback uses the
//! strata since the restart with most of the evidence, because eight healthy intervals must not hide a canary
//! that broke afterwards. Memory is bounded: the oldest strata are merged into sums, which are enough for the
//! ratio over all strata.

use std::collections::VecDeque;

use super::evalue::{Bets, RUNGS, SLOTS, ln_sum};
use super::{Arm, Weight};

/// Number of strata kept individually.
const KEPT: usize = 64;

/// One bake interval at one weight; arrays by [`Arm::index`].
#[derive(Debug, Clone, PartialEq)]
struct Stratum {
    epoch: u64,
    weight: Weight,
    /// The restart of the evidence that began with this stratum.
    restart: u32,
    requests: [u64; 2],
    errors: [u64; 2],
    /// Canary errors by slot of keys.
    by_slot: Box<[u32; SLOTS]>,
}

/// The strata that contribute to the evidence.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Span {
    pub(crate) ratio: Ratio,
    pub(crate) share: Share,
}

/// How the canary's errors are spread over the slots of keys.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Share {
    errors: u64,
    by_slot: [u32; SLOTS],
}

impl Share {
    pub(crate) fn new() -> Share {
        Share { errors: 0, by_slot: [0; SLOTS] }
    }

    pub(crate) fn count(&mut self, slot: Option<usize>) {
        self.errors += 1;
        if let Some(slot) = slot {
            self.by_slot[slot] = self.by_slot[slot].saturating_add(1);
        }
    }

    /// Whether this slot has more than the share `most` of the errors.
    pub(crate) fn exceeds(&self, slot: usize, most: f64) -> bool {
        f64::from(self.by_slot[slot]) > most * self.errors as f64
    }

    fn add(&mut self, stratum: &Stratum) {
        self.errors += stratum.errors[1];
        for (sum, errors) in self.by_slot.iter_mut().zip(stratum.by_slot.iter()) {
            *sum = sum.saturating_add(*errors);
        }
    }
}

/// The two sums of the ratio.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub(crate) struct Ratio {
    canary: f64,
    stable: f64,
}

impl Ratio {
    /// The ratio; `None` if stable has no errors.
    pub(crate) fn value(&self) -> Option<f64> {
        (self.stable > 0.0).then(|| self.canary / self.stable)
    }

    /// Whether it is at least `limit`; an infinite ratio is.
    pub(crate) fn reaches(&self, limit: f64) -> bool {
        self.canary > 0.0 && self.canary >= limit * self.stable
    }

    /// The canary has errors and stable has none.
    pub(crate) fn is_infinite(&self) -> bool {
        self.canary > 0.0 && self.stable == 0.0
    }

    /// Adds one error whose probability of lying on the canary, if the arms are equal, is `p`.
    pub(crate) fn weigh(&mut self, p: f64, canary: bool) {
        match canary {
            true => self.canary += 1.0 - p,
            false => self.stable += p,
        }
    }

    pub(crate) fn plus(self, other: Ratio) -> Ratio {
        Ratio { canary: self.canary + other.canary, stable: self.stable + other.stable }
    }

    fn add(&mut self, stratum: &Stratum) {
        let [stable, canary] = stratum.requests.map(|n| n as f64);
        let all = stable + canary;
        if all > 0.0 {
            self.canary += stratum.errors[1] as f64 * stable / all;
            self.stable += stratum.errors[0] as f64 * canary / all;
        }
    }
}

/// All strata of one rollout.
#[derive(Debug, Clone, PartialEq, Default)]
pub(crate) struct Strata {
    kept: VecDeque<Stratum>,
    folded: Ratio,
    /// Requests and errors over the whole rollout, by [`Arm::index`].
    pub(crate) requests: [u64; 2],
    pub(crate) errors: [u64; 2],
    /// Errors by weight, `[stable, canary]`; one entry per weight that was used.
    pub(crate) by_weight: Vec<(Weight, [f64; 2])>,
}

impl Strata {
    pub(crate) fn begin(&mut self, epoch: u64, weight: Weight, restart: u32) {
        if self.kept.len() == KEPT
            && let Some(oldest) = self.kept.pop_front()
        {
            self.folded.add(&oldest);
        }
        let (requests, errors, by_slot) = ([0; 2], [0; 2], Box::new([0; SLOTS]));
        self.kept.push_back(Stratum { epoch, weight, restart, requests, errors, by_slot });
    }

    /// Counts an outcome in the latest stratum of its stage. If that stage has been merged away, the outcome
    /// counts only in the totals.
    pub(crate) fn count(
        &mut self,
        (epoch, weight): (u64, Weight),
        arm: Arm,
        error: bool,
        slot: Option<usize>,
    ) {
        let (arm, error) = (arm.index(), u64::from(error));
        self.requests[arm] += 1;
        self.errors[arm] += error;
        if let Some(stratum) = self.kept.iter_mut().rev().find(|s| s.epoch == epoch) {
            stratum.requests[arm] += 1;
            stratum.errors[arm] += error;
            if let Some(slot) = slot.filter(|_| error > 0 && arm == Arm::Canary.index()) {
                stratum.by_slot[slot] = stratum.by_slot[slot].saturating_add(1);
            }
        }
        if error == 0 {
            return;
        }
        match self.by_weight.iter_mut().find(|(known, _)| *known == weight) {
            Some((_, errors)) => errors[arm] += 1.0,
            None => {
                let mut errors = [0.0; 2];
                errors[arm] = 1.0;
                self.by_weight.push((weight, errors));
            }
        }
    }

    /// The ratio over the whole rollout.
    pub(crate) fn ratio(&self) -> Ratio {
        let mut ratio = self.folded;
        self.kept.iter().for_each(|stratum| ratio.add(stratum));
        ratio
    }

    /// The strata since the restart whose component holds most of the evidence.
    pub(crate) fn span_of_evidence(&self, bets: impl Fn(Weight) -> Option<Bets<RUNGS>>) -> Span {
        let (mut logs, mut ratio) = ([0.0; RUNGS], Ratio::default());
        let mut best = (f64::NEG_INFINITY, Ratio::default(), 0);
        let mut known: Option<(Weight, Option<Bets<RUNGS>>)> = None;
        for (at, stratum) in self.kept.iter().enumerate().rev() {
            ratio.add(stratum);
            if known.as_ref().is_none_or(|(weight, _)| *weight != stratum.weight) {
                known = Some((stratum.weight, bets(stratum.weight)));
            }
            if let Some((_, Some(bets))) = &known {
                let [stable, canary] = stratum.errors.map(|n| n as f64);
                for (j, log) in logs.iter_mut().enumerate() {
                    *log += canary * bets.hit[j] + stable * bets.miss[j];
                }
            }
            let k = f64::from(stratum.restart);
            let log = ln_sum(&logs) - (k * (k + 1.0)).ln();
            if log > best.0 {
                best = (log, ratio, at);
            }
        }
        let mut share = Share::new();
        self.kept.range(best.2..).for_each(|stratum| share.add(stratum));
        Span { ratio: best.1, share }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rollout::evalue::bets_above;

    fn weight(percent: u8) -> Weight {
        Weight::new(percent).expect("at most 100")
    }

    fn add(strata: &mut Strata, epoch: u64, at: Weight, arm: Arm, errors: u64, requests: u64) {
        for i in 0..requests {
            strata.count((epoch, at), arm, i < errors, None);
        }
    }

    #[test]
    fn strata_are_never_pooled() {
        // Equal models, 0.2 % at 5 %, 3 % at 50 %: pooled, 31 in 1,100 against 34 in 2,900 is 2.4.
        let mut strata = Strata::default();
        strata.begin(1, weight(5), 1);
        add(&mut strata, 1, weight(5), Arm::Stable, 4, 2000);
        add(&mut strata, 1, weight(5), Arm::Canary, 1, 500);
        strata.begin(2, weight(50), 2);
        add(&mut strata, 2, weight(50), Arm::Stable, 30, 1000);
        add(&mut strata, 2, weight(50), Arm::Canary, 30, 1000);
        let ratio = strata.ratio().value().expect("stable errors");
        assert!((ratio - 1.0).abs() < 1e-9, "{ratio}");
        assert_eq!((strata.errors, strata.requests), ([34, 31], [3000, 1500]));
    }

    #[test]
    fn a_healthy_past_does_not_shield() {
        let mut strata = Strata::default();
        for k in 1..=8 {
            strata.begin(1, weight(25), k);
            add(&mut strata, 1, weight(25), Arm::Stable, 30, 3000);
            add(&mut strata, 1, weight(25), Arm::Canary, 10, 1000);
        }
        strata.begin(1, weight(25), 9);
        add(&mut strata, 1, weight(25), Arm::Stable, 3, 300);
        add(&mut strata, 1, weight(25), Arm::Canary, 10, 100);
        assert!(!strata.ratio().reaches(1.5));
        let late = strata.span_of_evidence(|w| bets_above(w, 1.0)).ratio;
        assert!(late.value().is_some_and(|ratio| ratio > 9.0), "{late:?}");
    }

    #[test]
    fn memory_is_bounded_and_the_ratio_is_not_changed_by_it() {
        let mut strata = Strata::default();
        for k in 1..=200 {
            strata.begin(1, weight(50), k);
            add(&mut strata, 1, weight(50), Arm::Stable, 1, 10);
            add(&mut strata, 1, weight(50), Arm::Canary, 2, 10);
        }
        assert_eq!(strata.kept.len(), KEPT);
        assert!(strata.ratio().value().is_some_and(|ratio| (ratio - 2.0).abs() < 1e-9));
        strata.count((77, weight(50)), Arm::Canary, true, None);
        assert_eq!(strata.errors[1], 401, "a forgotten stage still counts in the totals");
    }

    #[test]
    fn nothing_on_stable_is_infinite_and_nothing_at_all_is_nothing() {
        let mut strata = Strata::default();
        strata.begin(1, weight(5), 1);
        assert!(!strata.ratio().reaches(1.5) && !strata.ratio().is_infinite());
        add(&mut strata, 1, weight(5), Arm::Canary, 1, 1);
        assert!(!strata.ratio().reaches(1.5), "there is no stable request to compare with");
        add(&mut strata, 1, weight(5), Arm::Stable, 0, 1);
        assert!(strata.ratio().reaches(1.5) && strata.ratio().is_infinite());
    }
}
