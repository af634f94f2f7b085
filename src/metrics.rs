//! Every metric: name, unit, help text, buckets, and the one function that records it.
//!
//! Names and labels follow vLLM's where vLLM has the same metric, so that existing dashboards work; `arm` and
//! `version` are always added. serin's own metrics begin with `serin_`. Label values come from bounded sets.
//! This file knows only plain figures.

use crate::engine::{LaneStats, Timings, UnloadReport};
use crate::rollout::{Arm, Flags};
use metrics::{counter, describe_counter, describe_gauge, describe_histogram, gauge, histogram};
use metrics_exporter_prometheus::{BuildError, Matcher, PrometheusBuilder, PrometheusHandle};
use serin_kernels::cuda::Readings;
use std::sync::OnceLock;
use std::sync::atomic::Ordering;
use std::time::Duration;

const TTFT: &str = "vllm:time_to_first_token_seconds";
const TPOT: &str = "vllm:time_per_output_token_seconds";
const ITL: &str = "vllm:inter_token_latency_seconds";
const E2E: &str = "vllm:e2e_request_latency_seconds";
const QUEUE: &str = "vllm:request_queue_time_seconds";
const PREFILL: &str = "vllm:request_prefill_time_seconds";
const DECODE: &str = "vllm:request_decode_time_seconds";
const PROMPT_TOKENS: &str = "vllm:prompt_tokens_total";
const OUTPUT_TOKENS: &str = "vllm:generation_tokens_total";
const RUNNING: &str = "vllm:num_requests_running";
const WAITING: &str = "vllm:num_requests_waiting";
const KV_USAGE: &str = "vllm:kv_cache_usage_perc";
const PREEMPTIONS: &str = "vllm:num_preemptions_total";
const PREFIX_LOOKUPS: &str = "vllm:prefix_cache_queries_total";
const PREFIX_HITS: &str = "vllm:prefix_cache_hits_total";
const KV_CACHED: &str = "serin_kv_blocks_cached";
const KV_EVICTIONS: &str = "serin_kv_evictions_total";
const REQUESTS: &str = "serin_requests_total";
const RESCUED: &str = "serin_rescued_total";
const CROSS_READ: &str = "serin_cross_read_replies_total";
const REPLY_FLAGS: &str = "serin_reply_flags_total";
const FEEDBACK: &str = "serin_feedback_total";
const RETRIES: &str = "serin_retries_total";
const DECISIONS: &str = "serin_rollout_decisions_total";
const WEIGHT: &str = "serin_canary_weight";
const ROUTED: &str = "serin_canary_routed";
const SHARE: &str = "serin_canary_share";
const GATE: &str = "serin_rollout_gate";
const GATE_VALUE: &str = "serin_rollout_gate_value";
const EVIDENCE: &str = "serin_rollout_evidence";
const DETECTABLE_RATIO: &str = "serin_rollout_detectable_error_ratio";
const DETECTABLE_SHARE: &str = "serin_rollout_detectable_exceedance";
const UNTIL: &str = "serin_rollout_gate_decides_in_seconds";
const LEDGER_FAILING: &str = "serin_ledger_failing";
const ALERTS: &str = "serin_alerts";
const ARENA_USED: &str = "serin_arena_used_bytes";
const ARENA_RESERVED: &str = "serin_arena_reserved_bytes";
const CARD_USED: &str = "serin_card_pool_used_bytes";
const CARD_RESERVED: &str = "serin_card_pool_reserved_bytes";
const RESIDENT: &str = "serin_resident_bytes";
const DEVICE_USED: &str = "serin_device_memory_used_bytes";
const DEVICE_FREE: &str = "serin_device_memory_free_bytes";
const DEVICE_BUSY: &str = "serin_device_utilisation";
const DEVICE_POWER: &str = "serin_device_power_watts";
const DEVICE_HEAT: &str = "serin_device_temperature_celsius";
const DEVICE_CLOCK: &str = "serin_device_clock_hertz";
const DEVICE_THROTTLED: &str = "serin_device_throttled";
const STEPS: &str = "serin_steps_total";
const STEP_SECONDS: &str = "serin_step_seconds_total";
const UNLOAD_SECONDS: &str = "serin_unload_seconds";
const LEAKED: &str = "serin_unload_leaked_bytes_total";
const LOG_DROPPED: &str = "serin_log_lines_dropped_total";
const TURNED_AWAY: &str = "serin_connections_closed_total";

/// Seconds. vLLM's buckets for whole requests and their phases.
const REQUEST_BUCKETS: [f64; 20] = [
    0.3, 0.5, 0.8, 1.0, 1.5, 2.0, 2.5, 5.0, 10.0, 15.0, 20.0, 30.0, 40.0, 50.0, 60.0, 120.0, 240.0,
    480.0, 960.0, 1920.0,
];
/// Seconds. vLLM's buckets for TTFT.
const TTFT_BUCKETS: [f64; 22] = [
    0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0,
    20.0, 40.0, 80.0, 160.0, 640.0, 2560.0,
];
/// Seconds. vLLM's buckets for time per token, finer below 10 ms.
const TOKEN_BUCKETS: [f64; 24] = [
    0.001, 0.002, 0.003, 0.004, 0.005, 0.006, 0.008, 0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3,
    0.4, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0, 20.0,
];

/// Installs the process's recorder (once) and returns the handle that renders it.
pub fn install() -> Result<PrometheusHandle, BuildError> {
    static HANDLE: OnceLock<PrometheusHandle> = OnceLock::new();
    if let Some(handle) = HANDLE.get() {
        return Ok(handle.clone());
    }
    let mut builder = PrometheusBuilder::new();
    let finer = [(TTFT, &TTFT_BUCKETS[..]), (TPOT, &TOKEN_BUCKETS), (ITL, &TOKEN_BUCKETS)];
    let coarse = [E2E, QUEUE, PREFILL, DECODE, UNLOAD_SECONDS].map(|n| (n, &REQUEST_BUCKETS[..]));
    for (name, buckets) in finer.into_iter().chain(coarse) {
        builder = builder.set_buckets_for_metric(Matcher::Full(name.to_owned()), buckets)?;
    }
    let handle = builder.install_recorder()?;
    describe();
    Ok(HANDLE.get_or_init(|| handle).clone())
}

fn describe() {
    describe_histogram!(TTFT, "Time from arrival to the first token, in the generation loop.");
    describe_histogram!(TPOT, "Mean time per output token after the first, per request.");
    describe_histogram!(ITL, "Time between two output tokens, as the generation loop sees it.");
    describe_histogram!(E2E, "Time from arrival to the end of generation.");
    describe_histogram!(QUEUE, "Time from arrival to the first step.");
    describe_histogram!(PREFILL, "Time from the first step to the first token.");
    describe_histogram!(DECODE, "Time from the first to the last token.");
    describe_counter!(PROMPT_TOKENS, "Prompt tokens of answered requests.");
    describe_counter!(OUTPUT_TOKENS, "Tokens generated for answered requests.");
    describe_gauge!(RUNNING, "Sequences in the running batch.");
    describe_gauge!(WAITING, "Sequences waiting for admission.");
    describe_gauge!(KV_USAGE, "Share of KV blocks in use, 0 to 1.");
    describe_gauge!(PREEMPTIONS, "Preemptions since the model was loaded.");
    describe_gauge!(PREFIX_LOOKUPS, "Prompt tokens looked up in the prefix cache since the load.");
    describe_gauge!(PREFIX_HITS, "Prompt tokens found in the prefix cache since the load.");
    describe_gauge!(KV_CACHED, "KV blocks whose prefix can be reused, in use or not.");
    describe_gauge!(KV_EVICTIONS, "Cached KV blocks evicted since the model was loaded.");
    describe_counter!(REQUESTS, "Finished requests by outcome class.");
    describe_counter!(RESCUED, "Requests that the canary failed and stable answered.");
    describe_counter!(
        CROSS_READ,
        "Replies chosen to be read by both models, by what became of them."
    );
    describe_counter!(REPLY_FLAGS, "Requests with a flag, by flag, while a canary is loaded.");
    describe_counter!(FEEDBACK, "Votes on replies.");
    describe_counter!(RETRIES, "Replies that a user regenerated soon after.");
    describe_counter!(DECISIONS, "Decisions of the rollout by kind.");
    describe_gauge!(WEIGHT, "The canary's weight, 0 to 1.");
    describe_gauge!(ROUTED, "The share that is routed to the canary, 0 to 1.");
    describe_gauge!(SHARE, "The canary's real share of the latest 1,000 requests, 0 to 1.");
    describe_gauge!(GATE, "State of each gate: 1 pass, 0 inconclusive or not judged, -1 fail.");
    describe_gauge!(GATE_VALUE, "The value that each gate judges, if it has one.");
    describe_gauge!(EVIDENCE, "E-value of each gate that has one; compared with 1/alpha.");
    describe_gauge!(DETECTABLE_RATIO, "Smallest ratio of error rates that data so far can show.");
    describe_gauge!(DETECTABLE_SHARE, "Smallest share of slow replies that data so far can show.");
    describe_gauge!(UNTIL, "Expected time until each gate can decide; -1: never at this traffic.");
    describe_gauge!(LEDGER_FAILING, "1 while the ledger cannot be written.");
    describe_gauge!(ALERTS, "Alerts per webhook and result since the start.");
    describe_gauge!(ARENA_USED, "Bytes in live allocations of the model's arena.");
    describe_gauge!(ARENA_RESERVED, "Bytes that the model's arena has reserved from the system.");
    describe_gauge!(CARD_USED, "Bytes in live allocations of the model's memory pool on the GPU.");
    describe_gauge!(CARD_RESERVED, "Bytes that the model's memory pool has reserved on the GPU.");
    describe_gauge!(RESIDENT, "Resident set of the process.");
    describe_gauge!(DEVICE_USED, "Memory of the device in use, by all programs.");
    describe_gauge!(DEVICE_FREE, "Free memory of the device.");
    describe_gauge!(DEVICE_BUSY, "Share of recent time in which the device was busy, 0 to 1.");
    describe_gauge!(DEVICE_POWER, "Power that the device draws.");
    describe_gauge!(DEVICE_HEAT, "The device's temperature.");
    describe_gauge!(DEVICE_CLOCK, "The device's clocks.");
    describe_gauge!(DEVICE_THROTTLED, "1 while heat or a power limit slows the device down.");
    describe_histogram!(UNLOAD_SECONDS, "Time from an unload's start until its memory was freed.");
    describe_counter!(LEAKED, "Bytes that unloads could not free.");
    describe_gauge!(STEPS, "Steps of a model since it was loaded.");
    describe_gauge!(STEP_SECONDS, "Time that a model's steps took on the device.");
    describe_counter!(LOG_DROPPED, "Log lines dropped because standard error was not read.");
    describe_counter!(TURNED_AWAY, "Connections closed because the limit was reached, by reason.");
}

/// Log lines dropped since the start.
pub fn log_lines_dropped(count: u64) {
    counter!(LOG_DROPPED).absolute(count);
}

/// A connection was closed because the limit was reached. `silent`: to make room for a new one; `full`: the
/// new connection itself.
pub fn connection_closed(reason: &'static str) {
    counter!(TURNED_AWAY, "reason" => reason).increment(1);
}

/// Labels of one arm's version.
#[derive(Debug, Clone, Copy)]
pub struct Who<'a> {
    /// The public model name.
    pub model: &'a str,
    /// The arm that the version serves as.
    pub arm: Arm,
    /// Version name, e.g. `tiny-v2`.
    pub version: &'a str,
}

impl Who<'_> {
    fn labels(&self) -> [(&'static str, String); 3] {
        [
            ("model_name", self.model.to_owned()),
            ("arm", self.arm.as_str().to_owned()),
            ("version", self.version.to_owned()),
        ]
    }
}

/// One finished request: its outcome class and, if it produced tokens, its timings.
pub fn request(who: Who<'_>, class: &'static str, timings: &Timings) {
    let mut labels = who.labels().to_vec();
    labels.push(("class", class.to_owned()));
    counter!(REQUESTS, &labels).increment(1);
    let labels = who.labels();
    let seconds = |name: &'static str, time: Duration| {
        histogram!(name, &labels).record(time.as_secs_f64());
    };
    let Some(first) = timings.first_token else { return };
    seconds(TTFT, first);
    seconds(E2E, timings.total);
    seconds(QUEUE, timings.queued);
    seconds(PREFILL, timings.prefill);
    seconds(DECODE, timings.decode);
    if let Some(per_token) = timings.per_token() {
        seconds(TPOT, per_token);
    }
    counter!(PROMPT_TOKENS, &labels).increment(timings.prompt_tokens as u64);
    counter!(OUTPUT_TOKENS, &labels).increment(timings.output_tokens as u64);
}

/// Records gaps between tokens, in seconds.
pub type TokenGaps = metrics::Histogram;

/// Recorder for gaps between tokens; created once per request.
pub fn token_gaps(who: Who<'_>) -> metrics::Histogram {
    histogram!(ITL, &who.labels())
}

/// `version`: the one that answered.
pub fn rescued(version: &str) {
    counter!(RESCUED, "version" => version.to_owned()).increment(1);
}

/// A reply that was chosen to be read by both models; `result`: `read`, `dropped`, `too_long` or `failed`.
pub fn cross_read(result: &'static str) {
    counter!(CROSS_READ, "result" => result).increment(1);
}

/// Counts each flag of one finished request.
pub fn reply_flags(who: Who<'_>, flags: Flags) {
    for flag in flags.iter() {
        let mut labels = who.labels().to_vec();
        labels.push(("flag", flag.as_str().to_owned()));
        counter!(REPLY_FLAGS, &labels).increment(1);
    }
}

/// Counts a vote on a reply of `arm`; `up`: the vote was above 0.
pub fn feedback(arm: Arm, up: bool) {
    counter!(FEEDBACK, "arm" => arm.as_str(), "vote" => if up { "up" } else { "down" })
        .increment(1);
}

/// Counts a reply of `arm` that a user regenerated soon after.
pub fn retry(arm: Arm) {
    counter!(RETRIES, "arm" => arm.as_str()).increment(1);
}

/// Counts a decision of the rollout; `kind` is its label.
pub fn decision(kind: &'static str) {
    counter!(DECISIONS, "kind" => kind).increment(1);
}

/// Records how long an unload took, and the bytes of arena and GPU pool that it could not free.
pub fn unloaded(report: &UnloadReport) {
    histogram!(UNLOAD_SECONDS).record(report.took.as_secs_f64());
    let on_card = report.card.map_or(0, |card| card.after.used);
    counter!(LEAKED).increment(report.after.used as u64 + on_card);
}

/// Gauges of one lane; called when metrics are scraped.
pub fn lane(who: Who<'_>, stats: &LaneStats) {
    let get = |gauge: &std::sync::atomic::AtomicU64| gauge.load(Ordering::Relaxed) as f64;
    let labels = who.labels();
    gauge!(RUNNING, &labels).set(get(&stats.running));
    gauge!(WAITING, &labels).set(get(&stats.waiting));
    gauge!(KV_USAGE, &labels).set(get(&stats.blocks_used) / get(&stats.blocks_total).max(1.0));
    gauge!(PREEMPTIONS, &labels).set(get(&stats.preemptions));
    gauge!(STEPS, &labels).set(get(&stats.steps));
    gauge!(STEP_SECONDS, &labels).set(get(&stats.step_micros) / 1e6);
    gauge!(PREFIX_LOOKUPS, &labels).set(get(&stats.prefix_lookup_tokens));
    gauge!(PREFIX_HITS, &labels).set(get(&stats.prefix_hit_tokens));
    gauge!(KV_CACHED, &labels).set(get(&stats.blocks_cached));
    gauge!(KV_EVICTIONS, &labels).set(get(&stats.blocks_evicted));
    gauge!(ARENA_USED, &labels).set(get(&stats.arena_used));
    gauge!(ARENA_RESERVED, &labels).set(get(&stats.arena_reserved));
    gauge!(CARD_USED, &labels).set(get(&stats.card_used));
    gauge!(CARD_RESERVED, &labels).set(get(&stats.card_reserved));
}

/// A lane that was unloaded: its gauges read zero from now on.
pub fn lane_gone(who: Who<'_>) {
    lane(who, &LaneStats::default());
}

/// One gate, as shown in gauges.
#[derive(Debug, Clone)]
pub struct GateGauge {
    /// Value of the label `gate`.
    pub name: String,
    /// 1 pass, 0 inconclusive or not judged, -1 fail.
    pub state: i8,
    /// What the gate judges, in its own unit; `None` if it has no value.
    pub value: Option<f64>,
    /// Its e-value, compared with 1/alpha; `None` for gates without one.
    pub evidence: Option<f64>,
    /// Seconds until it can decide, at the current traffic; none if it already can or never will.
    pub decides_in: Option<f64>,
}

/// The rollout's gauges.
#[derive(Debug, Clone, Default)]
pub struct RolloutGauges {
    /// 0 to 1.
    pub weight: f64,
    /// What is routed to the canary, 0 to 1.
    pub routed: f64,
    /// Its real share of the latest requests, 0 to 1.
    pub share: f64,
    /// The gates of the running rollout, else those of the last decision; empty before the first.
    pub gates: Vec<GateGauge>,
    /// Smallest ratio of error rates that the data so far can show; `None` above 100, or without a rollout.
    pub detectable_ratio: Option<f64>,
    /// Smallest share of slow replies, 0 to 1, that data so far can show; `None` if none, or no rollout.
    pub detectable_share: Option<f64>,
    /// Resident set of the process, in bytes.
    pub resident_bytes: u64,
    /// Whether there is a ledger that cannot be written.
    pub ledger_failing: bool,
}

/// Called when metrics are scraped. Unknown values read NaN, as is usual in Prometheus.
pub fn rollout(gauges: &RolloutGauges) {
    let or_nan = |value: Option<f64>| value.unwrap_or(f64::NAN);
    gauge!(WEIGHT).set(gauges.weight);
    gauge!(ROUTED).set(gauges.routed);
    gauge!(SHARE).set(gauges.share);
    gauge!(RESIDENT).set(gauges.resident_bytes as f64);
    gauge!(DETECTABLE_RATIO).set(or_nan(gauges.detectable_ratio));
    gauge!(DETECTABLE_SHARE).set(or_nan(gauges.detectable_share));
    gauge!(LEDGER_FAILING).set(f64::from(u8::from(gauges.ledger_failing)));
    for gate in &gauges.gates {
        gauge!(GATE, "gate" => gate.name.clone()).set(f64::from(gate.state));
        gauge!(GATE_VALUE, "gate" => gate.name.clone()).set(or_nan(gate.value));
        gauge!(EVIDENCE, "gate" => gate.name.clone()).set(or_nan(gate.evidence));
        gauge!(UNTIL, "gate" => gate.name.clone()).set(or_nan(gate.decides_in));
    }
}

/// The device's own readings. Called when metrics are scraped; missing readings read NaN.
pub fn device(readings: &Readings) {
    let set = |name: &'static str, value: Option<f64>| gauge!(name).set(value.unwrap_or(f64::NAN));
    let memory = readings.memory;
    set(DEVICE_USED, memory.map(|memory| memory.used as f64));
    set(DEVICE_FREE, memory.map(|memory| memory.free as f64));
    set(DEVICE_BUSY, readings.utilisation.map(|percent| f64::from(percent) / 100.0));
    set(DEVICE_POWER, readings.power_watts);
    set(DEVICE_HEAT, readings.temperature_celsius.map(f64::from));
    set(DEVICE_THROTTLED, Some(f64::from(u8::from(readings.throttled.is_some()))));
    for (clock, mhz) in [("sm", readings.sm_clock_mhz), ("memory", readings.memory_clock_mhz)] {
        let hertz = mhz.map_or(f64::NAN, |mhz| f64::from(mhz) * 1e6);
        gauge!(DEVICE_CLOCK, "clock" => clock).set(hertz);
    }
}

/// What has happened to a webhook's alerts since the start.
pub fn alerts(webhook: &str, fates: &[(&'static str, u64)]) {
    for (fate, count) in fates {
        gauge!(ALERTS, "webhook" => webhook.to_owned(), "fate" => *fate).set(*count as f64);
    }
}
