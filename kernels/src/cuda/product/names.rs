//! The kernels of products by name, and the shapes of their tiles, which product_tiles.cu and
//! product_halves.cu have too.

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
    Eights64,
    Eights128,
}

/// What a block works on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct TileShape {
    pub rows: usize,
    pub inputs: usize,
    pub threads: u32,
    /// Whether inputs have 8 bits.
    pub eights: bool,
    /// Groups of 32 columns in one step.
    groups: usize,
    /// Steps in shared memory at once.
    stages: usize,
    /// Warps that share a step's groups.
    splits: usize,
    /// Blocks that a large card's multiprocessor has room for.
    pub resident: usize,
}

/// Most blocks that share a tile's columns, and steps that each has at least.
const MOST_SHARES: usize = 16;
const LEAST_STEPS: usize = 4;

impl Tile {
    #[cfg(any(test, feature = "known-answers"))]
    pub(crate) const ALL: [Tile; 6] = [
        Tile::Halves16,
        Tile::Halves32,
        Tile::Halves64,
        Tile::Halves128,
        Tile::Eights64,
        Tile::Eights128,
    ];

    /// For more than 8 inputs. Up to 64 it is the instructions that turn packed weights into numbers which limit a
    /// product, not the tensor cores; many inputs go through 8 bits on cards whose tensor cores are slow with halves.
    pub(crate) fn choose(rows: usize, n: usize, facts: &DeviceProperties) -> Tile {
        let TileShape { rows: m, inputs, .. } = Tile::Eights128.shape();
        let busy = rows.div_ceil(m) * n.div_ceil(inputs) >= facts.multiprocessors as usize;
        match n {
            0..=16 => Tile::Halves16,
            17..=32 => Tile::Halves32,
            33..=64 => Tile::Halves64,
            _ if facts.fast_halves() => Tile::Halves128,
            _ if busy => Tile::Eights128,
            _ => Tile::Eights64,
        }
    }

    pub(crate) fn shape(self) -> TileShape {
        let (rows, inputs, threads, groups, stages, splits, resident) = match self {
            Tile::Halves16 => (128, 16, 256, 4, 4, 2, 2),
            Tile::Halves32 => (128, 32, 256, 4, 3, 2, 2),
            Tile::Halves64 => (128, 64, 256, 4, 2, 1, 2),
            Tile::Halves128 => (128, 128, 256, 4, 2, 1, 2),
            Tile::Eights64 => (64, 64, 128, 4, 3, 1, 2),
            Tile::Eights128 => (128, 128, 256, 4, 2, 1, 1),
        };
        let eights = matches!(self, Tile::Eights64 | Tile::Eights128);
        TileShape { rows, inputs, threads, eights, groups, stages, splits, resident }
    }
}

impl TileShape {
    /// Blocks that share the columns of each of so many tiles: as many as fill the multiprocessors,
    /// but none without a few steps to do, and none that `room`, in numbers, has no place for.
    pub(crate) fn shares(
        self,
        tiles: usize,
        columns: usize,
        multiprocessors: usize,
        room: usize,
    ) -> usize {
        let steps = columns.div_ceil(32 * self.groups);
        let fitting = room / (tiles * self.rows * self.inputs);
        let wanted = self.resident * multiprocessors / tiles;
        wanted.min(steps / LEAST_STEPS).min(fitting).clamp(1, MOST_SHARES)
    }

    /// Shared memory of a block: stages of packed weights, a row 16 bytes longer than it has to be, and of inputs,
    /// with the scales of both; and for each warp the scales of its 32 rows as pairs. None for kinds without tiles.
    pub(crate) fn shared_bytes(self, kind: Kind) -> usize {
        let Some(OnCard { shares, staged, kernels: KernelNames { tiles: Some(_), .. }, .. }) =
            kind.card()
        else {
            return 0;
        };
        let [low, high] = [shares[0], shares[1]].map(|share| share * 32 / kind.block());
        let scales = staged[0] * self.groups + staged[1];
        let row = |group: usize| if group == 0 { 0 } else { self.groups * group + 16 };
        let input = if self.eights { row(32) + self.groups * 8 } else { self.groups * 64 };
        let stage = self.rows * (row(low) + row(high) + scales) + self.inputs * input;
        let tables = self.threads as usize / 32 * (self.groups / self.splits) * 32 * 8;
        stage * self.stages + tables
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

/// Kinds that products of two kinds take, in the kernels' order.
const MIXED_KINDS: [Kind; 3] = [Kind::Q4K, Kind::Q5K, Kind::Q6K];
const MIXED: [&str; 8] = to_8!("product_mixed_");

/// Of products of two matrices of these kinds, and the kernel's names of both, if there is one.
pub(super) fn mixed(kinds: [Kind; 2], n: usize) -> Option<(&'static str, [usize; 2])> {
    let place = |kind: Kind| MIXED_KINDS.iter().position(|known| *known == kind);
    let [Some(first), Some(second)] = kinds.map(place) else { return None };
    Some((MIXED.get(n.wrapping_sub(1))?, [first, second]))
}

/// Of products in tiles.
pub(super) fn tiles(kind: Kind, tile: Tile) -> Result<&'static str, CardError> {
    let names = kind.card().and_then(|card| card.kernels.tiles.as_ref());
    let names = names.ok_or_else(|| no_kernel(kind, tile.shape().inputs))?;
    Ok(names[tile as usize])
}
