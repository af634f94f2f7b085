//! Checks a `config.json` against the rules of its architecture. Keys that candle's config reader needs are filled in.
//! A config that candle's model would compute incorrectly is refused with an error that names the key.
//!
//! candle's readers alone are not enough: they ignore every unknown key. So a model with, say, a different rotary
//! embedding would load and write wrong text.

use crate::model::config::refuse_quantised;
use serde_json::{Map, Value};

pub(super) type Settings = Map<String, Value>;

/// What an architecture's `config.json` may say. Values are JSON.
pub struct Rules {
    /// Keys that candle calls otherwise: Hugging Face's name, candle's.
    pub renamed: &'static [(&'static str, &'static str)],
    /// What a key that is missing or null means.
    pub defaults: &'static [(&'static str, &'static str)],
    /// Keys of which candle's model computes only these values. A list is compared item by item.
    pub only: &'static [(&'static str, &'static [&'static str])],
    /// Keys that candle wants and the model does not depend on, or that mean something else to candle.
    pub fixed: &'static [(&'static str, &'static str)],
    /// Whether candle takes the size of a head from the hidden size.
    pub plain_heads: bool,
    /// Whether `sliding_window` limits attention. Sequences then end where the window would begin to matter, because
    /// candle's models leave it out of single tokens.
    pub window: bool,
    /// Whether the model has a longest sequence, `max_position_embeddings`.
    pub positions: bool,
}

/// Keys that count parts of a model.
const COUNTS: [&str; 14] = [
    "num_hidden_layers",
    "n_layer",
    "num_attention_heads",
    "num_key_value_heads",
    "num_experts",
    "num_local_experts",
    "n_routed_experts",
    "n_shared_experts",
    "num_experts_per_tok",
    "decoder_sparse_step",
    "moe_layer_freq",
    "n_groups",
    "head_dim",
    "expand",
];
/// Far above any real model; prevents a hostile config from making candle's lists too long.
const MOST: u64 = 4096;
/// The same for the sizes of matrices.
const MOST_SIZE: u64 = 1 << 24;

impl Rules {
    /// The settings for candle's reader, or what the config has that cannot be run.
    pub(super) fn apply(&self, raw: &Value) -> Result<Settings, String> {
        let mut all = raw.as_object().cloned().ok_or("it is not a JSON object")?;
        refuse_quantised(raw)?;
        rope(&mut all);
        for (from, to) in self.renamed {
            if let Some(value) = all.remove(*from) {
                all.insert((*to).to_owned(), value);
            }
        }
        for (key, value) in self.defaults {
            if all.get(*key).is_none_or(Value::is_null) {
                all.insert((*key).to_owned(), json(value));
            }
        }
        self.heads(&mut all)?;
        for (key, allowed) in self.only {
            only(&all, key, allowed)?;
        }
        sizes(&all)?;
        for (key, value) in self.fixed {
            all.insert((*key).to_owned(), json(value));
        }
        Ok(all)
    }

    /// Heads of keys and values, and the size of a head, where the config leaves them to be computed.
    fn heads(&self, all: &mut Settings) -> Result<(), String> {
        let (Some(hidden), Some(heads)) =
            (number(all, "hidden_size"), number(all, "num_attention_heads"))
        else {
            return Ok(());
        };
        if heads == 0 || !hidden.is_multiple_of(heads) && number(all, "head_dim").is_none() {
            return Err(format!(
                "hidden_size {hidden} is not a multiple of num_attention_heads {heads}"
            ));
        }
        let own = number(all, "head_dim").unwrap_or(hidden / heads);
        if self.plain_heads && own * heads != hidden {
            return Err(format!(
                "head_dim {own} times {heads} heads is not hidden_size {hidden}, which candle's model takes for granted"
            ));
        }
        for (key, value) in [("head_dim", own), ("num_key_value_heads", heads)] {
            if all.get(key).is_none_or(Value::is_null) {
                all.insert(key.to_owned(), value.into());
            }
        }
        let kv_heads = number(all, "num_key_value_heads").unwrap_or(heads);
        match kv_heads > 0 && heads.is_multiple_of(kv_heads) {
            true => Ok(()),
            false => Err(format!(
                "num_attention_heads {heads} is not a multiple of num_key_value_heads {kv_heads}"
            )),
        }
    }

    /// The longest sequence that the settings allow; `None`: any.
    pub(super) fn longest(&self, all: &Settings) -> Result<Option<usize>, String> {
        let window = number(all, "sliding_window").filter(|_| self.window);
        if !self.positions {
            return Ok(window.map(|n| n as usize));
        }
        let key = "max_position_embeddings";
        let all = number(all, key).ok_or_else(|| format!("`{key}` is missing or no number"))?;
        Ok(Some(window.map_or(all, |window| window.min(all)) as usize))
    }
}

pub(super) fn number(all: &Settings, key: &str) -> Option<u64> {
    let value = all.get(key)?;
    value
        .as_u64()
        .or_else(|| value.as_f64().filter(|x| x.fract() == 0.0 && *x >= 0.0).map(|x| x as u64))
}

/// Newer configs keep what concerns the rotary embedding in one object.
fn rope(all: &mut Settings) {
    if let Some(Value::Object(own)) = all.remove("rope_parameters") {
        let mut scaling = own.clone();
        for key in ["rope_theta", "partial_rotary_factor"] {
            if let Some(value) = scaling.remove(key) {
                all.entry(key).or_insert(value);
            }
        }
        all.insert("rope_scaling".into(), Value::Object(scaling));
    }
    let Some(Value::Object(scaling)) = all.get_mut("rope_scaling") else { return };
    if let Some(kind) = scaling.get("rope_type").cloned() {
        scaling.entry("type").or_insert(kind);
    }
    if scaling.get("type").is_none_or(|kind| kind == "default") {
        all.insert("rope_scaling".into(), Value::Null);
    }
}

fn only(all: &Settings, key: &str, allowed: &[&str]) -> Result<(), String> {
    let fits = |value: &Value| allowed.iter().any(|allowed| same(value, &json(allowed)));
    let sound = match all.get(key) {
        None => true,
        Some(Value::Array(items)) => items.iter().all(fits),
        Some(value) => fits(value),
    };
    match (sound, all.get(key)) {
        (false, Some(found)) => {
            let found: String = found.to_string().chars().take(80).collect();
            Err(format!(
                "`{key}` is {found}; the compatibility lane computes only {}",
                allowed.join(" or ")
            ))
        }
        _ => Ok(()),
    }
}

/// Whether both mean the same: 1 and 1.0 do.
fn same(one: &Value, other: &Value) -> bool {
    match (one.as_f64(), other.as_f64()) {
        (Some(one), Some(other)) => one == other,
        _ => one == other,
    }
}

fn sizes(all: &Settings) -> Result<(), String> {
    let is_size = |key: &str| {
        key.ends_with("_size")
            || key.ends_with("_rank")
            || key.ends_with("_dim")
            || key == "d_model"
    };
    for (key, value) in all.iter().filter(|(_, value)| value.is_number()) {
        let count = COUNTS.contains(&key.as_str());
        let most = if count { MOST } else { MOST_SIZE };
        let least = u64::from(!key.contains("expert"));
        let fits = number(all, key).is_some_and(|n| (least..=most).contains(&n));
        if (count || is_size(key)) && !fits {
            return Err(format!("`{key}` is {value}, not a whole number from {least} to {most}"));
        }
    }
    // candle makes a table of as many numbers.
    let turned = all.get("partial_rotary_factor").and_then(Value::as_f64);
    match turned.is_none_or(|share| share > 0.0 && share <= 1.0) {
        true => Ok(()),
        false => Err("`partial_rotary_factor` is not above 0 and at most 1".into()),
    }
}

/// JSON of this crate; what is no JSON is a text.
fn json(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|_| Value::String(text.to_owned()))
}

/// The error of candle's reader, which names missing keys, but not those of a wrong type: the key without which
/// it says something else.
pub(super) fn named(
    settings: &Settings,
    parse: fn(Value) -> Result<(), String>,
) -> Result<(), String> {
    let Err(error) = parse(Value::Object(settings.clone())) else { return Ok(()) };
    if error.starts_with("missing field") {
        return Err(error);
    }
    let other = |key: &&String| {
        let mut without = settings.clone();
        without.remove(key.as_str());
        parse(Value::Object(without)).err().as_ref() != Some(&error)
    };
    match settings.keys().find(other) {
        Some(key) if !error.contains(key.as_str()) => Err(format!("`{key}`: {error}")),
        _ => Err(error),
    }
}

#[cfg(test)]
mod tests;
