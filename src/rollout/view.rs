//! Everything that a status page or a terminal view shows of a rollout, in one plain value.
//!
//! It knows neither colours nor wire formats. Why a copy and not getters on the machine: the view
//! crosses threads and must be of one moment.

use std::time::Duration;

use super::histogram::Latency;
use super::window::ArmWindow;
use super::{Arm, Counts, Decision, Forecast, Phase, Verdict, Weight};

/// A rollout at one moment.
#[derive(Debug, Clone, PartialEq)]
pub struct View {
    /// Where it stands.
    pub phase: Phase,
    /// The id of the rollout that runs or ran last.
    pub rollout: Option<String>,
    /// Whether it is, or was, a self-test.
    pub self_test: bool,
    /// The canary's share.
    pub weight: Weight,
    /// The stage epoch in force.
    pub stage: u64,
    /// The index into `steps` of the present weight; `None` when no step has it.
    pub step: Option<usize>,
    /// The planned weights.
    pub steps: Vec<Weight>,
    /// Time at this weight; in a terminal phase, time since the end; zero when idle.
    pub stage_age: Duration,
    /// Time at this weight in which the device was slowed down.
    pub throttled: Duration,
    /// The bake time asked for.
    pub bake: Duration,
    /// Whether an operator ordered promotion as soon as this stage's gates pass.
    pub promotion_ordered: bool,
    /// Whether the next raise, or the promotion, needs an operator's confirmation and has not got it.
    pub awaiting_confirm: bool,
    /// Both arms, indexed by [`Arm::index`]; in a terminal phase, those of the last stage.
    pub arms: [ArmView; 2],
    /// At 100 % there is no concurrent stable traffic: the frozen figures of stable, from the last
    /// stage below, that the canary is compared with. `None` below 100 %.
    pub reference: Option<ArmView>,
    /// What can be told by now, and when the gates can decide; `None` unless a rollout runs.
    pub forecast: Option<Forecast>,
    /// The judgement; in a terminal phase the one that the last decision rests on.
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
    /// Which.
    pub arm: Arm,
    /// What was counted, and what was not and why, in the current stage.
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
