//! From a folder's `config.json` to a checked [`ModelConfig`], by the family that its architecture names.

use super::super::error::LoadError;
use super::super::families;
use super::{Fields, ModelConfig};
use serde_json::Value;
use std::path::Path;

/// Why a folder with an adapter is no model; `None` if it has none.
fn adapter(dir: &Path) -> Option<String> {
    let text = std::fs::read_to_string(dir.join("adapter_config.json")).ok()?;
    let config: Value = serde_json::from_str(&text).unwrap_or_default();
    let base = config["base_model_name_or_path"].as_str().unwrap_or("another model");
    Some(format!(
        "it is an adapter (LoRA) for {base}, not a model; merge it into that model and load the result"
    ))
}

/// Fails if a `config.json` says that its safetensors are quantised (FP8, AWQ, GPTQ and others).
pub fn refuse_quantised(raw: &Value) -> Result<(), String> {
    let Some(quantised) = raw.get("quantization_config").filter(|q| !q.is_null()) else {
        return Ok(());
    };
    let method = quantised["quant_method"].as_str().unwrap_or("an unnamed method");
    Err(format!(
        "its safetensors are quantized ({method}), which is not supported; use a checkpoint in f32, f16 or bf16, or a \
         GGUF file of this model"
    ))
}

impl ModelConfig {
    /// Reads and checks `dir/config.json`. Fails if the file cannot be read, is not JSON, or describes a model that is
    /// not supported.
    pub fn read(dir: &Path) -> Result<ModelConfig, LoadError> {
        let path = dir.join("config.json");
        if !path.is_file()
            && let Some(what) = adapter(dir)
        {
            return Err(LoadError::Config { path: dir.to_owned(), what });
        }
        let text = std::fs::read_to_string(&path)
            .map_err(|source| LoadError::Read { path: path.clone(), source })?;
        let bad = |what: String| LoadError::Config { path: path.clone(), what };
        let raw: Value =
            serde_json::from_str(&text).map_err(|e| bad(format!("it is not valid JSON: {e}")))?;
        ModelConfig::from_json(&raw).map_err(bad)
    }

    /// Reads and checks the content of a `config.json`. Fails if the architecture or a value is not supported or not
    /// valid; the error is one line for the operator.
    pub fn from_json(raw: &Value) -> Result<ModelConfig, String> {
        let family = families::named(raw["architectures"][0].as_str().unwrap_or("(none)"))?;
        refuse_quantised(raw)?;
        let config = (family.read)(&Fields::new(raw), family)?;
        config.check()?;
        Ok(config)
    }
}
