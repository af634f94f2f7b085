//! MXFP4: 32 floats of 4 bits (sign, two bits of exponent, one of mantissa), scaled by a power of two.
//!
//! - Stored: a byte `e`, then 16 bytes of floats: number i in the low half of byte i, number 16 + i in the high half.
//!   A value is `2^(e - 127)` times the float: `2^(e - 128) * TABLE[bits]`, as the table's numbers are doubled.
//! - In a tile of the CPU: the floats as indices of 4 bits; scales bf16 `d[16]`, because bf16 can represent every power
//!   of two that `e` can stand for, and f16 cannot.

use super::{Block, Blocks, Content, Format, InTile, Scale, q4_1};
use crate::cpu::quant::{Form, Layout, kernels};
use half::bf16;

/// Twice the floats.
const TABLE: [i8; 16] = [0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12];

pub(super) const FORMAT: Format = Format {
    name: "MXFP4",
    ggml: 39,
    block: 32,
    bytes: 17,
    content: Content::Blocks(Blocks {
        scales: &[(Scale::Exponent(0), 0.1)],
        parse,
        tile: Some(InTile {
            put_scales: |meta, r, block| {
                meta[2 * r..2 * r + 2].copy_from_slice(&bf16::from_f32(block.d).to_le_bytes());
            },
            get_scales: |meta, r| {
                let d = bf16::from_le_bytes([meta[2 * r], meta[2 * r + 1]]).to_f32();
                Block::under(d, 0)
            },
            table: Some(&TABLE),
            offset: 16,
        }),
        spread,
    }),
    form: Form::B32,
    layout: Layout::blocks_of_32(4),
    kernels: kernels!(MXFP4; avx2: b32<MXFP4>, avx512: b32<MXFP4>),
    card: None,
};

fn spread(block: &mut [u8], spread: f32) {
    // 5.85: the root of the mean square of the table. Of the two powers of two around the scale, the larger one in as
    // many blocks as give the mean square; the random byte in its place decides which.
    let d = spread / 5.85;
    let lower = f32::from_bits(d.to_bits() & 0x7f80_0000);
    let larger = ((d / lower).powi(2) - 1.0) / 3.0;
    let double = f32::from(block[0]) < 256.0 * larger;
    Scale::Exponent(0).put(block, if double { 2.0 * lower } else { lower });
}

fn parse(bytes: &[u8]) -> Block {
    let mut block = Block::under(Scale::Exponent(0).get(bytes), 0);
    q4_1::parse_nibbles(&bytes[1..17], &mut block.q);
    block
}
