//! Queries, keys and values between their projection and attention. The angles are computed once per step (possibly by
//! the embedding, [`crate::cuda::embed()`]). Then one launch per layer applies bias, head norms and rotation, and
//! writes the cache (`rope.cu`). If all heads of a token are normed as one row, a separate launch does that first.
//! Attention of decoding steps may do all of this itself ([`prepares`](super::attention::prepares)).
//!
//! Frequencies are computed by the caller. The lists of the step say which sequences use the long-context frequencies,
//! and which cache slot each token has.

use super::buffer::{View, ViewMut};
use super::card::{Arg, Card, CardError, Grid};
use super::kv::{KvKind, KvShape, KvViewMut};
use super::rows::{fits, require, whole};
use crate::attention::QueryScale;

#[cfg(any(test, feature = "known-answers"))]
pub(crate) mod answers;

/// Frequencies of one kind of layer.
#[derive(Debug, Clone, Copy)]
pub struct Frequencies<'a> {
    /// Radians per position; `half` of them.
    pub inv_freq: View<'a, f32>,
    /// What tokens of long sequences use instead; as many.
    pub long_inv_freq: Option<View<'a, f32>>,
    /// Multiplies cosines and sines.
    pub factor: f32,
}

/// Cosines and sines of a step's tokens, `[tokens][half]` each. Value `i` of a head turns with value
/// `i + half`; those from `2 * half` on are not turned.
#[derive(Debug, Clone, Copy)]
pub struct Angles<'a> {
    /// Angles per token: half of the values of a head that are turned.
    pub half: usize,
    /// Cosines, already multiplied by the frequencies' factor.
    pub cos: View<'a, f32>,
    /// Sines, already multiplied by the frequencies' factor.
    pub sin: View<'a, f32>,
}

/// The angles of a step's tokens, to be computed: cosines and sines, `[tokens][half]`.
#[derive(Debug)]
pub struct Turns<'a> {
    /// Of the tokens.
    pub positions: View<'a, u32>,
    /// Not 0 for tokens that use the long frequencies, if there are any.
    pub longs: View<'a, u32>,
    /// Of all tokens; as many as there are angles of a token.
    pub frequencies: Frequencies<'a>,
    /// Where cosines go.
    pub cos: ViewMut<'a, f32>,
    /// Where sines go.
    pub sin: ViewMut<'a, f32>,
}

impl Turns<'_> {
    pub(super) fn tokens(&self) -> usize {
        self.positions.len()
    }

    /// Angles of a token.
    pub(super) fn half(&self) -> usize {
        self.frequencies.inv_freq.len()
    }

    /// Refuses lists whose lengths do not fit.
    pub(super) fn check(&self) -> Result<(), CardError> {
        let (tokens, half) = (self.tokens(), self.half());
        require(self.longs.len() >= tokens, || {
            format!("angles: {} marks of long sequences for {tokens} tokens", self.longs.len())
        })?;
        if let Some(long) = self.frequencies.long_inv_freq {
            require(long.len() == half, || {
                format!("angles: {} frequencies, and {} long ones", half, long.len())
            })?;
        }
        fits("angles: cosines", self.cos.len(), tokens, half)?;
        fits("angles: sines", self.sin.len(), tokens, half)
    }

    /// The kernels' arguments, in the order of `rope::Turns` (`rope.cuh`).
    pub(super) fn args(&self) -> [Arg; 8] {
        let Frequencies { inv_freq, long_inv_freq, factor } = self.frequencies;
        [
            self.positions.arg(),
            self.longs.arg(),
            inv_freq.arg(),
            long_inv_freq.map_or(Arg::Address(0), |long| long.arg()),
            Arg::I32(self.half() as i32),
            Arg::F32(factor),
            self.cos.arg(),
            self.sin.arg(),
        ]
    }
}

/// Weights, `[head_dim]` each, that every head of queries and of keys is RMS-normed with.
#[derive(Debug, Clone, Copy)]
pub struct HeadNorms<'a> {
    /// For heads of queries.
    pub query: View<'a, f32>,
    /// For heads of keys.
    pub key: View<'a, f32>,
    /// Added to the mean square, before the root.
    pub eps: f32,
}

/// The factor of queries by their position; see [`QueryScale`].
#[derive(Debug, Clone, Copy)]
pub struct Scaled<'a> {
    /// Of the step's tokens.
    pub positions: View<'a, u32>,
    /// How the factor follows from them; its period is not 0.
    pub by: QueryScale,
}

/// What a layer does to heads.
#[derive(Debug, Clone, Copy)]
pub struct Heads<'a> {
    /// Of queries; heads of keys and values, and their length, are the cache's.
    pub count: usize,
    /// `[(count + 2 * kv_heads) * head_dim]`.
    pub bias: Option<View<'a, f32>>,
    /// Applied before turning; `None` for models without head norms.
    pub norms: Option<HeadNorms<'a>>,
    /// The angles of the step's tokens, from [`angles()`].
    pub angles: Angles<'a>,
    /// Applied to queries after turning.
    pub scaled: Option<Scaled<'a>>,
}

impl Heads<'_> {
    /// For `count` heads of queries that are ready as they are.
    pub(super) fn ready(count: usize) -> Self {
        let angles = Angles { half: 0, cos: View::none(), sin: View::none() };
        Heads { count, bias: None, norms: None, angles, scaled: None }
    }

    /// The bias, and the norms of queries and of keys; null where there are none.
    pub(super) fn weights(&self) -> [Arg; 3] {
        let null = Arg::Address(0);
        let [query, key] = self.norms.map_or([null; 2], |n| [n.query.arg(), n.key.arg()]);
        [self.bias.map_or(null, |bias| bias.arg()), query, key]
    }

    /// The kernels' arguments, in the order of `rope::Rules` (`rope.cuh`).
    pub(super) fn args(&self) -> [Arg; 10] {
        let [bias, query, key] = self.weights();
        let Angles { half, cos, sin } = self.angles;
        [
            bias,
            query,
            key,
            Arg::F32(self.norms.map_or(0.0, |norms| norms.eps)),
            cos.arg(),
            sin.arg(),
            Arg::I32(half as i32),
            self.scaled.map_or(Arg::Address(0), |scaled| scaled.positions.arg()),
            Arg::F32(self.scaled.map_or(0.0, |scaled| scaled.by.beta)),
            Arg::U32(self.scaled.map_or(1, |scaled| scaled.by.period)),
        ]
    }
}

/// Longest head.
pub const LONGEST_HEAD: usize = 512;
/// The slot of a token that is padding.
pub const NO_SLOT: u32 = u32::MAX;

/// Warps, so heads, of a block (`rope.cu`).
const WARPS: usize = 4;

/// Computes the cosines and sines of the tokens' positions, `[tokens][half]` each. Fails if lengths do not fit together
/// or the launch fails.
pub fn angles(card: &dyn Card, turns: Turns<'_>) -> Result<(), CardError> {
    turns.check()?;
    let (tokens, total) = (turns.tokens(), turns.tokens() * turns.half());
    if total == 0 {
        return Ok(());
    }
    let blocks = total.div_ceil(128);
    require(blocks <= i32::MAX as usize, || format!("angles: {total} are too many"))?;
    let args = [&turns.args()[..], &[Arg::U64(tokens as u64)]].concat();
    // SAFETY: the arguments are the kernel's; the lengths were checked.
    unsafe { card.launch("rope_angles", Grid::line(blocks, 128), &args) }
}

/// Makes a step's heads ready for attention. `qkv`: `[tokens][(count + 2 * kv_heads) * head_dim]`; adds the
/// bias, norms and turns queries and keys. Queries are left in `qkv`, keys and values written to the cache
/// only, at the tokens' slots (block * block_size + offset). A token whose slot is [`NO_SLOT`], or none of the
/// cache's, is left alone. Fails if lengths do not fit together or the launch fails.
pub fn prepare(
    card: &dyn Card,
    heads: &Heads,
    qkv: ViewMut<f32>,
    slots: View<u32>,
    kv: KvViewMut,
) -> Result<(), CardError> {
    let KvShape { blocks, block_size, kv_heads, head_dim } = kv.shape;
    let (tokens, all) = (slots.len(), heads.count + 2 * kv_heads);
    check_heads(heads, all, head_dim, tokens)?;
    check_cache(&kv)?;
    fits("prepare: qkv", qkv.len(), tokens, all * head_dim)?;
    if tokens == 0 || all == 0 {
        return Ok(());
    }
    let [bias, query, key] = heads.weights();
    let places = [
        slots.arg(),
        Arg::U32((blocks * block_size) as u32),
        Arg::U32(block_size as u32),
        Arg::I32(heads.count as i32),
        Arg::I32(kv_heads as i32),
        Arg::I32(head_dim as i32),
        whole(head_dim, &[qkv.arg(), bias, query, key, kv.keys.arg(), kv.values.arg()]),
        kv.keys.arg(),
        kv.values.arg(),
        kv.scales.arg(),
    ];
    let args = [&[qkv.arg()][..], &heads.args(), &places].concat();
    let kernel = match kv.kind {
        KvKind::F32 => "rope_prepare_f32",
        KvKind::F16 => "rope_prepare_f16",
        KvKind::I8 => "rope_prepare_i8",
        KvKind::E4M3 => "rope_prepare_e4m3",
    };
    // SAFETY: the arguments are the kernel's; what they hold was checked, and the kernel looks at the slots.
    unsafe { card.launch(kernel, grid(tokens, all, head_dim), &args) }
}

/// RMS-norms, in place, all queries of a token as one row, and all its keys as another. `qkv`:
/// `[tokens][stride]`, queries first, then keys; the norms are as long as these are together. Fails if lengths do not
/// fit together or the launch fails.
pub fn norm_tokens(
    card: &dyn Card,
    norms: &HeadNorms,
    qkv: ViewMut<f32>,
    tokens: usize,
    stride: usize,
) -> Result<(), CardError> {
    let (queries, keys) = (norms.query.len(), norms.key.len());
    fits("norm_tokens: qkv", qkv.len(), tokens, stride)?;
    require(queries + keys <= stride && tokens <= i32::MAX as usize, || {
        format!("norm_tokens: {queries} and {keys} weights for {tokens} rows of {stride}")
    })?;
    if tokens == 0 {
        return Ok(());
    }
    let (row, query, key) = (qkv.arg(), norms.query.arg(), norms.key.arg());
    let fours = [queries, keys, stride].iter().all(|n| n.is_multiple_of(4));
    let args = [
        row,
        query,
        key,
        Arg::F32(norms.eps),
        Arg::U64(stride as u64),
        Arg::I32(queries as i32),
        Arg::I32(keys as i32),
        whole(if fours { 4 } else { 1 }, &[row, query, key]),
    ];
    let threads = queries.max(keys).div_ceil(4).next_multiple_of(32).clamp(32, 256);
    let grid = Grid::of([tokens as u32, 2, 1], threads as u32).shared(32 * size_of::<f32>());
    // SAFETY: the arguments are the kernel's; the lengths were checked.
    unsafe { card.launch("rope_norm_tokens", grid, &args) }
}

/// A warp per head, its head in shared memory.
fn grid(tokens: usize, all: usize, head_dim: usize) -> Grid {
    let warps = all.min(WARPS);
    let shared = warps * head_dim.next_multiple_of(4) * size_of::<f32>();
    Grid::of([tokens as u32, all.div_ceil(WARPS) as u32, 1], warps as u32 * 32).shared(shared)
}

/// Checks what is done to `all` heads of each of so many tokens.
pub(super) fn check_heads(
    heads: &Heads,
    all: usize,
    head_dim: usize,
    tokens: usize,
) -> Result<(), CardError> {
    let Angles { half, cos, sin } = heads.angles;
    require(head_dim <= LONGEST_HEAD && head_dim.is_multiple_of(2), || {
        format!("prepare: heads of {head_dim}; even ones of at most {LONGEST_HEAD} can be turned")
    })?;
    require(all <= 65_535, || format!("prepare: {all} heads are too many"))?;
    require(2 * half <= head_dim, || format!("prepare: {half} angles for heads of {head_dim}"))?;
    fits("prepare: cosines", cos.len(), tokens, half)?;
    fits("prepare: sines", sin.len(), tokens, half)?;
    if let Some(bias) = heads.bias {
        require(bias.len() == all * head_dim, || {
            format!("prepare: {} biases for {all} heads of {head_dim}", bias.len())
        })?;
    }
    if let Some(Scaled { positions, by }) = heads.scaled {
        require(positions.len() >= tokens && by.period > 0, || {
            format!("prepare: {} positions for {tokens} tokens, {by:?}", positions.len())
        })?;
    }
    if let Some(HeadNorms { query, key, .. }) = heads.norms {
        require(query.len() == head_dim && key.len() == head_dim, || {
            format!("prepare: {} and {} weights for heads of {head_dim}", query.len(), key.len())
        })?;
    }
    Ok(())
}

fn check_cache(kv: &KvViewMut) -> Result<(), CardError> {
    let (shape, bytes) = (kv.shape, kv.kind.bytes());
    let slots = shape.blocks.checked_mul(shape.block_size);
    require(slots.is_some_and(|slots| slots < NO_SLOT as usize), || {
        format!("prepare: a cache of {} blocks of {}", shape.blocks, shape.block_size)
    })?;
    let needed = shape.heads() * shape.head_dim * bytes;
    let scales = 2 * kv.kind.scales(shape.heads());
    let fits = kv.keys.len() >= needed && kv.values.len() >= needed && kv.scales.len() == scales;
    require(fits, || {
        let (keys, values, scales) = (kv.keys.len(), kv.values.len(), kv.scales.len());
        format!("prepare: {keys} and {values} bytes and {scales} scales are no cache of {shape:?}")
    })
}

#[cfg(all(test, feature = "emulator"))]
mod tests;
