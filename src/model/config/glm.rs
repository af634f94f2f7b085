//! GLM-4 (0414): a norm before and after each part, biases on queries, keys and values, and a rotary embedding that
//! rotates neighbouring values in half of each head.

use super::fields::{Defaults, Fields};
use super::{Bias, ModelConfig, rope};
use crate::model::families::Family;

/// Reads the config of GLM-4 (0414). Fails if a field is missing or of the wrong type, or if its value is not
/// supported.
pub fn glm4(fields: &Fields<'_>, family: &'static Family) -> Result<ModelConfig, String> {
    let defaults =
        Defaults { head_dim: Some(128), max_len: 131_072, eps: 1.5625e-7, ..Defaults::PLAIN };
    let config = fields.shared(family, &defaults)?;
    let bias = fields.flag("attention_bias")?.unwrap_or(true);
    let (params, theta) = (rope::params(fields)?, rope::theta(fields)?);
    let rope = rope::read_partial(fields, &config, params, theta, 0.5)?;
    Ok(ModelConfig {
        bias: Bias { qkv: bias, ..Bias::default() },
        activation: fields.activation("hidden_act", "silu")?,
        neighbours_turn: true,
        ropes: vec![rope],
        ..config
    })
}
