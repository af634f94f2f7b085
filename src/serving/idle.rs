//! Runs work on the models while the device is idle.
//!
//! Such work begins only when no request is being answered, and is cancelled within one step of the model when a
//! request arrives. It is then retried a limited number of times. This file does not know what the work is.

use super::error::GatewayError;
use super::paired::Answer;
use super::prepare::Prepared;
use crate::engine::{EngineHandle, Fault, Refusal, SeqEvent, SeqRequest};
use crate::grammar::Guided;
use crate::model::Score;
use crate::routing::Deployment;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;
use tokio::sync::mpsc::unbounded_channel;
use tokio::sync::watch;

/// Counts the requests that are being answered, and has one task run at a time.
#[derive(Clone, Default)]
pub(super) struct Idle {
    live: Arc<watch::Sender<usize>>,
    turn: Arc<tokio::sync::Mutex<()>>,
}

#[derive(Debug, Default)]
pub(super) struct Tally {
    /// Times that one gave way.
    pub preempted: AtomicU64,
    /// How long they ran, in microseconds, those included that gave way.
    pub micros: AtomicU64,
}

/// Why a sequence came to no end.
#[derive(Debug, thiserror::Error)]
pub(super) enum NotRun {
    #[error(transparent)]
    Unprepared(#[from] GatewayError),
    #[error(transparent)]
    Refused(Refusal),
    #[error(transparent)]
    Failed(Fault),
    #[error("the engine has stopped")]
    Stopped,
}

/// A request that is being answered; others keep out of its way until it is dropped.
pub(super) struct Live(Idle);

impl Idle {
    /// Notes that a request is being answered.
    pub fn live(&self) -> Live {
        // Whoever waits is woken only where it matters to them: a busy server wakes nobody.
        self.live.send_if_modified(|live| {
            *live += 1;
            *live == 1
        });
        Live(self.clone())
    }

    /// Runs `task` while no request is being answered. It gives way to requests, which drops the future and is counted,
    /// and then begins again; `None` after `tries` attempts.
    pub async fn run<F: Future>(
        &self,
        tally: &Tally,
        tries: u32,
        task: impl Fn() -> F,
    ) -> Option<F::Output> {
        let mut live = self.live.subscribe();
        for _ in 0..tries {
            let _turn = self.turn.lock().await;
            // The sender lives as long as this.
            live.wait_for(|live| *live == 0).await.ok()?;
            let begun = Instant::now();
            let done = tokio::select! {
                biased;
                _ = live.wait_for(|live| *live > 0) => None,
                done = task() => Some(done),
            };
            let micros = begun.elapsed().as_micros() as u64;
            tally.micros.fetch_add(micros, Ordering::Relaxed);
            if done.is_some() {
                return done;
            }
            tally.preempted.fetch_add(1, Ordering::Relaxed);
        }
        None
    }
}

impl Drop for Live {
    fn drop(&mut self) {
        self.0.live.send_if_modified(|live| {
            *live -= 1;
            *live == 0
        });
    }
}

/// Runs one sequence on `deployment` to its end: its tokens, and the scores if any were asked for. Dropping the future
/// cancels the sequence.
pub(super) async fn run_sequence(
    engine: &EngineHandle,
    deployment: &Deployment,
    prepared: Prepared,
    background: bool,
) -> Result<(Answer, Vec<Score>), NotRun> {
    let (events, mut inbox) = unbounded_channel();
    let request = SeqRequest {
        tag: 0,
        prompt: prepared.ids,
        params: prepared.params,
        max_new_tokens: prepared.max_new_tokens,
        stop_ids: prepared.stop_ids,
        cache_salt: 0,
        events,
        background,
        guide: prepared.guided.as_ref().map(Guided::guide),
        arrived: Instant::now(),
    };
    let submitted = engine.submit(deployment.lane, vec![request]);
    submitted.map_err(|_| NotRun::Stopped)?;
    let (mut answer, mut scores) = (Answer::default(), Vec::new());
    while let Some(event) = inbox.recv().await {
        match event {
            SeqEvent::Started { .. } => {}
            SeqEvent::Scored { scores: all, .. } => scores = all,
            SeqEvent::Token { id, .. } => answer.tokens.push(id),
            SeqEvent::Finished { timings, .. } => {
                answer.ttft = timings.first_token.unwrap_or(timings.total);
                answer.per_token = timings.per_token();
                return Ok((answer, scores));
            }
            SeqEvent::Failed { fault, .. } => return Err(NotRun::Failed(fault)),
            SeqEvent::Refused { why, .. } => return Err(NotRun::Refused(why)),
        }
    }
    Err(NotRun::Stopped)
}
