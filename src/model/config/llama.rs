//! Llama 2 and 3 (arXiv:2302.13971, arXiv:2407.21783) and Mistral (arXiv:2310.06825): the plain pre-norm
//! decoder. The other families are variations of it.

use super::fields::{Defaults, Fields, with_windows};
use super::{Bias, ModelConfig, rope};
use crate::model::families::Family;

pub fn llama(fields: &Fields<'_>, family: &'static Family) -> Result<ModelConfig, String> {
    let defaults = Defaults { max_len: 2048, ..Defaults::PLAIN };
    let config = fields.shared(family, &defaults)?;
    let attention = fields.flag("attention_bias")?.unwrap_or(false);
    let mlp = fields.flag("mlp_bias")?.unwrap_or(false);
    let rope = rope::read(fields, &config, rope::params(fields)?, rope::theta(fields)?)?;
    Ok(ModelConfig {
        bias: Bias { qkv: attention, out: attention, mlp },
        activation: fields.activation("hidden_act", "silu")?,
        ropes: vec![rope],
        ..config
    })
}

/// One window on every layer, in the versions that have one (`sliding_window` null: none; absent: 4096).
pub fn mistral(fields: &Fields<'_>, family: &'static Family) -> Result<ModelConfig, String> {
    let defaults = Defaults { kv_heads: Some(8), max_len: 131_072, ..Defaults::PLAIN };
    let config = fields.shared(family, &defaults)?;
    let config = ModelConfig { activation: fields.activation("hidden_act", "silu")?, ..config };
    let window =
        if fields.has("sliding_window") { fields.count("sliding_window")? } else { Some(4096) };
    let rope = rope::read(fields, &config, rope::params(fields)?, rope::theta(fields)?)?;
    let sliding = vec![true; config.layers];
    Ok(with_windows(config, rope, &sliding, window))
}
