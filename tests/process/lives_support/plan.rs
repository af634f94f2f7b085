//! Generates lives from a seed: the same seed gives the same lives, except for decisions of the servers
//! themselves.

use super::rule::{End, Order, Stand, Version};
use std::time::Duration;

/// A small generator (SplitMix64): the tests need reproducible draws, not good ones.
pub struct Draw(u64);

impl Draw {
    pub fn new(seed: u64) -> Draw {
        Draw(seed)
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut x = self.0;
        x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        x ^ (x >> 31)
    }

    /// Below `bound`.
    pub fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }

    pub fn chance(&mut self, percent: u64) -> bool {
        self.below(100) < percent
    }

    pub fn of<T: Copy>(&mut self, all: &[T]) -> T {
        all[self.below(all.len() as u64) as usize]
    }
}

/// When a life ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Moment {
    Start,
    Rest,
    /// While an order is under way.
    Order,
}

/// One life of a server.
#[derive(Debug, Clone, Copy)]
pub struct Life {
    /// The canary in its configuration.
    pub named: Option<Version>,
    /// `well_after` is so short that the test waits for the canary to become healthy.
    pub quick: bool,
    pub orders: u64,
    pub end: End,
    /// The canary itself aborts the process, where this is possible.
    pub by_canary: bool,
    pub moment: Moment,
    /// How far the start or the order has progressed when the end comes, in thousandths of [`Longest`].
    pub gone: u32,
}

/// About how long things take, so that an end comes before, during or after them.
pub struct Longest {
    pub start: Duration,
    pub load: Duration,
    pub order: Duration,
}

impl Longest {
    pub fn delay(&self, life: &Life, order: Option<Order>) -> Duration {
        let whole = match order {
            None => self.start,
            Some(Order::Load { .. }) => self.load,
            Some(_) => self.order,
        };
        whole * life.gone / 1000
    }
}

pub fn life(draw: &mut Draw) -> Life {
    let by_canary = draw.chance(15);
    let end = match draw.below(10) {
        _ if by_canary => End::Signal(6),
        0 => End::Orderly,
        1 => End::OtherBoot,
        2..=3 => End::OutOfMemory,
        4..=5 => End::Signal(draw.of(&[4, 6, 7, 8, 11])),
        _ => End::Killed,
    };
    let moment = match draw.below(10) {
        _ if by_canary => Moment::Rest,
        0..=1 => Moment::Start,
        2..=5 => Moment::Order,
        _ => Moment::Rest,
    };
    let gone = draw.below(1000) as u32;
    let named = draw.chance(25).then(|| draw.of(&[1, 2, 3]));
    Life { named, quick: draw.chance(15), orders: draw.below(5), end, by_canary, moment, gone }
}

/// A random order that mostly makes sense.
pub fn order(draw: &mut Draw, stand: &Stand) -> Order {
    let others: Vec<Version> = (1..=3).filter(|version| *version != stand.stable).collect();
    let load = |draw: &mut Draw| Order::Load { version: draw.of(&others), retry: draw.chance(60) };
    let any = draw.chance(15);
    match draw.below(12) {
        0..=3 if any || stand.trial.is_some() => Order::Weight(draw.below(101) as u8),
        4 if any || stand.trial.is_some() => Order::Pause,
        5 if any || stand.trial.is_some() => Order::Resume,
        6..=7 if any || stand.trial.is_some() => Order::Rollback,
        8 if any || stand.trial.is_some() => Order::Promote,
        9 if any || stand.previous.is_some() => Order::Undo,
        10 if any => Order::Confirm,
        _ if any || stand.trial.is_none() => load(draw),
        _ => Order::Weight(draw.of(&[0, 1, 5, 25, 50, 100])),
    }
}
