//! The data of a stage: counts and latencies per arm, and the errors already charged.
//!
//! It decides nothing; `gates` and `evidence` read it. There is one window per stage and not a sliding one
//! because a verdict is about one weight. Counts pooled over weights would compare different hours of traffic
//! as if they were one.

use std::collections::{HashMap, VecDeque};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::histogram::Histogram;
use super::{Arm, Class, Outcome};

/// What was counted on one arm, and what was excluded and why.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Counts {
    /// Judged requests that succeeded or erred: the error rate's denominator.
    pub requests: u64,
    /// Those that ended in an error.
    pub errors: u64,
    /// Duplicates of an error already counted for the same session and class; in no rate.
    pub deduplicated: u64,
    /// Judged requests whose client disconnected; in no rate.
    pub cancels: u64,
    /// Judged requests refused because the server was full or not ready; in no rate.
    pub rejected: u64,
    /// Judged requests that were invalid; in no rate.
    pub invalid: u64,
    /// Outcomes, votes and retries of another stage's epoch: in no count here.
    pub other_stage: u64,
    /// Pinned, synthetic and replayed requests, excluded.
    pub unjudged: u64,
    /// Judged requests of a freshly loaded canary, excluded.
    pub warmup: u64,
    /// Judged requests of a key with too large a share of the sample, excluded from it.
    pub over_share: u64,
    /// Answers that a user regenerated.
    pub retries: u64,
    /// Tokens of the successful answers.
    pub output_tokens: u64,
    /// Thumbs up.
    pub votes_up: u64,
    /// Thumbs down.
    pub votes_down: u64,
}

impl Counts {
    /// Errors by requests, 0.0 to 1.0; `None` without requests.
    pub fn error_rate(&self) -> Option<f64> {
        share(self.errors, self.requests)
    }

    /// How many votes there are, for and against.
    pub fn votes(&self) -> u64 {
        self.votes_up + self.votes_down
    }

    /// Mean length of the successful answers in tokens; `None` without any.
    pub fn mean_output_tokens(&self) -> Option<f64> {
        share(self.output_tokens, self.requests.saturating_sub(self.errors))
    }

    /// How many outcomes are excluded from the judgement, whatever the reason.
    pub fn excluded(&self) -> u64 {
        self.other_stage + self.unjudged + self.warmup + self.deduplicated + self.over_share
    }

    pub(crate) fn plus(&self, other: &Counts) -> Counts {
        Counts {
            requests: self.requests + other.requests,
            errors: self.errors + other.errors,
            deduplicated: self.deduplicated + other.deduplicated,
            cancels: self.cancels + other.cancels,
            rejected: self.rejected + other.rejected,
            invalid: self.invalid + other.invalid,
            other_stage: self.other_stage + other.other_stage,
            unjudged: self.unjudged + other.unjudged,
            warmup: self.warmup + other.warmup,
            over_share: self.over_share + other.over_share,
            retries: self.retries + other.retries,
            output_tokens: self.output_tokens + other.output_tokens,
            votes_up: self.votes_up + other.votes_up,
            votes_down: self.votes_down + other.votes_down,
        }
    }
}

/// Whether the canary's rate is at least `limit` times stable's, each given as (part, whole).
///
/// The comparison is multiplied out to avoid a division. If stable's rate is zero, any canary rate is
/// infinitely worse; if there is nothing on either side, there is nothing to compare.
pub(crate) fn rate_reaches(limit: f64, stable: (u64, u64), canary: (u64, u64)) -> bool {
    let cross = |part: u64, whole: u64| part as f64 * whole as f64;
    stable.1 > 0 && canary.0 > 0 && cross(canary.0, stable.1) >= limit * cross(stable.0, canary.1)
}

/// Median per-request decode rate.
pub(crate) fn tokens_per_second(tpot: &Histogram) -> Option<f64> {
    tpot.quantile(0.5).map(|tpot| 1.0 / tpot.as_secs_f64())
}

fn share(part: u64, whole: u64) -> Option<f64> {
    (whole > 0).then(|| part as f64 / whole as f64)
}

/// One arm in one stage.
#[derive(Debug, Clone, PartialEq, Default)]
pub(crate) struct ArmWindow {
    pub(crate) counts: Counts,
    pub(crate) ttft: Histogram,
    pub(crate) tpot: Histogram,
    pub(crate) e2e: Histogram,
    /// TTFT and time per token of the replies with a matched step.
    pub(crate) matched_ttft: Histogram,
    pub(crate) matched_tpot: Histogram,
}

impl ArmWindow {
    /// TTFT and time per token: of all replies, or of those with a matched step.
    pub(crate) fn latencies(&self, matched: bool) -> (&Histogram, &Histogram) {
        match matched {
            true => (&self.matched_ttft, &self.matched_tpot),
            false => (&self.ttft, &self.tpot),
        }
    }

    /// Whether to compare this canary with `stable` by replies with a matched step: if both have enough of
    /// them, or if most of the canary's replies have one.
    ///
    /// Matched steps can be compared whatever the traffic of each arm. With too little traffic for both to
    /// run at once, each arm runs alone, and the replies can be compared directly.
    pub(crate) fn by_matched(&self, stable: &ArmWindow, enough: u64) -> bool {
        let enough = self.matched_tpot.count().min(stable.matched_tpot.count()) >= enough;
        enough || 2 * self.matched_tpot.count() > self.tpot.count()
    }

    /// Records a judged outcome of this stage that is not a duplicate of an earlier error.
    ///
    /// Latencies are recorded whatever the class: a client that gives up on a slow reply must not make the
    /// arm look faster. Requests that never ran have none.
    pub(crate) fn record(&mut self, outcome: &Outcome) {
        let counts = &mut self.counts;
        match outcome.class {
            Class::Ok => {
                counts.requests += 1;
                counts.output_tokens += u64::from(outcome.output_tokens);
            }
            Class::ModelError | Class::Timeout => {
                counts.requests += 1;
                counts.errors += 1;
            }
            Class::ClientCancel => counts.cancels += 1,
            Class::Rejected => counts.rejected += 1,
            Class::InvalidRequest => counts.invalid += 1,
        }
        if let Some(ttft) = outcome.ttft {
            self.ttft.record(ttft);
            if outcome.matched {
                self.matched_ttft.record(ttft);
            }
        }
        if let Some(tpot) = outcome.tpot {
            self.tpot.record(tpot);
            if outcome.matched {
                self.matched_tpot.record(tpot);
            }
        }
        if outcome.class.counts() {
            self.e2e.record(outcome.e2e);
        }
    }

    /// Adds the latencies of another stage, but not its counts.
    pub(crate) fn absorb_latencies(&mut self, other: &ArmWindow) {
        self.ttft.absorb(&other.ttft);
        self.tpot.absorb(&other.tpot);
        self.e2e.absorb(&other.e2e);
        self.matched_ttft.absorb(&other.matched_ttft);
        self.matched_tpot.absorb(&other.matched_tpot);
    }

    /// The median decode rate in tokens per second, a lower bound within 0.4 %: the reciprocal of the median
    /// time per token, which is never zero.
    pub(crate) fn tokens_per_second(&self) -> Option<f64> {
        tokens_per_second(&self.tpot)
    }
}

/// How many charged errors are remembered. When the list is full, the oldest is forgotten, so a duplicate of
/// it would be counted again. This errs on the side of caution, and happens only above 8,192 errors per
/// window.
const REMEMBERED_ERRORS: usize = 8192;

type ErrorKey = (Arm, u64, Class);

/// The errors charged recently, so that a poison prompt that is retried counts as one error.
///
/// Kept over the whole rollout: a retry does not become a new error because the weight rose.
#[derive(Debug, Clone, PartialEq, Default)]
pub(crate) struct ErrorDedup {
    at: HashMap<ErrorKey, Duration>,
    order: VecDeque<(Duration, ErrorKey)>,
}

impl ErrorDedup {
    /// Whether this error duplicates one charged less than `window` ago. If not, it is charged now. A
    /// duplicate does not extend the window. If the clock went back, no time has passed.
    pub(crate) fn is_copy(&mut self, now: Duration, window: Duration, key: ErrorKey) -> bool {
        let fresh = |at: Duration| now.saturating_sub(at) < window;
        if self.at.get(&key).is_some_and(|at| fresh(*at)) {
            return true;
        }
        while let Some((at, _)) = self.order.front()
            && (!fresh(*at) || self.order.len() >= REMEMBERED_ERRORS)
        {
            self.forget_oldest();
        }
        self.at.insert(key, now);
        self.order.push_back((now, key));
        false
    }

    fn forget_oldest(&mut self) {
        if let Some((at, key)) = self.order.pop_front()
            && self.at.get(&key) == Some(&at)
        {
            self.at.remove(&key);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE: Duration = Duration::from_secs(60);

    fn key(session: u64) -> ErrorKey {
        (Arm::Canary, session, Class::Timeout)
    }

    #[test]
    fn a_copy_is_known_inside_the_window_only() {
        let mut charged = ErrorDedup::default();
        let s = Duration::from_secs;
        assert!(!charged.is_copy(s(100), MINUTE, key(1)));
        assert!(charged.is_copy(s(130), MINUTE, key(1)));
        assert!(charged.is_copy(s(159), MINUTE, key(1)), "copies do not prolong the window");
        assert!(!charged.is_copy(s(160), MINUTE, key(1)));
        assert!(charged.is_copy(s(50), MINUTE, key(1)), "a clock that went back");
    }

    #[test]
    fn session_class_and_arm_tell_errors_apart() {
        let mut charged = ErrorDedup::default();
        let now = Duration::ZERO;
        assert!(!charged.is_copy(now, MINUTE, (Arm::Canary, 1, Class::Timeout)));
        assert!(!charged.is_copy(now, MINUTE, (Arm::Canary, 2, Class::Timeout)));
        assert!(!charged.is_copy(now, MINUTE, (Arm::Canary, 1, Class::ModelError)));
        assert!(!charged.is_copy(now, MINUTE, (Arm::Stable, 1, Class::Timeout)));
        assert!(charged.is_copy(now, MINUTE, (Arm::Canary, 1, Class::Timeout)));
    }

    #[test]
    fn memory_is_bounded_and_expired_errors_leave() {
        let mut charged = ErrorDedup::default();
        for session in 0..20_000 {
            charged.is_copy(Duration::ZERO, MINUTE, key(session));
        }
        assert_eq!((charged.at.len(), charged.order.len()), (REMEMBERED_ERRORS, REMEMBERED_ERRORS));
        assert!(!charged.is_copy(Duration::ZERO, MINUTE, key(0)), "the oldest was forgotten");
        assert!(charged.is_copy(Duration::ZERO, MINUTE, key(19_999)));
        assert!(!charged.is_copy(2 * MINUTE, MINUTE, key(5)));
        assert_eq!((charged.at.len(), charged.order.len()), (1, 1));
    }

    #[test]
    fn rates_need_something_to_divide_by() {
        let none = Counts::default();
        assert_eq!(none.error_rate(), None);
        assert_eq!(none.mean_output_tokens(), None);
        let some = Counts { requests: 4, errors: 1, output_tokens: 30, ..none };
        assert_eq!(some.error_rate(), Some(0.25));
        assert_eq!(some.mean_output_tokens(), Some(10.0));
    }
}
