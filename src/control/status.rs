//! A consistent look at the whole: who serves, how the rollout stands, what was decided and unloaded.

use super::{Control, Deployment};
use crate::alerts::{Alerts, Counts};
use crate::device::memory;
use crate::engine::UnloadReport;
use crate::rollout::{Decision, Gate, Verdict, View, Weight};
use serde_json::{Value, json};
use serin_kernels::cuda::Readings;
use std::sync::Arc;
use std::time::Duration;

/// The versions that are loaded.
#[derive(Debug, Clone)]
pub struct ModelsView {
    /// Public model name.
    pub name: Arc<str>,
    pub stable: Option<Arc<Deployment>>,
    pub canary: Option<Arc<Deployment>>,
}

/// One finished unload.
#[derive(Debug, Clone)]
pub struct UnloadRecord {
    pub version: Arc<str>,
    pub reason: &'static str,
    /// From the decision that it should go to its memory being back.
    pub since_decision: Duration,
    pub report: UnloadReport,
}

/// The ledger at a glance.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LedgerView {
    pub path: String,
    /// Why it is not being written, if it is not.
    pub failing: Option<String>,
}

/// Everything that an operator may want to see.
#[derive(Debug, Clone)]
pub struct Status {
    pub view: View,
    /// The canary's share of the requests now. The rollout may want another: one that waits for the ledger, or
    /// for its canary to be loaded again.
    pub routed: Weight,
    /// What stands out: what waits, and what was refused at the start. One line each.
    pub remarks: Vec<String>,
    /// What an order names as the state that it is based on.
    pub revision: u64,
    pub models: ModelsView,
    /// The former stable, while a promotion can still be undone.
    pub previous: Option<Arc<str>>,
    /// `None`: decisions are not kept.
    pub ledger: Option<LedgerView>,
    /// What became of the alerts.
    pub alerts: Option<Counts>,
    /// Path of the model that is being loaded.
    pub loading: Option<String>,
    /// Oldest first.
    pub unloads: Vec<UnloadRecord>,
    /// Oldest first.
    pub decisions: Vec<Decision>,
    /// What the device last said of itself; `None`: nothing ever.
    pub device: Option<Readings>,
    /// Resident set of the process in bytes.
    pub resident_bytes: u64,
    pub uptime: Duration,
}

impl Control {
    pub fn models(&self) -> ModelsView {
        let routes = self.routes.read();
        ModelsView {
            name: self.name.clone(),
            stable: routes.stable.clone(),
            canary: routes.canary.clone(),
        }
    }

    pub fn status(&self) -> Status {
        let now = self.now();
        let brain = self.brain.lock();
        let routed = {
            let routes = self.routes.read();
            routes.canary.as_ref().map_or(Weight::ZERO, |_| routes.weight)
        };
        let resuming = brain.resuming.as_ref().map(|resuming| {
            let version = &resuming.running.opening.canary.version;
            let remark =
                resuming.remark.as_ref().map_or_else(String::new, |remark| format!(": {remark}"));
            format!("the rollout of {version} is being taken up after a restart{remark}")
        });
        let remarks = [brain.remark.clone(), resuming, brain.held.clone()];
        Status {
            view: brain.rollout.view(now),
            routed,
            remarks: remarks.into_iter().flatten().collect(),
            revision: brain.revision,
            models: self.models(),
            previous: brain.previous.as_ref().map(|previous| previous.deployment.version.clone()),
            ledger: self
                .book
                .health()
                .map(|(path, health)| LedgerView { path, failing: health.failing }),
            alerts: self.alerts.as_ref().map(Alerts::counts),
            loading: brain.loading.clone(),
            unloads: brain.unloads.iter().cloned().collect(),
            decisions: brain.decisions.iter().cloned().collect(),
            device: self.readings(),
            resident_bytes: memory::resident_bytes().unwrap_or(0),
            uptime: self.origin.elapsed(),
        }
    }
}

/// The gates' figures, for notes.
pub(super) fn gates(verdict: &Verdict) -> Value {
    let one = |gate: &Gate| {
        json!({
            "gate": gate.name.as_str(), "state": gate.state.as_str(), "value": gate.value,
            "threshold": gate.threshold, "text": gate.text,
        })
    };
    verdict.gates.iter().map(one).collect()
}
