//! The layout of weights on a GPU: quantised rows are split into planes of equal pieces.
//!
//! Blocks in a file are 18 to 210 bytes long, so few of them start at an address that is aligned for a GPU's 16-byte
//! loads. So the parts of a block are sorted by size into planes, each `[rows][columns / block]` of one kind of piece:
//! the low bits (16 or 32 bytes for 32 numbers), further bits, and scales. Then every piece is aligned, neighbouring
//! threads read neighbouring pieces, and a matrix takes exactly as many bytes as in the file. Numbers are changed only
//! so that kernels need fewer instructions: the bits of the four numbers of a word are placed side by side, and an
//! offset of 8 or 32 becomes a sign bit. Each kind's file describes its layout; `quant.cuh` reads the planes.
//!
//! It is pure and does not use a GPU. Rows are not interleaved for tensor core fragments: shared memory can do that as
//! well, and this way rows can be loaded (and embedded) one by one.

use super::acts::ActKind;
use super::on_card::{OnCard, Planes};
use crate::quant::Kind;
use std::ops::Range;

impl Kind {
    /// The form in which a product with such weights takes a few inputs; of kinds that cards have no kernels for, the
    /// one of their numbers.
    pub fn input_kind(self) -> ActKind {
        self.card().map_or(ActKind::F32, |card| card.input)
    }
}

/// Where the planes of a matrix lie in its memory, one after the other. Low bits are whole 16 bytes of every row, so that
/// the next plane starts where a 16-byte load may. Pieces that follow shorter ones are loaded by 8 bytes or fewer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PlaneLayout {
    kind: Kind,
    rows: usize,
    /// Bytes of a row in each plane.
    row: [usize; 4],
}

/// Bytes of some rows to be copied into a matrix.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Piece {
    /// Place in the matrix's memory.
    pub at: usize,
    /// Place in what [`planes`] wrote for those rows.
    pub from: Range<usize>,
}

impl PlaneLayout {
    /// `None` if rows are no whole blocks, there is no counting the bytes, or cards have no kernels for the kind.
    pub fn new(kind: Kind, rows: usize, columns: usize) -> Option<PlaneLayout> {
        kind.row_bytes(columns)?.checked_mul(rows)?;
        let blocks = columns / kind.block();
        Some(PlaneLayout { kind, rows, row: kind.card()?.shares.map(|bytes| bytes * blocks) })
    }

    /// Bytes of the whole matrix: as many as in the file.
    pub fn bytes(&self) -> usize {
        self.offset(4)
    }

    /// Where plane `plane` starts: 0 low bits, 1 further bits, 2 scales, 3 scales of scales.
    pub fn offset(&self, plane: usize) -> usize {
        self.row[..plane].iter().sum::<usize>() * self.rows
    }

    /// Bytes of plane `plane`.
    pub fn len(&self, plane: usize) -> usize {
        self.row[plane] * self.rows
    }

    /// What to copy where for the `rows` rows from `first` on, which [`planes`] has written by themselves.
    /// Panics if there are no such rows.
    pub fn pieces(&self, first: usize, rows: usize) -> impl Iterator<Item = Piece> + use<> {
        assert!(first + rows <= self.rows, "{rows} rows from {first} on are not in {}", self.rows);
        let (whole, part) = (*self, PlaneLayout { rows, ..*self });
        (0..4).filter(move |plane| part.len(*plane) > 0).map(move |plane| Piece {
            at: whole.offset(plane) + first * whole.row[plane],
            from: part.offset(plane)..part.offset(plane + 1),
        })
    }
}

/// Rearranges `rows` rows as stored into planes: a [`PlaneLayout`] of just those rows. Panics if `bytes` or `out`
/// has another length than `rows` rows of whole blocks.
pub fn planes(kind: Kind, rows: usize, columns: usize, bytes: &[u8], out: &mut [u8]) {
    let layout = PlaneLayout::new(kind, rows, columns).expect("rows of whole blocks");
    assert_eq!((bytes.len(), out.len()), (layout.bytes(), layout.bytes()), "bytes of {rows} rows");
    let Some(OnCard { shares, sort: Some(sort), .. }) = kind.card() else {
        return out.copy_from_slice(bytes);
    };
    let (low, rest) = out.split_at_mut(layout.len(0));
    let (high, rest) = rest.split_at_mut(layout.len(1));
    let (scales, supers) = rest.split_at_mut(layout.len(2));
    for (at, block) in bytes.chunks_exact(kind.block_bytes()).enumerate() {
        let place = |share: usize| at * share..(at + 1) * share;
        let planes = Planes {
            low: &mut low[place(shares[0])],
            high: &mut high[place(shares[1])],
            scales: &mut scales[place(shares[2])],
            supers: &mut supers[place(shares[3])],
        };
        sort(planes, block);
    }
}

#[cfg(test)]
mod tests;
