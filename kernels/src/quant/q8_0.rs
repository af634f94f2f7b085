//! Q8_0: 32 numbers of 8 bits with one scale.
//!
//! - Stored: f16 `d`, then 32 signed bytes `q`. A value is `d * q`.
//! - In a tile of the CPU, for 32 columns: `[8 groups][16 rows][4]` bytes, offset by 128; scales f16 `d[16]`.
//! - On a GPU: the 32 bytes in the plane of low bits, `d` in that of scales.

use super::block::half_at;
use super::{Block, Blocks, Content, Format, InTile, Scale};
use crate::cpu::quant::{Form, Layout, kernels};
use crate::cuda::acts::ActKind;
use crate::cuda::on_card::{OnCard, Planes, quantised};

pub(super) const FORMAT: Format = Format {
    name: "Q8_0",
    ggml: 8,
    block: 32,
    bytes: 34,
    content: Content::Blocks(Blocks {
        scales: &[(Scale::F16(0), 0.01)],
        parse,
        tile: Some(InTile::under_one_scale::<128>()),
        spread,
    }),
    form: Form::B32,
    layout: Layout::blocks_of_32(8),
    kernels: kernels!(Q8_0; avx2: b32<Q8_0>, avx512: b32<Q8_0>),
    card: Some(OnCard {
        input: ActKind::Q8,
        shares: [32, 0, 2, 0],
        minimum: false,
        staged: [2, 0],
        kernels: quantised!("q8_0"),
        sort: Some(sort),
    }),
};

fn parse(bytes: &[u8]) -> Block {
    let mut block = Block::under(half_at(bytes, 0), 128);
    for (q, b) in block.q.iter_mut().zip(&bytes[2..34]) {
        *q = b ^ 0x80;
    }
    block
}

fn sort(planes: Planes<'_>, block: &[u8]) {
    planes.scales.copy_from_slice(&block[..2]);
    planes.low.copy_from_slice(&block[2..]);
}

fn spread(block: &mut [u8], spread: f32) {
    // 73.9: the standard deviation of 256 numbers of equal chance.
    Scale::F16(0).put(block, spread / 73.9);
}
