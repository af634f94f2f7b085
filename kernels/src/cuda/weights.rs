//! How weights lie on a card: quantised rows taken apart into planes of equal pieces.
//!
//! A file's blocks are 18 to 210 bytes long: few of them start where a card's 16-byte loads may. So what a block
//! holds is sorted by size into planes, each `[rows][columns / block]` of one piece: the low bits (16 or 32 bytes
//! for 32 numbers), further bits, scales. Every piece then is aligned, neighbouring threads read neighbouring
//! pieces, and a matrix takes exactly the bytes that it takes in the file. Numbers are changed only so that
//! kernels need fewer steps: bits of one word's four numbers stand side by side, and an offset of 8 or 32 has
//! become a sign bit. `quant.cuh` reads the planes.
//!
//! | kind | low bits of 32 numbers | further bits | scales | scales of scales |
//! |---|---|---|---|---|
//! | Q8_0 | 32 bytes | | f16 per 32 | |
//! | Q4_0 | 16: number i and 16 + i, sign bit flipped | | f16 per 32 | |
//! | Q4_K | 16: number i and 16 + i | | 16 bytes per 256 ([`Planes::head`]) | |
//! | Q5_K | as Q4_K | 4: bit w of byte b is number 4 w + b's | as Q4_K | |
//! | Q6_K | as Q4_K | 8: bits 2 w of byte b are 4 w + b's, sign bit flipped | 2 int8 per 32 | f16 per 256 |
//!
//! The file's formats are ggml's. Pure: knows no card. Not here: interleaving rows for tensor cores' fragments;
//! shared memory does that as well, and rows can be loaded (and embedded) one by one.

use super::acts::ActKind;
pub use crate::kind::WeightKind;
use std::ops::Range;

impl WeightKind {
    /// The form in which a product with such weights takes its inputs.
    pub fn input_kind(self) -> ActKind {
        match self {
            WeightKind::F32 => ActKind::F32,
            WeightKind::F16 => ActKind::F16,
            WeightKind::BF16 => ActKind::BF16,
            _ => ActKind::Q8,
        }
    }

    /// Bytes of a block that go to each plane: low bits, further bits, scales, scales of scales.
    fn shares(self) -> [usize; 4] {
        match self {
            WeightKind::F32 | WeightKind::F16 | WeightKind::BF16 => [self.block_bytes(), 0, 0, 0],
            WeightKind::Q8_0 => [32, 0, 2, 0],
            WeightKind::Q4_0 => [16, 0, 2, 0],
            WeightKind::Q4K => [128, 0, 16, 0],
            WeightKind::Q5K => [128, 32, 16, 0],
            WeightKind::Q6K => [128, 64, 16, 2],
        }
    }
}

/// Where the planes of a matrix lie in its memory, one after the other. All but the last have whole 16 bytes
/// for every row, so that each starts where a 16-byte load may.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PlaneLayout {
    kind: WeightKind,
    rows: usize,
    /// Bytes of a row in each plane.
    row: [usize; 4],
}

/// Bytes of some rows to be copied into a matrix.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Piece {
    /// Place in the matrix's memory.
    pub at: usize,
    /// Place in what [`planes`] wrote for those rows.
    pub from: Range<usize>,
}

impl PlaneLayout {
    /// `None` if rows are no whole blocks, or there is no counting the bytes.
    pub fn new(kind: WeightKind, rows: usize, columns: usize) -> Option<PlaneLayout> {
        kind.row_bytes(columns)?.checked_mul(rows)?;
        let blocks = columns / kind.block();
        Some(PlaneLayout { kind, rows, row: kind.shares().map(|bytes| bytes * blocks) })
    }

    /// Bytes of the whole matrix: as many as in the file.
    pub fn bytes(&self) -> usize {
        self.offset(4)
    }

    /// Where plane `plane` starts: 0 low bits, 1 further bits, 2 scales, 3 scales of scales.
    pub fn offset(&self, plane: usize) -> usize {
        self.row[..plane].iter().sum::<usize>() * self.rows
    }

    /// Bytes of plane `plane`.
    pub fn len(&self, plane: usize) -> usize {
        self.row[plane] * self.rows
    }

    /// What to copy where for the `rows` rows from `first` on, which [`planes`] has written by themselves.
    /// Panics if there are no such rows.
    pub fn pieces(&self, first: usize, rows: usize) -> impl Iterator<Item = Piece> + use<> {
        assert!(first + rows <= self.rows, "{rows} rows from {first} on are not in {}", self.rows);
        let (whole, part) = (*self, PlaneLayout { rows, ..*self });
        (0..4).filter(move |plane| part.len(*plane) > 0).map(move |plane| Piece {
            at: whole.offset(plane) + first * whole.row[plane],
            from: part.offset(plane)..part.offset(plane + 1),
        })
    }
}

/// One block's places in the four planes.
struct Planes<'a> {
    low: &'a mut [u8],
    high: &'a mut [u8],
    scales: &'a mut [u8],
    supers: &'a mut [u8],
}

/// Rearranges `rows` rows as stored into planes: a [`PlaneLayout`] of just those rows. Panics if `bytes` or `out`
/// has another length than `rows` rows of whole blocks.
pub fn planes(kind: WeightKind, rows: usize, columns: usize, bytes: &[u8], out: &mut [u8]) {
    let layout = PlaneLayout::new(kind, rows, columns).expect("rows of whole blocks");
    assert_eq!((bytes.len(), out.len()), (layout.bytes(), layout.bytes()), "bytes of {rows} rows");
    if !kind.is_quantised() {
        return out.copy_from_slice(bytes);
    }
    let (low, rest) = out.split_at_mut(layout.len(0));
    let (high, rest) = rest.split_at_mut(layout.len(1));
    let (scales, supers) = rest.split_at_mut(layout.len(2));
    let shares = kind.shares();
    for (at, block) in bytes.chunks_exact(kind.block_bytes()).enumerate() {
        let place = |share: usize| at * share..(at + 1) * share;
        let planes = Planes {
            low: &mut low[place(shares[0])],
            high: &mut high[place(shares[1])],
            scales: &mut scales[place(shares[2])],
            supers: &mut supers[place(shares[3])],
        };
        match kind {
            WeightKind::Q8_0 => planes.q8_0(block),
            WeightKind::Q4_0 => planes.q4_0(block),
            WeightKind::Q4K => planes.q4k(block),
            WeightKind::Q5K => planes.q5k(block),
            _ => planes.q6k(block),
        }
    }
}

impl Planes<'_> {
    fn q8_0(self, block: &[u8]) {
        self.scales.copy_from_slice(&block[..2]);
        self.low.copy_from_slice(&block[2..]);
    }

    fn q4_0(self, block: &[u8]) {
        self.scales.copy_from_slice(&block[..2]);
        for (to, from) in self.low.iter_mut().zip(&block[2..]) {
            *to = from ^ 0x88;
        }
    }

    fn q4k(self, block: &[u8]) {
        Planes::head(self.scales, block);
        Planes::nibbles(self.low, &block[16..]);
    }

    fn q5k(self, block: &[u8]) {
        Planes::head(self.scales, block);
        Planes::nibbles(self.low, &block[48..]);
        let high = &block[16..48];
        for (group, out) in self.high.chunks_exact_mut(4).enumerate() {
            for (byte, out) in out.iter_mut().enumerate() {
                let bit = |word: usize| (high[4 * word + byte] >> group & 1) << word;
                *out = (0..8).map(bit).fold(0, |all, bit| all | bit);
            }
        }
    }

    fn q6k(self, block: &[u8]) {
        self.scales.copy_from_slice(&block[192..208]);
        self.supers.copy_from_slice(&block[208..]);
        for (group, out) in self.low.chunks_exact_mut(16).enumerate() {
            let (part, from) = (group % 4, group / 4 * 64 + group % 2 * 32);
            let (low, shift) = (&block[from..from + 32], part / 2 * 4);
            for (i, out) in out.iter_mut().enumerate() {
                *out = low[i] >> shift & 15 | (low[i + 16] >> shift & 15) << 4;
            }
        }
        for (group, out) in self.high.chunks_exact_mut(8).enumerate() {
            let (shift, from) = (group % 4 * 2, 128 + group / 4 * 32);
            let high = &block[from..from + 32];
            for (byte, out) in out.iter_mut().enumerate() {
                let at = |word: usize| high[byte / 4 * 16 + 4 * word + byte % 4];
                let bits = |word: usize| (at(word) >> shift & 3 ^ 2) << (2 * word);
                *out = (0..4).map(bits).fold(0, |all, bits| all | bits);
            }
        }
    }

    /// The 4-bit numbers of 256: the file has group 2 p in the low halves of 32 bytes and 2 p + 1 in the high ones.
    fn nibbles(out: &mut [u8], stored: &[u8]) {
        for (out, from) in out.chunks_exact_mut(32).zip(stored.chunks_exact(32)) {
            let (first, second) = from.split_at(16);
            for i in 0..16 {
                out[i] = first[i] & 15 | second[i] << 4;
                out[16 + i] = first[i] >> 4 | second[i] & 0xf0;
            }
        }
    }

    /// The head of 256 numbers: d and dmin (f16 each), then three words with 4 bits for each of the 8 groups:
    /// low bits of its scale, low bits of its minimum, and the two high bits of both, the scale's first.
    fn head(out: &mut [u8], block: &[u8]) {
        out[..4].copy_from_slice(&block[..4]);
        let packed = &block[4..16];
        let [mut scales, mut mins, mut highs] = [0u32; 3];
        for group in 0..8 {
            let (scale, min) = group_scale(packed, group);
            let (scale, min, at) = (u32::from(scale), u32::from(min), 4 * group);
            scales |= (scale & 15) << at;
            mins |= (min & 15) << at;
            highs |= (scale >> 4 | min >> 4 << 2) << at;
        }
        for (out, word) in out[4..].chunks_exact_mut(4).zip([scales, mins, highs]) {
            out.copy_from_slice(&word.to_le_bytes());
        }
    }
}

/// The 6-bit scale and minimum of a group of 32 in Q4_K's and Q5_K's 12 bytes.
fn group_scale(packed: &[u8], group: usize) -> (u8, u8) {
    match group {
        0..4 => (packed[group] & 63, packed[group + 4] & 63),
        _ => (
            packed[group + 4] & 15 | packed[group - 4] >> 6 << 4,
            packed[group + 4] >> 4 | packed[group] >> 6 << 4,
        ),
    }
}

/// The values of whole blocks as stored, written straight from the formats' definition: for checks. Panics if
/// `out` has another length.
#[cfg(any(test, feature = "known-answers"))]
pub fn dequantise_reference(kind: WeightKind, bytes: &[u8], out: &mut [f32]) {
    use half::{bf16, f16};
    let blocks = bytes.chunks_exact(kind.block_bytes());
    assert_eq!(out.len(), blocks.len() * kind.block(), "values of {} blocks", blocks.len());
    for (block, out) in blocks.zip(out.chunks_exact_mut(kind.block())) {
        let half = |at: usize| f16::from_le_bytes([block[at], block[at + 1]]).to_f32();
        for (i, out) in out.iter_mut().enumerate() {
            *out = match kind {
                WeightKind::F32 => f32::from_le_bytes([block[0], block[1], block[2], block[3]]),
                WeightKind::F16 => half(0),
                WeightKind::BF16 => bf16::from_le_bytes([block[0], block[1]]).to_f32(),
                WeightKind::Q8_0 => half(0) * f32::from(block[2 + i] as i8),
                WeightKind::Q4_0 => {
                    half(0) * (f32::from(block[2 + i % 16] >> (i / 16 * 4) & 15) - 8.0)
                }
                WeightKind::Q4K | WeightKind::Q5K => {
                    let (scale, min) = group_scale(&block[4..16], i / 32);
                    let low = if kind == WeightKind::Q5K { 48 } else { 16 };
                    let mut q = block[low + i / 64 * 32 + i % 32] >> (i / 32 % 2 * 4) & 15;
                    if kind == WeightKind::Q5K {
                        q |= (block[16 + i % 32] >> (i / 32) & 1) << 4;
                    }
                    half(0) * f32::from(scale) * f32::from(q) - half(2) * f32::from(min)
                }
                WeightKind::Q6K => {
                    let (part, at) = (i % 128 / 32, i % 32);
                    let low = block[i / 128 * 64 + part % 2 * 32 + at] >> (part / 2 * 4) & 15;
                    let high = block[128 + i / 128 * 32 + at] >> (part * 2) & 3;
                    let q = f32::from(low | high << 4) - 32.0;
                    half(208) * f32::from(block[192 + i / 16] as i8) * q
                }
            };
        }
    }
}

#[cfg(test)]
mod tests;
