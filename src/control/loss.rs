//! A device that has failed permanently: what is done before the process ends.
//!
//! Only the record can be saved. Requests are refused, the rollout is rolled back so that the next process also refuses
//! its canary, and alerts are sent. Nothing is drained or unloaded, because that could wait forever for the device. It
//! does not end the process; the code that runs the server does.

use super::act::Done;
use super::{Control, ControlState, alerting};
use crate::engine::LaneId;
use crate::ledger::Entry;
use crate::rollout::{Arm, Event, Phase};
use serde_json::json;
use std::sync::OnceLock;
use std::time::Duration;
use tokio::sync::watch;

/// How long the record may take: a disk that does not answer must not keep a server up that serves nobody.
const RECORD_WITHIN: Duration = Duration::from_secs(3);

#[derive(Default)]
pub(super) struct DeviceFailure {
    /// How, for operators.
    fault: OnceLock<String>,
    /// What follows from it is written down, or could not be in time.
    settled: watch::Sender<bool>,
}

impl Control {
    /// How the device has failed, if it has.
    pub fn device_fault(&self) -> Option<&str> {
        self.loss.fault.get().map(String::as_str)
    }

    /// Resolves when the device has failed and what follows is written down, or could not be in time.
    pub async fn device_lost(&self) -> String {
        let mut settled = self.loss.settled.subscribe();
        // The sender lives as long as `self`.
        let _ = settled.wait_for(|settled| *settled).await;
        self.device_fault().unwrap_or_default().to_owned()
    }

    /// `lane`: in whose step it showed.
    pub(super) async fn lose_device(&self, lane: Option<LaneId>, what: &str) {
        if self.loss.fault.set(format!("the device has failed: {what}")).is_err() {
            return;
        }
        let done = self.settle(lane.map(|lane| self.arm_of(lane)), what);
        if tokio::time::timeout(RECORD_WITHIN, done).await.is_err() {
            tracing::error!("the loss of the device could not be written down in time");
        }
        self.loss.settled.send_replace(true);
    }

    /// `step`: whose step it was, if it was one; some lanes serve no arm any more.
    fn settle(&self, step: Option<Option<Arm>>, what: &str) -> Done {
        let mut state = self.state.lock();
        let now = self.now();
        let arm = step.flatten().unwrap_or(Arm::Stable);
        self.notes.publish("device_lost", true, json!({"arm": arm.as_str(), "what": what}));
        let fault = format!("the device has failed: {what}");
        let mut entries = vec![Entry::Fault { arm, what: fault }];
        let candidate = state.candidate.take();
        if let Some(digest) = &candidate {
            let reason = format!("the device failed while this version was being loaded: {what}");
            entries.push(Entry::Rejected { digest: digest.clone(), reason });
        }
        if !matches!(state.rollout.phase(), Phase::Running { .. }) {
            alerting::device_lost(self, state.rollout.stage(), what, candidate.is_some());
            return self.act(&mut state, now, None, Vec::new(), entries);
        }
        let what = format!("{}: {what}", suspicion(step));
        self.roll_back_for(&mut state, now, what, entries)
    }

    /// The canary is what is new here, so it is taken to have done it.
    pub(super) fn roll_back_for(
        &self,
        state: &mut ControlState,
        now: Duration,
        what: String,
        entries: Vec<Entry>,
    ) -> Done {
        let event = Event::Fault { arm: Arm::Canary, what };
        match state.rollout.step(now, event.clone()) {
            Ok(actions) => self.act(state, now, Some(&event), actions, entries),
            Err(error) => {
                tracing::error!(%error, "the rollout refused an event");
                self.act(state, now, None, Vec::new(), entries)
            }
        }
    }
}

/// Where it showed, and what that says of who did it: a device tells of a fault at some later call, so that
/// the one whose step it was need not be the one.
fn suspicion(step: Option<Option<Arm>>) -> &'static str {
    match step {
        Some(Some(Arm::Canary)) => "the device failed in a step of the canary",
        Some(_) => {
            "the device failed in a step of stable while the canary was loaded; which model caused it is unknown"
        }
        None => "the device failed between steps while the canary was loaded; the cause is unknown",
    }
}
