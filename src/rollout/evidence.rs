//! When the canary's errors count as a regression: the only statistical rule that can roll a canary back.
//!
//! Default rule: roll back when the Mantel-Haenszel ratio reaches `max_error_ratio` AND the e-value for "the
//! canary errs more than stable" (lambda0 = 1) reaches 1/alpha. If one key has more than `max_key_share` of
//! the canary's errors, the e-value must also reach 1/alpha without that key.
//!
//! The ratio says how bad is too bad; the e-value says that the difference is real. The ratio alone, checked
//! after every request, would condemn most equally good canaries. Since the two conditions have separate
//! jobs, lambda0 is 1 and not 1.5.
//!
//! The ratio is taken over the strata since the restart that holds most of the evidence, so that a healthy
//! past does not hide a regression. Without errors on stable, the ratio is infinite and the evidence alone
//! decides. For 100 % see [`FullWeightTest`].
//!
//! This file does not know the order of weights, latencies, or what a rollback is.

use std::time::Duration;

use super::full_weight::FullWeightTest;
use super::keys::{SlotCounts, slot};
use super::signal::{Signal, Stages};
use super::strata::{Ratio, Share, Strata};
use super::window::rate_reaches;
use super::{Arm, Counts, EvidenceRule, Outcome, Policy, Weight};

/// All error evidence of one rollout.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Evidence {
    pub(crate) rule: EvidenceRule,
    pub(crate) stages: Stages,
    pub(crate) errors: Signal,
    pub(crate) strata: Strata,
    pub(crate) full_weight: Option<FullWeightTest>,
    seen: SlotCounts,
    /// Whether evidence is also kept per key; only if the policy caps keys.
    by_key: bool,
}

/// The reason for a rollback.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Regression {
    /// The plain ratio of the stage.
    Plain,
    /// Ratio and e-value over strata.
    Beside(Ratio),
    /// The rate at 100 %.
    FullWeightTest,
}

impl Evidence {
    /// The rule of this policy, with no data yet.
    pub(crate) fn new(policy: &Policy) -> Evidence {
        Evidence {
            rule: policy.evidence,
            stages: Stages::default(),
            errors: Signal::new(),
            strata: Strata::default(),
            full_weight: None,
            seen: SlotCounts::new(),
            by_key: policy.max_key_share < 1.0,
        }
    }

    /// A new stage begins. `reference`: stable's counts from below, for a stage at 100 %.
    pub(crate) fn begin_stage(
        &mut self,
        now: Duration,
        (epoch, weight): (u64, Weight),
        policy: &Policy,
        reference: Option<&Counts>,
    ) {
        self.stages.begin(epoch, weight);
        let reference = reference.filter(|counts| weight == Weight::FULL && counts.requests > 0);
        self.full_weight = reference.map(|counts| {
            FullWeightTest::new((counts.errors, counts.requests), policy.alone_allowance)
        });
        let k = self.errors.restarts.begin(now);
        self.restart(k, (epoch, weight));
    }

    /// Component `k` begins. At 100 %, its capital goes to the full-weight test.
    fn restart(&mut self, k: u32, (epoch, weight): (u64, Weight)) {
        match &mut self.full_weight {
            Some(test) => test.restart(k),
            None => self.errors.restart(k),
        }
        self.strata.begin(epoch, weight, k);
    }

    /// One counted outcome (judged, past the warm-up, not a duplicate) of any stage of this rollout;
    /// `current` is the current stage. Returns whether the outcome's stage is known.
    pub(crate) fn observe(
        &mut self,
        now: Duration,
        current: (u64, Weight),
        outcome: &Outcome,
        policy: &Policy,
    ) -> bool {
        let Some(weight) = self.stages.weight(outcome.stage) else { return false };
        if let Some(k) = self.errors.restarts.due(now, policy.bake) {
            self.restart(k, current);
        }
        let (arm, error) = (outcome.arm, outcome.class.is_error());
        let key = outcome.origin.party.filter(|_| self.by_key);
        self.seen.count(key);
        self.strata.count((outcome.stage, weight), arm, error, key.map(slot));
        if error {
            self.errors.observe(&self.stages, outcome.stage, arm, key.map(slot));
        }
        if let Some(test) = &mut self.full_weight
            && arm == Arm::Canary
            && outcome.stage == current.0
        {
            test.observe(error, key.map(slot));
        }
        true
    }

    /// Whether the canary must be rolled back now, and why. Called at every outcome: while the evidence is
    /// below the limit it costs one comparison.
    pub(crate) fn regression(
        &self,
        policy: &Policy,
        stable: &Counts,
        canary: &Counts,
    ) -> Option<Regression> {
        if self.rule == EvidenceRule::None {
            return plain_regressed(policy, stable, canary).then_some(Regression::Plain);
        }
        let limit = policy.log_limit();
        if self.errors.log_e() >= limit {
            let span = self.strata.span_of_evidence(|weight| self.stages.bets(weight));
            let reached = span.ratio.reaches(policy.max_error_ratio);
            if reached && self.without_any_key(&span.share, policy) >= limit {
                return Some(Regression::Beside(span.ratio));
            }
        }
        let test = self.full_weight.as_ref().filter(|test| test.log_e() >= limit)?;
        (test.log_e_without_any(&self.seen, policy) >= limit).then_some(Regression::FullWeightTest)
    }

    /// ln of the smallest e-value that remains when any one key is left out. Only keys with too large a share
    /// of the canary's errors are left out, and only while other keys are active.
    fn without_any_key(&self, share: &Share, policy: &Policy) -> f64 {
        self.errors.log_e_without(|slot| {
            share.exceeds(slot, policy.max_key_share) && self.seen.others_than(slot)
        })
    }

    /// Whether the evidence reaches the limit, but not without one of the keys.
    pub(crate) fn rests_on_one_key(&self, policy: &Policy) -> bool {
        let limit = policy.log_limit();
        if self.errors.log_e() >= limit {
            let span = self.strata.span_of_evidence(|weight| self.stages.bets(weight));
            return self.without_any_key(&span.share, policy) < limit;
        }
        self.full_weight.as_ref().is_some_and(|test| {
            test.log_e() >= limit && test.log_e_without_any(&self.seen, policy) < limit
        })
    }
}

/// The plain rule: the ratio of the stage's error rates, with minimums of requests and errors.
pub(crate) fn plain_regressed(policy: &Policy, stable: &Counts, canary: &Counts) -> bool {
    canary.requests >= policy.rollback_min_requests
        && canary.errors >= policy.rollback_min_errors
        && plain_reaches(policy.max_error_ratio, stable, canary)
}

pub(crate) fn plain_reaches(limit: f64, stable: &Counts, canary: &Counts) -> bool {
    let stable = (stable.errors, stable.requests);
    rate_reaches(limit, stable, (canary.errors, canary.requests))
}
