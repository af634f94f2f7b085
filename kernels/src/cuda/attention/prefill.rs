//! Attention of rows with any number of query tokens: chunks of prompts (prefill).

use super::{AttentionSpec, Names, cache_args, check, exact, kernel_for, out_args, tile_bytes};
use crate::cuda::acts::ActsMut;
use crate::cuda::buffer::View;
use crate::cuda::card::{Arg, Card, CardError, Grid};
use crate::cuda::kv::{KvView, Rows};

const KERNELS: Names = [
    [
        "attention_prefill_f16_64",
        "attention_prefill_f16_96",
        "attention_prefill_f16_128",
        "attention_prefill_f16_192",
        "attention_prefill_f16_256",
    ],
    [
        "attention_prefill_i8_64",
        "attention_prefill_i8_96",
        "attention_prefill_i8_128",
        "attention_prefill_i8_192",
        "attention_prefill_i8_256",
    ],
    [
        "attention_prefill_e4m3_64",
        "attention_prefill_e4m3_96",
        "attention_prefill_e4m3_128",
        "attention_prefill_e4m3_192",
        "attention_prefill_e4m3_256",
    ],
];
const THREADS: u32 = 128;
/// Query tokens times heads of a group in one block.
const TILE: usize = 64;

/// Attention of a step of `tokens` tokens, written to `out`, `[tokens][heads * head_dim]`.
///
/// A row's queries are the last of its context. `longest_len`: at least the most query tokens of a row; what is
/// beyond it stays unanswered. Rows without tokens write nothing. Else as [`super::attend_decode`]. Fails if lengths do
/// not fit together or the launch fails.
#[allow(clippy::too_many_arguments, reason = "parts of a step belong to different owners")]
pub fn attend_prefill(
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
    if longest_len > tokens || longest_len.saturating_mul(spec.heads) > i32::MAX as usize {
        return Err(CardError::Shape(format!("a row of {longest_len} of {tokens} tokens")));
    }
    if rows.count == 0 || longest_len == 0 {
        return Ok(());
    }
    let Some(kernel) = kernel_for(&KERNELS, kv.shape, kv.kind) else {
        return exact::launch(card, spec, qkv, &kv, &rows, &out, (sizes, longest_len, false));
    };
    let (scale, bend) = spec.folded();
    let head = [qkv.arg(), Arg::I32(sizes.stride as i32), Arg::I32(spec.heads as i32)];
    let rules = [Arg::F32(scale), Arg::F32(bend), spec.window_arg()];
    let args = [&head[..], &cache_args(&kv, &rows), &rules, &out_args(&out)].concat();
    let tiles = (longest_len * (spec.heads / kv.shape.kv_heads)).div_ceil(TILE);
    let blocks = [tiles as u32, kv.shape.kv_heads as u32, rows.count as u32];
    let grid = Grid::of(blocks, THREADS).shared(shared_bytes(&kv));
    // SAFETY: lengths were checked; the caller answers for rows and tables.
    unsafe { card.launch(kernel, grid, &args) }
}

/// `attention_prefill::Plan::kShared`.
fn shared_bytes(kv: &KvView<'_>) -> usize {
    let dim = kv.shape.head_dim;
    let (step, tile) = tile_bytes(kv, if dim <= 128 { 64 } else { 32 });
    let kept = if dim <= 192 { 0 } else { TILE * step };
    let piece = if dim == 192 { 64 } else { dim };
    (kept + tile).max(4 * TILE * (piece + 8))
}
