//! Converts the metadata of a GGUF file to the `config.json` that Hugging Face would have.
//!
//! All checkpoints then have the same form, and the readers of `config.json` read this too. Some values are
//! in llama.cpp's code and not in the file (Gemma's query scale, its pattern of windows); they are written
//! out as that code has them. RoPE factors come from tensors of the file. If they match Llama 3's formula, the config
//! names the formula, as the original config does. Any other factors are passed on as they are, one per frequency.

use super::super::config::MOST_LAYERS;
use super::header::Fault;
use super::meta::Metadata;
use serde_json::{Map, Value, json};

type Result<T> = std::result::Result<T, Fault>;

named! {
    /// Supported architectures, as named in `general.architecture`.
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    pub enum Architecture {
        Llama = "llama",
        Mistral3 = "mistral3",
        Qwen2 = "qwen2",
        Qwen3 = "qwen3",
        Qwen3Vl = "qwen3vl",
        Gemma2 = "gemma2",
        Gemma3 = "gemma3",
        Phi3 = "phi3",
        Granite = "granite",
        SmolLm3 = "smollm3",
        Glm4 = "glm4",
        Olmo2 = "olmo2",
    }
}

impl Architecture {
    pub(super) fn of(meta: Metadata<'_>) -> Result<Architecture> {
        let named = meta.text("general.architecture")?.unwrap_or("(none)");
        let what = match (meta.text("general.type")?, named) {
            (Some("adapter"), _) => {
                "it is an adapter (LoRA), not a model; merge it with `llama-export-lora` and load the result"
            }
            (Some("mmproj"), _) | (_, "clip") => {
                "it is the part of a model that reads images or sounds; load the file of the language model"
            }
            (Some("imatrix"), _) => {
                "it is an importance matrix for quantising a model; load the model's file"
            }
            (Some("vocab"), _) => "it is a vocabulary without weights; load the model's file",
            _ => "",
        };
        if !what.is_empty() {
            return Err(Fault::Unsupported(what.to_owned()));
        }
        Architecture::from_name(named).ok_or_else(|| {
            let known = Architecture::NAMES.join(", ");
            Fault::Unsupported(format!(
                "its architecture {named} is not supported; supported: {known}"
            ))
        })
    }

    fn hugging_face(self) -> (&'static str, &'static str) {
        match self {
            Architecture::Llama => ("LlamaForCausalLM", "llama"),
            Architecture::Mistral3 => ("Ministral3ForCausalLM", "ministral3"),
            Architecture::Qwen2 => ("Qwen2ForCausalLM", "qwen2"),
            // The language model of Qwen3-VL is a Qwen3.
            Architecture::Qwen3 | Architecture::Qwen3Vl => ("Qwen3ForCausalLM", "qwen3"),
            Architecture::Gemma2 => ("Gemma2ForCausalLM", "gemma2"),
            Architecture::Gemma3 => ("Gemma3ForCausalLM", "gemma3_text"),
            Architecture::Phi3 => ("Phi3ForCausalLM", "phi3"),
            Architecture::Granite => ("GraniteForCausalLM", "granite"),
            Architecture::SmolLm3 => ("SmolLM3ForCausalLM", "smollm3"),
            Architecture::Glm4 => ("Glm4ForCausalLM", "glm4"),
            // With windows it is OLMo 3, which has no name of its own in these files.
            Architecture::Olmo2 => ("Olmo2ForCausalLM", "olmo2"),
        }
    }

    pub(super) fn is_gemma(self) -> bool {
        matches!(self, Architecture::Gemma2 | Architecture::Gemma3)
    }

    pub(super) fn has_qk_norms(self) -> bool {
        use Architecture::{Gemma3, Olmo2, Qwen3, Qwen3Vl};
        matches!(self, Qwen3 | Qwen3Vl | Gemma3 | Olmo2)
    }

    /// Whether gate and up are one tensor.
    pub(super) fn has_fused_gate(self) -> bool {
        matches!(self, Architecture::Phi3 | Architecture::Glm4)
    }

    /// Whether llama.cpp's converter has interleaved the rows of queries and keys.
    pub(super) fn is_interleaved(self) -> bool {
        use Architecture::{Granite, Llama, Mistral3, SmolLm3};
        matches!(self, Llama | Mistral3 | Granite | SmolLm3)
    }
}

/// Information from the tensors beyond the metadata.
#[derive(Debug, Default)]
pub(super) struct FromTensors {
    /// Rows of the token embedding.
    pub(super) vocab: usize,
    pub(super) has_head: bool,
    pub(super) attention_bias: bool,
    pub(super) rope_freqs: Option<Vec<f32>>,
    pub(super) rope_long: Option<Vec<f32>>,
    pub(super) rope_short: Option<Vec<f32>>,
}

/// Keys with the architecture's name as prefix.
struct Keys<'a> {
    meta: Metadata<'a>,
    arch: Architecture,
}

impl Keys<'_> {
    fn key(&self, end: &str) -> String {
        format!("{}.{end}", self.arch.as_str())
    }

    fn size(&self, end: &str) -> Result<usize> {
        match self.optional_size(end)? {
            Some(size) if size > 0 => Ok(size),
            _ => Err(Fault::Damaged(format!("its metadata has no `{}`", self.key(end)))),
        }
    }

    fn optional_size(&self, end: &str) -> Result<Option<usize>> {
        Ok(self.meta.count(&self.key(end))?.and_then(|n| usize::try_from(n).ok()))
    }

    fn float(&self, end: &str) -> Result<Option<f64>> {
        self.meta.float(&self.key(end)).map(|x| x.map(tidy))
    }

    fn text(&self, end: &str) -> Result<Option<&str>> {
        self.meta.text(&self.key(end))
    }
}

/// The shortest decimal with the same f32 value: files contain f32, configurations the decimal that was
/// meant.
fn tidy(x: f64) -> f64 {
    if f64::from(x as f32) == x { (x as f32).to_string().parse().unwrap_or(x) } else { x }
}

pub(super) fn config(
    meta: Metadata<'_>,
    arch: Architecture,
    tensors: &FromTensors,
) -> Result<Value> {
    let keys = Keys { meta, arch };
    if keys.optional_size("expert_count")?.is_some_and(|n| n > 0) {
        return Err(Fault::Unsupported(
            "it is a mixture of experts, which is not supported".into(),
        ));
    }
    let layers = keys.size("block_count")?;
    if layers > MOST_LAYERS {
        let key = keys.key("block_count");
        return Err(Fault::Damaged(format!("its `{key}` is {layers}, which no model has")));
    }
    let heads = keys.size("attention.head_count")?;
    let hidden = keys.size("embedding_length")?;
    let head_dim = keys.optional_size("attention.key_length")?.unwrap_or(hidden / heads);
    if keys.optional_size("attention.value_length")?.is_some_and(|n| n != head_dim) {
        return Err(Fault::Unsupported("its keys and values differ in size".into()));
    }
    let Some(eps) = keys.float("attention.layer_norm_rms_epsilon")? else {
        return Err(Fault::Damaged(format!(
            "its metadata has no `{}`",
            keys.key("attention.layer_norm_rms_epsilon")
        )));
    };
    let (class, model_type) = arch.hugging_face();
    let mut config = json!({
        "architectures": [class], "model_type": model_type,
        "hidden_size": hidden,
        "intermediate_size": keys.size("feed_forward_length")?,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": keys.optional_size("attention.head_count_kv")?.unwrap_or(heads),
        "head_dim": head_dim,
        "rms_norm_eps": eps,
        "max_position_embeddings": keys.size("context_length")?,
        "rope_theta": keys.float("rope.freq_base")?.unwrap_or(10_000.0),
        "vocab_size": tensors.vocab,
        "tie_word_embeddings": !tensors.has_head,
        "attention_bias": tensors.attention_bias && arch != Architecture::Qwen2,
        "hidden_act": if arch.is_gemma() { "gelu_pytorch_tanh" } else { "silu" },
    });
    let Some(map) = config.as_object_mut() else { return Ok(config) };
    if arch != Architecture::Phi3
        && let Some(scaling) = rope_scaling(&keys, tensors, head_dim)?
    {
        map.insert("rope_scaling".into(), scaling);
    }
    match arch {
        Architecture::Gemma2 | Architecture::Gemma3 => gemma(&keys, map, hidden, heads, head_dim)?,
        Architecture::Phi3 => phi3(&keys, map, head_dim, tensors)?,
        Architecture::Mistral3 => mistral3(&keys, map)?,
        Architecture::Granite => granite(&keys, map)?,
        Architecture::Glm4 => glm4(&keys, map, head_dim)?,
        Architecture::Olmo2 => olmo(&keys, map, layers)?,
        _ => {}
    }
    end_of_text(meta, map)?;
    Ok(config)
}

fn end_of_text(meta: Metadata<'_>, map: &mut Map<String, Value>) -> Result<()> {
    for (key, name) in [("eos", "eos_token_id"), ("bos", "bos_token_id")] {
        if let Some(id) = meta.count(&format!("tokenizer.ggml.{key}_token_id"))? {
            map.insert(name.into(), json!(id));
        }
    }
    Ok(())
}

/// Soft caps, windows and the query scale. The largest models scale queries by the model's width.
fn gemma(
    keys: &Keys<'_>,
    map: &mut Map<String, Value>,
    hidden: usize,
    heads: usize,
    head_dim: usize,
) -> Result<()> {
    let layers = keys.size("block_count")?;
    let (second, largest) = match keys.arch {
        Architecture::Gemma2 => (true, 46),
        _ => (false, 62),
    };
    let scale = if layers == largest { hidden / heads } else { head_dim };
    map.insert("query_pre_attn_scalar".into(), json!(scale));
    map.insert("hidden_activation".into(), json!("gelu_pytorch_tanh"));
    let cap = |end: &str, default: Option<f64>| Ok(keys.float(end)?.or(default));
    let default = |cap: f64| second.then_some(cap);
    let attention = cap("attn_logit_softcapping", default(50.0))?;
    map.insert("attn_logit_softcapping".into(), json!(attention));
    map.insert(
        "final_logit_softcapping".into(),
        json!(cap("final_logit_softcapping", default(30.0))?),
    );
    let pattern = keys.optional_size("attention.sliding_window_pattern")?.filter(|n| *n > 0);
    let every = pattern.unwrap_or(if second { 2 } else { 6 });
    let window = keys.optional_size("attention.sliding_window")?.filter(|n| *n > 0);
    let window = window.or(second.then_some(4096));
    let full = |i: usize| window.is_none() || (i + 1).is_multiple_of(every);
    let kind = |i| if full(i) { "full_attention" } else { "sliding_attention" };
    map.insert("sliding_window".into(), json!(window));
    map.insert("sliding_window_pattern".into(), json!(every));
    map.insert("layer_types".into(), (0..layers).map(kind).collect());
    if !second {
        let local = keys.float("rope.freq_base_swa")?.unwrap_or(10_000.0);
        map.insert("rope_local_base_freq".into(), json!(local));
    }
    Ok(())
}

/// The factor of queries.
fn mistral3(keys: &Keys<'_>, map: &mut Map<String, Value>) -> Result<()> {
    if let Some(scaling) = map.get_mut("rope_scaling").and_then(Value::as_object_mut)
        && let Some(beta) = keys.float("attention.temperature_scale")?
    {
        scaling.insert("llama_4_scaling_beta".into(), json!(beta));
    }
    Ok(())
}

/// Four factors.
fn granite(keys: &Keys<'_>, map: &mut Map<String, Value>) -> Result<()> {
    let factors = [
        ("embedding_scale", "embedding_multiplier"),
        ("residual_scale", "residual_multiplier"),
        ("logit_scale", "logits_scaling"),
        ("attention.scale", "attention_multiplier"),
    ];
    for (key, name) in factors {
        if let Some(factor) = keys.float(key)?.filter(|factor| *factor != 0.0) {
            map.insert(name.into(), json!(factor));
        }
    }
    // llama.cpp's default is the usual scale, and that of Granite's config is 1.
    if !map.contains_key("attention_multiplier") {
        let usual = map["head_dim"].as_f64().unwrap_or(1.0).powf(-0.5);
        map.insert("attention_multiplier".into(), json!(usual));
    }
    Ok(())
}

fn glm4(keys: &Keys<'_>, map: &mut Map<String, Value>, head_dim: usize) -> Result<()> {
    let sections = keys.meta.numbers(&keys.key("rope.dimension_sections"))?.unwrap_or_default();
    if sections.iter().any(|section| *section != 0.0) {
        return Err(Fault::Unsupported(
            "its rotary embedding has sections for images, which is not supported for GLM-4".into(),
        ));
    }
    let rotary = keys.optional_size("rope.dimension_count")?.unwrap_or(head_dim);
    map.insert("partial_rotary_factor".into(), json!(rotary as f64 / head_dim as f64));
    Ok(())
}

/// OLMo 3 if it has windows.
fn olmo(keys: &Keys<'_>, map: &mut Map<String, Value>, layers: usize) -> Result<()> {
    let Some(window) = keys.optional_size("attention.sliding_window")?.filter(|n| *n > 0) else {
        return Ok(());
    };
    let pattern = keys.meta.flags(&keys.key("attention.sliding_window_pattern"))?;
    let slides = |layer: usize| match &pattern {
        Some(pattern) => pattern.get(layer).copied().unwrap_or(false),
        None => !(layer + 1).is_multiple_of(4),
    };
    let kind = |layer| if slides(layer) { "sliding_attention" } else { "full_attention" };
    map.insert("architectures".into(), json!(["Olmo3ForCausalLM"]));
    map.insert("model_type".into(), json!("olmo3"));
    map.insert("sliding_window".into(), json!(window));
    map.insert("layer_types".into(), (0..layers).map(kind).collect());
    Ok(())
}

/// The window as named, where 0 is none. The first files of Phi-3-mini-4k and -medium-4k do not name theirs.
fn phi3_window(keys: &Keys<'_>) -> Result<Option<usize>> {
    const UNNAMED: usize = 2047;
    match keys.optional_size("attention.sliding_window")? {
        Some(0) => Ok(None),
        Some(window) => Ok(Some(window)),
        None => {
            let layers = keys.size("block_count")?;
            let short = matches!(layers, 32 | 40) && keys.size("context_length")? == 4096;
            Ok(short.then_some(UNNAMED))
        }
    }
}

/// LongRoPE: a factor per frequency, for short and for long contexts.
fn phi3(
    keys: &Keys<'_>,
    map: &mut Map<String, Value>,
    head_dim: usize,
    tensors: &FromTensors,
) -> Result<()> {
    let rotary = keys.optional_size("rope.dimension_count")?.unwrap_or(head_dim);
    map.insert("partial_rotary_factor".into(), json!(rotary as f64 / head_dim as f64));
    map.insert("sliding_window".into(), json!(phi3_window(keys)?));
    let original = keys.optional_size("rope.scaling.original_context_length")?;
    map.insert(
        "original_max_position_embeddings".into(),
        json!(original.or(keys.optional_size("context_length")?)),
    );
    let (Some(long), Some(short)) = (&tensors.rope_long, &tensors.rope_short) else {
        return Ok(());
    };
    let list =
        |factors: &[f32]| -> Vec<f64> { factors.iter().map(|x| tidy(f64::from(*x))).collect() };
    let mut scaling = json!({
        "rope_type": "longrope", "type": "longrope",
        "long_factor": list(long), "short_factor": list(short),
    });
    if let Some(factor) = keys.float("rope.scaling.attn_factor")? {
        scaling["attention_factor"] = json!(factor);
    }
    map.insert("rope_scaling".into(), scaling);
    Ok(())
}

fn rope_scaling(keys: &Keys<'_>, tensors: &FromTensors, head_dim: usize) -> Result<Option<Value>> {
    if let Some(factors) = &tensors.rope_freqs {
        let theta = keys.float("rope.freq_base")?.unwrap_or(10_000.0);
        return Ok(Some(named_factors(factors, theta, head_dim)));
    }
    let original = keys.optional_size("rope.scaling.original_context_length")?;
    let factor = keys.float("rope.scaling.factor")?;
    match (keys.text("rope.scaling.type")?, factor) {
        (None | Some("none"), None) => Ok(None),
        (Some("none"), _) | (_, Some(0.0)) => Ok(None),
        (None | Some("linear"), Some(factor)) => {
            Ok(Some(json!({"rope_type": "linear", "type": "linear", "factor": factor})))
        }
        (Some("yarn"), Some(factor)) => yarn(keys, factor, original).map(Some),
        (Some(other), _) => {
            Err(Fault::Unsupported(format!("its rope scaling {other} is not supported")))
        }
    }
}

/// YaRN with its marks; those that a file does not have are the usual ones.
fn yarn(keys: &Keys<'_>, factor: f64, original: Option<usize>) -> Result<Value> {
    let mut scaling = json!({
        "rope_type": "yarn", "type": "yarn", "factor": factor,
        "original_max_position_embeddings": original,
    });
    let marks = [
        ("rope.scaling.yarn_beta_fast", "beta_fast"),
        ("rope.scaling.yarn_beta_slow", "beta_slow"),
        ("rope.scaling.yarn_attn_factor", "attention_factor"),
        ("rope.scaling.yarn_log_multiplier", "mscale_all_dim"),
    ];
    for (key, name) in marks {
        if let Some(mark) = keys.float(key)?.filter(|mark| *mark != 0.0) {
            scaling[name] = json!(mark);
            if name == "mscale_all_dim" {
                scaling["mscale"] = json!(1.0);
            }
        }
    }
    Ok(scaling)
}

/// Llama 3's formula if it gives these factors, else the factors themselves.
fn named_factors(factors: &[f32], theta: f64, head_dim: usize) -> Value {
    let (low, high, original) = (1.0, 4.0, 8192.0);
    let factor = f64::from(factors.iter().copied().fold(1.0, f32::max));
    let expected = |i: usize| {
        let wavelength = 2.0 * std::f64::consts::PI * theta.powf(2.0 * i as f64 / head_dim as f64);
        if wavelength < original / high {
            1.0
        } else if wavelength > original / low {
            factor
        } else {
            let smooth = (original / wavelength - low) / (high - low);
            1.0 / ((1.0 - smooth) / factor + smooth)
        }
    };
    let close = |(i, x): (usize, &f32)| (f64::from(*x) - expected(i)).abs() <= 1e-3 * expected(i);
    if factor > 1.0 && factors.iter().enumerate().all(close) {
        return json!({
            "rope_type": "llama3", "type": "llama3", "factor": factor, "low_freq_factor": low,
            "high_freq_factor": high, "original_max_position_embeddings": original as u64,
        });
    }
    let list: Vec<f64> = factors.iter().map(|x| tidy(f64::from(*x))).collect();
    json!({
        "rope_type": "longrope", "type": "longrope", "long_factor": list, "short_factor": list,
        "attention_factor": 1.0,
    })
}
