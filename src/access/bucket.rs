//! A token bucket: a rate per minute, and at most one minute's worth at once. Pure; time is passed in.
//!
//! It may be overdrawn, because the cost of a reply is known only at its end. Then nothing is allowed until the debt is
//! paid. So over any time span the total stays within rate and burst, except for requests that were in flight together.
//! An exact sliding window would have to keep every request of the last minute.

use std::time::{Duration, Instant};

/// Smaller differences are rounding.
const ROUNDING: f64 = 1e-6;

/// What is left, and since when.
#[derive(Debug, Clone, Copy)]
pub struct Bucket {
    level: f64,
    at: Instant,
}

impl Bucket {
    /// A full bucket: `per_minute` units, requests or tokens.
    pub fn full(per_minute: u32, now: Instant) -> Bucket {
        Bucket { level: f64::from(per_minute), at: now }
    }

    /// Adds `per_minute` units a minute for the time that has passed, up to `per_minute` of them.
    pub fn refill(&mut self, per_minute: u32, now: Instant) {
        let passed = now.saturating_duration_since(self.at).as_secs_f64();
        let full = f64::from(per_minute);
        self.level = (self.level + passed * full / 60.0).min(full);
        self.at = self.at.max(now);
    }

    /// Whether a unit (a request or a token) is there.
    pub fn has_one(&self) -> bool {
        self.level >= 1.0 - ROUNDING
    }

    /// Takes so many units, requests or tokens; the bucket may be overdrawn.
    pub fn take(&mut self, units: f64) {
        self.level -= units;
    }

    /// Gives back so many units, requests or tokens.
    pub fn give_back(&mut self, units: f64) {
        self.level += units;
    }

    /// Whole units, requests or tokens, that are left.
    pub fn left(&self) -> u64 {
        (self.level + ROUNDING).max(0.0) as u64
    }

    /// Time until there is a whole unit, if `per_minute` units a minute are added.
    pub fn until_one(&self, per_minute: u32) -> Duration {
        time_for(1.0 - self.level, per_minute)
    }

    /// Time until the bucket is full, if `per_minute` units a minute are added.
    pub fn until_full(&self, per_minute: u32) -> Duration {
        time_for(f64::from(per_minute) - self.level, per_minute)
    }
}

fn time_for(units: f64, per_minute: u32) -> Duration {
    let seconds = units.max(0.0) * 60.0 / f64::from(per_minute.max(1));
    Duration::try_from_secs_f64(seconds).unwrap_or(Duration::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// However requests come, at most rate x time + burst are let through, from any moment to any other.
        #[test]
        fn never_more_than_rate_times_time_plus_burst(
            per_minute in 1u32..2000,
            gaps in prop::collection::vec(0u64..3000, 1..200),
        ) {
            let start = Instant::now();
            let (mut bucket, mut at) = (Bucket::full(per_minute, start), start);
            let mut passed = Vec::new();
            for gap in gaps {
                at += Duration::from_millis(gap);
                bucket.refill(per_minute, at);
                if bucket.has_one() {
                    bucket.take(1.0);
                    passed.push(at);
                }
            }
            for (first, from) in passed.iter().enumerate() {
                for (last, to) in passed.iter().enumerate().skip(first) {
                    let time = to.duration_since(*from).as_secs_f64();
                    let most = f64::from(per_minute) * (1.0 + time / 60.0);
                    prop_assert!((last - first + 1) as f64 <= most + 0.001);
                }
            }
        }

        /// What the bucket says of the wait is exact: then there is a unit, and shortly before there is none.
        #[test]
        fn the_wait_is_exact(per_minute in 1u32..100_000, taken in 0.0f64..1e6) {
            let start = Instant::now();
            let mut bucket = Bucket::full(per_minute, start);
            bucket.take(taken);
            let wait = bucket.until_one(per_minute);
            let mut then = bucket;
            then.refill(per_minute, start + wait);
            prop_assert!(then.has_one(), "{then:?} after {wait:?}");
            let early = Duration::from_millis(5);
            if wait > early {
                let mut before = bucket;
                before.refill(per_minute, start + wait - early);
                prop_assert_eq!(before.has_one(), f64::from(per_minute) * 0.005 / 60.0 < ROUNDING);
            }
            let mut full = bucket;
            full.refill(per_minute, start + bucket.until_full(per_minute));
            prop_assert!((full.level - f64::from(per_minute)).abs() < 0.01);
        }

        /// Costs that are known only at the end: work begins only while less has been spent than rate and burst give.
        #[test]
        fn an_overdrawn_bucket_lets_nothing_through(
            per_minute in 1u32..5000,
            steps in prop::collection::vec((0u64..20_000, 1u32..3000), 1..100),
        ) {
            let start = Instant::now();
            let (mut bucket, mut at, mut spent) = (Bucket::full(per_minute, start), start, 0.0);
            for (gap, cost) in steps {
                at += Duration::from_millis(gap);
                bucket.refill(per_minute, at);
                if bucket.has_one() {
                    let time = at.duration_since(start).as_secs_f64();
                    prop_assert!(spent <= f64::from(per_minute) * (1.0 + time / 60.0));
                    bucket.take(f64::from(cost));
                    spent += f64::from(cost);
                }
            }
        }
    }

    #[test]
    fn a_clock_that_seems_to_go_back_changes_nothing() {
        let now = Instant::now();
        let mut bucket = Bucket::full(60, now);
        bucket.take(60.0);
        bucket.refill(60, now + Duration::from_secs(1));
        bucket.refill(60, now);
        bucket.refill(60, now + Duration::from_secs(1));
        assert_eq!(bucket.left(), 1);
    }
}
