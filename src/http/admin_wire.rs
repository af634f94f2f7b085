//! What operators send and are shown, as JSON: for the command line and the terminal view.
//!
//! Both ends use these types, so they derive both ways. Times are seconds or milliseconds as their
//! names say, sizes bytes, shares 0 to 1, weights percent.

use crate::control::{Deployment, Status, UnloadRecord};
use crate::engine::{LaneStats, UnloadReport};
use crate::gateway::{Gateway, ShadowReport};
use crate::rollout::{Arm, ArmView, Decision, Forecast, Gate, GateName, Latency, Phase, View};
use serde::{Deserialize, Serialize};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// `POST /admin/canary/load`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LoadAsk {
    /// Folder of the model, as the server sees it.
    pub path: String,
    /// Also if this content was rejected before.
    #[serde(default)]
    pub retry: bool,
    pub by: Option<String>,
    pub reason: Option<String>,
}

/// Answer to [`LoadAsk`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LoadedWire {
    pub version: String,
    pub digest: String,
    pub path: String,
    pub max_model_len: usize,
}

/// Answer to `POST /admin/rollback`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RolledBackWire {
    pub version: Option<String>,
    /// `null` when the memory was not back in time; see the status later.
    pub unload: Option<UnloadWire>,
}

/// `POST /admin/promote`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PromoteAsk {
    /// At once, whatever the gates say; otherwise as soon as they pass.
    #[serde(default)]
    pub now: bool,
    pub by: Option<String>,
    pub reason: Option<String>,
    pub expect: Option<u64>,
}

/// `POST /admin/weight`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WeightAsk {
    /// 0 to 100.
    pub percent: u8,
    pub by: Option<String>,
    pub reason: Option<String>,
    pub expect: Option<u64>,
}

/// `POST /admin/{pause,resume,rollback,confirm,undo,self-test}`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OrderAsk {
    /// Who gives the order; kept in the ledger.
    pub by: Option<String>,
    /// Why; kept in the ledger.
    pub reason: Option<String>,
    /// The revision of the status that the order is based on. Needed by every order that could raise
    /// something; the order is refused if things have changed since.
    pub expect: Option<u64>,
}

/// `GET /admin/status`, and the answer to every order that has no other.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct StatusWire {
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
    pub ledger: Option<LedgerWire>,
    pub paused: bool,
    /// Id of the rollout that runs or ran last.
    pub rollout: Option<String>,
    pub weight: u8,
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
    pub arms: Vec<ArmWire>,
    /// Stable's frozen figures, which the canary is held against at 100 %.
    pub reference: Option<FiguresWire>,
    /// `pass`, `fail` or `inconclusive`.
    pub overall: String,
    pub gates: Vec<GateWire>,
    /// What today's traffic lets one see, and when; `null` unless a rollout runs.
    pub forecast: Option<ForecastWire>,
    /// What copied requests have shown; `null` when none are copied.
    pub shadow: Option<ShadowWire>,
    /// Oldest first.
    pub decisions: Vec<DecisionWire>,
    /// Oldest first.
    pub unloads: Vec<UnloadWire>,
}

/// The ledger.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LedgerWire {
    pub path: String,
    /// Why it is not being written, if it is not.
    pub failing: Option<String>,
}

/// Time to a verdict, at today's traffic.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ForecastWire {
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
    pub gates: Vec<WaitWire>,
}

/// Requests copied to the canary while the device was idle; ratios are the canary's over stable's.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct ShadowWire {
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
pub struct WaitWire {
    pub gate: String,
    /// `null`: never, at today's traffic.
    pub seconds: Option<f64>,
}

/// One arm: what is loaded there and how it does.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ArmWire {
    /// `stable` or `canary`.
    pub arm: String,
    pub loaded: bool,
    pub version: Option<String>,
    pub digest: Option<String>,
    pub path: Option<String>,
    pub max_model_len: Option<usize>,
    pub figures: FiguresWire,
    pub lane: Option<LaneWire>,
}

/// An arm's figures in the present stage, or in the last one.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct FiguresWire {
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
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LaneWire {
    pub running: u64,
    pub waiting: u64,
    pub blocks_used: u64,
    pub blocks_total: u64,
    pub preemptions: u64,
    pub cancelled: u64,
    pub tokens_generated: u64,
    pub tokens_prefilled: u64,
    pub arena_used: u64,
    pub arena_reserved: u64,
}

/// One gate.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct GateWire {
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
pub struct DecisionWire {
    /// Since the server started.
    pub at_s: f64,
    pub kind: String,
    /// The weight after it.
    pub weight: u8,
    pub text: String,
}

/// One finished unload.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct UnloadWire {
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
    pub took_ms: f64,
    /// From the decision that it should go to its memory being back.
    pub since_decision_ms: f64,
}

impl StatusWire {
    /// Everything that a server can say of itself.
    pub fn of(gateway: &Gateway) -> StatusWire {
        let shadow = gateway.shadow().map(ShadowWire::from);
        StatusWire { shadow, ..StatusWire::from(&gateway.control().status()) }
    }
}

impl From<&Status> for StatusWire {
    fn from(status: &Status) -> StatusWire {
        let (view, models) = (&status.view, &status.models);
        let arm = |arm: Arm| {
            let deployment = match arm {
                Arm::Stable => models.stable.as_deref(),
                Arm::Canary => models.canary.as_deref(),
            };
            ArmWire::new(view.arm(arm), deployment)
        };
        StatusWire {
            model: models.name.to_string(),
            revision: status.revision,
            phase: view.phase.as_str().to_owned(),
            reason: reason(&view.phase),
            self_test: view.self_test,
            awaiting_confirm: view.awaiting_confirm,
            previous: status.previous.as_ref().map(ToString::to_string),
            ledger: status.ledger.as_ref().map(|ledger| LedgerWire {
                path: ledger.path.clone(),
                failing: ledger.failing.clone(),
            }),
            paused: matches!(view.phase, Phase::Running { paused: true }),
            rollout: view.rollout.clone(),
            weight: view.weight.percent(),
            steps: view.steps.iter().map(|step| step.percent()).collect(),
            step: view.step,
            stage: view.stage,
            stage_age_s: view.stage_age.as_secs_f64(),
            bake_s: view.bake.as_secs_f64(),
            promotion_ordered: view.promotion_ordered,
            uptime_s: status.uptime.as_secs_f64(),
            resident_bytes: status.resident_bytes,
            loading: status.loading.clone(),
            arms: Arm::BOTH.into_iter().map(arm).collect(),
            reference: view.reference.as_ref().map(FiguresWire::from),
            overall: view.verdict.overall().as_str().to_owned(),
            gates: gates(view),
            forecast: view.forecast.as_ref().map(ForecastWire::from),
            shadow: None,
            decisions: status.decisions.iter().map(DecisionWire::from).collect(),
            unloads: status.unloads.iter().map(UnloadWire::from).collect(),
        }
    }
}

fn reason(phase: &Phase) -> Option<String> {
    match phase {
        Phase::RolledBack { reason } | Phase::SelfTested { report: reason } => Some(reason.clone()),
        Phase::Idle | Phase::Running { .. } | Phase::Promoted => None,
    }
}

fn gates(view: &View) -> Vec<GateWire> {
    let gate = |gate: &Gate| GateWire {
        name: gate.name.as_str().to_owned(),
        state: gate.state.as_str().to_owned(),
        value: gate.value,
        threshold: gate.threshold,
        evidence: gate.evidence,
        interval: gate.interval,
        samples: gate.samples,
        text: gate.text.clone(),
    };
    view.verdict.gates.iter().map(gate).collect()
}

impl From<ShadowReport> for ShadowWire {
    fn from(report: ShadowReport) -> ShadowWire {
        let found = report.differences;
        ShadowWire {
            pairs: found.map_or(0, |found| found.total),
            preempted: report.preempted,
            dropped: report.dropped,
            failed: report.failed,
            ttft_ratio: found.map(|found| found.ttft_ratio),
            tpot_ratio: found.and_then(|found| found.per_token_ratio),
            length_ratio: found.map(|found| found.length_ratio),
            identical: found.map(|found| found.identical),
            divergence: found.and_then(|found| found.divergence),
            log_probability: found.and_then(|found| found.log_probability),
        }
    }
}

impl From<&Forecast> for ForecastWire {
    fn from(forecast: &Forecast) -> ForecastWire {
        let seconds = |time: Option<Duration>| time.map(|time| time.as_secs_f64());
        let wait = |(name, time): &(GateName, Option<Duration>)| WaitWire {
            gate: name.as_str().to_owned(),
            seconds: seconds(*time),
        };
        ForecastWire {
            requests_per_second: forecast.requests_per_second,
            base_error_rate: forecast.base_error_rate,
            detectable_error_ratio: forecast.detectable_error_ratio,
            detectable_exceedance: forecast.detectable_exceedance,
            until_doubled_errors_s: seconds(forecast.until_doubled_errors),
            gates: forecast.gates.iter().map(wait).collect(),
        }
    }
}

impl ArmWire {
    fn new(view: &ArmView, deployment: Option<&Deployment>) -> ArmWire {
        ArmWire {
            arm: view.arm.as_str().to_owned(),
            loaded: deployment.is_some(),
            version: deployment.map(|d| d.version.to_string()),
            digest: deployment.map(|d| d.digest.clone()),
            path: deployment.map(|d| d.path.display().to_string()),
            max_model_len: deployment.map(Deployment::max_len),
            figures: FiguresWire::from(view),
            lane: deployment.map(|d| LaneWire::from(&*d.stats)),
        }
    }
}

impl From<&ArmView> for FiguresWire {
    fn from(view: &ArmView) -> FiguresWire {
        let counts = &view.counts;
        let (ttft_p50_ms, ttft_p99_ms) = quantiles(view.ttft);
        let (tpot_p50_ms, tpot_p99_ms) = quantiles(view.tpot);
        FiguresWire {
            requests: counts.requests,
            errors: counts.errors,
            error_rate: view.error_rate,
            cancels: counts.cancels,
            rejected: counts.rejected,
            invalid: counts.invalid,
            excluded: counts.excluded(),
            over_share: counts.over_share,
            retries: counts.retries,
            ttft_p50_ms,
            ttft_p99_ms,
            tpot_p50_ms,
            tpot_p99_ms,
            tokens_per_second: view.tokens_per_second,
            mean_output_tokens: view.mean_output_tokens,
            feedback_up: counts.votes_up,
            feedback_down: counts.votes_down,
            total_requests: view.total.requests,
            total_errors: view.total.errors,
        }
    }
}

fn quantiles(latency: Option<Latency>) -> (Option<f64>, Option<f64>) {
    (latency.map(|l| millis(l.p50)), latency.map(|l| millis(l.p99)))
}

fn millis(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

impl From<&LaneStats> for LaneWire {
    fn from(stats: &LaneStats) -> LaneWire {
        let read = |figure: &AtomicU64| figure.load(Ordering::Relaxed);
        LaneWire {
            running: read(&stats.running),
            waiting: read(&stats.waiting),
            blocks_used: read(&stats.blocks_used),
            blocks_total: read(&stats.blocks_total),
            preemptions: read(&stats.preemptions),
            cancelled: read(&stats.cancelled),
            tokens_generated: read(&stats.tokens_generated),
            tokens_prefilled: read(&stats.tokens_prefilled),
            arena_used: read(&stats.arena_used),
            arena_reserved: read(&stats.arena_reserved),
        }
    }
}

impl From<&Decision> for DecisionWire {
    fn from(decision: &Decision) -> DecisionWire {
        DecisionWire {
            at_s: decision.at.as_secs_f64(),
            kind: decision.kind.as_str().to_owned(),
            weight: decision.weight.percent(),
            text: decision.text.clone(),
        }
    }
}

impl From<&UnloadRecord> for UnloadWire {
    fn from(record: &UnloadRecord) -> UnloadWire {
        let UnloadRecord { version, reason, since_decision, report } = record;
        UnloadWire {
            since_decision_ms: millis(*since_decision),
            ..UnloadWire::new(version, reason, report)
        }
    }
}

impl UnloadWire {
    /// An unload's report beside the name of what was unloaded and why.
    pub fn new(version: &str, reason: &str, report: &UnloadReport) -> UnloadWire {
        UnloadWire {
            version: version.to_owned(),
            reason: reason.to_owned(),
            used_before: report.before.used as u64,
            used_after: report.after.used as u64,
            reserved_before: report.before.reserved as u64,
            reserved_after: report.after.reserved as u64,
            resident_at_load: report.resident_at_load,
            resident_before: report.resident_before,
            resident_after: report.resident_after,
            blocks_leaked: report.blocks_leaked as u64,
            evicted: report.evicted as u64,
            took_ms: millis(report.took),
            since_decision_ms: millis(report.took),
        }
    }
}

impl From<&Deployment> for LoadedWire {
    fn from(deployment: &Deployment) -> LoadedWire {
        LoadedWire {
            version: deployment.version.to_string(),
            digest: deployment.digest.clone(),
            path: deployment.path.display().to_string(),
            max_model_len: deployment.max_len(),
        }
    }
}
