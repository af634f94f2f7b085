//! Mistral (arXiv:2310.06825), Ministral 3, and the language models of Mistral 3's checkpoints with images.

use super::fields::{Defaults, Fields, with_windows};
use super::{ModelConfig, rope};
use crate::device::QueryScale;
use crate::model::families::Family;

/// Reads the config of Mistral: one window on every layer, in the versions that have one (`sliding_window` null: none;
/// absent: 4096 tokens). Fails if a field is missing or of the wrong type, or if its value is not supported.
pub fn mistral(fields: &Fields<'_>, family: &'static Family) -> Result<ModelConfig, String> {
    let defaults = Defaults { kv_heads: Some(8), max_len: 131_072, ..Defaults::PLAIN };
    let window =
        if fields.has("sliding_window") { fields.count("sliding_window")? } else { Some(4096) };
    windowed(fields, fields.shared(family, &defaults)?, window)
}

/// Reads the config of Ministral 3, with YaRN and queries that grow with their position. Fails as [`mistral`] does.
pub fn ministral3(fields: &Fields<'_>, family: &'static Family) -> Result<ModelConfig, String> {
    let defaults = Defaults {
        kv_heads: Some(8),
        head_dim: Some(128),
        max_len: 262_144,
        eps: 1e-5,
        ..Defaults::PLAIN
    };
    let config = fields.shared(family, &defaults)?;
    let window = fields.count("sliding_window")?;
    let query_scale = query_scale(fields)?;
    windowed(fields, ModelConfig { query_scale, ..config }, window)
}

/// The language model of a checkpoint that also reads images: either of the two. Fails as [`mistral`] does, and if
/// there is no `text_config` or its model is another.
pub fn mistral3_text_part(
    fields: &Fields<'_>,
    family: &'static Family,
) -> Result<ModelConfig, String> {
    fields.text_part(|text| match text.text("model_type").unwrap_or("mistral") {
        "mistral" => mistral(text, family),
        "ministral3" => ministral3(text, family),
        other => Err(format!(
            "its language model is a `{other}`, which is not supported; supported: mistral, ministral3"
        )),
    })
}

fn windowed(
    fields: &Fields<'_>,
    config: ModelConfig,
    window: Option<usize>,
) -> Result<ModelConfig, String> {
    let config = ModelConfig { activation: fields.activation("hidden_act", "silu")?, ..config };
    let rope = rope::read(fields, &config, rope::params(fields)?, rope::theta(fields)?)?;
    let sliding = vec![true; config.layers];
    Ok(with_windows(config, rope, &sliding, window))
}

/// `llama_4_scaling_beta`, over periods of the original context.
fn query_scale(fields: &Fields<'_>) -> Result<Option<QueryScale>, String> {
    let Some(params) = rope::params(fields)? else { return Ok(None) };
    let Some(beta) = params.number("llama_4_scaling_beta")?.filter(|beta| *beta != 0.0) else {
        return Ok(None);
    };
    let period = params.size("original_max_position_embeddings")?;
    let period = period.and_then(|period| u32::try_from(period).ok()).ok_or(
        "`llama_4_scaling_beta` needs `original_max_position_embeddings` beside it, which is missing",
    )?;
    Ok(Some(QueryScale { beta: beta as f32, period }))
}
