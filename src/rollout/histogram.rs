//! A histogram of durations with constant memory and constant-time recording.
//!
//! It covers 10 us to 1000 s in log-linear buckets: each power of two of nanoseconds is divided into 256
//! equal parts, so a bucket is 0.20 to 0.39 % wide. Values outside go to the first or last bucket. It does
//! not know what is measured.
//!
//! Integer buckets give the same answer on every replay, which floating-point sketches and `ln` need not do.

use std::time::Duration;

const PARTS_BITS: u32 = 8;
const PARTS: usize = 1 << PARTS_BITS;
/// 10 us is in the octave that starts at 2^13 ns, 1000 s in the one that starts at 2^39 ns.
const FIRST_OCTAVE: u32 = 13;
const OCTAVES: usize = 27;
const MIN_NS: u64 = 10_000;
const MAX_NS: u64 = 1_000_000_000_000;

/// Durations by bucket. Counts by octave are kept as well, so that a quantile reads 27 + 256 numbers instead
/// of all 6,912.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Histogram {
    octaves: [u64; OCTAVES],
    parts: Vec<u64>,
    count: u64,
}

impl Default for Histogram {
    fn default() -> Histogram {
        Histogram { octaves: [0; OCTAVES], parts: vec![0; OCTAVES * PARTS], count: 0 }
    }
}

impl Histogram {
    pub(crate) fn count(&self) -> u64 {
        self.count
    }

    pub(crate) fn record(&mut self, value: Duration) {
        let (octave, part) = bucket(value);
        self.octaves[octave] += 1;
        self.parts[octave * PARTS + part] += 1;
        self.count += 1;
    }

    /// Adds all samples of another histogram.
    pub(crate) fn absorb(&mut self, other: &Histogram) {
        let add = |to: &mut [u64], from: &[u64]| to.iter_mut().zip(from).for_each(|(a, b)| *a += b);
        add(&mut self.octaves, &other.octaves);
        add(&mut self.parts, &other.parts);
        self.count += other.count;
    }

    /// An upper bound of the sample's `q`-quantile: the upper edge of the bucket that contains the order
    /// statistic of rank ceil(q * n). It is at most 0.39 % above it (and never above 1000 s). `None` without
    /// samples.
    pub(crate) fn quantile(&self, q: f64) -> Option<Duration> {
        if self.count == 0 {
            return None;
        }
        // The small subtraction keeps 0.99 * 100 at rank 99 despite rounding.
        self.at_rank((q * self.count as f64 - 1e-9).ceil().max(1.0) as u64)
    }

    /// The upper edge of the bucket that contains the order statistic of this rank, from 1. Ranks outside the
    /// range are clamped. `None` without samples.
    pub(crate) fn at_rank(&self, rank: u64) -> Option<Duration> {
        if self.count == 0 {
            return None;
        }
        let mut left = rank.clamp(1, self.count);
        let octave = take(&self.octaves, &mut left);
        let part = take(&self.parts[octave * PARTS..][..PARTS], &mut left);
        let edge = (PARTS + part + 1) as u64;
        let ns = edge << (FIRST_OCTAVE + octave as u32 - PARTS_BITS);
        Some(Duration::from_nanos(ns.min(MAX_NS)))
    }

    /// How many samples are in buckets entirely above `line`. Samples above the line but in the line's own
    /// bucket are not counted.
    pub(crate) fn count_above(&self, line: Duration) -> u64 {
        let (octave, part) = bucket(line);
        let higher: u64 = self.octaves[octave + 1..].iter().sum();
        higher + self.parts[octave * PARTS..][part + 1..PARTS].iter().sum::<u64>()
    }

    pub(crate) fn summary(&self) -> Option<Latency> {
        let (p50, p99) = (self.quantile(0.5)?, self.quantile(0.99)?);
        Some(Latency { count: self.count, p50, p99 })
    }
}

/// The octave of a duration, and its part of that.
fn bucket(time: Duration) -> (usize, usize) {
    let ns = u64::try_from(time.as_nanos()).unwrap_or(MAX_NS).clamp(MIN_NS, MAX_NS);
    let log2 = ns.ilog2();
    ((log2 - FIRST_OCTAVE) as usize, (ns >> (log2 - PARTS_BITS)) as usize - PARTS)
}

/// The index of the count that contains the `left`-th sample; `left` becomes its rank within that count.
fn take(counts: &[u64], left: &mut u64) -> usize {
    for (index, count) in counts.iter().enumerate() {
        if *left <= *count {
            return index;
        }
        *left -= count;
    }
    counts.len().saturating_sub(1)
}

/// A latency distribution in three figures; quantiles are at most 0.4 % above the sample's own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Latency {
    /// Samples.
    pub count: u64,
    /// Median.
    pub p50: Duration,
    /// 99th percentile.
    pub p99: Duration,
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn an_empty_one_has_no_quantile() {
        assert_eq!(Histogram::default().quantile(0.99), None);
        assert_eq!(Histogram::default().summary(), None);
    }

    #[test]
    fn extremes_go_to_the_edges() {
        let mut low = Histogram::default();
        low.record(Duration::ZERO);
        let p50 = low.quantile(0.5).expect("one sample");
        assert!(p50 >= Duration::from_micros(10) && p50 < Duration::from_nanos(10_050));
        let mut high = Histogram::default();
        high.record(Duration::MAX);
        assert_eq!(high.quantile(0.5), Some(Duration::from_secs(1000)));
    }

    #[test]
    fn ranks_are_those_of_the_order_statistics() {
        let mut histogram = Histogram::default();
        for ms in 1..=100 {
            histogram.record(Duration::from_millis(ms));
        }
        let near = |q: f64, ms: f64| {
            let got = histogram.quantile(q).expect("samples").as_secs_f64() * 1e3;
            assert!(got >= ms && got <= ms * 1.004, "{q}: {got} for {ms}");
        };
        near(0.0, 1.0);
        near(0.5, 50.0);
        near(0.99, 99.0);
        near(1.0, 100.0);
    }

    proptest! {
        #[test]
        fn a_quantile_bounds_its_order_statistic(
            mut ns in prop::collection::vec(10_000u64..1_000_000_000_000, 1..200),
            per_mille in 0u64..=1000,
        ) {
            let mut histogram = Histogram::default();
            ns.iter().for_each(|ns| histogram.record(Duration::from_nanos(*ns)));
            ns.sort_unstable();
            let rank = (per_mille * ns.len() as u64).div_ceil(1000).max(1);
            let exact = ns[rank as usize - 1] as f64;
            let bound = histogram.quantile(per_mille as f64 / 1000.0).expect("samples");
            let bound = bound.as_nanos() as f64;
            prop_assert!(bound >= exact && bound <= exact * (1.0 + 1.0 / 256.0) + 1.0);
            let line = exact as u64;
            let above = histogram.count_above(Duration::from_nanos(line)) as usize;
            let sure = ns.iter().filter(|ns| **ns as f64 > exact * (1.0 + 1.0 / 256.0)).count();
            prop_assert!(above >= sure && above <= ns.iter().filter(|ns| **ns > line).count());
        }
    }
}
