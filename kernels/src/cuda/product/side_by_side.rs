//! Products of several matrices with the same inputs, with the results side by side.
//!
//! Two matrices of different kinds, as mixed quantisations have them, are one launch: with up to 8 inputs
//! (`product_mixed.cu`), and in 8-bit tiles (`product_pair.cu`). Other combinations take one launch per matrix. Both
//! give the same bits as long as each matrix is split in the same way. This is the case with up to 8 inputs. Tiles of
//! two matrices are cut so that their blocks together fill the GPU, so there the splits may differ.

use super::names::Tile;
use super::{MOST_DOWN, Matrix, Output, Way, check, few_blocks, multiply, names, plan};
use crate::cuda::acts::ProductInput;
use crate::cuda::buffer::{View, ViewMut};
use crate::cuda::card::{Arg, COUNTS, Card, CardError, Grid};
use crate::cuda::rows::require;

/// `[n][columns]` to `[n][results of all parts, side by side]`, and a bias for all of them. Inputs as [`multiply`]
/// takes them; all parts take them in the same form. Fails if lengths do not fit together or the launch fails.
pub fn multiply_all<'a>(
    card: &dyn Card,
    parts: &[Matrix],
    x: impl Into<ProductInput<'a>>,
    n: usize,
    mut out: ViewMut<'_, f32>,
    bias: Option<View<'_, f32>>,
) -> Result<(), CardError> {
    let (x, stride) = (x.into(), parts.iter().map(Matrix::rows).sum::<usize>());
    if let Some(bias) = &bias {
        require(bias.len() == stride, || {
            format!("a bias of {} numbers for {stride} rows", bias.len())
        })?;
    }
    if let [first, second] = parts
        && let Some(pair) = Pair::of(card, [first, second], n)
    {
        return pair.launch(card, x, out, bias);
    }
    let mut offset = 0;
    for part in parts {
        let bias = bias.map(|bias| bias.part(offset, part.rows));
        multiply(card, part, x, n, Output { values: out.again(), stride, offset }, bias)?;
        offset += part.rows;
    }
    Ok(())
}

/// Two matrices that one launch multiplies.
struct Pair<'a> {
    kernel: &'static str,
    matrices: [&'a Matrix; 2],
    /// The kernel's names of their kinds.
    kinds: [usize; 2],
    way: Together,
    n: usize,
}

/// How it does that.
enum Together {
    /// So many warps share a row of either.
    Vectors { splits: [usize; 2] },
    /// So many blocks share the columns of a tile of either.
    Tiles { tile: Tile, shares: [usize; 2] },
}

impl Pair<'_> {
    /// Of `n` inputs, if there is a kernel, and the grid and the workspace are large enough for both.
    fn of<'a>(card: &dyn Card, matrices: [&'a Matrix; 2], n: usize) -> Option<Pair<'a>> {
        let kinds = names::mixed_kinds(matrices.map(Matrix::kind))?;
        if matrices[0].columns != matrices[1].columns {
            return None;
        }
        let ways = matrices.map(|matrix| {
            Way::choose(matrix.kind, matrix.rows, matrix.columns, n, card.properties())
        });
        let (kernel, way) = match ways {
            [Way::Vectors { split: first }, Way::Vectors { split: second }] => {
                (names::mixed(n)?, Together::Vectors { splits: [first, second] })
            }
            [Way::Tiles(tile), Way::Tiles(_)] => {
                let tasks = matrices.map(|matrix| matrix.task(card, tile, n));
                let shares = plan::together(&tasks, tile, |shares| {
                    let places = [0, 1].map(|i| place(matrices[i], n, tile, shares[i]));
                    let [tiles, floats, down] =
                        [0, 1, 2].map(|what| places[0][what] + places[1][what]);
                    tiles <= COUNTS && floats <= card.workspace().room && down <= MOST_DOWN
                });
                (names::pair(tile)?, Together::Tiles { tile, shares: shares? })
            }
            _ => return None,
        };
        Some(Pair { kernel, matrices, kinds, way, n })
    }

    fn launch(
        &self,
        card: &dyn Card,
        x: ProductInput<'_>,
        mut out: ViewMut<'_, f32>,
        bias: Option<View<'_, f32>>,
    ) -> Result<(), CardError> {
        let stride = self.matrices[0].rows + self.matrices[1].rows;
        let parts = match self.way {
            Together::Vectors { splits } => splits,
            Together::Tiles { shares, .. } => shares,
        };
        let (mut offset, mut args) = (0, Vec::new());
        for (i, matrix) in self.matrices.into_iter().enumerate() {
            let bias = bias.map(|bias| bias.part(offset, matrix.rows));
            let to = Output { values: out.again(), stride, offset };
            let way = match self.way {
                Together::Vectors { .. } => Way::Vectors { split: parts[i] },
                Together::Tiles { tile, .. } => Way::Tiles(tile),
            };
            check(matrix, way, &x, self.n, &to, bias.as_ref())?;
            let [kind, rows, parts] =
                [self.kinds[i], matrix.rows, parts[i]].map(|count| Arg::I32(count as i32));
            let results = Arg::Address(out.address() + (offset * size_of::<f32>()) as u64);
            args.push(kind);
            args.extend(matrix.planes());
            args.extend([
                rows,
                results,
                Arg::Address(bias.map_or(0, |bias| bias.address())),
                parts,
            ]);
            offset += matrix.rows;
        }
        let grid = self.grid(card, &mut args, x, stride);
        // SAFETY: the kernel's arguments; `check` has held every length against what it reads and writes, and `fits`
        // the workspace.
        unsafe { card.launch(self.kernel, grid, &args) }
    }

    /// The grid, and the arguments behind those of the matrices.
    fn grid(
        &self,
        card: &dyn Card,
        args: &mut Vec<Arg>,
        x: ProductInput<'_>,
        stride: usize,
    ) -> Grid {
        let groups = Arg::I32(self.matrices[0].groups() as i32);
        let stride = Arg::U64(stride as u64);
        let blocks = |blocks: usize| Arg::I32(blocks as i32);
        match self.way {
            Together::Vectors { splits } => {
                let [first, second] =
                    [0, 1].map(|i| few_blocks(self.matrices[i].rows, self.n, splits[i]));
                args.push(blocks(first));
                args.extend(x.acts.args());
                args.extend([groups, stride]);
                args.extend(x.scale_args());
                Grid::line(first + second, 128).shared(512)
            }
            Together::Tiles { tile, shares } => {
                let workspace = card.workspace();
                let [[tiles, floats, first], [_, _, second]] =
                    [0, 1].map(|i| place(self.matrices[i], self.n, tile, shares[i]));
                let shapes = self.matrices.map(|matrix| tile.shape(matrix.kind));
                let shared = shapes.map(|shape| shape.shared_bytes(2));
                let across = self.n.div_ceil(shapes[0].inputs);
                args.push(blocks(first));
                args.extend(x.acts.args());
                args.extend([groups, Arg::I32(self.n as i32), stride]);
                args.extend([workspace.floats, workspace.counts].map(Arg::Address));
                let behind = |from: u64, count: usize| Arg::Address(from + (count * 4) as u64);
                args.extend([behind(workspace.floats, floats), behind(workspace.counts, tiles)]);
                args.extend(x.scale_args());
                Grid::of([across as u32, (first + second) as u32, 1], shapes[0].threads)
                    .shared(shared[0].max(shared[1]))
            }
        }
    }
}

/// Tiles of a matrix, numbers that its blocks leave for each other, and blocks over its rows.
fn place(matrix: &Matrix, n: usize, tile: Tile, shares: usize) -> [usize; 3] {
    let shape = tile.shape(matrix.kind);
    let (across, down) = matrix.in_tiles(shape, n);
    let floats = if shares > 1 { across * down * shares * shape.rows * shape.inputs } else { 0 };
    [across * down, floats, down * shares]
}

/// Blocks that share the columns of a tile, if one launch multiplies both matrices in tiles.
#[cfg(all(test, feature = "emulator"))]
pub(super) fn shares(card: &dyn Card, matrices: [&Matrix; 2], n: usize) -> Option<[usize; 2]> {
    match Pair::of(card, matrices, n)?.way {
        Together::Tiles { shares, .. } => Some(shares),
        Together::Vectors { .. } => None,
    }
}
