//! Drains and unloads models, and reports the memory figures.
//!
//! It knows the reason for an unload only as a word. The engine does the work; this file requests and reports it, and
//! keeps the former stable loaded for as long as `serin undo` needs it.

use super::ledger_handle::model;
use super::{Control, Deployment, Unload, keep};
use crate::engine::UnloadReport;
use crate::ledger::Entry;
use crate::metrics;
use serde_json::json;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};
use tokio::sync::mpsc::UnboundedReceiver;

pub(super) struct UnloadTask {
    deployment: Arc<Deployment>,
    reason: &'static str,
    /// How long what runs may finish.
    grace: Duration,
    decided: Instant,
}

/// The former stable, kept for the case that a promotion is taken back.
pub(super) struct Previous {
    pub deployment: Arc<Deployment>,
    pub until: Instant,
}

impl Control {
    /// Sends a model away; it may finish what it has accepted for `grace`. On a device that has failed it
    /// stays where it is: nothing can be given back there.
    pub(super) fn retire(
        &self,
        deployment: Arc<Deployment>,
        reason: &'static str,
        grace: Duration,
    ) {
        if self.device_fault().is_some() {
            return;
        }
        // The task ends with the process only.
        let _ = self.unload_queue.send(UnloadTask {
            deployment,
            reason,
            grace,
            decided: Instant::now(),
        });
    }

    /// Unloads the former stable once its time is over.
    pub(super) fn forget_previous(&self) {
        let mut state = self.state.lock();
        if let Some(previous) = state.previous.take_if(|previous| previous.until <= Instant::now())
        {
            self.retire(previous.deployment, "replaced", self.deployments.finish);
        }
    }

    fn unloaded(&self, task: &UnloadTask, report: UnloadReport) {
        let UnloadTask { deployment, reason, decided, .. } = task;
        metrics::unloaded(&report);
        let unload = Unload {
            version: deployment.version.to_string(),
            reason: (*reason).to_owned(),
            report,
            since_decision_ms: decided.elapsed().as_secs_f64() * 1e3,
        };
        let card = report.card.unwrap_or_default();
        let leaked = report.used_after > 0 || report.blocks_leaked > 0 || card.used_after > 0;
        self.notes.publish("unloaded", leaked, json!(unload));
        let entry = Entry::ModelUnloaded {
            model: model(deployment),
            why: (*reason).to_owned(),
            freed: report.reserved_before.saturating_sub(report.reserved_after)
                + card.reserved_before.saturating_sub(card.reserved_after),
            kept: report.reserved_after + card.reserved_after,
        };
        self.ledger.note(self.now(), entry);
        keep(&mut self.state.lock().unloads, (deployment.lane, unload));
        self.unloads.send_modify(|n| *n += 1);
    }
}

/// Gives every task a task of its own: one that drains for long must not delay the next.
pub(super) async fn unload_models(
    control: Weak<Control>,
    mut unload_queue: UnboundedReceiver<UnloadTask>,
) {
    while let Some(task) = unload_queue.recv().await {
        let Some(control) = control.upgrade() else { return };
        tokio::spawn(async move {
            match control.engine.unload(task.deployment.lane, task.grace).await {
                Ok(report) => control.unloaded(&task, report),
                Err(error) => {
                    tracing::error!(version = %task.deployment.version, %error, "unload failed");
                }
            }
        });
    }
}
