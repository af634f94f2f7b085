//! A running quantile of a stream of durations, with constant cost per sample.
//!
//! Durations are counted in logarithmic bins, 64 per power of two (1.1 % to 1.6 % wide), and the bin that holds
//! the quantile is followed from one sample to the next. After 4,096 samples all counts are halved, so that the
//! quantile follows a drift. Integer arithmetic only: a replay gives the same bins. It does not know what is
//! measured.

use std::time::Duration;

const PARTS_BITS: u32 = 6;
const PARTS: usize = 1 << PARTS_BITS;
/// From 2^10 ns (1 us) to 2^41 ns (36 min).
const FIRST_OCTAVE: u32 = 10;
const OCTAVES: usize = 31;
const BINS: usize = OCTAVES * PARTS;
/// At this many samples all counts are halved.
const HALVED_AT: u32 = 4096;

/// The bin of a duration.
pub(crate) fn bin(time: Duration) -> usize {
    let least = 1u64 << FIRST_OCTAVE;
    let most = (1u64 << (FIRST_OCTAVE + OCTAVES as u32)) - 1;
    let ns = u64::try_from(time.as_nanos()).unwrap_or(most).clamp(least, most);
    let log2 = ns.ilog2();
    let part = (ns >> (log2 - PARTS_BITS)) as usize - PARTS;
    (log2 - FIRST_OCTAVE) as usize * PARTS + part
}

/// The samples, and the bin of one of their quantiles.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Quantile {
    /// Share of the samples that may be above the quantile's bin, as one of this many.
    one_in: u32,
    counts: Vec<u32>,
    count: u32,
    /// The smallest bin with at most `count / one_in` samples above it.
    at: usize,
    /// Samples above it.
    above: u32,
}

impl Quantile {
    /// The quantile that one in `one_in` samples are above: 2 for the median, 100 for p99.
    pub(crate) fn new(one_in: u32) -> Quantile {
        Quantile { one_in, counts: vec![0; BINS], count: 0, at: 0, above: 0 }
    }

    /// Samples so far, after halving.
    pub(crate) fn count(&self) -> u32 {
        self.count
    }

    /// The bin of the quantile.
    pub(crate) fn bin(&self) -> usize {
        self.at
    }

    /// Adds a sample.
    pub(crate) fn add(&mut self, bin: usize) {
        self.counts[bin] += 1;
        self.count += 1;
        self.above += u32::from(bin > self.at);
        if self.count >= HALVED_AT {
            self.halve();
        }
        let allowed = self.count / self.one_in;
        while self.above > allowed {
            self.at += 1;
            self.above -= self.counts[self.at];
        }
        while self.at > 0 && self.above + self.counts[self.at] <= allowed {
            self.above += self.counts[self.at];
            self.at -= 1;
        }
    }

    fn halve(&mut self) {
        self.counts.iter_mut().for_each(|count| *count /= 2);
        self.count = self.counts.iter().sum();
        self.above = self.counts[self.at + 1..].iter().sum();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn bins_are_ordered_and_narrow() {
        let ms = |ms: f64| bin(Duration::from_secs_f64(ms / 1e3));
        assert!(ms(100.0) < ms(102.0) && ms(102.0) < ms(120.0));
        assert_eq!((bin(Duration::ZERO), bin(Duration::MAX)), (0, BINS - 1));
    }

    #[test]
    fn a_drift_is_followed() {
        let mut median = Quantile::new(2);
        (0..20_000).for_each(|_| median.add(1000));
        (0..20_000).for_each(|_| median.add(1200));
        assert_eq!(median.bin(), 1200);
        assert!(median.count() < HALVED_AT);
    }

    proptest! {
        #[test]
        fn it_is_the_quantile_of_all_samples(
            samples in prop::collection::vec(0usize..BINS, 1..400), one_in in prop::sample::select(vec![2u32, 100]),
        ) {
            let mut quantile = Quantile::new(one_in);
            let mut sorted = Vec::new();
            for sample in samples {
                quantile.add(sample);
                sorted.push(sample);
                sorted.sort_unstable();
                let above = |bin: usize| sorted.iter().filter(|one| **one > bin).count();
                let allowed = sorted.len() / one_in as usize;
                prop_assert!(above(quantile.at) <= allowed);
                prop_assert!(quantile.at == 0 || above(quantile.at - 1) > allowed);
            }
        }
    }
}
