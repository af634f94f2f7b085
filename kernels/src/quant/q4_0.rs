//! Q4_0: 32 numbers of 4 bits with one scale.
//!
//! - Stored: f16 `d`, then 16 bytes: number i in the low half of byte i, number 16 + i in the high half. A value is
//!   `d * (q - 8)`.
//! - In a tile of the CPU, for 32 columns: `[4][16 rows][4]` bytes, group g in the low, g + 4 in the high half;
//!   scales f16 `d[16]`.
//! - On a GPU: the 16 bytes in the plane of low bits, the sign bit of each number flipped; `d` in that of scales.

use super::block::half_at;
use super::{Block, Blocks, Content, Format, InTile, Scale, q4_1};
use crate::cpu::quant::{Form, Layout, kernels};
use crate::cuda::acts::ActKind;
use crate::cuda::on_card::{OnCard, Planes, quantised};

pub(super) const FORMAT: Format = Format {
    name: "Q4_0",
    ggml: 2,
    block: 32,
    bytes: 18,
    content: Content::Blocks(Blocks {
        scales: &[(Scale::F16(0), -0.1)],
        parse,
        tile: Some(InTile::under_one_scale::<8>()),
        spread,
    }),
    form: Form::B32,
    layout: Layout::blocks_of_32(4),
    kernels: kernels!(Q4_0; avx2: b32<Q4_0>, avx512: b32<Q4_0>),
    card: Some(OnCard {
        input: ActKind::Q8,
        shares: [16, 0, 2, 0],
        minimum: false,
        staged: [2, 0],
        kernels: quantised!("q4_0"),
        sort: Some(sort),
    }),
};

fn parse(bytes: &[u8]) -> Block {
    let mut block = Block::under(half_at(bytes, 0), 8);
    q4_1::parse_nibbles(&bytes[2..18], &mut block.q);
    block
}

fn sort(planes: Planes<'_>, block: &[u8]) {
    planes.scales.copy_from_slice(&block[..2]);
    for (to, from) in planes.low.iter_mut().zip(&block[2..]) {
        *to = from ^ 0x88;
    }
}

fn spread(block: &mut [u8], spread: f32) {
    // Numbers go from -8 to 7: scales of either sign bring the mean back to 0. 4.61: the standard deviation of 16
    // numbers of equal chance.
    let sign = if block[3] & 1 == 1 { -1.0 } else { 1.0 };
    Scale::F16(0).put(block, sign * spread / 4.61);
}
