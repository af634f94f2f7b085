//! Limits how much of a sample one API key, or one session, may contribute.
//!
//! The SAMPLE of a stage (requests, latencies) admits a key's outcomes only while the key's share of that
//! arm's sample is below the cap. The choice depends on the past and on the key, never on how the request
//! ended, so it does not bias any rate.
//!
//! The EVIDENCE is also computed without each slot of keys (`capital`). A rollback must hold without
//! any one key that has more than the capped share of the canary's errors. A cap on the sample would not help
//! there: at 5 %, two errors on the canary can be proof enough.
//!
//! Keys share slots by hash, so memory is bounded whatever clients send. Leaving out a slot leaves out the
//! key and perhaps some others, never less than the key.

use super::Arm;
use super::evalue::SLOTS;

/// Slots of the sample's cap.
const CAP_SLOTS: usize = 256;
/// A sample's first outcomes are admitted, whichever key they come from.
const SLACK: f64 = 10.0;
/// With at least this many outcomes from others, a key is not alone.
pub(crate) const OTHERS: u64 = 10;

fn slot_of(key: u64, slots: usize) -> usize {
    // Keys arrive hashed; the multiplication keeps a poor hash from filling one slot.
    (key.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 32) as usize % slots
}

/// The slot of a key; it is left out of the evidence together with that slot.
pub(crate) fn slot(key: u64) -> usize {
    slot_of(key, SLOTS)
}

/// Outcomes seen, in total and by slot.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct SlotCounts {
    total: u64,
    slots: [u64; SLOTS],
}

impl SlotCounts {
    pub(crate) fn new() -> SlotCounts {
        SlotCounts { total: 0, slots: [0; SLOTS] }
    }

    /// Counts an outcome of this party; `None` if the party is unknown.
    pub(crate) fn count(&mut self, party: Option<u64>) {
        self.total += 1;
        if let Some(party) = party {
            self.slots[slot(party)] += 1;
        }
    }

    /// Whether anyone outside this slot is active.
    pub(crate) fn others_than(&self, slot: usize) -> bool {
        self.total - self.slots[slot] >= OTHERS
    }
}

/// What was seen and what was admitted to one arm's sample, by slot of keys.
#[derive(Debug, Clone, PartialEq)]
struct Share {
    admitted: [u32; CAP_SLOTS],
    seen: [u32; CAP_SLOTS],
    total: u64,
    seen_total: u64,
}

/// The cap on both arms' samples of one stage.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct KeyCap {
    arms: [Box<Share>; 2],
}

impl KeyCap {
    pub(crate) fn new() -> KeyCap {
        let share = || {
            let none = [0; CAP_SLOTS];
            Box::new(Share { admitted: none, seen: none, total: 0, seen_total: 0 })
        };
        KeyCap { arms: [share(), share()] }
    }

    /// Whether an outcome of this key on this arm enters the sample; it is counted either way.
    ///
    /// It does if the key is alone on the arm, or if its outcomes would stay at or below `cap` of the arm's
    /// sample, apart from ten outcomes of slack. Outcomes without a key are always admitted.
    pub(crate) fn admit(&mut self, arm: Arm, key: Option<u64>, cap: f64) -> bool {
        let share = &mut *self.arms[arm.index()];
        share.seen_total += 1;
        let Some(key) = key else {
            share.total += 1;
            return true;
        };
        let slot = slot_of(key, CAP_SLOTS);
        share.seen[slot] = share.seen[slot].saturating_add(1);
        let others = share.seen_total - u64::from(share.seen[slot]);
        let mine = f64::from(share.admitted[slot]) + 1.0;
        let admitted = others < OTHERS || mine <= cap * (share.total as f64 + 1.0) + SLACK;
        if admitted {
            share.admitted[slot] = share.admitted[slot].saturating_add(1);
            share.total += 1;
        }
        admitted
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lone_key_is_not_capped() {
        let mut cap = KeyCap::new();
        assert!((0..5000).all(|_| cap.admit(Arm::Canary, Some(1), 0.5)));
    }

    #[test]
    fn beside_others_a_key_is_at_most_its_share() {
        let mut cap = KeyCap::new();
        let mut admitted = [0u32; 2];
        for i in 0..10_000u64 {
            let mine = i % 10 != 0;
            let key = if mine { 1 } else { 2 + i };
            admitted[usize::from(mine)] += u32::from(cap.admit(Arm::Canary, Some(key), 0.5));
        }
        assert!(admitted[0] >= 980, "the others are in, but for those of its slot: {admitted:?}");
        // The slack, and the outcomes that arrived before there were ten others.
        assert!((1000..1150).contains(&admitted[1]), "{admitted:?}");
    }

    #[test]
    fn requests_without_a_key_are_others() {
        let mut cap = KeyCap::new();
        assert!((0..100).all(|_| cap.admit(Arm::Canary, None, 0.5)));
        let mine = (0..1000).filter(|_| cap.admit(Arm::Canary, Some(1), 0.5)).count();
        assert!((100..=121).contains(&mine), "{mine}");
        assert!(cap.admit(Arm::Stable, Some(1), 0.5), "the arms have a cap each");
    }

    #[test]
    fn others_are_those_of_other_slots() {
        let mut seen = SlotCounts::new();
        for _ in 0..100 {
            seen.count(Some(1));
        }
        assert!(!seen.others_than(slot(1)));
        for _ in 0..OTHERS {
            seen.count(None);
        }
        assert!(seen.others_than(slot(1)));
    }
}
