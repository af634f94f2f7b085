//! The server's status, for operators, the command line, the demo's view and the gauges.
//!
//! Every field is defined only here; `fill` says where it comes from. Sizes are in bytes, times in seconds or
//! milliseconds as the field's name says, shares from 0 to 1, and weights in percent.

mod brief;
mod fill;
mod headline;
#[cfg(test)]
pub mod testing;

pub(super) use fill::gates;

use super::comparison::{Offer, differences, sampling};
use crate::engine::{LaneFigures, UnloadReport};
use crate::routing::Deployment;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::sync::Arc;

/// The versions that are loaded.
#[derive(Debug, Clone)]
pub struct ModelsView {
    /// Public model name.
    pub name: Arc<str>,
    /// `None` until stable is loaded.
    pub stable: Option<Arc<Deployment>>,
    /// `None` while no canary is in service.
    pub canary: Option<Arc<Deployment>>,
}

impl ModelsView {
    /// What shapes replies and is not the same on both; empty without a canary.
    pub fn differences(&self) -> Vec<String> {
        let both = self.stable.as_ref().zip(self.canary.as_ref());
        both.map_or_else(Vec::new, |(a, b)| {
            let mut all = sampling(&a.defaults, &b.defaults);
            all.extend(differences(&Offer::of(a), &Offer::of(b)));
            all
        })
    }
}

/// The API keys.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeysStatus {
    /// How many are in force, expired ones included.
    pub count: usize,
    /// Why the keys file, as it is now, is not in force; the keys from before are.
    pub problem: Option<String>,
}

/// `GET /admin/status`, and the answer to every order that has no other.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Status {
    /// Public name of the model.
    pub model: String,
    /// State, share, what it waits for and until when, in one sentence.
    #[serde(default)]
    pub headline: String,
    /// Rises with every change; orders name it.
    pub revision: u64,
    /// `idle`, `running`, `paused`, `rolled_back`, `promoted` or `self_tested`.
    pub phase: String,
    /// Why it was rolled back, or what the self-test found.
    pub reason: Option<String>,
    /// Whether the current or last rollout is a self-test: stable judged against a second copy of itself.
    pub self_test: bool,
    /// Whether the next raise, or the promotion, needs an operator's confirmation first.
    pub awaiting_confirm: bool,
    /// Version of the former stable, while its promotion can be undone.
    pub previous: Option<String>,
    /// Where decisions are kept; `null` when they are not.
    pub ledger: Option<LedgerStatus>,
    /// Whether the rollout runs and an operator has paused it.
    pub paused: bool,
    /// Id of the rollout that runs or ran last.
    pub rollout: Option<String>,
    /// The keys that clients need; `null` when nobody is asked for one.
    #[serde(default)]
    pub keys: Option<KeysStatus>,
    /// The canary's share of the requests now.
    pub weight: u8,
    /// The share that is routed to it: less while a part of the traffic is held back on stable.
    #[serde(default)]
    pub routed: u8,
    /// The canary's real share of the latest requests, 0 to 1.
    #[serde(default)]
    pub share: f64,
    /// Number of the latest requests that `share` is about, at most 1,000.
    #[serde(default)]
    pub share_of: usize,
    /// Requests since the start that were routed on their own, because their session or conversation was more than
    /// 5 % of the traffic.
    #[serde(default)]
    pub drawn: u64,
    /// The share that the rollout wants, where that is another: it waits for the ledger, or for the canary to
    /// be loaded again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub weight_wanted: Option<u8>,
    /// What stands out: what waits, and what was refused at the start.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub remarks: Vec<String>,
    /// What the canary can do less than stable, one line each; it was allowed at its load.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub less: Vec<String>,
    /// What shapes replies and is not the same on both, one line each: sampling defaults, ends, context, vocabulary.
    #[serde(default)]
    pub differences: Vec<String>,
    /// Weights that the policy plans, in percent.
    pub steps: Vec<u8>,
    /// Place of the present weight in `steps`.
    pub step: Option<usize>,
    /// Number of the present stage; it grows with every change of weight.
    pub stage: u64,
    /// Seconds at this weight; in a terminal phase, seconds since the rollout ended; 0 when idle.
    pub stage_age_s: f64,
    /// Seconds that a stage must last before its gates can pass.
    pub bake_s: f64,
    /// Whether an operator ordered promotion as soon as the present stage's gates pass.
    pub promotion_ordered: bool,
    /// Seconds since the server started.
    pub uptime_s: f64,
    /// Resident set of the server's process in bytes; 0 where the system does not tell.
    pub resident_bytes: u64,
    /// Bytes of main memory that are left to this process; 0 where the system does not tell.
    #[serde(default)]
    pub available_bytes: u64,
    /// Path of the model that is being loaded.
    pub loading: Option<String>,
    /// Stable, then canary.
    pub arms: Vec<ArmStatus>,
    /// Stable's frozen figures, which the canary is held against at 100 %.
    pub reference: Option<ArmFigures>,
    /// `pass`, `fail` or `inconclusive`.
    pub overall: String,
    /// One entry per gate, in a fixed order; in a terminal phase, those of the last decision. Empty while
    /// there is nothing to judge.
    pub gates: Vec<GateStatus>,
    /// What today's traffic lets one see, and when; `null` unless a rollout runs.
    pub forecast: Option<ForecastStatus>,
    /// What copied requests have shown; `null` when none are copied.
    pub shadow: Option<ShadowStatus>,
    /// How reading went; `null` when nothing is read.
    #[serde(default)]
    pub cross_read: Option<CrossReadStatus>,
    /// The oldest requests that are being answered, at most 64.
    #[serde(default)]
    pub in_flight: Vec<InFlightStatus>,
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
    /// The ledger's file.
    pub path: String,
    /// Why it is not being written, if it is not.
    pub failing: Option<String>,
}

/// The device's state; `null` is what it does not tell.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct DeviceStatus {
    /// Bytes, all programs counted.
    pub memory_used: Option<u64>,
    /// Bytes that the device has.
    pub memory_total: Option<u64>,
    /// 0 to 1.
    pub utilisation: Option<f64>,
    /// Power draw in watts.
    pub power_watts: Option<f64>,
    /// Temperature in degrees Celsius.
    pub temperature_celsius: Option<u32>,
    /// Present clock of the multiprocessors in MHz.
    pub sm_clock_mhz: Option<u32>,
    /// Present clock of the device's memory in MHz.
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
    /// Copies that the canary has answered, since the server started.
    pub pairs: u64,
    /// Times that a copy was cut off because a real request came; one copy may be cut off several times.
    pub preempted: u64,
    /// Copies given up: the queue was full, or they were cut off too often.
    pub dropped: u64,
    /// Copies that the canary refused or failed to answer.
    pub failed: u64,
    /// Median ratio of the times to first token; `None` before the first pair.
    pub ttft_ratio: Option<f64>,
    /// Median ratio of the times per token after the first; `None` without a pair of two tokens or more each.
    pub tpot_ratio: Option<f64>,
    /// Median ratio of the replies' lengths in tokens; `None` before the first pair.
    pub length_ratio: Option<f64>,
    /// Share of pairs with the very same tokens, 0 to 1.
    pub identical: Option<f64>,
    /// Median place of the first token that differs.
    pub divergence: Option<f64>,
    /// Mean log-probability of stable's tokens to the canary, nats per token.
    pub log_probability: Option<f64>,
}

/// Replies that both models have read while the device was idle.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct CrossReadStatus {
    /// Replies chosen to be read, since the server started.
    pub sampled: u64,
    /// Of these, read by both.
    pub read: u64,
    /// Times that a reading was cut off because a real request came; one reply may be cut off several times.
    pub preempted: u64,
    /// Given up: too many were waiting, they were cut off too often, or the canary was gone.
    pub dropped: u64,
    /// Longer than the KV blocks that are kept free for reading, or than a model's context.
    pub too_long: u64,
    /// A model refused or failed to read.
    pub failed: u64,
    /// Time that reading took, in seconds.
    pub seconds: f64,
    /// The latest difference between the prompts that the models were given for one request.
    pub difference: Option<String>,
}

/// A gate that waits.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct GateWait {
    /// Its name.
    pub gate: String,
    /// `null`: never, at today's traffic.
    pub seconds: Option<f64>,
}

/// One arm: what is loaded there and how it does.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ArmStatus {
    /// `stable` or `canary`.
    pub arm: String,
    /// Whether a version is in service on this arm; if not, its fields up to `max_model_len` and `lane`
    /// are `None`.
    pub loaded: bool,
    /// Name of the model's folder or file.
    pub version: Option<String>,
    /// Identifies its content: a digest of every file that it was read from.
    pub digest: Option<String>,
    /// Folder or file that the model was loaded from.
    pub path: Option<String>,
    /// Longest sequence that the arm serves, prompt and reply together, in tokens.
    pub max_model_len: Option<usize>,
    /// What was counted and measured on this arm.
    pub figures: ArmFigures,
    /// All of its latest requests, judged or not; `None` without a version.
    #[serde(default)]
    pub traffic: Option<TrafficStatus>,
    /// The lane that runs the model.
    pub lane: Option<LaneStatus>,
}

/// What a version did lately, as its clients saw it. Times and rates are those of the latest requests, counts those
/// since it was loaded.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct TrafficStatus {
    /// Seconds that times and rates cover: 60, or fewer while more than 4,096 requests end in a minute.
    pub window_s: f64,
    /// Requests that ended in the window.
    pub requests: u64,
    /// The same per second.
    pub requests_per_second: f64,
    /// Output tokens of these requests per second.
    pub tokens_per_second: f64,
    /// Median time from arrival to the first token; `None` without samples.
    pub ttft_p50_ms: Option<f64>,
    /// 99th percentile of the same.
    pub ttft_p99_ms: Option<f64>,
    /// Median of the requests' mean time per token after the first; `None` without samples.
    pub tpot_p50_ms: Option<f64>,
    /// 99th percentile of the same.
    pub tpot_p99_ms: Option<f64>,
    /// Requests by class: `ok`, `model_error`, `timeout`, `client_cancel`, `rejected`, `invalid_request`.
    pub classes: BTreeMap<String, u64>,
    /// Replies by finish reason: `stop` or `length`.
    pub finish_reasons: BTreeMap<String, u64>,
}

/// A request that is being answered.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct InFlightStatus {
    /// Its id.
    pub id: String,
    /// `stable` or `canary`.
    pub arm: String,
    /// Since it arrived.
    pub seconds: f64,
    /// Tokens of its prompt.
    pub prompt_tokens: u64,
    /// Tokens that were generated for it, over all of its replies.
    pub output_tokens: u64,
}

/// An arm's figures in the present stage, or in the last one.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ArmFigures {
    /// Judged requests.
    pub requests: u64,
    /// Judged requests that ended in an error of the model or exceeded a deadline of the server.
    pub errors: u64,
    /// Errors by judged requests, 0 to 1; `None` without requests.
    pub error_rate: Option<f64>,
    /// Judged requests whose client disconnected; in no rate.
    pub cancels: u64,
    /// Judged requests refused because the server was full or not ready; in no rate.
    pub rejected: u64,
    /// Judged requests that were invalid in themselves; in no rate.
    pub invalid: u64,
    /// Left out of the judgement, for whatever reason.
    pub excluded: u64,
    /// Of these, requests of an API key that makes too large a part of the sample.
    pub over_share: u64,
    /// Replies that a user had regenerated.
    pub retries: u64,
    /// Median device time to the first token, without queueing; `None` without samples.
    pub ttft_p50_ms: Option<f64>,
    /// 99th percentile of the same.
    pub ttft_p99_ms: Option<f64>,
    /// Median device time per token after the first, without queueing; `None` without samples.
    pub tpot_p50_ms: Option<f64>,
    /// 99th percentile of the same.
    pub tpot_p99_ms: Option<f64>,
    /// Median over requests.
    pub tokens_per_second: Option<f64>,
    /// Mean length of successful replies in tokens; `None` without any.
    pub mean_output_tokens: Option<f64>,
    /// Votes in favour of this arm's replies.
    pub feedback_up: u64,
    /// Votes against this arm's replies.
    pub feedback_down: u64,
    /// Judged requests over the whole rollout.
    pub total_requests: u64,
    /// Those of them that ended in an error, over the whole rollout.
    pub total_errors: u64,
}

/// What an arm's lane in the engine is doing.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LaneStatus {
    /// What runs the model, where that is not serin's own decoder: `compatibility: 4 slots, no prefix cache`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kind: Option<String>,
    /// Its counts and its memory.
    #[serde(flatten)]
    pub figures: LaneFigures,
}

/// One gate.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct GateStatus {
    /// Short name from a fixed set, such as `errors` or `ttft`.
    pub name: String,
    /// `pass`, `fail`, `inconclusive` or `not_judged`.
    pub state: String,
    /// The figure judged: seconds for `bake`, a count for `requests`, else the canary's over stable's.
    /// `None` when it cannot be formed or is infinite.
    pub value: Option<f64>,
    /// The limit that `value` is held against, in the same unit.
    pub threshold: Option<f64>,
    /// E-value; held against 1/alpha.
    pub evidence: Option<f64>,
    /// What the data do not speak against.
    pub interval: Option<(f64, f64)>,
    /// Stable's, the canary's.
    pub samples: (u64, u64),
    /// What it judges, in a few words.
    #[serde(default)]
    pub title: String,
    /// A few words for people: the figure and what it is held against.
    #[serde(default)]
    pub brief: String,
    /// One line for people, with all figures and their units.
    pub text: String,
}

/// One decision.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct DecisionStatus {
    /// Since the server started.
    pub at_s: f64,
    /// Short name from a fixed set, such as `raised` or `rolled_back`.
    pub kind: String,
    /// The weight after it.
    pub weight: u8,
    /// A few words for people.
    #[serde(default)]
    pub brief: String,
    /// One line for people, with all figures.
    pub text: String,
    /// Requests of the step that counted: stable's, the canary's.
    #[serde(default)]
    pub requests: (u64, u64),
    /// Of these, errors.
    #[serde(default)]
    pub errors: (u64, u64),
    /// The p99 of TTFT, the canary's over stable's; `None` if it was not compared.
    #[serde(default)]
    pub ttft_ratio: Option<f64>,
    /// The p99 of the time per token after the first, the canary's over stable's.
    #[serde(default)]
    pub tpot_ratio: Option<f64>,
}

/// One finished unload.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Unload {
    /// Version that was unloaded.
    pub version: String,
    /// Why it left, in a word or two, such as `replaced` or `rolled back`.
    pub reason: String,
    /// The memory that it gave back.
    #[serde(flatten)]
    pub report: UnloadReport,
    /// From the decision that it should go to its memory being back, in milliseconds.
    pub since_decision_ms: f64,
}
