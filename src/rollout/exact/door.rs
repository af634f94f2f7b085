//! The exact probability with which a counted event lies on the canary, if the arms are equal.
//!
//! A request that is drawn on its own goes to the canary with probability w, the weight in force. A cluster (a
//! conversation, a session) goes to the canary if the hash of its key is below w. What was counted of a cluster
//! before confines that hash to an interval, at first [0, 1): an event on the canary says that it is below the
//! weight of that time, one on stable that it is not. Given this, the next event lies on the canary with
//! probability (w - lo) / (hi - lo). If that is 0 or 1, the event says nothing and is not counted. So a cluster
//! counts once at each weight, whatever it does and however often; this also holds when weights fall.
//!
//! It does not know what is counted. Each kind of event has a door of its own, because its e-value is a
//! martingale of its own events only.

use std::collections::{HashMap, VecDeque};

use crate::rollout::Arm;

/// Number of clusters remembered.
const CLUSTERS: usize = 1 << 16;
/// A probability this close to 0 or 1 says nothing.
const CERTAIN: f64 = 1e-9;

/// What a door does with a new cluster when its table is full.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum WhenFull {
    /// It is not counted: a forgotten cluster would look like a new one.
    Refuse,
    /// It is counted, and the oldest one is forgotten. For kinds of event that every request is one of. A
    /// cluster is counted again only after 65,536 others.
    Forget,
}

/// The range that a cluster's hash must be in.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Range {
    low: f64,
    high: f64,
}

/// The clusters of one kind of event.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Door {
    ranges: HashMap<u64, Range>,
    /// By age; only where the oldest are forgotten.
    order: VecDeque<u64>,
    when_full: WhenFull,
}

impl Door {
    pub(crate) fn new(when_full: WhenFull) -> Door {
        Door { ranges: HashMap::new(), order: VecDeque::new(), when_full }
    }

    /// Counts an event of a request that was routed at probability `w`. Returns the probability, under equal
    /// arms, that it lies on the canary; `None` if it says nothing. `cluster` is `None` for a request that was
    /// drawn on its own.
    pub(crate) fn count(&mut self, cluster: Option<u64>, w: f64, arm: Arm) -> Option<f64> {
        let tells = |p: f64| (p > CERTAIN && p < 1.0 - CERTAIN).then_some(p);
        let w = tells(w)?;
        let Some(cluster) = cluster else { return Some(w) };
        if !self.ranges.contains_key(&cluster) && self.ranges.len() >= CLUSTERS {
            match self.when_full {
                WhenFull::Refuse => return None,
                WhenFull::Forget => {
                    if let Some(oldest) = self.order.pop_front() {
                        self.ranges.remove(&oldest);
                    }
                }
            }
        }
        let when_full = self.when_full;
        let order = &mut self.order;
        let range = self.ranges.entry(cluster).or_insert_with(|| {
            if when_full == WhenFull::Forget {
                order.push_back(cluster);
            }
            Range { low: 0.0, high: 1.0 }
        });
        let p = tells((w - range.low) / (range.high - range.low))?;
        match arm {
            Arm::Canary => range.high = range.high.min(w),
            Arm::Stable => range.low = range.low.max(w),
        }
        Some(p)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_cluster_counts_once_at_each_weight_and_by_what_is_known_of_it() {
        let mut door = Door::new(WhenFull::Refuse);
        assert_eq!(door.count(Some(1), 0.05, Arm::Stable), Some(0.05));
        assert_eq!(door.count(Some(1), 0.05, Arm::Stable), None);
        let p = door.count(Some(1), 0.25, Arm::Stable).expect("it could be on the canary now");
        assert!((p - 0.2 / 0.95).abs() < 1e-12);
        assert_eq!(door.count(Some(1), 0.05, Arm::Stable), None, "it is known to be above");
        let p = door.count(Some(1), 0.5, Arm::Canary).expect("it could be on either");
        assert!((p - 0.25 / 0.75).abs() < 1e-12);
        assert_eq!(door.count(Some(1), 1.0, Arm::Canary), None);
        let p = door.count(Some(1), 0.4, Arm::Stable).expect("the weight fell into the range");
        assert!((p - 0.15 / 0.25).abs() < 1e-12);
    }

    #[test]
    fn a_request_of_its_own_counts_always_but_at_the_ends() {
        let mut door = Door::new(WhenFull::Refuse);
        assert!((0..9).all(|_| door.count(None, 0.05, Arm::Canary) == Some(0.05)));
        assert_eq!(door.count(None, 0.0, Arm::Stable), None);
        assert_eq!(door.count(None, 1.0, Arm::Canary), None);
    }

    #[test]
    fn a_full_table_refuses_or_forgets() {
        let fill = |when_full| {
            let mut door = Door::new(when_full);
            (0..CLUSTERS as u64).for_each(|one| {
                door.count(Some(one), 0.5, Arm::Stable);
            });
            let new = door.count(Some(1 << 40), 0.5, Arm::Stable);
            (new, door.count(Some(0), 0.5, Arm::Stable), door.ranges.len())
        };
        assert_eq!(fill(WhenFull::Refuse), (None, None, CLUSTERS));
        assert_eq!(fill(WhenFull::Forget), (Some(0.5), Some(0.5), CLUSTERS));
    }

    proptest! {
        /// Whatever the weights do, the mean of (on the canary) - p over the hashes is zero at every count.
        #[test]
        fn the_probability_is_exact(weights in prop::collection::vec(0u8..=100, 1..12)) {
            // Weights are whole per cent, so that these stand for all hashes.
            const POINTS: u32 = 1_000;
            let (mut sum, mut counted) = (0.0, 0u32);
            for point in 0..POINTS {
                let hash = (f64::from(point) + 0.5) / f64::from(POINTS);
                let mut door = Door::new(WhenFull::Refuse);
                for weight in &weights {
                    let w = f64::from(*weight) / 100.0;
                    let arm = if hash < w { Arm::Canary } else { Arm::Stable };
                    if let Some(p) = door.count(Some(1), w, arm) {
                        sum += f64::from(u8::from(arm == Arm::Canary)) - p;
                        counted += 1;
                    }
                }
            }
            prop_assert!(sum.abs() <= 1e-6 * f64::from(counted) + 1e-3, "{sum} of {counted}");
        }
    }
}
