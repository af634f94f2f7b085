//! What the IQ1, IQ2 and IQ3 kinds share: lists of four or eight numbers each, and their signs.
//!
//! A file stores indices into these lists. The lists are part of the file format; `scripts/quant_grids.py` made
//! `grids.bin` from ggml's. It does not know about blocks. In a CPU tile such blocks stay as stored, because unpacked
//! they would be three to five times as large. So `Blocks::tile` is `None`, and one kernel unpacks all of these kinds.

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

/// Bytes with all bits set where a bit of the index is.
const MASKS: [u64; 256] = {
    let (mut masks, mut bits) = ([0; 256], 0);
    while bits < 256 {
        let mut i = 0;
        while i < 8 {
            masks[bits] |= if bits >> i & 1 == 1 { 0xff << (8 * i) } else { 0 };
            i += 1;
        }
        bits += 1;
    }
    masks
};

/// The same byte eight times.
const fn each(byte: u8) -> u64 {
    u64::from_le_bytes([byte; 8])
}

/// Stores up to eight numbers of these sizes, none of which is 0; those whose bit in `signs` is set are negative.
///
/// All at once, a byte each: minus x is the complement of x, plus 1, and no byte overflows since x is not 0.
#[inline(always)]
pub(super) fn put_signed<const N: usize>(q: &mut [u8], sizes: &[u8; N], signs: u8) {
    let mut bytes = [0; 8];
    bytes[..N].copy_from_slice(sizes);
    let negative = MASKS[usize::from(signs)];
    let number = (u64::from_le_bytes(bytes) ^ negative).wrapping_add(negative & each(1));
    q[..N].copy_from_slice(&(number ^ each(ZERO)).to_le_bytes()[..N]);
}

/// Stores eight numbers of [`IQ1`], which are -1, 0 or 1, times 8 and shifted by one: up, or down if `down` is not 0.
#[inline(always)]
pub(super) fn put_shifted(q: &mut [u8], numbers: &[u8; 8], down: bool) {
    // A byte each: -1 is all bits, so shifting it gives -8 once the bits of its neighbour are off.
    let eights = (u64::from_le_bytes(*numbers) << 3 & each(0xf8)) ^ each(ZERO);
    let shifted = if down { eights - each(1) } else { eights + each(1) };
    q[..8].copy_from_slice(&shifted.to_le_bytes());
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_get_their_signs_and_shifts() {
        for signs in 0..=255u8 {
            let sizes: [u8; 8] =
                std::array::from_fn(|i| 1 + signs.wrapping_mul(7) % 40 + 3 * i as u8);
            let (mut eight, mut four) = ([0; 8], [0; 4]);
            put_signed(&mut eight, &sizes, signs);
            put_signed(&mut four, &[sizes[0], sizes[1], sizes[2], sizes[3]], signs);
            for i in 0..8 {
                let size = i16::from(sizes[i]);
                let number = if signs >> i & 1 == 1 { -size } else { size };
                assert_eq!(i16::from(eight[i]) - 128, number);
                assert!(i > 3 || four[i] == eight[i]);
            }
        }
        for (numbers, down) in IQ1.iter().flat_map(|numbers| [(numbers, false), (numbers, true)]) {
            let mut q = [0; 8];
            put_shifted(&mut q, numbers, down);
            for (q, number) in q.iter().zip(numbers) {
                let shift = if down { -1 } else { 1 };
                assert_eq!(i16::from(*q) - 128, 8 * i16::from(number.cast_signed()) + shift);
            }
        }
    }

    /// What `put_signed` rests on.
    #[test]
    fn no_size_is_zero_and_all_fit_seven_bits() {
        let fours = IQ3_XXS.iter().chain(IQ3_S).flatten();
        let eights = IQ2_XXS.iter().chain(IQ2_XS).chain(IQ2_S).flatten();
        assert!(fours.chain(eights).all(|size| (1..=62).contains(size)));
        assert!(IQ1.iter().flatten().all(|number| matches!(number.cast_signed(), -1..=1)));
    }
}
