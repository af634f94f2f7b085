//! The layout that the kernels read: tiles of 16 rows, interleaved so that a vector lane is a row.
//!
//! One layout for every instruction set: 512-bit kernels take a tile's 16 rows at once, 256-bit ones in
//! two halves, and the scalar twin reads the same bytes. With a lane per row no product ends in a sum
//! across lanes, scales are applied to 16 rows by one multiplication, and the input is broadcast from
//! memory. A tile is a row of records, each the scales of 64 or 256 columns and then their values, in the
//! order in which kernels read them: every jump would be a cache miss that no prefetcher foresees (scales
//! at the end of a tile cost half the speed):
//!
//! | kind | values, per 32 columns | scales, per block |
//! |---|---|---|
//! | F32, F16, Bf16 | `[32][16 rows]` | none |
//! | Q8_0 | `[8 groups][16 rows][4]` bytes, offset by 128 | f16 `d[16]` |
//! | Q4_0, Q4_K | `[4][16][4]` bytes: group g in the low, g + 4 in the high nibble | Q4_0: f16 `d[16]` |
//! | Q5_K | `[16][4]` bytes: bit g is group g's fifth; then as Q4_K | as Q4_K |
//! | Q6_K | `[2][16][4]` bytes: bits 2(g % 4).. of half g / 4; then as Q4_K | i8 `[16 subs][16]`, f16 `d[16]` |
//!
//! A group is 4 consecutive columns. Q4_K's and Q5_K's scales are `u8 scale[8][16]`, `u8 min[4][16][2]`
//! (neighbouring sub-blocks side by side, for multiply-add of pairs), f16 `d[16]`, f16 `dmin[16]`.

use super::block::Block;
use crate::cpu::half::{bf16_to_f32, f16_to_f32};
use crate::kind::WeightKind as Kind;

/// Rows per tile.
pub const TILE: usize = 16;
/// Columns that share one run of value bytes.
const SUB: usize = 32;

/// Bytes of values per 32 columns of a tile, of a quantised kind.
pub const fn sub_bytes(kind: Kind) -> usize {
    match kind {
        Kind::Q8_0 => 512,
        Kind::Q4_0 | Kind::Q4K => 256,
        Kind::Q5K => 320,
        Kind::Q6K => 384,
        Kind::F32 => 2048,
        Kind::F16 | Kind::BF16 => 1024,
    }
}

/// Bytes of one record: the scales of 256 columns (K-quants) or 64 (the other quantised kinds), filled up
/// to a multiple of 64, then their values.
pub const fn record_bytes(kind: Kind) -> usize {
    match kind {
        Kind::F32 => 64,
        Kind::F16 | Kind::BF16 => 32,
        _ => meta_bytes(kind) + record_cols(kind) / SUB * sub_bytes(kind),
    }
}

/// Columns of one record.
const fn record_cols(kind: Kind) -> usize {
    match kind {
        Kind::Q8_0 | Kind::Q4_0 => 64,
        Kind::Q4K | Kind::Q5K | Kind::Q6K => 256,
        Kind::F32 | Kind::F16 | Kind::BF16 => 1,
    }
}

/// Bytes of scales at the front of a record.
const fn meta_bytes(kind: Kind) -> usize {
    match kind {
        Kind::Q8_0 | Kind::Q4_0 => 64,
        Kind::Q4K | Kind::Q5K | Kind::Q6K => 320,
        Kind::F32 | Kind::F16 | Kind::BF16 => 0,
    }
}

/// Where in a tile of a quantised kind the values of its `sub`th 32 columns begin.
#[inline]
pub const fn data_at(kind: Kind, sub: usize) -> usize {
    let per = record_cols(kind) / SUB;
    sub / per * record_bytes(kind) + meta_bytes(kind) + sub % per * sub_bytes(kind)
}

/// Where in the values of 32 columns the nibbles begin, after the higher bits.
pub const fn nibbles_at(kind: Kind) -> usize {
    match kind {
        Kind::Q5K => 64,
        Kind::Q6K => 128,
        _ => 0,
    }
}

/// Where in a tile of a quantised kind the scales of its block `b` begin.
#[inline]
pub const fn meta_at(kind: Kind, b: usize) -> usize {
    match kind {
        Kind::Q8_0 | Kind::Q4_0 => b / 2 * record_bytes(kind) + b % 2 * 32,
        _ => b * record_bytes(kind),
    }
}

/// Bytes of one tile, a multiple of 64.
pub fn tile_bytes(kind: Kind, cols: usize) -> usize {
    (cols.div_ceil(record_cols(kind)) * record_bytes(kind)).next_multiple_of(64)
}

/// Packs up to 16 stored rows, end to end in `rows`, into one zeroed tile.
pub fn pack_tile(kind: Kind, cols: usize, rows: &[u8], tile: &mut [u8]) {
    let row_bytes = cols / kind.block() * kind.block_bytes();
    for (r, row) in rows.chunks_exact(row_bytes.max(1)).enumerate() {
        for (b, stored) in row.chunks_exact(kind.block_bytes()).enumerate() {
            if !kind.is_quantised() {
                let size = kind.block_bytes();
                let at = (b * TILE + r) * size;
                tile[at..at + size].copy_from_slice(stored);
            } else {
                put_block(kind, tile, r, b, &Block::parse(kind, stored));
            }
        }
    }
}

fn put_block(kind: Kind, tile: &mut [u8], r: usize, b: usize, block: &Block) {
    let subs = kind.block() / SUB;
    for sub in 0..subs {
        let at = data_at(kind, b * subs + sub);
        let bytes = &mut tile[at..at + sub_bytes(kind)];
        put_values(kind, bytes, r, &block.q[sub * SUB..(sub + 1) * SUB]);
    }
    put_scales(kind, &mut tile[meta_at(kind, b)..], r, block);
}

/// One row's 32 values into a sub-block's bytes.
fn put_values(kind: Kind, bytes: &mut [u8], r: usize, q: &[u8]) {
    for (k, &q) in q.iter().enumerate() {
        let (g, lane) = (k / 4, r * 4 + k % 4);
        if kind == Kind::Q8_0 {
            bytes[g * 64 + lane] = q;
            continue;
        }
        bytes[nibbles_at(kind) + g % 4 * 64 + lane] |= (q & 15) << (g / 4 * 4);
        match kind {
            Kind::Q5K => bytes[lane] |= (q >> 4) << g,
            Kind::Q6K => bytes[g / 4 * 64 + lane] |= (q >> 4) << (g % 4 * 2),
            _ => {}
        }
    }
}

fn put_scales(kind: Kind, meta: &mut [u8], r: usize, block: &Block) {
    let mut put_d = |at: usize, d: u16| {
        meta[at + r * 2..at + r * 2 + 2].copy_from_slice(&d.to_le_bytes());
    };
    match kind {
        Kind::Q4K | Kind::Q5K => {
            put_d(256, block.d);
            put_d(288, block.dmin);
            for sub in 0..8 {
                meta[sub * TILE + r] = block.scale[sub * 2] as u8;
                meta[128 + sub / 2 * 32 + r * 2 + sub % 2] = block.min[sub * 2];
            }
        }
        Kind::Q6K => {
            put_d(256, block.d);
            for sub in 0..16 {
                meta[sub * TILE + r] = block.scale[sub] as u8;
            }
        }
        _ => put_d(0, block.d),
    }
}

/// Takes row `r`'s block `b` out of a tile of a quantised kind.
pub fn get_block(kind: Kind, tile: &[u8], r: usize, b: usize) -> Block {
    let subs = kind.block() / SUB;
    let mut block = get_scales(kind, &tile[meta_at(kind, b)..], r);
    for (sub, q) in block.q[..kind.block()].chunks_exact_mut(SUB).enumerate() {
        let at = data_at(kind, b * subs + sub);
        get_values(kind, &tile[at..at + sub_bytes(kind)], r, q);
    }
    block
}

/// One row's 32 values out of a sub-block's bytes.
fn get_values(kind: Kind, bytes: &[u8], r: usize, q: &mut [u8]) {
    let nibbles = &bytes[nibbles_at(kind)..];
    for g in 0..SUB / 4 {
        for k in 0..4 {
            let lane = r * 4 + k;
            if kind == Kind::Q8_0 {
                q[g * 4 + k] = bytes[g * 64 + lane];
                continue;
            }
            let low = nibbles[g % 4 * 64 + lane] >> (g / 4 * 4) & 15;
            q[g * 4 + k] = match kind {
                Kind::Q5K => low | (bytes[lane] >> g & 1) << 4,
                Kind::Q6K => low | (bytes[g / 4 * 64 + lane] >> (g % 4 * 2) & 3) << 4,
                _ => low,
            };
        }
    }
}

fn get_scales(kind: Kind, meta: &[u8], r: usize) -> Block {
    let d = |at: usize| u16::from_le_bytes([meta[at + r * 2], meta[at + r * 2 + 1]]);
    let mut block = Block::EMPTY;
    match kind {
        Kind::Q4K | Kind::Q5K => {
            (block.d, block.dmin) = (d(256), d(288));
            for i in 0..16 {
                let sub = i / 2;
                block.scale[i] = i16::from(meta[sub * TILE + r]);
                block.min[i] = meta[128 + sub / 2 * 32 + r * 2 + sub % 2];
            }
        }
        Kind::Q6K => {
            (block.d, block.zero) = (d(256), 32);
            for i in 0..16 {
                block.scale[i] = i16::from(meta[i * TILE + r] as i8);
            }
        }
        _ => {
            (block.d, block.scale) = (d(0), [1; 16]);
            block.zero = if kind == Kind::Q8_0 { 128 } else { 8 };
        }
    }
    block
}

/// Writes the values of row `r` of a tile, `out.len()` columns.
pub fn unpack_row(kind: Kind, tile: &[u8], r: usize, out: &mut [f32]) {
    for (b, out) in out.chunks_exact_mut(kind.block()).enumerate() {
        let at = (b * TILE + r) * kind.block_bytes();
        let half = || u16::from_le_bytes([tile[at], tile[at + 1]]);
        match kind {
            Kind::F16 => out[0] = f16_to_f32(half()),
            Kind::BF16 => out[0] = bf16_to_f32(half()),
            Kind::F32 => {
                let bytes = [tile[at], tile[at + 1], tile[at + 2], tile[at + 3]];
                out[0] = f32::from_le_bytes(bytes);
            }
            _ => get_block(kind, tile, r, b).values(out),
        }
    }
}

/// Writes column `k` of a tile of plain floats.
pub fn unpack_column(kind: Kind, tile: &[u8], k: usize, out: &mut [f32; TILE]) {
    let bytes = &tile[k * record_bytes(kind)..][..record_bytes(kind)];
    let halves = bytes.as_chunks::<2>().0.iter().map(|b| u16::from_le_bytes(*b));
    match kind {
        Kind::F16 => out.iter_mut().zip(halves).for_each(|(out, half)| *out = f16_to_f32(half)),
        Kind::BF16 => out.iter_mut().zip(halves).for_each(|(out, half)| *out = bf16_to_f32(half)),
        _ => {
            let words = bytes.as_chunks::<4>().0;
            out.iter_mut().zip(words).for_each(|(out, b)| *out = f32::from_le_bytes(*b));
        }
    }
}
