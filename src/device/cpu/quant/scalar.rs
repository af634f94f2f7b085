//! The scalar twin of the tile kernels: the same tiles, the same integers, plain Rust.
//!
//! The reference for the vector kernels and the path for machines without them; knows nothing of threads
//! or matrices. Clarity before speed, but a block is taken apart once for a whole group.

use super::block::{Block, MAX_BLOCK};
use super::input::{Form, Panel};
use super::tile::{TILE, get_block, tile_bytes, unpack_row};
use crate::device::cpu::half::f16_to_f32;
use crate::device::kind::Kind;

/// One tile times one group of `W` vectors, into `out`, `[W][16]`.
///
/// # Safety
/// `tile` is a tile of the kind with `cols` columns, `panel` a group of `W` vectors of the kind's form
/// with as many columns, and `out` has room for `W * 16` values.
pub unsafe fn tile<const KIND: u8, const W: usize>(
    tile: *const u8,
    cols: usize,
    panel: &Panel,
    out: *mut f32,
) {
    let kind = Kind::ALL[KIND as usize];
    // SAFETY: the caller's promise.
    let (tile, out) = unsafe {
        let tile = std::slice::from_raw_parts(tile, tile_bytes(kind, cols));
        (tile, std::slice::from_raw_parts_mut(out, W * TILE))
    };
    out.fill(0.0);
    for r in 0..TILE {
        if !kind.is_quantised() {
            let mut row = [0.0];
            for k in 0..cols {
                // One column as a tile of its own.
                let at = k * TILE * kind.block_bytes();
                unpack_row(kind, &tile[at..], r, &mut row);
                for c in 0..W {
                    // SAFETY: `x` is `[cols][W]`.
                    out[c * TILE + r] += row[0] * unsafe { *panel.x.add(k * W + c) };
                }
            }
            continue;
        }
        for b in 0..cols / kind.block() {
            let block = get_block(kind, tile, r, b);
            for c in 0..W {
                // SAFETY: the block is in the row and the panel has as many columns.
                out[c * TILE + r] += unsafe { dot::<W>(kind, &block, panel, b, c) };
            }
        }
    }
}

/// One block of a row times the same block of vector `c`.
///
/// # Safety
/// `b` is a block of the panel's columns and `c` below `W`.
unsafe fn dot<const W: usize>(kind: Kind, block: &Block, panel: &Panel, b: usize, c: usize) -> f32 {
    let len = kind.block();
    let mut x = [0i32; MAX_BLOCK];
    for (i, x) in x[..len].chunks_exact_mut(4).enumerate() {
        // SAFETY: the caller's promise.
        let word = unsafe { *panel.q.add((b * len / 4 + i) * W + c) };
        for (x, byte) in x.iter_mut().zip(word.to_le_bytes()) {
            *x = i32::from(byte as i8);
        }
    }
    let (mut total, mut low) = (0i32, 0i32);
    for sub in 0..len / 16 {
        let range = sub * 16..sub * 16 + 16;
        let q = block.q[range.clone()].iter().map(|&q| i32::from(q) - i32::from(block.zero));
        let product: i32 = q.zip(&x[range.clone()]).map(|(q, x)| q * x).sum();
        total += i32::from(block.scale[sub]) * product;
        low += i32::from(block.min[sub]) * x[range].iter().sum::<i32>();
    }
    // SAFETY: the caller's promise.
    let scale = unsafe { *panel.d.add(b * W + c) };
    let low = if Form::of(kind) == Form::K256 { f16_to_f32(block.dmin) * low as f32 } else { 0.0 };
    (f16_to_f32(block.d) * total as f32 - low) * scale
}
