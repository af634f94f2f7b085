//! The decoder: one forward pass over a flat batch, which writes and reads a paged KV cache.
//!
//! A pre-norm transformer (arXiv:2302.13971). Each variation is a property in the config, and operations that
//! a family does not have are left out. Activations are plain rows of f32 in buffers that live as long as the
//! model. Matrix products, norms and attention are in `device`. It does not know about sequences (the batch
//! says which tokens go where) or families.

use super::config::{LayerKind, ModelConfig};
use super::error::LoadError;
use super::layout::{self, HeadNorms, Layout};
use super::linear::{Packer, Projection};
use super::names::Names;
use super::weights::Weights;
use crate::device::{
    Activation, Angles, AttentionSpec, Batch, HeadNorm, Kind, KvCache, KvKind, KvShape, QMatrix,
    Workbench, attend, ops,
};

/// The size of a KV cache, and the type of its values.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KvPlan {
    /// Number of blocks; each holds its tokens' keys and values of all layers.
    pub blocks: usize,
    /// Tokens per block.
    pub block_size: usize,
    /// The type of cached keys and values.
    pub kind: KvKind,
}

impl KvPlan {
    /// A cache in f32 of `blocks` blocks of `block_size` tokens.
    pub fn exact(blocks: usize, block_size: usize) -> KvPlan {
        KvPlan { blocks, block_size, kind: KvKind::F32 }
    }
}

/// The requested precision of a KV cache.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum KvChoice {
    /// f16, unless the weights themselves are in f32.
    #[default]
    Auto,
    /// Exactly this type.
    As(KvKind),
    /// 8 bits, with a scale for each head of a token; on a GPU only.
    Int8,
    /// FP8 (E4M3); on a GPU of compute capability 8.9 or newer only.
    Fp8,
}

/// The choices as a configuration names them.
const NAMES: [(&str, KvChoice); 5] = [
    ("auto", KvChoice::Auto),
    ("f16", KvChoice::As(KvKind::F16)),
    ("f32", KvChoice::As(KvKind::F32)),
    ("i8", KvChoice::Int8),
    ("fp8", KvChoice::Fp8),
];

impl KvChoice {
    /// Parses `auto`, `f16`, `f32`, `i8` or `fp8`; fails for anything else.
    pub fn parse(text: &str) -> Result<KvChoice, String> {
        let found = NAMES.iter().find(|(name, _)| *name == text);
        found.map(|(_, choice)| *choice).ok_or_else(|| {
            let names = NAMES.map(|(name, _)| format!("`{name}`")).join(", ");
            format!("`{text}` is none of {names}")
        })
    }

    /// The name that [`KvChoice::parse`] takes.
    pub fn name(self) -> &'static str {
        NAMES.iter().find(|(_, choice)| *choice == self).expect("each has a name").0
    }

    /// The type on a GPU, if only a GPU has it.
    pub fn only_on_card(self) -> Option<serin_kernels::cuda::KvKind> {
        match self {
            KvChoice::Int8 => Some(serin_kernels::cuda::KvKind::I8),
            KvChoice::Fp8 => Some(serin_kernels::cuda::KvKind::E4M3),
            KvChoice::Auto | KvChoice::As(_) => None,
        }
    }

    /// The type for a model on the CPU, which uses 16 bits if 8 are requested.
    pub fn kind(self, source: &Weights) -> KvKind {
        match (self, source.kind(layout::EMBEDDING)) {
            (KvChoice::As(kind), _) => kind,
            (KvChoice::Auto, Ok(Kind::F32)) => KvKind::F32,
            (KvChoice::Auto | KvChoice::Int8 | KvChoice::Fp8, _) => KvKind::F16,
        }
    }

    /// The type for a model on a GPU.
    pub fn on_card(self, source: &Weights) -> serin_kernels::cuda::KvKind {
        self.only_on_card().unwrap_or_else(|| match self.kind(source) {
            KvKind::F32 => serin_kernels::cuda::KvKind::F32,
            KvKind::F16 => serin_kernels::cuda::KvKind::F16,
        })
    }
}

/// A loaded model with its KV cache.
pub struct Decoder {
    config: ModelConfig,
    embedding: QMatrix,
    layers: Vec<Layer>,
    norm: Norm,
    head: QMatrix,
    cache: KvCache,
    /// One per rotary embedding of the config, for the tokens of the current step.
    angles: Vec<Angles>,
    bench: Workbench,
    rows: Rows,
}

struct Layer {
    attention_norm: Norm,
    qkv: Projection,
    attention: AttentionSpec,
    /// Index of the layer's rotary embedding.
    rope: usize,
    out: Projection,
    attention_post_norm: Option<Norm>,
    mlp_norm: Norm,
    mlp: Mlp,
    mlp_post_norm: Option<Norm>,
}

struct Norm {
    weight: Vec<f32>,
    eps: f32,
}

struct Mlp {
    gate_up: Projection,
    activation: Activation,
    width: usize,
    down: Projection,
}

/// Activations of a step, `[tokens][..]` each; they grow to the largest step and are reused.
#[derive(Default)]
struct Rows {
    /// The residual stream.
    x: Vec<f32>,
    normed: Vec<f32>,
    qkv: Vec<f32>,
    mixed: Vec<f32>,
    /// The next addition to the residual stream.
    branch: Vec<f32>,
    gate_up: Vec<f32>,
    gated: Vec<f32>,
    logits: Vec<f32>,
}

impl Decoder {
    /// Takes the weights from `source` and allocates a KV cache. Fails if a tensor is missing, has another
    /// shape, holds NaN or infinity, or cannot be packed.
    pub fn load(source: &Weights, kv: KvPlan) -> Result<Decoder, LoadError> {
        let config = source.config().clone();
        let tied = source.is_tied()?;
        let (embedding, head) = (Names::embedding(&config), Names::head(&config));
        let of_layers = (0..config.layers)
            .flat_map(|index| Names { config: &config, index }.projections().into_iter().flatten());
        let wanted = [Some(embedding.clone()), (!tied).then(|| head.clone())];
        let mut packer = Packer::new(source, wanted.into_iter().flatten().chain(of_layers))?;
        let embedding = packer.matrix(&embedding)?;
        let mut load = |(index, kind): (usize, &LayerKind)| {
            let names = Names { config: &config, index };
            LayerLoader { packer: &mut packer, names, config: &config }.layer(*kind)
        };
        let layers = config.kinds.iter().enumerate().map(&mut load).collect::<Result<_, _>>()?;
        let head = if tied { embedding.clone() } else { packer.matrix(&head)? };
        Ok(Decoder {
            norm: Norm::last(&packer, &config)?,
            cache: KvCache::with_kind(kv_shape(&config, kv.blocks, kv.block_size), kv.kind),
            angles: vec![Angles::default(); config.ropes.len()],
            bench: Workbench::shared(),
            rows: Rows::default(),
            config,
            embedding,
            layers,
            head,
        })
    }

    /// The model's config, as read from its source.
    pub fn config(&self) -> &ModelConfig {
        &self.config
    }

    /// The KV cache's dimensions, as planned at load.
    pub fn kv_shape(&self) -> KvShape {
        self.cache.shape()
    }

    /// Bytes of the KV cache, all blocks together.
    pub fn kv_bytes(&self) -> usize {
        let shape = self.cache.shape();
        shape.blocks * shape.block_bytes(self.cache.kind())
    }

    /// Runs one step. Returns the final states of the tokens whose logits are needed, `[wanted][hidden]`, for
    /// [`Decoder::logits`]. Token ids, positions and slots must be in range; the caller checks them (see
    /// `engine::runner`).
    pub fn forward(&mut self, batch: &Batch) -> Vec<f32> {
        self.embed(&batch.tokens);
        for (rope, angles) in self.config.ropes.iter().zip(&mut self.angles) {
            rope.fill(batch, angles);
        }
        if let Some(first) = self.layers.first() {
            first.attention_norm.of(&self.rows.x, &mut self.rows.normed, &self.bench);
        }
        for (i, layer) in self.layers.iter().enumerate() {
            let (rows, bench) = (&mut self.rows, &mut self.bench);
            layer.attend(i, batch, &self.angles, &mut self.cache, rows, bench);
            layer.mlp_norm.of_sum(rows, bench);
            layer.feed(batch.tokens.len(), rows, bench);
            match self.layers.get(i + 1) {
                Some(next) => next.attention_norm.of_sum(rows, bench),
                None => ops::add(&mut rows.x, &rows.branch),
            }
        }
        let row = |token: usize| &self.rows.x[token * self.config.hidden..][..self.config.hidden];
        let mut wanted: Vec<f32> = batch.wanted_tokens().flat_map(row).copied().collect();
        self.norm.apply(&mut wanted, &self.bench);
        wanted
    }

    /// Logits of final states, `[n][hidden]` to `[n][vocab]`. It is separate from [`Decoder::forward`] so
    /// that a caller who needs many rows can compute them in pieces. The caller may modify them.
    pub fn logits(&mut self, states: &[f32]) -> &mut [f32] {
        let n = states.len() / self.config.hidden;
        let logits = &mut self.rows.logits;
        logits.resize(n * self.config.vocab, 0.0);
        self.head.matmul(states, n, logits, &mut self.bench.products);
        if let Some(cap) = self.config.logit_cap {
            ops::soft_cap(self.bench.products.isa(), logits, cap);
        }
        logits
    }

    fn embed(&mut self, tokens: &[u32]) {
        let (x, hidden) = (&mut self.rows.x, self.config.hidden);
        x.resize(tokens.len() * hidden, 0.0);
        for (token, row) in tokens.iter().zip(x.chunks_exact_mut(hidden)) {
            self.embedding.row(*token as usize, row);
        }
        if let Some(scale) = self.config.embedding_scale {
            x.iter_mut().for_each(|value| *value *= scale);
        }
    }
}

impl Layer {
    /// From the normed rows to the output of attention.
    fn attend(
        &self,
        index: usize,
        batch: &Batch,
        angles: &[Angles],
        cache: &mut KvCache,
        rows: &mut Rows,
        bench: &mut Workbench,
    ) {
        let n = batch.tokens.len();
        let Rows { normed, qkv, mixed, branch, .. } = rows;
        self.qkv.apply(normed, n, qkv, &mut bench.products);
        mixed.resize(n * self.attention.heads * cache.shape().head_dim, 0.0);
        let (angles, scratch) = (&angles[self.rope], &mut bench.attention);
        let near = bench.products.near();
        attend(&self.attention, qkv, angles, cache, index, batch, mixed, scratch, near);
        self.out.apply(mixed, n, branch, &mut bench.products);
        if let Some(norm) = &self.attention_post_norm {
            norm.apply(branch, bench);
        }
    }

    /// From the normed rows to the output of the feed-forward part.
    fn feed(&self, n: usize, rows: &mut Rows, bench: &mut Workbench) {
        let Rows { normed, gate_up, gated, branch, .. } = rows;
        let Mlp { gate_up: first, activation, width, down } = &self.mlp;
        first.apply(normed, n, gate_up, &mut bench.products);
        gated.resize(n * width, 0.0);
        ops::gated(*activation, gate_up, *width, gated, bench.products.near());
        down.apply(gated, n, branch, &mut bench.products);
        if let Some(norm) = &self.mlp_post_norm {
            norm.apply(branch, bench);
        }
    }
}

/// The square root of an epsilon beside which the mean square of a row is nothing. Both it and its reciprocal are
/// exact.
pub(super) const DROWNING: f32 = (1u64 << 50) as f32;

impl Norm {
    /// No norm, as one: a row is divided by [`DROWNING`] and multiplied with it, which changes nothing.
    fn none(len: usize) -> Norm {
        Norm { weight: vec![DROWNING; len], eps: DROWNING * DROWNING }
    }

    /// The norm after the last layer, with the scale of the logits.
    fn last(packer: &Packer<'_>, config: &ModelConfig) -> Result<Norm, LoadError> {
        let mut norm = Norm::load(packer, layout::NORM, config.hidden, config)?;
        let scale = config.logit_scale.unwrap_or(1.0);
        norm.weight.iter_mut().for_each(|w| *w *= scale);
        Ok(norm)
    }

    fn load(
        packer: &Packer<'_>,
        name: &str,
        len: usize,
        config: &ModelConfig,
    ) -> Result<Norm, LoadError> {
        let mut weight = packer.vector(name, len)?;
        weight.iter_mut().for_each(|w| *w += config.norm.offset);
        Ok(Norm { weight, eps: config.norm.eps })
    }

    fn of(&self, x: &[f32], out: &mut Vec<f32>, bench: &Workbench) {
        out.resize(x.len(), 0.0);
        ops::rms_norm(x, &self.weight, self.eps, out, bench.products.near());
    }

    /// Adds the branch to the residual stream, and norms the result.
    fn of_sum(&self, rows: &mut Rows, bench: &Workbench) {
        let Rows { x, branch, normed, .. } = rows;
        normed.resize(x.len(), 0.0);
        ops::add_rms_norm(x, branch, &self.weight, self.eps, normed, bench.products.near());
    }

    fn apply(&self, x: &mut [f32], bench: &Workbench) {
        for row in x.chunks_exact_mut(self.weight.len()) {
            ops::rms_norm_row(bench.products.isa(), row, &self.weight, self.eps);
        }
    }
}

struct LayerLoader<'a, 'b> {
    packer: &'a mut Packer<'b>,
    names: Names<'a>,
    config: &'a ModelConfig,
}

impl LayerLoader<'_, '_> {
    fn layer(mut self, kind: LayerKind) -> Result<Layer, LoadError> {
        let (c, layout, names) = (self.config, self.config.layout, self.names);
        Ok(Layer {
            attention_norm: self.norm_or_none(layout.attention_norm)?,
            qkv: self.packer.projection(&names.qkv(), c.bias.qkv)?,
            attention: AttentionSpec {
                heads: c.heads,
                scale: c.scale,
                window: kind.window,
                soft_cap: c.score_cap,
                head_norm: self.head_norm(layout)?,
                query_scale: c.query_scale,
            },
            rope: kind.rope,
            out: self.packer.projection(&names.out(), c.bias.out)?,
            attention_post_norm: self.optional_norm(layout.attention_post_norm)?,
            mlp_norm: self.norm_or_none(layout.mlp_norm)?,
            mlp: self.mlp()?,
            mlp_post_norm: self.optional_norm(layout.mlp_post_norm)?,
        })
    }

    fn mlp(&mut self) -> Result<Mlp, LoadError> {
        let (c, names) = (self.config, self.names);
        Ok(Mlp {
            gate_up: self.packer.projection(&names.gate_up(), c.bias.mlp)?,
            activation: c.activation,
            width: c.intermediate,
            down: self.packer.projection(&names.down(), c.bias.mlp)?,
        })
    }

    fn head_norm(&self, layout: &Layout) -> Result<Option<HeadNorm>, LoadError> {
        let Some(HeadNorms { names: [query, key], over }) = layout.head_norms else {
            return Ok(None);
        };
        let [queries, keys] = self.config.normed_at_once(over);
        let (query, key) = (self.norm(query, queries)?, self.norm(key, keys)?);
        Ok(Some(HeadNorm { query: query.weight, key: key.weight, eps: key.eps }))
    }

    fn norm_or_none(&self, name: Option<&str>) -> Result<Norm, LoadError> {
        Ok(self.optional_norm(name)?.unwrap_or_else(|| Norm::none(self.config.hidden)))
    }

    fn optional_norm(&self, name: Option<&str>) -> Result<Option<Norm>, LoadError> {
        name.map(|name| self.norm(name, self.config.hidden)).transpose()
    }

    fn norm(&self, name: &str, len: usize) -> Result<Norm, LoadError> {
        let name = layout::in_layer(self.names.index, &format!("{name}.weight"));
        Norm::load(self.packer, &name, len, self.config)
    }
}

/// The KV cache's shape for a model.
pub fn kv_shape(config: &ModelConfig, blocks: usize, block_size: usize) -> KvShape {
    let (kv_heads, head_dim) = (config.kv_heads, config.head_dim);
    KvShape { layers: config.layers, blocks, block_size, kv_heads, head_dim }
}
