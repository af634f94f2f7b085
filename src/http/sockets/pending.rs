//! Connections without a complete request: which of them is closed when the limit is reached.
//!
//! Silent connections must not use up what honest clients need. A connection is *pending* from its start
//! until a whole request has arrived, and again after the reply. The client with the most pending connections
//! loses one, so that a client with few never pays for one with many. Pure: no sockets, no clock.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::{IpAddr, Ipv6Addr};

/// The client that a connection counts for: an IPv4 address, or the 64-bit prefix of an IPv6 address, since
/// one client usually has a whole /64 network.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct Client(IpAddr);

impl Client {
    /// The client at an address.
    pub fn at(address: IpAddr) -> Client {
        Client(match address.to_canonical() {
            IpAddr::V6(ip) => IpAddr::V6(Ipv6Addr::from_bits(ip.to_bits() & !u128::from(u64::MAX))),
            v4 => v4,
        })
    }
}

/// Pending connections. Those behind a trusted proxy (`None`) are closed after those of clients, and idle
/// ones, which have had a request before, are closed last.
#[derive(Debug, Default)]
pub(super) struct Pending {
    /// By age, oldest first: connections that wait for a first request or for the rest of one.
    silent: HashMap<Option<Client>, BTreeMap<u64, u64>>,
    /// The number of silent connections of each client.
    ranking: BTreeSet<(usize, Client)>,
    idle: BTreeMap<u64, u64>,
    places: HashMap<u64, Place>,
    next: u64,
}

#[derive(Debug, Clone, Copy)]
struct Place {
    age: u64,
    idle: bool,
    owner: Option<Client>,
}

impl Pending {
    /// A connection waits for a request or for the rest of one; `idle`: it waits for another request after
    /// its last reply.
    pub fn add(&mut self, id: u64, idle: bool, owner: Option<Client>) {
        self.remove(id);
        let age = self.next;
        self.next += 1;
        self.places.insert(id, Place { age, idle, owner });
        if idle {
            self.idle.insert(age, id);
        } else {
            self.change(owner, |silent| silent.insert(age, id));
        }
    }

    /// Forgets a connection; one that is not known is ignored.
    pub fn remove(&mut self, id: u64) {
        let Some(Place { age, idle, owner }) = self.places.remove(&id) else { return };
        if idle {
            self.idle.remove(&age);
        } else {
            self.change(owner, |silent| silent.remove(&age));
        }
    }

    /// The connection to close first.
    pub fn first_to_go(&self) -> Option<u64> {
        let most = self.ranking.last().map(|(_, client)| Some(*client));
        let oldest = |owner: Option<Client>| self.silent.get(&owner)?.values().next().copied();
        most.and_then(oldest)
            .or_else(|| oldest(None))
            .or_else(|| self.idle.values().next().copied())
    }

    /// The oldest silent connection of a client that has at least `most` of them.
    pub fn beyond(&self, client: Client, most: usize) -> Option<u64> {
        let silent = self.silent.get(&Some(client)).filter(|silent| silent.len() >= most)?;
        silent.values().next().copied()
    }

    fn change<T>(
        &mut self,
        owner: Option<Client>,
        change: impl FnOnce(&mut BTreeMap<u64, u64>) -> T,
    ) {
        let silent = self.silent.entry(owner).or_default();
        let before = silent.len();
        change(silent);
        let after = silent.len();
        if after == 0 {
            self.silent.remove(&owner);
        }
        let Some(client) = owner else { return };
        self.ranking.remove(&(before, client));
        if after > 0 {
            self.ranking.insert((after, client));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::net::Ipv4Addr;

    fn client(n: u8) -> Client {
        Client::at(IpAddr::V4(Ipv4Addr::new(192, 0, 2, n)))
    }

    #[test]
    fn an_ipv6_network_is_one_client() {
        let at = |text: &str| Client::at(text.parse().unwrap());
        assert_eq!(at("2001:db8::1"), at("2001:db8::ffff:2"));
        assert_ne!(at("2001:db8::1"), at("2001:db8:0:1::1"));
        assert_eq!(at("::ffff:192.0.2.7"), client(7));
    }

    #[test]
    fn silent_ones_go_before_trusted_ones_and_those_before_idle_ones() {
        let mut pending = Pending::default();
        pending.add(1, true, Some(client(1)));
        pending.add(2, false, None);
        pending.add(3, false, Some(client(1)));
        let mut order = Vec::new();
        while let Some(id) = pending.first_to_go() {
            order.push(id);
            pending.remove(id);
        }
        assert_eq!(order, [3, 2, 1]);
    }

    #[test]
    fn a_client_beyond_its_bound_gives_up_its_own_oldest() {
        let mut pending = Pending::default();
        pending.add(1, false, Some(client(2)));
        pending.add(2, false, Some(client(1)));
        pending.add(3, true, Some(client(1)));
        assert_eq!(pending.beyond(client(1), 2), None);
        pending.add(4, false, Some(client(1)));
        assert_eq!(pending.beyond(client(1), 2), Some(2));
        assert_eq!(pending.beyond(client(2), 2), None);
    }

    /// (id, what happens to it, its client)
    fn steps() -> impl Strategy<Value = Vec<(u64, u8, u8)>> {
        prop::collection::vec((0u64..40, 0u8..4, 0u8..4), 0..200)
    }

    proptest! {
        /// Whatever happened before, these are never closed: a connection of a client that has fewer silent
        /// connections than another, a connection with a complete request, and an idle one while there is a
        /// silent one.
        #[test]
        fn whoever_holds_most_makes_room(steps in steps()) {
            let mut pending = Pending::default();
            let mut model: BTreeMap<u64, (bool, Option<Client>)> = BTreeMap::new();
            for (id, what, whose) in steps {
                let owner = (whose > 0).then(|| client(whose));
                match what {
                    0 => { pending.remove(id); model.remove(&id); }
                    _ => { pending.add(id, what == 1, owner); model.insert(id, (what == 1, owner)); }
                }
                let count = |owner| model.values().filter(|place| **place == (false, owner)).count();
                match pending.first_to_go().map(|id| model[&id]) {
                    None => prop_assert!(model.is_empty()),
                    Some((true, _)) => prop_assert!(model.values().all(|(idle, _)| *idle)),
                    Some((false, None)) => {
                        prop_assert!(model.values().all(|(idle, owner)| *idle || owner.is_none()));
                    }
                    Some((false, owner)) => {
                        prop_assert!((1..4).all(|n| count(Some(client(n))) <= count(owner)));
                    }
                }
            }
        }
    }
}
