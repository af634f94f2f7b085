//! The names of the product kernels, and the shapes of their tiles. product_tiles.cuh and product_halves.cu define the
//! same shapes.

use crate::cuda::card::{CardError, DeviceProperties};
use crate::cuda::on_card::{KernelNames, OnCard, to_8};
use crate::quant::Kind;

/// Tiles by the form of their inputs, bf16 or 8 bits, and the most inputs of one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Tile {
    Halves16,
    Halves32,
    Halves64,
    Halves128,
    Eights16,
    Eights32,
    Eights64,
}

/// What a block works on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct TileShape {
    kind: Kind,
    pub rows: usize,
    pub inputs: usize,
    pub threads: u32,
    /// Whether inputs have 8 bits.
    eights: bool,
    /// Groups of 32 columns in one step.
    pub groups: usize,
    /// Warps that share a step's groups.
    splits: usize,
    /// Most steps that are in shared memory at once.
    most_stages: usize,
}

/// Blocks of a multiprocessor that registers leave room for.
const RESIDENT: usize = 2;
/// Bytes of each block's shared memory that the driver takes, from compute capability 8.0 on. A multiprocessor has as
/// much more than a block may have.
const RESERVED: usize = 1 << 10;

impl Tile {
    #[cfg(any(test, feature = "known-answers"))]
    pub(crate) const ALL: [Tile; 7] = [
        Tile::Halves16,
        Tile::Halves32,
        Tile::Halves64,
        Tile::Halves128,
        Tile::Eights16,
        Tile::Eights32,
        Tile::Eights64,
    ];

    /// Whether inputs have 8 bits.
    pub(crate) fn eights(self) -> bool {
        matches!(self, Tile::Eights16 | Tile::Eights32 | Tile::Eights64)
    }

    /// For weights of a kind: those with more bits have less room for rows or groups.
    pub(crate) fn shape(self, kind: Kind) -> TileShape {
        let four_bits = |card: &OnCard| (card.shares[0] + card.shares[1]) * 2 == kind.block();
        let few_bits = kind.card().is_some_and(four_bits);
        let (rows, inputs, groups, splits, most_stages) = match self {
            Tile::Halves16 => (128, 16, 4, 2, 4),
            Tile::Halves32 if kind == Kind::Q8_0 => (128, 32, 2, 2, 4),
            Tile::Halves32 => (128, 32, 4, 2, 3),
            Tile::Halves64 => (128, 64, 2, 2, 4),
            Tile::Halves128 => (128, 128, 4, 1, 2),
            Tile::Eights16 => (128, 16, 4, 2, 2),
            Tile::Eights32 => (128, 32, 4, 2, 2),
            Tile::Eights64 if few_bits => (128, 64, 4, 1, 2),
            Tile::Eights64 => (128, 64, 2, 1, 2),
        };
        let (eights, threads) = (self.eights(), 2 * rows as u32);
        TileShape { kind, rows, inputs, threads, eights, groups, splits, most_stages }
    }
}

impl TileShape {
    /// Steps that are in shared memory at once: as many as leave room for a second block, and at least 2.
    pub(crate) fn stages(self, properties: &DeviceProperties) -> usize {
        let all = properties.shared_per_block as usize + RESERVED;
        let fits = |stages: usize| (self.shared_bytes(stages) + RESERVED) * RESIDENT <= all;
        (3..=self.most_stages).rev().find(|stages| fits(*stages)).unwrap_or(2)
    }

    /// Blocks that a multiprocessor works on at a time.
    pub(crate) fn blocks(self, properties: &DeviceProperties) -> usize {
        let own = self.shared_bytes(self.stages(properties)) + RESERVED;
        let fitting = (properties.shared_per_block as usize + RESERVED) / own;
        fitting.clamp(1, RESIDENT)
    }

    /// Shared memory of a block: stages of packed weights and of inputs, with the scales of both; for each warp the
    /// scales of its 32 rows as pairs; and what inputs of 8 bits are still to be multiplied with. None for kinds without
    /// tiles.
    pub(crate) fn shared_bytes(self, stages: usize) -> usize {
        let Some(OnCard { shares, staged, kernels: KernelNames { tiles: Some(_), .. }, .. }) =
            self.kind.card()
        else {
            return 0;
        };
        let bits = (shares[0] + shares[1]) * 32 / self.kind.block();
        let weights = (bits + staged[0]) * self.groups + staged[1];
        let input = if self.eights { 32 + 8 } else { 64 } * self.groups;
        let tables = self.threads as usize / 32 * (self.groups / self.splits) * 32 * 8;
        let scales = if self.eights { self.inputs * size_of::<f32>() } else { 0 };
        (self.rows * weights + self.inputs * input) * stages + tables + scales
    }
}

fn no_kernel(kind: Kind, n: usize) -> CardError {
    CardError::Shape(format!("no kernel of this kind multiplies {kind:?} with {n} inputs"))
}

/// Of products with up to 8 inputs in 8 bits.
pub(super) fn vectors(kind: Kind, n: usize) -> Result<&'static str, CardError> {
    few(kind, n, kind.is_quantised())
}

/// Of products with up to 8 inputs in the weights' own floats.
pub(super) fn dense(kind: Kind, n: usize) -> Result<&'static str, CardError> {
    few(kind, n, !kind.is_quantised())
}

fn few(kind: Kind, n: usize, has: bool) -> Result<&'static str, CardError> {
    let name = kind.card().and_then(|card| card.kernels.few.get(n.wrapping_sub(1))).copied();
    name.filter(|_| has).ok_or_else(|| no_kernel(kind, n))
}

/// Of products of gate and up, with the activation between them, if there is one.
pub(super) fn gated(kind: Kind, n: usize) -> Option<&'static str> {
    kind.card()?.kernels.gated.as_ref()?.get(n.wrapping_sub(1)).copied()
}

/// The same in tiles.
pub(super) fn tiles_gated(kind: Kind, tile: Tile) -> Option<&'static str> {
    of_eights(kind.card()?.kernels.tiles_gated, tile)
}

/// That of these tiles, of names in the order of those that take inputs of 8 bits.
fn of_eights(names: &[&'static str], tile: Tile) -> Option<&'static str> {
    names.get((tile as usize).checked_sub(Tile::Eights16 as usize)?).copied()
}

/// Of products that join the residual stream, with the norm after, if there is one.
pub(super) fn normed(kind: Kind, n: usize) -> Option<&'static str> {
    kind.card()?.kernels.normed.as_ref()?.get(n.wrapping_sub(1)).copied()
}

/// The same in tiles.
pub(super) fn tiles_normed(kind: Kind, tile: Tile) -> Option<&'static str> {
    of_eights(kind.card()?.kernels.tiles_normed, tile)
}

/// Kinds that products of two kinds take, in the kernels' order.
const MIXED_KINDS: [Kind; 3] = [Kind::Q4K, Kind::Q5K, Kind::Q6K];
const MIXED: [&str; 8] = to_8!("product_mixed_");

/// The names that kernels of two kinds have for these, if they take them.
pub(super) fn mixed_kinds(kinds: [Kind; 2]) -> Option<[usize; 2]> {
    let place = |kind: Kind| MIXED_KINDS.iter().position(|known| *known == kind);
    let [Some(first), Some(second)] = kinds.map(place) else { return None };
    Some([first, second])
}

/// Of products of two matrices with up to 8 inputs.
pub(super) fn mixed(n: usize) -> Option<&'static str> {
    MIXED.get(n.wrapping_sub(1)).copied()
}

/// Of products of two matrices in tiles.
pub(super) fn pair(tile: Tile) -> Option<&'static str> {
    match tile {
        Tile::Eights16 => Some("product_pair_16"),
        Tile::Eights32 => Some("product_pair_32"),
        Tile::Eights64 => Some("product_pair_64"),
        _ => None,
    }
}

/// Of products in tiles.
pub(super) fn tiles(kind: Kind, tile: Tile) -> Result<&'static str, CardError> {
    let names = kind.card().and_then(|card| card.kernels.tiles.as_ref());
    let names = names.ok_or_else(|| no_kernel(kind, tile.shape(kind).inputs))?;
    Ok(names[tile as usize])
}
