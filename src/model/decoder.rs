//! The decoder: one forward pass over a flat batch, writing and reading a paged KV cache.
//!
//! A pre-norm transformer (arXiv:2302.13971) whose every variation is a fact of the config: a step that a
//! family has not got is absent. Activations are plain rows of f32; products are the weights' business,
//! attention the device's. Knows no sequences (the batch says which tokens go where) and no family.

use super::config::{LayerKind, ModelConfig};
use super::families::{self, Layout};
use super::intake::{LoadError, Source};
use super::linear::{Linear, Projection};
use crate::device::{
    Activation, Angles, AttentionSpec, Batch, HeadNorm, KvCache, KvShape, attend, ops,
};
use candle_core::Result;

/// A loaded model with its KV cache.
pub struct Decoder {
    config: ModelConfig,
    embedding: Linear,
    layers: Vec<Layer>,
    norm: Norm,
    head: Linear,
    cache: KvCache,
    /// One per rotation of the config, for the tokens of the current step.
    angles: Vec<Angles>,
}

struct Layer {
    attention_norm: Norm,
    qkv: Projection,
    attention: AttentionSpec,
    /// Index of the layer's rotation.
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

/// The gated feed-forward part. A mixture of experts will be its sibling.
struct Mlp {
    gate_up: Projection,
    activation: Activation,
    width: usize,
    down: Projection,
}

impl Decoder {
    /// Takes the weights from `source` and makes a KV cache of `kv_blocks` blocks of `block_size` tokens.
    pub fn load(
        source: &dyn Source,
        kv_blocks: usize,
        block_size: usize,
    ) -> std::result::Result<Decoder, LoadError> {
        let config = source.config().clone();
        let embedding = source.linear(families::EMBEDDING, [config.vocab, config.hidden])?;
        let load = |(index, kind): (usize, &LayerKind)| {
            LayerLoader { source, config: &config, index }.layer(*kind)
        };
        let layers =
            config.kinds.iter().enumerate().map(load).collect::<std::result::Result<_, _>>()?;
        let head = if config.tied_embeddings || !source.has(families::HEAD) {
            embedding.clone()
        } else {
            source.linear(families::HEAD, [config.vocab, config.hidden])?
        };
        Ok(Decoder {
            norm: Norm::load(source, families::NORM, config.hidden, &config)?,
            cache: KvCache::new(kv_shape(&config, kv_blocks, block_size)),
            angles: vec![Angles::default(); config.ropes.len()],
            config,
            embedding,
            layers,
            head,
        })
    }

    pub fn config(&self) -> &ModelConfig {
        &self.config
    }

    pub fn kv_shape(&self) -> KvShape {
        self.cache.shape()
    }

    /// Runs one step. Returns the final states of the tokens whose logits are wanted, `[wanted][hidden]`,
    /// for [`Decoder::logits`]. Token ids, positions and slots must be in range; the caller checks (see
    /// `engine::runner`).
    pub fn forward(&mut self, batch: &Batch) -> Result<Vec<f32>> {
        let n = batch.tokens.len();
        let mut x = self.embed(&batch.tokens)?;
        for (rope, angles) in self.config.ropes.iter().zip(&mut self.angles) {
            rope.fill(batch, angles);
        }
        for (i, layer) in self.layers.iter().enumerate() {
            let mut qkv = layer.qkv.apply(&layer.attention_norm.of(&x), n)?;
            let angles = &self.angles[layer.rope];
            let mixed = attend(&mut qkv, &layer.attention, angles, &mut self.cache, i, batch);
            let mut mixed = layer.out.apply(&mixed, n)?;
            if let Some(norm) = &layer.attention_post_norm {
                norm.apply(&mut mixed);
            }
            ops::add(&mut x, &mixed);
            let mut fed = layer.mlp.apply(&layer.mlp_norm.of(&x), n)?;
            if let Some(norm) = &layer.mlp_post_norm {
                norm.apply(&mut fed);
            }
            ops::add(&mut x, &fed);
        }
        let row = |token: usize| &x[token * self.config.hidden..][..self.config.hidden];
        let mut wanted: Vec<f32> = batch.wanted_tokens().flat_map(row).copied().collect();
        self.norm.apply(&mut wanted);
        Ok(wanted)
    }

    /// Logits of final states, `[n][hidden]` to `[n][vocab]`. Apart from [`Decoder::forward`] so that a
    /// caller who wants many rows can take them in pieces.
    pub fn logits(&self, states: &[f32]) -> Result<Vec<f32>> {
        let n = states.len() / self.config.hidden;
        if n == 0 {
            return Ok(Vec::new());
        }
        let mut logits = vec![0.0; n * self.config.vocab];
        self.head.matmul(states, n, &mut logits)?;
        if let Some(cap) = self.config.logit_cap {
            ops::soft_cap(&mut logits, cap);
        }
        Ok(logits)
    }

    fn embed(&self, tokens: &[u32]) -> Result<Vec<f32>> {
        let mut x = self.embedding.rows(tokens)?;
        if let Some(scale) = self.config.embedding_scale {
            x.iter_mut().for_each(|value| *value *= scale);
        }
        Ok(x)
    }
}

impl Norm {
    fn load(
        source: &dyn Source,
        name: &str,
        len: usize,
        config: &ModelConfig,
    ) -> std::result::Result<Norm, LoadError> {
        let mut weight = source.vector(name, len)?;
        weight.iter_mut().for_each(|w| *w += config.norm.offset);
        Ok(Norm { weight, eps: config.norm.eps })
    }

    fn of(&self, x: &[f32]) -> Vec<f32> {
        let mut x = x.to_vec();
        self.apply(&mut x);
        x
    }

    fn apply(&self, x: &mut [f32]) {
        ops::rms_norm(x, &self.weight, self.eps);
    }
}

impl Mlp {
    fn apply(&self, x: &[f32], n: usize) -> Result<Vec<f32>> {
        let gate_up = self.gate_up.apply(x, n)?;
        self.down.apply(&ops::gate(&gate_up, self.width, self.activation), n)
    }
}

/// Fetches one layer's tensors.
struct LayerLoader<'a> {
    source: &'a dyn Source,
    config: &'a ModelConfig,
    index: usize,
}

impl LayerLoader<'_> {
    fn layer(&self, kind: LayerKind) -> std::result::Result<Layer, LoadError> {
        let (c, names) = (self.config, self.config.layout);
        let (q, kv) = (c.heads * c.head_dim, c.kv_heads * c.head_dim);
        let optional = |name: Option<&str>| name.map(|n| self.norm(n, c.hidden)).transpose();
        Ok(Layer {
            attention_norm: self.norm(names.attention_norm, c.hidden)?,
            qkv: self.projection(names.qkv, &[q, kv, kv], c.hidden, c.bias.qkv)?,
            attention: AttentionSpec {
                heads: c.heads,
                scale: c.scale,
                window: kind.window,
                soft_cap: c.score_cap,
                head_norm: self.head_norm(names)?,
            },
            rope: kind.rope,
            out: self.projection(&[names.out], &[c.hidden], q, c.bias.out)?,
            attention_post_norm: optional(names.attention_post_norm)?,
            mlp_norm: self.norm(names.mlp_norm, c.hidden)?,
            mlp: self.mlp(names)?,
            mlp_post_norm: optional(names.mlp_post_norm)?,
        })
    }

    fn mlp(&self, names: &Layout) -> std::result::Result<Mlp, LoadError> {
        let c = self.config;
        let (width, names) = (c.intermediate, &names.mlp);
        Ok(Mlp {
            gate_up: self.projection(names.gate_up, &[width, width], c.hidden, c.bias.mlp)?,
            activation: c.activation,
            width,
            down: self.projection(&[names.down], &[c.hidden], width, c.bias.mlp)?,
        })
    }

    fn head_norm(&self, names: &Layout) -> std::result::Result<Option<HeadNorm>, LoadError> {
        let Some([query, key]) = names.head_norms else { return Ok(None) };
        let dim = self.config.head_dim;
        let (query, key) = (self.norm(query, dim)?, self.norm(key, dim)?);
        Ok(Some(HeadNorm { query: query.weight, key: key.weight, eps: key.eps }))
    }

    fn norm(&self, name: &str, len: usize) -> std::result::Result<Norm, LoadError> {
        let name = families::in_layer(self.index, &format!("{name}.weight"));
        Norm::load(self.source, &name, len, self.config)
    }

    fn projection(
        &self,
        names: &[&str],
        outputs: &[usize],
        inputs: usize,
        bias: bool,
    ) -> std::result::Result<Projection, LoadError> {
        let names: Vec<String> =
            names.iter().map(|name| families::in_layer(self.index, name)).collect();
        Projection::load(self.source, &names, outputs, inputs, bias)
    }
}

/// The KV cache's shape for a model.
pub fn kv_shape(config: &ModelConfig, blocks: usize, block_size: usize) -> KvShape {
    let (kv_heads, head_dim) = (config.kv_heads, config.head_dim);
    KvShape { layers: config.layers, blocks, block_size, kv_heads, head_dim }
}
