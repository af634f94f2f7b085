//! All webhooks together: an alert goes to the log and to each queue; at shutdown, deliveries are awaited.
//!
//! It has no clock of its own and does not know HTTP.

use super::config::AlertsConfig;
use super::dedup::{Admission, Dedup};
use super::deliver::{Clock, Lane, WebhookCounts, wire_for};
use super::wire::Wire;
use super::{Alert, AlertsError, Severity};
use parking_lot::Mutex;
use std::sync::Arc;
use std::time::Duration;
use tokio::task::JoinSet;

/// Delivery counts so far, for metrics.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Counts {
    /// Alerts that were suppressed because one like them was sent shortly before.
    pub repeats: u64,
    /// Each webhook's counts, in the order of the config.
    pub webhooks: Vec<WebhookCounts>,
}

/// Sends alerts. Dropping it ends the deliveries; [`Alerts::flush`] first sends what waits.
pub struct Alerts {
    clock: Clock,
    seen: Mutex<DedupState>,
    lanes: Vec<Arc<Lane>>,
    tasks: Mutex<JoinSet<()>>,
}

struct DedupState {
    dedup: Dedup,
    repeats: u64,
}

impl Alerts {
    /// Starts a task for each webhook. Must be called within a tokio runtime. Fails if the certificates of the system
    /// cannot be read, which https needs.
    pub fn start(config: AlertsConfig) -> Result<Alerts, AlertsError> {
        let wire = wire_for(&config.webhooks, config.timeout)?;
        Ok(Alerts::start_on(config, &wire))
    }

    pub(super) fn start_on(config: AlertsConfig, wire: &Wire) -> Alerts {
        let clock = Clock::start();
        let lane =
            |webhook| Arc::new(Lane::new(webhook, config.schedule.clone(), config.capacity, clock));
        let lanes: Vec<Arc<Lane>> = config.webhooks.into_iter().map(lane).collect();
        let mut tasks = JoinSet::new();
        for lane in &lanes {
            tasks.spawn(lane.clone().run(wire.clone()));
        }
        let seen = DedupState { dedup: Dedup::new(config.repeat_window), repeats: 0 };
        Alerts { clock, seen: Mutex::new(seen), lanes, tasks: Mutex::new(tasks) }
    }

    /// Logs an alert and queues it for the webhooks that want it. Returns at once. Failed deliveries are
    /// counted and logged. A repeat within the window is only counted.
    pub fn send(&self, alert: Alert) {
        let repeats = {
            let mut seen = self.seen.lock();
            match seen.dedup.admit(&alert, self.clock.now()) {
                Admission::Send { repeats } => repeats,
                Admission::Repeat => {
                    seen.repeats += 1;
                    let (kind, id) = (alert.kind.as_str(), alert.id.as_str());
                    tracing::debug!(kind, id, "a repeated alert is not sent");
                    return;
                }
            }
        };
        log(&alert, repeats);
        let alert = Arc::new(alert);
        for lane in &self.lanes {
            lane.offer(&alert, repeats);
        }
    }

    /// What has been delivered so far and what has not.
    pub fn counts(&self) -> Counts {
        let repeats = self.seen.lock().repeats;
        Counts { repeats, webhooks: self.lanes.iter().map(|lane| lane.counts()).collect() }
    }

    /// Shutdown: accepts no more alerts, tries each waiting alert once more right away, and gives up what is
    /// not delivered within `limit`. Returns the number given up.
    pub async fn flush(&self, limit: Duration) -> u64 {
        self.lanes.iter().for_each(|lane| lane.close());
        let mut tasks = std::mem::take(&mut *self.tasks.lock());
        let all = async { while tasks.join_next().await.is_some() {} };
        // Whether they ended or timed out shows in what is left.
        let _ = tokio::time::timeout(limit, all).await;
        tasks.shutdown().await;
        let left: u64 = self.lanes.iter().map(|lane| lane.abandon()).sum();
        if left > 0 {
            tracing::error!(left, "alerts NOT delivered: the process ends");
        }
        left
    }
}

/// The alert as a log line, which exists even without webhooks.
fn log(alert: &Alert, repeats: u64) {
    let (kind, id, severity) = (alert.kind.as_str(), alert.id.as_str(), alert.severity.as_str());
    let (model, stage) = (alert.model.as_str(), alert.stage);
    let (why, done) = (alert.why.as_str(), alert.done.as_str());
    let rollout = alert.rollout.as_deref();
    let stable = alert.stable.as_ref().map(ToString::to_string);
    let canary = alert.canary.as_ref().map(ToString::to_string);
    let (stable, canary) = (stable.as_deref(), canary.as_deref());
    let (before, after) = (alert.weight.map(|w| w.before), alert.weight.map(|w| w.after));
    // The level is part of the macro's name.
    macro_rules! say {
        ($level:ident) => {
            tracing::$level!(
                alert = true,
                kind,
                id,
                severity,
                model,
                rollout,
                stage,
                stable,
                canary,
                weight_before = before,
                weight_after = after,
                why,
                done,
                repeats,
                "{}",
                alert.what
            )
        };
    }
    match alert.severity {
        Severity::Critical => say!(error),
        Severity::Warning => say!(warn),
        Severity::Info => say!(info),
    }
}
