//! The interface between scheduling and tensors: a step is enqueued and later finished. Also the
//! implementation for the decoder on the CPU.
//!
//! `fake` has the scripted implementation for tests. A runner is used from one thread only.

use crate::device::{Batch, CardReport, CardUsage, Row, arena};
use crate::model::{Decoder, Draw, GuideFailed, Logprobs, SampleError, Score, logprobs, sampler};
use std::time::Duration;

/// The limits of a runner.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Capacity {
    /// Blocks of the KV cache, for all sequences together.
    pub blocks: usize,
    /// Tokens per block.
    pub block_size: usize,
    /// Number of token ids, and of logits per token.
    pub vocab: usize,
    /// The model's maximum sequence length, in tokens.
    pub max_len: usize,
    /// A sequence that grows beyond this length must be recomputed from its first token
    /// (`ModelConfig::rope_switch`).
    pub rope_switch: Option<usize>,
}

impl Capacity {
    /// Longest sequence in tokens that fits both the model and the KV cache.
    pub fn longest(&self) -> usize {
        self.max_len.min(self.blocks * self.block_size)
    }
}

/// One result of a step.
#[derive(Debug, Clone, PartialEq)]
pub enum Sampled {
    /// The token sampled for a row.
    Token {
        /// Its id, below [`Capacity::vocab`].
        id: u32,
        /// If the draw requested them.
        logprobs: Option<Box<Logprobs>>,
    },
    /// Of the given tokens after the row's scored ones, in order.
    Scores(Vec<Score>),
    /// Returned instead of either.
    NonFinite,
    /// No token: the guide of the row's sequence failed.
    Unguided(GuideFailed),
    /// Returned instead of either: this row failed, and no other. Says why.
    Failed(String),
}

impl Sampled {
    /// A token with no log-probabilities.
    pub fn token(id: u32) -> Sampled {
        Sampled::Token { id, logprobs: None }
    }
}

/// A step that failed as a whole. The lane continues with other sequences.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RunError {
    /// The device had too little memory for the step.
    #[error("out of memory")]
    OutOfMemory,
    /// Any other failure of the step: what happened.
    #[error("{0}")]
    Step(String),
    /// This process can no longer use the device: nothing on it can run again.
    #[error("the device has failed: {0}")]
    DeviceLost(String),
}

/// A step that has been enqueued but not finished.
#[derive(Debug)]
pub struct PendingStep(pub(super) Progress);

/// The state of a step when [`Runner::enqueue`] returns.
#[derive(Debug)]
pub(super) enum Progress {
    /// Everything has been computed.
    Done(Vec<Sampled>),
    /// The device computes everything, including the sampling. `rows`: how many of the likeliest tokens are reported for
    /// each row, if its log-probabilities are. `place`: of two, where the step's inputs and ids are.
    Draws { rows: Vec<Option<u8>>, place: usize },
    /// The device computes up to the logits of all rows.
    Logits,
    /// The device computes up to the last layer.
    Layers,
}

impl PendingStep {
    /// For a runner that has already computed the step.
    pub fn done(results: Vec<Sampled>) -> PendingStep {
        PendingStep(Progress::Done(results))
    }

    /// Whether the device computes the rest of the step without the host. Until it is finished, other runners may
    /// enqueue steps, and this runner one step ahead.
    pub fn is_on_its_own(&self) -> bool {
        matches!(self.0, Progress::Draws { .. })
    }
}

/// The result of a step.
#[derive(Debug, PartialEq)]
pub struct Finished {
    /// In the order that [`Runner::finish`] describes.
    pub results: Vec<Sampled>,
    /// The time that the device measured for the step, if it does; otherwise the caller measures the wait.
    pub device_time: Option<Duration>,
}

/// Runs the steps of one loaded model. Each is finished before the next is enqueued, except that one step may be
/// enqueued ahead of a step that [`PendingStep::is_on_its_own`], if it consists of rows with [`Row::drawn`].
pub trait Runner: Send {
    /// The limits of the model and of its KV cache; they never change.
    fn capacity(&self) -> Capacity;

    /// Begins to compute the batch. A device with its own queue returns long before the step is done. `draws`
    /// has one entry for each row that yields a result.
    fn enqueue(&mut self, batch: &Batch, draws: &[Draw<'_>]) -> Result<PendingStep, RunError>;

    /// Waits for the oldest step that is not finished. The batch is that of `enqueue`, and so are the draws, unless the
    /// step is on its own: then they are not looked at. Any error shows here at the latest.
    /// In row order, a row with `scored` tokens yields one `Scores`, and a row with `sample` one `Token`
    /// (after its scores, if it has both).
    fn finish(
        &mut self,
        pending: PendingStep,
        _batch: &Batch,
        _draws: &[Draw<'_>],
    ) -> Result<Finished, RunError> {
        match pending.0 {
            Progress::Done(results) => Ok(Finished { results, device_time: None }),
            other => Err(RunError::Step(format!("a step of another runner: {other:?}"))),
        }
    }

    /// Whether `enqueue` returns before the step is computed, as a device with its own queue does.
    fn has_queue(&self) -> bool {
        false
    }

    /// Whether its step times mean anything before there is traffic.
    fn can_be_measured(&self) -> bool {
        true
    }

    /// Bytes of the KV cache, all blocks together; part of the model's memory.
    fn kv_bytes(&self) -> u64 {
        0
    }

    /// The model's memory on a GPU; `None` if it is in host memory.
    fn card_usage(&self) -> Option<CardUsage> {
        None
    }

    /// Sequences that it runs at a time, if each has a place of its own instead of blocks: the compatibility lane.
    fn slots(&self) -> Option<usize> {
        None
    }

    /// Drops the model, and reports the GPU memory that this freed.
    fn unload(self: Box<Self>) -> Option<CardReport> {
        None
    }
}

/// The real runner on the CPU: a decoder, and sampling from its logits.
pub struct ModelRunner {
    decoder: Decoder,
}

impl ModelRunner {
    /// A runner that owns a loaded decoder.
    pub fn new(decoder: Decoder) -> ModelRunner {
        ModelRunner { decoder }
    }
}

impl Runner for ModelRunner {
    fn capacity(&self) -> Capacity {
        let (config, kv) = (self.decoder.config(), self.decoder.kv_shape());
        Capacity {
            blocks: kv.blocks,
            block_size: kv.block_size,
            vocab: config.vocab,
            max_len: config.max_len,
            rope_switch: config.rope_switch(),
        }
    }

    fn kv_bytes(&self) -> u64 {
        self.decoder.kv_bytes() as u64
    }

    fn enqueue(&mut self, batch: &Batch, draws: &[Draw<'_>]) -> Result<PendingStep, RunError> {
        check(batch, &self.capacity())?;
        let states = self.decoder.forward(batch);
        let mut results = Results::default();
        let (vocab, hidden) = (self.decoder.config().vocab, self.decoder.config().hidden);
        let rows = batch.rows.iter().filter(|row| row.wanted() > 0).zip(draws);
        let mut row_tasks = rows.flat_map(|(row, draw)| row_tasks(row, draw));
        for piece in states.chunks(HEAD_ROWS * hidden) {
            let logits = self.decoder.logits(piece);
            for (logits, task) in logits.chunks_exact_mut(vocab).zip(&mut row_tasks) {
                results.take(logits, task);
            }
        }
        Ok(PendingStep::done(results.done))
    }
}

/// Rows of logits held at once. Scoring a long text must not need all of them in memory.
const HEAD_ROWS: usize = 64;

/// What one row of logits is used for.
pub(crate) enum RowTask<'a> {
    /// The next token is drawn.
    Sample(&'a Draw<'a>),
    /// The score of the given next token; `top`: with so many most likely ones; `whole`: with all log-probabilities;
    /// `last`: no more tokens of this row are scored.
    Score { token: Option<u32>, top: usize, whole: bool, last: bool },
}

pub(crate) fn row_tasks<'a>(row: &Row, draw: &'a Draw<'a>) -> impl Iterator<Item = RowTask<'a>> {
    let (scored, next) = (row.scored, row.context + 1 - row.wanted());
    let score = move |i: usize| {
        let (at, params) = (next + i, draw.params);
        let whole = params.is_whole((at + params.score_last).saturating_sub(draw.prompt_len));
        let top = params.logprobs.unwrap_or(0).into();
        RowTask::Score { token: draw.tokens.get(at).copied(), top, whole, last: i + 1 == scored }
    };
    (0..scored).map(score).chain(row.sample.then_some(RowTask::Sample(draw)))
}

/// Results of a step, collected one row of logits at a time.
#[derive(Default)]
pub(crate) struct Results {
    pub done: Vec<Sampled>,
    /// Scores of the current row; `None` once a score was NaN.
    scores: Vec<Option<Score>>,
}

impl Results {
    /// A row failed, maybe after some of its logits were taken. `before`: the results before this row. Each result
    /// that it still owes says so.
    #[cfg(feature = "compat")]
    pub fn fail(&mut self, row: &Row, before: usize, why: &str) {
        self.scores.clear();
        let owed = usize::from(row.scored > 0) + usize::from(row.sample);
        self.done.resize(before + owed, Sampled::Failed(why.to_owned()));
    }

    /// Carries out a task on one row of logits, `[vocab]`, which are overwritten.
    pub fn take(&mut self, logits: &mut [f32], task: RowTask<'_>) {
        match task {
            RowTask::Sample(draw) => {
                let sampled = sampler::sample_with_logprobs(logits, draw);
                self.done.push(match sampled {
                    Ok((id, logprobs)) => Sampled::Token { id, logprobs },
                    Err(SampleError::NonFinite) => Sampled::NonFinite,
                    Err(SampleError::Guide(failed)) => Sampled::Unguided(failed),
                });
            }
            // Scores are kept by whoever asked for them, maybe for longer than the model lives: they are not its memory.
            RowTask::Score { token, top, whole, last } => arena::outside(|| {
                self.scores
                    .push(token.and_then(|token| logprobs::score(logits, token, top, whole)));
                if last {
                    let scores: Option<Vec<Score>> = self.scores.drain(..).collect();
                    self.done.push(scores.map_or(Sampled::NonFinite, Sampled::Scores));
                }
            }),
        }
    }
}

/// An index out of range would be a fault that no device survives; it is caught here.
pub(crate) fn check(batch: &Batch, capacity: &Capacity) -> Result<(), RunError> {
    let slots = (capacity.blocks * capacity.block_size) as u32;
    let bad =
        |what: &str, value: u32| Err(RunError::Step(format!("{what} {value} is out of range")));
    if let Some(&id) = batch.tokens.iter().find(|&&id| id as usize >= capacity.vocab) {
        return bad("token id", id);
    }
    if let Some(&p) = batch.positions.iter().find(|&&p| p as usize >= capacity.max_len) {
        return bad("position", p);
    }
    if let Some(&slot) = batch.slots.iter().find(|&&slot| slot >= slots) {
        return bad("KV slot", slot);
    }
    if let Some(&block) = batch.tables.iter().find(|&&block| block as usize >= capacity.blocks) {
        return bad("KV block", block);
    }
    Ok(())
}
