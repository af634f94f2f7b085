//! How large a model's part of the GPU's memory is, and what that allows a step.
//!
//! Pure numbers, decided before anything is allocated.

use super::super::config::ModelConfig;
use serin_kernels::cuda::attention::plan_splits;
use serin_kernels::cuda::{KvKind, KvShape};

/// Rows of logits that a card holds at least.
const LEAST_HEAD_ROWS: usize = 16;
/// Penalised tokens for each row of a step that the card has room for; rows beyond are drawn on the host.
const PENALTIES_PER_ROW: usize = 2048;

/// How large a model's room on a card is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CardPlan {
    /// Tokens in a step.
    pub tokens: usize,
    /// Sequences in a step.
    pub rows: usize,
    /// Rows of logits at once.
    pub head_rows: usize,
    /// Penalised tokens of a step.
    pub penalties: usize,
    pub blocks: usize,
    /// Tokens per block.
    pub block_size: usize,
    pub kv: KvKind,
    /// Longest sequence, in tokens.
    pub longest: usize,
    pub kv_heads: usize,
    pub multiprocessors: usize,
    /// Whether decoding steps may be recorded.
    pub record: bool,
    /// Keep all weights, and so all inputs of products, in f32: to compare with references.
    pub exact: bool,
}

impl CardPlan {
    /// For steps of at most `tokens` tokens in `rows` sequences.
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
            penalties: rows * PENALTIES_PER_ROW,
            blocks,
            block_size,
            kv,
            longest: config.max_len.min(blocks * block_size),
            kv_heads: config.kv_heads,
            multiprocessors,
            record: true,
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

    /// Bytes of one KV block over all layers.
    pub fn block_bytes(&self, config: &ModelConfig) -> u64 {
        let one = KvShape { blocks: 1, ..self.kv_shape(config) };
        (config.layers * one.layer_bytes(self.kv)) as u64
    }

    /// Widths that decoding steps are recorded at.
    const BUCKETS: [usize; 7] = [1, 2, 4, 8, 16, 32, 64];

    /// The width at which so many rows are recorded; `None` for more than are.
    pub(super) fn bucket(&self, rows: usize) -> Option<usize> {
        let fits = |bucket: &&usize| **bucket >= rows && **bucket <= self.rows;
        Self::BUCKETS.iter().find(fits).copied()
    }

    /// Shares that the cache is cut into by decoding so many rows.
    pub(super) fn splits(&self, rows: usize) -> usize {
        plan_splits(rows, self.kv_heads, self.longest, self.multiprocessors)
    }
}
