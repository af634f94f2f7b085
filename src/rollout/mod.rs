//! The rollout as a pure state machine: events and a time go in, actions come out.
//!
//! These are the rules by which a canary's share of the traffic rises, holds or falls to zero.
//! [`Rollout::step`] takes one [`Event`] and returns the [`Action`]s that follow from it; the caller carries
//! them out. The rollout does not know about clocks, sockets, engines, text or storage. Time is an argument,
//! a `Duration` since an origin that the caller chooses.
//!
//! The outcome that proves a regression triggers the rollback itself, and every decision can be replayed from a
//! ledger (docs/decisions/014).
//!
//! Reading order:
//! - input: [`plan`](Policy) (the policy), [`outcome`](Outcome) and [`event`](Event);
//! - state: `window`, `histogram` and `keys`;
//! - evidence that grows: `exact` (by the exact probability of each event, the default); `evidence` with `strata`
//!   (by the weight of the stage, the rule of earlier versions); both use `evalue`, `capital` and `full_weight`;
//! - judgement: `stats`, `latency_gate`, `gates` and [`verdict`](Verdict);
//! - consequences: `machine`, `orders` and `moves`;
//! - display: [`forecast`](Forecast) and [`view`](View).
//!
//! Three rules hold throughout:
//! - Only errors and faults of the canary, and quality flags that the policy names, roll back. A slow canary is
//!   held.
//! - A rollback is decided at any event. A raise is decided only at a [`Event::Tick`] or by an operator's
//!   order.
//! - Counts and latencies belong to one stage: each weight has its own, under an epoch that outcomes carry
//!   from the moment they were routed. Evidence spans all stages; each error counts with the weight that it
//!   was routed under.

mod capital;
mod decision;
mod error_gate;
mod evalue;
mod event;
mod evidence;
mod exact;
mod forecast;
mod full_weight;
mod gates;
mod histogram;
mod keys;
mod latency_gate;
mod machine;
mod moves;
mod orders;
mod outcome;
mod outlook;
mod plan;
pub mod quality;
pub mod reading;
mod selftest;
mod signal;
mod stage;
mod stats;
mod step_error;
mod strata;
mod user_gates;
mod verdict;
mod view;
mod window;

#[cfg(test)]
mod evidence_tests;
#[cfg(test)]
mod exact_tests;
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
pub use exact::gates::{readings_text, readings_verdicts};
pub use forecast::{Forecast, requests_to_detect};
pub use histogram::Latency;
pub use machine::Rollout;
pub use outcome::{Class, Origin, Outcome};
pub use outlook::{StepOutlook, alternatives, outlook};
pub use plan::{
    Advance, ConfirmAt, CrossRead, EvidenceRule, Mode, Policy, PolicyError, QualityActions,
    SignalAction,
};
pub use quality::{Flag, Flags};
pub use reading::{Agreement, Expect, Read, Reading};
pub use step_error::StepError;
pub use verdict::{Gate, GateName, GateState, Overall, Verdict};
pub use view::{ArmView, View};
pub use window::Counts;

named! {
    /// One of the two models that can answer a request.
    #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
    #[serde(rename_all = "snake_case")]
    pub enum Arm {
        /// The version in service.
        Stable = "stable",
        /// The version on trial.
        Canary = "canary",
    }
}

impl Arm {
    /// Both arms, in the order of every `[T; 2]` that is kept per arm.
    pub const BOTH: [Arm; 2] = Arm::ALL;

    /// The arm's index in a `[T; 2]` kept per arm; see [`Arm::BOTH`].
    pub const fn index(self) -> usize {
        self as usize
    }
}

/// The canary's share of the traffic in whole percent, 0 to 100.
#[derive(
    Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
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
