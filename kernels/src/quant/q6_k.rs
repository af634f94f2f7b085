//! Q6_K: 256 numbers of 6 bits, with a scale for every 16.
//!
//! - Stored: 128 bytes with the low 4 bits, 64 with the high 2, 16 signed scales, f16 `d`. A value is
//!   `d * scale * (q - 32)`.
//! - In a tile of the CPU, for 32 columns: `[2][16 rows][4]` bytes: bits 2 (g % 4).. of half g / 4 are group g's high
//!   ones; then as Q4_K. Scales: `i8 scale[16][16 rows]`, f16 `d[16]`.
//! - On a GPU, for 32 numbers: 16 bytes of low bits as in Q4_K; 8 bytes of further bits, where bits 2 w.. of byte b
//!   belong to number 4 w + b, with the sign bit flipped; 2 signed scales. For 256: `d` in the plane of scales of
//!   scales.

use super::block::half_at;
use super::{Block, Blocks, Content, Format, InTile, Scale};
use crate::cpu::quant::{Form, Layout, TILE, get_half, kernels, put_half};
use crate::cuda::acts::ActKind;
use crate::cuda::on_card::{OnCard, Planes, quantised};
use half::f16;

pub(super) const FORMAT: Format = Format {
    name: "Q6_K",
    ggml: 14,
    block: 256,
    bytes: 210,
    content: Content::Blocks(Blocks {
        scales: &[(Scale::F16(208), 0.0003)],
        parse,
        tile: Some(InTile { put_scales, get_scales, table: None, offset: 32 }),
        spread,
    }),
    form: Form::K256,
    layout: Layout::blocks_of_256(6),
    kernels: kernels!(Q6K; avx2: k16<Q6K>, avx512: k16<Q6K>),
    card: Some(OnCard {
        input: ActKind::Q8,
        shares: [128, 64, 16, 2],
        minimum: false,
        staged: [2, 4],
        kernels: quantised!("q6_k"; "16" "32"),
        sort: Some(sort),
    }),
};

fn parse(bytes: &[u8]) -> Block {
    let mut block = Block { d: half_at(bytes, 208), zero: 32, ..Block::EMPTY };
    for (scale, b) in block.scale.iter_mut().zip(&bytes[192..208]) {
        *scale = i16::from(*b as i8);
    }
    for half in 0..2 {
        let low = &bytes[half * 64..half * 64 + 64];
        let high = &bytes[128 + half * 32..128 + half * 32 + 32];
        for i in 0..32 {
            for part in 0..4 {
                let low = low[i + part % 2 * 32] >> (part / 2 * 4) & 15;
                let high = high[i] >> (part * 2) & 3;
                block.q[half * 128 + part * 32 + i] = low | high << 4;
            }
        }
    }
    block
}

/// Appends a block whose numbers, less its `zero`, are -32 to 31, as it is stored.
pub(super) fn store(block: &Block, out: &mut Vec<u8>) {
    let mut bytes = [0u8; 210];
    for (k, q) in block.q.iter().enumerate() {
        let q = q.wrapping_sub(block.zero).wrapping_add(32);
        let (half, part, i) = (k / 128, k / 32 % 4, k % 32);
        bytes[half * 64 + part % 2 * 32 + i] |= (q & 15) << (part / 2 * 4);
        bytes[128 + half * 32 + i] |= (q >> 4 & 3) << (part * 2);
    }
    for (to, scale) in bytes[192..208].iter_mut().zip(&block.scale) {
        *to = scale.to_le_bytes()[0];
    }
    bytes[208..].copy_from_slice(&f16::from_f32(block.d).to_le_bytes());
    out.extend_from_slice(&bytes);
}

pub(super) fn put_scales(meta: &mut [u8], r: usize, block: &Block) {
    put_half(meta, 256, r, block.d);
    for sub in 0..16 {
        meta[sub * TILE + r] = block.scale[sub] as u8;
    }
}

pub(super) fn get_scales(meta: &[u8], r: usize) -> Block {
    assert!(r < TILE);
    let meta = &meta[..288];
    let mut block = Block { d: get_half(meta, 256, r), zero: 32, ..Block::EMPTY };
    for (sub, scale) in block.scale.iter_mut().enumerate() {
        *scale = i16::from(meta[sub * TILE + r] as i8);
    }
    block
}

fn sort(planes: Planes<'_>, block: &[u8]) {
    planes.scales.copy_from_slice(&block[192..208]);
    planes.supers.copy_from_slice(&block[208..]);
    for (group, out) in planes.low.chunks_exact_mut(16).enumerate() {
        let (part, from) = (group % 4, group / 4 * 64 + group % 2 * 32);
        let (low, shift) = (&block[from..from + 32], part / 2 * 4);
        for (i, out) in out.iter_mut().enumerate() {
            *out = low[i] >> shift & 15 | (low[i + 16] >> shift & 15) << 4;
        }
    }
    for (group, out) in planes.high.chunks_exact_mut(8).enumerate() {
        let (shift, from) = (group % 4 * 2, 128 + group / 4 * 32);
        let high = &block[from..from + 32];
        for (byte, out) in out.iter_mut().enumerate() {
            let at = |word: usize| high[byte / 4 * 16 + 4 * word + byte % 4];
            let bits = |word: usize| (at(word) >> shift & 3 ^ 2) << (2 * word);
            *out = (0..4).map(bits).fold(0, |all, bits| all | bits);
        }
    }
}

fn spread(block: &mut [u8], spread: f32) {
    // Numbers go from -32 to 31: scales of either sign bring the mean back to 0. 18.5: the standard deviation of 64
    // numbers of equal chance. All scales are 32.
    let sign = if block[3] & 1 == 1 { -1.0 } else { 1.0 };
    block[192..208].fill(32);
    block[208..].copy_from_slice(&f16::from_f32(sign * spread / (18.5 * 32.0)).to_le_bytes());
}
