//! From a folder to a model that is ready to be loaded: its config is checked, its weight files are mapped, and its
//! memory is planned.

use super::names::plain_json;
use super::plan::Plan;
use super::rules::{self, Settings, number};
use super::table::{self, Architecture, LONGEST};
use crate::model::{Folder, LoadError};
use serde_json::Value;
use std::path::Path;

/// Positions up to here are exact in f32, which rotary embeddings are computed in.
const MOST_LEN: usize = 1 << 24;

/// An opened model; nothing is copied yet.
pub struct Opened {
    pub(super) row: &'static Architecture,
    pub(super) settings: Settings,
    pub(super) folder: Folder,
    vocab: usize,
    longest: usize,
}

impl Opened {
    /// Opens a Hugging Face folder of one of the table's architectures. Fails if a file cannot be read or is damaged,
    /// or if the model is not supported.
    pub fn open(dir: &Path) -> Result<Opened, LoadError> {
        let path = dir.join("config.json");
        let text = std::fs::read_to_string(&path)
            .map_err(|source| LoadError::Read { path: path.clone(), source })?;
        let bad = |what: String| LoadError::Config { path: path.clone(), what };
        let raw: Value = serde_json::from_str(&plain_json(&text))
            .map_err(|e| bad(format!("it is not valid JSON: {e}")))?;
        let named = raw["architectures"][0].as_str().unwrap_or("(none)");
        let row = table::named(named).ok_or_else(|| {
            bad(format!("its architecture {named} is not in the compatibility lane's table"))
        })?;
        let settings = row.rules.apply(&raw).map_err(bad)?;
        rules::named(&settings, row.readable).map_err(bad)?;
        let longest = raw.as_object().map_or(Ok(None), |own| row.rules.longest(own));
        let longest = longest.map_err(bad)?.unwrap_or(LONGEST);
        let vocab = number(&settings, "vocab_size").filter(|n| *n > 0);
        let vocab = vocab.ok_or_else(|| bad("`vocab_size` is missing or 0".into()))? as usize;
        Ok(Opened { row, settings, folder: Folder::open(dir)?, vocab, longest })
    }

    /// The folder of the model.
    pub fn path(&self) -> &Path {
        self.folder.dir()
    }

    /// The architecture that `config.json` names.
    pub fn architecture(&self) -> &'static str {
        self.row.name
    }

    /// Number of token ids.
    pub fn vocab(&self) -> usize {
        self.vocab
    }

    /// Number of layers.
    pub fn layers(&self) -> usize {
        let of = |key| number(&self.settings, key);
        of("num_hidden_layers").or(of("n_layer")).unwrap_or(0) as usize
    }

    /// Width of a token's state between layers.
    pub fn hidden(&self) -> usize {
        let of = |key| number(&self.settings, key);
        of("hidden_size").or(of("d_model")).unwrap_or(0) as usize
    }

    /// Identifies configuration and weights: SHA-256 over their files. Fails if one of them cannot be read.
    pub fn digest(&self) -> Result<String, LoadError> {
        self.folder.digest()
    }

    /// Name and SHA-256 of the index that lists the weight files, if there is one.
    pub fn index(&self) -> Option<(&'static str, [u8; 32])> {
        self.folder.index()
    }

    /// Number of parameters: the elements of all tensors, those included that the model leaves out.
    pub fn parameters(&self) -> u64 {
        let elements = |shape: &[usize]| shape.iter().map(|n| *n as u64).product::<u64>();
        self.folder.tensors().iter().map(|(_, shape)| elements(shape)).sum()
    }

    /// Bytes of the weights once loaded, in f32.
    pub fn weight_bytes(&self) -> u64 {
        self.parameters() * 4
    }

    /// Plans this number of slots within `kv_memory` bytes, each as many tokens long as then fits. Fails if that is
    /// less than two tokens, or if the sizes in the config do not tell.
    pub fn plan(&self, slots: usize, kv_memory: u64) -> Result<Plan, LoadError> {
        let bad = |what: &str| LoadError::Config {
            path: self.path().join("config.json"),
            what: what.into(),
        };
        let cache = (self.row.cache)(&self.settings).ok_or_else(|| {
            bad("the sizes from which its cache follows are missing or too large")
        })?;
        let slots = slots.max(1);
        let each = kv_memory / slots as u64;
        let room = each.saturating_sub(cache.fixed).checked_div(cache.per_token);
        let fits = cache.fixed <= each;
        let room = room.unwrap_or(u64::MAX) * u64::from(fits);
        let max_len = self.longest.min(MOST_LEN).min(usize::try_from(room).unwrap_or(usize::MAX));
        if max_len < 2 {
            return Err(LoadError::KvTooSmall { blocks: slots, block_size: max_len });
        }
        let slot_bytes = cache.fixed + cache.per_token * max_len as u64;
        Ok(Plan { slots, max_len, slot_bytes })
    }
}
