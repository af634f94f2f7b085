//! OLMo 2 (arXiv:2501.00656) and OLMo 3: norms only after each part, and over all queries and keys of a token. OLMo 3
//! adds windows on three of four layers, whose rotary embedding is not scaled.

use super::fields::{Defaults, Fields, with_windows};
use super::{Bias, LayerKind, ModelConfig, rope};
use crate::model::families::Family;

const DEFAULTS: Defaults = Defaults { max_len: 2048, eps: 1e-5, ..Defaults::PLAIN };

/// Reads the config of OLMo 2. Fails if a field is missing or of the wrong type, or if its value is not supported.
pub fn olmo2(fields: &Fields<'_>, family: &'static Family) -> Result<ModelConfig, String> {
    let config = common(fields, family)?;
    let rope = rope::read(fields, &config, rope::params(fields)?, rope::theta(fields)?)?;
    let full = vec![false; config.layers];
    Ok(with_windows(config, rope, &full, None))
}

/// Reads the config of OLMo 3. Fails as [`olmo2`] does.
pub fn olmo3(fields: &Fields<'_>, family: &'static Family) -> Result<ModelConfig, String> {
    let config = common(fields, family)?;
    let window =
        if fields.has("sliding_window") { fields.count("sliding_window")? } else { Some(4096) };
    let sliding = fields.sliding(config.layers, |layer| (layer + 1) % 4 != 0)?;
    let kind = |slides: &bool| LayerKind {
        window: window.filter(|_| *slides),
        rope: usize::from(*slides),
    };
    let theta = fields.number("rope_theta")?.unwrap_or(500_000.0);
    Ok(ModelConfig {
        ropes: rope::full_and_sliding(fields, &config, [theta, theta])?,
        kinds: sliding.iter().map(kind).collect(),
        ..config
    })
}

fn common(fields: &Fields<'_>, family: &'static Family) -> Result<ModelConfig, String> {
    let config = fields.shared(family, &DEFAULTS)?;
    let attention = fields.flag("attention_bias")?.unwrap_or(false);
    Ok(ModelConfig {
        bias: Bias { qkv: attention, out: attention, mlp: false },
        activation: fields.activation("hidden_act", "silu")?,
        ..config
    })
}
