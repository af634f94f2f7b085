//! What must be true of a server after its orders and deaths. It is pure, and written independently of the
//! server's code: plain sets and one table of ends.
//!
//! An order that was in progress at an end may have been carried out or not, so there may be several possible
//! [`Stand`]s; the next server shows which one it is.

use std::collections::{BTreeMap, BTreeSet};

/// One of the test's models, 1 to 3.
pub type Version = u8;

/// An operator's order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Order {
    Load { version: Version, retry: bool },
    Weight(u8),
    Pause,
    Resume,
    Rollback,
    Promote,
    Undo,
    Confirm,
}

/// How a process ended, as far as can be known afterwards.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum End {
    Orderly,
    /// The machine went down.
    OtherBoot,
    /// By a fatal signal of its own.
    Signal(u8),
    OutOfMemory,
    /// Killed, without a known reason.
    Killed,
}

impl End {
    pub fn name(self) -> &'static str {
        match self {
            End::Orderly => "in order",
            End::OtherBoot => "another boot",
            End::Signal(_) => "fatal signal",
            End::OutOfMemory => "OOM",
            End::Killed => "kill -9",
        }
    }
}

/// A canary with a running rollout.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Trial {
    pub version: Version,
    pub weight: u8,
    pub paused: bool,
}

/// The state of a server.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Stand {
    pub stable: Version,
    pub trial: Option<Trial>,
    /// The former stable, as long as the promotion can be undone.
    pub previous: Option<Version>,
    pub rejected: BTreeSet<Version>,
    /// Number of unexplained kills since a version was last healthy.
    pub kills: BTreeMap<Version, u32>,
}

/// A rollout's first weight.
pub const FIRST_WEIGHT: u8 = 5;

impl Stand {
    pub fn new(stable: Version) -> Stand {
        let (rejected, kills) = (BTreeSet::new(), BTreeMap::new());
        Stand { stable, trial: None, previous: None, rejected, kills }
    }

    /// The state after an order is granted; `None`: it must be refused.
    pub fn after(&self, order: Order) -> Option<Stand> {
        let mut next = self.clone();
        match order {
            Order::Load { version, retry } => {
                if self.trial.is_some() || (self.rejected.contains(&version) && !retry) {
                    return None;
                }
                if next.rejected.remove(&version) {
                    next.kills.remove(&version);
                }
                next.previous = None;
                next.trial = Some(Trial { version, weight: FIRST_WEIGHT, paused: false });
            }
            Order::Weight(weight) => next.trial.as_mut()?.weight = weight,
            Order::Pause => next.trial.as_mut()?.paused = true,
            Order::Resume => next.trial.as_mut()?.paused = false,
            Order::Rollback => {
                let trial = next.trial.take()?;
                next.reject(trial.version);
            }
            Order::Promote => {
                let trial = next.trial.take()?;
                next.previous = Some(std::mem::replace(&mut next.stable, trial.version));
            }
            Order::Undo => {
                let former = next.previous.take()?;
                let promoted = std::mem::replace(&mut next.stable, former);
                next.reject(promoted);
            }
            // No step of these rollouts requires it.
            Order::Confirm => return None,
        }
        Some(next)
    }

    fn reject(&mut self, version: Version) {
        self.rejected.insert(version);
        self.kills.remove(&version);
    }

    /// The version that a death counts against.
    fn in_force(&self) -> Option<Version> {
        self.trial.filter(|trial| trial.weight > 0).map(|trial| trial.version)
    }

    /// The state of the next server after a death while `blamed`, if anything, was serving or being loaded.
    fn ended(&self, end: End, blamed: Option<Version>) -> Stand {
        let mut next = Stand { previous: None, ..self.clone() };
        let Some(version) = blamed else { return next };
        match end {
            End::Orderly | End::OtherBoot => {}
            End::Killed if !self.kills.contains_key(&version) => {
                next.kills.insert(version, 1);
            }
            End::Signal(_) | End::OutOfMemory | End::Killed => {
                next.reject(version);
                next.trial = None;
            }
        }
        next
    }

    /// The canary, if there was one, has served long enough to be healthy.
    fn well(&self) -> Stand {
        let mut next = self.clone();
        if let Some(version) = self.in_force() {
            next.kills.remove(&version);
        }
        next
    }

    /// At its start, a server loads the canary from its configuration, unless there is a reason not to.
    pub fn named(&self, version: Version) -> Stand {
        let order = Order::Load { version, retry: false };
        let loaded = self.after(order).filter(|_| version != self.stable);
        loaded.unwrap_or_else(|| self.clone())
    }
}

/// What a process was doing when it ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum During {
    Nothing,
    /// An order that was not acknowledged.
    Order(Order),
    /// Its start, with the canary from the configuration.
    Start {
        named: Option<Version>,
    },
}

/// All possible states of the next server. `quick`: `well_after` is so short that a canary may have become
/// healthy unnoticed.
pub fn after_end(from: &[Stand], end: End, during: During, quick: bool) -> Vec<Stand> {
    let mut possible = Vec::new();
    let mut add = |stand: &Stand, blamed: Option<Version>| {
        possible.push(stand.ended(end, blamed));
        if quick {
            possible.push(stand.well().ended(end, blamed));
        }
    };
    for stand in from {
        match during {
            During::Nothing => add(stand, stand.in_force()),
            During::Order(order) => {
                add(stand, stand.in_force());
                if let Some(granted) = stand.after(order) {
                    add(&granted, granted.in_force());
                    loading(stand, order).into_iter().for_each(|one| add(stand, Some(one)));
                }
            }
            During::Start { named } => {
                // Stable is loaded first; then the version on trial, whatever its weight.
                add(stand, None);
                let again = stand.trial.map(|trial| trial.version);
                again.into_iter().for_each(|version| add(stand, Some(version)));
                if let Some(named) = named {
                    let started = stand.named(named);
                    if started != *stand {
                        add(stand, Some(named));
                        add(&started, started.in_force());
                    }
                }
            }
        }
    }
    possible.sort();
    possible.dedup();
    possible
}

fn loading(stand: &Stand, order: Order) -> Option<Version> {
    match order {
        Order::Load { version, .. } if stand.trial.is_none() => Some(version),
        _ => None,
    }
}

/// All possible states of a server that has just started. `alone`: it may have had a rollout to resume whose
/// canary is refused; then stable serves alone.
pub fn started(possible: &[Stand], named: Option<Version>, alone: bool) -> Vec<Stand> {
    let Some(named) = named else { return possible.to_vec() };
    let mut all: Vec<Stand> = possible.iter().map(|stand| stand.named(named)).collect();
    if alone {
        all.extend_from_slice(possible);
    }
    all
}

/// The states once a server with a short `well_after` is at rest.
pub fn at_rest(from: &[Stand]) -> Vec<Stand> {
    from.iter().map(Stand::well).collect()
}

/// The same, if nothing waits for it.
pub fn maybe_well(from: &[Stand]) -> Vec<Stand> {
    let mut both = at_rest(from);
    both.extend_from_slice(from);
    both.sort();
    both.dedup();
    both
}

#[test]
fn the_rule_says_what_it_should() {
    let load = |version, retry| Order::Load { version, retry };
    let running = Stand::new(1).after(load(2, false)).expect("granted");
    let after = |from: &Stand, end| {
        let possible = after_end(std::slice::from_ref(from), end, During::Nothing, false);
        let [one] = &possible[..] else { panic!("one: {possible:?}") };
        one.clone()
    };
    let once = after(&running, End::Killed);
    assert_eq!((once.trial, once.kills[&2]), (running.trial, 1));
    let twice = after(&once, End::Killed);
    assert!(twice.trial.is_none() && twice.rejected.contains(&2) && twice.kills.is_empty());
    for end in [End::Signal(6), End::OutOfMemory] {
        assert_eq!(after(&running, end), twice);
    }
    assert_eq!(after(&running, End::OtherBoot), running);
    let during = During::Order(load(3, false));
    let possible = after_end(std::slice::from_ref(&twice), End::Signal(6), during, false);
    assert_eq!(possible.len(), 2, "it was loaded, or nothing had begun: {possible:?}");
    assert_eq!((twice.after(load(2, false)), twice.after(load(2, true))), (None, Some(running)));
}
