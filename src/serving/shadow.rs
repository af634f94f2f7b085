//! Shadow traffic: stable's requests copied to the canary while nobody else wants the device.
//!
//! Nobody is shown what comes of it, and no verdict counts it. A copy begins only when no request is being
//! answered, and is cancelled within one step of the model when one comes; it is then tried again a few
//! times. Knows the engine; which requests are copied is `rescue`'s business.

use super::admission::Admission;
use super::class::no_route;
use super::paired::{Answer, Paired};
use super::prepare::{Prepared, prepare};
use super::types::{GatewayError, GenerateRequest};
use crate::control::{Control, ShadowStatus};
use crate::engine::{SeqEvent, SeqRequest};
use crate::model::SamplingParams;
use crate::rollout::Arm;
use crate::routing::{Assignment, NoRoute};
use parking_lot::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::{Instant, SystemTime};
use tokio::sync::mpsc::{Receiver, Sender, channel, unbounded_channel};
use tokio::sync::watch;

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

/// The shadow's door and its figures.
pub(super) struct Shadow {
    /// The share of stable's requests to copy, 0 to 1.
    pub share: f64,
    queue: Sender<Copied>,
    /// Requests that are being answered.
    live: watch::Sender<usize>,
    paired: Mutex<Paired>,
    preempted: AtomicU64,
    dropped: AtomicU64,
    failed: AtomicU64,
    admission: Admission,
}

/// A request that is being answered; the shadow keeps out of its way until it is dropped.
pub(super) struct Live(Arc<Shadow>);

impl Shadow {
    /// Starts the task that puts copies to the canary. Must be called within a tokio runtime.
    pub fn start(share: f64, control: &Arc<Control>, admission: Admission) -> Arc<Shadow> {
        let (queue, inbox) = channel(WAITING);
        let shadow = Arc::new(Shadow {
            share,
            queue,
            live: watch::channel(0).0,
            paired: Mutex::default(),
            preempted: AtomicU64::new(0),
            dropped: AtomicU64::new(0),
            failed: AtomicU64::new(0),
            admission,
        });
        if share > 0.0 {
            tokio::spawn(run(Arc::downgrade(&shadow), Arc::downgrade(control), inbox));
        }
        shadow
    }

    /// Notes that a request is being answered.
    pub fn live(self: &Arc<Self>) -> Live {
        self.live.send_modify(|live| *live += 1);
        Live(self.clone())
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
        let found = self.paired.lock().differences();
        (self.share > 0.0).then(|| ShadowStatus {
            pairs: found.map_or(0, |found| found.total),
            preempted: read(&self.preempted),
            dropped: read(&self.dropped),
            failed: read(&self.failed),
            ttft_ratio: found.map(|found| found.ttft_ratio),
            tpot_ratio: found.and_then(|found| found.per_token_ratio),
            length_ratio: found.map(|found| found.length_ratio),
            identical: found.map(|found| found.identical),
            divergence: found.and_then(|found| found.divergence),
            log_probability: found.and_then(|found| found.log_probability),
        })
    }
}

impl Drop for Live {
    fn drop(&mut self) {
        self.0.live.send_modify(|live| *live -= 1);
    }
}

async fn run(shadow: Weak<Shadow>, control: Weak<Control>, mut inbox: Receiver<Copied>) {
    while let Some(copied) = inbox.recv().await {
        let (Some(shadow), Some(control)) = (shadow.upgrade(), control.upgrade()) else { return };
        // Without a canary there is nobody to ask, and that is nobody's failure.
        let Ok(assignment) = control.route(None, Some(Arm::Canary), 0.0) else { continue };
        match one(&shadow, &control, &assignment, &copied).await {
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

type Heard = Result<(Answer, Option<f64>), GatewayError>;

/// Puts one copy to the canary while the device is idle; `None` when it gave way too often.
async fn one(
    shadow: &Shadow,
    control: &Control,
    assignment: &Assignment,
    copied: &Copied,
) -> Option<Heard> {
    let mut live = shadow.live.subscribe();
    for _ in 0..TRIES {
        // The sender lives as long as the shadow.
        live.wait_for(|live| *live == 0).await.ok()?;
        tokio::select! {
            biased;
            _ = live.wait_for(|live| *live > 0) => {
                shadow.preempted.fetch_add(1, Ordering::Relaxed);
            }
            heard = answer(control, &shadow.admission, assignment, copied) => return Some(heard),
        }
    }
    None
}

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
    let (answer, _) = hear(control, assignment, prepared.clone()).await?;
    if !comparable {
        return Ok((answer, None));
    }
    let params = SamplingParams { score_last: said, ..prepared.params };
    let scoring = Prepared { ids: asked, params, max_new_tokens: 1, ..prepared };
    let (_, scores) = hear(control, assignment, scoring).await?;
    let mean = scores.iter().copied().map(f64::from).sum::<f64>() / scores.len().max(1) as f64;
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

/// Runs one sequence on the canary: its tokens, and the scores if any were asked for.
async fn hear(
    control: &Control,
    assignment: &Assignment,
    prepared: Prepared,
) -> Result<(Answer, Vec<f32>), GatewayError> {
    let (events, mut inbox) = unbounded_channel();
    let request = SeqRequest {
        tag: 0,
        prompt: prepared.ids,
        params: prepared.params,
        max_new_tokens: prepared.max_new_tokens,
        stop_ids: prepared.stop_ids,
        cache_salt: 0,
        events,
        background: false,
        arrived: Instant::now(),
    };
    let submitted = control.engine().submit(assignment.deployment.lane, vec![request]);
    submitted.map_err(|error| GatewayError::Unavailable(error.to_string()))?;
    let (mut answer, mut scores) = (Answer::default(), Vec::new());
    while let Some(event) = inbox.recv().await {
        match event {
            SeqEvent::Started { .. } => {}
            SeqEvent::Scored { scores: all, .. } => {
                scores = all.iter().map(|score| score.logprob).collect();
            },
            SeqEvent::Token { id, .. } => answer.tokens.push(id),
            SeqEvent::Finished { timings, .. } => {
                answer.ttft = timings.first_token.unwrap_or(timings.total);
                answer.per_token = timings.per_token();
                return Ok((answer, scores));
            }
            SeqEvent::Failed { fault, .. } => return Err(GatewayError::Model(fault.to_string())),
            SeqEvent::Refused { why, .. } => {
                return Err(GatewayError::Unavailable(why.to_string()));
            }
        }
    }
    Err(no_route(NoRoute::NoCanary))
}
