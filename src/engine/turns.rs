//! Which lane runs the next step: lanes with work take turns, and a lane with a smaller share gets fewer turns.
//!
//! Stride scheduling (Waldspurger and Weihl, 1995): each step advances a lane by the inverse of its share,
//! and the lane that is furthest behind runs next. Lanes with equal shares alternate. A lane that had no work rejoins
//! at the position of the others: it has no turns to catch up on, and owes none. It does not know about models or time.

/// A lane's position relative to the others.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Place {
    /// Turns taken, each weighted by the inverse of the lane's share.
    at: f64,
    share: f64,
    /// Whether it had work at the last check.
    busy: bool,
}

impl Default for Place {
    fn default() -> Place {
        Place { at: 0.0, share: 1.0, busy: false }
    }
}

/// Minimum share: a lane with work always makes progress.
pub(crate) const LEAST_SHARE: f64 = 0.05;

impl Place {
    /// Turns per turn of a lane with share 1; from [`LEAST_SHARE`] to 1.
    pub fn set_share(&mut self, share: f64) {
        self.share = share.clamp(LEAST_SHARE, 1.0);
    }

    /// The lane has taken a turn.
    pub fn stepped(&mut self) {
        self.at += 1.0 / self.share;
    }
}

/// Which of the lanes with work runs next: the one furthest behind, and if several are, the first after
/// `last`.
pub(super) fn next<'a>(
    places: impl Iterator<Item = (&'a mut Place, bool)>,
    last: usize,
) -> Option<usize> {
    let mut places: Vec<(&mut Place, bool)> = places.collect();
    let least = |of: fn(&Place) -> bool| {
        let lanes = places.iter().filter(|(place, has_work)| *has_work && of(place));
        lanes.map(|(place, _)| place.at).fold(f64::INFINITY, f64::min)
    };
    // After a time without any work all lanes with work rejoin, at the position of the one furthest behind.
    let behind = match least(|place| place.busy) {
        f64::INFINITY => least(|_| true),
        behind => behind,
    };
    for (place, has_work) in &mut places {
        if *has_work && !place.busy && behind.is_finite() {
            place.at = place.at.clamp(behind, behind + 1.0 / place.share);
        }
        place.busy = *has_work;
    }
    let count = places.len();
    let order = (1..=count).map(|i| (last + i) % count);
    let order = order.filter(|i| places[*i].1);
    order.min_by(|a, b| places[*a].0.at.total_cmp(&places[*b].0.at))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Which lane gets each of `steps` turns, given which lanes have work at each.
    fn turns(shares: &[f64], steps: usize, has_work: impl Fn(usize, usize) -> bool) -> Vec<usize> {
        let mut places = vec![Place::default(); shares.len()];
        places.iter_mut().zip(shares).for_each(|(place, share)| place.set_share(*share));
        let (mut taken, mut last) = (Vec::new(), 0);
        for step in 0..steps {
            let work = (0..shares.len()).map(|i| has_work(i, step));
            let work: Vec<bool> = work.collect();
            let Some(i) = next(places.iter_mut().zip(work.iter().copied()), last) else { continue };
            places[i].stepped();
            last = i;
            taken.push(i);
        }
        taken
    }

    #[test]
    fn equal_lanes_alternate_and_one_alone_has_every_turn() {
        let taken = turns(&[1.0, 1.0], 10, |_, _| true);
        assert!(taken.windows(2).all(|pair| pair[0] != pair[1]), "{taken:?}");
        assert_eq!(turns(&[1.0, 0.1], 5, |lane, _| lane == 1), [1; 5]);
    }

    #[test]
    fn a_lane_that_had_no_work_has_nothing_to_catch_up_on() {
        let taken = turns(&[1.0, 1.0], 120, |lane, step| lane == 0 || step >= 100);
        let late = &taken[100..];
        let of_second = late.iter().filter(|lane| **lane == 1).count();
        assert!((9..=11).contains(&of_second), "{late:?}");
    }

    #[test]
    fn after_a_time_without_work_no_lane_has_turns_to_catch_up_on() {
        // Lane 1 alone has work for 100 steps, then nobody, then both.
        let taken = turns(&[1.0, 1.0], 220, |lane, step| step >= 120 || (lane == 1 && step < 100));
        let of_second = taken[100..].iter().filter(|lane| **lane == 1).count();
        assert!((49..=51).contains(&of_second), "{taken:?}");
    }

    proptest! {
        /// Shares are kept, and no lane with work waits longer than its share implies, whatever other lanes
        /// do.
        #[test]
        fn every_lane_gets_its_share(
            shares in prop::collection::vec(LEAST_SHARE..=1.0, 2..4),
            idle in prop::collection::vec((0..4usize, 0..400usize, 0..100usize), 0..6),
        ) {
            let away = |lane: usize, step: usize| {
                idle.iter().any(|(who, from, len)| *who == lane && (*from..from + len).contains(&step))
            };
            let steps = 800;
            let taken = turns(&shares, steps, |lane, step| !away(lane, step));
            let whole: f64 = shares.iter().sum();
            for lane in 0..shares.len() {
                // It is at most one stride ahead of the others, who rejoin at most one of their own strides
                // behind.
                let stride = 1.0 / shares[lane];
                let others: f64 = whole - shares[lane];
                let bound = (2.0 * stride * others).ceil() as usize + 2 * shares.len();
                let mut waited = 0;
                let mut at = 0;
                for step in 0..steps {
                    if (0..shares.len()).all(|lane| away(lane, step)) {
                        continue;
                    }
                    let who = taken[at];
                    at += 1;
                    waited = if who == lane || away(lane, step) { 0 } else { waited + 1 };
                    prop_assert!(waited <= bound, "lane {lane} of {shares:?} waited {waited} turns");
                }
            }
        }
    }
}
