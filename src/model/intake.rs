//! A checkpoint folder's way in: find the files, check them, hand out tensors in f32.
//!
//! Every refusal names the file, the tensor and the remedy. Nothing here builds a graph or keeps a
//! tensor; whoever calls [`Source::tensor`] owns the result. [`Source`] is the seam to other formats.

use super::config::ModelConfig;
use super::families::EMBEDDING;
use super::linear::Linear;
use crate::device::{all_finite, files, with_f32};
use crate::progress::Progress;
use candle_core::safetensors::MmapedSafetensors;
use candle_core::{DType, Device, Tensor};
use sha2::{Digest, Sha256};
use std::path::{Path, PathBuf};

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
        "tensor `{tensor}` in {} has shape {found:?} where config.json asks for {expected:?}",
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
    #[error("loading failed on the device: {0}")]
    Device(#[from] candle_core::Error),
}

/// An opened checkpoint: config read, weight files mapped, nothing copied yet.
pub struct Checkpoint {
    dir: PathBuf,
    config: ModelConfig,
    files: Vec<PathBuf>,
    weights: MmapedSafetensors,
    /// How tensors of the language model are called in the files.
    prefix: Prefix,
}

/// Checkpoints with parts beside the language model set its names apart.
#[derive(Clone, Copy)]
enum Prefix {
    None,
    /// `language_model.model.layers...`, as first published.
    Outer,
    /// `model.language_model.layers...`, as transformers writes them today.
    Inner,
}

impl Prefix {
    fn of(weights: &MmapedSafetensors) -> Prefix {
        let has = |prefix: Prefix| weights.get(&prefix.apply(EMBEDDING)).is_ok();
        [Prefix::Outer, Prefix::Inner].into_iter().find(|p| has(*p)).unwrap_or(Prefix::None)
    }

    fn apply(self, name: &str) -> String {
        match (self, name.strip_prefix("model.")) {
            (Prefix::Outer, _) => format!("language_model.{name}"),
            (Prefix::Inner, Some(rest)) => format!("model.language_model.{rest}"),
            _ => name.to_owned(),
        }
    }
}

impl Checkpoint {
    /// Opens a Hugging Face folder with one `model.safetensors` or a sharded set.
    pub fn open(dir: &Path) -> Result<Checkpoint, LoadError> {
        let config = ModelConfig::read(dir)?;
        let files = weight_files(dir)?;
        for path in &files {
            let one = std::slice::from_ref(path);
            files::map_safetensors(one).map_err(|e| damaged(path, &e))?;
        }
        let weights = files::map_safetensors(&files).map_err(|e| damaged(dir, &e))?;
        let prefix = Prefix::of(&weights);
        Ok(Checkpoint { dir: dir.to_owned(), config, files, weights, prefix })
    }

    pub fn config(&self) -> &ModelConfig {
        &self.config
    }

    /// SHA-256 over config.json and the weight files, in hex: what a version is remembered by.
    pub fn digest(&self) -> Result<String, LoadError> {
        let config = std::iter::once(self.dir.join("config.json"));
        digest_files(&config.chain(self.files.iter().cloned()).collect::<Vec<_>>())
    }

    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Bytes that the weights take once widened to f32.
    pub fn weight_bytes(&self) -> u64 {
        let elements =
            |view: &safetensors::tensor::TensorView<'_>| view.shape().iter().product::<usize>();
        self.weights.tensors().iter().map(|(_, view)| elements(view) as u64 * 4).sum()
    }
}

/// Where a model's weights come from. Names are those of the Hugging Face checkpoints; a source of another
/// format translates. Every tensor handed out has the asked shape and finite values.
pub trait Source {
    fn config(&self) -> &ModelConfig;

    fn has(&self, name: &str) -> bool;

    /// A tensor in f32.
    fn tensor(&self, name: &str, shape: &[usize]) -> Result<Tensor, LoadError>;

    /// The weight of a matrix product, `[outputs, inputs]`, in the form it is to be multiplied in.
    fn linear(&self, name: &str, shape: [usize; 2]) -> Result<Linear, LoadError> {
        Ok(Linear::Dense(self.tensor(name, &shape)?))
    }

    /// A vector: a norm's weights or a bias.
    fn vector(&self, name: &str, len: usize) -> Result<Vec<f32>, LoadError> {
        Ok(with_f32(&self.tensor(name, &[len])?, <[f32]>::to_vec)?)
    }
}

impl Source for Checkpoint {
    fn config(&self) -> &ModelConfig {
        &self.config
    }

    fn has(&self, name: &str) -> bool {
        self.weights.get(&self.prefix.apply(name)).is_ok()
    }

    fn tensor(&self, name: &str, shape: &[usize]) -> Result<Tensor, LoadError> {
        let (dir, tensor) = (self.dir.clone(), self.prefix.apply(name));
        let Ok(view) = self.weights.get(&tensor) else {
            return Err(LoadError::Missing { dir, tensor });
        };
        if view.shape() != shape {
            let (found, expected) = (view.shape().to_vec(), shape.to_vec());
            return Err(LoadError::Shape { dir, tensor, found, expected });
        }
        let dtype = view.dtype();
        let loaded = self.weights.load(&tensor, &Device::Cpu)?;
        if !matches!(loaded.dtype(), DType::F32 | DType::F16 | DType::BF16) {
            return Err(LoadError::DType { dir, tensor, found: format!("{dtype:?}") });
        }
        files::release_tensor(&self.weights, &self.prefix.apply(name));
        let wide = loaded.to_dtype(DType::F32)?;
        if all_finite(&wide)? { Ok(wide) } else { Err(LoadError::NonFinite { dir, tensor }) }
    }
}

/// SHA-256 over lengths and contents of files, in hex.
pub(super) fn digest_files(paths: &[PathBuf]) -> Result<String, LoadError> {
    /// Hashed, and let go of, at a time.
    const PIECE: usize = 16 << 20;
    let total = paths.iter().map(|path| path.metadata().map_or(0, |m| m.len())).sum();
    let shown = paths.last().map(|path| path.display().to_string()).unwrap_or_default();
    let progress = Progress::start(format!("checking {shown}"), total);
    let mut hash = Sha256::new();
    for path in paths {
        let bytes = files::map_bytes(path)
            .map_err(|source| LoadError::Read { path: path.clone(), source })?;
        hash.update((bytes.len() as u64).to_le_bytes());
        for start in (0..bytes.len()).step_by(PIECE) {
            let end = bytes.len().min(start + PIECE);
            hash.update(&bytes[start..end]);
            files::release(&bytes, start..end);
            progress.add((end - start) as u64);
        }
    }
    Ok(hex(hash))
}

/// SHA-256 over pieces of memory, in hex.
pub(super) fn digest_of<const N: usize>(pieces: [&[u8]; N]) -> String {
    let mut hash = Sha256::new();
    pieces.iter().for_each(|piece| hash.update(piece));
    hex(hash)
}

fn hex(hash: Sha256) -> String {
    hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
}

fn damaged(path: &Path, error: &candle_core::Error) -> LoadError {
    let text = error.to_string();
    let what = text.lines().next().unwrap_or("unreadable").to_owned();
    LoadError::Damaged { path: path.to_owned(), what }
}

fn weight_files(dir: &Path) -> Result<Vec<PathBuf>, LoadError> {
    let single = dir.join("model.safetensors");
    if single.is_file() {
        return Ok(vec![single]);
    }
    let index = dir.join("model.safetensors.index.json");
    if !index.is_file() {
        return Err(LoadError::NoWeights { dir: dir.to_owned() });
    }
    let text = std::fs::read_to_string(&index)
        .map_err(|source| LoadError::Read { path: index.clone(), source })?;
    let bad = |what: &str| LoadError::Damaged { path: index.clone(), what: what.to_owned() };
    let json: serde_json::Value =
        serde_json::from_str(&text).map_err(|e| bad(&format!("not valid JSON: {e}")))?;
    let map = json["weight_map"].as_object().ok_or_else(|| bad("it has no weight_map"))?;
    let mut names: Vec<&str> = map.values().filter_map(|v| v.as_str()).collect();
    names.sort_unstable();
    names.dedup();
    if names.iter().any(|name| name.contains(['/', '\\'])) {
        return Err(bad("it names weight files outside the folder"));
    }
    if let Some(absent) = names.iter().find(|name| !dir.join(name).is_file()) {
        let source = std::io::ErrorKind::NotFound.into();
        return Err(LoadError::Read { path: dir.join(absent), source });
    }
    Ok(names.iter().map(|name| dir.join(name)).collect())
}
