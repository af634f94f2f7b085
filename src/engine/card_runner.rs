//! The runner for a decoder on a GPU: token ids in, token ids out; the logits stay on the GPU.
//!
//! Some rows need results that the GPU kernels do not compute: scores of given tokens, or edits to more logits than the
//! device buffer holds. For these rows, the logits are copied to the host, which does the rest. A step in which every
//! row decodes one token and needs none of this is replayed as a CUDA graph.
//!
//! A mask of allowed tokens does not depend on any result of the step, but computing it may take a millisecond. So the
//! host computes the masks while the GPU computes the logits, and then launches the sampling.
//!
//! A step that needs nothing from the host runs on its own once it is launched. The next step may be launched before
//! the host waits for it, so inputs and results are double-buffered.
//!
//! The time of a step is measured on the GPU, from the first launch to the last. The host's time would only show how
//! long launching took.

use super::runner::{
    Capacity, Finished, PendingStep, Progress, Results, RowTask, RunError, Runner, Sampled, check,
    row_tasks,
};
use crate::device::{Batch, CardReport, CardUsage};
use crate::model::token_rules::leave_none;
use crate::model::{CardDecoder, Draw, GuideFailed, Logprobs, TokenMask, TokenRules, sampler};
use serin_kernels::cuda::CardError;
use serin_kernels::cuda::PLACES;
use serin_kernels::cuda::logprobs::RowLogprobs;
use serin_kernels::cuda::sample::{NO_MASK, NON_FINITE, RowParams, TokenEdit};
use std::time::Duration;

/// The runner over a [`CardDecoder`].
pub struct CardRunner {
    decoder: CardDecoder,
    inputs: SamplingInputs,
    /// Which places for a step's inputs and results have a step in flight. One that needs the host is not listed:
    /// nothing is enqueued before it is finished.
    taken: [bool; PLACES],
}

/// The inputs of the GPU kernel that samples the rows of a step.
#[derive(Debug, Default)]
struct SamplingInputs {
    /// One for each row.
    params: Vec<RowParams>,
    /// The edits of all rows.
    edits: Vec<TokenEdit>,
    /// The words of all masks, `[masked rows][ceil(vocab / 32)]`.
    masks: Vec<u32>,
}

/// Where a row's result comes from.
#[derive(Debug)]
enum Source {
    /// The id that the GPU sampled.
    Card,
    /// The row's logits, `[vocab]`, once they are copied.
    Host(Vec<f32>),
    /// There is none: the row's guide failed.
    Nowhere(GuideFailed),
}

impl CardRunner {
    /// A runner for a decoder whose weights are already on the GPU.
    pub fn new(decoder: CardDecoder) -> CardRunner {
        CardRunner { decoder, inputs: SamplingInputs::default(), taken: [false; PLACES] }
    }
}

impl Runner for CardRunner {
    fn capacity(&self) -> Capacity {
        let (config, plan) = (self.decoder.config(), self.decoder.plan());
        Capacity {
            blocks: plan.blocks,
            block_size: plan.block_size,
            vocab: config.vocab,
            max_len: config.max_len,
            rope_switch: config.rope_switch(),
        }
    }

    fn kv_bytes(&self) -> u64 {
        let plan = self.decoder.plan();
        plan.blocks as u64 * plan.block_bytes(self.decoder.config())
    }

    fn enqueue(&mut self, batch: &Batch, draws: &[Draw<'_>]) -> Result<PendingStep, RunError> {
        check(batch, &self.capacity())?;
        let begun = self.begin(batch, draws).inspect_err(|_| self.decoder.wait());
        let progress = begun.map_err(failed)?;
        if let Progress::Draws { place, .. } = &progress {
            self.taken[*place] = true;
        }
        Ok(PendingStep(progress))
    }

    fn finish(
        &mut self,
        pending: PendingStep,
        batch: &Batch,
        draws: &[Draw<'_>],
    ) -> Result<Finished, RunError> {
        let ended = self.end(pending.0, batch, draws).inspect_err(|_| self.decoder.wait());
        let (results, device_time) = ended.map_err(failed)?;
        Ok(Finished { results, device_time: Some(device_time) })
    }

    fn has_queue(&self) -> bool {
        true
    }

    fn card_usage(&self) -> Option<CardUsage> {
        Some(self.decoder.usage())
    }

    fn unload(self: Box<Self>) -> Option<CardReport> {
        let _ = self.decoder.enter();
        Some(self.decoder.close())
    }
}

fn failed(error: CardError) -> RunError {
    match error {
        CardError::OutOfMemory { .. } => RunError::OutOfMemory,
        CardError::Dead(why) => RunError::DeviceLost(why),
        CardError::Shape(what) | CardError::Other(what) => RunError::Step(what),
    }
}

impl CardRunner {
    /// Launches the part of a step that needs no result from the GPU.
    fn begin(&mut self, batch: &Batch, draws: &[Draw<'_>]) -> Result<Progress, CardError> {
        self.decoder.enter()?;
        let free = self.taken.iter().position(|taken| !taken);
        let place = free.ok_or_else(|| CardError::Shape("two steps are in flight".into()))?;
        self.decoder.use_place(place)?;
        self.decoder.start_timer()?;
        let row_tasks = all_row_tasks(batch, draws);
        let mut room = self.decoder.edit_room();
        let drawn = row_tasks.iter().all(|task| draws_on_card(task, &mut room));
        let masked = row_tasks.iter().any(is_masked);
        let decodes = row_tasks.len() == batch.rows.len() && batch.is_decode();
        let rows: Vec<Option<u8>> = row_tasks.iter().map(reported).collect();
        let logprobs = rows.iter().any(Option::is_some);
        let on_its_own = Progress::Draws { rows, place };
        let progress = if drawn && decodes && masked {
            self.decoder.decode_logits(batch)?;
            Progress::Logits
        } else if drawn && decodes {
            self.set_inputs(&row_tasks);
            self.decoder.decode(batch, &self.inputs.params, &self.inputs.edits, logprobs)?;
            on_its_own
        } else {
            self.decoder.forward(batch)?;
            match drawn && !masked && row_tasks.len() <= self.decoder.head_rows() {
                true => {
                    self.draw(&row_tasks, logprobs)?;
                    on_its_own
                }
                false => Progress::Layers,
            }
        };
        self.decoder.stop_timer()?;
        Ok(progress)
    }

    /// Launches the head and the sampling of a step's rows, all of which the GPU samples.
    fn draw(&mut self, row_tasks: &[RowTask<'_>], logprobs: bool) -> Result<(), CardError> {
        if row_tasks.is_empty() {
            return Ok(());
        }
        self.decoder.head(0, row_tasks.len())?;
        self.set_inputs(row_tasks);
        self.decoder.sample(&self.inputs.params, &self.inputs.edits, &[], logprobs)
    }

    /// Waits for the rest of a step; returns its results and its time on the GPU.
    fn end(
        &mut self,
        progress: Progress,
        batch: &Batch,
        draws: &[Draw<'_>],
    ) -> Result<(Vec<Sampled>, Duration), CardError> {
        if let Progress::Draws { place, .. } = &progress {
            self.taken[*place] = false;
        }
        self.decoder.enter()?;
        if let Progress::Draws { rows, place } = progress {
            let took = self.decoder.read_timer(place)?;
            return Ok((self.sampled(place, &rows)?, took));
        }
        let results = self.end_with_host(progress, all_row_tasks(batch, draws))?;
        // Nothing was enqueued in between, so the place is still the step's own.
        Ok((results, self.decoder.read_timer(self.decoder.place())?))
    }

    /// Launches what is left, in pieces whose logits fit the buffer, and does the host's part.
    fn end_with_host(
        &mut self,
        progress: Progress,
        mut row_tasks: Vec<RowTask<'_>>,
    ) -> Result<Vec<Sampled>, CardError> {
        let mut results = Results::default();
        match progress {
            Progress::Done(results) => return Ok(results),
            Progress::Logits => {
                self.take(row_tasks, &mut results)?;
                self.decoder.stop_timer()?;
                return Ok(results.done);
            }
            Progress::Layers | Progress::Draws { .. } => {}
        }
        let (mut first, at_once) = (0, self.decoder.head_rows());
        while !row_tasks.is_empty() {
            let rest = row_tasks.split_off(row_tasks.len().min(at_once));
            self.decoder.head(first, row_tasks.len())?;
            first += row_tasks.len();
            self.take(std::mem::replace(&mut row_tasks, rest), &mut results)?;
        }
        if first > 0 {
            self.decoder.stop_timer()?;
        }
        Ok(results.done)
    }

    /// Processes the rows of logits that the GPU computes. Their masks are found before anything waits for it.
    fn take(
        &mut self,
        row_tasks: Vec<RowTask<'_>>,
        results: &mut Results,
    ) -> Result<(), CardError> {
        let mut sources = self.set_inputs(&row_tasks);
        for (row, source) in sources.iter_mut().enumerate() {
            if let Source::Host(logits) = source {
                logits.resize(self.decoder.config().vocab, 0.0);
                self.decoder.read_logits(row, logits)?;
            }
        }
        let rows: Vec<Option<u8>> = row_tasks.iter().map(reported).collect();
        let drawn = match sources.iter().any(|source| matches!(source, Source::Card)) {
            true => {
                let SamplingInputs { params, edits, masks } = &self.inputs;
                self.decoder.sample(params, edits, masks, rows.iter().any(Option::is_some))?;
                self.decoder.wait_for_ids()?;
                self.sampled(self.decoder.place(), &rows)?
            }
            false => vec![Sampled::NonFinite; row_tasks.len()],
        };
        for ((task, source), drawn) in row_tasks.into_iter().zip(sources).zip(drawn) {
            match source {
                Source::Host(mut logits) => results.take(&mut logits, task),
                Source::Card => results.done.push(drawn),
                Source::Nowhere(failed) => results.done.push(Sampled::Unguided(failed)),
            }
        }
        Ok(())
    }

    /// What the GPU sampled in this place, once it has been waited for.
    fn sampled(&self, place: usize, rows: &[Option<u8>]) -> Result<Vec<Sampled>, CardError> {
        let ids = self.decoder.drawn(place, rows.len())?;
        if rows.iter().all(Option::is_none) {
            return Ok(ids.into_iter().map(|id| sampled(id, None)).collect());
        }
        let known = self.decoder.logprobs(place, rows.len())?;
        let of = |((id, row), known): ((u32, &Option<u8>), &RowLogprobs)| {
            sampled(id, row.map(|top| Box::new(logprobs(known, top))))
        };
        Ok(ids.into_iter().zip(rows).zip(&known).map(of).collect())
    }

    /// The sampling parameters of each row for the GPU; rows that it does not sample get the cheapest ones.
    fn set_inputs(&mut self, row_tasks: &[RowTask<'_>]) -> Vec<Source> {
        let (mut room, vocab) = (self.decoder.edit_room(), self.decoder.config().vocab);
        self.inputs.clear();
        let inputs = &mut self.inputs;
        let source = |task: &RowTask<'_>| match task {
            RowTask::Sample(draw) if draws_on_card(task, &mut room) => {
                inputs.add(draw, vocab).map_or_else(Source::Nowhere, |()| Source::Card)
            }
            _ => {
                inputs.add_cheapest();
                Source::Host(Vec::new())
            }
        };
        row_tasks.iter().map(source).collect()
    }
}

impl SamplingInputs {
    fn clear(&mut self) {
        self.params.clear();
        self.edits.clear();
        self.masks.clear();
    }

    /// Adds a row; the cheapest one if its guide fails.
    fn add(&mut self, draw: &Draw<'_>, vocab: usize) -> Result<(), GuideFailed> {
        let mask = draw.mask().inspect_err(|_| self.add_cheapest())?;
        let params = draw.params;
        let first = self.edits.len();
        let (prompt, reply) = draw.split();
        let mut biases = params.rules.as_ref().map(|rules| rules.biases(reply)).unwrap_or_default();
        if leave_none(&biases, mask.as_deref(), vocab) {
            biases.clear();
        }
        match params.penalises() {
            true => self.edits.extend(TokenEdit::list(prompt, reply, &biases)),
            false => self.edits.extend(TokenEdit::list(&[], &[], &biases)),
        }
        let row = RowParams {
            temperature: params.temperature,
            top_k: params.top_k,
            top_p: params.top_p,
            min_p: params.min_p,
            repetition_penalty: params.repetition_penalty,
            frequency_penalty: params.frequency_penalty,
            presence_penalty: params.presence_penalty,
            first_edit: first as u32,
            edits: (self.edits.len() - first) as u32,
            mask: mask.map_or(NO_MASK, |mask| self.add_mask(&mask, vocab)),
            ..RowParams::default()
        };
        let uniform = sampler::uniform(params.seed, draw.position() as u64);
        self.params.push(row.with_uniform(uniform));
        Ok(())
    }

    /// Adds a row whose id is not used.
    fn add_cheapest(&mut self) {
        self.params.push(RowParams { repetition_penalty: 1.0, ..RowParams::default() });
    }

    /// Adds the words of a mask, `[ceil(vocab / 32)]`; returns where they begin.
    fn add_mask(&mut self, mask: &TokenMask, vocab: usize) -> u32 {
        let (first, words) = (self.masks.len(), vocab.div_ceil(32));
        self.masks.extend(mask.words().iter().take(words));
        self.masks.resize(first + words, 0);
        first as u32
    }
}

/// What the rows of a step need from their logits, in order.
fn all_row_tasks<'a>(batch: &'a Batch, draws: &'a [Draw<'a>]) -> Vec<RowTask<'a>> {
    let rows = batch.rows.iter().filter(|row| row.wanted() > 0).zip(draws);
    rows.flat_map(|(row, draw)| row_tasks(row, draw)).collect()
}

/// Whether the GPU can sample this row, given the room that is left for edits.
fn draws_on_card(task: &RowTask<'_>, room: &mut usize) -> bool {
    let RowTask::Sample(draw) = task else { return false };
    // Upper bounds: a token that occurs twice is listed once.
    let occurred = if draw.params.penalises() { draw.tokens.len() } else { 0 };
    let listed = occurred + draw.params.rules.as_deref().map_or(0, most_biases);
    if listed > *room {
        return false;
    }
    *room -= listed;
    true
}

/// Whether only some tokens may be drawn for this row.
fn is_masked(task: &RowTask<'_>) -> bool {
    matches!(task, RowTask::Sample(draw) if draw.is_masked())
}

/// Most tokens that the rules change at once, besides those that they do not allow.
fn most_biases(rules: &TokenRules) -> usize {
    let TokenRules { bias, bad_words, ends, .. } = rules;
    bias.len() + bad_words.len() + ends.len()
}

/// How many of the likeliest tokens are reported for a sampled row, if its log-probabilities are.
fn reported(task: &RowTask<'_>) -> Option<u8> {
    match task {
        RowTask::Sample(draw) => draw.params.logprobs,
        RowTask::Score { .. } => None,
    }
}

/// The `top` likeliest tokens are reported.
fn logprobs(row: &RowLogprobs, top: u8) -> Logprobs {
    let normaliser = f64::from(row.most) + f64::from(row.sum).ln();
    let of = |logit: f32| (f64::from(logit) - normaliser) as f32;
    let count = (row.count as usize).min(usize::from(top));
    let listed = row.ids.iter().zip(&row.logits).take(count);
    Logprobs { token: of(row.drawn), top: listed.map(|(id, logit)| (*id, of(*logit))).collect() }
}

fn sampled(id: u32, logprobs: Option<Box<Logprobs>>) -> Sampled {
    match id {
        NON_FINITE => Sampled::NonFinite,
        id => Sampled::Token { id, logprobs },
    }
}

#[cfg(test)]
mod tests;
