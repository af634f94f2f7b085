//! The latest requests by cluster: which of them is most of the traffic, and what share the canary really had.
//!
//! A session or a conversation is routed as one. If it is a large part of the traffic, one hash decides most of it:
//! the canary gets nearly nothing, or nearly everything, for as long as the weight stays. So the requests of such
//! a cluster are drawn one by one. Pure and bounded; it does not know how requests are routed.

use crate::rollout::Arm;
use std::collections::{HashMap, VecDeque};

/// Number of requests remembered.
const KEPT: usize = 1000;
/// A cluster with more of these is drawn per request: 5 %.
const MOST: u32 = 50;

/// The latest requests.
#[derive(Debug, Default)]
pub struct Recent {
    requests: VecDeque<(Option<u64>, Arm)>,
    by_cluster: HashMap<u64, u32>,
    canary: usize,
    /// Requests that were drawn on their own because their cluster is too large.
    drawn: u64,
}

/// What the latest requests show.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Share {
    /// Requests that the figures are about.
    pub requests: usize,
    /// The canary's share of them, 0 to 1.
    pub canary: f64,
    /// Requests since the start that were drawn on their own because their cluster was too large.
    pub drawn: u64,
}

impl Recent {
    /// Whether this cluster is so much of the traffic that its requests have to be drawn one by one.
    pub fn dominates(&self, cluster: u64) -> bool {
        self.by_cluster.get(&cluster).is_some_and(|count| *count > MOST)
    }

    /// Notes a request that was routed to `arm`; `alone`: drawn on its own although it belongs to a cluster.
    pub fn note(&mut self, cluster: Option<u64>, arm: Arm, alone: bool) {
        if self.requests.len() == KEPT
            && let Some((oldest, arm)) = self.requests.pop_front()
        {
            self.canary -= usize::from(arm == Arm::Canary);
            self.forget(oldest);
        }
        self.requests.push_back((cluster, arm));
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
        let canary = self.canary as f64 / requests.max(1) as f64;
        Share { requests, canary, drawn: self.drawn }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cluster_above_five_percent_dominates_until_it_is_less() {
        let mut recent = Recent::default();
        for _ in 0..MOST {
            recent.note(Some(1), Arm::Stable, false);
        }
        assert!(!recent.dominates(1));
        recent.note(Some(1), Arm::Stable, false);
        assert!(recent.dominates(1) && !recent.dominates(2));
        for other in 0..KEPT as u64 {
            recent.note(Some(2 + other), Arm::Canary, false);
        }
        assert!(!recent.dominates(1) && recent.by_cluster.len() == KEPT);
    }

    #[test]
    fn the_share_is_that_of_the_latest_requests() {
        let mut recent = Recent::default();
        (0..KEPT).for_each(|_| recent.note(None, Arm::Canary, true));
        (0..KEPT / 4).for_each(|_| recent.note(None, Arm::Stable, false));
        assert_eq!(recent.share(), Share { requests: KEPT, canary: 0.75, drawn: KEPT as u64 });
        assert_eq!(Recent::default().share(), Share::default());
    }
}
