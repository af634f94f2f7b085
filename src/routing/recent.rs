//! The latest requests by cluster: which cluster makes up a large part of the traffic, and the canary's actual share.
//!
//! All requests of a session or conversation (a cluster) go to one arm. If a cluster is a large part of the traffic, a
//! single hash decides where most of it goes: the canary gets nearly nothing, or nearly everything, as long as the
//! weight stays the same. So the requests of such a cluster are routed one by one. Pure and bounded; it does not know
//! how requests are routed.

use crate::rollout::Arm;
use std::collections::{HashMap, VecDeque};

/// Number of requests remembered.
const KEPT: usize = 1000;
/// A cluster with more of these is drawn per request: 5 %.
const MOST: u32 = 50;
/// From this number of requests on, the share says something.
const ENOUGH: usize = 500;
/// The traffic is skewed if the odds of the canary are smaller or larger than was set by these factors.
const SKEWED: (f64, f64) = (0.25, 3.0);

/// The latest requests.
#[derive(Debug, Default)]
pub struct Recent {
    requests: VecDeque<Request>,
    by_cluster: HashMap<u64, u32>,
    canary: usize,
    /// Requests that were drawn on their own because their cluster is too large.
    drawn: u64,
}

#[derive(Debug, Clone, Copy)]
struct Request {
    cluster: Option<u64>,
    arm: Arm,
    /// The probability of the canary when it was routed.
    w: f64,
}

/// What the latest requests show.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Share {
    /// Requests that the figures are about.
    pub requests: usize,
    /// The canary's share of them, 0 to 1.
    pub canary: f64,
    /// The share that the weights of their time let expect.
    pub expected: f64,
    /// Requests since the start that were drawn on their own because their cluster was too large.
    pub drawn: u64,
}

impl Recent {
    /// Whether this cluster is so much of the traffic that its requests have to be drawn one by one.
    pub fn dominates(&self, cluster: u64) -> bool {
        self.by_cluster.get(&cluster).is_some_and(|count| *count > MOST)
    }

    /// Notes a request that was routed to `arm`, with probability `w` to the canary; `alone`: drawn on its own
    /// although it belongs to a cluster.
    pub fn note(&mut self, cluster: Option<u64>, arm: Arm, w: f64, alone: bool) {
        if self.requests.len() == KEPT
            && let Some(oldest) = self.requests.pop_front()
        {
            self.canary -= usize::from(oldest.arm == Arm::Canary);
            self.forget(oldest.cluster);
        }
        self.requests.push_back(Request { cluster, arm, w });
        self.canary += usize::from(arm == Arm::Canary);
        self.drawn += u64::from(alone);
        if let Some(cluster) = cluster {
            *self.by_cluster.entry(cluster).or_default() += 1;
        }
    }

    fn forget(&mut self, cluster: Option<u64>) {
        let Some(cluster) = cluster else { return };
        if let Some(count) = self.by_cluster.get_mut(&cluster) {
            *count -= 1;
            if *count == 0 {
                self.by_cluster.remove(&cluster);
            }
        }
    }

    /// The canary's real share.
    pub fn share(&self) -> Share {
        let requests = self.requests.len();
        let mean = |sum: f64| sum / requests.max(1) as f64;
        let expected = mean(self.requests.iter().map(|request| request.w).sum());
        Share { requests, canary: mean(self.canary as f64), expected, drawn: self.drawn }
    }
}

impl Share {
    /// Whether the canary has far less or far more of the traffic than was set. With sessions or conversations of
    /// many requests, chance alone can do that.
    pub fn is_skewed(&self) -> bool {
        let odds = |share: f64| share / (1.0 - share);
        let (set, real) = (odds(self.expected), odds(self.canary));
        let between = self.expected > 0.0 && self.expected < 1.0;
        self.requests >= ENOUGH && between && (real < SKEWED.0 * set || real > SKEWED.1 * set)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cluster_above_five_percent_dominates_until_it_is_less() {
        let mut recent = Recent::default();
        for _ in 0..MOST {
            recent.note(Some(1), Arm::Stable, 0.0, false);
        }
        assert!(!recent.dominates(1));
        recent.note(Some(1), Arm::Stable, 0.0, false);
        assert!(recent.dominates(1) && !recent.dominates(2));
        for other in 0..KEPT as u64 {
            recent.note(Some(2 + other), Arm::Canary, 1.0, false);
        }
        assert!(!recent.dominates(1) && recent.by_cluster.len() == KEPT);
    }

    #[test]
    fn the_share_is_that_of_the_latest_requests() {
        let mut recent = Recent::default();
        (0..KEPT).for_each(|_| recent.note(None, Arm::Canary, 1.0, true));
        (0..KEPT / 4).for_each(|_| recent.note(None, Arm::Stable, 0.5, false));
        let share = Share { requests: KEPT, canary: 0.75, expected: 0.875, drawn: KEPT as u64 };
        assert_eq!(recent.share(), share);
        assert_eq!(Recent::default().share(), Share::default());
    }

    #[test]
    fn a_share_that_is_far_from_the_set_one_is_skewed() {
        let share =
            |expected: f64, canary: f64| Share { requests: ENOUGH, canary, expected, drawn: 0 };
        for (expected, canary, skewed) in [
            (0.05, 0.0, true),
            (0.05, 0.02, false),
            (0.05, 0.1, false),
            (0.05, 0.2, true),
            (0.5, 0.3, false),
            (0.5, 0.9, true),
            (0.9, 0.5, true),
            (0.9, 1.0, true),
            (0.0, 0.0, false),
            (1.0, 1.0, false),
        ] {
            assert_eq!(share(expected, canary).is_skewed(), skewed, "{expected} {canary}");
        }
        assert!(!Share { requests: ENOUGH - 1, ..share(0.05, 0.5) }.is_skewed());
    }
}
