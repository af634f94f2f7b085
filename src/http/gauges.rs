//! Gauges that are set when metrics are scraped: lanes, gates and memory.
//!
//! A function of the status; keeps no state.

use crate::control::{Control, GateStatus, ModelsView};
use crate::metrics::{self, GateGauge, RolloutGauges, Who};
use crate::rollout::Arm;
use crate::routing::Deployment;

/// Brings all gauges up to date.
pub fn refresh(control: &Control) {
    let (status, models) = (control.status(), control.models());
    lane(&models.name, Arm::Stable, models.stable.as_deref());
    lane(&models.name, Arm::Canary, models.canary.as_deref());
    for unload in &status.unloads {
        gone(&models, &unload.version);
    }
    let forecast = status.forecast.as_ref();
    let wait = |gate: &GateStatus| {
        let found = forecast?.gates.iter().find(|wait| wait.gate == gate.name);
        Some(found.map_or(0.0, |wait| wait.seconds.unwrap_or(-1.0)))
    };
    metrics::rollout(&RolloutGauges {
        weight: f64::from(status.weight) / 100.0,
        routed: f64::from(status.routed) / 100.0,
        share: status.share,
        gates: status.gates.iter().map(|gate| gauge(gate, wait(gate))).collect(),
        detectable_ratio: forecast.and_then(|f| f.detectable_error_ratio),
        detectable_share: forecast.and_then(|f| f.detectable_exceedance),
        resident_bytes: status.resident_bytes,
        ledger_failing: status.ledger.as_ref().is_some_and(|ledger| ledger.failing.is_some()),
    });
    if let Some(readings) = control.readings() {
        metrics::device(&readings);
    }
    for webhook in control.alert_counts().iter().flat_map(|alerts| &alerts.webhooks) {
        metrics::alerts(&webhook.name, &webhook.fates());
    }
}

fn lane(model: &str, arm: Arm, deployment: Option<&Deployment>) {
    if let Some(Deployment { version, stats, .. }) = deployment {
        metrics::lane(Who { model, arm, version }, stats);
    }
}

/// A version that was unloaded and serves in no role reads zero.
fn gone(models: &ModelsView, version: &str) {
    for (arm, loaded) in [(Arm::Stable, &models.stable), (Arm::Canary, &models.canary)] {
        if loaded.as_ref().is_none_or(|loaded| &*loaded.version != version) {
            metrics::lane_gone(Who { model: &models.name, arm, version });
        }
    }
}

fn gauge(gate: &GateStatus, decides_in: Option<f64>) -> GateGauge {
    let state = match gate.state.as_str() {
        "pass" => 1,
        "fail" => -1,
        _ => 0,
    };
    let (name, value, evidence) = (gate.name.clone(), gate.value, gate.evidence);
    GateGauge { name, state, value, evidence, decides_in }
}
