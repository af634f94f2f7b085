//! Where each field of the status comes from. All fields are from the same moment: the rollout is locked while they are
//! read.

use super::{
    ArmFigures, ArmStatus, DecisionStatus, DeviceStatus, ForecastStatus, GateStatus, GateWait,
    LaneStatus, LedgerStatus, ModelsView, Status, brief, headline,
};
use crate::alerts::{Alerts, Counts};
use crate::control::{Control, ControlState};
use crate::device::memory;
use crate::engine::LaneStats;
use crate::rollout::{
    Arm, ArmView, Counts as CountsOfAStep, Decision, Forecast, Gate, GateName, Latency, Phase,
    Verdict, View, Weight,
};
use crate::routing::Deployment;
use serde_json::{Value, json};
use serin_kernels::cuda::Readings;
use std::time::Duration;

impl Control {
    /// The versions that are loaded.
    pub fn models(&self) -> ModelsView {
        let routes = self.routes.read();
        ModelsView {
            name: self.name.clone(),
            stable: routes.stable.clone(),
            canary: routes.canary.clone(),
        }
    }

    /// The rollout at this moment.
    pub fn view(&self) -> View {
        self.state.lock().rollout.view(self.now())
    }

    /// The e-value at which each gate acts, for gates that have one.
    pub fn evidence_limits(&self) -> Vec<(GateName, f64)> {
        let limit = |gate| self.policy.evidence_limit(gate).map(|limit| (gate, limit));
        GateName::all().filter_map(limit).collect()
    }

    /// What became of the alerts; `None` if none are sent.
    pub fn alert_counts(&self) -> Option<Counts> {
        self.alerts.as_ref().map(Alerts::counts)
    }

    /// Everything that an operator may want to see; copied requests (`shadow`) are not known here.
    pub fn status(&self) -> Status {
        let state = self.state.lock();
        let view = state.rollout.view(self.now());
        let models = self.models();
        let (weight, routed) = self.weights();
        let share = self.recent.lock().share();
        let arms = [(Arm::Stable, &models.stable), (Arm::Canary, &models.canary)];
        let mut status = Status {
            model: models.name.to_string(),
            headline: String::new(),
            revision: state.revision,
            phase: view.phase.as_str().to_owned(),
            reason: reason(&view.phase),
            self_test: view.self_test,
            awaiting_confirm: view.awaiting_confirm,
            previous: state.previous.as_ref().map(|one| one.deployment.version.to_string()),
            keys: None,
            ledger: self
                .ledger
                .health()
                .map(|(path, health)| LedgerStatus { path, failing: health.failing }),
            paused: matches!(view.phase, Phase::Running { paused: true }),
            rollout: view.rollout.clone(),
            weight: weight.percent(),
            weight_wanted: (view.weight != weight).then(|| view.weight.percent()),
            routed: routed.percent(),
            share: share.canary,
            share_of: share.requests,
            drawn: share.drawn,
            remarks: state.remarks(),
            less: models.canary.as_ref().map_or_else(Vec::new, |_| state.less.clone()),
            differences: models.differences(),
            steps: view.steps.iter().map(|step| step.percent()).collect(),
            step: view.step,
            stage: view.stage,
            stage_age_s: view.stage_age.as_secs_f64(),
            bake_s: view.bake.as_secs_f64(),
            promotion_ordered: view.promotion_ordered,
            uptime_s: self.origin.elapsed().as_secs_f64(),
            resident_bytes: memory::resident_bytes().unwrap_or(0),
            available_bytes: memory::available_bytes().unwrap_or(0),
            loading: state.loading.clone(),
            arms: arms.map(|(arm, loaded)| ArmStatus::new(view.arm(arm), loaded.as_deref())).into(),
            reference: view.reference.as_ref().map(ArmFigures::from),
            overall: view.verdict.overall().as_str().to_owned(),
            gates: view.verdict.gates.iter().map(GateStatus::from).collect(),
            forecast: view.forecast.as_ref().map(ForecastStatus::from),
            shadow: None,
            cross_read: None,
            in_flight: Vec::new(),
            device: self.readings().map(|device| DeviceStatus::new(&device, view.throttled)),
            decisions: state.decisions.iter().map(DecisionStatus::from).collect(),
            unloads: state.unloads.iter().map(|(_, unload)| unload.clone()).collect(),
        };
        status.headline = headline::headline(&status);
        status
    }

    /// The canary's weight in force, and the share that is routed to it; the rollout may want another.
    pub(in crate::control) fn weights(&self) -> (Weight, Weight) {
        let routes = self.routes.read();
        let none = (Weight::ZERO, Weight::ZERO);
        routes.canary.as_ref().map_or(none, |_| (routes.weight, routes.routed))
    }
}

impl ControlState {
    /// What stands out: what waits, and what was refused at the start. One line each.
    fn remarks(&self) -> Vec<String> {
        let resuming = self.resuming.as_ref().map(|resuming| {
            let version = &resuming.running.opening.canary.version;
            let remark =
                resuming.remark.as_ref().map_or_else(String::new, |remark| format!(": {remark}"));
            format!("the rollout of {version} is being taken up after a restart{remark}")
        });
        [self.remark.clone(), resuming, self.held.clone()].into_iter().flatten().collect()
    }
}

impl DeviceStatus {
    /// `throttled`: time of the present stage.
    pub fn new(readings: &Readings, throttled: Duration) -> DeviceStatus {
        DeviceStatus {
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

impl From<&Gate> for GateStatus {
    fn from(gate: &Gate) -> GateStatus {
        GateStatus {
            name: gate.name.as_str().to_owned(),
            state: gate.state.as_str().to_owned(),
            value: gate.value,
            threshold: gate.threshold,
            evidence: gate.evidence,
            interval: gate.interval,
            samples: gate.samples,
            title: brief::title(gate.name).to_owned(),
            brief: brief::brief(gate),
            text: gate.text.clone(),
        }
    }
}

impl From<&Forecast> for ForecastStatus {
    fn from(forecast: &Forecast) -> ForecastStatus {
        let seconds = |time: Option<Duration>| time.map(|time| time.as_secs_f64());
        let wait = |(name, time): &(GateName, Option<Duration>)| GateWait {
            gate: name.as_str().to_owned(),
            seconds: seconds(*time),
        };
        ForecastStatus {
            requests_per_second: forecast.requests_per_second,
            base_error_rate: forecast.base_error_rate,
            detectable_error_ratio: forecast.detectable_error_ratio,
            detectable_exceedance: forecast.detectable_exceedance,
            until_doubled_errors_s: seconds(forecast.until_doubled_errors),
            gates: forecast.gates.iter().map(wait).collect(),
        }
    }
}

impl ArmStatus {
    fn new(view: &ArmView, deployment: Option<&Deployment>) -> ArmStatus {
        ArmStatus {
            arm: view.arm.as_str().to_owned(),
            loaded: deployment.is_some(),
            version: deployment.map(|d| d.version.to_string()),
            digest: deployment.map(|d| d.digest.clone()),
            path: deployment.map(|d| d.path.display().to_string()),
            max_model_len: deployment.map(Deployment::max_len),
            figures: ArmFigures::from(view),
            traffic: None,
            lane: deployment.map(|d| LaneStatus::from(&*d.stats)),
        }
    }
}

impl From<&ArmView> for ArmFigures {
    fn from(view: &ArmView) -> ArmFigures {
        let counts = &view.counts;
        let (ttft_p50_ms, ttft_p99_ms) = quantiles(view.ttft);
        let (tpot_p50_ms, tpot_p99_ms) = quantiles(view.tpot);
        ArmFigures {
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

impl From<&LaneStats> for LaneStatus {
    fn from(stats: &LaneStats) -> LaneStatus {
        let figures = stats.read();
        let kind = format!("compatibility: {} slots, no prefix cache", figures.slots);
        LaneStatus { kind: (figures.slots > 0).then_some(kind), figures }
    }
}

impl From<&Decision> for DecisionStatus {
    fn from(decision: &Decision) -> DecisionStatus {
        let both = |figure: fn(&CountsOfAStep) -> u64| {
            let [stable, canary] = &*decision.verdict.counts;
            (figure(stable), figure(canary))
        };
        let ratio = |name| decision.verdict.gate(name).and_then(|gate| gate.value);
        DecisionStatus {
            at_s: decision.at.as_secs_f64(),
            kind: decision.kind.as_str().to_owned(),
            weight: decision.weight.percent(),
            brief: brief::of_decision(decision),
            text: decision.text.clone(),
            requests: both(|counts| counts.requests),
            errors: both(|counts| counts.errors),
            ttft_ratio: ratio(GateName::Ttft),
            tpot_ratio: ratio(GateName::Tpot),
        }
    }
}

/// The gates' figures, for notes.
pub(in crate::control) fn gates(verdict: &Verdict) -> Value {
    let one = |gate: &Gate| {
        json!({
            "gate": gate.name.as_str(), "state": gate.state.as_str(), "value": gate.value,
            "threshold": gate.threshold, "text": gate.text,
        })
    };
    verdict.gates.iter().map(one).collect()
}
