//! Builds a tokenizer from the vocabulary in a GGUF file.
//!
//! The result is an ordinary `tokenizers::Tokenizer`, so everything after it (streaming, special tokens,
//! templates) is the same for both formats. Such files have one of two tokenizer models: `gpt2` (byte-level
//! BPE, see `byte_level`) or `llama` (SentencePiece, see `sentence_piece`); any other is an error that names
//! it. Where llama.cpp and the original tokenizer disagree (NFC for Qwen, case classes for Tekken), the
//! original is followed, because the model was trained with it.
//!
//! The vocabulary is passed in as plain values; this module does not read files.

mod byte_level;
mod sentence_piece;

use super::TextError;
use super::beyond;
use super::folder::{Folder, GenerationDefaults, TemplateSource};
use serde_json::json;
use std::borrow::Cow;
use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use tokenizers::models::bpe::Vocab;
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::{AddedToken, Tokenizer};

const REMEDY: &str = "Convert the model again with a current llama.cpp";
/// Texts of tokens that end a turn or a document; files often name only one of them.
const ENDS: [&str; 12] = [
    "<|eot_id|>",
    "<|im_end|>",
    "<|end|>",
    "<end_of_turn>",
    "<|endoftext|>",
    "<|eom_id|>",
    "<|end_of_text|>",
    "<|return|>",
    "<｜end▁of▁sentence｜>",
    "</s>",
    "<eos>",
    "[EOS]",
];

/// The text-related entries of a GGUF file (`tokenizer.ggml.*`).
#[derive(Debug, Clone, Default, PartialEq)]
pub struct GgufVocabulary {
    /// The file, for messages.
    pub path: PathBuf,
    /// `gpt2` or `llama`.
    pub model: String,
    /// How text is split before merging, for `gpt2`.
    pub pre: Option<String>,
    /// Texts of the tokens; the index is the id.
    pub tokens: Vec<String>,
    /// Merge scores by id, the highest merged first; empty if absent. Required for `llama`.
    pub scores: Vec<f32>,
    /// Token types by llama.cpp's numbers; if empty, all are normal.
    pub types: Vec<u8>,
    /// Merges as `left right`, the first with the highest priority; for `gpt2`.
    pub merges: Vec<String>,
    /// Named special tokens, such as `("bos", 1)`: bos, eos, eot, eom, unk, pad.
    pub special: Vec<(&'static str, u32)>,
    /// Whether texts begin with the bos token; `None` leaves it to what `model` and `pre` imply.
    pub add_bos: Option<bool>,
    /// Whether texts end with the eos token; `None` means no.
    pub add_eos: Option<bool>,
    /// Whether a space is put before the text, for `llama`; `None` means yes.
    pub add_space_prefix: Option<bool>,
    /// The Jinja source of the chat template (`tokenizer.chat_template`), if the file has one.
    pub chat_template: Option<String>,
    /// The variant for requests with tools (`tokenizer.chat_template.tool_use`).
    pub tool_template: Option<String>,
}

/// ChatML in its simplest form.
const STAND_IN_TEMPLATE: &str = "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}";

/// llama.cpp's token types.
const UNKNOWN: u8 = 2;
const CONTROL: u8 = 3;
const USER_DEFINED: u8 = 4;
const UNUSED: u8 = 5;
const BYTE: u8 = 6;

impl GgufVocabulary {
    /// A vocabulary for models without one: bytes, and a word for every other id. It is meant for benchmarks,
    /// where any text must be encodable and any id decodable, but quality does not matter.
    pub fn stand_in(path: &Path, size: usize) -> GgufVocabulary {
        let mut alphabet: Vec<char> = ByteLevel::alphabet().into_iter().collect();
        alphabet.sort_unstable();
        let mut tokens: Vec<String> = alphabet.into_iter().map(String::from).collect();
        tokens.push("<|im_start|>".into());
        tokens.push("<|im_end|>".into());
        let mut types = vec![1; 256];
        types.extend([CONTROL, CONTROL]);
        tokens.extend((tokens.len()..size).map(|id| format!("Ġ{id}")));
        types.resize(tokens.len(), UNUSED);
        GgufVocabulary {
            path: path.to_owned(),
            model: "gpt2".into(),
            pre: Some("gpt-2".into()),
            tokens,
            types,
            chat_template: Some(STAND_IN_TEMPLATE.into()),
            ..GgufVocabulary::default()
        }
    }

    fn invalid(&self, what: impl Into<String>) -> TextError {
        TextError::Invalid { path: self.path.clone(), what: what.into(), remedy: REMEDY }
    }

    fn id(&self, name: &str) -> Option<u32> {
        self.special.iter().find(|(n, _)| *n == name).map(|(_, id)| *id)
    }

    fn kind(&self, id: usize) -> u8 {
        self.types.get(id).copied().unwrap_or(1)
    }

    fn vocab(&self) -> Result<Vocab, TextError> {
        let mut vocab = Vocab::default();
        for (token, id) in self.tokens.iter().zip(0u32..) {
            vocab.entry(token.clone()).or_insert(id);
        }
        Ok(vocab)
    }

    /// Tokens that are in the vocabulary before: their ids, and the first one of each.
    pub(super) fn twins(&self) -> BTreeMap<u32, u32> {
        let mut first = HashMap::new();
        let seen = self.tokens.iter().zip(0u32..);
        let twin = |(token, id)| match first.entry(token) {
            Entry::Vacant(entry) => {
                entry.insert(id);
                None
            }
            Entry::Occupied(entry) => Some((id, *entry.get())),
        };
        seen.filter_map(twin).collect()
    }

    /// Checks that lengths and ids are consistent.
    fn check(&self) -> Result<(), TextError> {
        let tokens = self.tokens.len();
        if tokens == 0 {
            return Err(self.invalid("it contains no vocabulary"));
        }
        for (name, len) in [("scores", self.scores.len()), ("token types", self.types.len())] {
            if len != 0 && len != tokens {
                return Err(self.invalid(format!("it has {tokens} tokens, but {len} {name}")));
            }
        }
        match self.special.iter().find(|(_, id)| *id as usize >= tokens) {
            Some((name, id)) => Err(self.invalid(format!(
                "its {name} token has id {id}, but the vocabulary has {tokens} tokens"
            ))),
            None => Ok(()),
        }
    }
}

/// A vocabulary without the added tokens from id `rows` on, if these are the last ones; see `beyond`.
pub(super) fn without_beyond<'a>(
    from: &'a GgufVocabulary,
    rows: usize,
    folder: &Folder,
) -> Result<Cow<'a, GgufVocabulary>, TextError> {
    let added = |id: usize| matches!(from.kind(id), CONTROL | USER_DEFINED | UNUSED);
    let tokens = from.tokens.len();
    if tokens <= rows || rows == 0 || !(rows..tokens).all(added) {
        return Ok(Cow::Borrowed(from));
    }
    let beyond: Vec<(u32, &str)> =
        (rows..tokens).map(|id| (id as u32, from.tokens[id].as_str())).collect();
    beyond::needed(&beyond, rows, folder, &from.path)?;
    let mut kept = from.clone();
    kept.tokens.truncate(rows);
    kept.scores.truncate(rows);
    kept.types.truncate(rows);
    Ok(Cow::Owned(kept))
}

pub(super) fn tokenizer(from: &GgufVocabulary) -> Result<Tokenizer, TextError> {
    from.check()?;
    let (mut tokenizer, add_bos) = match from.model.as_str() {
        "gpt2" => byte_level::build(from)?,
        "llama" => (sentence_piece::build(from)?, true),
        other => {
            return Err(from.invalid(format!(
                "its tokenizer `{other}` is not supported; supported: gpt2 (byte-level BPE), llama (SentencePiece)"
            )));
        }
    };
    add_tokens(from, &mut tokenizer)?;
    let bos = from.add_bos.unwrap_or(add_bos).then(|| from.id("bos")).flatten();
    let eos = from.add_eos.unwrap_or(false).then(|| from.id("eos")).flatten();
    frame(from, &mut tokenizer, bos, eos)?;
    Ok(tokenizer)
}

/// The other settings that a folder would have.
pub(super) fn folder(from: &GgufVocabulary) -> Folder {
    let named = |(name, id): &(&str, u32)| {
        let token = from.tokens.get(*id as usize)?;
        Some((format!("{name}_token"), token.clone()))
    };
    let mut eos: Vec<u32> = ["eos", "eot", "eom"].iter().filter_map(|name| from.id(name)).collect();
    let ends = from.tokens.iter().zip(0u32..).filter(|(token, id)| {
        ENDS.contains(&token.as_str()) && matches!(from.kind(*id as usize), CONTROL | USER_DEFINED)
    });
    eos.extend(ends.map(|(_, id)| id));
    eos.sort_unstable();
    eos.dedup();
    Folder {
        special: from.special.iter().filter_map(named).collect(),
        template: from.chat_template.clone().map(|text| TemplateSource {
            path: from.path.clone(),
            text,
            with_tools: from.tool_template.clone(),
        }),
        eos: (!eos.is_empty()).then(|| (from.path.clone(), eos)),
        defaults: GenerationDefaults::default(),
    }
}

/// Adds tokens that are matched in the text as they are, before it is split.
fn add_tokens(from: &GgufVocabulary, tokenizer: &mut Tokenizer) -> Result<(), TextError> {
    let whole = |id: usize| matches!(from.kind(id), UNKNOWN | CONTROL | USER_DEFINED);
    let ids = (0..from.tokens.len()).filter(|&id| whole(id) && !from.tokens[id].is_empty());
    let added = ids.map(|id| {
        let special = from.kind(id) != USER_DEFINED || ENDS.contains(&from.tokens[id].as_str());
        AddedToken::from(from.tokens[id].clone(), special).normalized(false)
    });
    let added: Vec<AddedToken> = added.collect();
    tokenizer.add_tokens(added).map_err(|e| from.invalid(e.to_string()))?;
    Ok(())
}

/// Lets the tokenizer add special tokens around a text.
fn frame(
    from: &GgufVocabulary,
    tokenizer: &mut Tokenizer,
    bos: Option<u32>,
    eos: Option<u32>,
) -> Result<(), TextError> {
    if bos.is_none() && eos.is_none() {
        return Ok(());
    }
    let token = |id: u32| from.tokens.get(id as usize).cloned().unwrap_or_default();
    let piece = |id: u32| json!({"SpecialToken": {"id": token(id), "type_id": 0}});
    let side = |name: &str| {
        let text = json!({"Sequence": {"id": name, "type_id": 0}});
        bos.map(piece).into_iter().chain([text]).chain(eos.map(piece))
    };
    let mut special = serde_json::Map::new();
    for id in bos.into_iter().chain(eos) {
        special.insert(token(id), json!({"id": token(id), "ids": [id], "tokens": [token(id)]}));
    }
    let processor = json!({
        "type": "TemplateProcessing",
        "single": side("A").collect::<Vec<_>>(),
        "pair": side("A").chain(side("B")).collect::<Vec<_>>(),
        "special_tokens": special,
    });
    let processor: tokenizers::PostProcessorWrapper =
        part(processor).map_err(|e| from.invalid(e))?;
    tokenizer.with_post_processor(Some(processor));
    Ok(())
}

/// A part of a tokenizer, from the JSON that a `tokenizer.json` would have for it.
fn part<T: serde::de::DeserializeOwned>(json: serde_json::Value) -> Result<T, String> {
    serde_json::from_value(json).map_err(|e| e.to_string())
}

/// Merges given as `left right`.
fn merges(from: &GgufVocabulary) -> Result<Vec<(String, String)>, TextError> {
    let split = |merge: &String| {
        // Only in unusual vocabularies does a token begin with a literal space; so the first space after the
        // first character is the separator.
        let skip = merge.chars().next().map_or(0, char::len_utf8);
        let at = skip + merge[skip..].find(' ')?;
        Some((merge[..at].to_owned(), merge[at + 1..].to_owned()))
    };
    from.merges
        .iter()
        .map(|merge| {
            split(merge).ok_or_else(|| from.invalid(format!("merge {merge:?} is not a pair")))
        })
        .collect()
}

/// Ids by text, for lookups while building.
fn index(from: &GgufVocabulary, keep: impl Fn(u8) -> bool) -> HashMap<&str, usize> {
    let kept = (0..from.tokens.len()).filter(|&id| keep(from.kind(id)));
    kept.map(|id| (from.tokens[id].as_str(), id)).collect()
}

#[cfg(test)]
mod reading;
#[cfg(test)]
mod tests;
