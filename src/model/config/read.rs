//! From a folder's `config.json` to a checked [`ModelConfig`], by the family that its architecture names.

use super::super::error::LoadError;
use super::super::families;
use super::{Fields, ModelConfig};
use serde_json::Value;
use std::path::Path;

impl ModelConfig {
    /// Reads and checks `dir/config.json`.
    pub fn read(dir: &Path) -> Result<ModelConfig, LoadError> {
        let path = dir.join("config.json");
        let text = std::fs::read_to_string(&path)
            .map_err(|source| LoadError::Read { path: path.clone(), source })?;
        let bad = |what: String| LoadError::Config { path: path.clone(), what };
        let raw: Value =
            serde_json::from_str(&text).map_err(|e| bad(format!("it is not valid JSON: {e}")))?;
        ModelConfig::from_json(&raw).map_err(bad)
    }

    /// Reads and checks the content of a `config.json`; the error is one line for the operator.
    pub fn from_json(raw: &Value) -> Result<ModelConfig, String> {
        let family = families::named(raw["architectures"][0].as_str().unwrap_or("(none)"))?;
        if raw.get("quantization_config").is_some_and(|q| !q.is_null()) {
            return Err(
                "quantized safetensors are not supported; use an f32, f16 or bf16 checkpoint"
                    .into(),
            );
        }
        let config = (family.read)(&Fields::new(raw), family)?;
        config.check()?;
        Ok(config)
    }
}
