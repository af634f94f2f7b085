//! Matrix products with weights as stored, and matrices of such weights on a GPU.
//!
//! [`multiply`] chooses the kernel ([`Way`]) from the shapes and the GPU alone: up to 8 inputs are limited by reading
//! the weights, more inputs by arithmetic. For more inputs, `plan` chooses the tiles. Every way is correct for every
//! shape, so that checks can use any. It does not know about layers. The results of several matrices can be written
//! side by side ([`multiply_all`]), combined as gate and up ([`multiply_gated`]), or added to a residual stream
//! ([`multiply_normed`]).

#[cfg(any(test, feature = "known-answers"))]
pub(crate) mod answers;
mod fused;
#[cfg(any(test, feature = "known-answers"))]
pub(crate) mod fused_answers;
mod gated;
pub(crate) mod names;
mod normed;
#[cfg(any(test, feature = "known-answers"))]
pub(crate) mod normed_answers;
mod plan;
mod side_by_side;

pub use gated::multiply_gated;
pub use normed::multiply_normed;
pub use side_by_side::multiply_all;

use super::acts::{ActKind, ProductInput};
use super::buffer::{Buffer, View, ViewMut};
use super::card::{
    Arg, COUNTS, Card, CardError, DeviceProperties, Gemm, Grid, Pool, ScalarType, Stream,
};
use super::norm::{PIECE, leaves_scale};
use super::rows::{fits, require};
use super::weights::{PlaneLayout, planes};
use crate::quant::Kind;
use names::{Tile, TileShape};
use plan::{Plan, Task};
use std::sync::Arc;

/// Most bytes that are rearranged at once while loading.
const STAGING: usize = 8 << 20;
/// Most inputs that kernels limited by memory take.
const FEW: usize = 8;
/// Most tiles over the rows of a matrix: a grid's limit.
const MOST_DOWN: usize = 65535;
/// Warps per multiprocessor below which rows are split: enough 16-byte loads are under way then.
const WARPS: usize = 24;

/// Weights on a card, `[rows][columns]`.
#[derive(Debug)]
pub struct Matrix {
    pub(crate) kind: Kind,
    pub(crate) rows: usize,
    pub(crate) columns: usize,
    layout: PlaneLayout,
    buffer: Buffer<u8>,
}

impl Matrix {
    /// Takes memory for a matrix, in the order of [`Stream::Load`]. What it holds is undefined until all rows have
    /// been written. Fails if the kind cannot have such rows or memory is used up.
    pub fn new(
        card: &Arc<dyn Card>,
        pool: Pool,
        kind: Kind,
        rows: usize,
        columns: usize,
    ) -> Result<Matrix, CardError> {
        let fits = |count: usize| (1..=i32::MAX as usize).contains(&count);
        // The kernels count groups of 32 columns in 32 bits.
        let counted = rows
            .checked_mul(columns.div_ceil(32))
            .is_some_and(|groups| groups <= u32::MAX as usize);
        let layout = PlaneLayout::new(kind, rows, columns);
        let layout = layout.filter(|_| fits(rows) && fits(columns) && counted);
        let layout = layout.ok_or_else(|| {
            CardError::Shape(format!("a matrix of {kind:?} cannot have {rows} rows of {columns}"))
        })?;
        let buffer = Buffer::on(card, pool, layout.bytes(), Stream::Load)?;
        Ok(Matrix { kind, rows, columns, layout, buffer })
    }

    /// Copies rows as they are stored in a file, `[rows][row bytes]`, from row `first` on, in bounded pieces. Fails if
    /// `bytes` is not a whole number of rows, if the matrix ends before, or if the device fails.
    pub fn write_rows(
        &mut self,
        first: usize,
        bytes: &[u8],
        stream: Stream,
    ) -> Result<(), CardError> {
        let row = self.row_bytes();
        let rows = bytes.len() / row;
        let inside = first.checked_add(rows).is_some_and(|end| end <= self.rows);
        if !inside || !bytes.len().is_multiple_of(row) {
            let (all, had) = (self.rows, bytes.len());
            let what = format!("{had} bytes are no rows of {row} from {first} on of {all}");
            return Err(CardError::Shape(what));
        }
        if !self.kind.is_quantised() {
            return self.buffer.write_on(first * row, bytes, stream);
        }
        let most = (STAGING / row).max(1);
        let mut staged = vec![0; most.min(rows) * row];
        for (at, bytes) in (first..).step_by(most).zip(bytes.chunks(most * row)) {
            let (rows, staged) = (bytes.len() / row, &mut staged[..bytes.len()]);
            planes(self.kind, rows, self.columns, bytes, staged);
            for piece in self.layout.pieces(at, rows) {
                self.buffer.write_on(piece.at, &staged[piece.from], stream)?;
            }
        }
        Ok(())
    }

    /// The storage format of its numbers.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// Number of rows: results per input.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Numbers per row: the length of an input.
    pub fn columns(&self) -> usize {
        self.columns
    }

    /// Bytes of a row as stored.
    pub fn row_bytes(&self) -> usize {
        self.layout.bytes() / self.rows
    }

    /// Bytes on the card.
    pub fn bytes(&self) -> usize {
        self.layout.bytes()
    }

    /// The form in which [`multiply`] takes `n` inputs.
    pub fn input_kind(&self, card: &dyn Card, n: usize) -> ActKind {
        let tiled = self.kind.is_quantised() && is_tiled(self.columns, n);
        if tiled && !Tile::of(n, card.properties()).eights() {
            return ActKind::BF16;
        }
        self.kind.input_kind()
    }

    /// How many tiles of this shape there are, over `n` inputs and over the rows.
    fn in_tiles(&self, shape: TileShape, n: usize) -> (usize, usize) {
        (n.div_ceil(shape.inputs), self.rows.div_ceil(shape.rows))
    }

    /// How many blocks share the columns of a tile.
    fn shares(&self, card: &dyn Card, tile: Tile, n: usize) -> usize {
        let Plan { shares, .. } = self.task(card, tile, n).plan(tile);
        shares
    }

    fn task<'a>(&self, card: &'a dyn Card, tile: Tile, n: usize) -> Task<'a> {
        let Matrix { kind, rows, columns, .. } = *self;
        let (across, down) = self.in_tiles(tile.shape(kind), n);
        let room = if across * down <= COUNTS { card.workspace().room } else { 0 };
        Task { kind, rows, columns, inputs: n, properties: card.properties(), room }
    }

    /// Groups of 32 columns.
    pub(crate) fn groups(&self) -> usize {
        self.columns / 32
    }

    /// Addresses of the four planes, null for those that the kind does not have.
    pub(crate) fn planes(&self) -> [Arg; 4] {
        [0, 1, 2, 3].map(|plane| match self.layout.len(plane) {
            0 => Arg::Address(0),
            _ => Arg::Address(self.address() + self.layout.offset(plane) as u64),
        })
    }

    pub(crate) fn address(&self) -> u64 {
        self.buffer.view().address()
    }
}

/// Where results go: input i's are `values[i * stride + offset ..]`, one for each row of the weights.
#[derive(Debug)]
pub struct Output<'a> {
    /// The buffer that the results are written to.
    pub values: ViewMut<'a, f32>,
    /// Numbers from one input's results to the next's.
    pub stride: usize,
    /// Numbers before the first result of each input.
    pub offset: usize,
}

impl<'a> Output<'a> {
    /// The results of one matrix of `rows` rows, by themselves: `[n][rows]`.
    pub fn of(values: ViewMut<'a, f32>, rows: usize) -> Output<'a> {
        Output { values, stride: rows, offset: 0 }
    }
}

/// How a product is done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Way {
    /// Inputs of 8 bits, up to 8 at a time; so many warps share a row.
    Vectors { split: usize },
    /// Inputs of 8 bits in tiles, if the groups of a row are even in number.
    Tiles(Tile),
    /// Up to 8 inputs of floats; so many warps share a row.
    Dense { split: usize },
    /// The library's.
    Library,
}

impl Way {
    /// For a matrix of `kind` and `n` inputs, on a device with these properties.
    pub(crate) fn choose(
        kind: Kind,
        rows: usize,
        columns: usize,
        n: usize,
        properties: &DeviceProperties,
    ) -> Way {
        let warps = WARPS * properties.multiprocessors as usize;
        let pieces = columns.div_ceil(128);
        match kind {
            Kind::F32 if n <= FEW => {
                Way::Dense { split: split(rows.div_ceil(2), pieces, 8, warps) }
            }
            Kind::F16 | Kind::BF16 if n <= FEW => {
                let split = split(rows.div_ceil(16), pieces, 8, warps);
                Way::Dense { split: split.max(short_blocks(pieces)) }
            }
            Kind::F32 | Kind::F16 | Kind::BF16 => Way::Library,
            _ if !is_tiled(columns, n) => {
                Way::Vectors { split: split(rows.div_ceil(2), columns.div_ceil(1024), 4, warps) }
            }
            _ => Way::Tiles(Tile::of(n, properties)),
        }
    }

    /// The form of its inputs.
    fn inputs(self, kind: Kind) -> ActKind {
        match self {
            Way::Tiles(tile) if !tile.eights() => ActKind::BF16,
            _ => kind.input_kind(),
        }
    }
}

/// Whether a product of quantised weights is one of tiles, which copy the scales of two groups at a time.
fn is_tiled(columns: usize, n: usize) -> bool {
    n > FEW && (columns / 32).is_multiple_of(2)
}

/// How many warps of 8 share 16 rows so that each still has four pieces of 512 bytes a row to do: a block then is soon
/// done, and few multiprocessors wait for the last ones.
fn short_blocks(pieces: usize) -> usize {
    [8, 4, 2].into_iter().find(|split| split * 4 <= pieces).unwrap_or(1)
}

/// How many warps, a power of two up to `most`, share a set of rows: as many as it takes for `warps` warps, but
/// none without one of the `pieces` that a warp reads at once. The number of inputs plays no part, so that each
/// gets the same sums in whatever company.
fn split(sets: usize, pieces: usize, most: usize, warps: usize) -> usize {
    let mut split = 1;
    while split < most && split * 2 <= pieces && sets * split < warps {
        split *= 2;
    }
    split
}

/// `out = x * weights^T + bias`: `n` inputs of `matrix.columns()` numbers, in [`Matrix::input_kind`]. `bias`:
/// `[matrix.rows()]`. Fails if lengths do not fit together, if the input has another form, or if the launch fails.
pub fn multiply<'a>(
    card: &dyn Card,
    matrix: &Matrix,
    x: impl Into<ProductInput<'a>>,
    n: usize,
    out: Output<'_>,
    bias: Option<View<'_, f32>>,
) -> Result<(), CardError> {
    let way = Way::choose(matrix.kind, matrix.rows, matrix.columns, n, card.properties());
    multiply_by(way, card, matrix, x.into(), n, out, bias)
}

/// As [`multiply`], in a way that is asked for.
pub(crate) fn multiply_by(
    way: Way,
    card: &dyn Card,
    matrix: &Matrix,
    x: ProductInput<'_>,
    n: usize,
    out: Output<'_>,
    bias: Option<View<'_, f32>>,
) -> Result<(), CardError> {
    check(matrix, way, &x, n, &out, bias.as_ref())?;
    if n == 0 {
        return Ok(());
    }
    let product = Product {
        matrix,
        x,
        n,
        out: out.values.address() + (out.offset * 4) as u64,
        stride: out.stride,
        bias: bias.map_or(0, |bias| bias.address()),
    };
    match way {
        Way::Vectors { split } => product.vectors(card, split),
        Way::Tiles(tile) => product.tiles(card, tile, matrix.shares(card, tile, n)),
        Way::Dense { split } => product.dense(card, split),
        Way::Library => product.library(card),
    }
}

/// Whether everything fits together.
fn check(
    matrix: &Matrix,
    way: Way,
    x: &ProductInput<'_>,
    n: usize,
    out: &Output<'_>,
    bias: Option<&View<'_, f32>>,
) -> Result<(), CardError> {
    let Matrix { kind, rows, columns, .. } = *matrix;
    let shape = |what: String| Err(CardError::Shape(what));
    check_scale(way, x, n, columns)?;
    let x = x.acts;
    if x.kind() != way.inputs(kind) {
        return shape(format!("weights in {kind:?} take no inputs in {:?}", x.kind()));
    }
    let counted = n.checked_mul(columns).is_some() && i32::try_from(n).is_ok();
    if !counted || !x.holds(n, columns) {
        return shape(format!("there are no {n} inputs of {columns} numbers"));
    }
    if x.args().iter().any(|arg| matches!(arg, Arg::Address(at) if !at.is_multiple_of(16))) {
        return shape("inputs do not start on 16 bytes".into());
    }
    if out.offset.checked_add(rows).is_none_or(|end| end > out.stride) {
        let Output { stride, offset, .. } = out;
        return shape(format!("{rows} results at {offset} do not fit into rows of {stride}"));
    }
    let end = n.saturating_sub(1).checked_mul(out.stride).map(|at| at + out.offset + rows);
    if n > 0 && end.is_none_or(|end| end > out.values.len()) {
        let (len, stride) = (out.values.len(), out.stride);
        return shape(format!("{n} rows of {stride} results do not fit into {len} numbers"));
    }
    match bias {
        Some(bias) if bias.len() != rows => {
            shape(format!("a bias of {} numbers for {rows} rows", bias.len()))
        }
        _ => Ok(()),
    }
}

/// Whether rows may have been left without their scale, and what it is made of is there.
fn check_scale(way: Way, x: &ProductInput<'_>, n: usize, columns: usize) -> Result<(), CardError> {
    let Some(scale) = &x.scale else { return Ok(()) };
    let multiplies = match way {
        Way::Vectors { .. } | Way::Dense { .. } => true,
        Way::Tiles(tile) => tile.eights(),
        Way::Library => false,
    };
    require(multiplies && leaves_scale(x.acts.kind(), n, columns), || {
        format!("{n} inputs of {columns} numbers in {:?} without their scale", x.acts.kind())
    })?;
    require(scale.squares.address().is_multiple_of(16), || {
        "the squares of inputs do not start on 16 bytes".into()
    })?;
    fits("the squares of inputs", scale.squares.len(), n, columns / PIECE)
}

/// A product whose shapes have been checked.
struct Product<'a> {
    matrix: &'a Matrix,
    x: ProductInput<'a>,
    n: usize,
    /// Address of the first result.
    out: u64,
    stride: usize,
    /// Address, or null.
    bias: u64,
}

impl Product<'_> {
    fn output(&self) -> [Arg; 3] {
        [Arg::Address(self.out), Arg::U64(self.stride as u64), Arg::Address(self.bias)]
    }

    fn rows(&self) -> Arg {
        Arg::I32(self.matrix.rows as i32)
    }

    fn vectors(&self, card: &dyn Card, split: usize) -> Result<(), CardError> {
        for first in (0..self.n).step_by(FEW) {
            self.few_vectors(card, split, first, FEW.min(self.n - first))?;
        }
        Ok(())
    }

    /// The inputs `first .. first + n`.
    fn few_vectors(
        &self,
        card: &dyn Card,
        split: usize,
        first: usize,
        n: usize,
    ) -> Result<(), CardError> {
        let name = names::vectors(self.matrix.kind, n)?;
        let blocks = few_blocks(self.matrix.rows, n, split);
        let [low, high, scales, supers] = self.matrix.planes();
        let ([x, x_scales], [out, stride, bias]) = (self.x.acts.args(), self.output());
        let (columns, groups) = (self.matrix.columns, self.matrix.groups());
        let x = further(x, first * columns);
        let x_scales = further(x_scales, first * groups * 2 * size_of::<f32>());
        let out = further(out, first * self.stride * size_of::<f32>());
        let [groups, split] = [groups, split].map(|count| Arg::I32(count as i32));
        let product =
            [low, high, scales, supers, x, x_scales, self.rows(), groups, out, stride, bias, split];
        let [squares, eps] = self.x.scale_args();
        let squares = match self.x.scale {
            Some(_) => further(squares, first * (columns / PIECE) * size_of::<f32>()),
            None => squares,
        };
        let args = [&product[..], &[squares, eps]].concat();
        // SAFETY: the kernel's arguments; `check` has held every length against what it reads and writes.
        unsafe { card.launch(name, Grid::line(blocks, 128).shared(512), &args) }
    }

    /// So many blocks share the columns of a tile.
    fn tiles(&self, card: &dyn Card, tile: Tile, shares: usize) -> Result<(), CardError> {
        let kind = self.matrix.kind;
        if !self.matrix.groups().is_multiple_of(2) {
            let what = format!("tiles take no rows of {} columns", self.matrix.columns);
            return Err(CardError::Shape(what));
        }
        let name = names::tiles(kind, tile)?;
        let (shape, properties, workspace) =
            (tile.shape(kind), card.properties(), card.workspace());
        let (across, down) = self.matrix.in_tiles(shape, self.n);
        if down > MOST_DOWN {
            return Err(CardError::Shape(format!("{} rows are too many", self.matrix.rows)));
        }
        let blocks = [across as u32, down as u32, shares as u32];
        let stages = shape.stages(properties);
        let grid = Grid::of(blocks, shape.threads).shared(shape.shared_bytes(stages));
        let [low, high, scales, supers] = self.matrix.planes();
        let ([x, x_scales], [out, stride, bias]) = (self.x.acts.args(), self.output());
        let groups = Arg::I32(self.matrix.groups() as i32);
        let n = Arg::I32(self.n as i32);
        let product =
            [low, high, scales, supers, x, x_scales, self.rows(), groups, n, out, stride, bias];
        let places = [Arg::Address(workspace.floats), Arg::Address(workspace.counts)];
        // Tiles of 8 bits have two stages, and multiply their sums.
        let rest = if tile.eights() {
            self.x.scale_args().to_vec()
        } else {
            vec![Arg::I32(stages as i32)]
        };
        let args = [&product[..], &places, &rest].concat();
        // SAFETY: as above; rows and inputs beyond the last are neither read nor written, and the workspace has room
        // for all shares of all tiles.
        unsafe { card.launch(name, grid, &args) }
    }

    fn dense(&self, card: &dyn Card, split: usize) -> Result<(), CardError> {
        let Matrix { kind, rows, columns, .. } = *self.matrix;
        let name = names::dense(kind, self.n)?;
        let at_once = if kind == Kind::F32 { 2 } else { 16 };
        let blocks = rows.div_ceil(at_once).div_ceil(8 / split);
        let ([x, _], [out, stride, bias]) = (self.x.acts.args(), self.output());
        let weights = Arg::Address(self.matrix.address());
        let rows = Arg::U64(rows as u64);
        let [columns, n, split] = [columns, self.n, split].map(|count| Arg::I32(count as i32));
        let product = [weights, x, rows, columns, n, out, stride, bias, split];
        let scale = self.x.scale_args();
        let scale = if kind == Kind::F32 { &[][..] } else { &scale };
        let args = [&product[..], scale].concat();
        // SAFETY: as above.
        unsafe { card.launch(name, Grid::line(blocks, 256).shared(4096), &args) }
    }

    fn library(&self, card: &dyn Card) -> Result<(), CardError> {
        let Matrix { kind, rows, columns, .. } = *self.matrix;
        let scalar = match kind {
            Kind::F32 => ScalarType::F32,
            Kind::F16 => ScalarType::F16,
            Kind::BF16 => ScalarType::BF16,
            _ => return Err(CardError::Shape(format!("the library cannot read {kind:?}"))),
        };
        let [Arg::Address(x), _] = self.x.acts.args() else {
            return Err(CardError::Shape("inputs have no address".into()));
        };
        let (n, out, out_stride) = (self.n, self.out, self.stride);
        let weights = self.matrix.address();
        // SAFETY: `check` has held all shapes against each other.
        unsafe { card.gemm(Gemm { scalar, rows, columns, n, weights, x, out, out_stride })? };
        match self.bias {
            0 => Ok(()),
            _ => self.add_bias(card),
        }
    }

    fn add_bias(&self, card: &dyn Card) -> Result<(), CardError> {
        let rows = self.matrix.rows;
        let [out, stride, bias] = self.output();
        let args = [out, stride, bias, Arg::U64(rows as u64), Arg::U64(self.n as u64)];
        let blocks = [rows.div_ceil(256) as u32, self.n.min(1024) as u32, 1];
        let grid = Grid::of(blocks, 256);
        // SAFETY: as above.
        unsafe { card.launch("product_bias", grid, &args) }
    }
}

/// Blocks of a product of up to 8 inputs of 8 bits.
fn few_blocks(rows: usize, n: usize, split: usize) -> usize {
    let at_once = if n <= 4 { 2 } else { 4 };
    rows.div_ceil(at_once).div_ceil(4 / split)
}

/// An address so many bytes behind another.
fn further(from: Arg, bytes: usize) -> Arg {
    match from {
        Arg::Address(at) => Arg::Address(at + bytes as u64),
        other => other,
    }
}

#[cfg(test)]
mod tests;
