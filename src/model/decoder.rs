//! The decoder: one forward pass over a flat batch, writing and reading a paged KV cache.
//!
//! Pre-norm transformer of the Llama family (arXiv:2302.13971): RMSNorm, grouped-query attention with
//! rotary embedding, SwiGLU. Matrix products and norms are candle's; attention is the device's. Knows no
//! sequences: the batch says which tokens go where.

use super::config::ModelConfig;
use super::intake::{Checkpoint, LoadError};
use crate::device::{Batch, KvCache, KvShape, RopeTable, attend};
use candle_core::{Device, Result, Tensor};
use candle_nn::ops::{rms_norm, silu};

/// A loaded model with its KV cache.
pub struct Decoder {
    config: ModelConfig,
    embedding: Tensor,
    layers: Vec<Layer>,
    norm: Tensor,
    head: Tensor,
    rope: RopeTable,
    cache: KvCache,
}

struct Layer {
    attention_norm: Tensor,
    qkv: Tensor,
    out: Tensor,
    mlp_norm: Tensor,
    gate: Tensor,
    up: Tensor,
    down: Tensor,
}

impl Decoder {
    /// Copies the weights out of the checkpoint and makes a KV cache of `kv_blocks` blocks of
    /// `block_size` tokens.
    pub fn load(
        checkpoint: &Checkpoint,
        kv_blocks: usize,
        block_size: usize,
    ) -> std::result::Result<Decoder, LoadError> {
        let config = checkpoint.config().clone();
        let embedding =
            checkpoint.tensor("model.embed_tokens.weight", &[config.vocab, config.hidden])?;
        let layers = (0..config.layers)
            .map(|i| Layer::load(checkpoint, &config, i))
            .collect::<std::result::Result<Vec<_>, _>>()?;
        let head = if config.tied_embeddings || !checkpoint.has("lm_head.weight") {
            embedding.clone()
        } else {
            checkpoint.tensor("lm_head.weight", &[config.vocab, config.hidden])?
        };
        let shape = kv_shape(&config, kv_blocks, block_size);
        Ok(Decoder {
            norm: checkpoint.tensor("model.norm.weight", &[config.hidden])?,
            rope: RopeTable::new(&config.inv_freq, config.max_len),
            cache: KvCache::new(shape),
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

    /// Runs one step. Returns the logits of the rows that asked for them, `[rows][vocab]` in one vector.
    /// Token ids, positions and slots must be in range; the caller checks (see `engine::runner`).
    pub fn forward(&mut self, batch: &Batch) -> Result<Vec<f32>> {
        let ids = Tensor::from_slice(&batch.tokens, batch.tokens.len(), &Device::Cpu)?;
        let eps = self.config.norm_eps as f32;
        let mut x = self.embedding.index_select(&ids, 0)?;
        for (i, layer) in self.layers.iter().enumerate() {
            let h = rms_norm(&x, &layer.attention_norm, eps)?;
            let mut qkv = h.matmul(&layer.qkv.t()?)?.flatten_all()?.to_vec1::<f32>()?;
            let mixed = attend(&mut qkv, self.config.heads, &self.rope, &mut self.cache, i, batch);
            let mixed =
                Tensor::from_vec(mixed, (batch.tokens.len(), layer.out.dim(1)?), &Device::Cpu)?;
            x = (x + mixed.matmul(&layer.out.t()?)?)?;
            let h = rms_norm(&x, &layer.mlp_norm, eps)?;
            let gated = (silu(&h.matmul(&layer.gate.t()?)?)? * h.matmul(&layer.up.t()?)?)?;
            x = (x + gated.matmul(&layer.down.t()?)?)?;
        }
        let last: Vec<u32> = batch.sampled_tokens().collect();
        if last.is_empty() {
            return Ok(Vec::new());
        }
        let rows = Tensor::from_slice(&last, last.len(), &Device::Cpu)?;
        let x = rms_norm(&x.index_select(&rows, 0)?, &self.norm, eps)?;
        x.matmul(&self.head.t()?)?.flatten_all()?.to_vec1::<f32>()
    }
}

impl Layer {
    fn load(
        from: &Checkpoint,
        c: &ModelConfig,
        index: usize,
    ) -> std::result::Result<Layer, LoadError> {
        let get = |name: &str, shape: &[usize]| {
            from.tensor(&format!("model.layers.{index}.{name}.weight"), shape)
        };
        let (q, kv) = (c.heads * c.head_dim, c.kv_heads * c.head_dim);
        let parts = [
            get("self_attn.q_proj", &[q, c.hidden])?,
            get("self_attn.k_proj", &[kv, c.hidden])?,
            get("self_attn.v_proj", &[kv, c.hidden])?,
        ];
        Ok(Layer {
            attention_norm: get("input_layernorm", &[c.hidden])?,
            qkv: Tensor::cat(&parts, 0)?,
            out: get("self_attn.o_proj", &[c.hidden, q])?,
            mlp_norm: get("post_attention_layernorm", &[c.hidden])?,
            gate: get("mlp.gate_proj", &[c.intermediate, c.hidden])?,
            up: get("mlp.up_proj", &[c.intermediate, c.hidden])?,
            down: get("mlp.down_proj", &[c.hidden, c.intermediate])?,
        })
    }
}

/// The KV cache's shape for a model.
pub fn kv_shape(config: &ModelConfig, blocks: usize, block_size: usize) -> KvShape {
    let (kv_heads, head_dim) = (config.kv_heads, config.head_dim);
    KvShape { layers: config.layers, blocks, block_size, kv_heads, head_dim }
}
