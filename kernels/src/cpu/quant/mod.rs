//! Weight matrices as stored (quantised or plain floats) and their products with f32 inputs.
//!
//! Rows are repacked into tiles (`tile`) once, at load time. A product prepares its input once (`input`), then threads
//! take runs of tiles. It does not know about models: a matrix is a kind, a shape and bytes. ggml's row layout is not
//! kept, because it needs a sum across lanes for every block and row, and shuffles to align two rows. Repacking takes
//! about a second at load time, and no more memory.

mod input;
mod product;
pub(crate) mod scalar;
mod shape;
pub mod store;
mod tile;

#[cfg(target_arch = "x86_64")]
pub(crate) mod avx2;
#[cfg(target_arch = "x86_64")]
pub(crate) mod avx512;
#[cfg(test)]
mod tests;

pub(crate) use input::Form;
pub(crate) use product::{Kernels, by_width, kernels};
pub use product::{Scratch, matmul_many};
pub use store::WeightStore;
pub(crate) use tile::{Layout, TILE, get_half, put_half};

use crate::cpu::pool::{Disjoint, Pool};
use crate::quant::Kind;
use store::Piece;
use tile::{pack_tile, unpack_row};

/// Why a matrix cannot be made.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum QuantError {
    /// A row does not divide into whole blocks of its format.
    #[error("a row of {cols} values is not a whole number of {kind:?} blocks of {}", kind.block())]
    Columns {
        /// Format of the weights.
        kind: Kind,
        /// Values in a row.
        cols: usize,
    },
    /// The bytes are not as many as the shape takes.
    #[error("{rows} x {cols} values of {kind:?} take {expected} bytes, but there are {found}")]
    Bytes {
        /// Format of the weights.
        kind: Kind,
        /// Rows of the matrix.
        rows: usize,
        /// Values in a row.
        cols: usize,
        /// Bytes that the shape takes as stored.
        expected: usize,
        /// Bytes that were given.
        found: usize,
    },
    /// The size of the packed matrix overflows.
    #[error("{rows} x {cols} values of {kind:?} are more than this machine can address")]
    TooLarge {
        /// Format of the weights.
        kind: Kind,
        /// Rows of the matrix.
        rows: usize,
        /// Values in a row.
        cols: usize,
    },
    /// The system has refused the store's allocation.
    #[error("no memory for {bytes} bytes of weights")]
    Memory {
        /// Bytes asked for.
        bytes: usize,
    },
    /// The store has too little room left for a matrix.
    #[error("the weight store has {left} bytes left, {wanted} are wanted")]
    StoreFull {
        /// Bytes of the packed matrix.
        wanted: usize,
        /// Bytes not handed out yet.
        left: usize,
    },
}

/// A weight matrix, `[rows][cols]`, ready for products.
#[derive(Clone)]
pub struct QMatrix {
    kind: Kind,
    rows: usize,
    cols: usize,
    tiles: Piece,
}

impl QMatrix {
    /// Packs rows as stored in a file, end to end in `bytes`, into memory of its own. Fails if `cols` is no multiple of
    /// the kind's block, if `bytes` is not as long as `rows` rows, or if the memory cannot be had.
    pub fn new(kind: Kind, rows: usize, cols: usize, bytes: &[u8]) -> Result<QMatrix, QuantError> {
        let mut store = WeightStore::new(Self::packed_bytes(kind, rows, cols)?)?;
        Self::new_in(&mut store, &Pool::new(1), kind, rows, cols, bytes)
    }

    /// Packs rows as stored in a file into a model's store, on all threads of the pool. `bytes` is `[rows][row bytes]`.
    /// Fails as [`QMatrix::new`] does, or if the store is full.
    pub fn new_in(
        store: &mut WeightStore,
        pool: &Pool,
        kind: Kind,
        rows: usize,
        cols: usize,
        bytes: &[u8],
    ) -> Result<QMatrix, QuantError> {
        let packed = Self::packed_bytes(kind, rows, cols)?;
        let row_bytes = kind.row_bytes(cols).ok_or(QuantError::Columns { kind, cols })?;
        let expected = row_bytes * rows;
        if bytes.len() != expected {
            return Err(QuantError::Bytes { kind, rows, cols, expected, found: bytes.len() });
        }
        let mut piece = store.take(packed)?;
        let size = kind.format().layout.tile_bytes(cols);
        let tiles = Disjoint::new(piece.bytes());
        pool.run(rows.div_ceil(TILE), &|t| {
            // SAFETY: each task has a tile of its own.
            let tile = unsafe { tiles.part(t * size, size) };
            let end = expected.min((t + 1) * TILE * row_bytes);
            pack_tile(kind, cols, &bytes[t * TILE * row_bytes..end], tile);
        });
        Ok(QMatrix { kind, rows, cols, tiles: piece.finish() })
    }

    /// Bytes that a matrix takes once packed: as much as stored, up to 6 % more where scales of less than a
    /// byte are made whole (Q3_K, Q4_K, Q5_K, IQ4_XS, MXFP4), and rows filled up to a multiple of 16. Fails if `cols`
    /// is no multiple of the kind's block, or if the matrix is too large to address.
    pub fn packed_bytes(kind: Kind, rows: usize, cols: usize) -> Result<usize, QuantError> {
        let too_large = QuantError::TooLarge { kind, rows, cols };
        if !cols.is_multiple_of(kind.block()) {
            return Err(QuantError::Columns { kind, cols });
        }
        // No kind takes more than 4 bytes a value, nor 64 more a tile for alignment.
        let wide = cols.checked_add(64);
        let values =
            rows.checked_next_multiple_of(TILE).zip(wide).and_then(|(r, c)| r.checked_mul(c));
        let fits = values.and_then(|v| v.checked_mul(8)).is_some_and(|b| b < isize::MAX as usize);
        if fits {
            Ok(rows.div_ceil(TILE) * kind.format().layout.tile_bytes(cols))
        } else {
            Err(too_large)
        }
    }

    /// Format that the weights were stored in.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// Rows: outputs of a product.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Values in a row: inputs of a product.
    pub fn cols(&self) -> usize {
        self.cols
    }

    /// Bytes of packed weights.
    pub fn bytes(&self) -> usize {
        self.tiles.bytes().len()
    }

    /// Writes row `index`, `[cols]`, to `out` (an embedding lookup). Panics when out of range.
    pub fn row(&self, index: usize, out: &mut [f32]) {
        assert!(index < self.rows && out.len() == self.cols, "no such row, or another width");
        unpack_row(self.kind, self.tile(index / TILE), index % TILE, out);
    }

    /// `out[i][r] = x[i] . row r`, with `x` `[n][cols]` and `out` `[n][rows]`. Panics on other lengths.
    pub fn matmul(&self, x: &[f32], n: usize, out: &mut [f32], scratch: &mut Scratch) {
        matmul_many(std::slice::from_ref(self), x, n, out, scratch);
    }

    fn tile_count(&self) -> usize {
        self.rows.div_ceil(TILE)
    }

    fn tile_bytes(&self) -> usize {
        self.kind.format().layout.tile_bytes(self.cols)
    }

    fn tile(&self, index: usize) -> &[u8] {
        let size = self.tile_bytes();
        &self.tiles.bytes()[index * size..(index + 1) * size]
    }
}
