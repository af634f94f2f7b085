//! Q3_K: 256 numbers of 3 bits, with a scale for every 16.
//!
//! - Stored: 32 bytes with the third bits (bit g of byte i is that of number i of group g of 32), 64 with the low two
//!   (of each 32 bytes, bits 2 p.. of byte i are number i's of the p-th group of 32), 12 with the sixteen scales of 6
//!   bits, f16 `d`. A value is `d * (scale - 32) * (q - 4)`.
//! - In a tile of the CPU: numbers of 3 bits; `i8 scale[16][16 rows]`, f16 `d[16]`, as Q6_K's.

use super::block::half_at;
use super::{Block, Blocks, Content, Format, InTile, Scale, q2_k, q6_k};
use crate::cpu::quant::{Form, Layout, kernels};

pub(super) const FORMAT: Format = Format {
    name: "Q3_K",
    ggml: 11,
    block: 256,
    bytes: 110,
    content: Content::Blocks(Blocks {
        scales: &[(Scale::F16(108), 0.002)],
        parse,
        tile: Some(InTile {
            put_scales: q6_k::put_scales,
            get_scales: |meta, r| Block { zero: 4, ..q6_k::get_scales(meta, r) },
            table: None,
            offset: 4,
        }),
        spread,
    }),
    form: Form::K256,
    layout: Layout::blocks_of_256(3),
    kernels: kernels!(Q3K; avx2: k16<Q3K>, avx512: k16<Q3K>),
    card: None,
};

/// The 6 bits of scale `i`: the low four are those of the first eight scales and those of the last eight in the halves
/// of 8 bytes, and each of 4 more bytes has the high two of scales 4 apart.
fn scale(packed: &[u8], i: usize) -> i16 {
    let low = packed[i % 8] >> (i / 8 * 4) & 15;
    let high = packed[8 + i % 4] >> (i / 4 * 2) & 3;
    i16::from(low | high << 4) - 32
}

fn parse(bytes: &[u8]) -> Block {
    let mut block = Block { d: half_at(bytes, 108), zero: 4, ..Block::EMPTY };
    for (i, to) in block.scale.iter_mut().enumerate() {
        *to = scale(&bytes[96..108], i);
    }
    q2_k::parse_pairs(&bytes[32..96], &mut block.q);
    for (group, q) in block.q.as_chunks_mut::<32>().0.iter_mut().enumerate() {
        for (q, high) in q.iter_mut().zip(&bytes[..32]) {
            *q |= (high >> group & 1) << 2;
        }
    }
    block
}

fn spread(block: &mut [u8], spread: f32) {
    // Numbers go from -4 to 3: scales of either sign bring the mean back to 0. 2.345: the root of the mean square of 8
    // numbers of equal chance. All scales are 31.
    let sign = if block[0] & 1 == 1 { -1.0 } else { 1.0 };
    block[96..108].fill(0xff);
    Scale::F16(108).put(block, sign * spread / (2.345 * 31.0));
}
