//! Paged attention of one layer on a GPU: softmax attention of a step's query tokens over the cache.
//!
//! Two launches for two shapes of work: `decode` (one query token a row: cut along the cached tokens, limited by
//! memory) and `prefill` (chunks of prompts: limited by tensor cores). Caches and heads that neither supports go to
//! `exact`, in f32 throughout. All are causal: a token at position p sees `max(0, p + 1 - window) ..= p`. Its own key
//! and value are already in the cache, or `decode` puts them there ([`prepares`] says when). Query head h uses KV head
//! `h / (heads / kv_heads)`.
//!
//! This file has the parameters of a layer's attention, and the checks that all three share. It does not know about
//! models or sequences. It cannot check data on the GPU (rows, block tables); its documentation says where that
//! applies.

#[cfg(any(test, feature = "known-answers"))]
pub(crate) mod answers;
mod decode;
mod exact;
mod prefill;
#[cfg(any(test, feature = "known-answers"))]
pub(crate) mod raw_answers;

pub use decode::{attend_decode, partials_len, plan_splits, prepares};
pub use exact::attend_exact;
pub use prefill::attend_prefill;

use crate::cuda::acts::{ActKind, ActsMut};
use crate::cuda::buffer::View;
use crate::cuda::card::{Arg, CardError};
use crate::cuda::kv::{KvKind, KvShape, KvView, Rows};
use std::f32::consts::LOG2_E;

/// One layer's attention.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct AttentionSpec {
    /// Query heads; the cache's shape says how many key heads they share and how wide a head is.
    pub heads: usize,
    /// Multiplies each score.
    pub scale: f32,
    /// Positions that a token sees, its own included; `None` sees all before it.
    pub window: Option<usize>,
    /// Scores are bent into `-cap..cap` before the softmax.
    pub soft_cap: Option<f32>,
}

/// Widest head.
pub const WIDEST_HEAD: usize = 512;
/// Widths of heads that the tensor-core kernels take. Not 512: a lane would hold 256 sums of outputs, and a thread has
/// 255 registers for everything. The sums would have to be cut over several warps.
const DIMS: [usize; 5] = [64, 96, 128, 192, 256];
/// The tensor-core kernels of a way: for caches in f16, i8 and E4M3, with heads of [`DIMS`] each.
type Names = [[&'static str; DIMS.len()]; 3];
/// Most blocks along the second and third side of a grid.
const MOST_ROWS: usize = 65_535;

impl AttentionSpec {
    /// What queries are multiplied with where scores are in powers of two, and the cap in those (0 for none).
    fn folded(&self) -> (f32, f32) {
        match self.soft_cap {
            None => (self.scale * LOG2_E, 0.0),
            Some(cap) => (2.0 * LOG2_E * self.scale / cap, cap * LOG2_E),
        }
    }

    fn window_arg(&self) -> Arg {
        Arg::I32(self.window.map_or(i32::MAX, |window| i32::try_from(window).unwrap_or(i32::MAX)))
    }
}

/// What was checked: the length of a token's fused projections.
#[derive(Debug, Clone, Copy)]
struct Sizes {
    stride: usize,
}

/// Checks everything that can be seen from here, for `tokens` tokens in the step.
fn check(
    spec: &AttentionSpec,
    qkv: View<'_, f32>,
    kv: &KvView<'_>,
    rows: &Rows<'_>,
    tokens: usize,
    out: &ActsMut<'_>,
) -> Result<Sizes, CardError> {
    let shape = kv.shape;
    let refuse = |what: String| Err(CardError::Shape(what));
    if shape.kv_heads == 0 || spec.heads == 0 || !spec.heads.is_multiple_of(shape.kv_heads) {
        return refuse(format!("{} heads do not share {}", spec.heads, shape.kv_heads));
    }
    if shape.head_dim == 0 || shape.head_dim > WIDEST_HEAD || !shape.head_dim.is_multiple_of(2) {
        return refuse(format!("heads of {} are not even or wider than 512", shape.head_dim));
    }
    if shape.block_size == 0 || shape.heads() > u32::MAX as usize {
        return refuse(format!("a cache of {} blocks of {}", shape.blocks, shape.block_size));
    }
    if spec.window == Some(0) || spec.soft_cap.is_some_and(|cap| cap.is_nan() || cap <= 0.0) {
        return refuse("a window or cap of nothing".into());
    }
    check_cache(kv)?;
    let width = spec.heads * shape.head_dim;
    let stride = width + 2 * shape.kv_heads * shape.head_dim;
    if qkv.len() < tokens * stride || !qkv.address().is_multiple_of(16) {
        return refuse(format!("{} projections for {tokens} tokens of {stride}", qkv.len()));
    }
    if rows.rows.len() < 4 * rows.count || rows.count > MOST_ROWS || spec.heads > MOST_ROWS {
        return refuse(format!("{} rows, {} heads", rows.count, spec.heads));
    }
    if !out.holds(tokens, width) {
        return refuse(format!("the output does not hold {tokens} rows of {width}"));
    }
    Ok(Sizes { stride })
}

fn check_cache(kv: &KvView<'_>) -> Result<(), CardError> {
    let bytes = kv.shape.heads() * kv.shape.head_dim * kv.kind.bytes();
    let scales = kv.kind.scales(kv.shape.heads());
    let holds = kv.keys.len() >= bytes
        && kv.values.len() >= bytes
        && kv.key_scales.len() >= scales
        && kv.value_scales.len() >= scales;
    if holds { Ok(()) } else { Err(CardError::Shape("the cache is smaller than its shape".into())) }
}

/// Arguments that say where keys and values are and which rows look at them.
fn cache_args(kv: &KvView<'_>, rows: &Rows<'_>) -> [Arg; 8] {
    [
        kv.keys.arg(),
        kv.values.arg(),
        kv.key_scales.arg(),
        kv.value_scales.arg(),
        Arg::I32(kv.shape.kv_heads as i32),
        Arg::I32(kv.shape.block_size as i32),
        rows.rows.arg(),
        rows.tables.arg(),
    ]
}

/// Where the output goes and in which form.
fn out_args(out: &ActsMut<'_>) -> [Arg; 3] {
    let [values, scales] = out.args();
    let kind = match out.kind() {
        ActKind::F32 => 0,
        ActKind::F16 => 1,
        ActKind::BF16 => 2,
        ActKind::Q8 => 3,
    };
    [values, scales, Arg::I32(kind)]
}

/// The tensor-core kernel among `names` for this cache, if there is one.
fn kernel_for(names: &Names, shape: KvShape, kind: KvKind) -> Option<&'static str> {
    let at = DIMS.iter().position(|dim| *dim == shape.head_dim)?;
    match kind {
        KvKind::F32 => None,
        KvKind::F16 => Some(names[0][at]),
        KvKind::I8 => Some(names[1][at]),
        KvKind::E4M3 => Some(names[2][at]),
    }
}

/// Bytes from one row of a tile to the next (`Tile::kStep`), and shared memory of a tile of keys and one of
/// values (`Tile::kShared`).
fn tile_bytes(kv: &KvView<'_>, keys: usize) -> (usize, usize) {
    let dim = kv.shape.head_dim;
    let step = 2 * dim + 16;
    let data = match kv.kind {
        KvKind::I8 | KvKind::E4M3 => keys * step + 2 * keys * dim,
        KvKind::F16 | KvKind::F32 => 2 * keys * step,
    };
    (step, data + 16 * keys)
}

#[cfg(all(test, feature = "emulator"))]
mod tests;
