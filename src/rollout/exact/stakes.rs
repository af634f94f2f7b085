//! The capital of bets on counted events: in total, and as it would be without each party.
//!
//! It is `evalue::Capital` for events whose probability differs from one to the next. Sums are formed only when
//! somebody asks, because most events are recorded and not judged. It does not know what is bet on.

use crate::rollout::evalue::{Bets, LADDER, RUNGS, bets_at, ln_sum};

/// The ratios to bet on where the event is half of everything: no ratio can reach 2.
const HALVES: [f64; RUNGS] = [1.05, 1.1, 1.2, 1.3, 1.45, 1.6, 1.75, 1.9];

/// What is bet on an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Bet {
    /// A bad event that is seldom: it is more frequent on the canary.
    Seldom,
    /// One of two equally frequent kinds of event, the bad one.
    BadHalf,
    /// The other one: on a canary that is worse it is the less frequent.
    GoodHalf,
    /// A bad event that is seldom: it is less frequent on the canary.
    Rarer,
}

impl Bet {
    fn ladder(self) -> [f64; RUNGS] {
        match self {
            Bet::Seldom => LADDER,
            Bet::BadHalf => HALVES,
            Bet::GoodHalf => HALVES.map(|l| 2.0 - l),
            Bet::Rarer => LADDER.map(|l| 1.0 / l),
        }
    }
}

/// Log factors by probability and kind of bet; few of them are in use at a time.
#[derive(Debug, Clone, PartialEq, Default)]
pub(crate) struct Factors {
    known: Vec<(f64, Bet, Bets<RUNGS>)>,
    next: usize,
}

/// Number of factors remembered.
const KNOWN: usize = 16;

impl Factors {
    /// The factors for an event on the canary (`hit`) or on stable.
    pub(crate) fn of(&mut self, p: f64, bet: Bet, hit: bool) -> [f64; RUNGS] {
        let found = self.known.iter().position(|(at, of, _)| *at == p && *of == bet);
        let at = found.unwrap_or_else(|| {
            let new = (p, bet, bets_at(p, 1.0, &bet.ladder()));
            if self.known.len() < KNOWN {
                self.known.push(new);
                return self.known.len() - 1;
            }
            self.next = (self.next + 1) % KNOWN;
            self.known[self.next] = new;
            self.next
        });
        let bets = &self.known[at].2;
        if hit { bets.hit } else { bets.miss }
    }
}

/// Log stakes on each rung, in total and without each slot of parties that has been seen.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Stakes {
    all: [f64; RUNGS],
    without: Vec<(usize, [f64; RUNGS])>,
}

impl Stakes {
    /// Nothing at stake: an e-value of zero until the first restart.
    pub(crate) fn new() -> Stakes {
        Stakes { all: [f64::NEG_INFINITY; RUNGS], without: Vec::new() }
    }

    /// Begins component `k` (from 1) with 1/(k(k+1)) of the capital, spread evenly over the rungs.
    pub(crate) fn restart(&mut self, k: u32) {
        let k = f64::from(k);
        let stake = -(k * (k + 1.0)).ln() - (RUNGS as f64).ln();
        for stakes in self.without.iter_mut().map(|(_, stakes)| stakes).chain([&mut self.all]) {
            for log in stakes {
                *log = ln_sum(&[*log, stake]);
            }
        }
    }

    /// Settles the bets on one event of a party in this slot.
    pub(crate) fn settle(&mut self, factors: &[f64; RUNGS], slot: Option<usize>) {
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

pub(crate) fn add(logs: &mut [f64; RUNGS], factors: &[f64; RUNGS]) {
    for (log, factor) in logs.iter_mut().zip(factors) {
        *log += factor;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_bet_is_fair_if_the_arms_are_equal() {
        for bet in [Bet::Seldom, Bet::BadHalf, Bet::GoodHalf, Bet::Rarer] {
            for p in [0.01, 0.05, 0.2105, 0.5, 0.9] {
                let mut factors = Factors::default();
                let (hit, miss) = (factors.of(p, bet, true), factors.of(p, bet, false));
                for rung in 0..RUNGS {
                    let mean = p * hit[rung].exp() + (1.0 - p) * miss[rung].exp();
                    assert!((mean - 1.0).abs() < 1e-9, "{bet:?} {p}: {mean}");
                }
            }
        }
    }

    #[test]
    fn what_a_slot_brought_can_be_left_out() {
        let (mut stakes, mut factors) = (Stakes::new(), Factors::default());
        stakes.restart(1);
        stakes.settle(&factors.of(0.05, Bet::Seldom, false), None);
        let before = stakes.log_e();
        (0..5).for_each(|_| stakes.settle(&factors.of(0.05, Bet::Seldom, true), Some(7)));
        assert!(stakes.log_e() > before + 5.0);
        assert!((stakes.log_e_without(7) - before).abs() < 1e-12);
        assert_eq!(stakes.log_e_without(8), stakes.log_e());
        stakes.restart(2);
        stakes.settle(&factors.of(0.05, Bet::Seldom, true), Some(8));
        assert!(stakes.log_e_without(7) > before && stakes.log_e_without(8) > before + 5.0);
    }

    #[test]
    fn factors_are_those_of_their_probability_when_many_are_in_use() {
        let mut factors = Factors::default();
        for round in 0..3 {
            for i in 1..50 {
                let p = f64::from(i) / 50.0;
                let want = bets_at(p, 1.0, &LADDER).hit;
                assert_eq!(factors.of(p, Bet::Seldom, true), want, "{round} {i}");
            }
        }
    }
}
