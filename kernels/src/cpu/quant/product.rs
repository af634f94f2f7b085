//! Products of several matrices with one input: the input is prepared once, then threads take runs of tiles.
//!
//! It chooses the kernel by instruction set and width, and does not know how a format stores its bits. Decoding is
//! limited by reading the weights, so a run is a contiguous piece of them. With many vectors, the inputs are cut into
//! blocks that stay in the L2 cache while all tiles are read.

use super::QMatrix;
use super::input::{FORMS, Form, Groups, Input, Panel};
use super::tile::TILE;
use crate::cpu::isa::Isa;
use crate::cpu::pool::{Disjoint, Pool};
use std::sync::Arc;

/// Bytes of weights in one task with few vectors.
const TASK_BYTES: usize = 64 << 10;
/// Tasks below which the calling thread does them alone: waking others would take as long.
const PARALLEL_FROM: usize = 4;
/// Bytes of input that stay in a core's second-level cache beside the weights that pass by.
const INPUT_BYTES: usize = 512 << 10;
/// Widest group of vectors that a kernel takes.
const MAX_WIDTH: usize = 8;

/// Multiplies one tile by one group; see `scalar::tile` for the promise.
pub(crate) type Kernel = unsafe fn(*const u8, usize, &Panel, *mut f32);

/// What products need besides their operands: threads, the instruction set, and buffers that grow to the
/// largest input seen and are then reused. One per thread that computes.
pub struct Scratch {
    pool: Arc<Pool>,
    isa: Isa,
    inputs: [Input; FORMS],
}

impl Scratch {
    /// Empty buffers, for products on the threads of `pool` with the kernels of `isa`.
    pub fn new(pool: Arc<Pool>, isa: Isa) -> Scratch {
        Scratch { pool, isa, inputs: Default::default() }
    }

    /// What operations other than products run with.
    pub fn near(&self) -> (&Pool, Isa) {
        (&self.pool, self.isa)
    }

    /// The instruction set that products are computed with.
    pub fn isa(&self) -> Isa {
        self.isa
    }
}

/// Several matrices of equal `cols` times the same input, `[n][cols]`, in one job; the results lie side
/// by side in `out`, `[n][rows of all]`. Panics on other lengths.
pub fn matmul_many(
    matrices: &[QMatrix],
    x: &[f32],
    n: usize,
    out: &mut [f32],
    scratch: &mut Scratch,
) {
    let Some(cols) = matrices.first().map(|m| m.cols) else { return };
    let rows: usize = matrices.iter().map(|m| m.rows).sum();
    assert!(matrices.iter().all(|m| m.cols == cols), "matrices of different widths");
    assert!(x.len() == n * cols && out.len() == n * rows, "lengths do not fit the shapes");
    let Scratch { pool, isa, inputs } = scratch;
    let groups = Groups { n, width: width(*isa) };
    for form in [Form::Dense, Form::B32, Form::K256] {
        if matrices.iter().any(|m| m.kind.format().form == form) {
            inputs[form as usize].fill(form, x, cols, groups, *isa, pool);
        }
    }
    let job = Job { matrices, inputs, groups, isa: *isa, rows, out: Disjoint::new(out) };
    let plan = Plan::new(matrices, cols, groups);
    pool.run_if(plan.tasks() >= PARALLEL_FROM, plan.tasks(), &|task| plan.run(task, &job));
}

/// How a job is cut into tasks: runs of tiles times blocks of input groups.
struct Plan {
    tiles: usize,
    tiles_per_task: usize,
    groups: usize,
    groups_per_task: usize,
}

impl Plan {
    fn new(matrices: &[QMatrix], cols: usize, groups: Groups) -> Plan {
        let tiles = matrices.iter().map(|m| m.tile_count()).sum();
        let size = matrices.iter().map(|m| m.tile_bytes()).max().unwrap_or(1).max(1);
        let groups_per_task = (INPUT_BYTES / (groups.width * cols).max(1)).max(1);
        let count = groups.count();
        let reuse = count.min(groups_per_task).max(1);
        let tiles_per_task = (TASK_BYTES / size.saturating_mul(reuse)).max(1);
        Plan { tiles, tiles_per_task, groups: count, groups_per_task }
    }

    fn runs(&self) -> usize {
        self.tiles.div_ceil(self.tiles_per_task)
    }

    fn tasks(&self) -> usize {
        self.runs() * self.groups.div_ceil(self.groups_per_task)
    }

    fn run(&self, task: usize, job: &Job<'_>) {
        let (block, run) = (task / self.runs(), task % self.runs());
        let first = block * self.groups_per_task;
        let groups = first..(first + self.groups_per_task).min(self.groups);
        let first = run * self.tiles_per_task;
        let tiles = first..(first + self.tiles_per_task).min(self.tiles);
        // Which matrix a tile belongs to: there are few, so a walk along them finds it.
        let (mut tile_from, mut row_from) = (0, 0);
        for matrix in job.matrices {
            let end = tile_from + matrix.tile_count();
            for tile in tiles.start.max(tile_from)..tiles.end.min(end) {
                job.tile(matrix, tile - tile_from, row_from, groups.clone());
            }
            (tile_from, row_from) = (end, row_from + matrix.rows);
        }
    }
}

struct Job<'a> {
    matrices: &'a [QMatrix],
    inputs: &'a [Input; FORMS],
    groups: Groups,
    isa: Isa,
    rows: usize,
    out: Disjoint<'a, f32>,
}

impl Job<'_> {
    /// One tile times some groups; the matrix's rows begin at `row_from` of the output's.
    fn tile(&self, matrix: &QMatrix, tile: usize, row_from: usize, groups: std::ops::Range<usize>) {
        let format = matrix.kind.format();
        let (kernels, form) = (format.kernels.of(self.isa), format.form);
        let bytes = matrix.tile(tile);
        let rows = TILE.min(matrix.rows - tile * TILE);
        let mut sums = [0.0f32; MAX_WIDTH * TILE];
        for g in groups {
            let (used, width) = self.groups.of(g);
            let panel = self.inputs[form as usize].panel(form, self.groups, g);
            let kernel = kernels[width.trailing_zeros() as usize];
            // SAFETY: `bytes` is a whole tile of this kind and width; the form's input was made ready for
            // these groups; `sums` holds the widest group; the kernels are of an instruction set that
            // `isa` vouches for.
            unsafe { kernel(bytes.as_ptr(), matrix.cols, &panel, sums.as_mut_ptr()) };
            for (c, sums) in sums.chunks_exact(TILE).enumerate().take(used) {
                let vector = g * self.groups.width + c;
                let at = vector * self.rows + row_from + tile * TILE;
                // SAFETY: no other task has this tile's rows of these vectors.
                unsafe { self.out.part(at, rows) }.copy_from_slice(&sums[..rows]);
            }
        }
    }
}

/// Widest group that an instruction set's registers hold.
fn width(isa: Isa) -> usize {
    if isa.has_avx2() && !isa.has_avx512() { 4 } else { MAX_WIDTH }
}

/// The kernels of a kind by instruction set, each for groups of 1, 2, 4 and 8 vectors.
pub(crate) struct Kernels {
    pub scalar: [Kernel; 4],
    #[cfg(target_arch = "x86_64")]
    pub avx2: [Kernel; 4],
    #[cfg(target_arch = "x86_64")]
    pub avx512: [Kernel; 4],
}

impl Kernels {
    fn of(&self, isa: Isa) -> &[Kernel; 4] {
        #[cfg(target_arch = "x86_64")]
        if isa.has_avx512() {
            return &self.avx512;
        } else if isa.has_avx2() {
            return &self.avx2;
        }
        let _ = isa;
        &self.scalar
    }
}

/// A kind's [`Kernels`], by the names of its vector kernels; of those that several kinds share, which it is.
macro_rules! kernels {
    ($kind:ident; avx2: $avx2:ident $(<$kind2:ident>)?, avx512: $avx512:ident $(<$kind512:ident>)?) => {{
        use $crate::cpu::quant::{Kernels, by_width, scalar};
        #[cfg(target_arch = "x86_64")]
        use $crate::cpu::quant::{avx2, avx512};
        Kernels {
            scalar: by_width!(scalar::tile, $kind),
            #[cfg(target_arch = "x86_64")]
            avx2: by_width!(avx2::$avx2 $(, $kind2)?),
            #[cfg(target_arch = "x86_64")]
            avx512: by_width!(avx512::$avx512 $(, $kind512)?),
        }
    }};
}

/// A kernel for each width.
macro_rules! by_width {
    ($module:ident::$name:ident) => {
        [$module::$name::<1>, $module::$name::<2>, $module::$name::<4>, $module::$name::<8>]
    };
    ($module:ident::$name:ident, $kind:ident) => {{
        const KIND: u8 = $crate::quant::Kind::$kind as u8;
        [
            $module::$name::<KIND, 1>,
            $module::$name::<KIND, 2>,
            $module::$name::<KIND, 4>,
            $module::$name::<KIND, 8>,
        ]
    }};
}

pub(crate) use {by_width, kernels};
