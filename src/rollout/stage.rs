//! One stage: a weight, its epoch, and what was observed at it.
//!
//! It sorts outcomes and votes into counted and excluded ones, with the reason; other files judge them. Why
//! an epoch and not a comparison of weights or times: a reply may take minutes, so outcomes of the old weight
//! keep arriving after a change, and the same weight may be set twice.

use std::time::Duration;

use super::evalue::SLOTS;
use super::exact::Exact;
use super::keys::{KeyCap, SlotCounts, slot};
use super::window::ArmWindow;
use super::{Arm, Class, Outcome, Weight};

/// What has been reported about a stage, each once.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Reported {
    /// Past the bake time and not all gates pass.
    pub(crate) held: bool,
    /// The same, for a long time.
    pub(crate) stalled: bool,
    /// All gates pass, and an operator has to act on it.
    pub(crate) ready: bool,
    /// A regression without a rollback (dry run, self-test).
    pub(crate) regression: bool,
}

/// The part of a rollout at one weight.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Stage {
    pub(crate) epoch: u64,
    pub(crate) weight: Weight,
    /// The share that is routed to the canary.
    pub(crate) routed: Weight,
    /// When it began.
    pub(crate) since: Duration,
    /// Indexed by [`Arm::index`].
    pub(crate) arms: [ArmWindow; 2],
    pub(crate) streak: Streak,
    /// The cap on any one key's share of the sample.
    pub(crate) cap: KeyCap,
    /// Who is active: keys, or sessions if there are no keys.
    parties: SlotCounts,
    /// An operator wants promotion as soon as the gates of this stage pass: author and reason.
    pub(crate) promote_on_pass: Option<String>,
    /// An operator confirmed the next raise.
    pub(crate) confirmed: bool,
    pub(crate) reported: Reported,
    /// Time in this stage during which the device was throttled.
    pub(crate) throttled: Duration,
}

impl Stage {
    pub(crate) fn new(epoch: u64, (weight, routed): (Weight, Weight), since: Duration) -> Stage {
        Stage {
            epoch,
            weight,
            routed,
            since,
            arms: Default::default(),
            streak: Streak::default(),
            cap: KeyCap::new(),
            parties: SlotCounts::new(),
            promote_on_pass: None,
            confirmed: false,
            reported: Reported::default(),
            throttled: Duration::ZERO,
        }
    }

    pub(crate) fn arm(&self, arm: Arm) -> &ArmWindow {
        &self.arms[arm.index()]
    }

    pub(crate) fn arm_mut(&mut self, arm: Arm) -> &mut ArmWindow {
        &mut self.arms[arm.index()]
    }

    /// Time at this weight; zero if the clock went back.
    pub(crate) fn age(&self, now: Duration) -> Duration {
        now.saturating_sub(self.since)
    }

    /// The device was throttled for `time` until `now`; this may have begun before the stage did.
    pub(crate) fn slowed(&mut self, now: Duration, time: Duration) {
        self.throttled = self.throttled.saturating_add(time).min(self.age(now)).max(self.throttled);
    }

    /// Records a judged outcome of this stage that is not a duplicate. `cold` outcomes are not in the sample,
    /// but they do count for the fault streak: a canary that fails all of its first requests is broken, not
    /// cold.
    pub(crate) fn take(&mut self, outcome: &Outcome, cold: bool, key_share: f64) {
        if outcome.class.counts() {
            self.parties.count(party(outcome));
        }
        self.streak.note(outcome);
        let ran = outcome.class.counts() || outcome.class == Class::ClientCancel;
        let arm = outcome.arm;
        if cold {
            self.arm_mut(arm).counts.warmup += 1;
        } else if ran && !self.cap.admit(arm, outcome.origin.party, key_share) {
            self.arm_mut(arm).counts.over_share += 1;
        } else {
            self.arm_mut(arm).record(outcome);
        }
    }

    /// Whether at least `limit` canary errors came in a row while stable mostly succeeded. At 100 % stable
    /// has no traffic, and the streak alone is enough.
    ///
    /// A streak of one key (or, without keys, one session) counts only if no other client is active: one
    /// client with a poison prompt does not mean a broken model.
    /// With `exact` evidence, it knows who is active over the rollout, and of several parties' errors at most half
    /// of `limit` count for each.
    pub(crate) fn is_fault(&self, limit: u32, exact: Option<&Exact>) -> bool {
        let Streak { errors, stable_ok, stable_errors, party, mixed, .. } = self.streak;
        if errors < limit {
            return false;
        }
        let stable_fine = self.routed == Weight::FULL || stable_ok > stable_errors;
        let others = party.is_some_and(|party| match exact {
            Some(exact) => exact.can_do_without(party),
            None => self.parties.others_than(slot(party)),
        });
        let fair = exact.is_none() || self.streak.fair(limit) >= limit;
        stable_fine && if mixed { fair } else { !others }
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

    pub(crate) fn retry(&mut self, arm: Arm, stage: u64) {
        let other = stage != self.epoch;
        let counts = &mut self.arm_mut(arm).counts;
        match other {
            true => counts.other_stage += 1,
            false => counts.retries += 1,
        }
    }
}

/// Whose request it is: its party's, or its session's if the party is unknown.
fn party(outcome: &Outcome) -> Option<u64> {
    outcome.origin.party.or(outcome.origin.cluster)
}

/// Canary errors without a success in between, and stable's results in the same time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Streak {
    /// Those of known parties, by slot.
    by_slot: Slots,
    errors: u32,
    stable_ok: u64,
    stable_errors: u64,
    /// The party of the first error.
    party: Option<u64>,
    /// The errors do not all belong to one known party.
    mixed: bool,
}

/// Errors by slot of parties.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Slots([u16; SLOTS]);

impl Default for Slots {
    fn default() -> Slots {
        Slots([0; SLOTS])
    }
}

impl Streak {
    /// The errors, at most half of `limit` (rounded up) for each party.
    fn fair(&self, limit: u32) -> u32 {
        let most = limit.div_ceil(2);
        let known: u32 = self.by_slot.0.iter().map(|errors| u32::from(*errors)).sum();
        let capped: u32 = self.by_slot.0.iter().map(|errors| u32::from(*errors).min(most)).sum();
        self.errors.saturating_sub(known).saturating_add(capped)
    }

    fn note(&mut self, outcome: &Outcome) {
        let error = outcome.class.is_error();
        match outcome.arm {
            Arm::Canary if error => {
                let party = party(outcome);
                self.mixed |= party.is_none() || (self.errors > 0 && party != self.party);
                self.party = party;
                self.errors = self.errors.saturating_add(1);
                if let Some(party) = party {
                    let of = &mut self.by_slot.0[slot(party)];
                    *of = of.saturating_add(1);
                }
            }
            Arm::Canary if outcome.class == Class::Ok => *self = Streak::default(),
            Arm::Stable if self.errors > 0 && error => self.stable_errors += 1,
            Arm::Stable if self.errors > 0 && outcome.class == Class::Ok => self.stable_ok += 1,
            Arm::Canary | Arm::Stable => {}
        }
    }

    pub(crate) fn text(&self) -> String {
        let (errors, ok, bad) = (self.errors, self.stable_ok, self.stable_errors);
        format!("{errors} canary errors in a row; stable meanwhile: {ok} successes, {bad} errors")
    }
}
