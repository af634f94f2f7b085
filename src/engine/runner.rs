//! The seam between scheduling and tensors: two methods, and the real implementation over the decoder.
//!
//! The scripted counterpart for tests is in `fake`. A runner is driven from one thread only.

use crate::device::Batch;
use crate::model::{Decoder, Draw, sampler};

/// What a runner can hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Capacity {
    pub blocks: usize,
    /// Tokens per block.
    pub block_size: usize,
    pub vocab: usize,
    /// Longest sequence that the model was made for, in tokens.
    pub max_len: usize,
}

impl Capacity {
    /// Longest sequence that fits both the model and the KV cache.
    pub fn longest(&self) -> usize {
        self.max_len.min(self.blocks * self.block_size)
    }
}

/// Result for one row that asked for a token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sampled {
    Token(u32),
    NonFinite,
}

/// A step that failed as a whole. The lane goes on with other sequences.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RunError {
    #[error("out of memory")]
    OutOfMemory,
    #[error("{0}")]
    Step(String),
}

/// Runs steps of one loaded model.
pub trait Runner: Send {
    fn capacity(&self) -> Capacity;

    /// Computes the batch and samples one token for each row with `sample`, in row order; `draws` has one
    /// entry for each of these.
    fn forward(&mut self, batch: &Batch, draws: &[Draw<'_>]) -> Result<Vec<Sampled>, RunError>;
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
        }
    }

    fn forward(&mut self, batch: &Batch, draws: &[Draw<'_>]) -> Result<Vec<Sampled>, RunError> {
        check(batch, &self.capacity())?;
        let vocab = self.decoder.config().vocab;
        let mut logits = self.decoder.forward(batch).map_err(|e| RunError::Step(e.to_string()))?;
        let rows = logits.chunks_exact_mut(vocab).zip(draws);
        Ok(rows.map(|(row, draw)| to_sampled(sampler::sample(row, draw))).collect())
    }
}

fn to_sampled(result: Result<u32, sampler::NonFinite>) -> Sampled {
    result.map_or(Sampled::NonFinite, Sampled::Token)
}

/// An index out of range would be a fault that no device survives; it is stopped here.
fn check(batch: &Batch, capacity: &Capacity) -> Result<(), RunError> {
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
