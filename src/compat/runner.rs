//! The runner of the compatibility lane. A slot is an instance of candle's model. The scheduler sees a slot as one KV
//! block that is as long as the longest sequence.
//!
//! So a sequence gets its slot when it is admitted, never needs another, and is never preempted. A block is never full
//! while its sequence runs, so the prefix cache has nothing to share. The rows of a step are computed one by one. An
//! instance is taken out of its slot while it computes. If anything goes wrong, the slot stays empty and only its
//! sequence fails; the slot's next sequence begins with a new instance.

use super::models::Instance;
use super::plan::Plan;
use super::table::Chunks;
use super::threads::Threads;
use super::weights::said;
use crate::device::{Batch, Row};
use crate::engine::runner::{Results, check, row_tasks};
use crate::engine::{Capacity, PendingStep, RunError, Runner};
use crate::model::Draw;
use candle_core::{DType, Device, Result, Tensor};
use std::panic::{AssertUnwindSafe, catch_unwind};

/// Makes another instance of a loaded model.
pub type Make = Box<dyn Fn() -> Result<Box<dyn Instance>> + Send + Sync>;

/// Runs one model.
pub struct CompatRunner {
    slots: Vec<Slot>,
    make: Make,
    plan: Plan,
    vocab: usize,
    chunks: Chunks,
    /// The last field: its threads end when everything that they made is gone.
    threads: Threads,
}

#[derive(Default)]
struct Slot {
    /// `None` before the first use, and after anything went wrong.
    instance: Option<Box<dyn Instance>>,
    /// Tokens that the instance has been fed.
    fed: usize,
}

impl CompatRunner {
    /// A runner whose instances come from `make`. One is made and tried at once. Fails, with the reason, if it cannot
    /// be made or cannot compute a token.
    pub fn new(
        make: Make,
        plan: Plan,
        vocab: usize,
        chunks: Chunks,
        threads: Threads,
    ) -> std::result::Result<CompatRunner, String> {
        let slots = (0..plan.slots).map(|_| Slot::default()).collect();
        let mut runner = CompatRunner { slots, make, plan, vocab, chunks, threads };
        runner.begin(0)?;
        runner.feed(0, &[0], 0)?;
        Ok(runner)
    }

    fn begin(&mut self, slot: usize) -> std::result::Result<(), String> {
        let (threads, make, slot) = (&self.threads, &self.make, &mut self.slots[slot]);
        let kept = slot.instance.take();
        let instance = caught(threads, move || {
            match kept.and_then(|mut kept| kept.clear().then_some(kept)) {
                Some(cleared) => Ok(cleared),
                None => make(),
            }
        })?;
        (slot.instance, slot.fed) = (Some(instance), 0);
        Ok(())
    }

    /// Feeds tokens to a slot's instance, and returns the logits after the last of them.
    fn feed(
        &mut self,
        slot: usize,
        tokens: &[u32],
        offset: usize,
    ) -> std::result::Result<Vec<f32>, String> {
        let (threads, slot, vocab) = (&self.threads, &mut self.slots[slot], self.vocab);
        let mut instance = slot.instance.take().ok_or("an earlier step of this sequence failed")?;
        if slot.fed != offset {
            return Err(format!("the slot holds {} tokens instead of {offset}", slot.fed));
        }
        let (instance, logits) = caught(threads, move || {
            let input = Tensor::from_slice(tokens, (1, tokens.len()), &Device::Cpu)?;
            let logits = instance.forward(&input, offset)?;
            let logits = logits.flatten_all()?.to_dtype(DType::F32)?.to_vec1::<f32>()?;
            Ok((instance, logits))
        })?;
        if logits.len() != vocab {
            return Err(format!("the model gave {} logits instead of {vocab}", logits.len()));
        }
        slot.instance = Some(instance);
        slot.fed += tokens.len();
        Ok(logits)
    }

    /// Computes one row, and takes what is wanted of it.
    fn row(
        &mut self,
        batch: &Batch,
        row: &Row,
        draw: Option<&Draw<'_>>,
        results: &mut Results,
    ) -> std::result::Result<(), String> {
        let slot = batch.slots[row.start] as usize / self.plan.max_len;
        let mut at = row.context - row.len;
        if at == 0 {
            self.begin(slot)?;
        }
        let tokens = &batch.tokens[row.start..row.start + row.len];
        let mut tasks = draw.into_iter().flat_map(|draw| row_tasks(row, draw));
        // Only the last token of a piece has logits: where several are wanted, each is a piece.
        let apart = if row.scored > 0 { row.wanted() } else { 0 };
        let (together, apart) = tokens.split_at(row.len - apart);
        let mut last = None;
        for piece in together.chunks(piece_size(self.chunks, at, together.len())) {
            last = Some(self.feed(slot, piece, at)?);
            at += piece.len();
        }
        if let (Some(mut logits), true) = (last, apart.is_empty()) {
            tasks.by_ref().for_each(|task| results.take(&mut logits, task));
        }
        for token in apart.chunks(1) {
            let mut logits = self.feed(slot, token, at)?;
            at += 1;
            if let Some(task) = tasks.next() {
                results.take(&mut logits, task);
            }
        }
        Ok(())
    }
}

/// Tokens that may be fed together, at least 1.
fn piece_size(chunks: Chunks, offset: usize, tokens: usize) -> usize {
    let whole = match chunks {
        Chunks::Any => true,
        Chunks::First => offset == 0,
        Chunks::Single => false,
    };
    if whole { tokens.max(1) } else { 1 }
}

/// Runs candle on the model's threads; an error and a panic are texts.
fn caught<T: Send>(
    threads: &Threads,
    work: impl FnOnce() -> Result<T> + Send,
) -> std::result::Result<T, String> {
    let done = threads.run(|| catch_unwind(AssertUnwindSafe(work)));
    match done {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(error)) => Err(said(&error)),
        Err(panic) => {
            let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
            let text = text.or_else(|| panic.downcast_ref::<String>().cloned());
            let text = text.unwrap_or_default();
            Err(format!("candle's model panicked: {}", text.lines().next().unwrap_or_default()))
        }
    }
}

impl Runner for CompatRunner {
    fn capacity(&self) -> Capacity {
        Capacity {
            blocks: self.plan.slots,
            block_size: self.plan.max_len,
            vocab: self.vocab,
            max_len: self.plan.max_len,
            rope_switch: None,
        }
    }

    fn enqueue(
        &mut self,
        batch: &Batch,
        draws: &[Draw<'_>],
    ) -> std::result::Result<PendingStep, RunError> {
        check(batch, &self.capacity())?;
        let (mut results, mut draws) = (Results::default(), draws.iter());
        for row in &batch.rows {
            let draw = if row.wanted() > 0 { draws.next() } else { None };
            let before = results.done.len();
            if let Err(why) = self.row(batch, row, draw, &mut results) {
                tracing::warn!(%why, "a sequence failed on the compatibility lane");
                results.fail(row, before, &why);
            }
        }
        Ok(PendingStep::done(results.done))
    }

    /// Its rows do not share a step's cost, which the measurement is about.
    fn can_be_measured(&self) -> bool {
        false
    }

    fn kv_bytes(&self) -> u64 {
        self.plan.bytes()
    }

    fn slots(&self) -> Option<usize> {
        Some(self.plan.slots)
    }
}

#[cfg(test)]
mod tests;
