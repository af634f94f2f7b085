//! Q5_0: 32 numbers of 5 bits with one scale.
//!
//! - Stored: f16 `d`, then 4 bytes with the fifth bits (bit i is number i's), then 16 bytes with the low four: number i
//!   in the low half of byte i, number 16 + i in the high half. A value is `d * (q - 16)`.
//! - In a tile of the CPU: numbers of 5 bits; scales f16 `d[16]`.
//! - On a GPU: the 16 bytes in the plane of low bits; 4 bytes in the plane of further bits, as in Q5_K but inverted:
//!   with the inverted bit as its sign bit, a number is `q - 16`; `d` in the plane of scales.

use super::block::half_at;
use super::q5_1::sort_fifths;
use super::{Block, Blocks, Content, Format, InTile, Scale, q4_1};
use crate::cpu::quant::{Form, Layout, kernels};
use crate::cuda::acts::ActKind;
use crate::cuda::on_card::{OnCard, Planes, quantised};

pub(super) const FORMAT: Format = Format {
    name: "Q5_0",
    ggml: 6,
    block: 32,
    bytes: 22,
    content: Content::Blocks(Blocks {
        scales: &[(Scale::F16(0), -0.05)],
        parse,
        tile: Some(InTile::under_one_scale::<16>()),
        spread,
    }),
    form: Form::B32,
    layout: Layout::blocks_of_32(5),
    kernels: kernels!(Q5_0; avx2: b32<Q5_0>, avx512: b32<Q5_0>),
    card: Some(OnCard {
        input: ActKind::Q8,
        shares: [16, 4, 2, 0],
        minimum: false,
        staged: [2, 0],
        kernels: quantised!("q5_0"),
        sort: Some(sort),
    }),
};

fn parse(bytes: &[u8]) -> Block {
    let mut block = Block::under(half_at(bytes, 0), 16);
    q4_1::parse_nibbles(&bytes[6..22], &mut block.q);
    q4_1::parse_fifths(&bytes[2..6], &mut block.q);
    block
}

fn sort(planes: Planes<'_>, block: &[u8]) {
    planes.scales.copy_from_slice(&block[..2]);
    planes.low.copy_from_slice(&block[6..22]);
    sort_fifths(planes.high, &block[2..6]);
    planes.high.iter_mut().for_each(|byte| *byte = !*byte);
}

fn spread(block: &mut [u8], spread: f32) {
    // Numbers go from -16 to 15: scales of either sign bring the mean back to 0. 9.25: the root of the mean square of
    // 32 numbers of equal chance.
    let sign = if block[21] & 1 == 1 { -1.0 } else { 1.0 };
    Scale::F16(0).put(block, sign * spread / 9.25);
}
