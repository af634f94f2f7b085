//! The capital of the bets (see `evalue`): in total, and as it would be without each single party.
//!
//! Component k begins with 1/(k(k+1)) of the capital. All components that have begun place the same bets, so one
//! sum for each rung of the ladder holds all their stakes. [`Stakes`] does not keep a total, for bets that are settled
//! more often than they are read; [`Capital`] does, for bets that are read after every request. It does not know what
//! the bets are about.

use super::evalue::{SLOTS, ln_sum};

/// Log stakes on each rung: from everything seen, and without each slot of parties that has been seen.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Stakes<const J: usize> {
    all: [f64; J],
    /// What all bets since the last restart brought.
    since: [f64; J],
    /// The slots that have been seen, a bit each.
    seen: u64,
    /// Those slots, in ascending order.
    slots: Vec<Slot<J>>,
}

const _: () = assert!(SLOTS <= u64::BITS as usize);

/// The stakes without one slot are `base + since - own`, so that a bet changes one slot only.
#[derive(Debug, Clone, PartialEq)]
struct Slot<const J: usize> {
    /// The stakes without it at the last restart.
    base: [f64; J],
    /// What its own bets since then brought.
    own: [f64; J],
}

impl<const J: usize> Slot<J> {
    fn without(&self, since: &[f64; J]) -> [f64; J] {
        std::array::from_fn(|rung| self.base[rung] + since[rung] - self.own[rung])
    }
}

impl<const J: usize> Stakes<J> {
    /// Nothing at stake: an e-value of zero until the first restart.
    pub(crate) fn new() -> Stakes<J> {
        Stakes { all: [f64::NEG_INFINITY; J], since: [0.0; J], seen: 0, slots: Vec::new() }
    }

    /// Begins component `k` (from 1) with 1/(k(k+1)) of the capital, spread evenly over the rungs.
    pub(crate) fn restart(&mut self, k: u32) {
        let k = f64::from(k);
        let stake = -(k * (k + 1.0)).ln() - (J as f64).ln();
        let with = |stakes: [f64; J]| stakes.map(|log| ln_sum(&[log, stake]));
        for slot in &mut self.slots {
            (slot.base, slot.own) = (with(slot.without(&self.since)), [0.0; J]);
        }
        (self.all, self.since) = (with(self.all), [0.0; J]);
    }

    /// Settles all bets. The stakes without this slot are not changed.
    pub(crate) fn settle(&mut self, factors: &[f64; J], slot: Option<usize>) {
        if let Some(slot) = slot {
            let at = self.place(slot);
            if !self.has_seen(slot) {
                self.seen |= 1 << slot;
                // A slot that has not been seen changes nothing: without it, everything is as it is.
                let base = std::array::from_fn(|rung| self.all[rung] - self.since[rung]);
                self.slots.insert(at, Slot { base, own: [0.0; J] });
            }
            add(&mut self.slots[at].own, factors);
        }
        add(&mut self.since, factors);
        add(&mut self.all, factors);
    }

    /// ln of the e-value.
    pub(crate) fn log_e(&self) -> f64 {
        ln_sum(&self.all)
    }

    fn has_seen(&self, slot: usize) -> bool {
        self.seen >> slot & 1 == 1
    }

    /// Where a slot is in `slots`, or would be.
    fn place(&self, slot: usize) -> usize {
        (self.seen & ((1 << slot) - 1)).count_ones() as usize
    }

    /// The slots that have been seen.
    pub(crate) fn slots(&self) -> impl Iterator<Item = usize> {
        (0..SLOTS).filter(|slot| self.has_seen(*slot))
    }

    /// ln of the e-value without the events of this slot.
    pub(crate) fn log_e_without(&self, slot: usize) -> f64 {
        match self.has_seen(slot) {
            true => ln_sum(&self.slots[self.place(slot)].without(&self.since)),
            false => self.log_e(),
        }
    }
}

/// Stakes and their total.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Capital<const J: usize> {
    stakes: Stakes<J>,
    total: f64,
}

impl<const J: usize> Capital<J> {
    /// As [`Stakes::new`].
    pub(crate) fn new() -> Capital<J> {
        Capital { stakes: Stakes::new(), total: f64::NEG_INFINITY }
    }

    /// As [`Stakes::restart`].
    pub(crate) fn restart(&mut self, k: u32) {
        self.stakes.restart(k);
        self.total = self.stakes.log_e();
    }

    /// As [`Stakes::settle`].
    pub(crate) fn settle(&mut self, factors: &[f64; J], slot: Option<usize>) {
        self.stakes.settle(factors, slot);
        self.total = self.stakes.log_e();
    }

    /// ln of the e-value.
    pub(crate) fn log_e(&self) -> f64 {
        self.total
    }

    /// ln of the smallest e-value that remains when any one of the selected slots is left out.
    pub(crate) fn log_e_without(&self, matters: impl Fn(usize) -> bool) -> f64 {
        let matter = self.stakes.slots().filter(|slot| matters(*slot));
        matter.map(|slot| self.stakes.log_e_without(slot)).fold(self.total, f64::min)
    }

    /// Whether the e-value without any one of the selected slots is at least `limit`, given as its logarithm.
    pub(crate) fn any_without(&self, selected: impl Fn(usize) -> bool, limit: f64) -> bool {
        let mut selected = self.stakes.slots().filter(|slot| selected(*slot));
        selected.any(|slot| self.stakes.log_e_without(slot) >= limit)
    }
}

pub(crate) fn add<const J: usize>(logs: &mut [f64; J], factors: &[f64; J]) {
    for (log, factor) in logs.iter_mut().zip(factors) {
        *log += factor;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rollout::Weight;
    use crate::rollout::evalue::bets_above;

    #[test]
    fn what_a_slot_brought_can_be_left_out() {
        let bets = bets_above(Weight::new(5).expect("at most 100"), 1.0).expect("5 %");
        let mut capital = Capital::new();
        capital.restart(1);
        capital.settle(&bets.miss, None);
        let before = capital.log_e();
        for _ in 0..5 {
            capital.settle(&bets.hit, Some(7));
        }
        assert!(capital.log_e() > before + 5.0);
        assert!((capital.log_e_without(|_| true) - before).abs() < 1e-9);
        assert_eq!(capital.log_e_without(|_| false), capital.log_e());
        capital.settle(&bets.hit, Some(8));
        assert!(capital.log_e_without(|_| true) > before);
        assert!(capital.any_without(|slot| slot == 8, before + 5.0));
    }

    proptest::proptest! {
        #[test]
        fn what_remains_without_a_slot_is_what_the_others_brought(
            events in proptest::collection::vec((proptest::bool::ANY, 0usize..4, 0u32..20), 1..80),
        ) {
            let bets = bets_above(Weight::new(25).expect("at most 100"), 1.0).expect("25 %");
            let (mut all, mut others) = (Stakes::new(), Stakes::new());
            let mut k = 0;
            for (hit, slot, restart) in events {
                if k == 0 || restart == 0 {
                    k += 1;
                    all.restart(k);
                    others.restart(k);
                }
                let factors = if hit { &bets.hit } else { &bets.miss };
                all.settle(factors, (slot > 0).then_some(slot));
                if slot != 1 {
                    others.settle(factors, None);
                }
                proptest::prop_assert!((all.log_e_without(1) - others.log_e()).abs() < 1e-9);
            }
        }
    }
}
