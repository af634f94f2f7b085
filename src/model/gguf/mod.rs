//! GGUF files, whole or split: opened, checked, and presented under Hugging Face's names.
//!
//! The file stays mapped. [`Gguf::stored`] returns rows of blocks as they are in the file, for kernels that
//! use this format. The file's architecture and its names do not matter outside this module: everything above
//! uses `config.json` and Hugging Face's names.
//!
//! In reading order: `header` (the container, every size checked), `parts` (the files of a split model), `meta`
//! (typed access), `arch` (configuration), `names` (tensors).

mod arch;
pub mod header;
mod meta;
mod names;
mod parts;

use super::error::LoadError;
use super::rows;

use crate::device::{Kind, Stored, dequantise, files};
use arch::{Architecture, FromTensors};
use header::{Fault, Header, TensorInfo};
pub use meta::Metadata;
use names::{Name, Undo};
pub use parts::first_part;
use parts::{Part, Parts};
use std::borrow::Cow;
use std::collections::HashMap;
use std::path::{Path, PathBuf};

/// Names of the architectures that can be loaded, as in `general.architecture`.
pub fn architectures() -> impl Iterator<Item = &'static str> {
    Architecture::NAMES.into_iter()
}

/// Number of RoPE frequencies of the largest supported head.
const MOST_FACTORS: usize = 2048;

/// An opened GGUF file, or the parts of a split one.
pub struct Gguf {
    /// In order; metadata is in the first.
    files: Vec<Part>,
    header: Header,
    /// By Hugging Face's names.
    tensors: HashMap<String, Placed>,
    config: serde_json::Value,
}

struct Placed {
    part: usize,
    info: TensorInfo,
    undo: Undo,
}

impl Gguf {
    /// Maps and checks a file, and the other parts of a split one: container, architecture, configuration, names. Fails
    /// if a file cannot be read, is damaged, or holds a model that is not supported.
    pub fn open(path: &Path) -> Result<Gguf, LoadError> {
        let parts = Parts::open(path)?;
        let fault = |fault| at(path, fault);
        let meta = Metadata { header: &parts.header, file: &parts.files[0].map };
        let arch = Architecture::of(meta).map_err(fault)?;
        let config = from_tensors(&parts)
            .and_then(|tensors| arch::config(meta, arch, &tensors))
            .map_err(fault)?;
        let count = |key: &str| config[key].as_u64().unwrap_or(0) as usize;
        let (heads, kv_heads) = (count("num_attention_heads"), count("num_key_value_heads"));
        let mut tensors = HashMap::with_capacity(parts.tensors.len());
        for (name, (part, info)) in &parts.tensors {
            match names::translate(name, arch, heads, kv_heads) {
                Name::Weight(to, undo) => {
                    tensors.insert(to, Placed { part: *part, info: info.clone(), undo });
                }
                Name::Aside => {}
                Name::Unknown => {
                    let what = format!("its tensor `{name}` is not known for its architecture");
                    return Err(at(path, Fault::Unsupported(what)));
                }
            }
        }
        Ok(Gguf { files: parts.files, header: parts.header, tensors, config })
    }

    /// The equivalent of `config.json`.
    pub fn config(&self) -> &serde_json::Value {
        &self.config
    }

    /// The file that it was opened from: the first part of a split model.
    pub fn path(&self) -> &Path {
        &self.files[0].path
    }

    /// All its files, for its digest.
    pub fn paths(&self) -> Vec<PathBuf> {
        self.files.iter().map(|part| part.path.clone()).collect()
    }

    /// The file's metadata, including the tokenizer's.
    pub fn metadata(&self) -> Metadata<'_> {
        Metadata { header: &self.header, file: &self.files[0].map }
    }

    /// Adds the file's name to an error in its metadata.
    pub fn fault(&self, fault: Fault) -> LoadError {
        at(self.path(), fault)
    }

    /// Names, types and shapes of all tensors.
    pub fn tensors(&self) -> impl Iterator<Item = (&str, Kind, &[usize])> {
        self.tensors
            .iter()
            .map(|(name, at)| (name.as_str(), at.info.kind, at.info.shape.as_slice()))
    }

    /// Whether there is a tensor of this name, in the names that safetensors use.
    pub fn has(&self, name: &str) -> bool {
        self.tensors.contains_key(name)
    }

    /// A tensor as stored: blocks row by row. Copied only if its rows have to be reordered. Fails if the model has no
    /// such tensor, or if its rows cannot be reordered.
    pub fn stored(&self, name: &str) -> Result<Stored<'_>, LoadError> {
        let placed = self.placed(name)?;
        let (Placed { info, undo, .. }, bytes) = (placed, self.bytes(placed));
        let bytes = match undo {
            Undo::Nothing => Cow::Borrowed(bytes),
            Undo::Interleaving { heads } => {
                let count = info.shape[0];
                let halves = rows::halves(bytes, bytes.len() / count.max(1), *heads, None);
                Cow::Owned(halves.ok_or_else(|| self.odd_rows(name, *heads))?)
            }
            Undo::PlusOne => Cow::Owned(self.without_one(name, placed)?),
        };
        Ok(Stored { kind: info.kind, shape: info.shape.clone(), bytes })
    }

    /// Type and shape of one tensor. Fails if the model has no such tensor.
    pub fn plan(&self, name: &str) -> Result<(Kind, Vec<usize>), LoadError> {
        self.placed(name).map(|at| (at.info.kind, at.info.shape.clone()))
    }

    /// Releases the memory of a tensor's pages; they are read again if needed.
    pub fn release(&self, name: &str) {
        if let Some(placed) = self.tensors.get(name) {
            files::release(&self.files[placed.part].map, placed.info.at.clone());
        }
    }

    fn bytes(&self, placed: &Placed) -> &[u8] {
        &self.files[placed.part].map[placed.info.at.clone()]
    }

    fn placed(&self, name: &str) -> Result<&Placed, LoadError> {
        self.tensors.get(name).ok_or_else(|| LoadError::Missing {
            dir: self.path().to_owned(),
            tensor: name.to_owned(),
        })
    }

    fn odd_rows(&self, name: &str, heads: usize) -> LoadError {
        at(
            self.path(),
            Fault::Damaged(format!("the rows of `{name}` are not {heads} heads of pairs")),
        )
    }

    /// A norm's weights as in the original model; norms are stored in F32.
    fn without_one(&self, name: &str, placed: &Placed) -> Result<Vec<u8>, LoadError> {
        let info = &placed.info;
        if info.kind != Kind::F32 {
            let what =
                format!("its tensor `{name}` is stored as {}, a norm should be F32", info.kind);
            return Err(at(self.path(), Fault::Unsupported(what)));
        }
        let mut norm = vec![0f32; info.shape.iter().product()];
        dequantise(info.kind, self.bytes(placed), &mut norm);
        Ok(norm.iter().flat_map(|x| (x - 1.0).to_le_bytes()).collect())
    }
}

fn at(path: &Path, fault: Fault) -> LoadError {
    let path = path.to_owned();
    match fault {
        Fault::Damaged(what) => LoadError::Damaged { path, what },
        Fault::Unsupported(what) => LoadError::Config { path, what },
    }
}

fn from_tensors(parts: &Parts) -> Result<FromTensors, Fault> {
    let has = |name: &str| parts.tensors.contains_key(name);
    let factors = |name: &str| match parts.tensors.get(name) {
        Some((part, info)) => {
            rope_factors(name, info, &parts.files[*part].map[info.at.clone()]).map(Some)
        }
        None => Ok(None),
    };
    Ok(FromTensors {
        vocab: parts.tensors.get("token_embd.weight").map_or(0, |(_, info)| info.shape[0]),
        has_head: has("output.weight"),
        attention_bias: has("blk.0.attn_q.bias"),
        rope_freqs: factors("rope_freqs.weight")?,
        rope_long: factors("rope_factors_long.weight")?,
        rope_short: factors("rope_factors_short.weight")?,
    })
}

/// Divisors of RoPE frequencies. They become part of the configuration, so their number is limited.
fn rope_factors(name: &str, info: &TensorInfo, bytes: &[u8]) -> Result<Vec<f32>, Fault> {
    let &[count] = info.shape.as_slice() else {
        return Err(Fault::Damaged(format!("its tensor `{name}` is not a list of factors")));
    };
    if count > MOST_FACTORS {
        return Err(Fault::Damaged(format!(
            "its tensor `{name}` has {count} factors, more than any head has frequencies"
        )));
    }
    let mut factors = vec![0f32; count];
    dequantise(info.kind, bytes, &mut factors);
    match factors.iter().all(|x| x.is_finite() && *x > 0.0) {
        true => Ok(factors),
        false => Err(Fault::Damaged(format!("its tensor `{name}` contains invalid factors"))),
    }
}

#[cfg(test)]
mod testing;
#[cfg(test)]
pub(super) mod tests;
