//! The scalar version of the tile kernels: the same tiles, the same integers, plain Rust.
//!
//! It is the reference for the vector kernels, and used on machines without them. It does not know about threads or
//! matrices. It prefers clarity to speed, but a block is unpacked only once for a whole group.

use super::input::Panel;
use super::tile::{TILE, get_block};
use crate::quant::{Block, Content, Kind, MAX_BLOCK};

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
    let kind = const { Kind::ALL[KIND as usize] };
    // SAFETY: the caller's promise.
    let (tile, out) = unsafe {
        let tile = std::slice::from_raw_parts(tile, kind.format().layout.tile_bytes(cols));
        (tile, std::slice::from_raw_parts_mut(out, W * TILE))
    };
    out.fill(0.0);
    match &kind.format().content {
        Content::Blocks(blocks) => {
            for b in 0..cols / kind.block() {
                // SAFETY: the panel has as many columns as the tile.
                let inputs: [Bytes; W] =
                    std::array::from_fn(|c| unsafe { Bytes::of::<W>(kind, panel, b, c) });
                for r in 0..TILE {
                    let block = get_block(kind, blocks, tile, r, b);
                    for (c, x) in inputs.iter().enumerate() {
                        out[c * TILE + r] += dot(kind, &block, x);
                    }
                }
            }
        }
        Content::Floats { widen, .. } => {
            let mut column = [0.0; TILE];
            for (k, bytes) in tile.chunks_exact(TILE * kind.block_bytes()).take(cols).enumerate() {
                widen(bytes, &mut column);
                for (c, out) in out.chunks_exact_mut(TILE).enumerate() {
                    // SAFETY: `x` is `[cols][W]`.
                    let x = unsafe { *panel.x.add(k * W + c) };
                    for (out, weight) in out.iter_mut().zip(&column) {
                        *out += weight * x;
                    }
                }
            }
        }
    }
}

/// One block of an input vector: its bytes widened, their sums by 16, and the scale.
struct Bytes {
    x: [i32; MAX_BLOCK],
    sums: [i32; MAX_BLOCK / 16],
    d: f32,
}

impl Bytes {
    /// # Safety
    /// `b` is a block of the panel's columns and `c` below `W`.
    unsafe fn of<const W: usize>(kind: Kind, panel: &Panel, b: usize, c: usize) -> Bytes {
        let words = kind.block() / 4;
        let (mut x, mut sums) = ([0; MAX_BLOCK], [0; MAX_BLOCK / 16]);
        for i in 0..words {
            // SAFETY: the caller's promise.
            let word = unsafe { *panel.q.add((b * words + i) * W + c) };
            for (j, byte) in word.to_le_bytes().into_iter().enumerate() {
                x[i * 4 + j] = i32::from(byte as i8);
                sums[i / 4] += i32::from(byte as i8);
            }
        }
        // SAFETY: the caller's promise.
        Bytes { x, sums, d: unsafe { *panel.d.add(b * W + c) } }
    }
}

/// One block of a row times the same block of a vector.
fn dot(kind: Kind, block: &Block, x: &Bytes) -> f32 {
    let (mut total, mut low) = (0i32, 0i32);
    let zero = i32::from(block.zero);
    let subs = block.q[..kind.block()].as_chunks::<16>().0.iter().zip(x.x.as_chunks::<16>().0);
    for (sub, (q, bytes)) in subs.enumerate() {
        let mut product = 0;
        for i in 0..16 {
            product += (i32::from(q[i]) - zero) * bytes[i];
        }
        total += i32::from(block.scale[sub]) * product;
        low += i32::from(block.min[sub]) * x.sums[sub];
    }
    (block.d * total as f32 - block.dmin * low as f32) * x.d
}
