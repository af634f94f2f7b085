//! Phi-3 (arXiv:2404.14219) and Phi-4-mini (arXiv:2503.01743): fused projections, LongRoPE, and in the latter
//! a rotary embedding on part of each head.

use super::fields::{Defaults, Fields, with_windows};
use super::{ModelConfig, rope};
use crate::model::families::Family;

/// Reads the config of Phi-3 and Phi-4-mini. Fails if a field is missing or of the wrong type, or if its value is not
/// supported.
pub fn phi3(fields: &Fields<'_>, family: &'static Family) -> Result<ModelConfig, String> {
    let defaults = Defaults { eps: 1e-5, ..Defaults::PLAIN };
    let config = fields.shared(family, &defaults)?;
    let config = ModelConfig { activation: fields.activation("hidden_act", "silu")?, ..config };
    let rope = rope::read(fields, &config, rope::params(fields)?, rope::theta(fields)?)?;
    let sliding = vec![true; config.layers];
    let window = fields.count("sliding_window")?;
    Ok(with_windows(config, rope, &sliding, window))
}
