//! A scripted runner: the whole server, router and rollout can be tested with it, fast and exactly.
//!
//! Generates the tokens it is told to, takes the time it is told to, and fails where it is told to. Sees
//! the same batches as a real runner, holds no weights.

use super::runner::{Capacity, RunError, Runner, Sampled};
use crate::device::Batch;
use crate::model::{Draw, sampler};
use std::time::Duration;

/// What a fake model does.
#[derive(Debug, Clone)]
pub struct FakeScript {
    pub capacity: Capacity,
    /// Reply tokens, in order; `eos` follows the last.
    pub reply: Vec<u32>,
    pub eos: u32,
    /// Time that each step takes.
    pub step_time: Duration,
    /// A prompt that holds this id yields NaN logits.
    pub nan_on: Option<u32>,
    /// A step with a prompt that holds this id fails as a whole.
    pub fail_on: Option<u32>,
    /// A step with a prompt that holds this id panics.
    pub panic_on: Option<u32>,
    /// Share of sequences (by seed) whose logits are NaN from the first token on.
    pub nan_share: f64,
}

impl FakeScript {
    /// Replies `reply` to everything, without delay or fault.
    pub fn replying(reply: &[u32], eos: u32, capacity: Capacity) -> FakeScript {
        FakeScript {
            capacity,
            reply: reply.to_vec(),
            eos,
            step_time: Duration::ZERO,
            nan_on: None,
            fail_on: None,
            panic_on: None,
            nan_share: 0.0,
        }
    }

    fn next(&self, draw: &Draw<'_>) -> Sampled {
        let unlucky = sampler::uniform(draw.params.seed, u64::MAX) < self.nan_share;
        if unlucky || self.nan_on.is_some_and(|id| draw.tokens.contains(&id)) {
            return Sampled::NonFinite;
        }
        let done = draw.tokens.len() - draw.prompt_len;
        Sampled::Token(self.reply.get(done).copied().unwrap_or(self.eos))
    }
}

/// Plays a [`FakeScript`].
pub struct FakeRunner {
    script: FakeScript,
    /// Stands in for weights and KV cache, so that memory figures are not trivially zero.
    _memory: Vec<u8>,
}

impl FakeRunner {
    /// `memory`: bytes to hold while loaded.
    pub fn new(script: FakeScript, memory: usize) -> FakeRunner {
        FakeRunner { script, _memory: vec![1; memory] }
    }
}

impl Runner for FakeRunner {
    fn capacity(&self) -> Capacity {
        self.script.capacity
    }

    fn forward(&mut self, batch: &Batch, draws: &[Draw<'_>]) -> Result<Vec<Sampled>, RunError> {
        if !self.script.step_time.is_zero() {
            std::thread::sleep(self.script.step_time);
        }
        let holds = |id: Option<u32>| id.is_some_and(|id| batch.tokens.contains(&id));
        if holds(self.script.panic_on) {
            std::panic::panic_any("scripted panic");
        }
        if holds(self.script.fail_on) {
            return Err(RunError::Step("scripted failure".into()));
        }
        Ok(draws.iter().map(|draw| self.script.next(draw)).collect())
    }
}
