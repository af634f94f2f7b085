//! Why a model cannot be loaded: each error is one line that names the file and the remedy.

use serin_kernels::cuda::CardError;
use std::path::PathBuf;

/// Why a model could not be loaded.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// A file or folder of the model cannot be opened or read.
    #[error("cannot read {}: {source}; is this a Hugging Face model folder?", path.display())]
    Read {
        /// The file or folder.
        path: PathBuf,
        /// The error of the operating system.
        source: std::io::Error,
    },
    /// The model, or a setting in its config, is not supported or not valid.
    #[error("{} cannot be used: {what}", path.display())]
    Config {
        /// The file or folder at fault.
        path: PathBuf,
        /// What is wrong with it, as a clause about it.
        what: String,
    },
    /// A model that is refused, in a folder with files that would load.
    #[error("{error}; in the same folder, this would load: {files}")]
    Instead {
        /// The refusal.
        error: Box<LoadError>,
        /// Names of files.
        files: String,
    },
    /// A folder without safetensors weights.
    #[error(
        "{} has no model.safetensors and no model.safetensors.index.json; download the weights there",
        dir.display()
    )]
    NoWeights {
        /// The model folder.
        dir: PathBuf,
    },
    /// A weight file or index violates its own format, or is truncated.
    #[error("{} is damaged ({what}); download it again", path.display())]
    Damaged {
        /// The damaged file.
        path: PathBuf,
        /// What is wrong with it.
        what: String,
    },
    /// A tensor that the architecture requires is not in the checkpoint.
    #[error("{} has no tensor `{tensor}`; the checkpoint is incomplete or of another architecture", dir.display())]
    Missing {
        /// The model folder or GGUF file.
        dir: PathBuf,
        /// The tensor's name.
        tensor: String,
    },
    /// A tensor does not have the shape that follows from the config.
    #[error(
        "tensor `{tensor}` in {} has shape {found:?} but config.json requires {expected:?}",
        dir.display()
    )]
    Shape {
        /// The model folder or GGUF file.
        dir: PathBuf,
        /// The tensor's name.
        tensor: String,
        /// Its shape in the checkpoint, outermost dimension first.
        found: Vec<usize>,
        /// The required shape, outermost dimension first.
        expected: Vec<usize>,
    },
    /// A tensor holds NaN or infinity.
    #[error("tensor `{tensor}` in {} holds NaN or infinite weights; the checkpoint is broken", dir.display())]
    NonFinite {
        /// The model folder or GGUF file.
        dir: PathBuf,
        /// The tensor's name.
        tensor: String,
    },
    /// A tensor in safetensors format has a data type other than F32, F16 or BF16.
    #[error("tensor `{tensor}` in {} has data type {found}; supported: F32, F16, BF16", dir.display())]
    DType {
        /// The model folder.
        dir: PathBuf,
        /// The tensor's name.
        tensor: String,
        /// The data type, as safetensors names it.
        found: String,
    },
    /// On the CPU, `engine.kv_memory` has room for fewer than two tokens.
    #[error(
        "the KV cache would have room for {blocks} blocks of {block_size} tokens, less than one sequence needs; raise engine.kv_memory"
    )]
    KvTooSmall {
        /// Blocks that fit.
        blocks: usize,
        /// Tokens per block.
        block_size: usize,
    },
    /// On the CPU, weights and KV cache need more memory than the machine has available.
    #[error(
        "{} does not fit: weights {} MiB + KV cache {} MiB, but only {} MiB are available; lower engine.kv_memory or free memory",
        dir.display(), weights >> 20, kv >> 20, available >> 20
    )]
    DoesNotFit {
        /// The model folder or GGUF file.
        dir: PathBuf,
        /// Bytes of the weights once loaded.
        weights: u64,
        /// Bytes of the KV cache.
        kv: u64,
        /// Available bytes of main memory.
        available: u64,
    },
    /// A matrix cannot be used in a product in the form in which it is stored.
    #[error("tensor `{tensor}` in {} cannot be used: {what}", dir.display())]
    Unfit {
        /// The model folder or GGUF file.
        dir: PathBuf,
        /// The tensor's name.
        tensor: String,
        /// Why not.
        what: String,
    },
    /// Weights, buffers and the smallest useful KV cache need more than the GPU has free, less a reserve.
    #[error("{} does not fit on the GPU: {why}", dir.display())]
    CardFull {
        /// The model folder or GGUF file.
        dir: PathBuf,
        /// The sizes in question, in words.
        why: String,
    },
    /// A call to the GPU failed while loading; the GPU itself goes on.
    #[error("loading to the GPU failed: {0}")]
    Card(CardError),
    /// The GPU cannot keep the KV cache as it is configured.
    #[error("engine.kv_cache: {0}")]
    KvKind(CardError),
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
