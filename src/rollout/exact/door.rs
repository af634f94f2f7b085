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

use std::hash::BuildHasher;

use hashbrown::{DefaultHashBuilder, HashTable};

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

/// A cluster, by its id.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Cluster {
    id: u64,
    range: Range,
}

/// The clusters of one kind of event.
#[derive(Debug, Clone)]
pub(crate) struct Door {
    /// By age, from `oldest` on: a ring once it is full.
    clusters: Vec<Cluster>,
    oldest: usize,
    /// Where each id is in `clusters`: small enough to stay in a core's cache, which the clusters are not.
    index: HashTable<u32>,
    /// Seeded at random, so that ids which fall together cannot be prepared.
    hashes: DefaultHashBuilder,
    when_full: WhenFull,
}

impl PartialEq for Door {
    fn eq(&self, other: &Door) -> bool {
        let known = |door: &Door| (door.oldest, door.when_full);
        known(self) == known(other) && self.clusters == other.clusters
    }
}

impl Door {
    pub(crate) fn new(when_full: WhenFull) -> Door {
        let (index, hashes) = (HashTable::new(), DefaultHashBuilder::default());
        Door { clusters: Vec::new(), oldest: 0, index, hashes, when_full }
    }

    /// Counts an event of a request that was routed at probability `w`. Returns the probability, under equal
    /// arms, that it lies on the canary; `None` if it says nothing. `cluster` is `None` for a request that was
    /// drawn on its own.
    pub(crate) fn count(&mut self, cluster: Option<u64>, w: f64, arm: Arm) -> Option<f64> {
        let tells = |p: f64| (p > CERTAIN && p < 1.0 - CERTAIN).then_some(p);
        let w = tells(w)?;
        let Some(cluster) = cluster else { return Some(w) };
        let range = self.range(cluster)?;
        let p = tells((w - range.low) / (range.high - range.low))?;
        match arm {
            Arm::Canary => range.high = range.high.min(w),
            Arm::Stable => range.low = range.low.max(w),
        }
        Some(p)
    }

    /// The range of a cluster, which may be a new one; `None` if it is refused.
    fn range(&mut self, id: u64) -> Option<&mut Range> {
        let Door { clusters, index, hashes, .. } = self;
        let hash = hashes.hash_one(id);
        if let Some(at) = index.find(hash, |at| clusters[*at as usize].id == id) {
            return Some(&mut self.clusters[*at as usize].range);
        }
        let at = match clusters.len() {
            known if known < CLUSTERS => known,
            _ if self.when_full == WhenFull::Refuse => return None,
            _ => self.oldest,
        };
        let new = Cluster { id, range: Range { low: 0.0, high: 1.0 } };
        match clusters.get_mut(at) {
            None => clusters.push(new),
            Some(oldest) => {
                let forgotten = std::mem::replace(oldest, new);
                if let Ok(entry) =
                    index.find_entry(hashes.hash_one(forgotten.id), |one| *one == at as u32)
                {
                    entry.remove();
                }
                self.oldest = (at + 1) % CLUSTERS;
            }
        }
        index.insert_unique(hash, at as u32, |at| hashes.hash_one(clusters[*at as usize].id));
        Some(&mut self.clusters[at].range)
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
            (new, door.count(Some(0), 0.5, Arm::Stable), door.clusters.len(), door.index.len())
        };
        assert_eq!(fill(WhenFull::Refuse), (None, None, CLUSTERS, CLUSTERS));
        assert_eq!(fill(WhenFull::Forget), (Some(0.5), Some(0.5), CLUSTERS, CLUSTERS));
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
