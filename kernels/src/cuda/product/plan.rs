//! Which tiles a product is cut into, and how many thread blocks share the columns of a tile: the plan that a small
//! cost model expects to be fastest. A pure function of shapes, instruction counts and the number of multiprocessors.
//!
//! The model: a multiprocessor runs as many blocks at a time as fit (a wave), and the others after that. Meanwhile all
//! weights are read from memory, however they are cut. Each wave takes a fixed time to fill and drain, and if blocks
//! share a tile's columns, the last of them adds up their sums. So if memory is the bottleneck, few blocks are best.
//! Two products in one launch are planned together. The constants are those of scripts/card/model.py.

use super::names::Tile;
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
/// Share of the memory's rate that is reached.
const BANDWIDTH: f64 = 0.89;
/// Share of what takes less time, instructions or memory, that is not hidden behind the other. Assumed.
const IN_TURN: f64 = 0.125;
/// Instructions of tiles of Q6_K over those of Q4_K.
const Q6_K: f64 = 1.48;

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
    pub properties: &'a DeviceProperties,
    /// Numbers that there is room for where blocks leave their sums.
    pub room: usize,
}

impl Tile {
    /// The tiles for so many inputs, more than 8. No matrix's shape may decide the form of the inputs, since several take
    /// the same ones: 8 bits on cards whose tensor cores are slow with halves.
    pub(crate) fn of(inputs: usize, properties: &DeviceProperties) -> Tile {
        let halves = properties.fast_halves();
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

    /// Instructions of a warp in a step of Q4_K, from the machine code (kernels/budget.json). Those of other kinds are not
    /// far off, but for Q6_K's, see [`Task::block`].
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
fn rate_of_products(properties: &DeviceProperties, eights: bool) -> f64 {
    match (properties.capability, eights) {
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
        let blocks = Blocks { count: self.tiles(plan.tile) * plan.shares, each: self.block(plan) };
        let resident = plan.tile.shape(self.kind).blocks(self.properties);
        launch(self.properties, &[blocks], resident, self.memory()) + self.joining(plan)
    }

    /// What one block does.
    fn block(&self, plan: Plan) -> Block {
        let shape = plan.tile.shape(self.kind);
        let steps = self.columns.div_ceil(32 * shape.groups).div_ceil(plan.shares) as f64;
        let warps = shape.threads as f64 / 32.0;
        // Each half of a group of Q6_K has a product and a scale of its own.
        let more = if self.kind == Kind::Q6K { Q6_K } else { 1.0 };
        let products = (shape.rows * shape.inputs * 32 * shape.groups) as f64 * steps;
        // Minima keep the tensor cores busy for as long as the numbers do (product_tiles.cuh).
        let minima = plan.tile.eights() && self.kind.card().is_some_and(|card| card.minimum);
        let times = if minima { 2.0 } else { 1.0 };
        let tensor =
            times * products / (TENSOR * rate_of_products(self.properties, plan.tile.eights()));
        Block { warps, work: warps * plan.tile.instructions() * more * steps, tensor }
    }

    /// Cycles in which the memory brings the weights; 0 if its rate is not known.
    fn memory(&self) -> f64 {
        let DeviceProperties { bandwidth, clock, .. } = *self.properties;
        let bytes = self.rows * self.columns / self.kind.block() * self.kind.block_bytes();
        let seconds = bytes as f64 / (BANDWIDTH * bandwidth as f64);
        if bandwidth == 0 { 0.0 } else { seconds * clock as f64 }
    }

    /// Writing the sums of a tile's shares, and adding them up.
    fn joining(&self, plan: Plan) -> f64 {
        let shape = plan.tile.shape(self.kind);
        if plan.shares == 1 {
            return 0.0;
        }
        RAMP + (shape.rows * shape.inputs * 4 * (plan.shares + 1)) as f64 / L2
    }
}

/// Blocks that share the columns of the tiles of either of two products in one launch. `fits`: whether there is room.
pub(crate) fn together(
    tasks: &[Task<'_>; 2],
    tile: Tile,
    fits: impl Fn([usize; 2]) -> bool,
) -> Option<[usize; 2]> {
    let both = Launch::of(tasks, tile);
    let [first, second] = both.options.each_ref().map(Vec::len);
    let plans = (1..=first).flat_map(|one| (1..=second).map(move |two| [one, two]));
    let fitting = plans.filter(|shares| fits(*shares));
    let priced = fitting.map(|shares| (both.cycles(shares), shares));
    priced.reduce(|a, b| if b.0 < a.0 { b } else { a }).map(|(_, shares)| shares)
}

/// Two products in one launch. What each adds at each number of shares is computed once: up to 256 pairs are compared at
/// every launch that is not part of a CUDA graph.
struct Launch<'a> {
    properties: &'a DeviceProperties,
    resident: usize,
    memory: f64,
    /// By the number of shares, from 1: blocks, and the cycles that joining takes.
    options: [Vec<(Blocks, f64)>; 2],
}

impl<'a> Launch<'a> {
    fn of(tasks: &[Task<'a>; 2], tile: Tile) -> Launch<'a> {
        let properties = tasks[0].properties;
        let resident = tasks.each_ref().map(|task| tile.shape(task.kind).blocks(properties));
        let options = tasks.each_ref().map(|task| {
            let tiles = task.tiles(tile);
            let plans = (1..=task.most_shares(tile)).map(|shares| Plan { tile, shares });
            let option = |plan: Plan| {
                let blocks = Blocks { count: tiles * plan.shares, each: task.block(plan) };
                (blocks, task.joining(plan))
            };
            plans.map(option).collect()
        });
        let memory = tasks[0].memory() + tasks[1].memory();
        Launch { properties, resident: resident[0].min(resident[1]), memory, options }
    }

    /// What it should take with these shares.
    fn cycles(&self, shares: [usize; 2]) -> f64 {
        let [(first, joining), (second, other)] = [0, 1].map(|i| self.options[i][shares[i] - 1]);
        launch(self.properties, &[first, second], self.resident, self.memory) + joining.max(other)
    }
}

/// Equal blocks of a launch.
#[derive(Debug, Clone, Copy)]
struct Blocks {
    count: usize,
    each: Block,
}

/// Warps of a block, their instructions, and the cycles in which tensor cores do its products.
#[derive(Debug, Clone, Copy)]
struct Block {
    warps: f64,
    work: f64,
    tensor: f64,
}

/// What a launch should take, of blocks of which `resident` are on a multiprocessor at a time: as if all were like the
/// average, but no wave ends before its longest block.
fn launch(properties: &DeviceProperties, all: &[Blocks], resident: usize, memory: f64) -> f64 {
    let count: usize = all.iter().map(|blocks| blocks.count).sum();
    let mean = |of: fn(&Block) -> f64| {
        all.iter().map(|blocks| of(&blocks.each) * blocks.count as f64).sum::<f64>() / count as f64
    };
    let (warps, work, tensor) =
        (mean(|one| one.warps), mean(|one| one.work), mean(|one| one.tensor));
    let most = count.div_ceil((properties.multiprocessors as usize).max(1));
    let together = |blocks: usize, work: f64| {
        let rate = ISSUE.min(blocks as f64 * warps / INTERVAL);
        blocks as f64 * (work / rate).max(tensor)
    };
    let full = (most / resident) as f64 * together(resident, work);
    let rest = if most.is_multiple_of(resident) { 0.0 } else { together(most % resident, work) };
    let longest = all.iter().map(|blocks| blocks.each.work).fold(0.0, f64::max);
    let busy = (full + rest).max(together(most.min(resident), longest));
    busy.max(memory) + IN_TURN * busy.min(memory) + most.div_ceil(resident) as f64 * RAMP
}

#[cfg(test)]
mod tests;
