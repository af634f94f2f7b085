//! The layout that the kernels read: tiles of 16 rows, interleaved so that a vector lane is a row.
//!
//! There is one layout for every instruction set: 512-bit kernels take a tile's 16 rows at once, 256-bit kernels take
//! them in two halves, and the scalar version reads the same bytes. With one lane per row, no product needs a sum
//! across lanes, one multiplication applies the scales of 16 rows, and the input is broadcast from memory. A tile is a
//! sequence of records. Each record holds the scales of 64 or 256 columns and then their values, in the order in which
//! kernels read them. Every jump would be a cache miss that no prefetcher predicts: with the scales at the end of a
//! tile, the speed was half.
//!
//! A group is 4 consecutive columns. 32 columns of values are `[8 groups][16 rows][4]` bytes if they have 8 bits.
//! With fewer bits, a value's low bits come last: its low four bits if it has at least four, otherwise its low two.
//! Four bits are stored as `[4][16][4]` bytes, with group g in the low half and g + 4 in the high half of a byte. Two
//! bits are stored as `[2][16][4]` bytes, with group g at bits 2 (g % 4).. of half g / 4. The bits above these come
//! first, as `[bits][16 rows][4]` bytes, with group 0 in the lowest bits of the first of them. Each kind defines the
//! layout of its scales. Blocks of kinds that index lists of numbers stay as stored, those of 16 rows side by side.

use crate::float16::f16_to_f32;
use crate::quant::{Block, Blocks, Content, Kind, MAX_BLOCK};
use half::f16;

/// Rows per tile.
pub(crate) const TILE: usize = 16;
/// Columns that share one run of value bytes.
const SUB: usize = 32;

/// How a kind lies in tiles.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Layout {
    /// Columns that share scales.
    block: usize,
    /// Columns of one record.
    cols: usize,
    /// Bytes of scales at the front of a record.
    scales: usize,
    /// Bits of a value.
    bits: usize,
}

/// The layout of the kind of this number. Kernels ask at compile time, so that their offsets are constants.
pub(super) const fn layout(kind: u8) -> Layout {
    Kind::ALL[kind as usize].format().layout
}

impl Layout {
    /// Floats of so many bits, which have no scales: `[columns][16 rows]`.
    pub(crate) const fn floats(bits: usize) -> Layout {
        Layout { block: 1, cols: 1, scales: 0, bits }
    }

    /// Values in blocks of 32, with a scale of 2 bytes each.
    pub(crate) const fn blocks_of_32(bits: usize) -> Layout {
        assert!(matches!(bits, 4 | 5 | 8), "values lie in tiles by these widths");
        Layout { block: 32, cols: 64, scales: 64, bits }
    }

    /// Values in blocks of 256, with scales of 20 bytes.
    pub(crate) const fn blocks_of_256(bits: usize) -> Layout {
        assert!(matches!(bits, 2..=6), "values lie in tiles by these widths");
        Layout { block: 256, cols: 256, scales: 320, bits }
    }

    /// The same with so many bytes of scales in a record.
    pub(crate) const fn with_scales(self, scales: usize) -> Layout {
        assert!(scales.is_multiple_of(64), "values begin on whole cache lines");
        Layout { scales, ..self }
    }

    /// Blocks of 256 in so many bytes, as stored: all of a record is scales.
    pub(crate) const fn as_stored(bytes: usize) -> Layout {
        Layout { block: 256, cols: 256, scales: TILE * bytes, bits: 0 }
    }

    /// Bits of a value; 0 of blocks that lie as stored.
    pub(super) const fn bits(self) -> usize {
        self.bits
    }

    /// Bytes of values per 32 columns.
    const fn sub_bytes(self) -> usize {
        SUB * self.column_bytes()
    }

    /// Bytes of values of one column.
    const fn column_bytes(self) -> usize {
        TILE * self.bits / 8
    }

    /// Bytes of one record.
    const fn record_bytes(self) -> usize {
        self.scales + self.cols * self.column_bytes()
    }

    /// Where in a tile the values of its `sub`th 32 columns begin.
    #[inline(always)]
    pub(crate) const fn data_at(self, sub: usize) -> usize {
        let per = self.cols / SUB;
        sub / per * self.record_bytes() + self.scales + sub % per * self.sub_bytes()
    }

    /// Where in the values of 32 columns the low four or two bits begin.
    #[inline(always)]
    pub(crate) const fn low_at(self) -> usize {
        if self.bits < 8 { (self.bits - low(self.bits)) * TILE * 4 } else { 0 }
    }

    /// Where in a tile the scales of its block `b` begin.
    #[inline(always)]
    pub(crate) const fn meta_at(self, b: usize) -> usize {
        let per = self.cols / self.block;
        b / per * self.record_bytes() + b % per * (self.scales / per)
    }

    /// Bytes of one tile, a multiple of 64.
    pub(crate) fn tile_bytes(self, cols: usize) -> usize {
        (cols.div_ceil(self.cols) * self.record_bytes()).next_multiple_of(64)
    }

    /// One row's 32 values into a sub-block's bytes, which are zero where it writes.
    fn put_values(self, bytes: &mut [u8], r: usize, q: &[u8]) {
        match self.bits {
            2 => put_values::<2>(bytes, r, q),
            3 => put_values::<3>(bytes, r, q),
            4 => put_values::<4>(bytes, r, q),
            5 => put_values::<5>(bytes, r, q),
            6 => put_values::<6>(bytes, r, q),
            _ => put_values::<8>(bytes, r, q),
        }
    }

    /// One row's 32 values out of a sub-block's bytes.
    #[inline]
    fn get_values(self, bytes: &[u8], r: usize, q: &mut [u8]) {
        match self.bits {
            2 => get_values::<2>(bytes, r, q),
            3 => get_values::<3>(bytes, r, q),
            4 => get_values::<4>(bytes, r, q),
            5 => get_values::<5>(bytes, r, q),
            6 => get_values::<6>(bytes, r, q),
            _ => get_values::<8>(bytes, r, q),
        }
    }
}

/// The same bits in each byte of a word.
const fn each(byte: u8) -> u32 {
    u32::from_le_bytes([byte; 4])
}

fn put_values<const BITS: usize>(bytes: &mut [u8], r: usize, q: &[u8]) {
    // Said once, so that no access below needs a check.
    assert!(r < TILE);
    let bytes = &mut bytes[..BITS * TILE * 4];
    for (g, q) in q.as_chunks::<4>().0.iter().enumerate() {
        let q = u32::from_le_bytes(*q);
        let mut put = |place: usize, bits: u32| {
            let at = place * TILE * 4 + r * 4;
            let word = u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
            bytes[at..at + 4].copy_from_slice(&(word | bits).to_le_bytes());
        };
        if BITS == 8 {
            put(g, q);
            continue;
        }
        let low = const { low(BITS) };
        if BITS > low {
            let (place, shift) = above::<BITS>(g);
            put(place, (q >> low & each((1 << (BITS - low)) - 1)) << shift);
        }
        let (place, shift) = below::<BITS>(g);
        put(place, (q & each((1 << low) - 1)) << shift);
    }
}

fn get_values<const BITS: usize>(bytes: &[u8], r: usize, q: &mut [u8]) {
    // Said once, so that no access below needs a check.
    assert!(r < TILE);
    let bytes = &bytes[..BITS * TILE * 4];
    let word = |place: usize| {
        let at = place * TILE * 4 + r * 4;
        u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
    };
    for (g, q) in q.as_chunks_mut::<4>().0.iter_mut().enumerate() {
        if BITS == 8 {
            *q = word(g).to_le_bytes();
            continue;
        }
        let low = const { low(BITS) };
        let (place, shift) = below::<BITS>(g);
        let mut bits = word(place) >> shift & each((1 << low) - 1);
        if BITS > low {
            let (place, shift) = above::<BITS>(g);
            bits |= (word(place) >> shift & each((1 << (BITS - low)) - 1)) << low;
        }
        *q = bits.to_le_bytes();
    }
}

/// How many bits of values of such a width, below 8, lie together.
const fn low(bits: usize) -> usize {
    if bits < 4 { 2 } else { 4 }
}

/// Which run of bytes has the bits above the low ones of group `g`, and from which bit on.
const fn above<const BITS: usize>(g: usize) -> (usize, usize) {
    let bits = BITS - low(BITS);
    (g * bits / 8, g * bits % 8)
}

/// Which run of bytes has the low bits of group `g`, and from which bit on.
const fn below<const BITS: usize>(g: usize) -> (usize, usize) {
    let first = BITS - low(BITS);
    if BITS < 4 { (first + g / 4, g % 4 * 2) } else { (first + g % 4, g / 4 * 4) }
}

/// Writes an f16 of row `r` into those that begin at `at`. Scales come from f16, so nothing is lost.
pub(crate) fn put_half(meta: &mut [u8], at: usize, r: usize, value: f32) {
    meta[at + r * 2..at + r * 2 + 2].copy_from_slice(&f16::from_f32(value).to_le_bytes());
}

/// The f16 of row `r` of those that begin at `at`.
pub(crate) fn get_half(meta: &[u8], at: usize, r: usize) -> f32 {
    f16_to_f32(u16::from_le_bytes([meta[at + r * 2], meta[at + r * 2 + 1]]))
}

/// Packs up to 16 stored rows, end to end in `rows`, into one zeroed tile.
pub fn pack_tile(kind: Kind, cols: usize, rows: &[u8], tile: &mut [u8]) {
    let (size, layout) = (kind.block_bytes(), kind.format().layout);
    let row_bytes = cols / kind.block() * size;
    for (r, row) in rows.chunks_exact(row_bytes.max(1)).enumerate() {
        for (b, stored) in row.chunks_exact(size).enumerate() {
            let Some(blocks) = kind.blocks() else {
                let at = (b * TILE + r) * size;
                tile[at..at + size].copy_from_slice(stored);
                continue;
            };
            let Some(in_tile) = &blocks.tile else {
                let at = layout.meta_at(b) + r * size;
                tile[at..at + size].copy_from_slice(stored);
                continue;
            };
            let block = (blocks.parse)(stored);
            let subs = kind.block() / SUB;
            for (sub, q) in block.q[..kind.block()].chunks_exact(SUB).enumerate() {
                let at = layout.data_at(b * subs + sub);
                layout.put_values(&mut tile[at..at + layout.sub_bytes()], r, q);
            }
            (in_tile.put_scales)(&mut tile[layout.meta_at(b)..], r, &block);
        }
    }
}

/// Takes row `r`'s block `b` out of a tile of a quantised kind.
#[inline]
pub fn get_block(kind: Kind, blocks: &Blocks, tile: &[u8], r: usize, b: usize) -> Block {
    let layout = kind.format().layout;
    let Some(in_tile) = &blocks.tile else {
        let size = kind.block_bytes();
        return (blocks.parse)(&tile[layout.meta_at(b) + r * size..][..size]);
    };
    let subs = kind.block() / SUB;
    let mut block = (in_tile.get_scales)(&tile[layout.meta_at(b)..], r);
    for (sub, q) in block.q[..kind.block()].chunks_exact_mut(SUB).enumerate() {
        let at = layout.data_at(b * subs + sub);
        layout.get_values(&tile[at..at + layout.sub_bytes()], r, q);
    }
    if let Some(table) = in_tile.table {
        block.look_up(table);
    }
    block
}

/// Block `b` of all 16 rows of a tile that has blocks as they are stored, taken apart for the vector kernels.
#[repr(align(64))]
pub(super) struct Opened {
    /// Numbers as unsigned bytes, 128 more than they are: `[64 groups][16 rows]` of 4.
    pub q: [[[u8; 4]; TILE]; MAX_BLOCK / 4],
    /// Scales of 16 columns each, `[16][16 rows]`.
    pub scale: [[i16; TILE]; MAX_BLOCK / 16],
    pub d: [f32; TILE],
}

impl Opened {
    /// An opened tile of zeros.
    pub fn new() -> Opened {
        let (q, scale) = ([[[0; 4]; TILE]; MAX_BLOCK / 4], [[0; TILE]; MAX_BLOCK / 16]);
        Opened { q, scale, d: [0.0; TILE] }
    }

    /// Takes block `b` apart. A row's numbers lie 64 bytes apart, each a store of its own: a fraction of what it costs
    /// to look them up.
    #[inline]
    pub fn fill(&mut self, kind: Kind, tile: &[u8], b: usize) {
        let Some(blocks) = kind.blocks() else { return };
        let (size, first) = (kind.block_bytes(), kind.format().layout.meta_at(b));
        for (r, stored) in tile[first..first + TILE * size].chunks_exact(size).enumerate() {
            let block = (blocks.parse)(stored);
            for (to, q) in self.q.iter_mut().zip(block.q.as_chunks::<4>().0) {
                to[r] = *q;
            }
            for (to, scale) in self.scale.iter_mut().zip(&block.scale) {
                to[r] = *scale;
            }
            self.d[r] = block.d;
        }
    }
}

/// Writes the values of row `r` of a tile, `out.len()` columns.
pub fn unpack_row(kind: Kind, tile: &[u8], r: usize, out: &mut [f32]) {
    match &kind.format().content {
        Content::Floats { widen, .. } => {
            /// Columns at a time, of at most 4 bytes each.
            const RUN: usize = 64;
            let size = kind.block_bytes();
            let mut run = [0; 4 * RUN];
            for (out, tile) in out.chunks_mut(RUN).zip(tile.chunks(RUN * TILE * size)) {
                match size {
                    2 => gather::<2>(tile, r, &mut run),
                    _ => gather::<4>(tile, r, &mut run),
                }
                widen(&run[..out.len() * size], out);
            }
        }
        Content::Blocks(blocks) => {
            for (b, out) in out.chunks_exact_mut(kind.block()).enumerate() {
                get_block(kind, blocks, tile, r, b).values(out);
            }
        }
    }
}

/// Row `r`'s numbers of `SIZE` bytes, side by side.
fn gather<const SIZE: usize>(tile: &[u8], r: usize, out: &mut [u8]) {
    let columns = tile.as_chunks::<SIZE>().0.chunks_exact(TILE);
    for (out, column) in out.as_chunks_mut::<SIZE>().0.iter_mut().zip(columns) {
        *out = column[r];
    }
}
