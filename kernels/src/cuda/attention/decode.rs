//! Attention of rows with one query token each (decoding). The cached tokens of a row are cut into shares, one thread
//! block each; the last block to finish merges the results. If [`prepares`] says so, the kernels take queries, keys and
//! values directly from their projection.

use super::{AttentionSpec, Names, cache_args, check, exact, kernel_for, out_args, tile_bytes};
use crate::cuda::acts::ActsMut;
use crate::cuda::buffer::{View, ViewMut};
use crate::cuda::card::{Arg, COUNTS, Card, CardError, Grid};
use crate::cuda::kv::{KvKind, KvShape, KvView, KvViewMut, Rows};
use crate::cuda::rope::{self, check_heads};
use crate::cuda::rows::require;

const KERNELS: Names = [
    [
        "attention_decode_f16_64",
        "attention_decode_f16_96",
        "attention_decode_f16_128",
        "attention_decode_f16_192",
        "attention_decode_f16_256",
    ],
    [
        "attention_decode_i8_64",
        "attention_decode_i8_96",
        "attention_decode_i8_128",
        "attention_decode_i8_192",
        "attention_decode_i8_256",
    ],
    [
        "attention_decode_e4m3_64",
        "attention_decode_e4m3_96",
        "attention_decode_e4m3_128",
        "attention_decode_e4m3_192",
        "attention_decode_e4m3_256",
    ],
];
const THREADS: u32 = 128;
/// Warps of a block, and query heads that it takes.
const WARPS: usize = 4;
const HEADS: usize = 8;
/// Blocks that a multiprocessor should have: two are resident with heads of up to 128.
const BLOCKS_EACH: usize = 2;
/// Tokens below which a share is not worth its start.
const LEAST_SHARE: usize = 128;
/// Most shares of a row (`attention_decode::kMostSplits`).
const MOST_SPLITS: usize = 128;

/// Into how many shares to cut each row, for `rows` rows of at most `longest_context` tokens.
///
/// As many as one wave of blocks has room for (a second, short wave would leave most of the card idle), and no
/// more than give each share work.
pub fn plan_splits(
    rows: usize,
    kv_heads: usize,
    longest_context: usize,
    multiprocessors: usize,
) -> usize {
    let blocks = rows.max(1).saturating_mul(kv_heads.max(1));
    let room = BLOCKS_EACH * multiprocessors / blocks;
    room.min(longest_context.div_ceil(LEAST_SHARE)).clamp(1, MOST_SPLITS)
}

/// Whether [`attend_decode`] prepares the heads of a step's tokens itself, so that [`rope::prepare`] is not launched.
/// It does if all of the step's `rows` are among those that decode, a tensor-core kernel takes the cache, and one block
/// has all query heads of a key head: that block alone then writes the new key and value, and no other one reads them.
pub fn prepares(
    heads: usize,
    shape: KvShape,
    kind: KvKind,
    (rows, decodes): (usize, usize),
) -> bool {
    let one_block = heads <= HEADS * shape.kv_heads;
    rows == decodes && one_block && kernel_for(&KERNELS, shape, kind).is_some()
}

/// Numbers of scratch that [`attend_decode`] takes: largest score, sum and undivided outputs of every share.
/// None where there is one share.
pub fn partials_len(rows: usize, heads: usize, splits: usize, head_dim: usize) -> usize {
    if splits <= 1 { 0 } else { rows * heads * splits * (head_dim + 2) }
}

/// Attention of rows with exactly one query token each, written to `out`, `[tokens][heads * head_dim]`, at the
/// rows' first tokens. Rows of padding (no context) give zeros at their first token and read nothing.
///
/// `qkv`: `[tokens][(heads + 2 * kv_heads) * head_dim]`, queries first. `raw`: what is still to be done to it, where
/// [`prepares`] allows that; the keys and values of the rows' own tokens are then written to the cache, at the last
/// places of the rows' contexts, of which no other row of the step has any. With `None` queries are ready, and keys and
/// values are in the cache already. `splits`: see [`plan_splits`]; any number is right, and no more shares are made than
/// the kernels can put together. `partials`: see [`partials_len`]. The rows' first tokens are below `rows.count`, and
/// the tables name blocks of the cache. Fails if lengths do not fit together or the launch fails.
#[allow(clippy::too_many_arguments, reason = "parts of a step belong to different owners")]
pub fn attend_decode(
    card: &dyn Card,
    spec: &AttentionSpec,
    qkv: View<'_, f32>,
    raw: Option<&rope::Heads<'_>>,
    kv: KvViewMut<'_>,
    rows: Rows<'_>,
    splits: usize,
    partials: ViewMut<'_, f32>,
    out: ActsMut<'_>,
) -> Result<(), CardError> {
    let kv = kv.as_view();
    let sizes = check(spec, qkv, &kv, &rows, rows.count, &out)?;
    if let Some(raw) = raw {
        check_raw(spec, raw, &kv, rows.count)?;
    }
    let dim = kv.shape.head_dim;
    if splits == 0 || splits > i32::MAX as usize {
        return Err(CardError::Shape(format!("{splits} shares")));
    }
    if partials.len() < partials_len(rows.count, spec.heads, splits, dim) {
        let what = format!("{} partial sums for {splits} shares", partials.len());
        return Err(CardError::Shape(what));
    }
    if !partials.address().is_multiple_of(16) {
        return Err(CardError::Shape("partial sums do not start on 16 bytes".into()));
    }
    if rows.count == 0 {
        return Ok(());
    }
    let Some(kernel) = kernel_for(&KERNELS, kv.shape, kv.kind) else {
        return exact::launch(card, spec, qkv, &kv, &rows, &out, (sizes, 1, true));
    };
    let parts = (spec.heads / kv.shape.kv_heads).div_ceil(HEADS);
    let groups = kv.shape.kv_heads * parts;
    let splits = if rows.count * groups <= COUNTS { splits.min(MOST_SPLITS) } else { 1 };
    let (scale, bend) = spec.folded();
    let head = [qkv.arg(), Arg::I32(spec.heads as i32)];
    let rest = raw.copied().unwrap_or(rope::Heads::ready(spec.heads)).args();
    let fresh = [Arg::I32(i32::from(raw.is_some()))];
    let rules = [Arg::F32(scale), Arg::F32(bend), spec.window_arg()];
    let places = [partials.arg(), Arg::Address(card.workspace().counts)];
    let cache = cache_args(&kv, &rows);
    let args = [&head[..], &rest, &fresh, &cache, &rules, &places, &out_args(&out)].concat();
    let blocks = [splits as u32, groups as u32, rows.count as u32];
    let grid = Grid::of(blocks, THREADS).shared(shared_bytes(&kv));
    // SAFETY: lengths were checked; the caller answers for rows and tables.
    unsafe { card.launch(kernel, grid, &args) }
}

/// Checks what a step of so many rows leaves to attention.
fn check_raw(
    spec: &AttentionSpec,
    raw: &rope::Heads<'_>,
    kv: &KvView<'_>,
    rows: usize,
) -> Result<(), CardError> {
    let KvShape { kv_heads, head_dim, .. } = kv.shape;
    let taken = prepares(spec.heads, kv.shape, kv.kind, (rows, rows)) && raw.count == spec.heads;
    require(taken, || format!("{} raw heads for {spec:?}, {:?}", raw.count, kv.shape))?;
    let aligned = |arg: Arg| matches!(arg, Arg::Address(at) if at.is_multiple_of(16));
    require(raw.weights().into_iter().all(aligned), || {
        "a bias or the norm of heads does not start on 16 bytes".into()
    })?;
    check_heads(raw, spec.heads + 2 * kv_heads, head_dim, rows)
}

/// `attention_decode::Plan::kShared`.
fn shared_bytes(kv: &KvView<'_>) -> usize {
    let keys = if kv.shape.head_dim <= 64 { 32 } else { 16 };
    let (step, tile) = tile_bytes(kv, keys);
    16 * step + WARPS * tile + 2 * 4 * WARPS * HEADS
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_lone_row_fills_the_card() {
        assert_eq!(plan_splits(1, 8, 100_000, 128), 32);
        assert_eq!(plan_splits(1, 2, 100_000, 128), 128);
        assert_eq!(plan_splits(1, 1, 1_000_000, 200), 128);
    }

    #[test]
    fn many_rows_and_short_ones_are_not_cut() {
        assert_eq!(plan_splits(64, 8, 100_000, 128), 1);
        assert_eq!(plan_splits(1, 8, 100, 128), 1);
        assert_eq!(plan_splits(0, 0, 0, 0), 1);
    }

    #[test]
    fn no_rows_are_planned_as_one() {
        assert_eq!(plan_splits(0, 2, 14_849, 1), plan_splits(1, 2, 14_849, 1));
        assert_eq!(plan_splits(0, 8, 100_000, 128), 32);
    }

    #[test]
    fn heads_are_prepared_where_one_block_has_them_all() {
        let shape = KvShape { blocks: 1, block_size: 16, kv_heads: 8, head_dim: 128 };
        let kinds = KvKind::ALL.map(|kind| prepares(32, shape, kind, (3, 3)));
        assert_eq!(kinds, [false, true, true, true]);
        let groups = [8, 64, 72].map(|heads| prepares(heads, shape, KvKind::F16, (1, 1)));
        assert_eq!(groups, [true, true, false]);
        let dims = [64, 80, 96, 128, 192, 256, 512];
        let of = |head_dim| prepares(8, KvShape { head_dim, ..shape }, KvKind::I8, (1, 1));
        assert_eq!(dims.map(of), [true, false, true, true, true, true, false]);
        let steps = [(0, 0), (4, 3), (1, 0)].map(|step| prepares(8, shape, KvKind::F16, step));
        assert_eq!(steps, [true, false, false]);
    }

    #[test]
    fn one_share_takes_no_scratch() {
        assert_eq!(partials_len(7, 8, 1, 64), 0);
        assert_eq!(partials_len(7, 8, 3, 64), 7 * 8 * 3 * 66);
    }

    proptest! {
        #[test]
        fn shares_fit_one_wave_and_have_work(
            rows in 0usize..5000, heads in 1usize..64, context in 0usize..1 << 20, sms in 0usize..400
        ) {
            let splits = plan_splits(rows, heads, context, sms);
            prop_assert!((1..=MOST_SPLITS).contains(&splits));
            prop_assert!(splits == 1 || splits * rows.max(1) * heads <= BLOCKS_EACH * sms);
            prop_assert!(splits == 1 || context > (splits - 1) * LEAST_SHARE);
        }

        #[test]
        fn longer_contexts_are_cut_no_less(
            rows in 1usize..64, heads in 1usize..64, context in 0usize..1 << 20, sms in 1usize..400
        ) {
            let now = plan_splits(rows, heads, context, sms);
            prop_assert!(now <= plan_splits(rows, heads, context + 1000, sms));
        }
    }
}
