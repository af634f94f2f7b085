//! The architectures of the compatibility lane, which every build knows, whether it can run them or not.

use serde_json::Value;
use std::path::Path;

/// As listed under `architectures` in `config.json`.
pub const NAMES: [&str; 13] = [
    "Qwen3MoeForCausalLM",
    "MixtralForCausalLM",
    "GraniteMoeHybridForCausalLM",
    "DeepseekV2ForCausalLM",
    "Starcoder2ForCausalLM",
    "Mamba2ForCausalLM",
    "Qwen2MoeForCausalLM",
    "StableLmForCausalLM",
    "HeliumForCausalLM",
    "GemmaForCausalLM",
    "OlmoForCausalLM",
    "PhiForCausalLM",
    "MambaForCausalLM",
];

/// The architecture that a folder's `config.json` names; `None` if there is none to be read.
pub fn of_folder(dir: &Path) -> Option<String> {
    let text = std::fs::read_to_string(dir.join("config.json")).ok()?;
    let config: Value = serde_json::from_str(&plain_json(&text)).ok()?;
    config["architectures"][0].as_str().map(str::to_owned)
}

/// Python writes infinities that JSON has not got: they become `null`.
pub(super) fn plain_json(text: &str) -> String {
    let (mut out, mut rest) = (String::with_capacity(text.len()), text);
    let mut quoted = false;
    while let Some(c) = rest.chars().next() {
        let word = ["-Infinity", "Infinity", "NaN"].into_iter().find(|word| rest.starts_with(word));
        let taken = match (c, word) {
            ('\\', _) if quoted => rest.chars().take(2).map(char::len_utf8).sum(),
            (_, Some(word)) if !quoted => {
                out.push_str("null");
                rest = &rest[word.len()..];
                continue;
            }
            _ => c.len_utf8(),
        };
        quoted ^= c == '"';
        out.push_str(&rest[..taken]);
        rest = &rest[taken..];
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn infinities_outside_of_texts_become_null() {
        for (text, plain) in [
            (
                r#"{"a": [0.0, Infinity], "b": -Infinity, "c": NaN}"#,
                r#"{"a": [0.0, null], "b": null, "c": null}"#,
            ),
            (r#"{"Infinity": "NaN \" Infinity"}"#, r#"{"Infinity": "NaN \" Infinity"}"#),
            ("\"é\\", "\"é\\"),
            ("", ""),
        ] {
            assert_eq!(plain_json(text), plain);
        }
    }
}
