//! The kernels of products by name, and the shapes of their tiles, which product_tiles.cu has too.

use crate::card::CardError;
use crate::weights::WeightKind;

/// Tiles by the most inputs of one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Tile {
    Inputs16,
    Inputs32,
    Inputs64,
    Inputs128,
}

/// What a block works on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct TileShape {
    pub rows: usize,
    pub inputs: usize,
    pub threads: u32,
    /// Groups of 32 columns in one step.
    groups: usize,
    /// Steps in shared memory at once.
    stages: usize,
    /// Warps that share a step's groups.
    splits: usize,
}

impl Tile {
    pub(crate) const ALL: [Tile; 4] =
        [Tile::Inputs16, Tile::Inputs32, Tile::Inputs64, Tile::Inputs128];

    /// The largest tiles of which every multiprocessor gets one.
    pub(crate) fn choose(rows: usize, n: usize, multiprocessors: usize) -> Tile {
        let busy = |tile: Tile| {
            let TileShape { rows: m, inputs, .. } = tile.shape();
            rows.div_ceil(m) * n.div_ceil(inputs) >= multiprocessors
        };
        match n {
            0..=16 => Tile::Inputs16,
            17..=32 => Tile::Inputs32,
            65.. if busy(Tile::Inputs128) => Tile::Inputs128,
            _ if busy(Tile::Inputs64) => Tile::Inputs64,
            _ => Tile::Inputs32,
        }
    }

    pub(crate) fn shape(self) -> TileShape {
        let (rows, inputs, threads, groups, stages, splits) = match self {
            Tile::Inputs16 => (32, 16, 128, 8, 3, 4),
            Tile::Inputs32 => (32, 32, 128, 8, 3, 4),
            Tile::Inputs64 => (64, 64, 128, 4, 3, 1),
            Tile::Inputs128 => (128, 128, 256, 4, 2, 1),
        };
        TileShape { rows, inputs, threads, groups, stages, splits }
    }
}

impl TileShape {
    /// Shared memory of a block: stages of packed weights and inputs, a row of each 16 bytes longer than it has to
    /// be, with the scales of both; and for each warp the scales of its 32 rows as pairs of floats.
    pub(crate) fn shared_bytes(self, kind: WeightKind) -> usize {
        let (low, high, scales) = match kind {
            WeightKind::Q8_0 => (32, 0, 2 * self.groups),
            WeightKind::Q5K => (16, 4, 16),
            WeightKind::Q6K => (16, 8, 2 * self.groups + 4),
            WeightKind::Q4K => (16, 0, 16),
            _ => (16, 0, 2 * self.groups),
        };
        let row = |group: usize| if group == 0 { 0 } else { self.groups * group + 16 };
        let weights = self.rows * (row(low) + row(high) + scales);
        let inputs = self.inputs * (row(32) + self.groups * 8);
        let tables = self.threads as usize / 32 * (self.groups / self.splits) * 32 * 8;
        (weights + inputs) * self.stages + tables
    }
}

macro_rules! to_8 {
    ($prefix:literal) => {
        [
            concat!($prefix, "1"),
            concat!($prefix, "2"),
            concat!($prefix, "3"),
            concat!($prefix, "4"),
            concat!($prefix, "5"),
            concat!($prefix, "6"),
            concat!($prefix, "7"),
            concat!($prefix, "8"),
        ]
    };
}

macro_rules! to_128 {
    ($prefix:literal) => {
        [
            concat!($prefix, "16"),
            concat!($prefix, "32"),
            concat!($prefix, "64"),
            concat!($prefix, "128"),
        ]
    };
}

fn no_kernel(kind: WeightKind, n: usize) -> CardError {
    CardError::Shape(format!("no kernel of this kind multiplies {kind:?} with {n} inputs"))
}

/// Of products with up to 8 inputs in 8 bits.
pub(super) fn vectors(kind: WeightKind, n: usize) -> Result<&'static str, CardError> {
    let names = match kind {
        WeightKind::Q8_0 => to_8!("product_quant_q8_0_"),
        WeightKind::Q4_0 => to_8!("product_quant_q4_0_"),
        WeightKind::Q4K => to_8!("product_quant_q4_k_"),
        WeightKind::Q5K => to_8!("product_quant_q5_k_"),
        WeightKind::Q6K => to_8!("product_quant_q6_k_"),
        _ => return Err(no_kernel(kind, n)),
    };
    names.get(n.wrapping_sub(1)).copied().ok_or_else(|| no_kernel(kind, n))
}

/// Of products in tiles.
pub(super) fn tiles(kind: WeightKind, tile: Tile) -> Result<&'static str, CardError> {
    let names = match kind {
        WeightKind::Q8_0 => to_128!("product_tiles_q8_0_"),
        WeightKind::Q4_0 => to_128!("product_tiles_q4_0_"),
        WeightKind::Q4K => to_128!("product_tiles_q4_k_"),
        WeightKind::Q5K => to_128!("product_tiles_q5_k_"),
        WeightKind::Q6K => to_128!("product_tiles_q6_k_"),
        _ => return Err(no_kernel(kind, tile.shape().inputs)),
    };
    Ok(names[tile as usize])
}

/// Of products with up to 8 inputs in the weights' own floats.
pub(super) fn dense(kind: WeightKind, n: usize) -> Result<&'static str, CardError> {
    let name = match kind {
        WeightKind::F32 => to_8!("product_dense_f32_").get(n.wrapping_sub(1)).copied(),
        WeightKind::F16 => Some("product_dense_f16").filter(|_| n <= 8),
        WeightKind::BF16 => Some("product_dense_bf16").filter(|_| n <= 8),
        _ => None,
    };
    name.ok_or_else(|| no_kernel(kind, n))
}
