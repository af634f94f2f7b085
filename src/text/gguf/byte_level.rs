//! Byte-level BPE from a GGUF file: `tokenizer.ggml.model = gpt2`.
//!
//! The vocabulary spells bytes as GPT-2 did. Models differ in how text is split before merging, and the file
//! contains only the name of that method (`tokenizer.ggml.pre`). The patterns here are those of the models'
//! own `tokenizer.json`. An unknown name is an error: a near match would give ids that are almost right,
//! which nobody would notice.

use super::{GgufVocabulary, TextError, merges, part};
use serde_json::{Value, json};
use tokenizers::models::bpe::BPE;
use tokenizers::{DecoderWrapper, NormalizerWrapper, PreTokenizerWrapper, Tokenizer};

const GPT2: &str = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+";
const LLAMA3: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const QWEN2: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const TEKKEN: &str = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const GPT4O: &str = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+";
/// llama.cpp's default for files without a name: four patterns, one after the other.
const DEFAULT: [&str; 4] = [r"[\p{P}\$\+<=>\^~\|]+", GPT2, r"\p{N}+", "[0-9][0-9][0-9]"];

/// How text is prepared for merging.
struct Pre {
    patterns: &'static [&'static str],
    nfc: bool,
    ignore_merges: bool,
    add_bos: bool,
}

const PLAIN: Pre = Pre { patterns: &[GPT2], nfc: false, ignore_merges: false, add_bos: false };
const NAMES: &str = "default, gpt-2, phi-2, llama-bpe (llama3, llama-v3), falcon3, pixtral, dbrx, smaug-bpe, chatglm-bpe, glm4, qwen2, deepseek-r1-qwen, command-r, starcoder, refact, smollm, tekken, gpt-4o";

fn pre(name: &str) -> Option<Pre> {
    Some(match name {
        "" | "default" => Pre { patterns: &DEFAULT, ..PLAIN },
        "gpt-2" | "phi-2" => PLAIN,
        "llama-bpe" | "llama3" | "llama-v3" | "falcon3" | "pixtral" => {
            Pre { patterns: &[LLAMA3], ignore_merges: true, add_bos: true, ..PLAIN }
        }
        "dbrx" | "smaug-bpe" | "chatglm-bpe" => Pre { patterns: &[LLAMA3], ..PLAIN },
        "glm4" => Pre { patterns: &[LLAMA3], ignore_merges: true, ..PLAIN },
        "qwen2" | "deepseek-r1-qwen" => Pre { patterns: &[QWEN2], nfc: true, ..PLAIN },
        "command-r" => Pre { patterns: &[r"\p{N}", GPT2], nfc: true, ..PLAIN },
        "starcoder" | "refact" | "smollm" => Pre { patterns: &[r"\p{N}", GPT2], ..PLAIN },
        "tekken" => Pre { patterns: &[TEKKEN], ignore_merges: true, add_bos: true, ..PLAIN },
        "gpt-4o" => Pre { patterns: &[GPT4O], ..PLAIN },
        _ => return None,
    })
}

/// The tokenizer, and whether it begins texts with BOS if the file does not say.
pub(super) fn build(from: &GgufVocabulary) -> Result<(Tokenizer, bool), TextError> {
    let name = from.pre.as_deref().unwrap_or_default();
    let Some(pre) = pre(name) else {
        return Err(from.invalid(format!(
            "its way of splitting text, `tokenizer.ggml.pre` = `{name}`, is not known; known: {NAMES}"
        )));
    };
    if name.is_empty() {
        tracing::warn!(
            "{} does not say how to split text (tokenizer.ggml.pre); the default may not be the model's",
            from.path.display()
        );
    }
    let model = BPE::builder()
        .vocab_and_merges(from.vocab()?, merges(from)?)
        .ignore_merges(pre.ignore_merges)
        .build()
        .map_err(|e| from.invalid(format!("its vocabulary is inconsistent ({e})")))?;
    let mut tokenizer = Tokenizer::new(model);
    let bad = |e: String| from.invalid(e);
    if pre.nfc {
        let nfc: NormalizerWrapper = part(json!({"type": "NFC"})).map_err(bad)?;
        tokenizer.with_normalizer(Some(nfc)).map_err(|e| from.invalid(e.to_string()))?;
    }
    let byte_level = json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": false, "use_regex": false});
    let split = |pattern: &&str| json!({"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": false});
    let steps: Vec<Value> = pre.patterns.iter().map(split).chain([byte_level.clone()]).collect();
    let splitting: PreTokenizerWrapper =
        part(json!({"type": "Sequence", "pretokenizers": steps})).map_err(bad)?;
    tokenizer.with_pre_tokenizer(Some(splitting));
    let decoder: DecoderWrapper = part(byte_level).map_err(bad)?;
    tokenizer.with_decoder(Some(decoder));
    Ok((tokenizer, pre.add_bos))
}
