//! The decoder on a GPU: the same model as `decoder`, with the kernels in `kernels/`.
//!
//! Reading order: `load` (copies weights to the GPU), `index` (the inputs of a step's kernels), `room` (every
//! buffer of a step, allocated once), `layer`, and here the forward pass.
//!
//! All buffers of a step are allocated before the first step and never move. So no step allocates or runs out
//! of memory, and a decoding step can be captured once as a CUDA graph and replayed. The code never branches
//! on the model family, only on properties in the config. All data are in one memory pool on the GPU, which
//! is freed with the model. Launches return before the work is done; functions that wait say so.

mod index;
mod layer;
mod load;
mod plan;
mod room;

pub use index::Width;
pub use load::weight_bytes;
pub use plan::CardPlan;

use super::config::ModelConfig;
use crate::device::{Batch, CardReport, CardUsage, ModelPool};
use index::{Index, InputPart};
use layer::{Layer, NormWeight};
use room::Room;
use serin_kernels::cuda::logprobs::{LogprobsBatch, RowLogprobs, after_sampling, before_sampling};
use serin_kernels::cuda::product::{Matrix, Output, multiply};
use serin_kernels::cuda::sample::{RowParams, SampleBatch, TokenEdit, sample};
use serin_kernels::cuda::{
    Buffer, Card, CardError, Graph, KvLayer, Mapped, PLACES, Stream, Timer, View,
};
use serin_kernels::cuda::{embed, norm, rope, rows};
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

/// A loaded model with its KV cache, and the pool that holds both.
pub struct CardDecoder {
    /// Before the pool: buffers are dropped first.
    model: Model,
    pool: ModelPool,
    /// The contents of the pool. It never changes, since steps allocate nothing.
    usage: CardUsage,
}

/// The data in the pool.
struct Model {
    card: Arc<dyn Card>,
    timers: [Timer; PLACES],
    /// The ids of the steps in flight, where the host reads them.
    host_ids: [Mapped<u32>; PLACES],
    /// Their log-probabilities, if they are wanted.
    host_logprobs: [Mapped<RowLogprobs>; PLACES],
    /// Where the inputs and ids of the next step are.
    place: usize,
    config: ModelConfig,
    plan: CardPlan,
    embedding: Arc<Matrix>,
    head: Arc<Matrix>,
    layers: Vec<Layer>,
    norm: NormWeight,
    cache: Vec<KvLayer>,
    ropes: Vec<Frequencies>,
    index: Index,
    room: Room,
    graphs: CapturedGraphs,
    stepped: bool,
}

/// The frequencies of one rotary embedding, and the angles of the current step.
struct Frequencies {
    inv_freq: Buffer<f32>,
    long: Option<Buffer<f32>>,
    factor: f32,
    cos: Buffer<f32>,
    sin: Buffer<f32>,
}

/// Captured decoding steps, by their extent, their width and their place.
enum CapturedGraphs {
    /// This GPU or model does not support graph capture: every step is launched.
    Off,
    /// `None`: steps of this kind have been launched, and the next one is captured. The first step is not
    /// captured, because the driver loads a kernel at its first launch, which is not allowed during a
    /// capture.
    Graphs(HashMap<(Extent, usize, usize), Option<Graph>>),
}

/// How much of a decoding step is launched or replayed at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Extent {
    /// All of it, up to the sampled ids, and to their log-probabilities if these are wanted.
    Ids { logprobs: bool },
    /// Up to the logits: the host has yet to find the masks that their sampling needs.
    Logits,
}

impl CardDecoder {
    /// The model's properties, as read from its files.
    pub fn config(&self) -> &ModelConfig {
        &self.model.config
    }

    /// The sizes that its buffers and its KV cache were allocated with.
    pub fn plan(&self) -> &CardPlan {
        &self.model.plan
    }

    /// Bytes of the pool once the model was loaded; steps do not change them.
    pub fn usage(&self) -> CardUsage {
        self.usage
    }

    fn card(&self) -> &Arc<dyn Card> {
        self.pool.card()
    }

    /// Makes the GPU usable from the calling thread. Fails if the device has failed.
    pub fn enter(&self) -> Result<(), CardError> {
        self.card().enter()
    }

    /// Rows of logits that are held at once. More rows have to be computed in several pieces.
    pub fn head_rows(&self) -> usize {
        self.model.plan.head_rows
    }

    /// Number of edits of logits per step that the GPU has room for.
    pub fn edit_room(&self) -> usize {
        self.model.plan.edits
    }

    /// The next step has its inputs and ids in this place, 0 or 1. The step before may be in flight in the other one.
    /// Fails if there is no such place.
    pub fn use_place(&mut self, place: usize) -> Result<(), CardError> {
        self.model.index.use_place(place)?;
        self.model.place = place;
        Ok(())
    }

    /// The place of the last step, 0 or 1.
    pub fn place(&self) -> usize {
        self.model.place
    }

    /// Marks the beginning of a step on the GPU's clock. Fails if the device has failed.
    pub fn start_timer(&mut self) -> Result<(), CardError> {
        self.model.timers[self.model.place].start()
    }

    /// Marks the end of a step. Fails if the device has failed.
    pub fn stop_timer(&mut self) -> Result<(), CardError> {
        self.model.timers[self.model.place].stop()
    }

    /// Waits for the end of the step in this place; returns the GPU time since its beginning. Fails if the device has
    /// failed.
    pub fn read_timer(&self, place: usize) -> Result<Duration, CardError> {
        self.model.timers[place].read()
    }

    /// The ids of the first `n` rows that were sampled in this place, once the step has been waited for; `u32::MAX` for
    /// rows with NaN logits. Fails if `n` is more than the plan's rows of logits.
    pub fn drawn(&self, place: usize, n: usize) -> Result<Vec<u32>, CardError> {
        let mut ids = vec![0; n];
        self.model.host_ids[place].read(0, &mut ids)?;
        Ok(ids)
    }

    /// The log-probabilities of the same rows, if they were wanted. Fails as [`CardDecoder::drawn`] does.
    pub fn logprobs(&self, place: usize, n: usize) -> Result<Vec<RowLogprobs>, CardError> {
        let mut rows = vec![RowLogprobs::default(); n];
        self.model.host_logprobs[place].read(0, &mut rows)?;
        Ok(rows)
    }

    /// Waits for the launched part of a step that failed, because the next step overwrites data that it still
    /// reads. If the wait fails, the next step will notice.
    pub fn wait(&self) {
        let _ = self.card().synchronise(Stream::Compute);
    }

    /// Launches a step up to the last layer. Token ids, positions, slots and blocks must be in range. The
    /// caller checks them (see `engine::runner`), and must have waited for the last step in the same place. Fails if
    /// the batch is larger than planned or a launch fails.
    pub fn forward(&mut self, batch: &Batch) -> Result<(), CardError> {
        let card = self.pool.card().clone();
        let width = self.model.index.fill(batch, &self.model.config, None)?;
        self.model.body(&*card, width, InputPart::Lists, false)
    }

    /// Launches the logits of the needed rows `first .. first + n` of the last [`CardDecoder::forward`], into
    /// the buffer that [`CardDecoder::sample`] and [`CardDecoder::read_logits`] use. Fails if a launch fails.
    pub fn head(&mut self, first: usize, n: usize) -> Result<(), CardError> {
        let card = self.pool.card().clone();
        self.model.head(&*card, first, n, false)
    }

    /// Waits for row `row` of the logits, `[vocab]`, and copies it. Fails if there is no such row, or if the device has
    /// failed.
    pub fn read_logits(&self, row: usize, out: &mut [f32]) -> Result<(), CardError> {
        self.model.room.logits.read(row * self.model.config.vocab, out)
    }

    /// Launches the sampling of one token id for each row of the logits, which are overwritten. `masks`:
    /// `[masked rows][ceil(vocab / 32)]`, where the parameters say. `logprobs`: log-probabilities are wanted. Fails if
    /// there are more rows, edits or masks than planned, or if a launch fails.
    pub fn sample(
        &mut self,
        params: &[RowParams],
        edits: &[TokenEdit],
        masks: &[u32],
        logprobs: bool,
    ) -> Result<(), CardError> {
        let (card, index) = (self.pool.card().clone(), &mut self.model.index);
        index.write_draws(params, edits)?;
        if masks.is_empty() {
            index.fetch(&*card, InputPart::Draws)?;
        } else {
            index.write_masks(masks)?;
            index.fetch(&*card, InputPart::MaskedDraws)?;
        }
        self.model.draw(&*card, params.len(), logprobs)
    }

    /// Waits for the sampling that was launched last. Fails if the device has failed.
    pub fn wait_for_ids(&self) -> Result<(), CardError> {
        self.card().synchronise(Stream::Compute)
    }

    /// Runs a whole decoding step, with one token and one sampled id per row, none of them masked. Replays a
    /// CUDA graph of this width if possible; otherwise launches the kernels. Fails if the batch is larger than planned,
    /// or if a launch fails.
    pub fn decode(
        &mut self,
        batch: &Batch,
        params: &[RowParams],
        edits: &[TokenEdit],
        logprobs: bool,
    ) -> Result<(), CardError> {
        let card = self.pool.card().clone();
        let (model, n) = (&mut self.model, params.len());
        let Some(padded) = model.plan.bucket(n) else {
            self.forward(batch)?;
            self.head(0, n)?;
            return self.sample(params, edits, &[], logprobs);
        };
        let width = model.index.fill(batch, &model.config, Some(padded))?;
        // Padding rows are sampled as well: with the cheapest parameters, not with leftover ones.
        let mut params = params.to_vec();
        params.resize(padded, RowParams { repetition_penalty: 1.0, ..RowParams::default() });
        model.index.write_draws(&params, edits)?;
        model.run(&*card, Extent::Ids { logprobs }, width)
    }

    /// As [`CardDecoder::decode`], up to the logits, `[rows][vocab]`: [`CardDecoder::sample`] follows. Fails as it
    /// does.
    pub fn decode_logits(&mut self, batch: &Batch) -> Result<(), CardError> {
        let card = self.pool.card().clone();
        let (model, n) = (&mut self.model, batch.rows.len());
        let Some(padded) = model.plan.bucket(n) else {
            self.forward(batch)?;
            return self.head(0, n);
        };
        let width = model.index.fill(batch, &model.config, Some(padded))?;
        model.run(&*card, Extent::Logits, width)
    }

    /// From now on every step is launched; used to compare replayed steps with launched ones.
    pub fn without_capture(mut self) -> CardDecoder {
        self.model.graphs = CapturedGraphs::Off;
        self
    }

    /// Drops the model and frees its GPU memory.
    pub fn close(self) -> CardReport {
        let CardDecoder { model, pool, usage } = self;
        drop(model);
        pool.close(usage)
    }
}

impl Model {
    /// Replays a decoding step if possible; otherwise launches its kernels.
    fn run(&mut self, card: &dyn Card, extent: Extent, width: Width) -> Result<(), CardError> {
        match self.replay(card, extent, width)? {
            true => Ok(()),
            false => self.launch(card, extent, width),
        }
    }

    fn launch(&mut self, card: &dyn Card, extent: Extent, width: Width) -> Result<(), CardError> {
        let part = match extent {
            Extent::Ids { .. } => InputPart::Step,
            Extent::Logits => InputPart::Lists,
        };
        let normed = self.norms_for_head(card, width.tokens);
        self.body(card, width, part, normed)?;
        self.head(card, 0, width.rows, normed)?;
        match extent {
            Extent::Ids { logprobs } => self.draw(card, width.rows, logprobs),
            Extent::Logits => Ok(()),
        }
    }

    /// Whether the last layer of a decoding step, whose tokens all have logits, norms its rows for the head.
    fn norms_for_head(&self, card: &dyn Card, n: usize) -> bool {
        let kind = self.head.input_kind(card, n);
        self.layers.last().is_some_and(|layer| layer.leaves_scale(kind, n))
    }

    /// From the step's inputs to the residual stream after the last layer, and with `norms` to the head's inputs.
    fn body(
        &mut self,
        card: &dyn Card,
        width: Width,
        part: InputPart,
        norms: bool,
    ) -> Result<(), CardError> {
        self.stepped = true;
        self.index.fetch(card, part)?;
        let Model { config, index, room, embedding, layers, ropes, .. } = self;
        let (tokens, drawn) = (width.tokens, room.ids.view());
        let scale = config.embedding_scale.unwrap_or(1.0);
        let x = room.x.first_mut(tokens * config.hidden);
        let norm = layers.first().and_then(|first| first.entry(card, tokens, &mut room.unscaled));
        let (listed, mut ropes) = (index.tokens(tokens), ropes.iter_mut());
        let turns = ropes.next().map(|rope| rope.turns(index, tokens));
        embed::embed(card, embedding, listed, drawn, tokens, scale, x, norm, turns)?;
        for rope in ropes {
            rope::angles(card, rope.turns(index, tokens))?;
        }
        let splits = |rows| self.plan.splits(rows);
        let step = layer::Step { card, width, index: &self.index, splits: &splits };
        if let Some(first) = self.layers.first() {
            first.begin(&step, &mut self.room)?;
        }
        for i in 0..self.layers.len() {
            let layer = &self.layers[i];
            let next = match self.layers.get(i + 1) {
                Some(next) => Some(next.first_norm(card, tokens)),
                None => norms.then(|| (&self.norm, self.head.input_kind(card, tokens))),
            };
            let rope = &self.ropes[layer.rope];
            layer.attend(&step, rope, &mut self.cache[i], &mut self.room)?;
            layer.feed(&step, next, &mut self.room)?;
        }
        Ok(())
    }

    /// `normed`: rows `first .. first + n` of the step are its tokens, and the last layer has normed them.
    fn head(
        &mut self,
        card: &dyn Card,
        first: usize,
        n: usize,
        normed: bool,
    ) -> Result<(), CardError> {
        let Model { config, index, room, head, norm, .. } = self;
        let (hidden, vocab) = (config.hidden, config.vocab);
        let kind = head.input_kind(card, n);
        let states = if normed {
            room.unscaled.get(kind, n, norm.eps)
        } else {
            let states = room.acts.get_mut(kind, n * hidden);
            let picks = Some(index.picks(first, n));
            norm::rms_norm(card, room.x.view(), picks, n, norm.on(), states)?;
            room.acts.get(kind, n * hidden).into()
        };
        let logits = room.logits.first_mut(n * vocab);
        multiply(card, head, states, n, Output::of(logits, vocab), None)?;
        match config.logit_cap {
            Some(cap) => rows::soft_cap(card, room.logits.first_mut(n * vocab), cap),
            None => Ok(()),
        }
    }

    fn draw(&mut self, card: &dyn Card, n: usize, logprobs: bool) -> Result<(), CardError> {
        if logprobs {
            let (batch, _) = logprobs_batch(&mut self.room, &self.index, n, self.config.vocab);
            before_sampling(card, &batch)?;
        }
        let (room, vocab) = (&mut self.room, self.config.vocab);
        let batch = SampleBatch {
            n,
            vocab,
            logits: room.logits.first_mut(n * vocab),
            params: self.index.params(n),
            edits: self.index.edits(),
            masks: self.index.masks(),
            // The logits are capped where they are computed.
            soft_cap: 0.0,
            scratch: room.draw.view_mut(),
            ids: room.ids.first_mut(n),
            host_ids: self.host_ids[self.place].view_mut().part(0, n),
        };
        sample(card, batch)?;
        if logprobs {
            let (batch, ids) = logprobs_batch(&mut self.room, &self.index, n, self.config.vocab);
            let out = self.host_logprobs[self.place].view_mut();
            after_sampling(card, &batch, ids, out)?;
        }
        Ok(())
    }

    /// Replays a decoding step of this extent, width and place, and captures it first if such a step has been launched
    /// before. Returns false if the step must be launched: the first time, or if it cannot be captured.
    fn replay(&mut self, card: &dyn Card, extent: Extent, width: Width) -> Result<bool, CardError> {
        let CapturedGraphs::Graphs(graphs) = &mut self.graphs else { return Ok(false) };
        let key = (extent, width.rows, self.place);
        let graph = match graphs.get(&key) {
            Some(Some(graph)) => *graph,
            Some(None) => match self.capture(card, extent, width) {
                Ok(graph) => graph,
                Err(CardError::Dead(why)) => return Err(CardError::Dead(why)),
                Err(error) => {
                    tracing::warn!(%error, "decoding steps cannot be captured as CUDA graphs; kernels are launched one by one");
                    self.drop_graphs(card);
                    return Ok(false);
                }
            },
            None => {
                graphs.insert(key, None);
                return Ok(false);
            }
        };
        card.launch_graph(graph)?;
        Ok(true)
    }

    fn capture(
        &mut self,
        card: &dyn Card,
        extent: Extent,
        width: Width,
    ) -> Result<Graph, CardError> {
        card.begin_capture()?;
        let launched = self.launch(card, extent, width);
        let graph = card.end_capture()?;
        if let Err(error) = launched {
            let _ = card.destroy_graph(graph);
            return Err(error);
        }
        if let CapturedGraphs::Graphs(graphs) = &mut self.graphs {
            graphs.insert((extent, width.rows, self.place), Some(graph));
        }
        Ok(graph)
    }

    /// Drops the captured graphs, and captures no more.
    fn drop_graphs(&mut self, card: &dyn Card) {
        if let CapturedGraphs::Graphs(graphs) =
            std::mem::replace(&mut self.graphs, CapturedGraphs::Off)
        {
            for graph in graphs.into_values().flatten() {
                // A failed GPU has nothing to free.
                let _ = card.destroy_graph(graph);
            }
        }
    }
}

/// What the launches for log-probabilities share, and the ids that are drawn between them.
fn logprobs_batch<'a>(
    room: &'a mut Room,
    index: &'a Index,
    n: usize,
    vocab: usize,
) -> (LogprobsBatch<'a>, View<'a, u32>) {
    let batch = LogprobsBatch {
        n,
        vocab,
        logits: room.logits.first(n * vocab),
        params: index.params(n),
        edits: index.edits(),
        kept: room.kept.view_mut(),
        parts: room.logprob_parts.view_mut(),
    };
    (batch, room.ids.first(n))
}

impl Drop for Model {
    /// The memory is freed on the loading stream, so the work on the executor's stream that uses it must
    /// finish first.
    fn drop(&mut self) {
        if !self.stepped {
            return;
        }
        let card = self.card.clone();
        self.drop_graphs(&*card);
        if let Err(error) = card.synchronise(Stream::Compute) {
            tracing::warn!(%error, "a model is dropped while the GPU may still be using it");
        }
    }
}

impl Frequencies {
    /// The angles of a step, to be computed.
    fn turns<'a>(&'a mut self, index: &'a Index, tokens: usize) -> rope::Turns<'a> {
        let numbers = tokens * self.inv_freq.len();
        let frequencies = rope::Frequencies {
            inv_freq: self.inv_freq.view(),
            long_inv_freq: self.long.as_ref().map(Buffer::view),
            factor: self.factor,
        };
        rope::Turns {
            positions: index.positions(tokens),
            longs: index.longs(tokens),
            frequencies,
            cos: self.cos.first_mut(numbers),
            sin: self.sin.first_mut(numbers),
        }
    }

    fn angles(&self, tokens: usize) -> rope::Angles<'_> {
        let half = self.inv_freq.len();
        let numbers = tokens * half;
        rope::Angles { half, cos: self.cos.first(numbers), sin: self.sin.first(numbers) }
    }
}
