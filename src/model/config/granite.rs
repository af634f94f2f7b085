//! Granite 3 and 4 without experts: Llama with four additional factors, which need no extra operations.
//!
//! The residual stream is stored divided by the residual factor r, so branches can be added to `x / r` without scaling.
//! This division does not change RMS norms if their epsilon is divided by r squared. At the start, the embedding's
//! factor includes the division.

use super::fields::{Defaults, Fields};
use super::llama::plain;
use super::{ModelConfig, Norm};
use crate::model::families::Family;

/// Reads the config of Granite. Fails if a field is missing or of the wrong type, or if a factor is not above 0.
pub fn granite(fields: &Fields<'_>, family: &'static Family) -> Result<ModelConfig, String> {
    let config = plain(fields, family, &Defaults { max_len: 2048, ..Defaults::PLAIN })?;
    let factor = |key: &str| match fields.number(key)?.unwrap_or(1.0) {
        factor if factor.is_finite() && factor > 0.0 => Ok(factor),
        factor => Err(format!("`{key}` is {factor}, not above 0")),
    };
    let residual = factor("residual_multiplier")?;
    Ok(ModelConfig {
        norm: Norm {
            eps: (f64::from(config.norm.eps) / (residual * residual)) as f32,
            ..config.norm
        },
        embedding_scale: Some((factor("embedding_multiplier")? / residual) as f32),
        scale: factor("attention_multiplier")? as f32,
        logit_scale: Some((1.0 / factor("logits_scaling")?) as f32),
        ..config
    })
}
