//! One stage: a weight, its epoch, and what was seen at it.
//!
//! It sorts outcomes and votes into what is counted and what is excluded and why; whether they
//! amount to anything is for others to say. Why an epoch and not a comparison of weights or times:
//! a reply may take minutes, so outcomes of the old weight keep coming after a change, and the same
//! weight may be set twice.

use std::time::Duration;

use super::window::ArmWindow;
use super::{Arm, Class, Outcome, Weight};

/// One weight's worth of a rollout.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Stage {
    pub(crate) epoch: u64,
    pub(crate) weight: Weight,
    /// When it began.
    pub(crate) since: Duration,
    /// Indexed by [`Arm::index`].
    pub(crate) arms: [ArmWindow; 2],
    pub(crate) streak: Streak,
    /// An operator wants promotion as soon as the gates of this stage pass.
    pub(crate) promote_on_pass: bool,
    /// The hold has been told.
    pub(crate) held: bool,
    /// The stall has been told.
    pub(crate) stalled: bool,
}

impl Stage {
    pub(crate) fn new(epoch: u64, weight: Weight, since: Duration) -> Stage {
        Stage {
            epoch,
            weight,
            since,
            arms: [ArmWindow::new(), ArmWindow::new()],
            streak: Streak::default(),
            promote_on_pass: false,
            held: false,
            stalled: false,
        }
    }

    pub(crate) fn arm(&self, arm: Arm) -> &ArmWindow {
        &self.arms[arm.index()]
    }

    pub(crate) fn arm_mut(&mut self, arm: Arm) -> &mut ArmWindow {
        &mut self.arms[arm.index()]
    }

    /// Time at this weight; a clock that went back reads as none.
    pub(crate) fn age(&self, now: Duration) -> Duration {
        now.saturating_sub(self.since)
    }

    pub(crate) fn vote(&mut self, arm: Arm, stage: u64, positive: bool) {
        let other = stage != self.epoch;
        let counts = &mut self.arm_mut(arm).counts;
        match (other, positive) {
            (true, _) => counts.other_stage += 1,
            (false, true) => counts.votes_up += 1,
            (false, false) => counts.votes_down += 1,
        }
    }
}

/// Canary errors without a success in between, and how stable fared meanwhile.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Streak {
    errors: u32,
    stable_ok: u64,
    stable_errors: u64,
}

impl Streak {
    /// Takes in a judged outcome that is no copy, during the warm-up too: a canary that fails every
    /// one of its first requests is broken, not cold.
    pub(crate) fn note(&mut self, outcome: &Outcome) {
        let error = outcome.class.is_error();
        match outcome.arm {
            Arm::Canary if error => self.errors = self.errors.saturating_add(1),
            Arm::Canary if outcome.class == Class::Ok => *self = Streak::default(),
            Arm::Stable if self.errors > 0 && error => self.stable_errors += 1,
            Arm::Stable if self.errors > 0 && outcome.class == Class::Ok => self.stable_ok += 1,
            Arm::Canary | Arm::Stable => {}
        }
    }

    /// At least `limit` canary errors in a row while stable mostly succeeded. At 100 % stable has
    /// no traffic to succeed with, and the streak alone is enough.
    pub(crate) fn is_fault(&self, limit: u32, weight: Weight) -> bool {
        let stable_fine = weight == Weight::FULL || self.stable_ok > self.stable_errors;
        self.errors >= limit && stable_fine
    }

    pub(crate) fn text(&self) -> String {
        let (errors, ok, bad) = (self.errors, self.stable_ok, self.stable_errors);
        format!("{errors} canary errors in a row; stable meanwhile: {ok} successes, {bad} errors")
    }
}
