//! The exact probability that a counted event is on the canary, if the arms are equal.
//!
//! A request that is drawn on its own goes to the canary with probability w, the weight in force. A cluster (a
//! conversation, a session) goes to the canary if the hash of its key is below w. Earlier counted events of a cluster
//! confine that hash to an interval [lo, hi), at first [0, 1): an event on the canary shows that the hash is below the
//! weight at that time, an event on stable that it is not. Given this, the next event is on the canary with probability
//! (w - lo) / (hi - lo). If that is 0 or 1, the event carries no information and is not counted. So a cluster counts
//! once at each weight, whatever it does and however often. This also holds when weights fall.
//!
//! It does not know what is counted. Each kind of event has its own intervals, because its e-value is a martingale only
//! with respect to its own events.

use std::hash::BuildHasher;

use hashbrown::{DefaultHashBuilder, HashTable};

use crate::rollout::Arm;

/// Number of clusters remembered, at least.
const CLUSTERS: usize = 1 << 16;
/// A probability this close to 0 or 1 says nothing.
const CERTAIN: f64 = 1e-9;

/// What a door does with a new cluster when it remembers as many as it can.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum WhenFull {
    /// It is not counted: a forgotten cluster would look like a new one.
    Refuse,
    /// It is counted, and older ones are forgotten. For kinds of event that every request is one of. A cluster is
    /// counted again only after at least 65,536 others.
    Forget,
}

/// The range that a cluster's hash must be in.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Range {
    low: f64,
    high: f64,
}

impl Range {
    const ALL: Range = Range { low: 0.0, high: 1.0 };

    /// Counts an event; the rest is as in [`Door::count`].
    fn count(&mut self, w: f64, arm: Arm) -> Option<f64> {
        let p = tells((w - self.low) / (self.high - self.low))?;
        match arm {
            Arm::Canary => self.high = self.high.min(w),
            Arm::Stable => self.low = self.low.max(w),
        }
        Some(p)
    }
}

/// A cluster, by its id: its range for each kind of event.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Cluster<const KINDS: usize> {
    id: u64,
    ranges: [Range; KINDS],
}

/// Up to 65,536 clusters, by age.
#[derive(Debug, Clone)]
struct Generation<const KINDS: usize> {
    clusters: Vec<Cluster<KINDS>>,
    /// Where each id is in `clusters`: small enough to stay in a core's cache, which the clusters are not.
    index: HashTable<u32>,
}

impl<const KINDS: usize> Generation<KINDS> {
    const fn new() -> Self {
        Generation { clusters: Vec::new(), index: HashTable::new() }
    }

    fn find(&self, hash: u64, id: u64) -> Option<usize> {
        let at = self.index.find(hash, |at| self.clusters[*at as usize].id == id)?;
        Some(*at as usize)
    }

    fn is_full(&self) -> bool {
        self.clusters.len() == CLUSTERS
    }

    fn clear(&mut self) {
        self.clusters.clear();
        self.index.clear();
    }
}

/// The clusters of some kinds of event that come with the same requests, so that a request looks its cluster up once.
/// Each kind has ranges of its own.
#[derive(Debug, Clone)]
pub(crate) struct Door<const KINDS: usize = 1> {
    young: Generation<KINDS>,
    /// The clusters before those, if they are forgotten at all.
    old: Generation<KINDS>,
    /// Seeded at random, so that ids which fall together cannot be prepared.
    hashes: DefaultHashBuilder,
    when_full: WhenFull,
}

impl<const KINDS: usize> PartialEq for Door<KINDS> {
    fn eq(&self, other: &Self) -> bool {
        self.when_full == other.when_full
            && self.young.clusters == other.young.clusters
            && self.old.clusters == other.old.clusters
    }
}

/// A probability, if an event of this probability says anything.
fn tells(p: f64) -> Option<f64> {
    (p > CERTAIN && p < 1.0 - CERTAIN).then_some(p)
}

impl Door {
    /// Counts an event of a request that was routed at probability `w`. Returns the probability, under equal
    /// arms, that it lies on the canary; `None` if it says nothing. `cluster` is `None` for a request that was
    /// drawn on its own.
    pub(crate) fn count(&mut self, cluster: Option<u64>, w: f64, arm: Arm) -> Option<f64> {
        let [p] = self.count_each(cluster, w, arm, [true]);
        p
    }
}

impl<const KINDS: usize> Door<KINDS> {
    pub(crate) fn new(when_full: WhenFull) -> Self {
        let hashes = DefaultHashBuilder::default();
        Door { young: Generation::new(), old: Generation::new(), hashes, when_full }
    }

    /// As [`Door::count`], for the kinds of event that the request is one of.
    pub(crate) fn count_each(
        &mut self,
        cluster: Option<u64>,
        w: f64,
        arm: Arm,
        is: [bool; KINDS],
    ) -> [Option<f64>; KINDS] {
        let Some(w) = tells(w).filter(|_| is != [false; KINDS]) else { return [None; KINDS] };
        let Some(cluster) = cluster else { return is.map(|is| is.then_some(w)) };
        let Some(ranges) = self.ranges(cluster) else { return [None; KINDS] };
        std::array::from_fn(|kind| if is[kind] { ranges[kind].count(w, arm) } else { None })
    }

    /// The ranges of a cluster, which may be a new one; `None` if it is refused.
    fn ranges(&mut self, id: u64) -> Option<&mut [Range; KINDS]> {
        let Door { young, old, hashes, .. } = self;
        let hash = hashes.hash_one(id);
        if let Some(at) = young.find(hash, id) {
            return Some(&mut young.clusters[at].ranges);
        }
        if let Some(at) = old.find(hash, id) {
            return Some(&mut old.clusters[at].ranges);
        }
        if young.is_full() {
            if self.when_full == WhenFull::Refuse {
                return None;
            }
            std::mem::swap(young, old);
            young.clear();
        }
        let at = young.clusters.len();
        young.clusters.push(Cluster { id, ranges: [Range::ALL; KINDS] });
        let Generation { clusters, index } = young;
        index.insert_unique(hash, at as u32, |at| hashes.hash_one(clusters[*at as usize].id));
        Some(&mut clusters[at].ranges)
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
    fn a_full_door_refuses_new_clusters() {
        let mut door = Door::new(WhenFull::Refuse);
        let mut count = |id: u64| door.count(Some(id), 0.5, Arm::Stable);
        assert!((0..CLUSTERS as u64).all(|id| count(id) == Some(0.5)));
        assert_eq!((count(1 << 40), count(0)), (None, None));
        assert_eq!((door.young.clusters.len(), door.old.clusters.len()), (CLUSTERS, 0));
    }

    #[test]
    fn a_cluster_is_forgotten_only_after_65536_others_and_memory_is_bounded() {
        let mut door = Door::new(WhenFull::Forget);
        let mut count = |id: u64| door.count(Some(id), 0.5, Arm::Stable).is_some();
        for id in 0..3 * CLUSTERS as u64 {
            assert!(count(id), "{id} is new");
            let earliest = (id + 1).saturating_sub(CLUSTERS as u64);
            assert!(!count(earliest) && !count(id), "{earliest} is among the latest");
        }
        assert!(count(0), "it was forgotten");
        assert!(door.young.index.len() <= CLUSTERS && door.old.index.len() <= CLUSTERS);
    }

    #[test]
    fn each_kind_of_event_has_ranges_of_its_own() {
        let mut door = Door::<2>::new(WhenFull::Forget);
        let mut count = |is| door.count_each(Some(1), 0.05, Arm::Stable, is);
        assert_eq!(count([true, false]), [Some(0.05), None]);
        assert_eq!(count([true, true]), [None, Some(0.05)]);
        assert_eq!(count([true, true]), [None, None]);
        assert_eq!(door.count_each(None, 0.05, Arm::Stable, [false, true]), [None, Some(0.05)]);
        let nothing = door.count_each(Some(2), 0.05, Arm::Stable, [false, false]);
        assert_eq!((nothing, door.young.clusters.len()), ([None, None], 1));
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
