//! Tile kernels for AVX-512 with VNNI: 16 rows in 16 lanes, four columns a step.
//!
//! Every kernel multiplies one tile by one group of `W` input vectors, into `[W][16]` sums. Weights are
//! unsigned bytes, inputs signed ones broadcast from memory, so that one instruction does 64
//! multiply-adds; offsets of the weights are undone by starting the integer sums at the negated sums of
//! the input. No prefetch instructions: the hardware follows the one stream by itself, and hints only took
//! its slots (15 GB/s a core with them, 27 without, on Zen 4). Knows nothing of threads or matrices.
//!
//! All functions here need AVX-512 F, BW and VNNI, and the promise of `scalar::tile`.

#![allow(clippy::needless_range_loop, reason = "kernels walk several arrays by one index")]

use super::input::Panel;
use super::tile::layout;
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

/// Q4_K and Q5_K: scales and minima for every 32 columns.
///
/// # Safety
/// See the file's head.
#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
pub unsafe fn k45<const KIND: u8, const W: usize>(
    tile: *const u8,
    cols: usize,
    panel: &Panel,
    out: *mut f32,
) {
    let layout = const { layout(KIND) };
    let mut total = [_mm512_setzero_ps(); W];
    // SAFETY: every address lies in the tile or the panel, by their layouts.
    unsafe {
        for b in 0..cols / 256 {
            let meta = tile.add(layout.meta_at(b));
            let d = halves(meta.add(256));
            let mut sum = [_mm512_setzero_ps(); W];
            for sub in 0..8 {
                let data = tile.add(layout.data_at(b * 8 + sub));
                let mut sums = [_mm512_setzero_si512(); W];
                let x = panel.q.add((b * 8 + sub) * 8 * W);
                sub_k45::<KIND, W>(data, x, &mut sums);
                let scale = _mm512_cvtepu8_epi32(_mm_loadu_si128(meta.add(sub * 16).cast()));
                let scale = _mm512_mul_ps(_mm512_cvtepi32_ps(scale), d);
                for c in 0..W {
                    sum[c] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(sums[c]), scale, sum[c]);
                }
            }
            minima::<W>(meta, panel.pairs.add(b * 4 * W), &mut sum);
            for c in 0..W {
                let scale = _mm512_set1_ps(*panel.d.add(b * W + c));
                total[c] = _mm512_fmadd_ps(sum[c], scale, total[c]);
            }
        }
        store(&total, out);
    }
}

/// The products of 32 columns.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
unsafe fn sub_k45<const KIND: u8, const W: usize>(
    data: *const u8,
    x: *const i32,
    sums: &mut [__m512i; W],
) {
    let fifth = _mm512_set1_epi8(16);
    // SAFETY: the caller passes a sub-block's bytes and its 8 groups of words.
    unsafe {
        let packed = data.add(const { layout(KIND).nibbles_at() });
        for j in 0..4 {
            let (mut low, mut high) = nibbles(load(packed.add(j * 64)));
            if KIND == Kind::Q5K as u8 {
                let bits = load(data);
                let up = _mm512_sll_epi16(bits, _mm_cvtsi32_si128(4 - j as i32));
                let down = _mm512_srl_epi16(bits, _mm_cvtsi32_si128(j as i32));
                low = _mm512_or_si512(low, _mm512_and_si512(up, fifth));
                high = _mm512_or_si512(high, _mm512_and_si512(down, fifth));
            }
            dot_pair(sums, low, high, x.add(j * W));
        }
    }
}

/// Takes a superblock's minima off its sums.
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

/// Q6_K: a scale for every 16 columns.
///
/// # Safety
/// See the file's head.
#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
pub unsafe fn k6<const W: usize>(tile: *const u8, cols: usize, panel: &Panel, out: *mut f32) {
    let mut total = [_mm512_setzero_ps(); W];
    let layout = const { layout(Kind::Q6K as u8) };
    // SAFETY: every address lies in the tile or the panel, by their layouts.
    unsafe {
        for b in 0..cols / 256 {
            let meta = tile.add(layout.meta_at(b));
            let d = halves(meta.add(256));
            let mut sum = [_mm512_setzero_ps(); W];
            for sub in 0..8 {
                let data = tile.add(layout.data_at(b * 8 + sub));
                let at = (b * 8 + sub) * W;
                sub_k6(data, meta.add(sub * 32), panel, at, d, &mut sum);
            }
            for c in 0..W {
                let scale = _mm512_set1_ps(*panel.d.add(b * W + c));
                total[c] = _mm512_fmadd_ps(sum[c], scale, total[c]);
            }
        }
        store(&total, out);
    }
}

/// The products of 32 columns: groups 0 to 3 with one scale, 4 to 7 with the next. `at` counts columns of
/// words: sub-blocks before this one times `W`.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
unsafe fn sub_k6<const W: usize>(
    data: *const u8,
    scales: *const u8,
    panel: &Panel,
    at: usize,
    d: __m512,
    sum: &mut [__m512; W],
) {
    // SAFETY: the caller passes a sub-block's bytes and scales, and where its words begin.
    unsafe {
        let packed = data.add(const { layout(Kind::Q6K as u8).nibbles_at() });
        let (x, offsets) = (panel.q.add(at * 8), panel.sums.add(at * 2));
        for half in 0..2 {
            let scale = _mm512_cvtepi8_epi32(_mm_loadu_si128(scales.add(half * 16).cast()));
            let scale = _mm512_mul_ps(_mm512_cvtepi32_ps(scale), d);
            let bits = load(data.add(half * 64));
            let mut sums: [__m512i; W] = [_mm512_setzero_si512(); W];
            for c in 0..W {
                sums[c] = word(offsets.add(half * W + c));
            }
            for g in 0..4 {
                let (low, high) = nibbles(load(packed.add(g * 64)));
                let nibble = if half == 0 { low } else { high };
                let weights = _mm512_or_si512(nibble, two_bits(bits, g));
                for c in 0..W {
                    let x = word(x.add((half * 4 + g) * W + c));
                    sums[c] = _mm512_dpbusd_epi32(sums[c], weights, x);
                }
            }
            for c in 0..W {
                sum[c] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(sums[c]), scale, sum[c]);
            }
        }
    }
}

/// Bits `2 g` and `2 g + 1` of each byte, at bits 4 and 5.
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
fn two_bits(bits: __m512i, g: usize) -> __m512i {
    let moved = match g {
        0 => _mm512_slli_epi16::<4>(bits),
        1 => _mm512_slli_epi16::<2>(bits),
        2 => bits,
        _ => _mm512_srli_epi16::<2>(bits),
    };
    _mm512_and_si512(moved, _mm512_set1_epi8(0x30))
}

/// Q8_0 and Q4_0: one scale per 32 columns on both sides.
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
    let mut total = [_mm512_setzero_ps(); W];
    // SAFETY: every address lies in the tile or the panel, by their layouts.
    unsafe {
        for b in 0..cols / 32 {
            let data = tile.add(layout.data_at(b));
            let x = panel.q.add(b * 8 * W);
            let mut sums: [__m512i; W] = [_mm512_setzero_si512(); W];
            for c in 0..W {
                let sum = word(panel.sums.add(b * W + c));
                sums[c] = match KIND == Kind::Q8_0 as u8 {
                    true => _mm512_slli_epi32::<7>(sum),
                    false => _mm512_slli_epi32::<3>(sum),
                };
            }
            for j in 0..4 {
                let (low, high) = match KIND == Kind::Q8_0 as u8 {
                    true => (load(data.add(j * 64)), load(data.add((j + 4) * 64))),
                    false => nibbles(load(data.add(j * 64))),
                };
                dot_pair(&mut sums, low, high, x.add(j * W));
            }
            let d = halves(tile.add(layout.meta_at(b)));
            for c in 0..W {
                let scale = _mm512_mul_ps(d, _mm512_set1_ps(*panel.d.add(b * W + c)));
                total[c] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(sums[c]), scale, total[c]);
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
            let bits = _mm512_cvtepu16_epi32(_mm256_loadu_si256(tile.add(k * 32).cast()));
            _mm512_castsi512_ps(_mm512_slli_epi32::<16>(bits))
        };
        for c in 0..W {
            let x = _mm512_set1_ps(*panel.x.add(k * W + c));
            total[c] = _mm512_fmadd_ps(weights, x, total[c]);
        }
    }
}
