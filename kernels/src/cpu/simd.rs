//! Sixteen f32 lanes, implemented once per instruction set: the basis of attention and the small operations.
//!
//! It contains arithmetic only. Kernels are generic over `Lanes` and always inlined into a function that enables the
//! features (`dispatch!`), so one source serves every instruction set, and plain arrays are the scalar version. (The
//! products of quantised weights are not written this way, because their instructions differ.)

use crate::float16::{f16_to_f32, f32_to_f16};

/// Sixteen lanes of f32.
///
/// # Safety
/// All functions need the implementing instruction set; those that take a pointer need 16 readable or
/// writable items there, without alignment.
pub trait Lanes: Copy {
    unsafe fn load(at: *const f32) -> Self;
    unsafe fn load_half(at: *const u16) -> Self;
    unsafe fn store(self, at: *mut f32);
    unsafe fn store_half(self, at: *mut u16);
    unsafe fn splat(value: f32) -> Self;
    unsafe fn add(self, other: Self) -> Self;
    unsafe fn sub(self, other: Self) -> Self;
    unsafe fn mul(self, other: Self) -> Self;
    unsafe fn div(self, other: Self) -> Self;
    /// `self * factor + sum`.
    unsafe fn mul_add(self, factor: Self, sum: Self) -> Self;
    /// The larger of the two where both are numbers; else either.
    unsafe fn max(self, other: Self) -> Self;
    /// e to the power of each, to about 2 units in the last place; too large ones give infinity, too small ones 0, and
    /// NaN stays.
    unsafe fn exp(self) -> Self;
    /// The sum of all lanes.
    unsafe fn total(self) -> f32;
    /// The largest of all lanes that are numbers.
    unsafe fn largest(self) -> f32;
}

/// Functions of two vectors, lane by lane: how each is computed from the `$a` and the `$b`.
macro_rules! lane_by_lane {
    ($a:ident, $b:ident; $($name:ident: $made:expr;)*) => {$(
        #[inline(always)]
        unsafe fn $name(self, other: Self) -> Self {
            let ($a, $b) = (self, other);
            $made
        }
    )*};
}

/// Plain arrays: the scalar twin.
#[derive(Clone, Copy)]
pub struct Plain([f32; 16]);

impl Plain {
    #[inline(always)]
    fn zip(self, other: Plain, f: impl Fn(f32, f32) -> f32) -> Plain {
        Plain(std::array::from_fn(|i| f(self.0[i], other.0[i])))
    }
}

impl Lanes for Plain {
    #[inline(always)]
    unsafe fn load(at: *const f32) -> Plain {
        // SAFETY: the trait's promise.
        Plain(unsafe { at.cast::<[f32; 16]>().read_unaligned() })
    }
    #[inline(always)]
    unsafe fn load_half(at: *const u16) -> Plain {
        // SAFETY: the trait's promise.
        Plain(unsafe { at.cast::<[u16; 16]>().read_unaligned() }.map(f16_to_f32))
    }
    #[inline(always)]
    unsafe fn store(self, at: *mut f32) {
        // SAFETY: the trait's promise.
        unsafe { at.cast::<[f32; 16]>().write_unaligned(self.0) };
    }
    #[inline(always)]
    unsafe fn store_half(self, at: *mut u16) {
        // SAFETY: the trait's promise.
        unsafe { at.cast::<[u16; 16]>().write_unaligned(self.0.map(f32_to_f16)) };
    }
    #[inline(always)]
    unsafe fn splat(value: f32) -> Plain {
        Plain([value; 16])
    }
    lane_by_lane! { a, b;
        add: a.zip(b, |a, b| a + b);
        sub: a.zip(b, |a, b| a - b);
        mul: a.zip(b, |a, b| a * b);
        div: a.zip(b, |a, b| a / b);
        max: a.zip(b, f32::max);
    }
    #[inline(always)]
    unsafe fn mul_add(self, factor: Plain, sum: Plain) -> Plain {
        Plain(std::array::from_fn(|i| self.0[i] * factor.0[i] + sum.0[i]))
    }
    #[inline(always)]
    unsafe fn exp(self) -> Plain {
        Plain(self.0.map(f32::exp))
    }
    #[inline(always)]
    unsafe fn total(self) -> f32 {
        self.0.iter().sum()
    }
    #[inline(always)]
    unsafe fn largest(self) -> f32 {
        self.0.iter().copied().fold(f32::NEG_INFINITY, f32::max)
    }
}

/// e^x = 2^n e^r with |r| <= ln 2 / 2: coefficients of e^r, highest first (minimax, as in Cephes expf).
#[cfg(target_arch = "x86_64")]
const EXP: [f32; 8] =
    [1.987_569_1e-4, 1.398_199_9e-3, 8.333_452e-3, 4.166_579_6e-2, 1.666_666_5e-1, 0.5, 1.0, 1.0];
/// ln 2 in two parts: the first has few bits, so that n times it is exact.
#[cfg(target_arch = "x86_64")]
const LN2: [f32; 2] = [0.693_359_4, -2.121_944_4e-4];

#[cfg(target_arch = "x86_64")]
pub use x86::{Avx2, Avx512};

#[cfg(target_arch = "x86_64")]
mod x86 {
    use super::{EXP, LN2, Lanes};
    use std::arch::x86_64::*;

    /// One 512-bit register.
    #[derive(Clone, Copy)]
    pub struct Avx512(__m512);

    /// Two 256-bit registers.
    #[derive(Clone, Copy)]
    pub struct Avx2(__m256, __m256);

    // SAFETY of every block below: the trait's promise (the instruction set, and 16 items at a pointer).
    #[allow(clippy::undocumented_unsafe_blocks, reason = "all rest on the trait's one promise")]
    impl Lanes for Avx512 {
        #[inline(always)]
        unsafe fn load(at: *const f32) -> Self {
            Avx512(unsafe { _mm512_loadu_ps(at) })
        }
        #[inline(always)]
        unsafe fn load_half(at: *const u16) -> Self {
            Avx512(unsafe { _mm512_cvtph_ps(_mm256_loadu_si256(at.cast())) })
        }
        #[inline(always)]
        unsafe fn store(self, at: *mut f32) {
            unsafe { _mm512_storeu_ps(at, self.0) };
        }
        #[inline(always)]
        unsafe fn store_half(self, at: *mut u16) {
            let half = unsafe { _mm512_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(self.0) };
            unsafe { _mm256_storeu_si256(at.cast(), half) };
        }
        #[inline(always)]
        unsafe fn splat(value: f32) -> Self {
            Avx512(unsafe { _mm512_set1_ps(value) })
        }
        lane_by_lane! { a, b;
            add: Avx512(unsafe { _mm512_add_ps(a.0, b.0) });
            sub: Avx512(unsafe { _mm512_sub_ps(a.0, b.0) });
            mul: Avx512(unsafe { _mm512_mul_ps(a.0, b.0) });
            div: Avx512(unsafe { _mm512_div_ps(a.0, b.0) });
            max: Avx512(unsafe { _mm512_max_ps(a.0, b.0) });
        }
        #[inline(always)]
        unsafe fn mul_add(self, factor: Self, sum: Self) -> Self {
            Avx512(unsafe { _mm512_fmadd_ps(self.0, factor.0, sum.0) })
        }
        #[inline(always)]
        unsafe fn exp(self) -> Self {
            unsafe {
                // Operand order: a NaN in the second stays.
                let x = _mm512_min_ps(_mm512_set1_ps(89.0), self.0);
                let x = _mm512_max_ps(_mm512_set1_ps(-110.0), x);
                let scaled = _mm512_mul_ps(x, _mm512_set1_ps(std::f32::consts::LOG2_E));
                let n = _mm512_roundscale_ps::<{ _MM_FROUND_TO_NEAREST_INT }>(scaled);
                let r = _mm512_fnmadd_ps(n, _mm512_set1_ps(LN2[0]), x);
                let r = _mm512_fnmadd_ps(n, _mm512_set1_ps(LN2[1]), r);
                let mut y = _mm512_set1_ps(EXP[0]);
                for c in &EXP[1..] {
                    y = _mm512_fmadd_ps(y, r, _mm512_set1_ps(*c));
                }
                Avx512(_mm512_scalef_ps(y, n))
            }
        }
        #[inline(always)]
        unsafe fn total(self) -> f32 {
            unsafe { _mm512_reduce_add_ps(self.0) }
        }
        #[inline(always)]
        unsafe fn largest(self) -> f32 {
            unsafe { _mm512_reduce_max_ps(self.0) }
        }
    }

    #[inline(always)]
    unsafe fn exp8(x: __m256) -> __m256 {
        // SAFETY: the trait's promise.
        unsafe {
            // Operand order: a NaN in the second stays.
            let x = _mm256_min_ps(_mm256_set1_ps(89.0), x);
            let x = _mm256_max_ps(_mm256_set1_ps(-110.0), x);
            let scaled = _mm256_mul_ps(x, _mm256_set1_ps(std::f32::consts::LOG2_E));
            let n = _mm256_round_ps::<{ _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC }>(scaled);
            let r = _mm256_fnmadd_ps(n, _mm256_set1_ps(LN2[0]), x);
            let r = _mm256_fnmadd_ps(n, _mm256_set1_ps(LN2[1]), r);
            let mut y = _mm256_set1_ps(EXP[0]);
            for c in &EXP[1..] {
                y = _mm256_fmadd_ps(y, r, _mm256_set1_ps(*c));
            }
            // In two steps, because no float is 2^128 or 2^-150: so the largest become infinity, the smallest 0.
            let n = _mm256_cvtps_epi32(n);
            let half = _mm256_srai_epi32::<1>(n);
            let power = |n: __m256i| {
                let exponent = _mm256_add_epi32(n, _mm256_set1_epi32(127));
                _mm256_castsi256_ps(_mm256_slli_epi32::<23>(exponent))
            };
            _mm256_mul_ps(_mm256_mul_ps(y, power(half)), power(_mm256_sub_epi32(n, half)))
        }
    }

    // SAFETY of every block below: the trait's promise (the instruction set, and 16 items at a pointer).
    #[allow(clippy::undocumented_unsafe_blocks, reason = "all rest on the trait's one promise")]
    impl Lanes for Avx2 {
        #[inline(always)]
        unsafe fn load(at: *const f32) -> Self {
            unsafe { Avx2(_mm256_loadu_ps(at), _mm256_loadu_ps(at.add(8))) }
        }
        #[inline(always)]
        unsafe fn load_half(at: *const u16) -> Self {
            unsafe {
                let low = _mm256_cvtph_ps(_mm_loadu_si128(at.cast()));
                Avx2(low, _mm256_cvtph_ps(_mm_loadu_si128(at.add(8).cast())))
            }
        }
        #[inline(always)]
        unsafe fn store(self, at: *mut f32) {
            unsafe {
                _mm256_storeu_ps(at, self.0);
                _mm256_storeu_ps(at.add(8), self.1);
            }
        }
        #[inline(always)]
        unsafe fn store_half(self, at: *mut u16) {
            unsafe {
                let low = _mm256_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(self.0);
                let high = _mm256_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(self.1);
                _mm_storeu_si128(at.cast(), low);
                _mm_storeu_si128(at.add(8).cast(), high);
            }
        }
        #[inline(always)]
        unsafe fn splat(value: f32) -> Self {
            unsafe { Avx2(_mm256_set1_ps(value), _mm256_set1_ps(value)) }
        }
        lane_by_lane! { a, b;
            add: unsafe { Avx2(_mm256_add_ps(a.0, b.0), _mm256_add_ps(a.1, b.1)) };
            sub: unsafe { Avx2(_mm256_sub_ps(a.0, b.0), _mm256_sub_ps(a.1, b.1)) };
            mul: unsafe { Avx2(_mm256_mul_ps(a.0, b.0), _mm256_mul_ps(a.1, b.1)) };
            div: unsafe { Avx2(_mm256_div_ps(a.0, b.0), _mm256_div_ps(a.1, b.1)) };
            max: unsafe { Avx2(_mm256_max_ps(a.0, b.0), _mm256_max_ps(a.1, b.1)) };
        }
        #[inline(always)]
        unsafe fn mul_add(self, factor: Self, sum: Self) -> Self {
            unsafe {
                let low = _mm256_fmadd_ps(self.0, factor.0, sum.0);
                Avx2(low, _mm256_fmadd_ps(self.1, factor.1, sum.1))
            }
        }
        #[inline(always)]
        unsafe fn exp(self) -> Self {
            unsafe { Avx2(exp8(self.0), exp8(self.1)) }
        }
        #[inline(always)]
        unsafe fn total(self) -> f32 {
            unsafe {
                let both = _mm256_add_ps(self.0, self.1);
                let four =
                    _mm_add_ps(_mm256_castps256_ps128(both), _mm256_extractf128_ps::<1>(both));
                let two = _mm_add_ps(four, _mm_movehl_ps(four, four));
                _mm_cvtss_f32(_mm_add_ss(two, _mm_shuffle_ps::<1>(two, two)))
            }
        }
        #[inline(always)]
        unsafe fn largest(self) -> f32 {
            unsafe {
                let both = _mm256_max_ps(self.0, self.1);
                let four =
                    _mm_max_ps(_mm256_castps256_ps128(both), _mm256_extractf128_ps::<1>(both));
                let two = _mm_max_ps(four, _mm_movehl_ps(four, four));
                _mm_cvtss_f32(_mm_max_ss(two, _mm_shuffle_ps::<1>(two, two)))
            }
        }
    }
}

/// Defines `$name`, which runs the generic kernel `$kernel::<L>` with the lanes of an `Isa` (its first
/// argument) inside a function compiled for them. `unsafe` because kernels are; their promises pass on.
macro_rules! dispatch {
    ($(#[$meta:meta])* $name:ident = $kernel:ident ( $($arg:ident : $type:ty),* $(,)? ) $(-> $ret:ty)?) => {
        $(#[$meta])*
        #[allow(clippy::too_many_arguments, reason = "kernels take their shapes one by one")]
        pub(crate) unsafe fn $name(isa: $crate::cpu::isa::Isa, $($arg: $type),*) $(-> $ret)? {
            #[cfg(target_arch = "x86_64")]
            {
                #[allow(clippy::too_many_arguments, reason = "as above")]
                #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c")]
                unsafe fn avx512($($arg: $type),*) $(-> $ret)? {
                    // SAFETY: the features are enabled here; the rest is the caller's promise.
                    unsafe { $kernel::<$crate::cpu::simd::Avx512>($($arg),*) }
                }
                #[allow(clippy::too_many_arguments, reason = "as above")]
                #[target_feature(enable = "avx2,fma,f16c")]
                unsafe fn avx2($($arg: $type),*) $(-> $ret)? {
                    // SAFETY: the features are enabled here; the rest is the caller's promise.
                    unsafe { $kernel::<$crate::cpu::simd::Avx2>($($arg),*) }
                }
                if isa.has_avx512() {
                    // SAFETY: `isa` says that this machine has the features.
                    return unsafe { avx512($($arg),*) };
                }
                if isa.has_avx2() {
                    // SAFETY: `isa` says that this machine has the features.
                    return unsafe { avx2($($arg),*) };
                }
            }
            let _ = isa;
            // SAFETY: plain arrays need no features; the rest is the caller's promise.
            unsafe { $kernel::<$crate::cpu::simd::Plain>($($arg),*) }
        }
    };
}
pub(crate) use dispatch;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cpu::isa::Isa;
    use proptest::array::uniform16;
    use proptest::prelude::*;

    #[inline(always)]
    unsafe fn exp_all<L: Lanes>(values: &mut [f32; 16]) -> (f32, f32) {
        // SAFETY: 16 items.
        unsafe {
            let x = L::load(values.as_ptr());
            x.exp().store(values.as_mut_ptr());
            (x.total(), x.largest())
        }
    }
    dispatch!(exp = exp_all(values: &mut [f32; 16]) -> (f32, f32));

    #[test]
    fn exp_is_right_over_its_range_and_at_its_ends() {
        for isa in Isa::available() {
            for step in 0..2000 {
                let x: [f32; 16] = std::array::from_fn(|i| (step * 16 + i) as f32 * 0.0054 - 86.5);
                let mut y = x;
                // SAFETY: `isa` is available.
                let (total, largest) = unsafe { exp(isa, &mut y) };
                assert!(
                    (f64::from(total) - x.iter().map(|&v| f64::from(v)).sum::<f64>()).abs() < 1e-3
                );
                assert_eq!(largest, x[15]);
                for (x, y) in x.iter().zip(y) {
                    let right = f64::from(*x).exp();
                    assert!((f64::from(y) / right - 1.0).abs() < 4e-7, "{isa:?} {x}: {y}");
                }
            }
            let ends =
                [f32::NEG_INFINITY, f32::MIN, -1e25, -200.0, -104.1, 88.73, 89.0, 200.0, 1e25];
            let mut y = [f32::NAN; 16];
            y[..9].copy_from_slice(&ends);
            (y[9], y[10], y[11]) = (f32::INFINITY, 0.0, 88.72);
            // SAFETY: `isa` is available.
            unsafe { exp(isa, &mut y) };
            assert_eq!(y[..5], [0.0; 5], "{isa:?}");
            assert_eq!(y[5..10], [f32::INFINITY; 5], "{isa:?}");
            let near_the_top = f64::from(y[11]) / f64::from(88.72f32).exp();
            assert!(y[10] == 1.0 && (near_the_top - 1.0).abs() < 4e-7, "{isa:?}: {y:?}");
            assert!(y[12..].iter().all(|y| y.is_nan()));
        }
    }

    proptest! {
        /// Where e^x is a denormal number, to two of its last places.
        #[test]
        fn exp_of_anything_is_right_with_every_instruction_set(
            x in uniform16(prop_oneof![any::<u32>().prop_map(f32::from_bits), -120f32..95.0]),
        ) {
            for isa in Isa::available() {
                let mut y = x;
                // SAFETY: `isa` is available.
                unsafe { exp(isa, &mut y) };
                for (x, y) in x.into_iter().zip(y) {
                    let right = f64::from(x).exp() as f32;
                    let near = (y - right).abs() <= 4e-7 * right + 3e-45;
                    let same = near || y == right || (y.is_nan() && right.is_nan());
                    prop_assert!(same, "{isa:?} {x}: {y}");
                }
            }
        }
    }
}
