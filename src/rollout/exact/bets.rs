//! The bets on an event, and the factors that they pay.
//!
//! A factor depends on the event's probability and on the kind of bet. Only a few values of each are in use at a time.
//! It does not know what the event is.

use crate::rollout::evalue::{Bets, LADDER, RUNGS, bets_at};

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
    known: Vec<(f64, Bet)>,
    /// Those of `known`, in its order.
    bets: Vec<Bets<RUNGS>>,
    next: usize,
}

/// Number of factors remembered.
const KNOWN: usize = 16;

impl Factors {
    /// The factors for an event on the canary (`hit`) or on stable.
    pub(crate) fn of(&mut self, p: f64, bet: Bet, hit: bool) -> &[f64; RUNGS] {
        let known = self.known.iter().position(|known| *known == (p, bet));
        let at = known.unwrap_or_else(|| self.learn(p, bet));
        let bets = &self.bets[at];
        if hit { &bets.hit } else { &bets.miss }
    }

    #[cold]
    fn learn(&mut self, p: f64, bet: Bet) -> usize {
        let bets = bets_at(p, 1.0, &bet.ladder());
        if self.known.len() < KNOWN {
            self.known.push((p, bet));
            self.bets.push(bets);
            return self.known.len() - 1;
        }
        self.next = (self.next + 1) % KNOWN;
        self.known[self.next] = (p, bet);
        self.bets[self.next] = bets;
        self.next
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
                let (hit, miss) = (*factors.of(p, bet, true), *factors.of(p, bet, false));
                for rung in 0..RUNGS {
                    let mean = p * hit[rung].exp() + (1.0 - p) * miss[rung].exp();
                    assert!((mean - 1.0).abs() < 1e-9, "{bet:?} {p}: {mean}");
                }
            }
        }
    }

    #[test]
    fn factors_are_those_of_their_probability_when_many_are_in_use() {
        let mut factors = Factors::default();
        for round in 0..3 {
            for i in 1..50 {
                let p = f64::from(i) / 50.0;
                let want = bets_at(p, 1.0, &LADDER).hit;
                assert_eq!(*factors.of(p, Bet::Seldom, true), want, "{round} {i}");
            }
        }
    }
}
