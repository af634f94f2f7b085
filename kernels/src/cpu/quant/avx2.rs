//! Tile kernels for AVX2: a tile's 16 rows in two halves of 8 lanes, four columns a step.
//!
//! Without VNNI, a product of bytes takes two instructions: bytes to pairs in 16 bits, then pairs to 32 bits. The
//! second is postponed as long as 16 bits can hold the sum; if there is an integer scale, the second also multiplies by
//! it. With few input vectors, memory is the limit, so both halves are computed in one pass over the tile (`H` = 2):
//! with two passes, memory would be idle during the second. With more vectors there are not enough registers for that,
//! so each half takes its own pass. It does not know about threads or matrices.
//!
//! All functions here require AVX2, FMA and F16C, and the safety contract of `scalar::tile`.

#![allow(clippy::needless_range_loop, reason = "kernels walk several arrays by one index")]

use super::input::Panel;
use super::shape::shape;
use super::tile::{Opened, layout};
use crate::quant::Kind;
use std::arch::x86_64::*;

/// Defines a kernel that runs another on both halves of a tile: at once for few vectors, else one after the other.
macro_rules! on_halves {
    ($(#[$doc:meta])* $name:ident = $kernel:ident) => {
        $(#[$doc])*
        ///
        /// # Safety
        /// See the file's head.
        #[target_feature(enable = "avx2,fma,f16c")]
        pub unsafe fn $name<const KIND: u8, const W: usize>(
            tile: *const u8,
            cols: usize,
            panel: &Panel,
            out: *mut f32,
        ) {
            // SAFETY: the caller's promise.
            unsafe {
                if W <= 2 {
                    $kernel::<KIND, W, 2>(tile, cols, panel, out, 0);
                } else {
                    $kernel::<KIND, W, 1>(tile, cols, panel, out, 0);
                    $kernel::<KIND, W, 1>(tile, cols, panel, out, 1);
                }
            }
        }
    };
}

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

/// Eight bf16 values.
#[inline]
#[target_feature(enable = "avx2")]
unsafe fn wide(at: *const u8) -> __m256 {
    // SAFETY: the caller passes 16 readable bytes.
    let bits = unsafe { _mm256_cvtepu16_epi32(_mm_loadu_si128(at.cast())) };
    _mm256_castsi256_ps(_mm256_slli_epi32::<16>(bits))
}

/// The word at `x`, in every lane.
#[inline]
#[target_feature(enable = "avx2")]
unsafe fn word(x: *const i32) -> __m256i {
    // SAFETY: the caller passes a readable word.
    unsafe { _mm256_set1_epi32(x.read()) }
}

/// Stores the sums of each vector in halves from `first` on.
#[inline]
#[target_feature(enable = "avx2")]
unsafe fn store<const W: usize, const H: usize>(
    total: &[[__m256; W]; H],
    first: usize,
    out: *mut f32,
) {
    for h in 0..H {
        for c in 0..W {
            // SAFETY: `out` has room for `[W][16]`.
            unsafe { _mm256_storeu_ps(out.add(c * 16 + (first + h) * 8), total[h][c]) };
        }
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

/// Group `g` (0 to 7) of 32 columns of fewer than 8 bits, before a table is asked; `data` is at the half's first byte.
#[inline]
#[target_feature(enable = "avx2")]
unsafe fn group<const KIND: u8>(data: *const u8, g: usize) -> __m256i {
    let shape = const { shape(KIND) };
    // SAFETY: the caller passes a sub-block's bytes.
    unsafe {
        let packed = load(data.add(shape.layout.low_at() + g % 4 * 64));
        let low = bits(packed, g / 4 * 4, 15);
        if shape.bits != 5 {
            return low;
        }
        _mm256_or_si256(low, _mm256_slli_epi16::<4>(bits(load(data), g, 1)))
    }
}

/// The bits of each byte from `from` on that `mask` has.
#[inline]
#[target_feature(enable = "avx2")]
fn bits(bytes: __m256i, from: usize, mask: i8) -> __m256i {
    let moved = _mm256_srl_epi16(bytes, _mm_cvtsi32_si128(from as i32));
    _mm256_and_si256(moved, _mm256_set1_epi8(mask))
}

/// What indices stand for.
#[inline]
#[target_feature(enable = "avx2")]
fn look_up(table: &[u8; 16], indices: __m256i) -> __m256i {
    // SAFETY: 16 readable bytes.
    let table = unsafe { _mm_loadu_si128(table.as_ptr().cast()) };
    _mm256_shuffle_epi8(_mm256_broadcastsi128_si256(table), indices)
}

/// Group `g` of 32 columns of signed numbers, and their sizes.
#[inline]
#[target_feature(enable = "avx2")]
unsafe fn signed<const KIND: u8>(data: *const u8, g: usize) -> (__m256i, __m256i) {
    let shape = const { &shape(KIND) };
    let offset = _mm256_set1_epi8(-128);
    // SAFETY: the caller passes a sub-block's bytes.
    unsafe {
        match &shape.table {
            Some(table) => {
                let indices = group::<KIND>(data, g);
                let weights = _mm256_xor_si256(look_up(table, indices), offset);
                (weights, look_up(&shape.sizes, indices))
            }
            None => {
                let weights = _mm256_xor_si256(load(data.add(g * 64)), offset);
                (weights, _mm256_abs_epi8(weights))
            }
        }
    }
}

/// Adds signed weights times input times scale: the weight's sign moved over to the input. A product of two pairs,
/// at most 2 * 128 * 127, fits 16 bits; no second one does beside it.
#[inline]
#[target_feature(enable = "avx2")]
unsafe fn dot_signed<const W: usize>(
    sums: &mut [__m256i; W],
    (weights, sizes): (__m256i, __m256i),
    x: *const i32,
    scale: __m256i,
) {
    for c in 0..W {
        // SAFETY: the panel has `W` words for each group.
        let x = unsafe { _mm256_sign_epi8(word(x.add(c)), weights) };
        let pairs = _mm256_maddubs_epi16(sizes, x);
        sums[c] = _mm256_add_epi32(sums[c], _mm256_madd_epi16(pairs, scale));
    }
}

/// Adds weights times input, in pairs of 16 bits.
#[inline]
#[target_feature(enable = "avx2")]
unsafe fn dot<const W: usize, const H: usize>(
    pairs: &mut [[__m256i; W]; H],
    weights: [__m256i; H],
    x: *const i32,
) {
    for c in 0..W {
        // SAFETY: the panel has `W` words for each group.
        let x = unsafe { word(x.add(c)) };
        for h in 0..H {
            let product = _mm256_maddubs_epi16(weights[h], x);
            pairs[h][c] = _mm256_add_epi16(pairs[h][c], product);
        }
    }
}

/// Adds pairs, times their scales, to 32-bit sums.
#[inline]
#[target_feature(enable = "avx2")]
fn widen<const W: usize, const H: usize>(
    sums: &mut [[__m256i; W]; H],
    pairs: &[[__m256i; W]; H],
    scale: &[__m256i; H],
) {
    for h in 0..H {
        for c in 0..W {
            let wide = _mm256_madd_epi16(pairs[h][c], scale[h]);
            sums[h][c] = _mm256_add_epi32(sums[h][c], wide);
        }
    }
}

on_halves! {
    /// Q4_K, Q5_K and IQ4_XS: scales for every 32 columns, with minima or a table.
    k32 = k32_halves
}

#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn k32_halves<const KIND: u8, const W: usize, const H: usize>(
    tile: *const u8,
    cols: usize,
    panel: &Panel,
    out: *mut f32,
    first: usize,
) {
    let layout = const { layout(KIND) };
    let table = const { shape(KIND).table.is_some() };
    let mut total = [[_mm256_setzero_ps(); W]; H];
    // SAFETY: every address lies in the tile or the panel, by their layouts.
    unsafe {
        for b in 0..cols / 256 {
            let meta = tile.add(layout.meta_at(b));
            let mut sums = [[_mm256_setzero_si256(); W]; H];
            let mut sum = [[_mm256_setzero_ps(); W]; H];
            if !table {
                for h in 0..H {
                    minima(meta, first + h, panel.pairs.add(b * 4 * W), &mut sum[h]);
                }
            }
            for sub in 0..8 {
                let data = tile.add(layout.data_at(b * 8 + sub) + first * 32);
                let x = panel.q.add((b * 8 + sub) * 8 * W);
                let scales = meta.add(sub * 16 + first * 8);
                if table {
                    for h in 0..H {
                        let scale = scale_pairs::<true>(scales.add(h * 8));
                        for g in 0..8 {
                            let weights = signed::<KIND>(data.add(h * 32), g);
                            dot_signed(&mut sums[h], weights, x.add(g * W), scale);
                        }
                    }
                } else {
                    let mut scale = [_mm256_setzero_si256(); H];
                    for h in 0..H {
                        scale[h] = scale_pairs::<false>(scales.add(h * 8));
                    }
                    dot_unsigned::<KIND, W, H>(data, x, &scale, &mut sums);
                }
            }
            for h in 0..H {
                let d = halves(meta.add(if table { 128 } else { 256 } + (first + h) * 16));
                for c in 0..W {
                    let sum = _mm256_fmadd_ps(_mm256_cvtepi32_ps(sums[h][c]), d, sum[h][c]);
                    let scale = _mm256_set1_ps(*panel.d.add(b * W + c));
                    total[h][c] = _mm256_fmadd_ps(sum, scale, total[h][c]);
                }
            }
        }
        store(&total, first, out);
    }
}

/// Takes a superblock's minima off its sums.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn minima<const W: usize>(
    meta: *const u8,
    h: usize,
    pairs: *const i32,
    sum: &mut [__m256; W],
) {
    // SAFETY: the caller passes a superblock's scales and its 4 groups of pairs.
    unsafe {
        let mut low = [_mm256_setzero_si256(); W];
        for t in 0..4 {
            let min = _mm_loadu_si128(meta.add(128 + t * 32 + h * 16).cast());
            let min = _mm256_cvtepu8_epi16(min);
            for c in 0..W {
                let x = word(pairs.add(t * W + c));
                low[c] = _mm256_add_epi32(low[c], _mm256_madd_epi16(min, x));
            }
        }
        let dmin = halves(meta.add(288 + h * 16));
        for c in 0..W {
            sum[c] = _mm256_fnmadd_ps(_mm256_cvtepi32_ps(low[c]), dmin, sum[c]);
        }
    }
}

/// The products of 32 columns of unsigned numbers of 4 or 5 bits, or of a table of small ones; as many groups at once
/// as 16 bits hold (`Shape::groups_in_16_bits`).
#[inline]
#[target_feature(enable = "avx2")]
unsafe fn dot_unsigned<const KIND: u8, const W: usize, const H: usize>(
    data: *const u8,
    x: *const i32,
    scale: &[__m256i; H],
    sums: &mut [[__m256i; W]; H],
) {
    let at_once = const { if shape(KIND).groups_in_16_bits() >= 8 { 8 } else { 4 } };
    // SAFETY: the caller passes a sub-block's bytes and its 8 groups of words.
    unsafe {
        for part in 0..8 / at_once {
            let mut pairs = [[_mm256_setzero_si256(); W]; H];
            for i in 0..at_once {
                let g = part * at_once + i;
                let mut weights = [_mm256_setzero_si256(); H];
                for h in 0..H {
                    weights[h] = group::<KIND>(data.add(h * 32), g);
                    if let Some(table) = const { &shape(KIND).table } {
                        weights[h] = look_up(table, weights[h]);
                    }
                }
                dot(&mut pairs, weights, x.add(g * W));
            }
            widen(sums, &pairs, scale);
        }
    }
}

on_halves! {
    /// Q6_K, Q3_K and Q2_K: a scale for every 16 columns.
    k16 = k16_halves
}

#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn k16_halves<const KIND: u8, const W: usize, const H: usize>(
    tile: *const u8,
    cols: usize,
    panel: &Panel,
    out: *mut f32,
    first: usize,
) {
    let layout = const { layout(KIND) };
    let mut total = [[_mm256_setzero_ps(); W]; H];
    // SAFETY: every address lies in the tile or the panel, by their layouts.
    unsafe {
        for b in 0..cols / 256 {
            let meta = tile.add(layout.meta_at(b));
            let (mut sums, mut low) =
                ([[_mm256_setzero_si256(); W]; H], [[_mm256_setzero_si256(); W]; H]);
            for sub in 0..8 {
                let data = tile.add(layout.data_at(b * 8 + sub) + first * 32);
                for half in 0..2 {
                    let scales = meta.add(sub * 32 + half * 16 + first * 8);
                    let at = ((b * 8 + sub) * 2 + half) * W;
                    let out = (&mut sums, &mut low);
                    sub_k16::<KIND, W, H>(data, half, scales, panel, at, out);
                }
            }
            for h in 0..H {
                let d = halves(meta.add(256 + (first + h) * 16));
                for c in 0..W {
                    let mut sum = _mm256_mul_ps(_mm256_cvtepi32_ps(sums[h][c]), d);
                    if KIND == Kind::Q2K as u8 {
                        // The input's sums come negated and times 32.
                        let dmin = halves(meta.add(288 + (first + h) * 16));
                        let dmin = _mm256_mul_ps(dmin, _mm256_set1_ps(0.03125));
                        sum = _mm256_fmadd_ps(_mm256_cvtepi32_ps(low[h][c]), dmin, sum);
                    }
                    let scale = _mm256_set1_ps(*panel.d.add(b * W + c));
                    total[h][c] = _mm256_fmadd_ps(sum, scale, total[h][c]);
                }
            }
        }
        store(&total, first, out);
    }
}

/// The products of 16 of 32 columns, the first or second as `half` says; `low` gets what minima take off, if there are
/// any. `at` counts columns of words: sixteens before this one times `W`.
#[inline]
#[target_feature(enable = "avx2")]
unsafe fn sub_k16<const KIND: u8, const W: usize, const H: usize>(
    data: *const u8,
    half: usize,
    scales: *const u8,
    panel: &Panel,
    at: usize,
    (sums, low): (&mut [[__m256i; W]; H], &mut [[__m256i; W]; H]),
) {
    let q2 = KIND == Kind::Q2K as u8;
    // Groups that 16 bits hold: `Shape::groups_in_16_bits`.
    let at_once = const { if shape(KIND).groups_in_16_bits() >= 4 { 4 } else { 2 } };
    // SAFETY: the caller passes a sub-block's bytes and scales, and where its words begin.
    unsafe {
        let x = panel.q.add(at * 4);
        let mut scale = [_mm256_setzero_si256(); H];
        for h in 0..H {
            let at = scales.add(h * 8);
            scale[h] = match q2 {
                true => _mm256_and_si256(scale_pairs::<false>(at), _mm256_set1_epi16(15)),
                false => scale_pairs::<true>(at),
            };
        }
        for part in 0..4 / at_once {
            let mut pairs = [[_mm256_setzero_si256(); W]; H];
            for i in 0..at_once {
                let g = part * at_once + i;
                let mut weights = [_mm256_setzero_si256(); H];
                for h in 0..H {
                    weights[h] = sixteen::<KIND>(data.add(h * 32), half, g);
                }
                dot(&mut pairs, weights, x.add(g * W));
            }
            widen(sums, &pairs, &scale);
        }
        for h in 0..H {
            // What the input's sums are multiplied by: scales where there is an offset, or minima.
            let bytes = _mm_loadl_epi64(scales.add(h * 8).cast());
            let factor = match q2 {
                true => _mm256_srli_epi32::<4>(_mm256_cvtepu8_epi32(bytes)),
                false => _mm256_cvtepi8_epi32(bytes),
            };
            for c in 0..W {
                let mut offset = word(panel.sums.add(at + c));
                if KIND == Kind::Q3K as u8 {
                    // From times 32 to times 4, exactly.
                    offset = _mm256_srai_epi32::<3>(offset);
                }
                let to = if q2 { &mut low[h][c] } else { &mut sums[h][c] };
                *to = _mm256_add_epi32(*to, _mm256_mullo_epi32(factor, offset));
            }
        }
    }
}

/// Group `g` (0 to 3) of half `half` of 32 columns, as unsigned bytes.
#[inline]
#[target_feature(enable = "avx2")]
unsafe fn sixteen<const KIND: u8>(data: *const u8, half: usize, g: usize) -> __m256i {
    // SAFETY: the caller passes half a sub-block's bytes.
    unsafe {
        if KIND == Kind::Q6K as u8 {
            let high = bits(load(data.add(half * 64)), 2 * g, 3);
            let low = group::<KIND>(data, half * 4 + g);
            return _mm256_or_si256(low, _mm256_slli_epi16::<4>(high));
        }
        let low = bits(load(data.add(const { layout(KIND).low_at() } + half * 64)), 2 * g, 3);
        if KIND == Kind::Q2K as u8 {
            return low;
        }
        let third = bits(load(data), half * 4 + g, 1);
        _mm256_or_si256(low, _mm256_slli_epi16::<2>(third))
    }
}

on_halves! {
    /// Kinds with one scale per 32 columns on both sides, with or without a minimum or a table.
    b32 = b32_halves
}

#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn b32_halves<const KIND: u8, const W: usize, const H: usize>(
    tile: *const u8,
    cols: usize,
    panel: &Panel,
    out: *mut f32,
    first: usize,
) {
    let layout = const { layout(KIND) };
    let mut total = [[_mm256_setzero_ps(); W]; H];
    // SAFETY: every address lies in the tile or the panel, by their layouts.
    unsafe {
        for b in 0..cols / 32 {
            let data = tile.add(layout.data_at(b) + first * 32);
            let mut sums = [[_mm256_setzero_si256(); W]; H];
            sub_b32::<KIND, W, H>(data, panel, b, &mut sums);
            for h in 0..H {
                let meta = tile.add(layout.meta_at(b) + (first + h) * 16);
                let d = if KIND == Kind::MXFP4 as u8 { wide(meta) } else { halves(meta) };
                add_scaled(&mut total[h], &sums[h], d, panel.d.add(b * W));
                if KIND == Kind::Q4_1 as u8 || KIND == Kind::Q5_1 as u8 {
                    let minimum = halves(meta.add(32));
                    for c in 0..W {
                        let negated = *panel.sums.add(b * W + c) as f32 * *panel.d.add(b * W + c);
                        total[h][c] =
                            _mm256_fnmadd_ps(minimum, _mm256_set1_ps(negated), total[h][c]);
                    }
                }
            }
        }
        store(&total, first, out);
    }
}

/// The products of 32 columns, without their scale; their offset is undone.
#[inline]
#[target_feature(enable = "avx2")]
unsafe fn sub_b32<const KIND: u8, const W: usize, const H: usize>(
    data: *const u8,
    panel: &Panel,
    b: usize,
    sums: &mut [[__m256i; W]; H],
) {
    let ones = _mm256_set1_epi16(1);
    let offset = const { shape(KIND).offset };
    // SAFETY: the caller passes a sub-block's bytes, and which it is.
    unsafe {
        let x = panel.q.add(b * 8 * W);
        if offset == 128 {
            // Too large for an offset in 16 bits.
            for h in 0..H {
                for g in 0..8 {
                    let weights = signed::<KIND>(data.add(h * 32), g);
                    dot_signed(&mut sums[h], weights, x.add(g * W), ones);
                }
            }
            return;
        }
        if offset > 0 {
            let times = _mm_cvtsi32_si128(offset.trailing_zeros() as i32);
            for c in 0..W {
                let undone = _mm256_sll_epi32(word(panel.sums.add(b * W + c)), times);
                for h in 0..H {
                    sums[h][c] = undone;
                }
            }
        }
        dot_unsigned::<KIND, W, H>(data, x, &[ones; H], sums);
    }
}

/// Kinds that lie in the tile as they are stored: each block is taken apart first, then multiplied as any other with
/// a scale per 16 columns.
///
/// # Safety
/// See the file's head.
#[target_feature(enable = "avx2,fma,f16c")]
pub unsafe fn as_stored<const KIND: u8, const W: usize>(
    tile: *const u8,
    cols: usize,
    panel: &Panel,
    out: *mut f32,
) {
    let kind = const { Kind::ALL[KIND as usize] };
    let mut total = [[_mm256_setzero_ps(); W]; 2];
    let mut open = Opened::new();
    // SAFETY: every address lies in the tile or the panel, by their layouts; those of `open` in its arrays.
    unsafe {
        let tile = std::slice::from_raw_parts(tile, const { layout(KIND) }.tile_bytes(cols));
        for b in 0..cols / 256 {
            open.fill(kind, tile, b);
            for (h, total) in total.iter_mut().enumerate() {
                let mut sums = [_mm256_setzero_si256(); W];
                for sub in 0..16 {
                    let scale = _mm_loadu_si128(open.scale[sub][h * 8..].as_ptr().cast());
                    let scale = _mm256_cvtepu16_epi32(scale);
                    let scale = _mm256_or_si256(scale, _mm256_slli_epi32::<16>(scale));
                    for g in sub * 4..sub * 4 + 4 {
                        let weights = load(open.q[g][h * 8..].as_ptr().cast());
                        let weights = _mm256_xor_si256(weights, _mm256_set1_epi8(-128));
                        let both = (weights, _mm256_abs_epi8(weights));
                        dot_signed(&mut sums, both, panel.q.add((b * 64 + g) * W), scale);
                    }
                }
                let d = _mm256_loadu_ps(open.d[h * 8..].as_ptr());
                add_scaled(total, &sums, d, panel.d.add(b * W));
            }
        }
        store(&total, 0, out);
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
                    wide(tile.add(k * 32 + h * 16))
                };
                for c in 0..W {
                    let x = _mm256_set1_ps(*panel.x.add(k * W + c));
                    total[c] = _mm256_fmadd_ps(weights, x, total[c]);
                }
            }
        }
        store(&total, 0, out);
    }
}
