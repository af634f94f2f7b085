//! The metrics page: sets the gauges that are read at scrape time (lanes, gates, memory), and renders all metrics.
//!
//! Between scrapes it remembers which lanes have been in service, so that the counters of a reloaded version continue,
//! and for how long a version has been unloaded. The recorder is process-wide, and so is this.

use crate::control::{Control, GateStatus, ModelsView, Status};
use crate::engine::LaneStats;
use crate::metrics::{self, Expiry, GateGauge, RolloutGauges, Totals, Who};
use crate::rollout::Arm;
use crate::routing::Deployment;
use metrics_exporter_prometheus::PrometheusHandle;
use parking_lot::Mutex;
use std::collections::HashMap;
use std::sync::{Arc, LazyLock};
use std::time::Instant;

#[derive(Default)]
struct Memory {
    lanes: Lanes,
    expiry: Expiry,
}

static MEMORY: LazyLock<Mutex<Memory>> = LazyLock::new(Mutex::default);

/// All metrics of now, in Prometheus' text format.
pub fn page(control: &Control, recorder: &PrometheusHandle) -> String {
    let (status, models) = (control.status(), control.models());
    let mut memory = MEMORY.lock();
    memory.lanes.refresh(&models, &status);
    refresh(control, &status);
    let loaded: Vec<Who<'_>> = in_service(&models).map(|(who, _)| who).collect();
    memory.expiry.filter(&metrics::render(recorder), &loaded, Instant::now())
}

fn in_service(models: &ModelsView) -> impl Iterator<Item = (Who<'_>, &Deployment)> {
    let arms = [(Arm::Stable, &models.stable), (Arm::Canary, &models.canary)];
    arms.into_iter().filter_map(|(arm, deployment)| {
        let deployment = deployment.as_deref()?;
        Some((Who { model: &models.name, arm, version: &deployment.version }, deployment))
    })
}

/// Sets the gauges of the rollout, the device and the alerts.
fn refresh(control: &Control, status: &Status) {
    let forecast = status.forecast.as_ref();
    let wait = |gate: &GateStatus| {
        let found = forecast?.gates.iter().find(|wait| wait.gate == gate.name);
        Some(found.map_or(0.0, |wait| wait.seconds.unwrap_or(-1.0)))
    };
    let limits = control.evidence_limits();
    let limit = |gate: &GateStatus| {
        limits.iter().find(|(name, _)| name.as_str() == gate.name).map(|(_, limit)| *limit)
    };
    metrics::rollout(&RolloutGauges {
        phase: status.phase.clone(),
        uptime: status.uptime_s,
        weight: f64::from(status.weight) / 100.0,
        routed: f64::from(status.routed) / 100.0,
        share: status.share,
        gates: status.gates.iter().map(|gate| gauge(gate, limit(gate), wait(gate))).collect(),
        detectable_ratio: forecast.and_then(|f| f.detectable_error_ratio),
        detectable_share: forecast.and_then(|f| f.detectable_exceedance),
        resident_bytes: status.resident_bytes,
        ledger_failing: status.ledger.as_ref().is_some_and(|ledger| ledger.failing.is_some()),
    });
    if let Some(readings) = control.readings() {
        metrics::device(&readings);
    }
    for webhook in control.alert_counts().iter().flat_map(|alerts| &alerts.webhooks) {
        let results = webhook.results().into_iter().filter(|(result, _)| *result != "waiting");
        metrics::alerts(&webhook.name, &results.collect::<Vec<_>>(), webhook.waiting);
    }
}

fn gauge(gate: &GateStatus, evidence_limit: Option<f64>, decides_in: Option<f64>) -> GateGauge {
    let state = match gate.state.as_str() {
        "pass" => 1,
        "fail" => -1,
        _ => 0,
    };
    let evidence_limit = gate.evidence.and(evidence_limit);
    let (name, value, limit) = (gate.name.clone(), gate.value, gate.threshold);
    GateGauge { name, state, value, limit, evidence: gate.evidence, evidence_limit, decides_in }
}

type Key = (String, Arm, String);

/// The versions that have served on an arm, each with its figures.
#[derive(Default)]
struct Lanes(HashMap<Key, Lane>);

#[derive(Default)]
struct Lane {
    /// Of its present load, until that has left the arm for good.
    stats: Option<Arc<LaneStats>>,
    /// What its earlier loads on this arm counted.
    earlier: Totals,
    /// Unloads of this version that were reported when it was last in service.
    unloads: usize,
}

impl Lanes {
    fn refresh(&mut self, models: &ModelsView, status: &Status) {
        for (who, deployment) in in_service(models) {
            let lane = self.0.entry(key(who)).or_default();
            lane.serves(&deployment.stats);
            lane.unloads = unloads(status, who.version);
            metrics::serving(who);
            metrics::lane(who, &deployment.stats, lane.earlier);
        }
        let serve: Vec<(Key, *const LaneStats)> =
            in_service(models).map(|(who, one)| (key(who), Arc::as_ptr(&one.stats))).collect();
        for (key @ (model, arm, version), lane) in &mut self.0 {
            if serve.iter().any(|(serves, _)| serves == key) {
                continue;
            }
            let who = Who { model, arm: *arm, version };
            // Promoted: the same lane is now shown under the other arm. Until one of these, it still takes memory.
            let moved = |stats: &Arc<LaneStats>| {
                serve.iter().any(|(_, serves)| std::ptr::eq(*serves, Arc::as_ptr(stats)))
            };
            let unloaded = unloads(status, version) != lane.unloads;
            if unloaded || lane.stats.as_ref().is_some_and(moved) {
                lane.left();
            }
            match &lane.stats {
                Some(stats) => metrics::lane(who, stats, lane.earlier),
                None => metrics::lane_gone(who),
            }
        }
    }
}

impl Lane {
    /// It is in service with these figures.
    fn serves(&mut self, stats: &Arc<LaneStats>) {
        if !self.stats.as_ref().is_some_and(|known| Arc::ptr_eq(known, stats)) {
            self.left();
            self.stats = Some(stats.clone());
        }
    }

    /// It will not come back with the same figures.
    fn left(&mut self) {
        if let Some(stats) = self.stats.take() {
            self.earlier = self.earlier.plus(Totals::of(&stats));
        }
    }
}

fn key(who: Who<'_>) -> Key {
    (who.model.to_owned(), who.arm, who.version.to_owned())
}

fn unloads(status: &Status, version: &str) -> usize {
    status.unloads.iter().filter(|unload| unload.version == version).count()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::LaneFigures;

    fn stats(steps: u64) -> Arc<LaneStats> {
        Arc::new(LaneStats(Mutex::new(LaneFigures { steps, ..LaneFigures::default() })))
    }

    #[test]
    fn a_lane_adds_up_over_its_loads() {
        let mut lane = Lane { stats: None, earlier: Totals::default(), unloads: 0 };
        let (first, second) = (stats(5), stats(0));
        lane.serves(&first);
        lane.serves(&first);
        assert_eq!(lane.earlier, Totals::default(), "the same load");
        lane.left();
        lane.left();
        assert_eq!(lane.earlier, Totals::of(&first), "counted once");
        lane.serves(&second);
        assert_eq!(lane.earlier, Totals::of(&first), "a new load, and nothing counted in it");
    }
}
