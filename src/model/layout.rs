//! The names of a checkpoint's tensors: those of a layer, and those outside the layers.
//!
//! The names are those of Hugging Face checkpoints; other formats are translated to them when they are read. It does
//! not know shapes.

/// The tensors of one layer, without the prefix `model.layers.N.` and the suffix `.weight`.
#[derive(Debug, Clone, Copy)]
pub struct Layout {
    /// The norm before attention; `None` in families without it.
    pub attention_norm: Option<&'static str>,
    /// One fused tensor, or queries, keys and values.
    pub qkv: &'static [&'static str],
    /// Norms of queries and of keys.
    pub head_norms: Option<HeadNorms>,
    /// The projection of the attention heads' output to the residual stream.
    pub out: &'static str,
    /// Before the attention's output joins the residual stream.
    pub attention_post_norm: Option<&'static str>,
    /// The norm before the feed-forward part; `None` in families without it.
    pub mlp_norm: Option<&'static str>,
    /// The feed-forward part.
    pub mlp: MlpNames,
    /// Before the feed-forward output joins the residual stream; `None` in families without it.
    pub mlp_post_norm: Option<&'static str>,
}

/// The norms of queries and keys.
#[derive(Debug, Clone, Copy)]
pub struct HeadNorms {
    /// The norm of queries and that of keys.
    pub names: [&'static str; 2],
    /// What is normed at once.
    pub over: Over,
}

/// What a norm of queries or keys takes together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Over {
    /// Each head by itself.
    Head,
    /// All heads of a token.
    Token,
}

/// The tensors of a gated feed-forward part.
#[derive(Debug, Clone, Copy)]
pub struct MlpNames {
    /// One fused tensor, or gate and up.
    pub gate_up: &'static [&'static str],
    /// The projection back to the residual stream.
    pub down: &'static str,
}

/// Names outside the layers; the same in every family.
pub const EMBEDDING: &str = "model.embed_tokens.weight";
/// The norm after the last layer.
pub const NORM: &str = "model.norm.weight";
/// The projection to logits; absent if the checkpoint uses [`EMBEDDING`] for it.
pub const HEAD: &str = "lm_head.weight";

/// The name of a tensor of layer `layer`, given the part after `model.layers.N.`
pub fn in_layer(layer: usize, name: &str) -> String {
    format!("model.layers.{layer}.{name}")
}
