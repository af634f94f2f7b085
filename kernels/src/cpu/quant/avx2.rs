//! Tile kernels for AVX2: a tile's 16 rows in two halves of 8 lanes, four columns a step.
//!
//! Without VNNI a byte product is two instructions: bytes to pairs in 16 bits, pairs to 32 bits. The
//! second is put off as long as 16 bits can hold the sum, and it multiplies by the integer scale on the
//! way where there is one. Knows nothing of threads or matrices.
//!
//! All functions here need AVX2, FMA and F16C, and the promise of `scalar::tile`.

#![allow(clippy::needless_range_loop, reason = "kernels walk several arrays by one index")]

use super::input::Panel;
use super::tile::layout;
use crate::quant::Kind;
use std::arch::x86_64::*;

#[inline]
#[target_feature(enable = "avx2")]
unsafe fn load(at: *const u8) -> __m256i {
    // SAFETY: the caller passes 32 readable bytes.
    unsafe { _mm256_loadu_si256(at.cast()) }
}

/// Eight f16 values.
#[inline]
#[target_feature(enable = "avx2,f16c")]
unsafe fn halves(at: *const u8) -> __m256 {
    // SAFETY: the caller passes 16 readable bytes.
    unsafe { _mm256_cvtph_ps(_mm_loadu_si128(at.cast())) }
}

/// The word at `x`, in every lane.
#[inline]
#[target_feature(enable = "avx2")]
unsafe fn word(x: *const i32) -> __m256i {
    // SAFETY: the caller passes a readable word.
    unsafe { _mm256_set1_epi32(x.read()) }
}

/// Stores half `h` of the sums of each vector.
#[inline]
#[target_feature(enable = "avx2")]
unsafe fn store<const W: usize>(total: &[__m256; W], h: usize, out: *mut f32) {
    for (c, total) in total.iter().enumerate() {
        // SAFETY: `out` has room for `[W][16]`.
        unsafe { _mm256_storeu_ps(out.add(c * 16 + h * 8), *total) };
    }
}

/// Eight byte scales as pairs of equal 16-bit numbers.
#[inline]
#[target_feature(enable = "avx2")]
unsafe fn scale_pairs<const SIGNED: bool>(at: *const u8) -> __m256i {
    // SAFETY: the caller passes 8 readable bytes.
    let bytes = unsafe { _mm_loadl_epi64(at.cast()) };
    let wide = if SIGNED { _mm256_cvtepi8_epi32(bytes) } else { _mm256_cvtepu8_epi32(bytes) };
    let low = _mm256_and_si256(wide, _mm256_set1_epi32(0xffff));
    _mm256_or_si256(low, _mm256_slli_epi32::<16>(wide))
}

/// Group `g` (0 to 7) of 32 columns of nibbles; `data` is at the half's first byte.
#[inline]
#[target_feature(enable = "avx2")]
unsafe fn nibble(data: *const u8, g: usize) -> __m256i {
    // SAFETY: the caller passes a sub-block's bytes.
    let packed = unsafe { load(data.add(g % 4 * 64)) };
    let moved = if g < 4 { packed } else { _mm256_srli_epi16::<4>(packed) };
    _mm256_and_si256(moved, _mm256_set1_epi8(15))
}

/// Adds weights times input, in pairs of 16 bits.
#[inline]
#[target_feature(enable = "avx2")]
unsafe fn dot<const W: usize>(pairs: &mut [__m256i; W], weights: __m256i, x: *const i32) {
    for c in 0..W {
        // SAFETY: the panel has `W` words for each group.
        let product = unsafe { _mm256_maddubs_epi16(weights, word(x.add(c))) };
        pairs[c] = _mm256_add_epi16(pairs[c], product);
    }
}

/// Adds pairs, times their scales, to 32-bit sums.
#[inline]
#[target_feature(enable = "avx2")]
fn widen<const W: usize>(sums: &mut [__m256i; W], pairs: &[__m256i; W], scale: __m256i) {
    for c in 0..W {
        sums[c] = _mm256_add_epi32(sums[c], _mm256_madd_epi16(pairs[c], scale));
    }
}

/// Q4_K and Q5_K: scales and minima for every 32 columns.
///
/// # Safety
/// See the file's head.
#[target_feature(enable = "avx2,fma,f16c")]
pub unsafe fn k45<const KIND: u8, const W: usize>(
    tile: *const u8,
    cols: usize,
    panel: &Panel,
    out: *mut f32,
) {
    let layout = const { layout(KIND) };
    // SAFETY: every address lies in the tile or the panel, by their layouts.
    unsafe {
        for h in 0..2 {
            let mut total = [_mm256_setzero_ps(); W];
            for b in 0..cols / 256 {
                let meta = tile.add(layout.meta_at(b));
                let mut sums = [_mm256_setzero_si256(); W];
                for sub in 0..8 {
                    let data = tile.add(layout.data_at(b * 8 + sub) + h * 32);
                    let x = panel.q.add((b * 8 + sub) * 8 * W);
                    let scale = scale_pairs::<false>(meta.add(sub * 16 + h * 8));
                    sub_k45::<KIND, W>(data, x, scale, &mut sums);
                }
                let mut low = [_mm256_setzero_si256(); W];
                for t in 0..4 {
                    let min = _mm_loadu_si128(meta.add(128 + t * 32 + h * 16).cast());
                    let min = _mm256_cvtepu8_epi16(min);
                    for c in 0..W {
                        let x = word(panel.pairs.add((b * 4 + t) * W + c));
                        low[c] = _mm256_add_epi32(low[c], _mm256_madd_epi16(min, x));
                    }
                }
                let (d, dmin) = (halves(meta.add(256 + h * 16)), halves(meta.add(288 + h * 16)));
                for c in 0..W {
                    let low = _mm256_mul_ps(_mm256_cvtepi32_ps(low[c]), dmin);
                    let sum = _mm256_fmsub_ps(_mm256_cvtepi32_ps(sums[c]), d, low);
                    let scale = _mm256_set1_ps(*panel.d.add(b * W + c));
                    total[c] = _mm256_fmadd_ps(sum, scale, total[c]);
                }
            }
            store(&total, h, out);
        }
    }
}

/// The products of 32 columns. 8 groups of nibbles fit 16 bits (2 * 8 * 15 * 127 = 30480), 4 groups of
/// five bits do (2 * 4 * 31 * 127 = 31496).
#[inline]
#[target_feature(enable = "avx2")]
unsafe fn sub_k45<const KIND: u8, const W: usize>(
    data: *const u8,
    x: *const i32,
    scale: __m256i,
    sums: &mut [__m256i; W],
) {
    // SAFETY: the caller passes half a sub-block's bytes and its 8 groups of words.
    unsafe {
        let mut pairs = [_mm256_setzero_si256(); W];
        let packed = data.add(const { layout(KIND).nibbles_at() });
        for g in 0..8 {
            let mut weights = nibble(packed, g);
            if KIND == Kind::Q5K as u8 {
                if g == 4 {
                    widen(sums, &pairs, scale);
                    pairs = [_mm256_setzero_si256(); W];
                }
                let bits = load(data);
                let bits = _mm256_srl_epi16(bits, _mm_cvtsi32_si128(g as i32));
                let fifth = _mm256_and_si256(bits, _mm256_set1_epi8(1));
                weights = _mm256_or_si256(weights, _mm256_slli_epi16::<4>(fifth));
            }
            dot(&mut pairs, weights, x.add(g * W));
        }
        widen(sums, &pairs, scale);
    }
}

/// Q6_K: a scale for every 16 columns.
///
/// # Safety
/// See the file's head.
#[target_feature(enable = "avx2,fma,f16c")]
pub unsafe fn k6<const W: usize>(tile: *const u8, cols: usize, panel: &Panel, out: *mut f32) {
    let layout = const { layout(Kind::Q6K as u8) };
    // SAFETY: every address lies in the tile or the panel, by their layouts.
    unsafe {
        for h in 0..2 {
            let mut total = [_mm256_setzero_ps(); W];
            for b in 0..cols / 256 {
                let meta = tile.add(layout.meta_at(b));
                let mut sums = [_mm256_setzero_si256(); W];
                for half in 0..16 {
                    let data = tile.add(layout.data_at(b * 8 + half / 2) + h * 32);
                    let scales = meta.add(half * 16 + h * 8);
                    sub_k6(data, scales, panel, b * 16 + half, &mut sums);
                }
                let d = halves(meta.add(256 + h * 16));
                for c in 0..W {
                    let scale = _mm256_mul_ps(d, _mm256_set1_ps(*panel.d.add(b * W + c)));
                    total[c] = _mm256_fmadd_ps(_mm256_cvtepi32_ps(sums[c]), scale, total[c]);
                }
            }
            store(&total, h, out);
        }
    }
}

/// The products of 16 columns, the `index`th sixteen of the row. 2 groups fit 16 bits (2 * 2 * 63 * 127
/// = 32004).
#[inline]
#[target_feature(enable = "avx2")]
unsafe fn sub_k6<const W: usize>(
    data: *const u8,
    scales: *const u8,
    panel: &Panel,
    index: usize,
    sums: &mut [__m256i; W],
) {
    let half = index % 2;
    // SAFETY: the caller passes half a sub-block's bytes and scales, and which sixteen columns they are.
    unsafe {
        let x = panel.q.add(index * 4 * W);
        let bits = load(data.add(half * 64));
        let packed = data.add(const { layout(Kind::Q6K as u8).nibbles_at() });
        let scale = scale_pairs::<true>(scales);
        for two in 0..2 {
            let mut pairs = [_mm256_setzero_si256(); W];
            for g in two * 2..two * 2 + 2 {
                let high = _mm256_srl_epi16(bits, _mm_cvtsi32_si128(2 * g as i32));
                let high = _mm256_and_si256(high, _mm256_set1_epi8(3));
                let weights = nibble(packed, half * 4 + g);
                let weights = _mm256_or_si256(weights, _mm256_slli_epi16::<4>(high));
                dot(&mut pairs, weights, x.add(g * W));
            }
            widen(sums, &pairs, scale);
        }
        let scale = _mm256_cvtepi8_epi32(_mm_loadl_epi64(scales.cast()));
        for c in 0..W {
            let offset = word(panel.sums.add(index * W + c));
            sums[c] = _mm256_add_epi32(sums[c], _mm256_mullo_epi32(scale, offset));
        }
    }
}

/// Q8_0: signed bytes on both sides, the weight's sign moved over to the input.
///
/// # Safety
/// See the file's head.
#[target_feature(enable = "avx2,fma,f16c")]
pub unsafe fn q8_0<const W: usize>(tile: *const u8, cols: usize, panel: &Panel, out: *mut f32) {
    let (ones, offset) = (_mm256_set1_epi16(1), _mm256_set1_epi8(-128));
    let layout = const { layout(Kind::Q8_0 as u8) };
    // SAFETY: every address lies in the tile or the panel, by their layouts.
    unsafe {
        for h in 0..2 {
            let mut total = [_mm256_setzero_ps(); W];
            for b in 0..cols / 32 {
                let data = tile.add(layout.data_at(b) + h * 32);
                let x = panel.q.add(b * 8 * W);
                let mut sums = [_mm256_setzero_si256(); W];
                for g in 0..8 {
                    let weights = _mm256_xor_si256(load(data.add(g * 64)), offset);
                    let sizes = _mm256_abs_epi8(weights);
                    for c in 0..W {
                        let x = _mm256_sign_epi8(word(x.add(g * W + c)), weights);
                        // 2 * 128 * 127 fits 16 bits.
                        let pairs = _mm256_maddubs_epi16(sizes, x);
                        sums[c] = _mm256_add_epi32(sums[c], _mm256_madd_epi16(pairs, ones));
                    }
                }
                let meta = tile.add(layout.meta_at(b) + h * 16);
                add_scaled(&mut total, &sums, halves(meta), panel.d.add(b * W));
            }
            store(&total, h, out);
        }
    }
}

/// Q4_0: nibbles offset by 8.
///
/// # Safety
/// See the file's head.
#[target_feature(enable = "avx2,fma,f16c")]
pub unsafe fn q4_0<const W: usize>(tile: *const u8, cols: usize, panel: &Panel, out: *mut f32) {
    let ones = _mm256_set1_epi16(1);
    let layout = const { layout(Kind::Q4_0 as u8) };
    // SAFETY: every address lies in the tile or the panel, by their layouts.
    unsafe {
        for h in 0..2 {
            let mut total = [_mm256_setzero_ps(); W];
            for b in 0..cols / 32 {
                let data = tile.add(layout.data_at(b) + h * 32);
                let x = panel.q.add(b * 8 * W);
                let mut pairs = [_mm256_setzero_si256(); W];
                for g in 0..8 {
                    dot(&mut pairs, nibble(data, g), x.add(g * W));
                }
                let mut sums = [_mm256_setzero_si256(); W];
                for c in 0..W {
                    sums[c] = _mm256_slli_epi32::<3>(word(panel.sums.add(b * W + c)));
                }
                widen(&mut sums, &pairs, ones);
                let meta = tile.add(layout.meta_at(b) + h * 16);
                add_scaled(&mut total, &sums, halves(meta), panel.d.add(b * W));
            }
            store(&total, h, out);
        }
    }
}

/// Adds sums times the weights' scale and each vector's.
#[inline]
#[target_feature(enable = "avx2,fma")]
unsafe fn add_scaled<const W: usize>(
    total: &mut [__m256; W],
    sums: &[__m256i; W],
    d: __m256,
    scales: *const f32,
) {
    for c in 0..W {
        // SAFETY: the caller passes `W` scales.
        let scale = _mm256_mul_ps(d, _mm256_set1_ps(unsafe { *scales.add(c) }));
        total[c] = _mm256_fmadd_ps(_mm256_cvtepi32_ps(sums[c]), scale, total[c]);
    }
}

/// F32, F16 and Bf16: weights widened in the register.
///
/// # Safety
/// See the file's head.
#[target_feature(enable = "avx2,fma,f16c")]
pub unsafe fn dense<const KIND: u8, const W: usize>(
    tile: *const u8,
    cols: usize,
    panel: &Panel,
    out: *mut f32,
) {
    let mut total = [[_mm256_setzero_ps(); W]; 2];
    // SAFETY: every address lies in the tile or the panel, by their layouts.
    unsafe {
        for k in 0..cols {
            for (h, total) in total.iter_mut().enumerate() {
                let weights = if KIND == Kind::F32 as u8 {
                    _mm256_loadu_ps(tile.add(k * 64 + h * 32).cast())
                } else if KIND == Kind::F16 as u8 {
                    halves(tile.add(k * 32 + h * 16))
                } else {
                    let bits = _mm_loadu_si128(tile.add(k * 32 + h * 16).cast());
                    let bits = _mm256_slli_epi32::<16>(_mm256_cvtepu16_epi32(bits));
                    _mm256_castsi256_ps(bits)
                };
                for c in 0..W {
                    let x = _mm256_set1_ps(*panel.x.add(k * W + c));
                    total[c] = _mm256_fmadd_ps(weights, x, total[c]);
                }
            }
        }
        for (h, total) in total.iter().enumerate() {
            store(total, h, out);
        }
    }
}
