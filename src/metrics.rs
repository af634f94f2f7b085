//! Every metric: name, unit, help text, buckets, and the one function that records it.
//!
//! Names and labels follow vLLM's where vLLM has the same metric, so that existing dashboards work; `arm` and
//! `version` are always added. serin's own metrics begin with `serin_`. Label values come from bounded sets. Each
//! series of such a set exists with the value 0 before anything is counted; otherwise `rate()` would miss the first
//! event. This file handles only plain numbers. `docs/metrics.md` lists [`TABLE`], which a test compares.

mod expiry;
#[cfg(test)]
mod tests;

pub use expiry::Expiry;

use crate::engine::{LaneFigures, LaneStats, Timings, UnloadReport};
use crate::rollout::{Arm, Class, DecisionKind, Flag, Flags};
use metrics::{counter, describe_counter, describe_gauge, describe_histogram, gauge, histogram};
use metrics_exporter_prometheus::{BuildError, Matcher, PrometheusBuilder, PrometheusHandle};
use serin_kernels::cuda::Readings;
use std::sync::OnceLock;
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
const FINISHED: &str = "vllm:request_success_total";
const PREEMPTIONS: &str = "vllm:num_preemptions_total";
const PREFIX_LOOKUPS: &str = "vllm:prefix_cache_queries_total";
const PREFIX_HITS: &str = "vllm:prefix_cache_hits_total";
const COMPAT_SLOTS: &str = "serin_compat_slots";
const KV_CACHED: &str = "serin_kv_blocks_cached";
const KV_EVICTIONS: &str = "serin_kv_evictions_total";
const REQUESTS: &str = "serin_requests_total";
const RESCUED: &str = "serin_rescued_total";
const CROSS_READ: &str = "serin_cross_read_replies_total";
const REPLY_FLAGS: &str = "serin_reply_flags_total";
const FEEDBACK: &str = "serin_feedback_total";
const RETRIES: &str = "serin_retries_total";
const DECISIONS: &str = "serin_rollout_decisions_total";
const WEIGHT: &str = "serin_canary_weight_ratio";
const ROUTED: &str = "serin_canary_routed_ratio";
const SHARE: &str = "serin_canary_share_ratio";
const GATE: &str = "serin_rollout_gate";
const GATE_VALUE: &str = "serin_rollout_gate_value";
const GATE_LIMIT: &str = "serin_rollout_gate_limit";
const EVIDENCE: &str = "serin_rollout_evidence";
const EVIDENCE_LIMIT: &str = "serin_rollout_evidence_limit";
const PHASE: &str = "serin_rollout_phase";
const DETECTABLE_RATIO: &str = "serin_rollout_detectable_error_ratio";
const DETECTABLE_SHARE: &str = "serin_rollout_detectable_exceedance";
const UNTIL: &str = "serin_rollout_gate_decides_in_seconds";
const LEDGER_FAILING: &str = "serin_ledger_failing";
const ALERTS: &str = "serin_alerts_total";
const ALERTS_WAITING: &str = "serin_alerts_waiting";
const BUILD: &str = "serin_build_info";
const UPTIME: &str = "serin_uptime_seconds";
const ARENA_USED: &str = "serin_arena_used_bytes";
const ARENA_RESERVED: &str = "serin_arena_reserved_bytes";
const CARD_USED: &str = "serin_card_pool_used_bytes";
const CARD_RESERVED: &str = "serin_card_pool_reserved_bytes";
const RESIDENT: &str = "serin_resident_bytes";
const DEVICE_USED: &str = "serin_device_memory_used_bytes";
const DEVICE_FREE: &str = "serin_device_memory_free_bytes";
const DEVICE_BUSY: &str = "serin_device_utilisation_ratio";
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
const PROMPTS_RECORDED: &str = "serin_recorded_prompts_total";

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

/// Installs the process's recorder (once) and returns the handle that renders it. Fails if another recorder is
/// installed.
pub fn install() -> Result<PrometheusHandle, BuildError> {
    static HANDLE: OnceLock<PrometheusHandle> = OnceLock::new();
    if let Some(handle) = HANDLE.get() {
        return Ok(handle.clone());
    }
    let handle = builder()?.install_recorder()?;
    describe();
    begin_process();
    Ok(HANDLE.get_or_init(|| handle).clone())
}

fn builder() -> Result<PrometheusBuilder, BuildError> {
    let mut builder = PrometheusBuilder::new();
    let finer = [(TTFT, &TTFT_BUCKETS[..]), (TPOT, &TOKEN_BUCKETS), (ITL, &TOKEN_BUCKETS)];
    let coarse = [E2E, QUEUE, PREFILL, DECODE, UNLOAD_SECONDS].map(|n| (n, &REQUEST_BUCKETS[..]));
    for (name, buckets) in finer.into_iter().chain(coarse) {
        builder = builder.set_buckets_for_metric(Matcher::Full(name.to_owned()), buckets)?;
    }
    Ok(builder)
}

/// Every series in Prometheus' text format. The recorder's counters are whole numbers, so the one counter of seconds is
/// kept as a gauge, and its type is corrected here.
pub fn render(handle: &PrometheusHandle) -> String {
    let kept = format!("# TYPE {STEP_SECONDS} gauge\n");
    handle.render().replacen(&kept, &format!("# TYPE {STEP_SECONDS} counter\n"), 1)
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Counter,
    Gauge,
    Histogram,
}

use Kind::{Counter, Gauge, Histogram};

/// Name, kind, labels and help text of one metric.
type Row = (&'static str, Kind, &'static [&'static str], &'static str);

/// The labels of one arm's version.
const ARM: &[&str] = &["model_name", "arm", "version"];
const ARM_CLASS: &[&str] = &["model_name", "arm", "version", "class"];
const ARM_FLAG: &[&str] = &["model_name", "arm", "version", "flag"];
const ARM_REASON: &[&str] = &["model_name", "arm", "version", "finished_reason"];
const PER_GATE: &[&str] = &["gate"];
const NONE: &[&str] = &[];

#[rustfmt::skip]
const TABLE: &[Row] = &[
    (TTFT, Histogram, ARM, "Time from arrival to the first token, in the generation loop."),
    (TPOT, Histogram, ARM, "Mean time per output token after the first, per request."),
    (ITL, Histogram, ARM, "Time between two output tokens, as the generation loop sees it."),
    (E2E, Histogram, ARM, "Time from arrival to the end of generation."),
    (QUEUE, Histogram, ARM, "Time from arrival to the first step."),
    (PREFILL, Histogram, ARM, "Time from the first step to the first token."),
    (DECODE, Histogram, ARM, "Time from the first to the last token."),
    (PROMPT_TOKENS, Counter, ARM, "Prompt tokens of answered requests."),
    (OUTPUT_TOKENS, Counter, ARM, "Tokens generated for answered requests."),
    (FINISHED, Counter, ARM_REASON, "Answered requests by the finish reason of their first reply: stop or length."),
    (RUNNING, Gauge, ARM, "Sequences in the running batch."),
    (WAITING, Gauge, ARM, "Sequences waiting for admission."),
    (KV_USAGE, Gauge, ARM, "Share of KV blocks in use, 0 to 1."),
    (COMPAT_SLOTS, Gauge, ARM, "Sequences that a model in the compatibility lane, which is slow, runs at a time; 0 for all other models."),
    (PREEMPTIONS, Counter, ARM, "Times that a running sequence lost its KV blocks to others."),
    (PREFIX_LOOKUPS, Counter, ARM, "Prompt tokens looked up in the prefix cache."),
    (PREFIX_HITS, Counter, ARM, "Prompt tokens found in the prefix cache."),
    (KV_CACHED, Gauge, ARM, "KV blocks whose prefix can be reused, in use or not."),
    (KV_EVICTIONS, Counter, ARM, "Cached KV blocks evicted."),
    (STEPS, Counter, ARM, "Steps that the model has run."),
    (STEP_SECONDS, Counter, ARM, "Time that a model's steps took on the device."),
    (REQUESTS, Counter, ARM_CLASS, "Finished requests by outcome class."),
    (RESCUED, Counter, ARM, "Requests that the canary failed and this version answered."),
    (REPLY_FLAGS, Counter, ARM_FLAG, "Requests with a flag, by flag, while a canary is loaded."),
    (CROSS_READ, Counter, &["result"], "Replies chosen to be read by both models, by result."),
    (FEEDBACK, Counter, &["arm", "vote"], "Votes on replies."),
    (RETRIES, Counter, &["arm"], "Replies that a user regenerated soon after."),
    (DECISIONS, Counter, &["kind"], "Decisions of the rollout by kind."),
    (PHASE, Gauge, &["phase"], "1 for the phase that the rollout is in, 0 for the others."),
    (WEIGHT, Gauge, NONE, "The canary's weight, 0 to 1."),
    (ROUTED, Gauge, NONE, "The share of requests that is routed to the canary, 0 to 1."),
    (SHARE, Gauge, NONE, "The canary's real share of the latest 1,000 requests, 0 to 1."),
    (GATE, Gauge, PER_GATE, "State of each gate: 1 pass, 0 inconclusive or not judged, -1 fail."),
    (GATE_VALUE, Gauge, PER_GATE, "The value that each gate judges, in the gate's unit; NaN if there is none."),
    (GATE_LIMIT, Gauge, PER_GATE, "The limit of that value, in the same unit; NaN if there is none."),
    (EVIDENCE, Gauge, PER_GATE, "E-value of each gate that has one; else NaN."),
    (EVIDENCE_LIMIT, Gauge, PER_GATE, "The e-value at which a gate acts: 1/alpha, or more where gates share alpha; NaN if it has none."),
    (DETECTABLE_RATIO, Gauge, NONE, "Smallest ratio of error rates that data so far can show."),
    (DETECTABLE_SHARE, Gauge, NONE, "Smallest share of slow replies that data so far can show."),
    (UNTIL, Gauge, PER_GATE, "Expected time until each gate can decide; -1: never at this traffic."),
    (LEDGER_FAILING, Gauge, NONE, "1 while the ledger cannot be written."),
    (ALERTS, Counter, &["webhook", "fate"], "Alerts per webhook and result: sent, retried, failed or dropped."),
    (ALERTS_WAITING, Gauge, &["webhook"], "Alerts that are still to be sent to a webhook."),
    (ARENA_USED, Gauge, ARM, "Bytes in live allocations of the model's arena."),
    (ARENA_RESERVED, Gauge, ARM, "Bytes that the model's arena has reserved from the system."),
    (CARD_USED, Gauge, ARM, "Bytes in live allocations of the model's memory pool on the GPU; 0 without one."),
    (CARD_RESERVED, Gauge, ARM, "Bytes that the model's memory pool has reserved on the GPU; 0 without one."),
    (RESIDENT, Gauge, NONE, "Resident set of the process."),
    (DEVICE_USED, Gauge, NONE, "Memory of the GPU in use, by all programs."),
    (DEVICE_FREE, Gauge, NONE, "Free memory of the GPU."),
    (DEVICE_BUSY, Gauge, NONE, "Share of recent time in which the GPU was busy, 0 to 1."),
    (DEVICE_POWER, Gauge, NONE, "Power that the GPU draws."),
    (DEVICE_HEAT, Gauge, NONE, "The GPU's temperature."),
    (DEVICE_CLOCK, Gauge, &["clock"], "The GPU's clocks: sm and memory."),
    (DEVICE_THROTTLED, Gauge, NONE, "1 while heat or a power limit slows the GPU down."),
    (UNLOAD_SECONDS, Histogram, NONE, "Time from an unload's start until its memory was freed."),
    (LEAKED, Counter, NONE, "Bytes that unloads could not free."),
    (LOG_DROPPED, Counter, NONE, "Log lines dropped because standard error was not read."),
    (TURNED_AWAY, Counter, &["reason"], "Connections closed because the limit was reached, by reason."),
    (PROMPTS_RECORDED, Counter, &["result"], "Prompts recorded with their client's consent: written, or dropped because the file or the queue was full."),
    (UPTIME, Gauge, NONE, "Time since the process started."),
    (BUILD, Gauge, &["version", "arch", "cuda"], "Always 1; the labels describe the build: version, processor architecture, with CUDA or not."),
];

fn describe() {
    for (name, kind, _, help) in TABLE {
        match kind {
            Counter => describe_counter!(*name, *help),
            Gauge => describe_gauge!(*name, *help),
            Histogram => describe_histogram!(*name, *help),
        }
    }
}

/// Ends of replies and other label values that no type lists.
const FINISH_REASONS: [&str; 2] = ["stop", "length"];
const READ_RESULTS: [&str; 4] = ["read", "dropped", "too_long", "failed"];
const RECORD_RESULTS: [&str; 2] = ["written", "dropped"];
const CLOSED_REASONS: [&str; 3] = ["silent", "full", "late"];
const PHASES: [&str; 6] = ["idle", "running", "paused", "rolled_back", "promoted", "self_tested"];

/// Series that exist from the start, with 0.
fn begin_process() {
    for arm in ["stable", "canary"] {
        counter!(RETRIES, "arm" => arm).increment(0);
        for vote in ["up", "down"] {
            counter!(FEEDBACK, "arm" => arm, "vote" => vote).increment(0);
        }
    }
    for kind in DecisionKind::NAMES {
        counter!(DECISIONS, "kind" => kind).increment(0);
    }
    for result in READ_RESULTS {
        counter!(CROSS_READ, "result" => result).increment(0);
    }
    for result in RECORD_RESULTS {
        counter!(PROMPTS_RECORDED, "result" => result).increment(0);
    }
    for reason in CLOSED_REASONS {
        counter!(TURNED_AWAY, "reason" => reason).increment(0);
    }
    counter!(LEAKED).increment(0);
    counter!(LOG_DROPPED).increment(0);
    // A histogram without samples is shown as soon as it is registered.
    let _ = histogram!(UNLOAD_SECONDS);
    let cuda = if cfg!(feature = "cuda") { "yes" } else { "no" };
    let labels =
        [("version", env!("CARGO_PKG_VERSION")), ("arch", std::env::consts::ARCH), ("cuda", cuda)];
    gauge!(BUILD, &labels).set(1.0);
}

/// The series of a version that serves, with 0 where nothing has been counted yet.
pub fn serving(who: Who<'_>) {
    let labels = who.labels();
    let with = |name: &'static str, label: &'static str, value: &'static str| {
        let mut labels = labels.to_vec();
        labels.push((label, value.to_owned()));
        counter!(name, &labels).increment(0);
    };
    Class::ALL.iter().for_each(|class| with(REQUESTS, "class", class.as_str()));
    Flag::ALL.iter().for_each(|flag| with(REPLY_FLAGS, "flag", flag.as_str()));
    FINISH_REASONS.iter().for_each(|reason| with(FINISHED, "finished_reason", reason));
    for name in [PROMPT_TOKENS, OUTPUT_TOKENS, RESCUED] {
        counter!(name, &labels).increment(0);
    }
    for name in [TTFT, TPOT, ITL, E2E, QUEUE, PREFILL, DECODE] {
        let _ = histogram!(name, &labels);
    }
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

/// A prompt with consent was `written`, or `dropped`.
pub fn prompt_recorded(result: &'static str) {
    counter!(PROMPTS_RECORDED, "result" => result).increment(1);
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

/// A request that the canary had failed was answered; `who`: by whom.
pub fn rescued(who: Who<'_>) {
    counter!(RESCUED, &who.labels()).increment(1);
}

/// A request was answered; `reason`: why its first reply ended, as in the API.
pub fn finished(who: Who<'_>, reason: &'static str) {
    let mut labels = who.labels().to_vec();
    labels.push(("finished_reason", reason.to_owned()));
    counter!(FINISHED, &labels).increment(1);
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
    histogram!(UNLOAD_SECONDS).record(report.took_ms / 1e3);
    let on_card = report.card.map_or(0, |card| card.used_after);
    counter!(LEAKED).increment(report.used_after + on_card);
}

/// A counter's name, and where a lane counts it.
type Counted = (&'static str, fn(&LaneFigures) -> u64);

/// A lane's counters. The time of its steps is last, in microseconds.
const COUNTED: [Counted; 6] = [
    (PREEMPTIONS, |now| now.preemptions),
    (PREFIX_LOOKUPS, |now| now.prefix_lookup_tokens),
    (PREFIX_HITS, |now| now.prefix_hit_tokens),
    (KV_EVICTIONS, |now| now.blocks_evicted),
    (STEPS, |now| now.steps),
    (STEP_SECONDS, |now| now.step_micros),
];

/// What a lane has counted since its model was loaded; in the order of [`COUNTED`].
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Totals([u64; COUNTED.len()]);

impl Totals {
    /// What the lane has counted up to now.
    pub fn of(stats: &LaneStats) -> Totals {
        let now = stats.read();
        Totals(COUNTED.map(|(_, count)| count(&now)))
    }

    /// Both together: a version that was loaded twice.
    pub fn plus(self, other: Totals) -> Totals {
        Totals(std::array::from_fn(|at| self.0[at] + other.0[at]))
    }
}

/// One lane; called when metrics are scraped. `earlier`: what this version counted on this arm before its present load.
pub fn lane(who: Who<'_>, stats: &LaneStats, earlier: Totals) {
    let labels = who.labels();
    let Totals([counts @ .., step_micros]) = earlier.plus(Totals::of(stats));
    for ((name, _), count) in COUNTED.iter().zip(counts) {
        counter!(*name, &labels).absolute(count);
    }
    gauge!(STEP_SECONDS, &labels).set(step_micros as f64 / 1e6);
    lane_gauges(who, &stats.read());
}

/// A version that no longer serves on this arm: its gauges read zero from now on, its counters stay.
pub fn lane_gone(who: Who<'_>) {
    lane_gauges(who, &LaneFigures::default());
}

fn lane_gauges(who: Who<'_>, now: &LaneFigures) {
    let labels = who.labels();
    gauge!(RUNNING, &labels).set(now.running as f64);
    gauge!(WAITING, &labels).set(now.waiting as f64);
    gauge!(KV_USAGE, &labels).set(now.blocks_used as f64 / now.blocks_total.max(1) as f64);
    gauge!(KV_CACHED, &labels).set(now.blocks_cached as f64);
    gauge!(COMPAT_SLOTS, &labels).set(now.slots as f64);
    gauge!(ARENA_USED, &labels).set(now.arena_used as f64);
    gauge!(ARENA_RESERVED, &labels).set(now.arena_reserved as f64);
    gauge!(CARD_USED, &labels).set(now.card_used as f64);
    gauge!(CARD_RESERVED, &labels).set(now.card_reserved as f64);
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
    /// The limit of that value, in the same unit; `None` if there is none.
    pub limit: Option<f64>,
    /// Its e-value; `None` for gates without one.
    pub evidence: Option<f64>,
    /// The e-value at which it acts; `None` for gates without one.
    pub evidence_limit: Option<f64>,
    /// Seconds until it can decide, at the current traffic; none if it already can or never will.
    pub decides_in: Option<f64>,
}

/// The rollout's gauges.
#[derive(Debug, Clone, Default)]
pub struct RolloutGauges {
    /// Its phase, as in the status.
    pub phase: String,
    /// Time since the process started, in seconds.
    pub uptime: f64,
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
    for phase in PHASES {
        gauge!(PHASE, "phase" => phase).set(f64::from(u8::from(phase == gauges.phase)));
    }
    gauge!(UPTIME).set(gauges.uptime);
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
        gauge!(GATE_LIMIT, "gate" => gate.name.clone()).set(or_nan(gate.limit));
        gauge!(EVIDENCE, "gate" => gate.name.clone()).set(or_nan(gate.evidence));
        gauge!(EVIDENCE_LIMIT, "gate" => gate.name.clone()).set(or_nan(gate.evidence_limit));
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

/// What has happened to a webhook's alerts since the start; `waiting`: those still to be sent.
pub fn alerts(webhook: &str, results: &[(&'static str, u64)], waiting: u64) {
    for (result, count) in results {
        counter!(ALERTS, "webhook" => webhook.to_owned(), "fate" => *result).absolute(*count);
    }
    gauge!(ALERTS_WAITING, "webhook" => webhook.to_owned()).set(waiting as f64);
}
