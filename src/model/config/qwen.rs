//! Qwen2 and Qwen2.5 (arXiv:2407.10671, arXiv:2412.15115), which add biases to queries, keys and values,
//! and Qwen3 (arXiv:2505.09388), which norms query and key heads instead.

use super::fields::{Defaults, Fields, with_windows};
use super::{Bias, ModelConfig, rope};
use crate::model::families::Family;

/// Reads the config of Qwen2 and Qwen2.5. Fails if a field is missing or of the wrong type, or if its value is not
/// supported.
pub fn qwen2(fields: &Fields<'_>, family: &'static Family) -> Result<ModelConfig, String> {
    let config = windowed(fields, fields.shared(family, &DEFAULTS)?)?;
    Ok(ModelConfig { bias: Bias { qkv: true, ..Bias::default() }, ..config })
}

/// Reads the config of Qwen3. Fails as [`qwen2`] does.
pub fn qwen3(fields: &Fields<'_>, family: &'static Family) -> Result<ModelConfig, String> {
    let defaults = Defaults { head_dim: Some(128), ..DEFAULTS };
    let config = windowed(fields, fields.shared(family, &defaults)?)?;
    let attention = fields.flag("attention_bias")?.unwrap_or(false);
    Ok(ModelConfig { bias: Bias { qkv: attention, out: attention, mlp: false }, ..config })
}

/// The language model of Qwen3-VL. Its rotary embedding has sections for places in an image, which are the same for
/// text. Fails as [`qwen3`] does, and if there is no `text_config`.
pub fn qwen3_text_part(
    fields: &Fields<'_>,
    family: &'static Family,
) -> Result<ModelConfig, String> {
    fields.text_part(|text| qwen3(text, family))
}

const DEFAULTS: Defaults = Defaults { max_len: 32_768, ..Defaults::PLAIN };

/// With `use_sliding_window`, layers from `max_window_layers` on have a window.
fn windowed(fields: &Fields<'_>, config: ModelConfig) -> Result<ModelConfig, String> {
    let config = ModelConfig { activation: fields.activation("hidden_act", "silu")?, ..config };
    let used = fields.flag("use_sliding_window")?.unwrap_or(false);
    let window =
        if fields.has("sliding_window") { fields.count("sliding_window")? } else { Some(4096) };
    let window = window.filter(|_| used);
    let from = fields.count("max_window_layers")?.unwrap_or(28);
    let sliding = fields.sliding(config.layers, |layer| window.is_some() && layer >= from)?;
    let rope = rope::read(fields, &config, rope::params(fields)?, rope::theta(fields)?)?;
    Ok(with_windows(config, rope, &sliding, window))
}
