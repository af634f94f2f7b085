//! Broken canaries: copies of a demo model with one fault each.
//!
//! Each fault is one that occurs in real rollouts: a change to the weights, the configuration, the template or the
//! tokenizer. This file does not know how a fault is detected.

use clap::ValueEnum;
use half::bf16;
use safetensors::SafeTensors;
use safetensors::tensor::TensorView;
use serde_json::{Value, json};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// What is wrong with the canary.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum Fault {
    /// Some prompts give NaN instead of logits.
    Nan,
    /// Replies end before their first word.
    Empty,
    /// Replies do not end by themselves.
    Endless,
    /// Its chat template refuses system messages.
    Template,
    /// Its context is too short for a quarter of the conversations.
    Context,
    /// Some of the replies that must be JSON never end.
    Json,
    /// It generates tokens but no text, so clients leave.
    Hang,
    /// It is several times slower than stable.
    Slow,
}

/// Layers added to a model that is slow. They change no reply.
const MORE_LAYERS: usize = 12;
/// What is left of the full stop in a model whose JSON does not end: so much that a fifth of the replies is cut.
const DAMAGE: f32 = 0.33;
/// The context of a model whose context is too short.
const SHORT_CONTEXT: usize = 128;
/// The context of a model that hangs: long enough to outlast every client.
const LONG_CONTEXT: usize = 8192;

impl Fault {
    /// The broken model: one of the demo's folder `models`, or a copy that is written to `into`. Fails if a file cannot
    /// be read or written.
    pub fn model(self, models: &Path, into: &Path) -> io::Result<PathBuf> {
        if self == Fault::Nan {
            return Ok(models.join("tiny-v3"));
        }
        let model = into.join(format!("tiny-{}", self.name()));
        fs::create_dir_all(&model)?;
        for file in fs::read_dir(models.join("tiny-v2"))? {
            let file = file?;
            fs::copy(file.path(), model.join(file.file_name()))?;
        }
        match self {
            Fault::Nan => {}
            Fault::Empty => every_token_ends(&model)?,
            Fault::Endless => nothing_ends(&model)?,
            Fault::Template => refuse_system_messages(&model)?,
            Fault::Json => damage_row(&model, ".", DAMAGE)?,
            Fault::Context => context(&model, SHORT_CONTEXT)?,
            Fault::Hang => {
                nothing_ends(&model)?;
                context(&model, LONG_CONTEXT)?;
                no_token_has_text(&model)?;
                add_layers(&model)?;
            }
            Fault::Slow => add_layers(&model)?,
        }
        Ok(model)
    }

    /// The name of the fault on the command line.
    pub fn name(self) -> String {
        self.to_possible_value().map_or_else(String::new, |value| value.get_name().to_owned())
    }
}

fn edit(model: &Path, file: &str, change: impl FnOnce(&mut Value)) -> io::Result<()> {
    let path = model.join(file);
    let mut value = serde_json::from_slice(&fs::read(&path)?)?;
    change(&mut value);
    fs::write(path, serde_json::to_vec(&value)?)
}

fn every_token_ends(model: &Path) -> io::Result<()> {
    let mut all = Value::Null;
    edit(model, "config.json", |config| {
        let count = config["vocab_size"].as_u64().unwrap_or(0);
        all = (0..count).collect();
        config["eos_token_id"] = all.clone();
    })?;
    edit(model, "generation_config.json", |config| config["eos_token_id"] = all)
}

/// The token that ends a text is one that the model never writes.
fn nothing_ends(model: &Path) -> io::Result<()> {
    const NEVER: &str = "<|endoftext|>";
    for file in ["config.json", "generation_config.json"] {
        edit(model, file, |config| config["eos_token_id"] = json!(0))?;
    }
    for file in ["tokenizer_config.json", "special_tokens_map.json"] {
        edit(model, file, |config| config["eos_token"] = json!(NEVER))?;
    }
    Ok(())
}

fn refuse_system_messages(model: &Path) -> io::Result<()> {
    edit(model, "tokenizer_config.json", |config| {
        let template = config["chat_template"].as_str().unwrap_or_default();
        config["chat_template"] = json!(format!(
            "{{% if messages[0].role == 'system' %}}\
             {{{{ raise_exception('System role not supported') }}}}{{% endif %}}{template}"
        ));
    })
}

fn context(model: &Path, tokens: usize) -> io::Result<()> {
    edit(model, "config.json", |config| config["max_position_embeddings"] = json!(tokens))?;
    edit(model, "tokenizer_config.json", |config| config["model_max_length"] = json!(tokens))
}

/// Every token is decoded to nothing.
fn no_token_has_text(model: &Path) -> io::Result<()> {
    edit(model, "tokenizer.json", |tokenizer| {
        tokenizer["decoder"] =
            json!({"type": "Replace", "pattern": {"Regex": "(?s).+"}, "content": ""});
    })
}

/// Multiplies a token's row of the embedding, which is the output's as well, by a number.
fn damage_row(model: &Path, token: &str, factor: f32) -> io::Result<()> {
    let tokenizer: Value = serde_json::from_slice(&fs::read(model.join("tokenizer.json"))?)?;
    let id = tokenizer["model"]["vocab"][token].as_u64().unwrap_or(0) as usize;
    let path = model.join("model.safetensors");
    let bytes = fs::read(&path)?;
    let tensors = SafeTensors::deserialize(&bytes).map_err(io::Error::other)?;
    let mut all: Vec<(String, TensorView<'_>)> = tensors.tensors();
    let embedding = all.iter_mut().find(|(name, _)| name == "model.embed_tokens.weight");
    let Some((_, embedding)) = embedding else { return Ok(()) };
    let mut rows = embedding.data().to_vec();
    let width = 2 * embedding.shape().get(1).copied().unwrap_or(0);
    let row = rows.get_mut(id * width..(id + 1) * width).unwrap_or_default();
    for number in row.as_chunks_mut::<2>().0 {
        *number = bf16::from_f32(bf16::from_le_bytes(*number).to_f32() * factor).to_le_bytes();
    }
    let damaged = TensorView::new(embedding.dtype(), embedding.shape().to_vec(), &rows);
    *embedding = damaged.map_err(io::Error::other)?;
    fs::write(path, safetensors::serialize(all, None).map_err(io::Error::other)?)
}

/// Adds layers that add zero to the residual stream.
fn add_layers(model: &Path) -> io::Result<()> {
    let mut layers = 0;
    edit(model, "config.json", |config| {
        layers = config["num_hidden_layers"].as_u64().unwrap_or(0) as usize;
        config["num_hidden_layers"] = json!(layers + MORE_LAYERS);
    })?;
    let path = model.join("model.safetensors");
    let bytes = fs::read(&path)?;
    let tensors = SafeTensors::deserialize(&bytes).map_err(io::Error::other)?;
    let zeros = vec![0; bytes.len()];
    let mut all: Vec<(String, TensorView<'_>)> = tensors.tensors();
    for (name, tensor) in tensors.tensors() {
        let Some(rest) = name.strip_prefix("model.layers.0.") else { continue };
        let adds = rest.contains("o_proj") || rest.contains("down_proj");
        let data = if adds { &zeros[..tensor.data().len()] } else { tensor.data() };
        for layer in layers..layers + MORE_LAYERS {
            let copy = TensorView::new(tensor.dtype(), tensor.shape().to_vec(), data);
            all.push((format!("model.layers.{layer}.{rest}"), copy.map_err(io::Error::other)?));
        }
    }
    let written = safetensors::serialize(all, None).map_err(io::Error::other)?;
    fs::write(path, written)
}
