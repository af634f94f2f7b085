//! Opens a checkpoint folder: finds the files, checks them, and returns tensors as they are stored.
//!
//! Every error names the file, the tensor and the remedy. Nothing is copied here: the returned tensors are in
//! the mapped files.

mod diagnose;

use super::config::ModelConfig;
use super::error::LoadError;
use super::layout::EMBEDDING;
use crate::device::safetensors::Safetensors;
use crate::device::{Kind, Stored, files};
use crate::progress::Progress;
use safetensors::tensor::{Dtype, TensorView};
use sha2::{Digest, Sha256};
use std::borrow::Cow;
use std::path::{Path, PathBuf};

/// The list of the files of a sharded set.
const INDEX: &str = "model.safetensors.index.json";

/// An opened checkpoint: config read, weight files mapped, nothing copied yet.
pub struct Checkpoint {
    config: ModelConfig,
    folder: Folder,
}

/// The mapped weight files of a folder, whatever its config says.
pub struct Folder {
    dir: PathBuf,
    files: Vec<PathBuf>,
    /// SHA-256 of the index of a sharded set.
    index: Option<[u8; 32]>,
    weights: Safetensors,
    /// The prefix of the language model's tensor names in the files.
    prefix: Prefix,
}

/// Checkpoints that contain more than the language model put a prefix before its names.
#[derive(Clone, Copy)]
enum Prefix {
    None,
    /// `language_model.model.layers...`, as first published.
    Outer,
    /// `model.language_model.layers...`, as transformers writes them today.
    Inner,
}

impl Prefix {
    fn of(weights: &Safetensors) -> Prefix {
        let has = |prefix: Prefix| weights.get(&prefix.apply(EMBEDDING)).is_some();
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
    /// Opens a Hugging Face folder with one `model.safetensors` or a sharded set. Fails if a file cannot be read or is
    /// damaged, or if the model is not supported.
    pub fn open(dir: &Path) -> Result<Checkpoint, LoadError> {
        Ok(Checkpoint { config: ModelConfig::read(dir)?, folder: Folder::open(dir)? })
    }

    /// The content of `config.json`.
    pub fn config(&self) -> &ModelConfig {
        &self.config
    }

    /// Takes the checkpoint apart: configuration and weights.
    pub fn into_parts(self) -> (ModelConfig, Folder) {
        (self.config, self.folder)
    }
}

impl Folder {
    /// Maps the weight files of a Hugging Face folder and checks their headers. Fails if there are none, or if one
    /// cannot be read or is damaged.
    pub fn open(dir: &Path) -> Result<Folder, LoadError> {
        let (files, index) = weight_files(dir)?;
        for path in &files {
            let one = std::slice::from_ref(path);
            Safetensors::open(one).map_err(|e| damaged(path, &e))?;
        }
        let weights = Safetensors::open(&files).map_err(|e| damaged(dir, &e))?;
        let prefix = Prefix::of(&weights);
        Ok(Folder { dir: dir.to_owned(), files, index, weights, prefix })
    }

    /// SHA-256 over config.json and the weight files, in hex. Fails if one of them cannot be read.
    pub fn digest(&self) -> Result<String, LoadError> {
        let config = std::iter::once(self.dir.join("config.json"));
        digest_files(&config.chain(self.files.iter().cloned()).collect::<Vec<_>>())
    }

    /// Name and SHA-256 of the index that lists the weight files, if there is one.
    pub fn index(&self) -> Option<(&'static str, [u8; 32])> {
        self.index.map(|sha256| (INDEX, sha256))
    }

    /// The folder as it was given to [`Folder::open`].
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Whether the files hold this tensor; `name` is without a checkpoint's extra prefix.
    pub fn has(&self, name: &str) -> bool {
        self.weights.get(&self.prefix.apply(name)).is_some()
    }

    /// Type and shape of one tensor. Fails if the folder has no such tensor, or if its type is not supported.
    pub fn plan(&self, name: &str) -> Result<(Kind, Vec<usize>), LoadError> {
        self.view(name).map(|(kind, view)| (kind, view.shape().to_vec()))
    }

    /// Types and shapes of all tensors that can be read.
    pub fn tensors(&self) -> Vec<(Kind, Vec<usize>)> {
        let all = self.weights.tensors();
        let known = all.iter().filter_map(|(_, view)| Some((kind_of(view.dtype())?, view)));
        known.map(|(kind, view)| (kind, view.shape().to_vec())).collect()
    }

    /// A tensor as it is in the mapped file. Fails as [`Folder::plan`] does.
    pub fn stored(&self, name: &str) -> Result<Stored<'_>, LoadError> {
        let (kind, view) = self.view(name)?;
        let (shape, bytes) = (view.shape().to_vec(), Cow::Borrowed(view.data()));
        Ok(Stored { kind, shape, bytes })
    }

    /// Releases the memory of a tensor's pages; they are read again if needed.
    pub fn release(&self, name: &str) {
        if let Some(view) = self.weights.get(&self.prefix.apply(name)) {
            files::release_tensor(&view);
        }
    }

    fn view(&self, name: &str) -> Result<(Kind, TensorView<'_>), LoadError> {
        let (dir, tensor) = (self.dir.clone(), self.prefix.apply(name));
        let Some(view) = self.weights.get(&tensor) else {
            return Err(LoadError::Missing { dir, tensor });
        };
        match kind_of(view.dtype()) {
            Some(kind) => Ok((kind, view)),
            None => {
                let found = format!("{:?}", view.dtype());
                Err(LoadError::DType { dir, tensor, found })
            }
        }
    }
}

/// The weight type for a safetensors data type, if it is supported.
fn kind_of(dtype: Dtype) -> Option<Kind> {
    match dtype {
        Dtype::F32 => Some(Kind::F32),
        Dtype::F16 => Some(Kind::F16),
        Dtype::BF16 => Some(Kind::BF16),
        _ => None,
    }
}

/// SHA-256 over lengths and contents of files, in hex.
pub(super) fn digest_files(paths: &[PathBuf]) -> Result<String, LoadError> {
    /// Bytes that are hashed, and then released, at a time.
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

fn damaged(path: &Path, error: &str) -> LoadError {
    let found = files::map_bytes(path).ok().and_then(|bytes| diagnose::first_fault(&bytes));
    let what = found.unwrap_or_else(|| error.lines().next().unwrap_or("unreadable").to_owned());
    LoadError::Damaged { path: path.to_owned(), what }
}

/// The files, and the digest of the index that names them.
fn weight_files(dir: &Path) -> Result<(Vec<PathBuf>, Option<[u8; 32]>), LoadError> {
    let single = dir.join("model.safetensors");
    if single.is_file() {
        return Ok((vec![single], None));
    }
    let index = dir.join(INDEX);
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
    let files = names.iter().map(|name| dir.join(name)).collect();
    Ok((files, Some(Sha256::digest(text.as_bytes()).into())))
}

#[cfg(test)]
mod tests;
