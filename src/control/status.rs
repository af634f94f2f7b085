//! A consistent look at the whole: who serves, how the rollout stands, what was decided and unloaded.

use super::{Control, Deployment};
use crate::device::memory;
use crate::engine::UnloadReport;
use crate::rollout::{Decision, View};
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
    pub report: UnloadReport,
}

/// Everything that an operator may want to see.
#[derive(Debug, Clone)]
pub struct Status {
    pub view: View,
    pub models: ModelsView,
    /// Path of the model that is being loaded.
    pub loading: Option<String>,
    /// Oldest first.
    pub unloads: Vec<UnloadRecord>,
    /// Oldest first.
    pub decisions: Vec<Decision>,
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
        Status {
            view: brain.rollout.view(now),
            models: self.models(),
            loading: brain.loading.clone(),
            unloads: brain.unloads.iter().cloned().collect(),
            decisions: brain.decisions.iter().cloned().collect(),
            resident_bytes: memory::resident_bytes().unwrap_or(0),
            uptime: now,
        }
    }
}
