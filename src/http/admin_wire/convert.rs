//! From what the rooms inside say of themselves to what operators are shown. One way, and nothing is lost
//! but names of types.

use super::{
    ArmWire, CardUnloadWire, DecisionWire, DeviceWire, FiguresWire, ForecastWire, GateWire,
    LaneWire, LedgerWire, LoadedWire, ShadowWire, StatusWire, UnloadWire, WaitWire,
};
use crate::control::{Status, UnloadRecord};
use crate::engine::{CardReport, LaneStats, UnloadReport};
use crate::rollout::{Arm, ArmView, Decision, Forecast, Gate, GateName, Latency, Phase, View};
use crate::routing::Deployment;
use crate::serving::{Gateway, ShadowReport};
use serin_kernels::cuda::Readings;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

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
            weight: status.routed.percent(),
            weight_wanted: (view.weight != status.routed).then(|| view.weight.percent()),
            remarks: status.remarks.clone(),
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
            device: status.device.as_ref().map(|device| DeviceWire::new(device, view.throttled)),
            decisions: status.decisions.iter().map(DecisionWire::from).collect(),
            unloads: status.unloads.iter().map(UnloadWire::from).collect(),
        }
    }
}

impl DeviceWire {
    /// `throttled`: time of the present stage.
    pub fn new(readings: &Readings, throttled: Duration) -> DeviceWire {
        DeviceWire {
            memory_used: readings.memory.map(|memory| memory.used),
            memory_total: readings.memory.map(|memory| memory.total),
            utilisation: readings.utilisation.map(|percent| f64::from(percent) / 100.0),
            power_watts: readings.power_watts,
            temperature_celsius: readings.temperature_celsius,
            sm_clock_mhz: readings.sm_clock_mhz,
            memory_clock_mhz: readings.memory_clock_mhz,
            throttled: readings.throttled.clone(),
            throttled_s: throttled.as_secs_f64(),
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
            blocks_cached: read(&stats.blocks_cached),
            blocks_evicted: read(&stats.blocks_evicted),
            prefix_lookup_tokens: read(&stats.prefix_lookup_tokens),
            prefix_hit_tokens: read(&stats.prefix_hit_tokens),
            prefix_hit_rate: stats.prefix_hit_rate(),
            preemptions: read(&stats.preemptions),
            cancelled: read(&stats.cancelled),
            tokens_generated: read(&stats.tokens_generated),
            tokens_prefilled: read(&stats.tokens_prefilled),
            arena_used: read(&stats.arena_used),
            arena_reserved: read(&stats.arena_reserved),
            card_used: read(&stats.card_used),
            card_reserved: read(&stats.card_reserved),
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
            card: report.card.as_ref().map(CardUnloadWire::from),
            took_ms: millis(report.took),
            since_decision_ms: millis(report.took),
        }
    }
}

impl From<&CardReport> for CardUnloadWire {
    fn from(report: &CardReport) -> CardUnloadWire {
        CardUnloadWire {
            used_before: report.before.used,
            used_after: report.after.used,
            reserved_before: report.before.reserved,
            reserved_after: report.after.reserved,
            free_at_load: report.free_at_load,
            free_after: report.free_after,
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
