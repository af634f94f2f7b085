//! What each model did lately, as its clients saw it: requests by class and finish reason, times, rates.
//!
//! Counts every request of an arm, judged or not, and begins anew with every version. Time is passed in. It does not
//! judge; for verdicts the rollout has figures of its own.

use super::types::Finish;
use crate::control::TrafficStatus;
use crate::engine::LaneId;
use crate::rollout::{Arm, Class};
use parking_lot::Mutex;
use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

/// How far back times and rates look, and how many requests they look at.
const WINDOW: Duration = Duration::from_secs(60);
const MOST: usize = 4096;

/// One request that has ended.
#[derive(Debug, Clone, Copy)]
pub(super) struct Seen {
    /// When it ended.
    pub at: Instant,
    pub class: Class,
    /// Of the first reply, if that is complete.
    pub finish: Option<Finish>,
    /// From arrival to the first token.
    pub ttft: Option<Duration>,
    /// Mean time per token after the first.
    pub tpot: Option<Duration>,
    /// Of all its replies.
    pub output_tokens: usize,
}

/// The arms' latest requests, by [`Arm::index`].
#[derive(Debug, Default)]
pub(super) struct Traffic {
    arms: Mutex<[Lately; 2]>,
}

impl Traffic {
    /// A request of the version in `lane` has ended.
    pub fn note(&self, arm: Arm, lane: LaneId, seen: Seen) {
        let mut arms = self.arms.lock();
        let arm = &mut arms[arm.index()];
        if arm.lane != Some(lane) {
            *arm = Lately { lane: Some(lane), ..Lately::default() };
        }
        arm.note(seen);
    }

    /// The figures of the version in `lane`; empty ones before its first request.
    pub fn status(&self, arm: Arm, lane: LaneId, now: Instant) -> TrafficStatus {
        let mut arms = self.arms.lock();
        match &mut arms[arm.index()] {
            arm if arm.lane == Some(lane) => arm.status(now),
            _ => Lately::default().status(now),
        }
    }
}

/// One version's requests.
#[derive(Debug, Default)]
struct Lately {
    lane: Option<LaneId>,
    latest: VecDeque<Seen>,
    classes: BTreeMap<&'static str, u64>,
    finish_reasons: BTreeMap<&'static str, u64>,
}

impl Lately {
    fn note(&mut self, seen: Seen) {
        *self.classes.entry(seen.class.as_str()).or_default() += 1;
        if let Some(finish) = seen.finish {
            *self.finish_reasons.entry(finish.as_str()).or_default() += 1;
        }
        if self.latest.len() == MOST {
            self.latest.pop_front();
        }
        self.latest.push_back(seen);
    }

    fn status(&mut self, now: Instant) -> TrafficStatus {
        let old = |seen: &Seen| now.saturating_duration_since(seen.at) > WINDOW;
        while self.latest.front().is_some_and(old) {
            self.latest.pop_front();
        }
        // With as many requests as are kept, the window is as long as they took.
        let oldest = self.latest.front().filter(|_| self.latest.len() == MOST);
        let window = oldest.map_or(WINDOW, |seen| now.saturating_duration_since(seen.at));
        let seconds = window.as_secs_f64().max(1e-3);
        let tokens: usize = self.latest.iter().map(|seen| seen.output_tokens).sum();
        let times = |time: fn(&Seen) -> Option<Duration>| {
            let mut all: Vec<Duration> = self.latest.iter().filter_map(time).collect();
            all.sort_unstable();
            [50, 99].map(|percent| quantile(&all, percent).map(|time| time.as_secs_f64() * 1e3))
        };
        let ([ttft_p50_ms, ttft_p99_ms], [tpot_p50_ms, tpot_p99_ms]) =
            (times(|seen| seen.ttft), times(|seen| seen.tpot));
        let named = |counts: &BTreeMap<&str, u64>| {
            counts.iter().map(|(name, count)| ((*name).to_owned(), *count)).collect()
        };
        TrafficStatus {
            window_s: seconds,
            requests: self.latest.len() as u64,
            requests_per_second: self.latest.len() as f64 / seconds,
            tokens_per_second: tokens as f64 / seconds,
            ttft_p50_ms,
            ttft_p99_ms,
            tpot_p50_ms,
            tpot_p99_ms,
            classes: named(&self.classes),
            finish_reasons: named(&self.finish_reasons),
        }
    }
}

/// The order statistic of rank ceil(percent/100 * n) of sorted values.
fn quantile(sorted: &[Duration], percent: usize) -> Option<Duration> {
    let rank = (sorted.len() * percent).div_ceil(100);
    sorted.get(rank.checked_sub(1)?).copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    const LANE: LaneId = LaneId(7);

    fn seen(at: Instant, class: Class, millis: u64) -> Seen {
        let answered = class == Class::Ok;
        Seen {
            at,
            class,
            finish: answered.then_some(Finish::Stop),
            ttft: answered.then_some(Duration::from_millis(millis)),
            tpot: None,
            output_tokens: 6,
        }
    }

    #[test]
    fn times_and_rates_are_those_of_the_window_and_counts_those_since_the_load() {
        let (traffic, begin) = (Traffic::default(), Instant::now());
        traffic.note(Arm::Canary, LANE, seen(begin, Class::ModelError, 0));
        let later = begin + 2 * WINDOW;
        (1..=100).for_each(|ms| traffic.note(Arm::Canary, LANE, seen(later, Class::Ok, ms)));
        let status = traffic.status(Arm::Canary, LANE, later + Duration::from_secs(1));
        assert_eq!(status.requests, 100);
        assert_eq!((status.ttft_p50_ms, status.ttft_p99_ms), (Some(50.0), Some(99.0)));
        assert_eq!(status.tpot_p50_ms, None);
        assert_eq!(status.requests_per_second, 100.0 / 60.0);
        assert_eq!(status.tokens_per_second, 10.0);
        assert_eq!(status.classes.get("model_error"), Some(&1));
        assert_eq!(status.finish_reasons.get("stop"), Some(&100));
        let gone = traffic.status(Arm::Canary, LANE, later + 2 * WINDOW);
        assert_eq!((gone.requests, gone.ttft_p50_ms), (0, None));
        assert_eq!(gone.classes.get("ok"), Some(&100));
    }

    #[test]
    fn another_version_begins_with_nothing() {
        let (traffic, now) = (Traffic::default(), Instant::now());
        traffic.note(Arm::Stable, LANE, seen(now, Class::Ok, 1));
        assert_eq!(traffic.status(Arm::Stable, LaneId(8), now).requests, 0);
        assert_eq!(traffic.status(Arm::Canary, LANE, now).requests, 0);
        traffic.note(Arm::Stable, LaneId(8), seen(now, Class::Timeout, 1));
        let status = traffic.status(Arm::Stable, LaneId(8), now);
        assert_eq!((status.classes.len(), status.classes.get("timeout")), (1, Some(&1)));
    }

    #[test]
    fn of_very_many_requests_the_rate_is_that_of_those_that_are_kept() {
        let (traffic, begin) = (Traffic::default(), Instant::now());
        for n in 0..3 * MOST as u64 {
            let at = begin + Duration::from_millis(n);
            traffic.note(Arm::Stable, LANE, seen(at, Class::Ok, 1));
        }
        let status =
            traffic.status(Arm::Stable, LANE, begin + Duration::from_millis(3 * MOST as u64));
        assert_eq!(status.requests, MOST as u64);
        assert!((status.requests_per_second - 1000.0).abs() < 1.0, "{status:?}");
    }
}
