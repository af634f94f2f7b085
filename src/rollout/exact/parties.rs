//! Which parties the requests of a rollout come from, as far as verdicts need it.
//!
//! A decision must hold without its most influential party while others are active. If nearly all requests are of
//! one party (one user, one proxy), the decision stands, and the verdict names the party. Parties share slots by
//! hash, so memory is bounded whatever clients send. It does not know what a party is.

use crate::rollout::evalue::SLOTS;
use crate::rollout::keys::slot;

/// Others are active if they send at least this share of the requests.
const SHARE: f64 = 0.1;
/// A smaller share counts as chance for now: the others may just not have come yet. Of parties beside which others send
/// that share, at most this part is ever taken to be alone, however long it goes on. One that is seen alone counts as
/// alone after 87 requests.
const CHANCE: f64 = 0.01;

/// Requests by party.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Parties {
    all: f64,
    by_slot: [f64; SLOTS],
    /// The latest party of each slot.
    latest: [u64; SLOTS],
}

impl Parties {
    pub(crate) fn new() -> Parties {
        Parties { all: 0.0, by_slot: [0.0; SLOTS], latest: [0; SLOTS] }
    }

    /// Counts a request.
    pub(crate) fn count(&mut self, party: Option<u64>) {
        self.all += 1.0;
        if let Some(party) = party {
            let at = slot(party);
            self.by_slot[at] += 1.0;
            self.latest[at] = party;
        }
    }

    /// Whether a decision must hold without this slot.
    pub(crate) fn can_do_without(&self, slot: usize) -> bool {
        // One in so many of the others is in the same slot by chance.
        let elsewhere = 1.0 - 1.0 / SLOTS as f64;
        let others = (self.all - self.by_slot[slot]) / elsewhere / self.all.max(1.0);
        if others >= SHARE {
            return true;
        }
        // The likelihood ratio of all shares to this one, evenly mixed, is at least exp(all * far) / (all + 1). That it
        // ever reaches 1 / CHANCE has at most that probability (Ville).
        let part = |a: f64, b: f64| if a > 0.0 { a * (a / b).ln() } else { 0.0 };
        let far = part(others, SHARE) + part(1.0 - others, 1.0 - SHARE);
        self.all * far < (self.all + 1.0).ln() - CHANCE.ln()
    }

    /// The name of the party that nearly all requests come from, if there is one.
    pub(crate) fn lone(&self) -> Option<String> {
        let lone = (0..SLOTS).find(|slot| self.all > 0.0 && !self.can_do_without(*slot))?;
        Some(format!("{:08x}", self.latest[lone] as u32))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_party_is_alone_when_it_is_certain_that_others_send_less_than_a_tenth() {
        let mut parties = Parties::new();
        (0..86).for_each(|_| parties.count(Some(1)));
        assert!(parties.can_do_without(slot(1)), "the others may be late");
        parties.count(Some(1));
        assert!(!parties.can_do_without(slot(1)) && parties.can_do_without(slot(2)));
        assert_eq!(parties.lone().as_deref(), Some("00000001"));
        (0..10).for_each(|_| parties.count(None));
        assert!(parties.can_do_without(slot(1)) && parties.lone().is_none());
    }

    #[test]
    fn others_that_share_a_slot_with_a_party_do_not_make_it_alone() {
        let mut parties = Parties::new();
        for request in 0..1_000_000u64 {
            let other = 2 + request / 10 % 1000;
            parties.count(Some(if request % 10 == 0 { other } else { 1 }));
        }
        assert!(parties.by_slot[slot(1)] > 900_000.0, "some share its slot");
        assert!(parties.can_do_without(slot(1)) && parties.lone().is_none());
    }

    #[test]
    fn few_parties_are_ever_alone_beside_others_that_send_a_tenth() {
        let (runs, mut mistaken) = (300, 0);
        for seed in 0..runs {
            let (mut parties, mut bits) = (Parties::new(), seed * 2 + 1);
            let ever = (0..4000).any(|request: u64| {
                bits ^= bits << 13;
                bits ^= bits >> 7;
                bits ^= bits << 17;
                let other = bits % 1000 < 100;
                parties.count(Some(if other { 2 + request } else { 1 }));
                !parties.can_do_without(slot(1))
            });
            mistaken += u64::from(ever);
        }
        assert!(mistaken as f64 <= 2.0 * CHANCE * runs as f64, "{mistaken} of {runs}");
    }
}
