//! Every buffer that a step needs, apart from weights and KV cache, sized for the largest step.
//!
//! Buffers are reused: `wide` holds the projections of a layer's first half, then those of its second; `acts` holds the
//! inputs of the next matrix product. But a launch may read the inputs of one product while it writes those of the
//! next. So the inputs of the feed-forward part's last product have their own buffer, `gated`, and so do the normed
//! rows of small steps, `unscaled`. The code that uses a buffer says what it contains.

use super::super::config::ModelConfig;
use super::plan::CardPlan;
use crate::device::ModelPool;
use serin_kernels::cuda::attention::partials_len;
use serin_kernels::cuda::logprobs::parts_len;
use serin_kernels::cuda::norm::UnscaledBuffer;
use serin_kernels::cuda::sample::scratch_len;
use serin_kernels::cuda::{ActBuffer, ActKind, Buffer, CardError, Stream};

pub(super) struct Room {
    /// The residual stream, `[tokens][hidden]`.
    pub x: Buffer<f32>,
    /// The next addition to the residual stream, `[tokens][hidden]`.
    pub branch: Buffer<f32>,
    /// Queries, keys and values; then gate and up.
    pub wide: Buffer<f32>,
    /// Inputs of the next matrix product.
    pub acts: ActBuffer,
    /// Normed rows without their norm's scale.
    pub unscaled: UnscaledBuffer,
    /// Inputs of the feed-forward part's last product.
    pub gated: ActBuffer,
    /// Partial results of attention over a split cache.
    pub partials: Buffer<f32>,
    /// `[head_rows][vocab]`.
    pub logits: Buffer<f32>,
    /// Scratch memory for sampling.
    pub draw: Buffer<u64>,
    pub ids: Buffer<u32>,
    /// What log-probabilities need between the launches before and after sampling: parts of rows.
    pub logprob_parts: Buffer<u64>,
    /// Likewise: the logits of tokens that sampling edits, before that.
    pub kept: Buffer<f32>,
}

impl Room {
    /// Takes the memory for the largest step of `plan`, with inputs of products in any of `kinds`. Fails if the pool's
    /// memory is used up or the device fails.
    pub fn new(
        config: &ModelConfig,
        plan: &CardPlan,
        kinds: &[ActKind],
        pool: &ModelPool,
    ) -> Result<Room, CardError> {
        let (card, of) = (pool.card(), pool.pool());
        let sizes = Sizes::of(config, plan);
        Ok(Room {
            x: Buffer::on(card, of, sizes.hidden, Stream::Load)?,
            branch: Buffer::on(card, of, sizes.hidden, Stream::Load)?,
            wide: Buffer::on(card, of, sizes.wide, Stream::Load)?,
            acts: ActBuffer::new(card, of, sizes.acts, kinds, Stream::Load)?,
            unscaled: UnscaledBuffer::new(card, of, config.hidden, kinds, Stream::Load)?,
            gated: ActBuffer::new(card, of, sizes.gated, kinds, Stream::Load)?,
            partials: Buffer::on(card, of, sizes.partials, Stream::Load)?,
            logits: Buffer::on(card, of, sizes.logits, Stream::Load)?,
            draw: Buffer::on(card, of, sizes.draw, Stream::Load)?,
            ids: Buffer::on(card, of, plan.head_rows, Stream::Load)?,
            logprob_parts: Buffer::on(card, of, sizes.logprob_parts, Stream::Load)?,
            kept: Buffer::on(card, of, plan.edits, Stream::Load)?,
        })
    }
}

/// Number of values in each buffer.
pub(super) struct Sizes {
    hidden: usize,
    wide: usize,
    acts: usize,
    /// Numbers of `unscaled`, and sums of their squares.
    unscaled: [usize; 2],
    gated: usize,
    partials: usize,
    logits: usize,
    draw: usize,
    logprob_parts: usize,
}

impl Sizes {
    /// The sizes for the largest step of `plan`.
    pub fn of(config: &ModelConfig, plan: &CardPlan) -> Sizes {
        let (queries, kv) = (config.heads * config.head_dim, config.kv_heads * config.head_dim);
        let widest = config.hidden.max(queries);
        let partials = |rows| partials_len(rows, config.heads, plan.splits(rows), config.head_dim);
        Sizes {
            hidden: plan.tokens * config.hidden,
            wide: plan.tokens * (queries + 2 * kv).max(2 * config.intermediate),
            acts: plan.tokens.max(plan.head_rows) * widest,
            unscaled: UnscaledBuffer::sizes(config.hidden),
            gated: plan.tokens * config.intermediate,
            partials: (1..=plan.rows).map(partials).max().unwrap_or(0),
            logits: plan.head_rows * config.vocab,
            draw: scratch_len(plan.head_rows, config.vocab),
            logprob_parts: parts_len(plan.head_rows),
        }
    }

    /// Bytes of all buffers, an upper bound: inputs of matrix products in their widest format.
    pub fn bytes(&self, plan: &CardPlan) -> u64 {
        let [unscaled, squares] = self.unscaled;
        let floats = 2 * self.hidden + self.wide + self.partials + self.logits + squares;
        let rest = (plan.head_rows + plan.edits) * 4 + (self.draw + self.logprob_parts) * 8;
        // 8-bit inputs have a quarter of their size in scales; floats have four bytes.
        let inputs = self.acts + self.gated + unscaled;
        (4 * (floats + inputs) + inputs / 4 + rest) as u64
    }
}
