//! Llama 2 and 3 (arXiv:2302.13971, arXiv:2407.21783), the plain pre-norm decoder of which the other families are
//! variations, and SmolLM3, which does not rotate queries and keys on every fourth layer (arXiv:2501.18795).

use super::fields::{Defaults, Fields};
use super::{Bias, LayerKind, ModelConfig, rope};
use crate::device::Rope;
use crate::model::families::Family;

/// Reads the config of Llama. Fails as [`plain`] does.
pub fn llama(fields: &Fields<'_>, family: &'static Family) -> Result<ModelConfig, String> {
    plain(fields, family, &Defaults { max_len: 2048, ..Defaults::PLAIN })
}

/// Reads the config of SmolLM3. Fails as [`plain`] does.
pub fn smollm3(fields: &Fields<'_>, family: &'static Family) -> Result<ModelConfig, String> {
    let defaults = Defaults { kv_heads: Some(4), max_len: 32_768, tied: true, ..Defaults::PLAIN };
    let config = plain(fields, family, &defaults)?;
    let turned = turned_layers(fields, config.layers)?;
    let windowed = fields.flag("use_sliding_window")?.unwrap_or(false);
    let window = fields.count("sliding_window")?.filter(|_| windowed);
    let sliding = fields.sliding(config.layers, |layer| window.is_some() && !turned[layer])?;
    let kind = |(turned, slides): (&bool, &bool)| LayerKind {
        window: window.filter(|_| *slides),
        rope: usize::from(!turned),
    };
    let mut ropes = config.ropes;
    ropes.extend(ropes.first().map(still));
    Ok(ModelConfig { ropes, kinds: turned.iter().zip(&sliding).map(kind).collect(), ..config })
}

/// Reads what Llama and its descendants have in common. Fails if a field is missing or of the wrong type, or if its
/// value is not supported.
pub fn plain(
    fields: &Fields<'_>,
    family: &'static Family,
    defaults: &Defaults,
) -> Result<ModelConfig, String> {
    let config = fields.shared(family, defaults)?;
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

/// Which layers turn queries and keys: those with a 1 in `no_rope_layers`, else all but each
/// `no_rope_layer_interval`th.
fn turned_layers(fields: &Fields<'_>, layers: usize) -> Result<Vec<bool>, String> {
    let Some(list) = fields.numbers("no_rope_layers")? else {
        let every = fields.size("no_rope_layer_interval")?.unwrap_or(4);
        return Ok((0..layers).map(|layer| (layer + 1) % every != 0).collect());
    };
    if list.len() < layers {
        return Err(format!("`no_rope_layers` has {} entries for {layers} layers", list.len()));
    }
    Ok(list.iter().take(layers).map(|turns| *turns != 0.0).collect())
}

/// An embedding of the same size that turns nothing.
fn still(rope: &Rope) -> Rope {
    Rope { inv_freq: vec![0.0; rope.inv_freq.len()], factor: 1.0, long: None }
}
