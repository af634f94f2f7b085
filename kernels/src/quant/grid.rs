//! What the IQ1, IQ2 and IQ3 kinds share: lists of four or eight numbers each, and their signs.
//!
//! A file stores indices into these lists. They are part of the file format; `scripts/quant_grids.py` wrote
//! `grids.bin` from ggml's. Knows no block. In a tile of the CPU such blocks lie as they are stored, since taken apart
//! they would be three to five times as large: `Blocks::tile` is `None`, and one kernel takes all of them apart.

/// The lists one after the other, a signed byte a number.
const GRIDS: &[u8] = include_bytes!("grids.bin");

pub(super) const IQ3_XXS: &[[u8; 4]] = list(0, 256);
pub(super) const IQ3_S: &[[u8; 4]] = list(1024, 512);
pub(super) const IQ2_XXS: &[[u8; 8]] = list(3072, 256);
pub(super) const IQ2_XS: &[[u8; 8]] = list(5120, 512);
pub(super) const IQ2_S: &[[u8; 8]] = list(9216, 1024);
pub(super) const IQ1: &[[u8; 8]] = list(17408, 2048);

/// The list of so many entries that begins at byte `at`.
const fn list<const N: usize>(at: usize, entries: usize) -> &'static [[u8; N]] {
    GRIDS.split_at(at).1.split_at(entries * N).0.as_chunks().0
}

/// What [`put_signed`] stores for 0, the `zero` of such blocks.
pub(super) const ZERO: u8 = 128;

/// Stores numbers of these sizes; those whose bit in `signs` is set are negative.
pub(super) fn put_signed(q: &mut [u8], sizes: &[u8], signs: u8) {
    for (i, (q, size)) in q.iter_mut().zip(sizes).enumerate() {
        let negative = (signs >> i & 1).wrapping_neg();
        // Minus x is the complement of x, plus 1.
        *q = ZERO.wrapping_add((size ^ negative).wrapping_sub(negative));
    }
}

/// Stores eight numbers of [`IQ1`], which are -1, 0 or 1, times 8 and shifted by one: up, or down if `down` is not 0.
pub(super) fn put_shifted(q: &mut [u8], numbers: &[u8; 8], down: bool) {
    let shift = if down { ZERO - 1 } else { ZERO + 1 };
    for (q, number) in q.iter_mut().zip(numbers) {
        *q = shift.wrapping_add(number.wrapping_mul(8));
    }
}

/// Eight signs of which seven are stored: the number of negative ones is even.
pub(super) fn even_signs(seven: u32) -> u8 {
    let seven = (seven & 127) as u8;
    seven | (seven.count_ones() as u8 & 1) << 7
}

/// The odd number that stands for `bits`.
pub(super) fn odd(bits: u32) -> i16 {
    2 * (bits as i16) + 1
}

/// The root of the mean square of [`odd`] numbers of 4 and of 3 random bits.
pub(super) const ODD_OF_16: f32 = 18.47;
pub(super) const ODD_OF_8: f32 = 9.22;
