//! Q5_1: 32 numbers of 5 bits with one scale and one minimum.
//!
//! - Stored: f16 `d`, f16 `m`, then 4 bytes with the fifth bits (bit i is number i's), then 16 bytes with the low four,
//!   as in Q4_1. A value is `d * q + m`.
//! - In a tile of the CPU: numbers of 5 bits; scales as Q4_1's.
//! - On a GPU: 4 bytes in the plane of further bits, as in Q5_K; otherwise as in Q4_1.

use super::block::half_at;
use super::{Block, Blocks, Content, Format, InTile, Scale, q4_1};
use crate::cpu::quant::{Form, Layout, kernels};
use crate::cuda::acts::ActKind;
use crate::cuda::on_card::{OnCard, Planes, quantised};

pub(super) const FORMAT: Format = Format {
    name: "Q5_1",
    ggml: 7,
    block: 32,
    bytes: 24,
    content: Content::Blocks(Blocks {
        scales: &[(Scale::F16(0), 0.05), (Scale::F16(2), -0.75)],
        parse,
        tile: Some(InTile {
            put_scales: q4_1::put_scales,
            get_scales: q4_1::get_scales,
            table: None,
            offset: 0,
        }),
        // The standard deviation and the mean of 32 numbers of equal chance.
        spread: |block, size| q4_1::spread(block, size, 9.23, 15.5),
    }),
    form: Form::B32,
    layout: Layout::blocks_of_32(5).with_scales(q4_1::SCALES),
    kernels: kernels!(Q5_1; avx2: b32<Q5_1>, avx512: b32<Q5_1>),
    card: Some(OnCard {
        input: ActKind::Q8,
        shares: [16, 4, 4, 0],
        minimum: true,
        staged: [4, 0],
        kernels: quantised!("q5_1"),
        sort: Some(sort),
    }),
};

fn parse(bytes: &[u8]) -> Block {
    let mut block = q4_1::scaled(half_at(bytes, 0), half_at(bytes, 2));
    q4_1::parse_nibbles(&bytes[8..24], &mut block.q);
    q4_1::parse_fifths(&bytes[4..8], &mut block.q);
    block
}

fn sort(planes: Planes<'_>, block: &[u8]) {
    planes.scales.copy_from_slice(&block[..4]);
    planes.low.copy_from_slice(&block[8..24]);
    sort_fifths(planes.high, &block[4..8]);
}

/// The fifth bits of 32 numbers as a card reads them: bit w of byte b is that of number 4 w + b.
pub(super) fn sort_fifths(out: &mut [u8], stored: &[u8]) {
    for (byte, out) in out.iter_mut().enumerate() {
        let fifth = |number: usize| stored[number / 8] >> (number % 8) & 1;
        *out = (0..8).fold(0, |bits, word| bits | fifth(4 * word + byte) << word);
    }
}
