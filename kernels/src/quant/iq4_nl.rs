//! IQ4_NL: 32 numbers from a table of 16, with one scale; also the table, which IQ4_XS shares.
//!
//! - Stored: f16 `d`, then 16 bytes of indices: that of number i in the low half of byte i, that of number 16 + i in
//!   the high half. A value is `d * TABLE[index]`.
//! - In a tile of the CPU: indices of 4 bits; scales f16 `d[16]`.
//! - On a GPU: four words of indices in the plane of low bits, word w with those of the numbers 4 w to 4 w + 3 in its
//!   lower half, and of 16 more in its upper half; `d` in the plane of scales.

use super::block::half_at;
use super::{Block, Blocks, Content, Format, InTile, Scale, q4_1};
use crate::cpu::quant::{Form, Layout, kernels};
use crate::cuda::acts::ActKind;
use crate::cuda::on_card::{OnCard, Planes, quantised};
use half::f16;

/// Denser around 0, as weights are.
pub(super) const TABLE: [i8; 16] =
    [-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113];
/// The root of the mean square of the table.
pub(super) const SIZE: f32 = 67.4;

pub(super) const FORMAT: Format = Format {
    name: "IQ4_NL",
    ggml: 20,
    block: 32,
    bytes: 18,
    content: Content::Blocks(Blocks {
        scales: &[(Scale::F16(0), -0.01)],
        parse,
        tile: Some(InTile { table: Some(&TABLE), offset: 128, ..InTile::under_one_scale::<0>() }),
        spread,
    }),
    form: Form::B32,
    layout: Layout::blocks_of_32(4),
    kernels: kernels!(IQ4NL; avx2: b32<IQ4NL>, avx512: b32<IQ4NL>),
    card: Some(OnCard {
        input: ActKind::Q8,
        shares: [16, 0, 2, 0],
        minimum: false,
        staged: [2, 0],
        kernels: quantised!("iq4_nl"),
        sort: Some(sort),
    }),
};

fn parse(bytes: &[u8]) -> Block {
    let mut block = Block::under(half_at(bytes, 0), 0);
    q4_1::parse_nibbles(&bytes[2..18], &mut block.q);
    block
}

/// 32 numbers of the table, as stored.
pub(super) fn store(indices: &[u8], d: f32, out: &mut Vec<u8>) {
    out.extend_from_slice(&f16::from_f32(d).to_le_bytes());
    let (first, second) = indices.split_at(16);
    out.extend(first.iter().zip(second).map(|(low, high)| low | high << 4));
}

fn sort(planes: Planes<'_>, block: &[u8]) {
    planes.scales.copy_from_slice(&block[..2]);
    let index = |number: usize| block[2 + number % 16] >> (number / 16 * 4) & 15;
    for (byte, out) in planes.low.iter_mut().enumerate() {
        // Bytes 0 and 1 of a word have the lower half.
        let number = byte / 4 * 4 + byte % 2 * 2 + byte % 4 / 2 * 16;
        *out = index(number) | index(number + 1) << 4;
    }
}

fn spread(block: &mut [u8], spread: f32) {
    // The table's mean is not 0: scales of either sign bring it back.
    let sign = if block[17] & 1 == 1 { -1.0 } else { 1.0 };
    Scale::F16(0).put(block, sign * spread / SIZE);
}
