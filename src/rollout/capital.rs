//! The capital of bets: in total, and as it would be without each party.
//!
//! Component k begins with 1/(k(k+1)) of the capital. All components that have begun place the same bets, so one
//! sum for each rung of the ladder holds all their stakes. [`Stakes`] forms no totals, for bets that are settled
//! more often than asked about; [`Capital`] keeps its total, for those that are asked about after every request.
//! It does not know what is bet on.

use super::evalue::ln_sum;

/// Log stakes on each rung: from everything seen, and without each slot of parties that has been seen.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Stakes<const J: usize> {
    all: [f64; J],
    /// Leaving out a slot that has not been seen gives `all`.
    without: Vec<(usize, [f64; J])>,
}

impl<const J: usize> Stakes<J> {
    /// Nothing at stake: an e-value of zero until the first restart.
    pub(crate) fn new() -> Stakes<J> {
        Stakes { all: [f64::NEG_INFINITY; J], without: Vec::new() }
    }

    /// Begins component `k` (from 1) with 1/(k(k+1)) of the capital, spread evenly over the rungs.
    pub(crate) fn restart(&mut self, k: u32) {
        let k = f64::from(k);
        let stake = -(k * (k + 1.0)).ln() - (J as f64).ln();
        let without = self.without.iter_mut().map(|(_, stakes)| stakes);
        for stakes in without.chain([&mut self.all]) {
            for log in stakes {
                *log = ln_sum(&[*log, stake]);
            }
        }
    }

    /// Settles all bets. The stakes without this slot are not changed.
    pub(crate) fn settle(&mut self, factors: &[f64; J], slot: Option<usize>) {
        if let Some(slot) = slot
            && self.without.iter().all(|(known, _)| *known != slot)
        {
            self.without.push((slot, self.all));
        }
        for (known, stakes) in &mut self.without {
            if Some(*known) != slot {
                add(stakes, factors);
            }
        }
        add(&mut self.all, factors);
    }

    /// ln of the e-value.
    pub(crate) fn log_e(&self) -> f64 {
        ln_sum(&self.all)
    }

    /// The slots that have been seen.
    pub(crate) fn slots(&self) -> impl Iterator<Item = usize> {
        self.without.iter().map(|(slot, _)| *slot)
    }

    /// ln of the e-value without the events of this slot.
    pub(crate) fn log_e_without(&self, slot: usize) -> f64 {
        let stakes = self.without.iter().find(|(known, _)| *known == slot);
        ln_sum(stakes.map_or(&self.all, |(_, stakes)| stakes))
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

    /// As [`Stakes::slots`].
    pub(crate) fn slots(&self) -> impl Iterator<Item = usize> {
        self.stakes.slots()
    }

    /// ln of the e-value without the events of this slot.
    pub(crate) fn log_e_without_slot(&self, slot: usize) -> f64 {
        self.stakes.log_e_without(slot)
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
        assert_eq!(capital.log_e_without(|_| true), before);
        assert_eq!(capital.log_e_without_slot(7), before);
        assert_eq!(capital.log_e_without(|_| false), capital.log_e());
        capital.settle(&bets.hit, Some(8));
        assert!(capital.log_e_without(|_| true) > before);
        assert!(capital.any_without(|slot| slot == 8, before + 5.0));
    }
}
