//! Which tiles a product is cut into, and how many blocks share the columns of one: as many as should take the least time
//! by a small model. Pure: shapes, counted instructions and the card's multiprocessors.
//!
//! A multiprocessor works on as many blocks at a time as it has room for, and on the rest after that. Each such wave
//! costs its steps and a fixed time to fill and drain. If blocks share a tile's columns, the last of them adds up their
//! sums. What the memory takes is the same for all plans. Constants are those of scripts/card/model.py.

use super::names::{Tile, TileShape};
use crate::cuda::card::DeviceProperties;
use crate::quant::Kind;

/// Most blocks that share a tile's columns, and steps of 128 columns that each has at least.
const MOST_SHARES: usize = 16;
const LEAST_STEPS: usize = 4;

/// Cycles between two instructions of a warp, and the most instructions of a multiprocessor in a cycle.
const INTERVAL: f64 = 16.0 / 1.8;
const ISSUE: f64 = 3.4;
/// Share of the tensor cores' rate that is reached.
const TENSOR: f64 = 0.7;
/// Cycles to start and end a wave: 1.5 us.
const RAMP: f64 = 3000.0;
/// Bytes that a multiprocessor reads from the second-level cache in a cycle.
const L2: f64 = 64.0;

/// A way to cut a product into blocks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Plan {
    pub tile: Tile,
    /// Blocks that share the columns of a tile.
    pub shares: usize,
}

/// A product with tiles, and where it runs.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Task<'a> {
    pub kind: Kind,
    pub rows: usize,
    pub columns: usize,
    pub inputs: usize,
    pub facts: &'a DeviceProperties,
    /// Numbers that there is room for where blocks leave their sums.
    pub room: usize,
}

impl Tile {
    /// The tiles for so many inputs, more than 8. No matrix's shape may decide the form of the inputs, since several take
    /// the same ones: 8 bits on cards whose tensor cores are slow with halves.
    pub(crate) fn of(inputs: usize, facts: &DeviceProperties) -> Tile {
        let halves = facts.fast_halves();
        match inputs {
            0..=16 if halves => Tile::Halves16,
            17..=32 if halves => Tile::Halves32,
            33..=64 if halves => Tile::Halves64,
            _ if halves => Tile::Halves128,
            0..=16 => Tile::Eights16,
            17..=32 => Tile::Eights32,
            _ => Tile::Eights64,
        }
    }

    /// Instructions of a warp in a step of Q4_K, from the machine code (kernels/budget.json). Other kinds' are not far
    /// off, and no plan is chosen between kinds.
    fn instructions(self) -> f64 {
        match self {
            Tile::Halves16 => 226.0,
            Tile::Halves32 => 257.0,
            Tile::Halves64 => 197.0,
            Tile::Halves128 => 575.0,
            Tile::Eights16 => 238.0,
            Tile::Eights32 => 342.0,
            Tile::Eights64 => 663.0,
        }
    }
}

/// Multiply-adds that a multiprocessor's tensor cores do in a cycle, of 8 bits or of halves.
fn rate_of_products(facts: &DeviceProperties, eights: bool) -> f64 {
    match (facts.capability, eights) {
        ((8, 0) | (9 | 10, _), false) => 1024.0,
        ((8, 0) | (9 | 10, _), true) => 2048.0,
        (_, false) => 256.0,
        (_, true) => 1024.0,
    }
}

impl Task<'_> {
    /// The best plan with these tiles; of equal ones that with fewer shares.
    pub(crate) fn plan(&self, tile: Tile) -> Plan {
        let plans = (1..=self.most_shares(tile)).map(|shares| Plan { tile, shares });
        let best = plans.reduce(|a, b| if self.cycles(b) < self.cycles(a) { b } else { a });
        best.expect("one block per tile is a plan")
    }

    /// None without a few steps to do, and none that there is no room for.
    fn most_shares(&self, tile: Tile) -> usize {
        let (shape, tiles) = (tile.shape(self.kind), self.tiles(tile));
        let fitting = self.room / (tiles * shape.rows * shape.inputs);
        let steps = self.columns.div_ceil(128) / LEAST_STEPS;
        steps.min(fitting).clamp(1, MOST_SHARES)
    }

    fn tiles(&self, tile: Tile) -> usize {
        let shape = tile.shape(self.kind);
        self.rows.div_ceil(shape.rows) * self.inputs.div_ceil(shape.inputs)
    }

    /// What a plan should take.
    pub(crate) fn cycles(&self, plan: Plan) -> f64 {
        let shape = plan.tile.shape(self.kind);
        let multiprocessors = (self.facts.multiprocessors as usize).max(1);
        let steps = self.columns.div_ceil(32 * shape.groups).div_ceil(plan.shares) as f64;
        let (resident, warps) = (shape.blocks(self.facts), shape.threads as f64 / 32.0);
        let most = (self.tiles(plan.tile) * plan.shares).div_ceil(multiprocessors);
        let work = warps * plan.tile.instructions() * steps;
        let products = (shape.rows * shape.inputs * 32 * shape.groups) as f64 * steps;
        // Minima keep the tensor cores busy for as long as the numbers do (product_tiles.cuh).
        let minima = plan.tile.eights() && self.kind.card().is_some_and(|card| card.minimum);
        let times = if minima { 2.0 } else { 1.0 };
        let tensor = times * products / (TENSOR * rate_of_products(self.facts, plan.tile.eights()));
        let together = |blocks: usize| {
            let rate = ISSUE.min(blocks as f64 * warps / INTERVAL);
            blocks as f64 * (work / rate).max(tensor) + RAMP
        };
        let rest = if most.is_multiple_of(resident) { 0.0 } else { together(most % resident) };
        (most / resident) as f64 * together(resident) + rest + self.joining(&shape, plan.shares)
    }

    /// Writing the sums of a tile's shares, and adding them up.
    fn joining(&self, shape: &TileShape, shares: usize) -> f64 {
        if shares == 1 {
            return 0.0;
        }
        RAMP + (shape.rows * shape.inputs * 4 * (shares + 1)) as f64 / L2
    }
}

#[cfg(test)]
mod tests;
