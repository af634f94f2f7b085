//! The settings with which models are run, from the config.

use crate::engine::SchedulerConfig;
use crate::model::{KvChoice, LoadFormat};
use crate::text::TextOptions;

/// How models are run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EngineConfig {
    /// Limits of each model's scheduler: sequences and tokens of a step, waiting sequences.
    pub scheduler: SchedulerConfig,
    /// Tokens per KV block.
    pub block_size: usize,
    /// Most bytes that one model's KV cache may take.
    pub kv_memory: u64,
    /// How the KV cache keeps its values.
    pub kv_cache: KvChoice,
    /// Sequences at a time of a model on the compatibility lane.
    pub compat_slots: usize,
    /// Where weights come from.
    pub load_format: LoadFormat,
    /// How texts are handled.
    pub text: TextOptions,
}
