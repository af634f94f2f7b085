//! The error test for a canary at 100 %, when stable serves no traffic next to it.
//!
//! With w = 1, every error is the canary's and says nothing about a ratio. The only comparison left is
//! stable's error rate in the last stage below 100 %. No statistics can tell a drift of the base rate from a
//! regression when nothing runs concurrently, and a drift must not condemn a healthy canary. So the test is
//! coarse: the canary's rate must not exceed `allowance` (default 4) times an upper bound (99 %) of that
//! reference.
//!
//! It places Bernoulli bets on 1.5 to 10 times the allowed rate and restarts with every bake interval. Its capital is
//! what the restarts of the concurrent test have not used. All components together still stake at most one, so the
//! bound of alpha covers the whole ramp.

use super::Policy;
use super::capital::Capital;
use super::keys::SlotCounts;
use super::stats::share_upper;
use super::strata::Share;

/// Bets, relative to the allowed rate.
const TIMES: [f64; 5] = [1.5, 2.0, 3.0, 5.0, 10.0];
/// The probability with which the reference's upper bound may be wrong.
const DELTA: f64 = 0.01;

/// The test of one stage at 100 %.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct FullWeightTest {
    /// The highest error rate allowed.
    pub(crate) allowed: f64,
    /// Stable's errors and requests that the reference comes from.
    pub(crate) reference: (u64, u64),
    capital: Capital<5>,
    share: Share,
    on_error: [f64; 5],
    on_success: [f64; 5],
}

impl FullWeightTest {
    /// `reference`: stable's errors and requests in the last stage below 100 %.
    pub(crate) fn new(reference: (u64, u64), allowance: f64) -> FullWeightTest {
        let bound = share_upper(reference.0, reference.1, DELTA);
        let allowed = (allowance * bound).clamp(1e-4, 0.5);
        let rates = TIMES.map(|times| (times * allowed).min(0.99));
        FullWeightTest {
            allowed,
            reference,
            capital: Capital::new(),
            share: Share::new(),
            on_error: rates.map(|p| (p / allowed).ln()),
            on_success: rates.map(|p| ((1.0 - p) / (1.0 - allowed)).ln()),
        }
    }

    pub(crate) fn restart(&mut self, k: u32) {
        self.capital.restart(k);
    }

    pub(crate) fn observe(&mut self, error: bool, slot: Option<usize>) {
        if error {
            self.share.count(slot);
        }
        self.capital.settle(if error { &self.on_error } else { &self.on_success }, slot);
    }

    pub(crate) fn log_e(&self) -> f64 {
        self.capital.log_e()
    }

    /// ln of the smallest e-value that remains when any one key is left out. Only keys with too large a share
    /// of the errors are left out, and only while other keys are active.
    pub(crate) fn log_e_without_any(&self, seen: &SlotCounts, policy: &Policy) -> f64 {
        self.capital.log_e_without(|slot| {
            self.share.exceeds(slot, policy.max_key_share) && seen.others_than(slot)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn errors_until_proof(reference: (u64, u64), every: u32) -> Option<u32> {
        let mut test = FullWeightTest::new(reference, 4.0);
        test.restart(5);
        (1..20_000).find(|i| {
            test.observe(i % every == 0, None);
            test.log_e() >= 20f64.ln()
        })
    }

    #[test]
    fn a_dying_canary_is_found_and_a_drift_is_not_held_against_it() {
        assert!(errors_until_proof((30, 3000), 1).is_some_and(|n| n < 12));
        assert!(errors_until_proof((30, 3000), 5).is_some_and(|n| n < 300));
        assert_eq!(errors_until_proof((30, 3000), 33), None, "1 % became 3 %");
        assert_eq!(errors_until_proof((0, 0), 3), None, "no reference allows one half");
    }
}
