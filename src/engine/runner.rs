//! The seam between scheduling and tensors: a step is enqueued and finished; and the real implementation over
//! the decoder on the CPU.
//!
//! The scripted counterpart for tests is in `fake`. A runner is driven from one thread only.

use crate::device::{Batch, CardReport, CardUsage, Row};
use crate::model::{Decoder, Draw, Logprobs, logprobs, sampler};
use std::time::Duration;

/// What a runner can hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Capacity {
    pub blocks: usize,
    /// Tokens per block.
    pub block_size: usize,
    pub vocab: usize,
    /// Longest sequence that the model was made for, in tokens.
    pub max_len: usize,
    /// A sequence that grows beyond so many tokens must be computed anew from its first
    /// (`ModelConfig::rope_switch`).
    pub rope_switch: Option<usize>,
}

impl Capacity {
    /// Longest sequence that fits both the model and the KV cache.
    pub fn longest(&self) -> usize {
        self.max_len.min(self.blocks * self.block_size)
    }
}

/// One result of a step.
#[derive(Debug, Clone, PartialEq)]
pub enum Sampled {
    Token {
        id: u32,
        /// If the draw asked for them.
        logprobs: Option<Box<Logprobs>>,
    },
    /// Log-probabilities of the known tokens after the row's scored ones, in order.
    Scores(Vec<f32>),
    /// In place of either.
    NonFinite,
}

impl Sampled {
    /// A token with no log-probabilities.
    pub fn token(id: u32) -> Sampled {
        Sampled::Token { id, logprobs: None }
    }
}

/// A step that failed as a whole. The lane goes on with other sequences.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RunError {
    #[error("out of memory")]
    OutOfMemory,
    #[error("{0}")]
    Step(String),
    /// The device cannot be used by this process any more: nothing that is on it runs again.
    #[error("the device has failed: {0}")]
    DeviceLost(String),
}

/// A step that has been enqueued and not finished.
#[derive(Debug)]
pub struct Ticket(pub(super) Progress);

/// How far a step is when [`Runner::enqueue`] returns.
#[derive(Debug)]
pub(super) enum Progress {
    /// Everything is computed.
    Done(Vec<Sampled>),
    /// The device computes everything, the draws of so many rows among it.
    Draws(usize),
    /// The device computes up to the last layer.
    Layers,
}

impl Ticket {
    /// Of a runner that has computed the step already.
    pub fn done(results: Vec<Sampled>) -> Ticket {
        Ticket(Progress::Done(results))
    }
}

/// What a step gave.
#[derive(Debug, PartialEq)]
pub struct Finished {
    pub results: Vec<Sampled>,
    /// The device's own time for the step, if it takes it; else whoever waited knows.
    pub device_time: Option<Duration>,
}

/// Runs steps of one loaded model: one at a time, each finished before the next is enqueued.
pub trait Runner: Send {
    fn capacity(&self) -> Capacity;

    /// Begins to compute the batch; on a device with a queue of its own it returns long before that is done.
    /// `draws` has one entry for each row that yields anything.
    fn enqueue(&mut self, batch: &Batch, draws: &[Draw<'_>]) -> Result<Ticket, RunError>;

    /// Waits for the step, which is given again as it was enqueued: whatever went wrong with it shows here at the
    /// latest. In row order, a row with `scored` tokens yields one `Scores`, and a row with `sample` one `Token`
    /// (after its scores, if it has both).
    fn finish(
        &mut self,
        ticket: Ticket,
        _batch: &Batch,
        _draws: &[Draw<'_>],
    ) -> Result<Finished, RunError> {
        match ticket.0 {
            Progress::Done(results) => Ok(Finished { results, device_time: None }),
            other => Err(RunError::Step(format!("a ticket of another runner: {other:?}"))),
        }
    }

    /// Whether the times of its steps mean anything before there is traffic.
    fn can_be_measured(&self) -> bool {
        true
    }

    /// What the model holds of a card's memory; `None` where it lives in the process's own.
    fn card_usage(&self) -> Option<CardUsage> {
        None
    }

    /// Drops the model, and says what that gave back to a card.
    fn unload(self: Box<Self>) -> Option<CardReport> {
        None
    }
}

/// The real runner: a decoder, and sampling on its logits.
pub struct ModelRunner {
    decoder: Decoder,
}

impl ModelRunner {
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

    fn enqueue(&mut self, batch: &Batch, draws: &[Draw<'_>]) -> Result<Ticket, RunError> {
        check(batch, &self.capacity())?;
        let failed = |e: candle_core::Error| RunError::Step(e.to_string());
        let states = self.decoder.forward(batch).map_err(failed)?;
        let mut results = Results::default();
        let (vocab, hidden) = (self.decoder.config().vocab, self.decoder.config().hidden);
        let rows = batch.rows.iter().filter(|row| row.wanted() > 0).zip(draws);
        let mut wishes = rows.flat_map(|(row, draw)| wishes(row, draw));
        for piece in states.chunks(HEAD_ROWS * hidden) {
            let logits = self.decoder.logits(piece).map_err(failed)?;
            for (logits, wish) in logits.chunks_exact_mut(vocab).zip(&mut wishes) {
                results.take(logits, wish);
            }
        }
        Ok(Ticket::done(results.done))
    }
}

/// Rows of logits held at once: scoring a long text must not need them all in memory.
const HEAD_ROWS: usize = 64;

/// What one row of logits is for.
pub(super) enum Wish<'a> {
    Sample(&'a Draw<'a>),
    /// The token that is known to follow; `last`: no more tokens of this row are scored.
    Score {
        token: Option<u32>,
        last: bool,
    },
}

pub(super) fn wishes<'a>(row: &Row, draw: &'a Draw<'a>) -> impl Iterator<Item = Wish<'a>> {
    let (scored, next) = (row.scored, row.context + 1 - row.wanted());
    let score = move |i: usize| {
        let token = draw.tokens.get(next + i).copied();
        Wish::Score { token, last: i + 1 == scored }
    };
    (0..scored).map(score).chain(row.sample.then_some(Wish::Sample(draw)))
}

/// Results of a step as they come in, one row of logits at a time.
#[derive(Default)]
pub(super) struct Results {
    pub done: Vec<Sampled>,
    /// Of the row being scored; `None` once a score was no number.
    scores: Vec<Option<f32>>,
}

impl Results {
    pub fn take(&mut self, logits: &mut [f32], wish: Wish<'_>) {
        match wish {
            Wish::Sample(draw) => {
                let sampled = sampler::sample_with_logprobs(logits, draw);
                let token = |(id, logprobs)| Sampled::Token { id, logprobs };
                self.done.push(sampled.map_or(Sampled::NonFinite, token));
            }
            Wish::Score { token, last } => {
                self.scores.push(token.and_then(|token| logprobs::of_token(logits, token)));
                if last {
                    let scores: Option<Vec<f32>> = self.scores.drain(..).collect();
                    self.done.push(scores.map_or(Sampled::NonFinite, Sampled::Scores));
                }
            }
        }
    }
}

/// An index out of range would be a fault that no device survives; it is stopped here.
pub(super) fn check(batch: &Batch, capacity: &Capacity) -> Result<(), RunError> {
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
