//! Q4_1: 32 numbers of 4 bits with one scale and one minimum; also the code that Q5_1 shares with it.
//!
//! - Stored: f16 `d`, f16 `m`, then 16 bytes: number i in the low half of byte i, number 16 + i in the high half. A
//!   value is `d * q + m`.
//! - In a tile of the CPU: numbers of 4 bits; scales f16 `d[16]`, f16 `m[16]`.
//! - On a GPU: the 16 bytes in the plane of low bits; `d` and `m` in that of scales.

use super::block::half_at;
use super::{Block, Blocks, Content, Format, InTile, Scale};
use crate::cpu::quant::{Form, Layout, TILE, get_half, kernels, put_half};
use crate::cuda::acts::ActKind;
use crate::cuda::on_card::{OnCard, Planes, quantised};

/// Bytes of scales for 64 columns: twice those of a kind without minima.
pub(super) const SCALES: usize = 128;
/// Where in a block's scales the minima begin.
const MINIMA: usize = 2 * TILE;

pub(super) const FORMAT: Format = Format {
    name: "Q4_1",
    ggml: 3,
    block: 32,
    bytes: 20,
    content: Content::Blocks(Blocks {
        scales: &[(Scale::F16(0), 0.1), (Scale::F16(2), -0.75)],
        parse,
        tile: Some(InTile { put_scales, get_scales, table: None, offset: 0 }),
        // The standard deviation and the mean of 16 numbers of equal chance.
        spread: |block, size| spread(block, size, 4.61, 7.5),
    }),
    form: Form::B32,
    layout: Layout::blocks_of_32(4).with_scales(SCALES),
    kernels: kernels!(Q4_1; avx2: b32<Q4_1>, avx512: b32<Q4_1>),
    card: Some(OnCard {
        input: ActKind::Q8,
        shares: [16, 0, 4, 0],
        minimum: true,
        staged: [4, 0],
        kernels: quantised!("q4_1"),
        sort: Some(sort),
    }),
};

/// A block without numbers. The minimum is the same for all of them, and taken off.
pub(super) fn scaled(d: f32, m: f32) -> Block {
    Block { scale: [1; 16], min: [1; 16], d, dmin: -m, ..Block::EMPTY }
}

fn parse(bytes: &[u8]) -> Block {
    let mut block = scaled(half_at(bytes, 0), half_at(bytes, 2));
    parse_nibbles(&bytes[4..20], &mut block.q);
    block
}

/// Takes the low bits of 32 numbers apart: number i beside 16 + i.
pub(super) fn parse_nibbles(bytes: &[u8], q: &mut [u8]) {
    for (i, byte) in bytes.iter().enumerate() {
        q[i] = byte & 15;
        q[i + 16] = byte >> 4;
    }
}

/// Adds the fifth bits of 32 numbers.
pub(super) fn parse_fifths(bytes: &[u8], q: &mut [u8]) {
    for (i, q) in q[..32].iter_mut().enumerate() {
        *q |= (bytes[i / 8] >> (i % 8) & 1) << 4;
    }
}

fn sort(planes: Planes<'_>, block: &[u8]) {
    planes.scales.copy_from_slice(&block[..4]);
    planes.low.copy_from_slice(&block[4..20]);
}

pub(super) fn put_scales(meta: &mut [u8], r: usize, block: &Block) {
    put_half(meta, 0, r, block.d);
    put_half(meta, MINIMA, r, -block.dmin);
}

pub(super) fn get_scales(meta: &[u8], r: usize) -> Block {
    scaled(get_half(meta, 0, r), get_half(meta, MINIMA, r))
}

/// A scale for numbers of this standard deviation around `middle`, whose minimum brings the mean back to 0.
pub(super) fn spread(block: &mut [u8], spread: f32, deviation: f32, middle: f32) {
    let d = spread / deviation;
    Scale::F16(0).put(block, d);
    Scale::F16(2).put(block, -d * middle);
}
