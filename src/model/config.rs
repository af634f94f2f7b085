//! `config.json` of a Hugging Face folder: which architecture, which shape.
//!
//! Built on candle-transformers' `LlamaConfig`; adds what it does not check (head counts that do not
//! divide, biases, newer spellings) so that a wrong shape is an error here and not a panic in a kernel.
//! Does not read weights.

use super::intake::LoadError;
use candle_transformers::models::llama::{
    Config, Llama3RopeConfig, Llama3RopeType, LlamaConfig, LlamaEosToks,
};
use serde_json::Value;
use std::path::Path;

/// Architectures that the decoder can run, as `config.json` names them.
pub const SUPPORTED: [&str; 1] = ["LlamaForCausalLM"];

/// A validated model shape.
#[derive(Debug, Clone)]
pub struct ModelConfig {
    pub architecture: &'static str,
    pub hidden: usize,
    pub intermediate: usize,
    pub vocab: usize,
    pub layers: usize,
    pub heads: usize,
    pub kv_heads: usize,
    pub head_dim: usize,
    pub norm_eps: f64,
    pub tied_embeddings: bool,
    /// Longest sequence in tokens, prompt and reply together (`max_position_embeddings`).
    pub max_len: usize,
    pub eos_ids: Vec<u32>,
    /// `[head_dim / 2]` inverse frequencies of the rotary embedding, scaling applied.
    pub inv_freq: Vec<f32>,
}

impl ModelConfig {
    /// Reads and checks `dir/config.json`.
    pub fn read(dir: &Path) -> Result<ModelConfig, LoadError> {
        let path = dir.join("config.json");
        let text = std::fs::read_to_string(&path)
            .map_err(|source| LoadError::Read { path: path.clone(), source })?;
        let bad = |what: String| LoadError::Config { path: path.clone(), what };
        let mut raw: Value =
            serde_json::from_str(&text).map_err(|e| bad(format!("it is not valid JSON: {e}")))?;
        let architecture = architecture(&raw).map_err(bad)?;
        refuse_unsupported(&raw).map_err(bad)?;
        spell_rope_the_old_way(&mut raw);
        let llama: LlamaConfig = serde_json::from_value(raw).map_err(|e| bad(e.to_string()))?;
        from_llama(architecture, llama.into_config(false)).map_err(bad)
    }
}

fn architecture(raw: &Value) -> Result<&'static str, String> {
    let named = raw["architectures"][0].as_str().unwrap_or("(none)");
    let known = SUPPORTED.iter().find(|known| **known == named);
    known.copied().ok_or_else(|| {
        format!("its architecture {named} is not supported; supported: {}", SUPPORTED.join(", "))
    })
}

fn refuse_unsupported(raw: &Value) -> Result<(), String> {
    for key in ["attention_bias", "mlp_bias"] {
        if raw[key].as_bool() == Some(true) {
            return Err(format!("`{key}: true` is not supported for Llama"));
        }
    }
    if let Some(act) = raw["hidden_act"].as_str().filter(|act| *act != "silu") {
        return Err(format!("`hidden_act: {act}` is not supported; Llama uses silu"));
    }
    if raw.get("quantization_config").is_some_and(|q| !q.is_null()) {
        return Err(
            "quantized safetensors are not supported; use an f32, f16 or bf16 checkpoint".into()
        );
    }
    let (hidden, heads) = (raw["hidden_size"].as_u64(), raw["num_attention_heads"].as_u64());
    if let (Some(hidden), Some(heads), Some(dim)) = (hidden, heads, raw["head_dim"].as_u64())
        && heads * dim != hidden
    {
        return Err(format!("head_dim {dim} x {heads} heads is not hidden_size {hidden}"));
    }
    Ok(())
}

/// transformers 5 writes `rope_parameters: {rope_theta, rope_type, ..}`; candle reads the older
/// `rope_theta` and `rope_scaling`.
fn spell_rope_the_old_way(raw: &mut Value) {
    let Some(Value::Object(params)) = raw.get("rope_parameters").cloned() else {
        return;
    };
    if let Some(theta) = params.get("rope_theta") {
        raw["rope_theta"] = theta.clone();
    }
    if params.get("rope_type").and_then(Value::as_str).is_some_and(|kind| kind != "default") {
        raw["rope_scaling"] = Value::Object(params);
    }
}

fn from_llama(architecture: &'static str, config: Config) -> Result<ModelConfig, String> {
    let (heads, kv_heads) = (config.num_attention_heads, config.num_key_value_heads);
    let sizes = [
        ("hidden_size", config.hidden_size),
        ("intermediate_size", config.intermediate_size),
        ("vocab_size", config.vocab_size),
        ("num_hidden_layers", config.num_hidden_layers),
        ("num_attention_heads", heads),
        ("num_key_value_heads", kv_heads),
        ("max_position_embeddings", config.max_position_embeddings),
    ];
    if let Some((name, _)) = sizes.iter().find(|(_, size)| *size == 0) {
        return Err(format!("`{name}` is 0"));
    }
    if !config.hidden_size.is_multiple_of(heads) {
        return Err(format!(
            "hidden_size {} is not a multiple of num_attention_heads {heads}",
            config.hidden_size
        ));
    }
    if !heads.is_multiple_of(kv_heads) {
        return Err(format!(
            "num_attention_heads {heads} is not a multiple of num_key_value_heads {kv_heads}"
        ));
    }
    let head_dim = config.hidden_size / heads;
    if !head_dim.is_multiple_of(2) {
        return Err(format!("head size {head_dim} is odd; rotary embedding needs pairs"));
    }
    Ok(ModelConfig {
        architecture,
        hidden: config.hidden_size,
        intermediate: config.intermediate_size,
        vocab: config.vocab_size,
        layers: config.num_hidden_layers,
        heads,
        kv_heads,
        head_dim,
        norm_eps: config.rms_norm_eps,
        tied_embeddings: config.tie_word_embeddings,
        max_len: config.max_position_embeddings,
        eos_ids: match config.eos_token_id {
            None => Vec::new(),
            Some(LlamaEosToks::Single(id)) => vec![id],
            Some(LlamaEosToks::Multiple(ids)) => ids,
        },
        inv_freq: inv_freq(head_dim, config.rope_theta, config.rope_scaling.as_ref()),
    })
}

/// Inverse frequencies with Llama 3's wavelength-dependent scaling ("The Llama 3 Herd of Models",
/// arXiv:2407.21783; constants as in the checkpoints' `rope_scaling`).
fn inv_freq(head_dim: usize, theta: f32, scaling: Option<&Llama3RopeConfig>) -> Vec<f32> {
    let plain = (0..head_dim).step_by(2).map(|i| 1.0 / theta.powf(i as f32 / head_dim as f32));
    let Some(s) = scaling.filter(|s| matches!(s.rope_type, Llama3RopeType::Llama3)) else {
        return plain.collect();
    };
    let original = s.original_max_position_embeddings as f32;
    let scaled = |freq: f32| {
        let wavelength = 2.0 * std::f32::consts::PI / freq;
        if wavelength < original / s.high_freq_factor {
            freq
        } else if wavelength > original / s.low_freq_factor {
            freq / s.factor
        } else {
            let smooth = (original / wavelength - s.low_freq_factor)
                / (s.high_freq_factor - s.low_freq_factor);
            (1.0 - smooth) * freq / s.factor + smooth * freq
        }
    };
    plain.map(scaled).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn read(config: &Value) -> Result<ModelConfig, LoadError> {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("config.json"), config.to_string()).unwrap();
        ModelConfig::read(dir.path())
    }

    fn llama() -> Value {
        json!({
            "architectures": ["LlamaForCausalLM"], "hidden_size": 64, "intermediate_size": 128,
            "vocab_size": 100, "num_hidden_layers": 2, "num_attention_heads": 4,
            "num_key_value_heads": 2, "rms_norm_eps": 1e-5, "max_position_embeddings": 256,
            "rope_theta": 10000.0, "eos_token_id": [1, 2]
        })
    }

    #[test]
    fn both_spellings_of_rope_are_read() {
        let old = read(&llama()).unwrap();
        let mut new = llama();
        new.as_object_mut().unwrap().remove("rope_theta");
        new["rope_parameters"] = json!({"rope_theta": 10000.0, "rope_type": "default"});
        assert_eq!(old.inv_freq, read(&new).unwrap().inv_freq);
        assert_eq!((old.head_dim, old.eos_ids), (16, vec![1, 2]));
    }

    #[test]
    fn llama3_scaling_divides_long_wavelengths_only() {
        let mut config = llama();
        config["rope_scaling"] = json!({"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0,
            "high_freq_factor": 4.0, "original_max_position_embeddings": 64});
        let (plain, scaled) = (read(&llama()).unwrap().inv_freq, read(&config).unwrap().inv_freq);
        assert_eq!(plain[0], scaled[0]);
        assert_eq!(plain[7] / 8.0, scaled[7]);
    }

    #[test]
    fn what_cannot_run_is_refused_by_name() {
        let cases = [
            ("architectures", json!(["MambaForCausalLM"]), "MambaForCausalLM"),
            ("num_key_value_heads", json!(3), "num_key_value_heads 3"),
            ("num_attention_heads", json!(5), "num_attention_heads 5"),
            ("num_hidden_layers", json!(0), "num_hidden_layers"),
            ("attention_bias", json!(true), "attention_bias"),
            ("hidden_act", json!("gelu"), "gelu"),
            ("vocab_size", json!("many"), "invalid type"),
            ("head_dim", json!(32), "head_dim 32"),
        ];
        for (key, value, expected) in cases {
            let mut config = llama();
            config[key] = value;
            let error = read(&config).unwrap_err().to_string();
            assert!(error.contains(expected) && error.contains("config.json"), "{key}: {error}");
        }
    }
}
