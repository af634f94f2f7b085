//! The decoder on a card: the same model as `decoder`, as launches of the kernels in `kernels/`.
//!
//! Reading order: `load` (weights to the card), `index` (what a step's kernels are told), `room` (every buffer
//! that a step needs, taken once), `layer`, and here the forward pass. Everything that a step uses is there
//! before the first one, at addresses that never change: no step allocates, so none runs out of memory, and a
//! decoding step can be recorded once and replayed. Decides nothing about families: facts of the config only.
//! All of it lies in one pool of the card's, which goes when the model goes. What is launched is done later: what
//! waits for it says so.

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
use index::{Index, Told};
use layer::{Layer, NormWeight};
use room::Room;
use serin_kernels::cuda::product::{Matrix, Output, multiply};
use serin_kernels::cuda::sample::{PenaltyEntry, RowParams, SampleBatch, sample};
use serin_kernels::cuda::{Buffer, Card, CardError, Graph, KvLayer, Queue, Timer};
use serin_kernels::cuda::{embed, norm, rope, rows};
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

/// A loaded model with its KV cache, and the pool that holds both.
pub struct CardDecoder {
    /// Before the pool: buffers go first.
    model: Model,
    pool: ModelPool,
    /// What the pool holds: all that it ever will, since no step takes anything.
    usage: CardUsage,
}

/// What lies in the pool.
struct Model {
    card: Arc<dyn Card>,
    timer: Timer,
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
    recorded: Recorded,
    /// Whether any step was launched.
    stepped: bool,
}

/// One rotation's frequencies, and the angles of the current step.
struct Frequencies {
    inv_freq: Buffer<f32>,
    long: Option<Buffer<f32>>,
    factor: f32,
    cos: Buffer<f32>,
    sin: Buffer<f32>,
}

/// Decoding steps that were recorded, by their width.
enum Recorded {
    /// This card or model cannot be recorded: every step is launched anew.
    Off,
    /// `None`: steps of this width have been launched, and the next one is recorded. The driver loads a kernel
    /// when it is first launched, which it may not do in a recording.
    Graphs(HashMap<usize, Option<Graph>>),
}

impl CardDecoder {
    pub fn config(&self) -> &ModelConfig {
        &self.model.config
    }

    pub fn plan(&self) -> &CardPlan {
        &self.model.plan
    }

    pub fn usage(&self) -> CardUsage {
        self.usage
    }

    fn card(&self) -> &Arc<dyn Card> {
        self.pool.card()
    }

    /// Makes the card usable from the calling thread.
    pub fn enter(&self) -> Result<(), CardError> {
        self.card().enter()
    }

    /// Rows of logits that are held at once: wanted rows beyond have to be taken in pieces.
    pub fn head_rows(&self) -> usize {
        self.model.plan.head_rows
    }

    /// Penalised tokens of a step that the card can be told of.
    pub fn penalty_room(&self) -> usize {
        self.model.plan.penalties
    }

    /// Marks the beginning of a step on the card's clock.
    pub fn start_timer(&mut self) -> Result<(), CardError> {
        self.model.timer.start()
    }

    /// Marks a step's end.
    pub fn stop_timer(&mut self) -> Result<(), CardError> {
        self.model.timer.stop()
    }

    /// Waits for a step's end; the card's time since its beginning.
    pub fn read_timer(&self) -> Result<Duration, CardError> {
        self.model.timer.read()
    }

    /// Waits for whatever was launched of a step that failed: the next one writes where it still reads. What goes
    /// wrong meanwhile is the next step's to notice.
    pub fn wait(&self) {
        let _ = self.card().synchronise(Queue::Compute);
    }

    /// Launches a step up to the last layer. Token ids, positions, slots and blocks must be in range; the caller
    /// checks (see `engine::runner`), and has waited for the step before.
    pub fn forward(&mut self, batch: &Batch) -> Result<(), CardError> {
        let card = self.pool.card().clone();
        let width = self.model.index.fill(batch, &self.model.config, None)?;
        self.model.body(&*card, width, Told::Lists)
    }

    /// Launches the logits of wanted rows `first .. first + n` of the last [`CardDecoder::forward`], into the place
    /// that [`CardDecoder::sample`] and [`CardDecoder::read_logits`] look at.
    pub fn head(&mut self, first: usize, n: usize) -> Result<(), CardError> {
        let card = self.pool.card().clone();
        self.model.head(&*card, first, n)
    }

    /// Waits for row `row` of the logits, `[vocab]`.
    pub fn read_logits(&self, row: usize, out: &mut [f32]) -> Result<(), CardError> {
        self.model.room.logits.read(row * self.model.config.vocab, out)
    }

    /// Launches the draw of one token id for each row of the logits, which are used up.
    pub fn sample(
        &mut self,
        params: &[RowParams],
        penalties: &[PenaltyEntry],
    ) -> Result<(), CardError> {
        let card = self.pool.card().clone();
        self.model.index.tell_draws(params, penalties)?;
        self.model.index.fetch(&*card, Told::Draws)?;
        self.model.draw(&*card, params.len())
    }

    /// Waits for the ids of the first `n` rows drawn; `u32::MAX` where logits were no numbers.
    pub fn ids(&self, n: usize) -> Result<Vec<u32>, CardError> {
        let mut ids = vec![0; n];
        self.model.room.ids.read(0, &mut ids)?;
        Ok(ids)
    }

    /// Launches a whole decoding step, one token a row and one id for each, replayed from a recording of its width
    /// if the card can do so; else launched.
    pub fn decode(
        &mut self,
        batch: &Batch,
        params: &[RowParams],
        penalties: &[PenaltyEntry],
    ) -> Result<(), CardError> {
        let card = self.pool.card().clone();
        let (model, n) = (&mut self.model, params.len());
        let Some(padded) = model.plan.bucket(n) else {
            self.forward(batch)?;
            self.head(0, n)?;
            return self.sample(params, penalties);
        };
        let width = model.index.fill(batch, &model.config, Some(padded))?;
        // Padding rows draw as well: by what costs least, not by what happens to lie there.
        let mut params = params.to_vec();
        params.resize(padded, RowParams { repetition_penalty: 1.0, ..RowParams::default() });
        model.index.tell_draws(&params, penalties)?;
        match model.replay(&*card, width)? {
            true => Ok(()),
            false => model.whole_decode(&*card, width),
        }
    }

    /// From now on every step is launched anew: what recorded steps are compared with.
    pub fn without_recording(mut self) -> CardDecoder {
        self.model.recorded = Recorded::Off;
        self
    }

    /// Drops the model and gives its memory back to the card.
    pub fn close(self) -> CardReport {
        let CardDecoder { model, pool, usage } = self;
        drop(model);
        pool.close(usage)
    }
}

impl Model {
    /// All launches of a decoding step.
    fn whole_decode(&mut self, card: &dyn Card, width: Width) -> Result<(), CardError> {
        self.body(card, width, Told::Both)?;
        self.head(card, 0, width.rows)?;
        self.draw(card, width.rows)
    }

    /// From what the step is told to the residual stream after the last layer.
    fn body(&mut self, card: &dyn Card, width: Width, told: Told) -> Result<(), CardError> {
        self.stepped = true;
        self.index.fetch(card, told)?;
        let Model { config, index, room, embedding, .. } = self;
        let tokens = width.tokens;
        let scale = config.embedding_scale.unwrap_or(1.0);
        let x = room.x.first_mut(tokens * config.hidden);
        embed::embed(card, embedding, index.tokens(tokens), tokens, scale, x)?;
        for rope in &mut self.ropes {
            rope.turn(card, &self.index, tokens)?;
        }
        if let Some(first) = self.layers.first() {
            let norm = &first.attention_norm;
            let kind = first.qkv.input_kind(card, tokens);
            let out = self.room.acts.get_mut(kind, tokens * norm.len());
            let x = self.room.x.first(tokens * norm.len());
            norm::rms_norm(card, x, None, tokens, norm.on(self.config.norm.eps), out)?;
        }
        for i in 0..self.layers.len() {
            let (layer, next) = (&self.layers[i], self.layers.get(i + 1));
            let rope = &self.ropes[layer.rope];
            let step = layer::Step {
                card,
                width,
                index: &self.index,
                splits: self.plan.splits(width.rows),
                eps: self.config.norm.eps,
            };
            layer.attend(&step, rope, &mut self.cache[i], &mut self.room)?;
            layer.feed(&step, next, &mut self.room)?;
        }
        Ok(())
    }

    fn head(&mut self, card: &dyn Card, first: usize, n: usize) -> Result<(), CardError> {
        let Model { config, index, room, head, norm, .. } = self;
        let (hidden, vocab) = (config.hidden, config.vocab);
        let x = room.x.view();
        let states = room.acts.get_mut(head.input_kind(card, n), n * hidden);
        norm::rms_norm(card, x, Some(index.picks(first, n)), n, norm.on(config.norm.eps), states)?;
        let states = room.acts.get(head.input_kind(card, n), n * hidden);
        let logits = room.logits.first_mut(n * vocab);
        multiply(card, head, states, n, Output::of(logits, vocab), None)?;
        match config.logit_cap {
            Some(cap) => rows::soft_cap(card, room.logits.first_mut(n * vocab), cap),
            None => Ok(()),
        }
    }

    fn draw(&mut self, card: &dyn Card, n: usize) -> Result<(), CardError> {
        let (room, vocab) = (&mut self.room, self.config.vocab);
        let batch = SampleBatch {
            n,
            vocab,
            logits: room.logits.first_mut(n * vocab),
            params: self.index.params(n),
            penalties: self.index.penalties(),
            // Logits are capped where they are made.
            soft_cap: 0.0,
            scratch: room.draw.view_mut(),
            ids: room.ids.first_mut(n),
        };
        sample(card, batch)
    }

    /// Replays a decoding step of this width, recording it first if it has been launched before. False if it is
    /// to be launched: for the first time, or since it cannot be recorded.
    fn replay(&mut self, card: &dyn Card, width: Width) -> Result<bool, CardError> {
        let Recorded::Graphs(graphs) = &mut self.recorded else { return Ok(false) };
        let graph = match graphs.get(&width.rows) {
            Some(Some(graph)) => *graph,
            Some(None) => match self.record(card, width) {
                Ok(graph) => graph,
                Err(CardError::Dead(why)) => return Err(CardError::Dead(why)),
                Err(error) => {
                    tracing::warn!(%error, "decoding steps cannot be recorded; they are launched one by one");
                    self.forget(card);
                    return Ok(false);
                }
            },
            None => {
                graphs.insert(width.rows, None);
                return Ok(false);
            }
        };
        card.replay(graph)?;
        Ok(true)
    }

    fn record(&mut self, card: &dyn Card, width: Width) -> Result<Graph, CardError> {
        card.begin_recording()?;
        let launched = self.whole_decode(card, width);
        let graph = card.end_recording()?;
        if let Err(error) = launched {
            let _ = card.forget(graph);
            return Err(error);
        }
        if let Recorded::Graphs(graphs) = &mut self.recorded {
            graphs.insert(width.rows, Some(graph));
        }
        Ok(graph)
    }

    /// Lets go of recordings, and makes no more.
    fn forget(&mut self, card: &dyn Card) {
        if let Recorded::Graphs(graphs) = std::mem::replace(&mut self.recorded, Recorded::Off) {
            for graph in graphs.into_values().flatten() {
                // A card that is dead has nothing to let go of.
                let _ = card.forget(graph);
            }
        }
    }
}

impl Drop for Model {
    /// Its memory is given back on the loading queue: what the executor's still does with it is waited for first.
    fn drop(&mut self) {
        if !self.stepped {
            return;
        }
        let card = self.card.clone();
        self.forget(&*card);
        if let Err(error) = card.synchronise(Queue::Compute) {
            tracing::warn!(%error, "a model is dropped while the card may still be using it");
        }
    }
}

impl Frequencies {
    fn turn(&mut self, card: &dyn Card, index: &Index, tokens: usize) -> Result<(), CardError> {
        let numbers = tokens * self.inv_freq.len();
        let frequencies = rope::Frequencies {
            inv_freq: self.inv_freq.view(),
            long_inv_freq: self.long.as_ref().map(Buffer::view),
            factor: self.factor,
        };
        let (cos, sin) = (self.cos.first_mut(numbers), self.sin.first_mut(numbers));
        rope::angles(card, index.positions(tokens), index.longs(tokens), &frequencies, cos, sin)
    }

    fn angles(&self, tokens: usize) -> rope::Angles<'_> {
        let half = self.inv_freq.len();
        let numbers = tokens * half;
        rope::Angles { half, cos: self.cos.first(numbers), sin: self.sin.first(numbers) }
    }
}
