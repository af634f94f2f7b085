//! The runner for a decoder on a GPU: token ids in, token ids out; the logits stay on the GPU.
//!
//! Some rows need results that the GPU kernels do not compute: scores of given tokens, log-probabilities, lists of
//! allowed tokens, or changes to more tokens than the device buffer holds. For such a row, only its logits are
//! copied and the host does the rest. Steps in which every row decodes one token without such needs are replayed as
//! CUDA graphs. The time of a step is measured on the GPU, from the first launch to the last. The host's time would
//! only show how long launching took.

use super::runner::{
    Capacity, Finished, Progress, Results, RowTask, RunError, Runner, Sampled, Ticket, check,
    row_tasks,
};
use crate::device::{Batch, CardReport, CardUsage};
use crate::model::{CardDecoder, Draw, TokenRules, sampler};
use serin_kernels::cuda::CardError;
use serin_kernels::cuda::sample::{NON_FINITE, RowParams, TokenEdit};

/// The runner over a [`CardDecoder`].
pub struct CardRunner {
    decoder: CardDecoder,
    params: Vec<RowParams>,
    edits: Vec<TokenEdit>,
}

impl CardRunner {
    /// A runner for a decoder whose weights are already on the GPU.
    pub fn new(decoder: CardDecoder) -> CardRunner {
        CardRunner { decoder, params: Vec::new(), edits: Vec::new() }
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

    fn enqueue(&mut self, batch: &Batch, draws: &[Draw<'_>]) -> Result<Ticket, RunError> {
        check(batch, &self.capacity())?;
        let begun = self.begin(batch, draws).inspect_err(|_| self.decoder.wait());
        begun.map(Ticket).map_err(failed)
    }

    fn finish(
        &mut self,
        ticket: Ticket,
        batch: &Batch,
        draws: &[Draw<'_>],
    ) -> Result<Finished, RunError> {
        let results = self.end(ticket.0, batch, draws).inspect_err(|_| self.decoder.wait());
        let results = results.map_err(failed)?;
        let device_time = Some(self.decoder.read_timer().map_err(failed)?);
        Ok(Finished { results, device_time })
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
        self.decoder.start_timer()?;
        let row_tasks = all_row_tasks(batch, draws);
        let progress = if self.is_plain_decode(batch, &row_tasks) {
            self.tell(&row_tasks);
            self.decoder.decode(batch, &self.params, &self.edits)?;
            Progress::Draws(row_tasks.len())
        } else {
            self.decoder.forward(batch)?;
            Progress::Layers
        };
        self.decoder.stop_timer()?;
        Ok(progress)
    }

    /// Reads the tokens that the GPU sampled, or processes the logits of all rows in pieces that fit the
    /// buffer.
    fn end(
        &mut self,
        progress: Progress,
        batch: &Batch,
        draws: &[Draw<'_>],
    ) -> Result<Vec<Sampled>, CardError> {
        self.decoder.enter()?;
        match progress {
            Progress::Done(results) => return Ok(results),
            Progress::Draws(rows) => {
                return Ok(self.decoder.ids(rows)?.into_iter().map(sampled).collect());
            }
            Progress::Layers => {}
        }
        let mut row_tasks = all_row_tasks(batch, draws);
        let mut results = Results::default();
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

    fn room(&self) -> Room {
        Room { edits: self.decoder.edit_room(), vocab: self.decoder.config().vocab }
    }

    /// Whether each row decodes one token, and the GPU can sample it.
    fn is_plain_decode(&self, batch: &Batch, row_tasks: &[RowTask<'_>]) -> bool {
        let mut room = self.room();
        row_tasks.len() == batch.rows.len()
            && batch.rows.iter().enumerate().all(|(i, row)| row.len == 1 && row.start == i)
            && row_tasks.iter().all(|task| draws_on_card(task, &mut room))
    }

    /// Processes the rows of logits that are on the GPU.
    fn take(
        &mut self,
        row_tasks: Vec<RowTask<'_>>,
        results: &mut Results,
    ) -> Result<(), CardError> {
        let mut copies = Vec::with_capacity(row_tasks.len());
        let mut room = self.room();
        for (row, task) in row_tasks.iter().enumerate() {
            copies.push(match draws_on_card(task, &mut room) {
                true => None,
                false => {
                    let mut logits = vec![0.0; room.vocab];
                    self.decoder.read_logits(row, &mut logits)?;
                    Some(logits)
                }
            });
        }
        self.tell(&row_tasks);
        let ids = match copies.iter().any(Option::is_none) {
            true => {
                self.decoder.sample(&self.params, &self.edits)?;
                self.decoder.ids(row_tasks.len())?
            }
            false => vec![NON_FINITE; row_tasks.len()],
        };
        for ((task, copy), id) in row_tasks.into_iter().zip(copies).zip(ids) {
            match copy {
                Some(mut logits) => results.take(&mut logits, task),
                None => results.done.push(sampled(id)),
            }
        }
        Ok(())
    }

    /// The sampling parameters of each row for the GPU; rows that are sampled on the host get the cheapest
    /// ones.
    fn tell(&mut self, row_tasks: &[RowTask<'_>]) {
        self.params.clear();
        self.edits.clear();
        let mut room = self.room();
        for task in row_tasks {
            let on_card = draws_on_card(task, &mut room);
            let params = match task {
                RowTask::Sample(draw) if on_card => row_params(draw, &mut self.edits),
                _ => RowParams { repetition_penalty: 1.0, ..RowParams::default() },
            };
            self.params.push(params);
        }
    }
}

/// What the rows of a step need from their logits, in order.
fn all_row_tasks<'a>(batch: &'a Batch, draws: &'a [Draw<'a>]) -> Vec<RowTask<'a>> {
    let rows = batch.rows.iter().filter(|row| row.wanted() > 0).zip(draws);
    rows.flat_map(|(row, draw)| row_tasks(row, draw)).collect()
}

/// The room for edits that the rows of a step have left.
struct Room {
    edits: usize,
    vocab: usize,
}

/// Whether the GPU can sample this row, given the room left for edits.
fn draws_on_card(task: &RowTask<'_>, room: &mut Room) -> bool {
    let RowTask::Sample(draw) = task else { return false };
    // Upper bounds: a token that occurs twice is listed once.
    let occurred = if draw.params.penalises() { draw.tokens.len() } else { 0 };
    let changed = draw.params.rules.as_deref().map_or(Some(0), most_biases);
    let listed = changed.filter(|changed| *changed < room.vocab).map(|changed| occurred + changed);
    let Some(listed) = listed.filter(|listed| *listed <= room.edits) else { return false };
    if draw.params.logprobs.is_some() {
        return false;
    }
    room.edits -= listed;
    true
}

/// Most tokens that the rules change at once; `None`: nearly all.
fn most_biases(rules: &TokenRules) -> Option<usize> {
    let TokenRules { bias, allowed, bad_words, ends, .. } = rules;
    allowed.is_none().then_some(bias.len() + bad_words.len() + ends.len())
}

/// Sampling parameters as the GPU kernel reads them; the edits are appended to the list.
fn row_params(draw: &Draw<'_>, edits: &mut Vec<TokenEdit>) -> RowParams {
    let params = draw.params;
    let first = edits.len();
    let (prompt, reply) = draw.split();
    let biases = params.rules.as_ref().map(|rules| rules.biases(reply)).unwrap_or_default();
    match params.penalises() {
        true => edits.extend(TokenEdit::list(prompt, reply, &biases)),
        false => edits.extend(TokenEdit::list(&[], &[], &biases)),
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
        edits: (edits.len() - first) as u32,
        ..RowParams::default()
    };
    row.with_uniform(sampler::uniform(params.seed, draw.tokens.len() as u64))
}

fn sampled(id: u32) -> Sampled {
    match id {
        NON_FINITE => Sampled::NonFinite,
        id => Sampled::token(id),
    }
}
