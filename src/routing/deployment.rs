//! A loaded model version, as requests see it: its lane, its limits, and its tokenizer and template.
//!
//! It does not know how it was loaded, or which arm it is.

use crate::engine::{Capacity, LaneId, LaneStats};
use crate::grammar::Grammars;
use crate::text::{Codec, GenerationDefaults};
use std::path::PathBuf;
use std::sync::Arc;

/// One loaded model version.
#[derive(Debug)]
pub struct Deployment {
    /// Name of the model's folder or file.
    pub version: Arc<str>,
    /// Version and the start of the digest.
    pub fingerprint: Arc<str>,
    /// Identifies its content: a digest of every file that it was read from.
    pub digest: String,
    /// Folder or file that it was loaded from; a reference has been resolved to one.
    pub path: PathBuf,
    /// The engine's lane that runs its sequences.
    pub lane: LaneId,
    /// Limits of the model and of its KV cache.
    pub capacity: Capacity,
    /// The lane's figures, which the executor keeps up to date.
    pub stats: Arc<LaneStats>,
    /// Its tokenizer and chat template.
    pub codec: Arc<Codec>,
    /// Its compiled grammars; `None` if its tokenizer cannot be used for constrained replies.
    pub grammars: Option<Arc<Grammars>>,
    /// Sampling settings of requests that do not say: its makers', or those it was told to inherit.
    pub defaults: GenerationDefaults,
    /// Whether they are inherited.
    pub inherited: bool,
    /// Seconds since 1970 when loading finished.
    pub loaded_unix: u64,
}

impl Deployment {
    /// Longest sequence, prompt and reply together, in tokens.
    pub fn max_len(&self) -> usize {
        self.capacity.longest()
    }
}
