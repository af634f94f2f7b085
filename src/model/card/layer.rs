//! One layer on a GPU: its weights, and the kernel launches of its two halves.

use super::Frequencies;
use super::index::{Index, Width};
use super::room::Room;
use crate::device::{Activation, QueryScale};
use crate::model::layout::Over;
use serin_kernels::cuda::attention::{AttentionSpec, attend_decode, attend_prefill, prepares};
use serin_kernels::cuda::norm::{self, UnscaledBuffer};
use serin_kernels::cuda::product::{Matrix, multiply_all, multiply_gated, multiply_normed};
use serin_kernels::cuda::rows::Activation as Gate;
use serin_kernels::cuda::{
    ActBuffer, ActKind, Acts, Buffer, Card, CardError, KvLayer, ProductInput, ViewMut, rope,
};

pub(super) struct Layer {
    pub attention_norm: NormWeight,
    pub qkv: Projection,
    pub spec: AttentionSpec,
    pub head_norm: Option<HeadNorm>,
    pub query_scale: Option<QueryScale>,
    /// Index of the layer's rotary embedding.
    pub rope: usize,
    pub out: Projection,
    pub attention_post_norm: Option<NormWeight>,
    pub mlp_norm: NormWeight,
    pub gate_up: Projection,
    pub activation: Activation,
    pub down: Projection,
    pub mlp_post_norm: Option<NormWeight>,
}

/// A norm's weight, with the offset added, and its epsilon.
pub(super) struct NormWeight {
    pub weight: Buffer<f32>,
    pub eps: f32,
}

pub(super) struct HeadNorm {
    pub query: NormWeight,
    pub key: NormWeight,
    /// What is normed at once.
    pub over: Over,
}

/// One weight, or several that share their input, side by side, with a bias.
pub(super) struct Projection {
    pub parts: Vec<Matrix>,
    pub bias: Option<Buffer<f32>>,
}

/// The context that all launches of a step share.
pub(super) struct Step<'a> {
    pub card: &'a dyn Card,
    pub width: Width,
    pub index: &'a Index,
    /// Into how many shares the cache of each of so many rows is cut.
    pub splits: &'a dyn Fn(usize) -> usize,
}

impl NormWeight {
    /// Numbers of a row.
    pub fn len(&self) -> usize {
        self.weight.len()
    }

    /// The norm as kernels take it.
    pub fn on(&self) -> norm::Norm<'_> {
        norm::Norm { weight: self.weight.view(), eps: self.eps }
    }
}

impl HeadNorm {
    fn on(&self) -> rope::HeadNorms<'_> {
        rope::HeadNorms {
            query: self.query.weight.view(),
            key: self.key.weight.view(),
            eps: self.key.eps,
        }
    }
}

impl Projection {
    /// Numbers that it makes of a row, all parts together.
    pub fn outputs(&self) -> usize {
        self.parts.iter().map(Matrix::rows).sum()
    }

    /// The format in which all parts take `n` inputs.
    pub fn input_kind(&self, card: &dyn Card, n: usize) -> ActKind {
        self.parts.first().map_or(ActKind::F32, |part| part.input_kind(card, n))
    }

    /// `[n][inputs]` to `[n][outputs of all parts, side by side]`; the bias only if `with_bias`.
    fn apply(
        &self,
        card: &dyn Card,
        x: ProductInput<'_>,
        n: usize,
        out: ViewMut<'_, f32>,
        with_bias: bool,
    ) -> Result<(), CardError> {
        let bias = self.bias.as_ref().filter(|_| with_bias);
        multiply_all(card, &self.parts, x, n, out, bias.map(Buffer::view))
    }

    /// `[n][inputs]` to the residual stream, and what the next projection reads, if one follows. The branch is scratch
    /// memory.
    fn join(
        &self,
        card: &dyn Card,
        x: Acts<'_>,
        n: usize,
        (stream, branch): (&mut Buffer<f32>, &mut Buffer<f32>),
        out: Option<norm::Unscaled<'_>>,
    ) -> Result<(), CardError> {
        let numbers = n * self.outputs();
        let (stream, branch) = (stream.first_mut(numbers), branch.first_mut(numbers));
        let bias = self.bias.as_ref().map(Buffer::view);
        multiply_normed(card, &self.parts, x, n, bias, stream, branch, out)
    }
}

/// A norm, and the format in which the product after it takes its rows.
pub(super) type Next<'a> = (&'a NormWeight, ActKind);

impl Layer {
    /// Where the embedding of `n` tokens leaves normed rows for the first layer, which is this one; `None` if
    /// [`Layer::begin`] norms them.
    pub fn entry<'a>(
        &'a self,
        card: &dyn Card,
        n: usize,
        unscaled: &'a mut UnscaledBuffer,
    ) -> Option<norm::Unscaled<'a>> {
        let (norm, kind) = self.first_norm(card, n);
        self.leaves_scale(kind, n).then(|| unscaled.get_mut(kind, n, norm.weight.view()))
    }

    /// Norms the residual stream before the first layer, which is this one, if that is still to be done. Fails if the
    /// launch fails.
    pub fn begin(&self, step: &Step<'_>, room: &mut Room) -> Result<(), CardError> {
        let (card, n) = (step.card, step.width.tokens);
        let (norm, kind) = self.first_norm(card, n);
        if self.leaves_scale(kind, n) {
            return Ok(());
        }
        let out = room.acts.get_mut(kind, n * norm.len());
        norm::rms_norm(card, room.x.first(n * norm.len()), None, n, norm.on(), out)
    }

    /// Whether normed rows are in `unscaled`, without their norm's scale, instead of in `acts`. A norm of the branch
    /// itself needs its scale before the branch joins. Layers are alike in that they have one or not.
    pub fn leaves_scale(&self, kind: ActKind, n: usize) -> bool {
        let plain = self.attention_post_norm.is_none() && self.mlp_post_norm.is_none();
        plain && norm::leaves_scale(kind, n, self.mlp_norm.len())
    }

    /// The `n` rows of `norm`, for a projection that takes them in `kind`.
    fn normed<'a>(
        &self,
        (norm, kind): Next<'_>,
        n: usize,
        unscaled: &'a UnscaledBuffer,
        acts: &'a ActBuffer,
    ) -> ProductInput<'a> {
        match self.leaves_scale(kind, n) {
            true => unscaled.get(kind, n, norm.eps),
            false => acts.get(kind, n * norm.len()).into(),
        }
    }

    /// Launches a layer's attention: from the normed rows to those before the feed-forward part. Fails if a launch
    /// fails.
    pub fn attend(
        &self,
        step: &Step<'_>,
        frequencies: &Frequencies,
        cache: &mut KvLayer,
        room: &mut Room,
    ) -> Result<(), CardError> {
        let (card, n) = (step.card, step.width.tokens);
        let outputs = self.qkv.outputs();
        let x = self.normed(self.first_norm(card, n), n, &room.unscaled, &room.acts);
        let whole = self.head_norm.as_ref().filter(|norm| norm.over == Over::Token);
        // The bias comes before the norm.
        self.qkv.apply(card, x, n, room.wide.first_mut(n * outputs), whole.is_some())?;
        if let Some(norm) = whole {
            rope::norm_tokens(card, &norm.on(), room.wide.first_mut(n * outputs), n, outputs)?;
        }
        let by_head = self.head_norm.as_ref().filter(|norm| norm.over == Over::Head);
        let bias = self.qkv.bias.as_ref().filter(|_| whole.is_none());
        let scaled = |by| rope::Scaled { positions: step.index.positions(n), by };
        let heads = rope::Heads {
            count: self.spec.heads,
            bias: bias.map(Buffer::view),
            norms: by_head.map(HeadNorm::on),
            angles: frequencies.angles(n),
            scaled: self.query_scale.map(scaled),
        };
        let Width { rows, decodes, .. } = step.width;
        let raw = prepares(heads.count, cache.shape(), cache.kind(), (rows, decodes));
        if !raw {
            let qkv = room.wide.first_mut(n * outputs);
            rope::prepare(card, &heads, qkv, step.index.slots(n), cache.view_mut())?;
        }
        self.mix(step, raw.then_some(&heads), cache, room, outputs)?;
        let mixed = self.spec.heads * cache.shape().head_dim;
        let Room { x: stream, branch, acts, unscaled, .. } = room;
        let x = acts.get(self.out.input_kind(card, n), n * mixed);
        let kind = self.gate_up.input_kind(card, n);
        if self.leaves_scale(kind, n) {
            let out = unscaled.get_mut(kind, n, self.mlp_norm.weight.view());
            return self.out.join(card, x, n, (stream, branch), Some(out));
        }
        self.out.apply(card, x.into(), n, branch.first_mut(n * self.out.outputs()), true)?;
        join(step, self.attention_post_norm.as_ref(), (&self.mlp_norm, kind), room)
    }

    /// Attention of the step's queries over the cache, written to `acts`. `raw`: what is still to be done to queries,
    /// keys and values before; `None` if they are ready.
    fn mix(
        &self,
        step: &Step<'_>,
        raw: Option<&rope::Heads<'_>>,
        cache: &mut KvLayer,
        room: &mut Room,
        outputs: usize,
    ) -> Result<(), CardError> {
        let Width { tokens, rows, longest, decodes } = step.width;
        let (card, spec) = (step.card, &self.spec);
        let mixed = self.spec.heads * cache.shape().head_dim;
        let qkv = room.wide.first(tokens * outputs);
        let kind = self.out.input_kind(card, tokens);
        if decodes > 0 {
            // Also beside prompts: without shares, one row of a long context would take as long as they do.
            let index = step.index.rows(0, decodes);
            let (partials, splits) = (room.partials.view_mut(), (step.splits)(decodes));
            let out = room.acts.get_mut(kind, tokens * mixed);
            attend_decode(card, spec, qkv, raw, cache.view_mut(), index, splits, partials, out)?;
        }
        if decodes == rows {
            return Ok(());
        }
        let index = step.index.rows(decodes, rows - decodes);
        let out = room.acts.get_mut(kind, tokens * mixed);
        attend_prefill(card, spec, qkv, cache.view(), index, longest, tokens, out)
    }

    /// The norm before this layer.
    pub fn first_norm(&self, card: &dyn Card, n: usize) -> Next<'_> {
        (&self.attention_norm, self.qkv.input_kind(card, n))
    }

    /// Launches a layer's feed-forward part: from the normed rows to those of the next norm, or to the residual stream.
    /// Fails if a launch fails.
    pub fn feed(
        &self,
        step: &Step<'_>,
        next: Option<Next<'_>>,
        room: &mut Room,
    ) -> Result<(), CardError> {
        let (card, n) = (step.card, step.width.tokens);
        let (outputs, hidden) = (self.gate_up.outputs(), self.mlp_norm.len());
        let width = outputs / 2;
        let gate = match self.activation {
            Activation::Silu => Gate::Silu,
            Activation::GeluTanh => Gate::GeluTanh,
        };
        let from = (&self.mlp_norm, self.gate_up.input_kind(card, n));
        let x = self.normed(from, n, &room.unscaled, &room.acts);
        let wide = room.wide.first_mut(n * outputs);
        let out = room.gated.get_mut(self.down.input_kind(card, n), n * width);
        let bias = self.gate_up.bias.as_ref().map(Buffer::view);
        multiply_gated(card, &self.gate_up.parts, gate, x, n, wide, out, bias)?;
        let Room { x: stream, branch, gated, unscaled, .. } = room;
        let x = gated.get(self.down.input_kind(card, n), n * width);
        let post = self.mlp_post_norm.as_ref();
        if post.is_none() && next.is_none_or(|(_, kind)| self.leaves_scale(kind, n)) {
            let out = next.map(|(norm, kind)| unscaled.get_mut(kind, n, norm.weight.view()));
            return self.down.join(card, x, n, (stream, branch), out);
        }
        self.down.apply(card, x.into(), n, branch.first_mut(n * hidden), true)?;
        match next {
            Some(next) => join(step, post, next, room),
            None => {
                let (x, branch) = (room.x.first_mut(n * hidden), room.branch.first(n * hidden));
                norm::add(card, x, branch, post.map(NormWeight::on), n, hidden)
            }
        }
    }
}

/// Adds the branch to the residual stream, and writes the normed result to `acts`.
fn join(
    step: &Step<'_>,
    post: Option<&NormWeight>,
    (norm, kind): Next<'_>,
    room: &mut Room,
) -> Result<(), CardError> {
    let (n, hidden) = (step.width.tokens, norm.len());
    let (x, branch) = (room.x.first_mut(n * hidden), room.branch.first(n * hidden));
    let out = room.acts.get_mut(kind, n * hidden);
    norm::add_rms_norm(step.card, x, branch, post.map(NormWeight::on), n, norm.on(), out)
}
