//! The input of a product, prepared once for all rows: quantised to signed bytes in blocks, with columns interleaved in
//! groups so that a kernel broadcasts from neighbouring addresses.
//!
//! It does not know the weights, only which input format their kind requires. Rounding the input to 8 bits makes
//! integer dot products possible; llama.cpp makes the same trade-off. There is one scale per 256 values for the
//! K-quants (their superblock), and one per 32 for the others.
//!
//! A value that is not finite makes its block's scale NaN. So every output that depends on the value becomes NaN too.

use crate::cpu::isa::Isa;
use crate::cpu::pool::{Disjoint, Pool};

/// Values below which the input is made ready on the calling thread.
const PARALLEL_FROM: usize = 1 << 16;

/// What a kind of weights wants its input to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// f32 as it is.
    Dense,
    /// Bytes, a scale per 32.
    B32,
    /// Bytes, a scale per 256, sums per 16 and per 32.
    K256,
}

/// How many forms of input there are.
pub const FORMS: usize = 3;

impl Form {
    /// Columns per scale.
    fn block(self) -> usize {
        match self {
            Form::Dense => 1,
            Form::B32 => 32,
            Form::K256 => 256,
        }
    }

    /// Columns per entry of `sums`.
    fn sum(self) -> usize {
        match self {
            Form::K256 => 16,
            _ => 32,
        }
    }
}

/// One group's input as a kernel reads it: `w` vectors of `cols` values, interleaved.
#[derive(Debug, Clone, Copy)]
pub struct Panel {
    /// `[cols / 4][w]` words of 4 signed bytes.
    pub q: *const i32,
    /// Scales, `[cols / block][w]`.
    pub d: *const f32,
    /// Negated sums of 16 (K256: times 32) or 32 values, `[cols / 16 or 32][w]`.
    pub sums: *const i32,
    /// Sums of 32 values, two neighbours in one word as i16, `[cols / 64][w]`; K256 only.
    pub pairs: *const i32,
    /// `[cols][w]`; Dense only.
    pub x: *const f32,
}

/// How `n` input vectors are cut into groups: full ones, then one of the smallest width that holds the
/// rest (its last columns zero).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Groups {
    pub n: usize,
    pub width: usize,
}

impl Groups {
    /// Number of groups: one panel each.
    pub fn count(&self) -> usize {
        self.n.div_ceil(self.width)
    }

    /// Vectors in group `g`, and the width of the kernel that takes it: 1, 2, 4 or `width`.
    pub fn of(&self, g: usize) -> (usize, usize) {
        let used = (self.n - g * self.width).min(self.width);
        (used, used.next_power_of_two().min(self.width))
    }

    fn padded(&self) -> usize {
        let last = self.count().saturating_sub(1);
        if self.n == 0 { 0 } else { last * self.width + self.of(last).1 }
    }
}

/// One form of an input; buffers grow to the largest seen and stay.
#[derive(Debug, Default)]
pub struct Input {
    cols: usize,
    q: Vec<i32>,
    d: Vec<f32>,
    sums: Vec<i32>,
    pairs: Vec<i32>,
    x: Vec<f32>,
}

impl Input {
    /// Makes `x`, `[n][cols]`, ready in a form. `cols` is a whole number of the form's blocks.
    pub fn fill(
        &mut self,
        form: Form,
        x: &[f32],
        cols: usize,
        groups: Groups,
        isa: Isa,
        pool: &Pool,
    ) {
        let n = groups.padded();
        self.cols = cols;
        match form {
            Form::Dense => grow(&mut self.x, n * cols),
            Form::B32 | Form::K256 => {
                grow(&mut self.q, n * cols / 4);
                grow(&mut self.d, n * cols / form.block());
                grow(&mut self.sums, n * cols / form.sum());
            }
        }
        if form == Form::K256 {
            grow(&mut self.pairs, n * cols / 64);
        }
        let parts = Parts {
            q: Disjoint::new(&mut self.q),
            d: Disjoint::new(&mut self.d),
            sums: Disjoint::new(&mut self.sums),
            pairs: Disjoint::new(&mut self.pairs),
            x: Disjoint::new(&mut self.x),
        };
        let task = |g: usize| {
            let (used, w) = groups.of(g);
            let first = g * groups.width;
            let x = &x[first * cols..(first + used) * cols];
            // SAFETY: group `g`'s part of each buffer starts at its first vector and ends before the next
            // group's, so no two tasks share any; the buffers were grown to hold all groups.
            let group = unsafe { parts.group(form, first, w, cols) };
            fill_group(form, x, cols, group, isa);
        };
        if n * cols < PARALLEL_FROM {
            (0..groups.count()).for_each(task);
        } else {
            pool.run(groups.count(), &task);
        }
    }

    /// Group `g` as kernels read it.
    pub fn panel(&self, form: Form, groups: Groups, g: usize) -> Panel {
        let at = g * groups.width * self.cols;
        // Buffers that the form does not use are empty: their pointers are never read.
        Panel {
            q: self.q.as_ptr().wrapping_add(at / 4),
            d: self.d.as_ptr().wrapping_add(at / form.block()),
            sums: self.sums.as_ptr().wrapping_add(at / form.sum()),
            pairs: self.pairs.as_ptr().wrapping_add(at / 64),
            x: self.x.as_ptr().wrapping_add(at),
        }
    }
}

fn grow<T: Default + Clone>(buffer: &mut Vec<T>, len: usize) {
    if buffer.len() < len {
        buffer.resize(len, T::default());
    }
}

struct Parts<'a> {
    q: Disjoint<'a, i32>,
    d: Disjoint<'a, f32>,
    sums: Disjoint<'a, i32>,
    pairs: Disjoint<'a, i32>,
    x: Disjoint<'a, f32>,
}

struct Group<'a> {
    w: usize,
    q: &'a mut [i32],
    d: &'a mut [f32],
    sums: &'a mut [i32],
    pairs: &'a mut [i32],
    x: &'a mut [f32],
}

impl Parts<'_> {
    /// # Safety
    /// No two living groups may overlap, and the buffers hold `first + w` vectors of the form.
    unsafe fn group(&self, form: Form, first: usize, w: usize, cols: usize) -> Group<'_> {
        let (at, len) = (first * cols, w * cols);
        let (block, sum) = (form.block(), form.sum());
        let quantised = usize::from(form != Form::Dense);
        let dense = 1 - quantised;
        let paired = usize::from(form == Form::K256);
        // SAFETY: the caller's promise.
        unsafe {
            Group {
                w,
                q: self.q.part(quantised * at / 4, quantised * len / 4),
                d: self.d.part(quantised * at / block, quantised * len / block),
                sums: self.sums.part(quantised * at / sum, quantised * len / sum),
                pairs: self.pairs.part(paired * at / 64, paired * len / 64),
                x: self.x.part(dense * at, dense * len),
            }
        }
    }
}

/// Fills one group from its used vectors; the other columns become zero.
fn fill_group(form: Form, x: &[f32], cols: usize, mut group: Group<'_>, isa: Isa) {
    let w = group.w;
    if x.len() < w * cols {
        group.q.fill(0);
        group.d.fill(0.0);
        group.sums.fill(0);
        group.pairs.fill(0);
        group.x.fill(0.0);
    }
    for (c, x) in x.chunks_exact(cols.max(1)).enumerate() {
        match form {
            Form::Dense => {
                for (k, &v) in x.iter().enumerate() {
                    group.x[k * w + c] = v;
                }
            }
            Form::B32 => fill_b32(x, c, &mut group, isa),
            Form::K256 => fill_k256(x, c, &mut group, isa),
        }
    }
}

fn fill_b32(x: &[f32], c: usize, group: &mut Group<'_>, isa: Isa) {
    let w = group.w;
    let mut q = [0i8; 32];
    for (b, x) in x.as_chunks::<32>().0.iter().enumerate() {
        group.d[b * w + c] = quantize(x, &mut q, isa);
        put(&q, &mut group.q[b * 8 * w..], w, c);
        group.sums[b * w + c] = -q.iter().map(|&v| i32::from(v)).sum::<i32>();
    }
}

fn fill_k256(x: &[f32], c: usize, group: &mut Group<'_>, isa: Isa) {
    let w = group.w;
    let mut q = [0i8; 256];
    for (b, x) in x.as_chunks::<256>().0.iter().enumerate() {
        group.d[b * w + c] = quantize(x, &mut q, isa);
        put(&q, &mut group.q[b * 64 * w..], w, c);
        for (t, q) in q.as_chunks::<64>().0.iter().enumerate() {
            let sums: [i32; 4] =
                std::array::from_fn(|i| q[i * 16..i * 16 + 16].iter().map(|&v| i32::from(v)).sum());
            for (i, sum) in sums.iter().enumerate() {
                group.sums[(b * 16 + t * 4 + i) * w + c] = -32 * sum;
            }
            let (even, odd) = (sums[0] + sums[1], sums[2] + sums[3]);
            group.pairs[(b * 4 + t) * w + c] = even & 0xffff | odd << 16;
        }
    }
}

/// Writes a block's bytes as words, `w` apart.
fn put(q: &[i8], words: &mut [i32], w: usize, c: usize) {
    for (i, q) in q.as_chunks::<4>().0.iter().enumerate() {
        words[i * w + c] = i32::from_le_bytes(q.map(|b| b as u8));
    }
}

/// Rounds a block to signed bytes; returns the scale that takes them back.
fn quantize<const B: usize>(x: &[f32; B], q: &mut [i8; B], isa: Isa) -> f32 {
    #[cfg(target_arch = "x86_64")]
    if isa.has_avx2() {
        // SAFETY: `isa` says that this machine has AVX2.
        return unsafe { quantize_avx2(x, q) };
    }
    let _ = isa;
    quantize_plain(x, q)
}

/// The same code, compiled for wider registers.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
fn quantize_avx2<const B: usize>(x: &[f32; B], q: &mut [i8; B]) -> f32 {
    quantize_plain(x, q)
}

#[inline(always)]
fn quantize_plain<const B: usize>(x: &[f32; B], q: &mut [i8; B]) -> f32 {
    // The bits of absolute values are ordered as the values are, infinity and NaN on top.
    let top = x.iter().fold(0u32, |top, v| top.max(v.to_bits() & 0x7fff_ffff));
    let largest = f32::from_bits(top);
    if !largest.is_finite() || largest < 1e-30 {
        q.fill(0);
        return if largest.is_finite() { 0.0 } else { f32::NAN };
    }
    // Adding 1.5 * 2^23 rounds to the nearest integer (ties to even) and leaves it in the low bits.
    const ROUND: f32 = 12_582_912.0;
    let inverse = 127.0 / largest;
    for (q, v) in q.iter_mut().zip(x) {
        *q = (v * inverse + ROUND).to_bits() as i8;
    }
    largest / 127.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_hold_every_vector_once() {
        for n in 0..40 {
            for width in [4, 8] {
                let groups = Groups { n, width };
                let used: usize = (0..groups.count()).map(|g| groups.of(g).0).sum();
                assert_eq!(used, n);
                assert!((0..groups.count()).all(|g| groups.of(g).0 <= groups.of(g).1));
                assert!(groups.padded() >= n && groups.padded() < n + width);
            }
        }
    }

    #[test]
    fn rounding_is_to_nearest_and_odd_values_are_seen() {
        for isa in Isa::available() {
            let mut q = [0i8; 32];
            let x: [f32; 32] = std::array::from_fn(|i| i as f32 * 8.0 - 127.0);
            assert_eq!(quantize(&x, &mut q, isa), 1.0);
            assert!(q.iter().zip(&x).all(|(&q, &x)| f32::from(q) == x), "{q:?}");
            let mut small = x.map(|v| v * 1e-35);
            assert_eq!((quantize(&small, &mut q, isa), q[0]), (0.0, 0));
            small[31] = f32::NAN;
            assert!(quantize(&small, &mut q, isa).is_nan());
            small[31] = f32::NEG_INFINITY;
            assert!(quantize(&small, &mut q, isa).is_nan());
        }
    }
}
