//! Attention in f32 throughout, for any cache and any even head.

use super::{AttentionSpec, Sizes, cache_args, check, out_args};
use crate::cuda::acts::{ActsMut, Q8_BLOCK};
use crate::cuda::buffer::View;
use crate::cuda::card::{Arg, Card, CardError, Grid};
use crate::cuda::kv::{KvKind, KvView, Rows};

const WARPS: usize = 4;

/// Attention as [`super::attend_prefill`] computes it, in f32 throughout; `longest_len` and `tokens` in tokens, as
/// there. Fails if lengths do not fit together or the launch fails.
#[allow(clippy::too_many_arguments, reason = "parts of a step belong to different owners")]
pub fn attend_exact(
    card: &dyn Card,
    spec: &AttentionSpec,
    qkv: View<'_, f32>,
    kv: KvView<'_>,
    rows: Rows<'_>,
    longest_len: usize,
    tokens: usize,
    out: ActsMut<'_>,
) -> Result<(), CardError> {
    let sizes = check(spec, qkv, &kv, &rows, tokens, &out)?;
    if longest_len > tokens || longest_len > i32::MAX as usize {
        return Err(CardError::Shape(format!("a row of {longest_len} of {tokens} tokens")));
    }
    if rows.count == 0 || longest_len == 0 {
        return Ok(());
    }
    launch(card, spec, qkv, &kv, &rows, &out, (sizes, longest_len, false))
}

/// Launches what was checked. `longest_len`: most query tokens of a row; `padded`: whether rows without tokens
/// give zeros at their first token.
pub(super) fn launch(
    card: &dyn Card,
    spec: &AttentionSpec,
    qkv: View<'_, f32>,
    kv: &KvView<'_>,
    rows: &Rows<'_>,
    out: &ActsMut<'_>,
    (sizes, longest_len, padded): (Sizes, usize, bool),
) -> Result<(), CardError> {
    let kernel = match kv.kind {
        KvKind::F32 => "attention_exact_f32",
        KvKind::F16 => "attention_exact_f16",
        KvKind::I8 => "attention_exact_i8",
        KvKind::E4M3 => "attention_exact_e4m3",
    };
    let dim = kv.shape.head_dim;
    let unit = unit(dim).min(spec.heads);
    let shape = [sizes.stride, spec.heads, dim, unit].map(|number| Arg::I32(number as i32));
    let rules = [Arg::F32(spec.scale), Arg::F32(spec.soft_cap.unwrap_or(0.0)), spec.window_arg()];
    let padded = [Arg::I32(i32::from(padded))];
    let args =
        [&[qkv.arg()][..], &shape, &cache_args(kv, rows), &rules, &padded, &out_args(out)].concat();
    let blocks = [longest_len as u32, spec.heads.div_ceil(unit) as u32, rows.count as u32];
    // Query, outputs, sums of each warp; its largest score and sum, and a weight and a slot for each lane.
    let numbers = dim + unit * dim + WARPS * (dim + 2 + 2 * 32);
    let grid = Grid::of(blocks, 32 * WARPS as u32).shared(4 * numbers);
    // SAFETY: lengths were checked; the caller answers for rows and tables.
    unsafe { card.launch(kernel, grid, &args) }
}

/// Heads of so many numbers that fill whole blocks of 32.
fn unit(dim: usize) -> usize {
    let twos = 1 << dim.trailing_zeros().min(Q8_BLOCK.trailing_zeros());
    Q8_BLOCK / twos
}

#[cfg(test)]
mod tests {
    #[test]
    fn units_of_heads_fill_blocks() {
        let units = [2, 8, 10, 16, 64, 80, 96, 256].map(super::unit);
        assert_eq!(units, [16, 4, 16, 2, 1, 2, 1, 1]);
    }
}
