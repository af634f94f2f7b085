//! Everything that a status page or a terminal shows of a rollout, as one plain value.
//!
//! It knows neither colours nor wire formats. It is a copy, and not a set of getters on the machine, because
//! the view crosses threads and must be consistent.

use std::time::Duration;

use super::histogram::Latency;
use super::window::ArmWindow;
use super::{Arm, Counts, Decision, Forecast, Phase, Verdict, Weight};

/// A rollout at one point in time.
#[derive(Debug, Clone, PartialEq)]
pub struct View {
    /// Its state.
    pub phase: Phase,
    /// The id of the current or last rollout.
    pub rollout: Option<String>,
    /// Whether it is, or was, a self-test.
    pub self_test: bool,
    /// The canary's share.
    pub weight: Weight,
    /// The share that is routed to it: less while a part of the traffic is held back on stable.
    pub routed: Weight,
    /// The current stage epoch.
    pub stage: u64,
    /// The index in `steps` of the current weight; `None` if no step has it.
    pub step: Option<usize>,
    /// The planned weights.
    pub steps: Vec<Weight>,
    /// Time at this weight; in a terminal phase, time since the end; zero when idle.
    pub stage_age: Duration,
    /// Time at this weight during which the device was throttled.
    pub throttled: Duration,
    /// The required bake time.
    pub bake: Duration,
    /// Whether an operator ordered promotion as soon as this stage's gates pass.
    pub promotion_ordered: bool,
    /// Whether the next raise, or the promotion, still needs an operator's confirmation.
    pub awaiting_confirm: bool,
    /// Both arms, indexed by [`Arm::index`]; in a terminal phase, those of the last stage.
    pub arms: [ArmView; 2],
    /// At 100 % there is no concurrent stable traffic. These are stable's frozen figures from the last stage
    /// below, which the canary is compared with. `None` below 100 %.
    pub reference: Option<ArmView>,
    /// What the data can show so far, and when the gates can decide; `None` unless a rollout runs.
    pub forecast: Option<Forecast>,
    /// The verdict; in a terminal phase, the one that the last decision is based on.
    pub verdict: Verdict,
    /// The last decision taken.
    pub last_decision: Option<Decision>,
}

impl View {
    /// One arm's figures.
    pub fn arm(&self, arm: Arm) -> &ArmView {
        &self.arms[arm.index()]
    }
}

/// One arm in the current stage.
#[derive(Debug, Clone, PartialEq)]
pub struct ArmView {
    /// The arm.
    pub arm: Arm,
    /// What was counted in the current stage, and what was excluded and why.
    pub counts: Counts,
    /// The same over the whole rollout.
    pub total: Counts,
    /// Errors by counted requests, 0.0 to 1.0; `None` without requests.
    pub error_rate: Option<f64>,
    /// Time to first token.
    pub ttft: Option<Latency>,
    /// Time per output token after the first.
    pub tpot: Option<Latency>,
    /// Arrival to end.
    pub e2e: Option<Latency>,
    /// Median over requests of the decode rate, in tokens per second (from `tpot`).
    pub tokens_per_second: Option<f64>,
    /// Mean length of successful answers, in tokens.
    pub mean_output_tokens: Option<f64>,
}

impl ArmView {
    pub(crate) fn new(arm: Arm, window: &ArmWindow, total: Counts) -> ArmView {
        let counts = window.counts;
        ArmView {
            arm,
            counts,
            total,
            error_rate: counts.error_rate(),
            ttft: window.ttft.summary(),
            tpot: window.tpot.summary(),
            e2e: window.e2e.summary(),
            tokens_per_second: window.tokens_per_second(),
            mean_output_tokens: counts.mean_output_tokens(),
        }
    }
}
