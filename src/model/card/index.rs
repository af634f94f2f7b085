//! The inputs of a step's kernels: lists of integers, and the sampling parameters with their edits and masks.
//!
//! Each list has a fixed address, so that a CUDA graph finds the inputs of each replay in the same place.
//! Padding rows have no tokens and no context, and padding tokens are not written to any cache slot. The host writes
//! everything to its own memory, and the step's first kernel fetches it from there. It does not know about tensors.

use super::super::config::ModelConfig;
use super::plan::CardPlan;
use crate::device::{Batch, ModelPool};
use serin_kernels::cuda::embed::DRAWN;
use serin_kernels::cuda::rope::NO_SLOT;
use serin_kernels::cuda::sample::{RowParams, TokenEdit};
use serin_kernels::cuda::{Card, CardError, Rows, StepInputs, View};

/// The size of a step, including padding.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Width {
    /// Tokens, padding included.
    pub tokens: usize,
    /// Sequences, padding included.
    pub rows: usize,
    /// Most tokens in one row.
    pub longest: usize,
    /// Rows at the beginning that have one token each, in the order of the tokens.
    pub decodes: usize,
}

/// The sections of [`StepInputs`].
const LISTS: usize = 0;
const PARAMS: usize = 1;
const EDITS: usize = 2;
const MASKS: usize = 3;

/// Which part of it a step's first kernel reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum InputPart {
    /// The lists.
    Lists,
    /// The sampling parameters and the edits.
    Draws,
    /// The same, and the masks.
    MaskedDraws,
    /// The lists, the sampling parameters and the edits.
    Step,
}

/// The lists of a step, on the host and on the GPU.
pub(super) struct Index {
    tokens: usize,
    rows: usize,
    words: Vec<u32>,
    inputs: StepInputs,
}

impl Index {
    /// Room for the largest step of `plan`, on the host and on the GPU. Fails if memory is used up or the device fails.
    pub fn new(
        config: &ModelConfig,
        plan: &CardPlan,
        pool: &ModelPool,
    ) -> Result<Index, CardError> {
        let inputs = StepInputs::new(pool.card(), pool.pool(), rooms(config, plan))?;
        let words = Vec::with_capacity(list_words(plan));
        Ok(Index { tokens: plan.tokens, rows: plan.rows, words, inputs })
    }

    /// Fills a step's lists; rows of one token each are padded up to `padded`. Fails if the step is larger than
    /// planned.
    pub fn fill(
        &mut self,
        batch: &Batch,
        config: &ModelConfig,
        padded: Option<usize>,
    ) -> Result<Width, CardError> {
        let rows = padded.unwrap_or(batch.rows.len());
        let tokens = padded.unwrap_or(batch.tokens.len());
        let fits = tokens <= self.tokens
            && rows <= self.rows
            && batch.rows.len() <= rows
            && batch.tokens.len() <= tokens
            && self.tables_at() + batch.tables.len() <= self.lists().len();
        if !fits {
            let what = format!(
                "a step of {tokens} tokens, {rows} rows and {} blocks is larger than planned",
                batch.tables.len()
            );
            return Err(CardError::Shape(what));
        }
        let tables_at = self.tables_at();
        self.words.clear();
        self.words.resize(tables_at, 0);
        self.words.extend_from_slice(&batch.tables);
        let beyond = config.ropes.iter().find_map(|rope| rope.long.as_ref()).map(|l| l.beyond);
        self.put(0, &batch.tokens);
        self.put(1, &batch.positions);
        self.put(2, &batch.slots);
        self.words[2 * self.tokens + batch.slots.len()..3 * self.tokens].fill(NO_SLOT);
        for (i, row) in batch.rows.iter().enumerate() {
            let long = u32::from(beyond.is_some_and(|beyond| row.total > beyond));
            self.words[3 * self.tokens + row.start..][..row.len].fill(long);
            if let Some(before) = row.drawn {
                self.words[row.start] = DRAWN | before as u32;
            }
            let row = [row.start, row.len, row.context, row.table].map(|v| v as u32);
            self.words[4 * self.tokens + 4 * i..][..4].copy_from_slice(&row);
        }
        for i in batch.rows.len()..rows {
            self.words[4 * self.tokens + 4 * i] = i as u32;
        }
        let picks = 4 * (self.tokens + self.rows);
        for (i, token) in batch.wanted_tokens().enumerate() {
            self.words[picks + i] = token as u32;
        }
        let longest = batch.rows.iter().map(|row| row.len).max().unwrap_or(0);
        let decodes = if padded.is_some() { rows } else { batch.decodes() };
        self.inputs.write(LISTS, &self.words)?;
        Ok(Width { tokens, rows, longest, decodes })
    }

    /// From now on, the host writes to this one of its two places. Fails if there is no such place.
    pub fn use_place(&mut self, place: usize) -> Result<(), CardError> {
        self.inputs.use_place(place)
    }

    /// Sets the sampling parameters of the next rows, `[rows]`, and the edits that they refer to. Fails if there are
    /// more than planned.
    pub fn write_draws(
        &mut self,
        params: &[RowParams],
        edits: &[TokenEdit],
    ) -> Result<(), CardError> {
        self.inputs.write(PARAMS, params)?;
        self.inputs.write(EDITS, edits)
    }

    /// Sets the masks of the next rows, `[masked rows][ceil(vocab / 32)]`. Fails if there are more than planned.
    pub fn write_masks(&mut self, masks: &[u32]) -> Result<(), CardError> {
        self.inputs.write(MASKS, masks)
    }

    /// Copies what was written to the GPU. It may be overwritten once that is done. Fails if the launch fails.
    pub fn fetch(&mut self, card: &dyn Card, part: InputPart) -> Result<(), CardError> {
        let sections = match part {
            InputPart::Lists => LISTS..PARAMS,
            InputPart::Draws => PARAMS..EDITS + 1,
            InputPart::MaskedDraws => PARAMS..MASKS + 1,
            InputPart::Step => LISTS..EDITS + 1,
        };
        self.inputs.fetch(card, sections)
    }

    fn put(&mut self, section: usize, values: &[u32]) {
        self.words[section * self.tokens..][..values.len()].copy_from_slice(values);
    }

    fn tables_at(&self) -> usize {
        5 * self.tokens + 4 * self.rows
    }

    /// Token ids of the step, `[n]`.
    pub fn tokens(&self, n: usize) -> View<'_, u32> {
        self.section(0, n)
    }

    /// Positions of the step's tokens, `[n]`, counted from 0 in each sequence.
    pub fn positions(&self, n: usize) -> View<'_, u32> {
        self.section(1, n)
    }

    /// Slots of the step's tokens in the KV cache, `[n]`: block * block size + offset, or [`NO_SLOT`] for padding.
    pub fn slots(&self, n: usize) -> View<'_, u32> {
        self.section(2, n)
    }

    /// Non-zero for tokens of sequences that use the long frequencies of a rotary embedding.
    pub fn longs(&self, n: usize) -> View<'_, u32> {
        self.section(3, n)
    }

    /// Rows `first .. first + count`.
    pub fn rows(&self, first: usize, count: usize) -> Rows<'_> {
        let (all, tables) = (self.lists(), self.tables_at());
        Rows {
            count,
            rows: all.part(4 * (self.tokens + first), 4 * count),
            tables: all.part(tables, all.len() - tables),
        }
    }

    /// The tokens whose logits are needed, `first .. first + n` of them.
    pub fn picks(&self, first: usize, n: usize) -> View<'_, u32> {
        self.lists().part(4 * (self.tokens + self.rows) + first, n)
    }

    /// Sampling parameters of the first `n` rows, `[n]`.
    pub fn params(&self, n: usize) -> View<'_, RowParams> {
        self.inputs.section(PARAMS).part(0, n)
    }

    /// The edits of all rows.
    pub fn edits(&self) -> View<'_, TokenEdit> {
        self.inputs.section(EDITS)
    }

    /// The words of all masks, 32 tokens each: `[masked rows][ceil(vocab / 32)]`.
    pub fn masks(&self) -> View<'_, u32> {
        self.inputs.section(MASKS)
    }

    fn lists(&self) -> View<'_, u32> {
        self.inputs.section(LISTS)
    }

    fn section(&self, section: usize, n: usize) -> View<'_, u32> {
        self.lists().part(section * self.tokens, n)
    }
}

/// Bytes of all lists on the GPU.
pub(super) fn bytes(config: &ModelConfig, plan: &CardPlan) -> usize {
    4 * StepInputs::words(rooms(config, plan))
}

fn rooms(config: &ModelConfig, plan: &CardPlan) -> [usize; 4] {
    let words = |bytes: usize| bytes / 4;
    [
        list_words(plan),
        words(plan.head_rows * size_of::<RowParams>()),
        words(plan.edits * size_of::<TokenEdit>()),
        plan.rows * CardPlan::mask_words(config),
    ]
}

/// Words of all lists: tokens, positions, slots, long marks, rows, picks, tables.
fn list_words(plan: &CardPlan) -> usize {
    5 * plan.tokens + 4 * plan.rows + plan.rows * plan.longest.div_ceil(plan.block_size)
}
