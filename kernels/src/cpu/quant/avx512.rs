//! Tile kernels for AVX-512 with VNNI: 16 rows in 16 lanes, four columns a step.
//!
//! Every kernel multiplies one tile by one group of `W` input vectors, into `[W][16]` sums. Weights are unsigned bytes
//! and inputs are signed bytes broadcast from memory, so one instruction does 64 multiply-adds. The offset of the
//! weights is compensated by starting the integer sums at the negated sums of the input. There are no prefetch
//! instructions: the hardware follows a single stream by itself, and hints only compete with it (15 GB/s per core with
//! them, 27 without, on Zen 4). It does not know about threads or matrices.
//!
//! All functions here require AVX-512 F, BW and VNNI, and the safety contract of `scalar::tile`.

#![allow(clippy::needless_range_loop, reason = "kernels walk several arrays by one index")]

use super::input::Panel;
use super::shape::shape;
use super::tile::{Opened, layout};
use crate::quant::Kind;
use std::arch::x86_64::*;

#[inline]
#[target_feature(enable = "avx512f")]
unsafe fn load(at: *const u8) -> __m512i {
    // SAFETY: the caller passes 64 readable bytes.
    unsafe { _mm512_loadu_si512(at.cast()) }
}

/// Sixteen f16 values.
#[inline]
#[target_feature(enable = "avx512f")]
unsafe fn halves(at: *const u8) -> __m512 {
    // SAFETY: the caller passes 32 readable bytes.
    unsafe { _mm512_cvtph_ps(_mm256_loadu_si256(at.cast())) }
}

/// The word at `x`, in every lane.
#[inline]
#[target_feature(enable = "avx512f")]
unsafe fn word(x: *const i32) -> __m512i {
    // SAFETY: the caller passes a readable word.
    unsafe { _mm512_set1_epi32(x.read()) }
}

/// Adds the products of weight groups `j` and `j + 4` of 32 columns; `x` is group `j`'s first word.
#[inline]
#[target_feature(enable = "avx512f,avx512vnni")]
unsafe fn dot_pair<const W: usize>(
    sums: &mut [__m512i; W],
    low: __m512i,
    high: __m512i,
    x: *const i32,
) {
    for c in 0..W {
        // SAFETY: the panel has `W` words for each of the 8 groups.
        unsafe {
            sums[c] = _mm512_dpbusd_epi32(sums[c], low, word(x.add(c)));
            sums[c] = _mm512_dpbusd_epi32(sums[c], high, word(x.add(4 * W + c)));
        }
    }
}

/// The nibbles of 64 bytes: low ones, high ones.
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
fn nibbles(packed: __m512i) -> (__m512i, __m512i) {
    let mask = _mm512_set1_epi8(15);
    (_mm512_and_si512(packed, mask), _mm512_and_si512(_mm512_srli_epi16::<4>(packed), mask))
}

#[inline]
#[target_feature(enable = "avx512f")]
unsafe fn store<const W: usize>(total: &[__m512; W], out: *mut f32) {
    for (c, total) in total.iter().enumerate() {
        // SAFETY: `out` has room for `[W][16]`.
        unsafe { _mm512_storeu_ps(out.add(c * 16), *total) };
    }
}

/// Sixteen bf16 values.
#[inline]
#[target_feature(enable = "avx512f")]
unsafe fn wide(at: *const u8) -> __m512 {
    // SAFETY: the caller passes 32 readable bytes.
    let bits = unsafe { _mm512_cvtepu16_epi32(_mm256_loadu_si256(at.cast())) };
    _mm512_castsi512_ps(_mm512_slli_epi32::<16>(bits))
}

/// Weight groups `j` and `j + 4` of 32 columns, as unsigned bytes.
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
unsafe fn pair<const KIND: u8>(data: *const u8, j: usize) -> (__m512i, __m512i) {
    let shape = const { &shape(KIND) };
    // SAFETY: the caller passes a sub-block's bytes.
    unsafe {
        if shape.bits == 8 {
            return (load(data.add(j * 64)), load(data.add((j + 4) * 64)));
        }
        let (mut low, mut high) = nibbles(load(data.add(shape.layout.low_at() + j * 64)));
        if shape.bits == 5 {
            let fifth = _mm512_set1_epi8(16);
            let bits = load(data);
            let up = _mm512_sll_epi16(bits, _mm_cvtsi32_si128(4 - j as i32));
            let down = _mm512_srl_epi16(bits, _mm_cvtsi32_si128(j as i32));
            low = _mm512_or_si512(low, _mm512_and_si512(up, fifth));
            high = _mm512_or_si512(high, _mm512_and_si512(down, fifth));
        }
        if let Some(table) = &shape.table {
            let table = _mm512_broadcast_i32x4(_mm_loadu_si128(table.as_ptr().cast()));
            low = _mm512_shuffle_epi8(table, low);
            high = _mm512_shuffle_epi8(table, high);
        }
        (low, high)
    }
}

/// Q4_K, Q5_K and IQ4_XS: scales for every 32 columns, with minima or a table.
///
/// # Safety
/// See the file's head.
#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
pub unsafe fn k32<const KIND: u8, const W: usize>(
    tile: *const u8,
    cols: usize,
    panel: &Panel,
    out: *mut f32,
) {
    let layout = const { layout(KIND) };
    let table = const { shape(KIND).table.is_some() };
    let mut total = [_mm512_setzero_ps(); W];
    // SAFETY: every address lies in the tile or the panel, by their layouts.
    unsafe {
        for b in 0..cols / 256 {
            let meta = tile.add(layout.meta_at(b));
            let d = halves(meta.add(if table { 128 } else { 256 }));
            let mut sum = [_mm512_setzero_ps(); W];
            if !table {
                minima::<W>(meta, panel.pairs.add(b * 4 * W), &mut sum);
            }
            for sub in 0..8 {
                let data = tile.add(layout.data_at(b * 8 + sub));
                let at = (b * 8 + sub) * W;
                let mut sums = [_mm512_setzero_si512(); W];
                if table {
                    undo_offset(panel.sums.add(at * 2), &mut sums);
                }
                for j in 0..4 {
                    let (low, high) = pair::<KIND>(data, j);
                    dot_pair(&mut sums, low, high, panel.q.add(at * 8 + j * W));
                }
                let bytes = _mm_loadu_si128(meta.add(sub * 16).cast());
                let scale =
                    if table { _mm512_cvtepi8_epi32(bytes) } else { _mm512_cvtepu8_epi32(bytes) };
                let scale = _mm512_mul_ps(_mm512_cvtepi32_ps(scale), d);
                for c in 0..W {
                    sum[c] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(sums[c]), scale, sum[c]);
                }
            }
            for c in 0..W {
                let scale = _mm512_set1_ps(*panel.d.add(b * W + c));
                total[c] = _mm512_fmadd_ps(sum[c], scale, total[c]);
            }
        }
        store(&total, out);
    }
}

/// Starts the sums of 32 columns where an offset of 128 is undone. The input's sums are of 16 columns and times 32.
#[inline]
#[target_feature(enable = "avx512f")]
unsafe fn undo_offset<const W: usize>(offsets: *const i32, sums: &mut [__m512i; W]) {
    for c in 0..W {
        // SAFETY: the caller passes the sums of two times 16 columns.
        let both = unsafe { offsets.add(c).read() + offsets.add(W + c).read() };
        sums[c] = _mm512_set1_epi32(both << 2);
    }
}

/// Takes a superblock's minima off its sums. Done first: they lie before the values, and a record is read in order.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
unsafe fn minima<const W: usize>(meta: *const u8, pairs: *const i32, sum: &mut [__m512; W]) {
    // SAFETY: the caller passes a superblock's scales and its 4 groups of pairs.
    unsafe {
        let dmin = halves(meta.add(288));
        let mut low = [_mm512_setzero_si512(); W];
        for t in 0..4 {
            let min = _mm256_loadu_si256(meta.add(128 + t * 32).cast());
            let min = _mm512_cvtepu8_epi16(min);
            for c in 0..W {
                low[c] = _mm512_dpwssd_epi32(low[c], min, word(pairs.add(t * W + c)));
            }
        }
        for c in 0..W {
            sum[c] = _mm512_fnmadd_ps(_mm512_cvtepi32_ps(low[c]), dmin, sum[c]);
        }
    }
}

/// Q6_K, Q3_K and Q2_K: a scale for every 16 columns.
///
/// # Safety
/// See the file's head.
#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
pub unsafe fn k16<const KIND: u8, const W: usize>(
    tile: *const u8,
    cols: usize,
    panel: &Panel,
    out: *mut f32,
) {
    let mut total = [_mm512_setzero_ps(); W];
    let layout = const { layout(KIND) };
    // SAFETY: every address lies in the tile or the panel, by their layouts.
    unsafe {
        for b in 0..cols / 256 {
            let meta = tile.add(layout.meta_at(b));
            let mut d = halves(meta.add(256));
            if KIND == Kind::Q3K as u8 {
                // Its numbers come times 8, see `sixteen`.
                d = _mm512_mul_ps(d, _mm512_set1_ps(0.125));
            }
            let (mut sum, mut low) = ([_mm512_setzero_ps(); W], [_mm512_setzero_si512(); W]);
            for sub in 0..8 {
                let data = tile.add(layout.data_at(b * 8 + sub));
                for half in 0..2 {
                    let at = ((b * 8 + sub) * 2 + half) * W;
                    let bytes = _mm_loadu_si128(meta.add(sub * 32 + half * 16).cast());
                    let mut scale = _mm512_cvtepi8_epi32(bytes);
                    if KIND == Kind::Q2K as u8 {
                        let both = _mm512_cvtepu8_epi32(bytes);
                        scale = _mm512_and_si512(both, _mm512_set1_epi32(15));
                        let min = _mm512_srli_epi32::<4>(both);
                        for c in 0..W {
                            let taken = _mm512_mullo_epi32(min, word(panel.sums.add(at + c)));
                            low[c] = _mm512_add_epi32(low[c], taken);
                        }
                    }
                    let scale = _mm512_mul_ps(_mm512_cvtepi32_ps(scale), d);
                    sub_k16::<KIND, W>(data, half, scale, panel, at, &mut sum);
                }
            }
            if KIND == Kind::Q2K as u8 {
                // The input's sums come negated and times 32.
                let dmin = _mm512_mul_ps(halves(meta.add(288)), _mm512_set1_ps(0.03125));
                for c in 0..W {
                    sum[c] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(low[c]), dmin, sum[c]);
                }
            }
            for c in 0..W {
                let scale = _mm512_set1_ps(*panel.d.add(b * W + c));
                total[c] = _mm512_fmadd_ps(sum[c], scale, total[c]);
            }
        }
        store(&total, out);
    }
}

/// The products of half `half` of 32 columns, which have this scale. `at` counts columns of words: sixteens before
/// this one times `W`.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
unsafe fn sub_k16<const KIND: u8, const W: usize>(
    data: *const u8,
    half: usize,
    scale: __m512,
    panel: &Panel,
    at: usize,
    sum: &mut [__m512; W],
) {
    // SAFETY: the caller passes a sub-block's bytes, and where its words begin.
    unsafe {
        let (x, offsets) = (panel.q.add(at * 4), panel.sums.add(at));
        let mut sums: [__m512i; W] = [_mm512_setzero_si512(); W];
        if KIND != Kind::Q2K as u8 {
            for c in 0..W {
                sums[c] = word(offsets.add(c));
            }
        }
        for g in 0..4 {
            let weights = sixteen::<KIND>(data, half, g);
            for c in 0..W {
                sums[c] = _mm512_dpbusd_epi32(sums[c], weights, word(x.add(g * W + c)));
            }
        }
        for c in 0..W {
            sum[c] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(sums[c]), scale, sum[c]);
        }
    }
}

/// Group `g` (0 to 3) of half `half` of 32 columns, as unsigned bytes. Q3_K's come times 8: so their offset is 32 as
/// Q6_K's is, which the input's sums are made for.
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
unsafe fn sixteen<const KIND: u8>(data: *const u8, half: usize, g: usize) -> __m512i {
    // SAFETY: the caller passes a sub-block's bytes.
    unsafe {
        let low = data.add(const { layout(KIND).low_at() });
        if KIND == Kind::Q6K as u8 {
            let high = bits_to::<4>(load(data.add(half * 64)), 2 * g, 0x30);
            let (first, second) = nibbles(load(low.add(g * 64)));
            let nibble = if half == 0 { first } else { second };
            return _mm512_or_si512(nibble, high);
        }
        if KIND == Kind::Q2K as u8 {
            return bits_to::<0>(load(low.add(half * 64)), 2 * g, 3);
        }
        let third = bits_to::<5>(load(data), half * 4 + g, 0x20);
        _mm512_or_si512(bits_to::<3>(load(low.add(half * 64)), 2 * g, 0x18), third)
    }
}

/// The bits of each byte from `from` on, moved to where they begin at `TO`, and those of `mask`.
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
fn bits_to<const TO: usize>(bits: __m512i, from: usize, mask: i8) -> __m512i {
    let moved = if from > TO {
        _mm512_srl_epi16(bits, _mm_cvtsi32_si128((from - TO) as i32))
    } else {
        _mm512_sll_epi16(bits, _mm_cvtsi32_si128((TO - from) as i32))
    };
    _mm512_and_si512(moved, _mm512_set1_epi8(mask))
}

/// Kinds with one scale per 32 columns on both sides, with or without a minimum or a table.
///
/// # Safety
/// See the file's head.
#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
pub unsafe fn b32<const KIND: u8, const W: usize>(
    tile: *const u8,
    cols: usize,
    panel: &Panel,
    out: *mut f32,
) {
    let layout = const { layout(KIND) };
    let offset = const { shape(KIND).offset };
    let mut total = [_mm512_setzero_ps(); W];
    // SAFETY: every address lies in the tile or the panel, by their layouts.
    unsafe {
        for b in 0..cols / 32 {
            let data = tile.add(layout.data_at(b));
            let x = panel.q.add(b * 8 * W);
            let mut sums: [__m512i; W] = [_mm512_setzero_si512(); W];
            if offset > 0 {
                let times = _mm_cvtsi32_si128(offset.trailing_zeros() as i32);
                for c in 0..W {
                    sums[c] = _mm512_sll_epi32(word(panel.sums.add(b * W + c)), times);
                }
            }
            for j in 0..4 {
                let (low, high) = pair::<KIND>(data, j);
                dot_pair(&mut sums, low, high, x.add(j * W));
            }
            let meta = tile.add(layout.meta_at(b));
            let d = if KIND == Kind::MXFP4 as u8 { wide(meta) } else { halves(meta) };
            for c in 0..W {
                let scale = _mm512_mul_ps(d, _mm512_set1_ps(*panel.d.add(b * W + c)));
                total[c] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(sums[c]), scale, total[c]);
            }
            if KIND == Kind::Q4_1 as u8 || KIND == Kind::Q5_1 as u8 {
                let minimum = halves(meta.add(32));
                for c in 0..W {
                    let negated = *panel.sums.add(b * W + c) as f32 * *panel.d.add(b * W + c);
                    total[c] = _mm512_fnmadd_ps(minimum, _mm512_set1_ps(negated), total[c]);
                }
            }
        }
        store(&total, out);
    }
}

/// Kinds that lie in the tile as they are stored: each block is taken apart first, then multiplied as any other with
/// a scale per 16 columns.
///
/// # Safety
/// See the file's head.
#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
pub unsafe fn as_stored<const KIND: u8, const W: usize>(
    tile: *const u8,
    cols: usize,
    panel: &Panel,
    out: *mut f32,
) {
    let kind = const { Kind::ALL[KIND as usize] };
    let mut total = [_mm512_setzero_ps(); W];
    let mut open = Opened::new();
    // SAFETY: every address lies in the tile or the panel, by their layouts; those of `open` in its arrays.
    unsafe {
        let tile = std::slice::from_raw_parts(tile, const { layout(KIND) }.tile_bytes(cols));
        for b in 0..cols / 256 {
            open.fill(kind, tile, b);
            let mut block = [_mm512_setzero_si512(); W];
            for sub in 0..16 {
                let at = (b * 16 + sub) * W;
                let mut sums = [_mm512_setzero_si512(); W];
                for c in 0..W {
                    // The input's sums come times 32, the offset is 128.
                    sums[c] = _mm512_slli_epi32::<2>(word(panel.sums.add(at + c)));
                }
                for g in 0..4 {
                    let weights = load(open.q[sub * 4 + g].as_ptr().cast());
                    for c in 0..W {
                        let x = word(panel.q.add((at * 4) + g * W + c));
                        sums[c] = _mm512_dpbusd_epi32(sums[c], weights, x);
                    }
                }
                let scale = _mm256_loadu_si256(open.scale[sub].as_ptr().cast());
                let scale = _mm512_cvtepi16_epi32(scale);
                for c in 0..W {
                    let scaled = _mm512_mullo_epi32(sums[c], scale);
                    block[c] = _mm512_add_epi32(block[c], scaled);
                }
            }
            let d = _mm512_loadu_ps(open.d.as_ptr());
            for c in 0..W {
                let scale = _mm512_mul_ps(d, _mm512_set1_ps(*panel.d.add(b * W + c)));
                total[c] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(block[c]), scale, total[c]);
            }
        }
        store(&total, out);
    }
}

/// F32, F16 and Bf16: weights widened in the register.
///
/// # Safety
/// See the file's head.
#[target_feature(enable = "avx512f")]
pub unsafe fn dense<const KIND: u8, const W: usize>(
    tile: *const u8,
    cols: usize,
    panel: &Panel,
    out: *mut f32,
) {
    // Narrow groups keep four chains of additions going, so that one's latency hides behind the others.
    let mut total = [[_mm512_setzero_ps(); W]; 4];
    // SAFETY: every address lies in the tile or the panel, by their layouts.
    unsafe {
        let chains = if W <= 2 { 4 } else { 1 };
        for k in 0..cols / chains {
            for (u, total) in total.iter_mut().enumerate().take(chains) {
                add_column::<KIND, W>(tile, k * chains + u, panel, total);
            }
        }
        for k in cols / chains * chains..cols {
            add_column::<KIND, W>(tile, k, panel, &mut total[0]);
        }
        let [mut all, a, b, c] = total;
        for i in 0..W {
            let rest = _mm512_add_ps(b[i], c[i]);
            all[i] = _mm512_add_ps(_mm512_add_ps(all[i], a[i]), rest);
        }
        store(&all, out);
    }
}

#[inline]
#[target_feature(enable = "avx512f")]
unsafe fn add_column<const KIND: u8, const W: usize>(
    tile: *const u8,
    k: usize,
    panel: &Panel,
    total: &mut [__m512; W],
) {
    // SAFETY: the caller passes a column of the tile.
    unsafe {
        let weights = if KIND == Kind::F32 as u8 {
            let at = tile.add(k * 64);
            _mm512_loadu_ps(at.cast())
        } else if KIND == Kind::F16 as u8 {
            halves(tile.add(k * 32))
        } else {
            wide(tile.add(k * 32))
        };
        for c in 0..W {
            let x = _mm512_set1_ps(*panel.x.add(k * W + c));
            total[c] = _mm512_fmadd_ps(weights, x, total[c]);
        }
    }
}
