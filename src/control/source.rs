//! An opened model of either kind: one that serin's own decoder runs, or one of the compatibility lane.
//!
//! Only this file chooses between them. It loads nothing.

use super::settings::EngineConfig;
use crate::compat::{self, Opened, Plan};
use crate::model::{
    Gguf, LoadError, LoadFormat, ModelConfig, Weights, decoder, families, or_beside,
};
use serin_kernels::cuda::{KvKind, KvShape};
use std::path::Path;

/// Opened weights; nothing is copied yet.
pub enum Source {
    /// serin's own decoder runs it.
    Own(Box<Weights>),
    /// candle-transformers runs it.
    Compat(Box<Opened>),
}

impl Source {
    /// Opens a folder, a GGUF file, or a folder with one. Fails if a file cannot be read or is damaged, or if the model
    /// is not supported.
    pub fn open(path: &Path, format: LoadFormat) -> Result<Source, LoadError> {
        let named = match format {
            LoadFormat::Auto if path.is_dir() => compat::of_folder(path),
            _ => None,
        };
        let Some(named) = named.filter(|named| families::supported().all(|own| own != named))
        else {
            return Weights::open(path, format).map(|own| Source::Own(Box::new(own)));
        };
        if compat::NAMES.contains(&named.as_str()) {
            let opened = Opened::open(path).map_err(|error| or_beside(path, error))?;
            return Ok(Source::Compat(Box::new(opened)));
        }
        let own = Weights::open(path, format).map(|own| Source::Own(Box::new(own)));
        own.map_err(with_the_lane)
    }

    /// The architecture that `config.json` names.
    pub fn architecture(&self) -> &'static str {
        match self {
            Source::Own(weights) => weights.config().architecture,
            Source::Compat(opened) => opened.architecture(),
        }
    }

    /// Number of token ids.
    pub fn vocab(&self) -> usize {
        match self {
            Source::Own(weights) => weights.config().vocab,
            Source::Compat(opened) => opened.vocab(),
        }
    }

    /// The GGUF file, if it is one.
    pub fn gguf(&self) -> Option<&Gguf> {
        self.own().and_then(Weights::gguf)
    }

    /// Whether the weights are random instead of read from files.
    pub fn is_dummy(&self) -> bool {
        self.own().is_some_and(Weights::is_dummy)
    }

    /// Identifies configuration and weights. Fails if a file cannot be read.
    pub fn digest(&self) -> Result<String, LoadError> {
        match self {
            Source::Own(weights) => weights.digest(),
            Source::Compat(opened) => opened.digest(),
        }
    }

    /// Name and SHA-256 of the index of the weight files, if there is one.
    pub fn index(&self) -> Option<(&'static str, [u8; 32])> {
        match self {
            Source::Own(weights) => weights.index(),
            Source::Compat(opened) => opened.index(),
        }
    }

    /// Bytes of the weights once loaded.
    pub fn weight_bytes(&self) -> u64 {
        match self {
            Source::Own(weights) => weights.weight_bytes(),
            Source::Compat(opened) => opened.weight_bytes(),
        }
    }

    /// Number of parameters.
    pub fn parameters(&self) -> u64 {
        match self {
            Source::Own(weights) => weights.parameters(),
            Source::Compat(opened) => opened.parameters(),
        }
    }

    /// The weights of a model of serin's own decoder.
    pub fn own(&self) -> Option<&Weights> {
        match self {
            Source::Own(weights) => Some(weights),
            Source::Compat(_) => None,
        }
    }

    /// Longest sequence in tokens. Fails if a model of the compatibility lane does not fit into `config.kv_memory`.
    pub fn max_len(&self, config: &EngineConfig) -> Result<usize, LoadError> {
        match self {
            Source::Own(weights) => Ok(weights.config().max_len),
            Source::Compat(opened) => slots(opened, config).map(|plan| plan.max_len),
        }
    }

    /// Tokens that the model's cache holds within its configuration; where memory is short, it may be fewer. Fails as
    /// [`Source::max_len`] does.
    pub fn kv_tokens(&self, config: &EngineConfig) -> Result<usize, LoadError> {
        match self {
            Source::Own(weights) => Ok(kv_tokens(weights, config)),
            Source::Compat(opened) => slots(opened, config).map(|plan| plan.slots * plan.max_len),
        }
    }

    /// What it is, in a line: layers, sizes, memory. Fails as [`Source::max_len`] does.
    pub fn words(&self, config: &EngineConfig) -> Result<String, LoadError> {
        let mib = |bytes: u64| bytes as f64 / (1 << 20) as f64;
        let (architecture, weights) = (self.architecture(), mib(self.weight_bytes()));
        match self {
            Source::Own(own) => {
                let model = own.config();
                let kind = config.kv_cache.kind(own);
                let block = decoder::kv_shape(model, 1, config.block_size).block_bytes(kind) as u64;
                let on_gpu = config.kv_cache.only_on_card().map(|kind| {
                    let token = model.layers * card_token_bytes(model, kind);
                    let name = config.kv_cache.name();
                    format!(" ({:.1} KiB on a GPU, in {name})", token as f64 / 1024.0)
                });
                Ok(format!(
                    "{architecture}, {} layers, hidden {}, context {}; weights {weights:.1} MiB, KV cache {:.1} KiB a token{}, at most {} MiB",
                    model.layers,
                    model.hidden,
                    model.max_len,
                    block as f64 / config.block_size as f64 / 1024.0,
                    on_gpu.unwrap_or_default(),
                    config.kv_memory >> 20
                ))
            }
            Source::Compat(opened) => {
                let plan = slots(opened, config)?;
                Ok(format!(
                    "{architecture}, {} layers, hidden {}, context {}; weights {weights:.1} MiB in f32; on the compatibility lane, on the CPU: {} slots of {:.1} MiB, no prefix cache",
                    opened.layers(),
                    opened.hidden(),
                    plan.max_len,
                    plan.slots,
                    mib(plan.slot_bytes)
                ))
            }
        }
    }
}

/// Bytes of a token's keys and values in one layer, on a GPU.
fn card_token_bytes(model: &ModelConfig, kind: KvKind) -> usize {
    let (kv_heads, head_dim) = (model.kv_heads, model.head_dim);
    KvShape { blocks: 1, block_size: 1, kv_heads, head_dim }.layer_bytes(kind)
}

/// The refusal of an architecture that the decoder does not know, with those that the compatibility lane does.
fn with_the_lane(error: LoadError) -> LoadError {
    match error {
        LoadError::Config { path, what } => {
            let others = compat::NAMES.join(", ");
            LoadError::Config { path, what: format!("{what}; on the compatibility lane: {others}") }
        }
        LoadError::Instead { error, files } => {
            LoadError::Instead { error: Box::new(with_the_lane(*error)), files }
        }
        other => other,
    }
}

/// The slots of a model of the compatibility lane: no more than sequences may run.
pub(super) fn slots(opened: &Opened, config: &EngineConfig) -> Result<Plan, LoadError> {
    let most = config.compat_slots.min(config.scheduler.max_running);
    opened.plan(most, config.kv_memory)
}

/// Tokens that the KV cache of a model of serin's own decoder holds within its configuration.
pub(super) fn kv_tokens(source: &Weights, config: &EngineConfig) -> usize {
    let model = source.config();
    let kind = config.kv_cache.kind(source);
    let block = decoder::kv_shape(model, 1, config.block_size).block_bytes(kind) as u64;
    let wanted = config.scheduler.max_running * model.max_len.div_ceil(config.block_size);
    let blocks = (wanted as u64).min(config.kv_memory / block) as usize;
    blocks * config.block_size
}
