//! Evidence over the stages of one rollout for one kind of bad event: errors, votes, retries.
//!
//! It remembers the weight of each stage, so that a late event still counts with the weight that its request
//! was routed under. It begins a new component of the capital with every stage and every bake interval. An
//! interval without events needs no component: the restart happens at the first event after the interval, so
//! idle time changes nothing. It does not know what a bad event is.

use std::collections::VecDeque;
use std::time::Duration;

use super::capital::Capital;
use super::evalue::{Bets, RUNGS, bets_above};
use super::{Arm, Weight};

/// Number of stages whose weight is remembered; events of older stages are excluded.
const STAGES: usize = 64;

#[derive(Debug, Clone, PartialEq)]
struct Known {
    epoch: u64,
    weight: Weight,
    bets: Option<Bets<RUNGS>>,
}

/// The stages of one rollout so far, the latest last.
#[derive(Debug, Clone, PartialEq, Default)]
pub(crate) struct Stages {
    known: VecDeque<Known>,
}

impl Stages {
    pub(crate) fn begin(&mut self, epoch: u64, weight: Weight) {
        if self.known.len() == STAGES {
            self.known.pop_front();
        }
        self.known.push_back(Known { epoch, weight, bets: bets_above(weight, 1.0) });
    }

    fn find(&self, epoch: u64) -> Option<&Known> {
        self.known.iter().rev().find(|known| known.epoch == epoch)
    }

    /// The weight of that stage, if it is one of this rollout's recent stages.
    pub(crate) fn weight(&self, epoch: u64) -> Option<Weight> {
        self.find(epoch).map(|known| known.weight)
    }

    /// The bets at a weight that was used.
    pub(crate) fn bets(&self, weight: Weight) -> Option<Bets<RUNGS>> {
        self.known.iter().find(|known| known.weight == weight).and_then(|known| known.bets.clone())
    }
}

/// Decides when components of the capital begin.
#[derive(Debug, Clone, PartialEq, Default)]
pub(crate) struct Restarts {
    count: u32,
    since: Duration,
}

impl Restarts {
    /// Begins a component with a stage; returns its number.
    pub(crate) fn begin(&mut self, now: Duration) -> u32 {
        self.count = self.count.saturating_add(1);
        self.since = now;
        self.count
    }

    /// Begins a component if the last one began at least `interval` ago; returns its number. If the clock
    /// went back, no time has passed.
    pub(crate) fn due(&mut self, now: Duration, interval: Duration) -> Option<u32> {
        (now.saturating_sub(self.since) >= interval && !interval.is_zero()).then(|| self.begin(now))
    }
}

/// Bad events of one kind, with a bet that they are more frequent on the canary.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Signal {
    pub(crate) restarts: Restarts,
    capital: Capital<RUNGS>,
}

impl Signal {
    pub(crate) fn new() -> Signal {
        Signal { restarts: Restarts::default(), capital: Capital::new() }
    }

    /// A stage begins, and a component with it.
    pub(crate) fn begin(&mut self, now: Duration) {
        let k = self.restarts.begin(now);
        self.capital.restart(k);
    }

    /// Begins a component if the last one began at least `interval` ago.
    pub(crate) fn begin_if_due(&mut self, now: Duration, interval: Duration) {
        if let Some(k) = self.restarts.due(now, interval) {
            self.capital.restart(k);
        }
    }

    /// Begins component `k`, for a counter that is kept elsewhere.
    pub(crate) fn restart(&mut self, k: u32) {
        self.capital.restart(k);
    }

    /// One bad event of a request routed in stage `epoch`; ignored if the stage is unknown.
    pub(crate) fn observe(&mut self, stages: &Stages, epoch: u64, arm: Arm, slot: Option<usize>) {
        if let Some(Known { bets: Some(bets), .. }) = stages.find(epoch) {
            let factors = if arm == Arm::Canary { &bets.hit } else { &bets.miss };
            self.capital.settle(factors, slot);
        }
    }

    pub(crate) fn log_e(&self) -> f64 {
        self.capital.log_e()
    }

    /// ln of the smallest e-value that remains when any one of the selected slots of keys is left out.
    pub(crate) fn log_e_without(&self, matters: impl Fn(usize) -> bool) -> f64 {
        self.capital.log_e_without(matters)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn weight(percent: u8) -> Weight {
        Weight::new(percent).expect("at most 100")
    }

    #[test]
    fn a_late_event_counts_with_the_weight_of_its_stage() {
        let mut stages = Stages::default();
        stages.begin(1, weight(5));
        stages.begin(2, weight(50));
        let gain = |epoch| {
            let mut signal = Signal::new();
            signal.begin(Duration::ZERO);
            let before = signal.log_e();
            signal.observe(&stages, epoch, Arm::Canary, None);
            signal.log_e() - before
        };
        assert!(gain(1) > gain(2) && gain(2) > 0.0);
        assert_eq!(gain(3), 0.0, "an unknown stage tells nothing");
    }

    #[test]
    fn stages_are_forgotten_in_the_end() {
        let mut stages = Stages::default();
        (0..100).for_each(|epoch| stages.begin(epoch, weight(5)));
        assert_eq!((stages.weight(0), stages.weight(99)), (None, Some(weight(5))));
        assert_eq!(stages.known.len(), STAGES);
    }

    #[test]
    fn a_component_begins_with_each_interval_in_which_something_happens() {
        let s = Duration::from_secs;
        let mut restarts = Restarts::default();
        assert_eq!(restarts.begin(s(100)), 1);
        assert_eq!(restarts.due(s(109), s(10)), None);
        assert_eq!(restarts.due(s(50), s(10)), None, "a clock that went back");
        assert_eq!(restarts.due(s(175), s(10)), Some(2), "one, however long it was quiet");
        assert_eq!(restarts.due(s(176), s(10)), None);
        assert_eq!(restarts.due(s(176), s(0)), None, "no interval, no restarts");
    }
}
