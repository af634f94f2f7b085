//! Gemma 2 (arXiv:2408.00118) and Gemma 3's text models (arXiv:2503.19786).
//!
//! They have norms before and after each part, with weights stored minus one, a scaled embedding, GELU gates,
//! and windows on most layers. Gemma 2 caps scores and logits. Gemma 3 norms heads instead, and its windowed
//! layers have their own RoPE frequencies.

use super::fields::{Defaults, Fields, with_windows};
use super::{Bias, LayerKind, ModelConfig, Norm, rope};
use crate::model::families::Family;

/// The defaults of transformers for missing keys; Gemma 3's published configs omit many.
const DEFAULTS: Defaults = Defaults {
    hidden: Some(2304),
    intermediate: Some(9216),
    vocab: Some(256_000),
    layers: Some(26),
    heads: Some(8),
    kv_heads: Some(4),
    head_dim: Some(256),
    max_len: 8192,
    eps: 1e-6,
    tied: true,
};

/// Reads the config of Gemma 2. Fails if a field is missing or of the wrong type, or if its value is not supported.
pub fn gemma2(fields: &Fields<'_>, family: &'static Family) -> Result<ModelConfig, String> {
    let config = common(fields, fields.shared(family, &DEFAULTS)?)?;
    let sliding = fields.sliding(config.layers, |layer| layer % 2 == 0)?;
    let rope = rope::read(fields, &config, rope::params(fields)?, rope::theta(fields)?)?;
    let config = ModelConfig {
        score_cap: cap(fields, "attn_logit_softcapping", Some(50.0))?,
        logit_cap: cap(fields, "final_logit_softcapping", Some(30.0))?,
        ..config
    };
    let window = window(fields)?;
    Ok(with_windows(config, rope, &sliding, window))
}

/// Reads the config of a text model of Gemma 3. Fails as [`gemma2`] does, and for a model with bidirectional attention.
pub fn gemma3(fields: &Fields<'_>, family: &'static Family) -> Result<ModelConfig, String> {
    if fields.flag("use_bidirectional_attention")? == Some(true) {
        return Err(
            "`use_bidirectional_attention: true` is not supported: it is no language model".into(),
        );
    }
    let defaults = Defaults { vocab: Some(262_208), max_len: 131_072, ..DEFAULTS };
    let config = common(fields, fields.shared(family, &defaults)?)?;
    let every = fields.size("sliding_window_pattern")?.unwrap_or(6);
    let sliding = fields.sliding(config.layers, |layer| (layer + 1) % every != 0)?;
    let window = window(fields)?;
    let kind = |slides: &bool| LayerKind {
        window: window.filter(|_| *slides),
        rope: usize::from(*slides),
    };
    let theta = fields.number("rope_theta")?.unwrap_or(1_000_000.0);
    let local_theta = fields.number("rope_local_base_freq")?.unwrap_or(10_000.0);
    Ok(ModelConfig {
        logit_cap: cap(fields, "final_logit_softcapping", None)?,
        ropes: rope::full_and_sliding(fields, &config, [theta, local_theta])?,
        kinds: sliding.iter().map(kind).collect(),
        ..config
    })
}

/// The language model of a checkpoint that also has a vision part. Fails as [`gemma3`] does, and if there is no
/// `text_config`.
pub fn gemma3_text_part(
    fields: &Fields<'_>,
    family: &'static Family,
) -> Result<ModelConfig, String> {
    fields.text_part(|text| gemma3(text, family))
}

fn common(fields: &Fields<'_>, config: ModelConfig) -> Result<ModelConfig, String> {
    let attention = fields.flag("attention_bias")?.unwrap_or(false);
    // Older files name the activation `hidden_act`, and mean the tanh form in any case.
    let activation = fields.activation("hidden_activation", "gelu_pytorch_tanh")?;
    let scalar = fields.number("query_pre_attn_scalar")?.unwrap_or(256.0);
    Ok(ModelConfig {
        norm: Norm { offset: 1.0, ..config.norm },
        activation,
        bias: Bias { qkv: attention, out: attention, mlp: false },
        scale: (1.0 / scalar.sqrt()) as f32,
        embedding_scale: Some((config.hidden as f32).sqrt()),
        ..config
    })
}

fn window(fields: &Fields<'_>) -> Result<Option<usize>, String> {
    if fields.has("sliding_window") { fields.count("sliding_window") } else { Ok(Some(4096)) }
}

fn cap(fields: &Fields<'_>, key: &str, default: Option<f64>) -> Result<Option<f32>, String> {
    let cap = if fields.has(key) { fields.number(key)? } else { default };
    Ok(cap.map(|cap| cap as f32))
}
