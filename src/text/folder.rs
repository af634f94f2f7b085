//! The text settings of a Hugging Face model folder, as plain values.
//!
//! It reads `tokenizer_config.json`, the files that may contain a chat template, `generation_config.json` and
//! `config.json`. All of them may be absent. A file that exists must be readable: a damaged file is an error
//! that names it, never a silent default, because a lost end-of-sequence id or template would only show
//! later, as endless or strange answers. Fields are read by hand and not by derive, because each of them has
//! had several forms over time. Which files are read depends on their content; `files` keeps the record.
//!
//! It does not know tokenizers or templates beyond their stored text.

use super::TextError;
use super::files::{FolderReader, invalid};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use std::path::{Path, PathBuf};

const TOKENIZER: &str = "tokenizer_config.json";
const GENERATION: &str = "generation_config.json";

/// Sampling settings recommended by a model's makers, from `generation_config.json`.
///
/// `None` means that the file does not set the value; the caller then decides.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct GenerationDefaults {
    /// Whether to sample at all; `Some(false)` asks for greedy decoding.
    pub do_sample: Option<bool>,
    /// Softmax temperature.
    pub temperature: Option<f32>,
    /// Nucleus mass.
    pub top_p: Option<f32>,
    /// Number of most likely tokens to keep.
    pub top_k: Option<u32>,
    /// Minimum probability, as a share of the most likely token's.
    pub min_p: Option<f32>,
    /// Divisor for logits of tokens seen before.
    pub repetition_penalty: Option<f32>,
    /// Number of tokens to generate if the request does not say.
    pub max_new_tokens: Option<u32>,
}

#[derive(Debug, Clone, PartialEq)]
pub(super) struct TemplateSource {
    pub(super) path: PathBuf,
    pub(super) text: String,
    /// The variant for requests with tools, if the model has one.
    pub(super) with_tools: Option<String>,
}

/// Everything read from a folder except the tokenizer itself.
#[derive(Debug, Default)]
pub(super) struct Folder {
    /// Named special tokens (`bos_token`, `eos_token`, ...) in the order of the file.
    pub(super) special: Vec<(String, String)>,
    pub(super) template: Option<TemplateSource>,
    /// From `generation_config.json`, or else from `config.json`; with the file.
    pub(super) eos: Option<(PathBuf, Vec<u32>)>,
    pub(super) defaults: GenerationDefaults,
}

impl Folder {
    /// Reads what `files` finds. Missing files are fine, damaged ones are not.
    pub(super) fn read(files: &mut FolderReader) -> Result<Self, TextError> {
        let tokenizer = files.object(TOKENIZER)?.unwrap_or_default();
        let generation = files.object(GENERATION)?.unwrap_or_default();
        Ok(Self {
            special: special_tokens(&tokenizer),
            template: template(files, &tokenizer)?,
            eos: eos(files, &generation)?,
            defaults: defaults(&files.path(GENERATION), &generation)?,
        })
    }
}

/// `"bos_token": "<s>"` or `"bos_token": {"content": "<s>", ..}`; null means none.
fn special_tokens(config: &Map<String, Value>) -> Vec<(String, String)> {
    let named = |(key, value): (&String, &Value)| {
        let content = value.as_str().or_else(|| value.get("content")?.as_str())?;
        key.ends_with("_token").then(|| (key.clone(), content.to_owned()))
    };
    config.iter().filter_map(named).collect()
}

/// The chat template, searched in the same order as transformers does: its own file, then the tokenizer's
/// configuration, then the file that older multimodal processors used.
fn template(
    files: &mut FolderReader,
    config: &Map<String, Value>,
) -> Result<Option<TemplateSource>, TextError> {
    let own = "chat_template.jinja";
    if let Some(text) = files.text(own)? {
        let with_tools = files.text("additional_chat_templates/tool_use.jinja")?;
        return Ok(Some(TemplateSource { path: files.path(own), text, with_tools }));
    }
    let configured = template_in(files.path(TOKENIZER), config)?;
    if configured.is_some() {
        return Ok(configured);
    }
    let older = "chat_template.json";
    let processor = files.object(older)?.unwrap_or_default();
    template_in(files.path(older), &processor)
}

fn template_in(
    path: PathBuf,
    config: &Map<String, Value>,
) -> Result<Option<TemplateSource>, TextError> {
    match config.get("chat_template") {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(text)) => {
            Ok(Some(TemplateSource { path, text: text.clone(), with_tools: None }))
        }
        Some(Value::Array(list)) => named_templates(path, list).map(Some),
        Some(_) => Err(invalid(&path, "chat_template is neither a string nor a list".into())),
    }
}

/// `[{"name": "default", "template": ".."}, {"name": "tool_use", ..}]`; other names are not used.
fn named_templates(path: PathBuf, list: &[Value]) -> Result<TemplateSource, TextError> {
    let by_name = |name: &str| {
        let entry =
            list.iter().find(|entry| entry.get("name").and_then(Value::as_str) == Some(name))?;
        entry.get("template")?.as_str().map(str::to_owned)
    };
    match by_name("default") {
        Some(text) => Ok(TemplateSource { with_tools: by_name("tool_use"), path, text }),
        None => {
            Err(invalid(&path, "chat_template is a list without an entry named \"default\"".into()))
        }
    }
}

fn eos(
    files: &mut FolderReader,
    generation: &Map<String, Value>,
) -> Result<Option<(PathBuf, Vec<u32>)>, TextError> {
    let path = files.path(GENERATION);
    if let Some(ids) = token_ids(&path, generation.get("eos_token_id"))? {
        return Ok(Some((path, ids)));
    }
    let path = files.path("config.json");
    let config = files.object("config.json")?.unwrap_or_default();
    // Models that also process images or audio keep the settings of their language part one level down.
    let nested = config.get("text_config").and_then(|text| text.get("eos_token_id"));
    let ids = token_ids(&path, config.get("eos_token_id").filter(|ids| !ids.is_null()).or(nested))?;
    Ok(ids.map(|ids| (path, ids)))
}

fn token_ids(path: &Path, value: Option<&Value>) -> Result<Option<Vec<u32>>, TextError> {
    let id = |value: &Value| value.as_u64().and_then(|id| u32::try_from(id).ok());
    let ids = match value {
        None | Some(Value::Null) => return Ok(None),
        Some(Value::Array(list)) => list.iter().map(id).collect(),
        Some(one) => id(one).map(|id| vec![id]),
    };
    ids.map(Some).ok_or_else(|| {
        invalid(path, "eos_token_id is neither a token id nor a list of them".into())
    })
}

fn defaults(path: &Path, config: &Map<String, Value>) -> Result<GenerationDefaults, TextError> {
    let present = |key: &str| config.get(key).filter(|value| !value.is_null());
    let wrong = |key: &str, want: &str| invalid(path, format!("{key} is not {want}"));
    let float = |key: &str| match present(key) {
        None => Ok(None),
        Some(value) => value.as_f64().map(|x| Some(x as f32)).ok_or_else(|| wrong(key, "a number")),
    };
    let count = |key: &str| match present(key) {
        None => Ok(None),
        Some(value) => {
            let count = value.as_u64().and_then(|n| u32::try_from(n).ok());
            count.map(Some).ok_or_else(|| wrong(key, "a whole number"))
        }
    };
    let flag = |key: &str| match present(key) {
        None => Ok(None),
        Some(value) => value.as_bool().map(Some).ok_or_else(|| wrong(key, "true or false")),
    };
    Ok(GenerationDefaults {
        do_sample: flag("do_sample")?,
        temperature: float("temperature")?,
        top_p: float("top_p")?,
        top_k: count("top_k")?,
        min_p: float("min_p")?,
        repetition_penalty: float("repetition_penalty")?,
        max_new_tokens: count("max_new_tokens")?,
    })
}
