//! The rollout as a pure state machine: events and a time go in, actions come out.
//!
//! What it is: the rules by which a canary's share of the traffic rises, holds or falls to zero.
//! [`Rollout::step`] takes one [`Event`] and returns the [`Action`]s that follow from it; somebody
//! else carries them out. What it does not know: clocks, sockets, engines, text, storage. Time is
//! an argument, a `Duration` since an origin that the caller chooses.
//!
//! Why a state machine and not a task that sleeps and looks: a rollback has to come from the very
//! outcome that proves it, every decision has to be replayable from a ledger, and both can only be
//! tested when nothing here waits or reads anything by itself.
//!
//! Reading order: [`plan`](Policy) (what is wanted), [`outcome`](Outcome) and [`event`](Event) (what
//! is seen), `window`, `histogram` and `keys` (what is remembered of it), `evalue`, `strata` and
//! `alone` (evidence that grows), `evidence` (when the errors count as a regression), `stats`,
//! `latency_gate`, `gates` and [`verdict`](Verdict) (what it amounts to), `machine`, `orders` and `moves`
//! (what follows), [`forecast`](Forecast) and [`view`](View) (what is shown).
//!
//! Three rules hold throughout. Errors and faults of the canary roll back and nothing else does:
//! a slow canary is held. Rollback is decided at every event; raising only at a [`Event::Tick`] or
//! an operator's word. Counts and latencies do not cross a stage: each weight gets its own, under an
//! epoch that the outcomes carry from the moment they were routed. Evidence does, each error with
//! the weight that it was routed under.

mod alone;
mod decision;
mod error_gate;
mod evalue;
mod event;
mod evidence;
mod forecast;
mod gates;
mod histogram;
mod keys;
mod latency_gate;
mod machine;
mod moves;
mod orders;
mod outcome;
mod plan;
mod selftest;
mod signal;
mod stage;
mod stats;
mod step_error;
mod strata;
mod verdict;
mod view;
mod window;

#[cfg(test)]
mod evidence_tests;
#[cfg(test)]
mod order_tests;
#[cfg(test)]
mod properties;
#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;

use std::fmt;

use serde::{Deserialize, Serialize};

pub use decision::{Cause, Decision, DecisionKind, Phase};
pub use event::{Action, Event, Operator, Order};
pub use forecast::{Forecast, requests_to_detect};
pub use histogram::Latency;
pub use machine::Rollout;
pub use outcome::{Class, Outcome};
pub use plan::{Advance, ConfirmAt, EvidenceRule, Mode, Policy, PolicyError};
pub use step_error::StepError;
pub use verdict::{Gate, GateName, GateState, Overall, Verdict};
pub use view::{ArmView, View};
pub use window::Counts;

/// One of the two models that a request can be answered by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Arm {
    /// The version in service.
    Stable,
    /// The version on trial.
    Canary,
}

impl Arm {
    /// Both arms, in the order of every `[T; 2]` that is kept per arm.
    pub const BOTH: [Arm; 2] = [Arm::Stable, Arm::Canary];

    /// The name used in headers, labels and texts.
    pub const fn as_str(self) -> &'static str {
        match self {
            Arm::Stable => "stable",
            Arm::Canary => "canary",
        }
    }

    /// The arm that this one is compared with.
    pub const fn other(self) -> Arm {
        match self {
            Arm::Stable => Arm::Canary,
            Arm::Canary => Arm::Stable,
        }
    }

    /// The arm's place in a `[T; 2]` kept per arm; see [`Arm::BOTH`].
    pub const fn index(self) -> usize {
        match self {
            Arm::Stable => 0,
            Arm::Canary => 1,
        }
    }
}

impl fmt::Display for Arm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The canary's share of the traffic in whole percent, 0 to 100.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "u8", into = "u8")]
pub struct Weight(u8);

impl Weight {
    /// No traffic for the canary.
    pub const ZERO: Weight = Weight(0);
    /// All traffic for the canary.
    pub const FULL: Weight = Weight(100);

    /// A weight of `percent`, or `None` above 100.
    pub const fn new(percent: u8) -> Option<Weight> {
        if percent <= 100 { Some(Weight(percent)) } else { None }
    }

    /// The share in percent, 0 to 100.
    pub const fn percent(self) -> u8 {
        self.0
    }

    /// The share as a fraction, 0.0 to 1.0.
    pub fn fraction(self) -> f64 {
        f64::from(self.0) / 100.0
    }
}

impl TryFrom<u8> for Weight {
    type Error = String;

    fn try_from(percent: u8) -> Result<Weight, String> {
        Weight::new(percent).ok_or_else(|| format!("a weight of {percent} %"))
    }
}

impl From<Weight> for u8 {
    fn from(weight: Weight) -> u8 {
        weight.percent()
    }
}

impl fmt::Display for Weight {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} %", self.0)
    }
}
