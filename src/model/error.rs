//! Why a model cannot be loaded: one line each, naming the file and what to do.

use serin_kernels::cuda::CardError;
use std::path::PathBuf;

/// Why a model could not be loaded.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    #[error("cannot read {}: {source}; is this a Hugging Face model folder?", path.display())]
    Read { path: PathBuf, source: std::io::Error },
    #[error("{} cannot be used: {what}", path.display())]
    Config { path: PathBuf, what: String },
    #[error(
        "{} has no model.safetensors and no model.safetensors.index.json; download the weights there",
        dir.display()
    )]
    NoWeights { dir: PathBuf },
    #[error("{} is damaged ({what}); download it again", path.display())]
    Damaged { path: PathBuf, what: String },
    #[error("{} has no tensor `{tensor}`; the checkpoint is incomplete or of another architecture", dir.display())]
    Missing { dir: PathBuf, tensor: String },
    #[error(
        "tensor `{tensor}` in {} has shape {found:?} but config.json requires {expected:?}",
        dir.display()
    )]
    Shape { dir: PathBuf, tensor: String, found: Vec<usize>, expected: Vec<usize> },
    #[error("tensor `{tensor}` in {} holds NaN or infinite weights; the checkpoint is broken", dir.display())]
    NonFinite { dir: PathBuf, tensor: String },
    #[error("tensor `{tensor}` in {} has data type {found}; supported: F32, F16, BF16", dir.display())]
    DType { dir: PathBuf, tensor: String, found: String },
    #[error(
        "the KV cache would have room for {blocks} blocks of {block_size} tokens, less than one sequence needs; raise engine.kv_memory"
    )]
    KvTooSmall { blocks: usize, block_size: usize },
    #[error(
        "{} does not fit: weights {} MiB + KV cache {} MiB, but only {} MiB are available; lower engine.kv_memory or free memory",
        dir.display(), weights >> 20, kv >> 20, available >> 20
    )]
    DoesNotFit { dir: PathBuf, weights: u64, kv: u64, available: u64 },
    #[error("tensor `{tensor}` in {} cannot be used: {what}", dir.display())]
    Unfit { dir: PathBuf, tensor: String, what: String },
    #[error("{} does not fit on the GPU: {why}", dir.display())]
    CardFull { dir: PathBuf, why: String },
    #[error("loading to the GPU failed: {0}")]
    Card(CardError),
    /// This process can no longer use the device.
    #[error("the device has failed: {0}")]
    DeviceLost(String),
}

impl From<CardError> for LoadError {
    fn from(error: CardError) -> LoadError {
        match error {
            CardError::Dead(why) => LoadError::DeviceLost(why),
            other => LoadError::Card(other),
        }
    }
}
