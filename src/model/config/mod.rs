//! The properties of a model: shapes, norms, rotary embeddings, windows, caps.
//!
//! A family's reader (`llama`, `qwen`, `gemma`, ...) turns a Hugging Face `config.json` into one [`ModelConfig`],
//! which is checked once here and never changes. Each difference between families is a field, so that the
//! decoder checks properties and never names. The config types of candle-transformers would not do: each of
//! them knows one family, reads only the older spellings, and checks nothing. This module does not read weights.

mod fields;
mod gemma;
mod glm;
mod granite;
mod llama;
mod mistral;
mod olmo;
mod phi;
mod qwen;
mod read;
mod rope;

pub(super) use fields::Fields;
pub(super) use gemma::{gemma2, gemma3, gemma3_text_part};
pub(super) use glm::glm4;
pub(super) use granite::granite;
pub(super) use llama::{llama, smollm3};
pub(super) use mistral::{ministral3, mistral, mistral3_text_part};
pub(super) use olmo::{olmo2, olmo3};
pub(super) use phi::phi3;
pub(super) use qwen::{qwen2, qwen3, qwen3_text_part};

pub use read::refuse_quantised;

use super::layout::{Layout, Over};
use crate::device::{Activation, QueryScale, Rope};

/// Positions up to here are exact in f32, which the rotary embedding computes in; larger limits are reduced
/// to this.
const MOST_POSITIONS: usize = 1 << 24;
/// Far above any real model; prevents a hostile config from making our own lists too long.
pub(super) const MOST_LAYERS: usize = 4096;
const MOST_SIZE: usize = 1 << 24;
const MOST_HEAD_DIM: usize = 4096;

/// A validated model.
#[derive(Debug, Clone)]
pub struct ModelConfig {
    /// The architecture that `config.json` names.
    pub architecture: &'static str,
    /// The tensors of a layer and their names.
    pub layout: &'static Layout,
    /// Width of a token's state between layers (`hidden_size`).
    pub hidden: usize,
    /// Width of the MLP between its projections (`intermediate_size`).
    pub intermediate: usize,
    /// Number of token ids, and of logits per token (`vocab_size`).
    pub vocab: usize,
    /// Number of decoder layers (`num_hidden_layers`).
    pub layers: usize,
    /// Query heads of a layer (`num_attention_heads`).
    pub heads: usize,
    /// Key and value heads of a layer (`num_key_value_heads`); divides `heads`.
    pub kv_heads: usize,
    /// Numbers of a head; need not be `hidden / heads`.
    pub head_dim: usize,
    /// The constants of all RMS norms.
    pub norm: Norm,
    /// The function applied to the MLP's gate.
    pub activation: Activation,
    /// Which projections add a bias; the same in all layers.
    pub bias: Bias,
    /// Multiplies each attention score.
    pub scale: f32,
    /// Limits attention scores smoothly to `-cap..cap`.
    pub score_cap: Option<f32>,
    /// Limits logits smoothly to `-cap..cap`.
    pub logit_cap: Option<f32>,
    /// Multiplies the embedding.
    pub embedding_scale: Option<f32>,
    /// Multiplies the logits, before they are capped.
    pub logit_scale: Option<f32>,
    /// Multiplies queries by their position.
    pub query_scale: Option<QueryScale>,
    /// Whether the rotary embedding of the checkpoint turns neighbouring values of a head; they are sorted into two
    /// halves when they are read.
    pub neighbours_turn: bool,
    /// Whether the embedding is also the output head (`tie_word_embeddings`).
    pub tied_embeddings: bool,
    /// The rotary embeddings that layers choose from.
    pub ropes: Vec<Rope>,
    /// One entry per layer.
    pub kinds: Vec<LayerKind>,
    /// Longest sequence in tokens, prompt and reply together (`max_position_embeddings`).
    pub max_len: usize,
    /// Token ids that end a sequence (`eos_token_id`); may be empty.
    pub eos_ids: Vec<u32>,
}

/// The RMS norms of a model.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Norm {
    /// Added to the mean square before the root is taken (`rms_norm_eps`).
    pub eps: f32,
    /// Added to every norm weight: 1 where the file stores the weight minus one (Gemma).
    pub offset: f32,
}

/// Which projections add a bias.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Bias {
    /// Those to queries, keys and values.
    pub qkv: bool,
    /// That from the attention's heads back to the hidden width.
    pub out: bool,
    /// All of the MLP: gate, up and down.
    pub mlp: bool,
}

/// The properties that differ between layers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LayerKind {
    /// Number of positions that a token attends to, including its own; `None`: all.
    pub window: Option<usize>,
    /// Index into [`ModelConfig::ropes`].
    pub rope: usize,
}

impl ModelConfig {
    /// Tokens beyond which a sequence's cached keys must be computed anew (see [`crate::device::LongRope`]).
    pub fn rope_switch(&self) -> Option<usize> {
        self.ropes.iter().filter_map(|rope| rope.long.as_ref()).map(|long| long.beyond).min()
    }

    /// How many values of a token's queries, and of its keys, a norm takes together.
    pub(super) fn normed_at_once(&self, over: Over) -> [usize; 2] {
        match over {
            Over::Head => [self.head_dim; 2],
            Over::Token => [self.heads * self.head_dim, self.kv_heads * self.head_dim],
        }
    }

    fn check(&self) -> Result<(), String> {
        let ModelConfig { heads, kv_heads, head_dim, .. } = *self;
        if !heads.is_multiple_of(kv_heads) {
            return Err(format!(
                "num_attention_heads {heads} is not a multiple of num_key_value_heads {kv_heads}"
            ));
        }
        if !head_dim.is_multiple_of(2) {
            return Err(format!("head size {head_dim} is odd; rotary embedding needs pairs"));
        }
        if self.ropes.iter().any(|rope| rope.rotary_dim() > head_dim || rope.inv_freq.is_empty()) {
            return Err(format!(
                "the rotary part is empty or larger than the head size {head_dim}"
            ));
        }
        if self.kinds.iter().any(|kind| kind.window == Some(0)) {
            return Err("`sliding_window` is 0".into());
        }
        let factors = [self.score_cap, self.logit_cap, self.embedding_scale, self.logit_scale];
        let caps = factors.into_iter().flatten();
        let positive = |x: f32| x.is_finite() && x > 0.0;
        let mut numbers = caps.chain([self.norm.eps, self.scale]);
        if !numbers.all(positive) {
            return Err("a norm epsilon, soft cap or scale is not above 0".into());
        }
        if self.query_scale.is_some_and(|scale| !scale.beta.is_finite() || scale.beta < 0.0) {
            return Err("`llama_4_scaling_beta` is below 0 or no number".into());
        }
        let finite = |rope: &Rope| {
            let long = rope.long.iter().flat_map(|long| &long.inv_freq);
            rope.factor.is_finite() && rope.inv_freq.iter().chain(long).all(|f| f.is_finite())
        };
        if !self.ropes.iter().all(finite) {
            return Err(
                "the rotary embedding's parameters give frequencies that are not finite".into()
            );
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
