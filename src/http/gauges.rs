//! Gauges that are set when metrics are scraped: lanes, gates and memory.
//!
//! A function of the status; keeps no state.

use crate::control::{Deployment, Status};
use crate::metrics::{self, GateGauge, RolloutGauges, Who};
use crate::rollout::{Arm, Gate, GateState};
use std::time::Duration;

/// Updates all gauges.
pub fn refresh(status: &Status) {
    let models = &status.models;
    lane(&models.name, Arm::Stable, models.stable.as_deref());
    lane(&models.name, Arm::Canary, models.canary.as_deref());
    for unload in &status.unloads {
        gone(status, &unload.version);
    }
    let forecast = status.view.forecast.as_ref();
    let wait = |gate: &Gate| {
        let found = forecast?.gates.iter().find(|(name, _)| *name == gate.name);
        Some(match found {
            None => 0.0,
            Some((_, time)) => time.map_or(-1.0, |time: Duration| time.as_secs_f64()),
        })
    };
    metrics::rollout(&RolloutGauges {
        weight: status.routed.fraction(),
        gates: status.view.verdict.gates.iter().map(|gate| gauge(gate, wait(gate))).collect(),
        detectable_ratio: forecast.and_then(|f| f.detectable_error_ratio),
        detectable_share: forecast.and_then(|f| f.detectable_exceedance),
        resident_bytes: status.resident_bytes,
        ledger_failing: status.ledger.as_ref().is_some_and(|ledger| ledger.failing.is_some()),
    });
    if let Some(readings) = &status.device {
        metrics::device(readings);
    }
    for webhook in status.alerts.iter().flat_map(|alerts| &alerts.webhooks) {
        metrics::alerts(&webhook.name, &webhook.fates());
    }
}

fn lane(model: &str, arm: Arm, deployment: Option<&Deployment>) {
    if let Some(Deployment { version, stats, .. }) = deployment {
        metrics::lane(Who { model, arm, version }, stats);
    }
}

/// A version that was unloaded and has no role reads zero.
fn gone(status: &Status, version: &str) {
    let models = &status.models;
    for (arm, loaded) in [(Arm::Stable, &models.stable), (Arm::Canary, &models.canary)] {
        if loaded.as_ref().is_none_or(|loaded| &*loaded.version != version) {
            metrics::lane_gone(Who { model: &models.name, arm, version });
        }
    }
}

fn gauge(gate: &Gate, decides_in: Option<f64>) -> GateGauge {
    let state = match gate.state {
        GateState::Pass => 1,
        GateState::Inconclusive(_) | GateState::NotJudged(_) => 0,
        GateState::Fail(_) => -1,
    };
    let Gate { name, value, evidence, .. } = gate;
    GateGauge { name: name.as_str(), state, value: *value, evidence: *evidence, decides_in }
}
