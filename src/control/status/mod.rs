//! The server's status: what operators, the command line, the demo's view and the gauges see of it.
//!
//! Every field is defined here and nowhere else; `fill` says where it comes from. Sizes are bytes, times seconds or
//! milliseconds as their names say, shares 0 to 1, weights percent.

mod fill;

pub(super) use fill::gates;

use crate::routing::Deployment;
use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// The versions that are loaded.
#[derive(Debug, Clone)]
pub struct ModelsView {
    /// Public model name.
    pub name: Arc<str>,
    pub stable: Option<Arc<Deployment>>,
    pub canary: Option<Arc<Deployment>>,
}

/// `GET /admin/status`, and the answer to every order that has no other.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Status {
    /// Public name of the model.
    pub model: String,
    /// Rises with every change; orders name it.
    pub revision: u64,
    /// `idle`, `running`, `paused`, `rolled_back`, `promoted` or `self_tested`.
    pub phase: String,
    /// Why it was rolled back, or what the self-test found.
    pub reason: Option<String>,
    pub self_test: bool,
    pub awaiting_confirm: bool,
    /// Version of the former stable, while its promotion can be undone.
    pub previous: Option<String>,
    /// Where decisions are kept; `null` when they are not.
    pub ledger: Option<LedgerStatus>,
    pub paused: bool,
    /// Id of the rollout that runs or ran last.
    pub rollout: Option<String>,
    /// The canary's share of the requests now.
    pub weight: u8,
    /// The share that the rollout wants, where that is another: it waits for the ledger, or for the canary to
    /// be loaded again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub weight_wanted: Option<u8>,
    /// What stands out: what waits, and what was refused at the start.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub remarks: Vec<String>,
    pub steps: Vec<u8>,
    /// Place of the present weight in `steps`.
    pub step: Option<usize>,
    /// Number of the present stage; it grows with every change of weight.
    pub stage: u64,
    pub stage_age_s: f64,
    pub bake_s: f64,
    pub promotion_ordered: bool,
    pub uptime_s: f64,
    pub resident_bytes: u64,
    /// Path of the model that is being loaded.
    pub loading: Option<String>,
    /// Stable, then canary.
    pub arms: Vec<ArmStatus>,
    /// Stable's frozen figures, which the canary is held against at 100 %.
    pub reference: Option<ArmFigures>,
    /// `pass`, `fail` or `inconclusive`.
    pub overall: String,
    pub gates: Vec<GateStatus>,
    /// What today's traffic lets one see, and when; `null` unless a rollout runs.
    pub forecast: Option<ForecastStatus>,
    /// What copied requests have shown; `null` when none are copied.
    pub shadow: Option<ShadowStatus>,
    /// What the device says of its state; left out when it says nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub device: Option<DeviceStatus>,
    /// Oldest first.
    pub decisions: Vec<DecisionStatus>,
    /// Oldest first.
    pub unloads: Vec<Unload>,
}

/// The ledger.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LedgerStatus {
    pub path: String,
    /// Why it is not being written, if it is not.
    pub failing: Option<String>,
}

/// The device's state; `null` is what it does not tell.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct DeviceStatus {
    /// Bytes, all programs counted.
    pub memory_used: Option<u64>,
    pub memory_total: Option<u64>,
    /// 0 to 1.
    pub utilisation: Option<f64>,
    pub power_watts: Option<f64>,
    pub temperature_celsius: Option<u32>,
    pub sm_clock_mhz: Option<u32>,
    pub memory_clock_mhz: Option<u32>,
    /// Why it is slowed down at the moment, if it is.
    pub throttled: Option<String>,
    /// For how long it was, in the present stage.
    pub throttled_s: f64,
}

/// Time to a verdict, at today's traffic.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ForecastStatus {
    /// Stable's, the canary's.
    pub requests_per_second: Option<[f64; 2]>,
    /// Stable's error rate that is assumed, 0 to 1.
    pub base_error_rate: f64,
    /// The smallest ratio of error rates that would show by now.
    pub detectable_error_ratio: Option<f64>,
    /// The smallest share of replies above stable's p99 that would show by now; equal models have 0.01.
    pub detectable_exceedance: Option<f64>,
    /// Seconds from the stage's beginning until a doubled error rate is proved.
    pub until_doubled_errors_s: Option<f64>,
    /// Gates that cannot decide yet.
    pub gates: Vec<GateWait>,
}

/// Requests copied to the canary while the device was idle; ratios are the canary's over stable's.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct ShadowStatus {
    pub pairs: u64,
    pub preempted: u64,
    pub dropped: u64,
    pub failed: u64,
    pub ttft_ratio: Option<f64>,
    pub tpot_ratio: Option<f64>,
    pub length_ratio: Option<f64>,
    /// Share of pairs with the very same tokens, 0 to 1.
    pub identical: Option<f64>,
    /// Median place of the first token that differs.
    pub divergence: Option<f64>,
    /// Mean log-probability of stable's tokens to the canary, nats per token.
    pub log_probability: Option<f64>,
}

/// A gate that waits.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct GateWait {
    pub gate: String,
    /// `null`: never, at today's traffic.
    pub seconds: Option<f64>,
}

/// One arm: what is loaded there and how it does.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ArmStatus {
    /// `stable` or `canary`.
    pub arm: String,
    pub loaded: bool,
    pub version: Option<String>,
    pub digest: Option<String>,
    pub path: Option<String>,
    pub max_model_len: Option<usize>,
    pub figures: ArmFigures,
    pub lane: Option<LaneStatus>,
}

/// An arm's figures in the present stage, or in the last one.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ArmFigures {
    /// Judged requests.
    pub requests: u64,
    pub errors: u64,
    pub error_rate: Option<f64>,
    pub cancels: u64,
    pub rejected: u64,
    pub invalid: u64,
    /// Left out of the judgement, for whatever reason.
    pub excluded: u64,
    /// Of these, requests of an API key that makes too large a part of the sample.
    pub over_share: u64,
    /// Replies that were asked for again.
    pub retries: u64,
    pub ttft_p50_ms: Option<f64>,
    pub ttft_p99_ms: Option<f64>,
    pub tpot_p50_ms: Option<f64>,
    pub tpot_p99_ms: Option<f64>,
    /// Median over requests.
    pub tokens_per_second: Option<f64>,
    pub mean_output_tokens: Option<f64>,
    pub feedback_up: u64,
    pub feedback_down: u64,
    /// Judged requests over the whole rollout.
    pub total_requests: u64,
    pub total_errors: u64,
}

/// What an arm's lane in the engine is doing.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LaneStatus {
    pub running: u64,
    pub waiting: u64,
    pub blocks_used: u64,
    pub blocks_total: u64,
    /// Blocks whose prefix can be reused, referenced or not.
    pub blocks_cached: u64,
    pub blocks_evicted: u64,
    /// Prompt tokens since the load: looked up in the prefix cache, and found there.
    pub prefix_lookup_tokens: u64,
    pub prefix_hit_tokens: u64,
    /// 0 to 1; none before the first lookup.
    pub prefix_hit_rate: Option<f64>,
    pub preemptions: u64,
    pub cancelled: u64,
    pub tokens_generated: u64,
    pub tokens_prefilled: u64,
    pub arena_used: u64,
    pub arena_reserved: u64,
    /// In the model's pool on a card; 0 without one.
    #[serde(default)]
    pub card_used: u64,
    #[serde(default)]
    pub card_reserved: u64,
}

/// One gate.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct GateStatus {
    pub name: String,
    /// `pass`, `fail`, `inconclusive` or `not_judged`.
    pub state: String,
    pub value: Option<f64>,
    pub threshold: Option<f64>,
    /// E-value; held against 1/alpha.
    pub evidence: Option<f64>,
    /// What the data do not speak against.
    pub interval: Option<(f64, f64)>,
    /// Stable's, the canary's.
    pub samples: (u64, u64),
    pub text: String,
}

/// One decision.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct DecisionStatus {
    /// Since the server started.
    pub at_s: f64,
    pub kind: String,
    /// The weight after it.
    pub weight: u8,
    pub text: String,
}

/// One finished unload.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Unload {
    pub version: String,
    pub reason: String,
    pub used_before: u64,
    pub used_after: u64,
    pub reserved_before: u64,
    pub reserved_after: u64,
    pub resident_at_load: u64,
    pub resident_before: u64,
    pub resident_after: u64,
    pub blocks_leaked: u64,
    pub evicted: u64,
    /// What the model's pool on a card gave back, if it had one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub card: Option<CardUnload>,
    pub took_ms: f64,
    /// From the decision that it should go to its memory being back.
    pub since_decision_ms: f64,
}

/// A card's memory around an unload, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct CardUnload {
    pub used_before: u64,
    pub used_after: u64,
    pub reserved_before: u64,
    pub reserved_after: u64,
    /// Free on the card, all programs counted: before the load, and after the unload.
    pub free_at_load: u64,
    pub free_after: u64,
}
