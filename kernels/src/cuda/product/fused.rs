//! Products that are fused in one launch with the operation that follows: with few inputs, and in tiles.
//!
//! The operations that follow are defined in `gated` and `normed`, not here.

use super::names::Tile;
use super::{FEW, MOST_DOWN, Matrix, Way};
use crate::cuda::card::{Card, Grid};
use crate::quant::Kind;

/// A product of few inputs, and the kernel that does it.
pub(super) struct Fused<'a> {
    pub kernel: &'static str,
    pub matrix: &'a Matrix,
    pub few: Few,
    pub n: usize,
}

/// The ways that there are kernels for.
#[derive(Debug, Clone, Copy)]
pub(super) enum Few {
    /// As [`Way::Vectors`].
    Vectors { split: usize },
    /// As [`Way::Dense`].
    Dense { split: usize },
}

impl<'a> Fused<'a> {
    /// The product of `n` inputs with `kernel`; `None` without a kernel, or if it cannot do that.
    pub fn of(
        card: &dyn Card,
        matrix: &'a Matrix,
        n: usize,
        kernel: Option<&'static str>,
    ) -> Option<Fused<'a>> {
        let Matrix { kind, rows, columns, .. } = *matrix;
        let few = match Way::choose(kind, rows, columns, n, card.properties()) {
            Way::Vectors { split } if n <= FEW => Few::Vectors { split },
            Way::Dense { split } => Few::Dense { split },
            _ => return None,
        };
        Some(Fused { kernel: kernel?, matrix, few, n })
    }
}

impl From<Few> for Way {
    fn from(few: Few) -> Way {
        match few {
            Few::Vectors { split } => Way::Vectors { split },
            Few::Dense { split } => Way::Dense { split },
        }
    }
}

/// A product whose inputs are those of one tile of 8-bit inputs, and the kernel that does it.
pub(super) struct Tiled<'a> {
    pub kernel: &'static str,
    pub matrix: &'a Matrix,
    pub tile: Tile,
    pub n: usize,
}

impl<'a> Tiled<'a> {
    /// The product of `n` inputs with one of these kernels; `None` without one, or if it cannot do that.
    pub fn of(
        card: &dyn Card,
        matrix: &'a Matrix,
        n: usize,
        kernel: fn(Kind, Tile) -> Option<&'static str>,
    ) -> Option<Tiled<'a>> {
        let Matrix { kind, rows, columns, .. } = *matrix;
        let Way::Tiles(tile) = Way::choose(kind, rows, columns, n, card.properties()) else {
            return None;
        };
        let kernel = kernel(kind, tile)?;
        let (across, down) = matrix.in_tiles(tile.shape(kind), n);
        (across == 1 && down <= MOST_DOWN).then_some(Tiled { kernel, matrix, tile, n })
    }

    /// Blocks: as many tiles and shares of one as the product by itself has.
    pub fn grid(&self, card: &dyn Card) -> Grid {
        let Tiled { matrix, tile, n, .. } = *self;
        let shape = tile.shape(matrix.kind);
        let (across, down) = matrix.in_tiles(shape, n);
        let blocks = [across, down, matrix.shares(card, tile, n)].map(|count| count as u32);
        Grid::of(blocks, shape.threads).shared(shape.shared_bytes(2))
    }
}
