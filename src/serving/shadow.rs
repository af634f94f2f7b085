//! Shadow traffic: stable's requests are copied to the canary while the device is idle.
//!
//! No client sees the results, and no verdict counts them. `rescue` chooses the requests to copy.

use super::admission::Admission;
use super::idle::{Idle, NotRun, Tally, run_sequence};
use super::paired::{Answer, Paired};
use super::prepare::{Prepared, prepare};
use super::types::GenerateRequest;
use crate::control::{Control, ShadowStatus};
use crate::model::SamplingParams;
use crate::rollout::Arm;
use crate::routing::Assignment;
use parking_lot::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::SystemTime;
use tokio::sync::mpsc::{Receiver, Sender, channel};

/// Copies that may wait; more are dropped.
const WAITING: usize = 64;
/// Times that a copy gives way before it is dropped.
const TRIES: u32 = 5;

/// A request that stable has answered, to be put to the canary.
#[derive(Debug)]
pub(super) struct Copied {
    pub request: GenerateRequest,
    pub stable: Answer,
}

pub(super) struct Shadow {
    /// The share of stable's requests to copy, 0 to 1.
    pub share: f64,
    queue: Sender<Copied>,
    idle: Idle,
    paired: Mutex<Paired>,
    tally: Tally,
    dropped: AtomicU64,
    failed: AtomicU64,
    admission: Admission,
}

impl Shadow {
    /// Starts the task that puts copies of this share of requests, 0 to 1, to the canary. Must be called within a tokio
    /// runtime.
    pub fn start(
        share: f64,
        control: &Arc<Control>,
        admission: Admission,
        idle: Idle,
    ) -> Arc<Shadow> {
        let (queue, inbox) = channel(WAITING);
        let shadow = Arc::new(Shadow {
            share,
            queue,
            idle,
            paired: Mutex::default(),
            tally: Tally::default(),
            dropped: AtomicU64::new(0),
            failed: AtomicU64::new(0),
            admission,
        });
        if share > 0.0 {
            tokio::spawn(run(Arc::downgrade(&shadow), Arc::downgrade(control), inbox));
        }
        shadow
    }

    /// Puts a copy into the queue, if there is room.
    pub fn offer(&self, copied: Copied) {
        if self.queue.try_send(copied).is_err() {
            self.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// What was seen; `None` when nothing is copied.
    pub fn report(&self) -> Option<ShadowStatus> {
        let read = |count: &AtomicU64| count.load(Ordering::Relaxed);
        (self.share > 0.0).then(|| ShadowStatus {
            preempted: read(&self.tally.preempted),
            dropped: read(&self.dropped),
            failed: read(&self.failed),
            ..self.paired.lock().status()
        })
    }
}

async fn run(shadow: Weak<Shadow>, control: Weak<Control>, mut inbox: Receiver<Copied>) {
    while let Some(copied) = inbox.recv().await {
        let (Some(shadow), Some(control)) = (shadow.upgrade(), control.upgrade()) else { return };
        // Without a canary there is nobody to ask, and that is nobody's failure.
        let Ok(assignment) = control.route(None, Some(Arm::Canary), 0.0) else { continue };
        let task = || answer(&control, &shadow.admission, &assignment, &copied);
        match shadow.idle.run(&shadow.tally, TRIES, task).await {
            Some(Ok((canary, log_probability))) => {
                shadow.paired.lock().add(&copied.stable, &canary, log_probability);
            }
            Some(Err(error)) => {
                tracing::debug!(%error, "the canary failed a copied request");
                shadow.failed.fetch_add(1, Ordering::Relaxed);
            }
            None => {
                shadow.dropped.fetch_add(1, Ordering::Relaxed);
            }
        }
    }
}

type Heard = Result<(Answer, Option<f64>), NotRun>;

/// The canary's answer, and how likely it held stable's. Dropping the future cancels the sequence.
async fn answer(
    control: &Control,
    admission: &Admission,
    assignment: &Assignment,
    copied: &Copied,
) -> Heard {
    let deployment = &assignment.deployment;
    let prepared = prepare(&copied.request, deployment, None, admission, SystemTime::now()).await?;
    let said = copied.stable.tokens.len();
    let comparable = said > 0
        && prepared.ids.len() + said < deployment.max_len()
        && speaks_alike((control, admission), assignment, copied, &prepared).await;
    let asked = [prepared.ids.as_slice(), &copied.stable.tokens].concat();
    let (answer, _) = run_sequence(control.engine(), deployment, prepared.clone(), false).await?;
    if !comparable {
        return Ok((answer, None));
    }
    let params = SamplingParams { score_last: said, ..prepared.params };
    let scoring = Prepared { ids: asked, params, max_new_tokens: 1, ..prepared };
    let (_, scores) = run_sequence(control.engine(), deployment, scoring, false).await?;
    let mean = scores.iter().map(|score| f64::from(score.logprob)).sum::<f64>()
        / scores.len().max(1) as f64;
    Ok((answer, (!scores.is_empty()).then_some(mean)))
}

/// Whether both models have the same number of tokens, and the prompt is the same ids to both: then the
/// ids of stable's reply mean the same to the canary.
async fn speaks_alike(
    (control, admission): (&Control, &Admission),
    assignment: &Assignment,
    copied: &Copied,
    canary: &Prepared,
) -> bool {
    let Ok(stable) = control.fallback() else { return false };
    let prepared =
        prepare(&copied.request, &stable.deployment, None, admission, SystemTime::now()).await;
    prepared.is_ok_and(|stable| stable.ids == canary.ids)
        && stable.deployment.capacity.vocab == assignment.deployment.capacity.vocab
}
