//! The recent traffic of each model as its clients saw it: requests by class and finish reason, latencies, rates.
//!
//! Every request counts, whether it is judged or not. Time is passed in. It does not judge; the rollout keeps its own
//! figures for verdicts.

use super::types::Finish;
use crate::control::TrafficStatus;
use crate::engine::LaneId;
use crate::rollout::Class;
use parking_lot::Mutex;
use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

/// How far back times and rates look, and how many requests they look at.
const WINDOW: Duration = Duration::from_secs(60);
const LEAST: Duration = Duration::from_secs(1);
const MOST: usize = 4096;

#[derive(Debug, Clone, Copy)]
pub(super) struct RequestSample {
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

/// The latest requests of each version, by the lane that runs it: a version keeps its figures when it is promoted, and a
/// late reply of one that leaves is not counted for another.
#[derive(Debug, Default)]
pub(super) struct Traffic {
    lanes: Mutex<BTreeMap<LaneId, Lately>>,
}

impl Traffic {
    /// A request of the version in `lane` has ended.
    pub fn note(&self, lane: LaneId, sample: RequestSample) {
        self.lanes.lock().entry(lane).or_insert_with(|| Lately::since(sample.at)).note(sample);
    }

    /// The figures of the version in `lane`; empty ones before its first request.
    pub fn status(&self, lane: LaneId, now: Instant) -> TrafficStatus {
        match self.lanes.lock().get_mut(&lane) {
            Some(lately) => lately.status(now),
            None => Lately::since(now).status(now),
        }
    }

    /// Forgets versions that are not in these lanes.
    pub fn retain(&self, loaded: &[LaneId]) {
        self.lanes.lock().retain(|lane, _| loaded.contains(lane));
    }
}

#[derive(Debug)]
struct Lately {
    since: Instant,
    latest: VecDeque<RequestSample>,
    classes: BTreeMap<&'static str, u64>,
    finish_reasons: BTreeMap<&'static str, u64>,
}

impl Lately {
    fn since(since: Instant) -> Lately {
        let (latest, classes, finish_reasons) = Default::default();
        Lately { since, latest, classes, finish_reasons }
    }

    fn note(&mut self, sample: RequestSample) {
        *self.classes.entry(sample.class.as_str()).or_default() += 1;
        if let Some(finish) = sample.finish {
            *self.finish_reasons.entry(finish.as_str()).or_default() += 1;
        }
        if self.latest.len() == MOST {
            self.latest.pop_front();
        }
        self.latest.push_back(sample);
    }

    fn status(&mut self, now: Instant) -> TrafficStatus {
        let old = |sample: &RequestSample| now.saturating_duration_since(sample.at) > WINDOW;
        while self.latest.front().is_some_and(old) {
            self.latest.pop_front();
        }
        // As long as the version has had requests; with as many requests as are kept, as long as they took.
        let oldest = self.latest.front().filter(|_| self.latest.len() == MOST);
        let begun = oldest.map_or(self.since, |sample| sample.at);
        let window = now.saturating_duration_since(begun).clamp(LEAST, WINDOW);
        let seconds = window.as_secs_f64();
        let tokens: usize = self.latest.iter().map(|sample| sample.output_tokens).sum();
        let times = |time: fn(&RequestSample) -> Option<Duration>| {
            let mut all: Vec<Duration> = self.latest.iter().filter_map(time).collect();
            all.sort_unstable();
            [50, 99].map(|percent| quantile(&all, percent).map(|time| time.as_secs_f64() * 1e3))
        };
        let ([ttft_p50_ms, ttft_p99_ms], [tpot_p50_ms, tpot_p99_ms]) =
            (times(|sample| sample.ttft), times(|sample| sample.tpot));
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
    const SECOND: Duration = Duration::from_secs(1);

    fn sample(at: Instant, class: Class, millis: u64) -> RequestSample {
        let answered = class == Class::Ok;
        RequestSample {
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
        traffic.note(LANE, sample(begin, Class::ModelError, 0));
        let later = begin + 2 * WINDOW;
        (1..=100).for_each(|ms| traffic.note(LANE, sample(later, Class::Ok, ms)));
        let status = traffic.status(LANE, later + SECOND);
        assert_eq!(status.requests, 100);
        assert_eq!((status.ttft_p50_ms, status.ttft_p99_ms), (Some(50.0), Some(99.0)));
        assert_eq!(status.tpot_p50_ms, None);
        assert_eq!(status.requests_per_second, 100.0 / 60.0);
        assert_eq!(status.tokens_per_second, 10.0);
        assert_eq!(status.classes.get("model_error"), Some(&1));
        assert_eq!(status.finish_reasons.get("stop"), Some(&100));
        let gone = traffic.status(LANE, later + 2 * WINDOW);
        assert_eq!((gone.requests, gone.ttft_p50_ms), (0, None));
        assert_eq!(gone.classes.get("ok"), Some(&100));
    }

    #[test]
    fn each_version_has_its_own_until_it_is_gone() {
        let (traffic, now) = (Traffic::default(), Instant::now());
        traffic.note(LANE, sample(now, Class::Ok, 1));
        assert_eq!(traffic.status(LaneId(8), now).requests, 0);
        traffic.note(LaneId(8), sample(now, Class::Timeout, 1));
        traffic.note(LANE, sample(now, Class::Ok, 1));
        assert_eq!(traffic.status(LaneId(8), now).classes.get("timeout"), Some(&1));
        assert_eq!(traffic.status(LANE, now).requests, 2);
        traffic.retain(&[LANE]);
        assert_eq!(traffic.status(LaneId(8), now).classes.len(), 0);
        assert_eq!(traffic.status(LANE, now).requests, 2);
    }

    #[test]
    fn a_version_is_as_old_as_its_first_request() {
        let (traffic, begin) = (Traffic::default(), Instant::now());
        (0..50).for_each(|n| traffic.note(LANE, sample(begin + n * SECOND / 10, Class::Ok, 1)));
        let rate = traffic.status(LANE, begin + 5 * SECOND).requests_per_second;
        assert!((rate - 10.0).abs() < 0.01, "{rate}");
    }

    #[test]
    fn of_very_many_requests_the_rate_is_that_of_those_that_are_kept() {
        let (traffic, begin) = (Traffic::default(), Instant::now());
        for n in 0..3 * MOST as u64 {
            traffic.note(LANE, sample(begin + Duration::from_millis(n), Class::Ok, 1));
        }
        let end = begin + Duration::from_millis(3 * MOST as u64);
        let status = traffic.status(LANE, end);
        assert_eq!(status.requests, MOST as u64);
        assert!((status.requests_per_second - 1000.0).abs() < 1.0, "{status:?}");
    }
}
