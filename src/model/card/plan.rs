//! How large a model's part of the GPU's memory is, and what that allows a step.
//!
//! Pure numbers, decided before anything is allocated.

use super::super::config::ModelConfig;
use serin_kernels::cuda::attention::plan_splits;
use serin_kernels::cuda::{KvKind, KvShape};

/// Minimum number of rows of logits on the GPU.
const LEAST_HEAD_ROWS: usize = 16;
/// Number of edits of logits per row that the GPU has room for; rows with more are sampled on the host.
const EDITS_PER_ROW: usize = 2048;

/// The memory plan of a model on a GPU.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CardPlan {
    /// Tokens in a step.
    pub tokens: usize,
    /// Sequences in a step.
    pub rows: usize,
    /// Rows of logits at once.
    pub head_rows: usize,
    /// Edits of logits in a step.
    pub edits: usize,
    /// KV blocks per layer.
    pub blocks: usize,
    /// Tokens per block.
    pub block_size: usize,
    /// How cached keys and values are stored.
    pub kv: KvKind,
    /// Longest sequence, in tokens.
    pub longest: usize,
    /// Heads of keys, and as many of values, per layer.
    pub kv_heads: usize,
    /// Multiprocessors of the GPU; they limit the parts into which decoding splits the cache.
    pub multiprocessors: usize,
    /// Whether decoding steps may be captured as CUDA graphs.
    pub capture: bool,
    /// Keep all weights, and so all inputs of matrix products, in f32, for comparison with references.
    pub exact: bool,
}

impl CardPlan {
    /// A plan for steps of at most `tokens` tokens in `rows` sequences, and a KV cache of `blocks` blocks of
    /// `block_size` tokens.
    pub fn new(
        config: &ModelConfig,
        (tokens, rows): (usize, usize),
        (blocks, block_size): (usize, usize),
        kv: KvKind,
        multiprocessors: usize,
    ) -> CardPlan {
        CardPlan {
            tokens: tokens.max(rows),
            rows,
            head_rows: rows.max(LEAST_HEAD_ROWS),
            edits: rows * EDITS_PER_ROW,
            blocks,
            block_size,
            kv,
            longest: config.max_len.min(blocks * block_size),
            kv_heads: config.kv_heads,
            multiprocessors,
            capture: true,
            exact: false,
        }
    }

    /// The shape of one layer's cache.
    pub(super) fn kv_shape(&self, config: &ModelConfig) -> KvShape {
        KvShape {
            blocks: self.blocks,
            block_size: self.block_size,
            kv_heads: config.kv_heads,
            head_dim: config.head_dim,
        }
    }

    /// Words of the mask of one row, of 32 tokens each.
    pub(super) fn mask_words(config: &ModelConfig) -> usize {
        config.vocab.div_ceil(32)
    }

    /// Bytes of one KV block over all layers.
    pub fn block_bytes(&self, config: &ModelConfig) -> u64 {
        let one = KvShape { blocks: 1, ..self.kv_shape(config) };
        (config.layers * one.layer_bytes(self.kv)) as u64
    }

    /// Widths at which decoding steps are captured.
    const BUCKETS: [usize; 7] = [1, 2, 4, 8, 16, 32, 64];

    /// The captured width for this number of rows; `None` if there are too many rows.
    pub(super) fn bucket(&self, rows: usize) -> Option<usize> {
        let fits = |bucket: &&usize| **bucket >= rows && **bucket <= self.rows;
        Self::BUCKETS.iter().find(fits).copied()
    }

    /// The number of parts into which the cache is split when this number of rows is decoded.
    pub(super) fn splits(&self, rows: usize) -> usize {
        plan_splits(rows, self.kv_heads, self.longest, self.multiprocessors)
    }
}
