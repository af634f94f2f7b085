//! Whether B keeps the limits of a CI job, with confidence.
//!
//! A limit is judged by the figure's interval, not by its ratio: B exceeds a limit if the whole interval is beyond it,
//! and keeps it if the whole interval is within. Between the two the run is inconclusive. Pure.

use super::figures::{Figure, Metric, Statistic};

/// A limit on B's figure over A's.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Limit {
    /// Which figure.
    pub metric: Metric,
    /// Which statistic of it.
    pub statistic: Statistic,
    /// Largest ratio where less is better, smallest where more is.
    pub bound: f64,
}

named! {
    /// What a run says of a limit.
    #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
    pub enum Verdict {
        /// The interval is within the limit.
        Kept = "kept",
        /// The interval is on both sides of the limit, or there is none.
        Inconclusive = "inconclusive",
        /// The interval is beyond the limit.
        Exceeded = "exceeded",
    }
}

/// A limit judged at one load point.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Judged {
    /// The limit.
    pub limit: Limit,
    /// Number of the load point.
    pub point: usize,
    /// What the run says.
    pub verdict: Verdict,
}

impl Limit {
    fn is_most(&self) -> bool {
        self.metric.less_is_better() != Some(false)
    }

    /// Its verdict from the figures of one point.
    pub fn judge(&self, figures: &[Figure]) -> Verdict {
        let own =
            |figure: &&Figure| (figure.metric, figure.statistic) == (self.metric, self.statistic);
        let Some(interval) = figures.iter().find(own).and_then(Figure::interval) else {
            return Verdict::Inconclusive;
        };
        let (beyond, within) = match self.is_most() {
            true => (interval.low > self.bound, interval.high <= self.bound),
            false => (interval.high < self.bound, interval.low >= self.bound),
        };
        match (beyond, within) {
            (true, _) => Verdict::Exceeded,
            (false, true) => Verdict::Kept,
            (false, false) => Verdict::Inconclusive,
        }
    }

    /// The limit in words, such as `TTFT p50 at most 1.1 of A's`.
    pub fn text(&self) -> String {
        let name =
            Figure { metric: self.metric, statistic: self.statistic, of: [None; 2], ratio: None };
        let side = if self.is_most() { "at most" } else { "at least" };
        format!("{} {side} {} of A's", name.name(), self.bound)
    }
}

/// Every limit at every point.
pub fn judge(limits: &[Limit], points: &[Vec<Figure>]) -> Vec<Judged> {
    let at = |(point, figures): (usize, &Vec<Figure>)| {
        let one = |limit: &Limit| Judged { limit: *limit, point, verdict: limit.judge(figures) };
        limits.iter().map(one).collect::<Vec<_>>()
    };
    points.iter().enumerate().flat_map(at).collect()
}

/// The worst verdict; kept if there are no limits.
pub fn overall(judged: &[Judged]) -> Verdict {
    judged.iter().map(|one| one.verdict).max().unwrap_or(Verdict::Kept)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::statistics::{Interval, NoInterval};

    fn figure(metric: Metric, low: f64, high: f64) -> Figure {
        let interval = Interval { ratio: (low * high).sqrt(), low, high, differs: true };
        Figure { metric, statistic: Statistic::P50, of: [None; 2], ratio: Some(Ok(interval)) }
    }

    fn limit(metric: Metric, bound: f64) -> Limit {
        Limit { metric, statistic: Statistic::P50, bound }
    }

    #[test]
    fn a_limit_is_judged_by_the_whole_interval() {
        use Verdict::{Exceeded, Inconclusive, Kept};
        for (metric, bound, low, high, verdict) in [
            (Metric::Ttft, 1.1, 0.9, 1.1, Kept),
            (Metric::Ttft, 1.1, 1.05, 1.2, Inconclusive),
            (Metric::Ttft, 1.1, 1.11, 1.2, Exceeded),
            (Metric::OutputTokens, 0.95, 0.95, 1.2, Kept),
            (Metric::OutputTokens, 0.95, 0.9, 1.2, Inconclusive),
            (Metric::OutputTokens, 0.95, 0.8, 0.94, Exceeded),
        ] {
            let found = limit(metric, bound).judge(&[figure(metric, low, high)]);
            assert_eq!(found, verdict, "{metric:?} {bound} {low} {high}");
        }
        let missing = limit(Metric::Ttft, 1.1);
        assert_eq!(missing.judge(&[]), Inconclusive);
        let none =
            Figure { ratio: Some(Err(NoInterval::FewRounds)), ..figure(Metric::Ttft, 1.0, 1.0) };
        assert_eq!(missing.judge(&[none]), Inconclusive);
        assert_eq!(missing.text(), "TTFT p50 at most 1.1 of A's");
        assert_eq!(limit(Metric::OutputTokens, 0.95).text(), "output at least 0.95 of A's");
    }

    #[test]
    fn the_worst_verdict_counts() {
        let limits = [limit(Metric::Ttft, 1.1), limit(Metric::Tpot, 1.1)];
        let good = vec![figure(Metric::Ttft, 0.9, 1.0), figure(Metric::Tpot, 0.9, 1.0)];
        let bad = vec![figure(Metric::Ttft, 0.9, 1.2), figure(Metric::Tpot, 1.2, 1.3)];
        assert_eq!(overall(&judge(&limits, std::slice::from_ref(&good))), Verdict::Kept);
        assert_eq!(overall(&judge(&limits, &[good, bad])), Verdict::Exceeded);
        assert_eq!(overall(&[]), Verdict::Kept);
    }
}
