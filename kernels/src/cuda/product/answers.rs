//! Known answers of products, from plain loops in f64.
//!
//! Quantised products are compared with two references. One uses the same 8-bit inputs, and must match except for the
//! rounding of sums. The other uses the inputs before they were rounded to 8 bits.

use super::names::Tile;
use super::{Matrix, Output, Way, multiply_by};
use crate::cuda::acts::{ActKind, Acts};
use crate::cuda::buffer::Buffer;
use crate::cuda::card::{CardError, Stream};
use crate::cuda::check::{Bench, Check, Numbers, Size};
use crate::quant::{Kind, dequantise_row};
use half::{bf16, f16};

/// Columns by the name of what they show: those of one block, or a number of them.
const BLOCK: usize = 0;

#[derive(Debug, Clone, Copy)]
struct Case {
    kind: Kind,
    rows: usize,
    columns: usize,
    n: usize,
    way: Way,
}

/// Checks products of weights in f32, f16 and bf16. Fails if a launch fails; a wrong result shows in its check.
pub fn dense_checks(bench: &Bench, size: Size) -> Result<Vec<Check>, CardError> {
    let mut checks = Vec::new();
    for kind in Kind::on_cards().filter(|kind| !kind.is_quantised()) {
        let mut shapes = vec![(3, 264, 1, 2), (17, 40, 8, 1)];
        if size == Size::Full {
            shapes = vec![(1, 8, 1, 1), (3, 2048, 1, 8), (64, 512, 2, 4), (130, 33, 3, 1)];
            shapes.extend([(130, 515, 8, 2), (65, 768, 5, 1), (16, 1024, 7, 8), (7, 1000, 4, 4)]);
        }
        shapes.extend((1..=8).map(|n| (5, 100, n, 1)));
        for (rows, columns, n, split) in shapes {
            let case = Case { kind, rows, columns, n, way: Way::Dense { split } };
            checks.extend(case.run(bench)?);
        }
        let many = if size == Size::Full { vec![9, 17, 33] } else { vec![9] };
        for n in many {
            checks.extend(Case { kind, rows: 5, columns: 64, n, way: Way::Library }.run(bench)?);
        }
    }
    Ok(checks)
}

/// Checks products of quantised weights. Fails as [`dense_checks`] does.
pub fn quantised_checks(bench: &Bench, size: Size) -> Result<Vec<Check>, CardError> {
    let mut checks = Vec::new();
    for kind in Kind::on_cards().filter(|kind| kind.is_quantised()) {
        let vectors = vectors(size)
            .into_iter()
            .map(|(rows, columns, n, split)| (rows, columns, n, Way::Vectors { split }));
        let tiles = Tile::ALL.into_iter().flat_map(|tile| {
            tiles(tile, size).into_iter().map(move |(n, rows, columns)| (rows, columns, n, tile))
        });
        let tiles = tiles.map(|(rows, columns, n, tile)| (rows, columns, n, Way::Tiles(tile)));
        // The largest tiles are for cards with the shared memory that they take.
        let most = bench.card.properties().shared_per_block as usize;
        let fits = |way: Way| match way {
            Way::Tiles(tile) => tile.shape(kind).shared_bytes(2) <= most,
            _ => true,
        };
        for (rows, columns, n, way) in vectors.chain(tiles).filter(|case| fits(case.3)) {
            let pair = if matches!(way, Way::Tiles(_)) { 64 } else { 32 };
            let columns = match columns {
                BLOCK => kind.block().next_multiple_of(pair),
                _ => columns.next_multiple_of(kind.block()).next_multiple_of(pair),
            };
            checks.extend(Case { kind, rows, columns, n, way }.run(bench)?);
        }
    }
    Ok(checks)
}

/// Rows, columns, inputs, and warps that share a row.
fn vectors(size: Size) -> Vec<(usize, usize, usize, usize)> {
    let every = (1..=8).map(|n| (3, 256, n, 1));
    if size == Size::Quick {
        return every.collect();
    }
    let odd = [(1, BLOCK, 1, 1), (1, BLOCK, 8, 1), (9, 96, 3, 1), (3, 2048, 1, 2), (3, 2048, 5, 4)];
    let odd = odd.into_iter().chain([(7, 96, 21, 1), (5, 2080, 9, 2)]);
    let large = (1..=8).map(|n| (if n % 2 == 0 { 130 } else { 64 }, 768, n, 1 << (n % 3)));
    let long = [(5, 4096, 2, 4), (5, 4096, 8, 1), (6, 2080, 4, 2)];
    every.chain(odd).chain(large).chain(long).collect()
}

/// Inputs, rows, columns.
fn tiles(tile: Tile, size: Size) -> Vec<(usize, usize, usize)> {
    if size == Size::Quick {
        return vec![(9, 5, 256)];
    }
    let mut all = vec![(9, 1, BLOCK), (16, 3, 256), (17, 35, 96), (1, 2, 1024)];
    all.push(match tile {
        Tile::Halves16 | Tile::Eights16 => (18, 130, 2048),
        Tile::Halves32 | Tile::Eights32 => (33, 130, 1024),
        Tile::Halves64 | Tile::Eights64 => (66, 130, 512),
        Tile::Halves128 => (130, 130, 256),
    });
    all
}

/// Weights with random bits and scales of ordinary size, as stored.
pub(crate) fn weights(kind: Kind, count: usize, numbers: &mut Numbers) -> Vec<u8> {
    let mut bytes = vec![0u8; count / kind.block() * kind.block_bytes()];
    for block in bytes.chunks_exact_mut(kind.block_bytes()) {
        block.iter_mut().for_each(|byte| *byte = numbers.bits() as u8);
        let number = numbers.number();
        match kind {
            Kind::F32 => block.copy_from_slice(&number.to_le_bytes()),
            Kind::F16 => block.copy_from_slice(&f16::from_f32(number).to_le_bytes()),
            Kind::BF16 => block.copy_from_slice(&bf16::from_f32(number).to_le_bytes()),
            _ => kind.blocks().iter().for_each(|blocks| {
                for (scale, size) in blocks.scales {
                    scale.put(block, size * (1.5 + 0.5 * numbers.number()));
                }
            }),
        }
    }
    bytes
}

/// A matrix on the card, and its values.
pub(crate) fn matrix(
    bench: &Bench,
    kind: Kind,
    rows: usize,
    columns: usize,
    numbers: &mut Numbers,
) -> Result<(Matrix, Vec<f32>), CardError> {
    let stored = weights(kind, rows * columns, numbers);
    let mut values = vec![0.0; rows * columns];
    dequantise_row(kind, &stored, &mut values);
    let mut matrix = Matrix::new(&bench.card, bench.pool, kind, rows, columns)?;
    // In two pieces, the second first.
    let cut = rows / 2;
    let (first, second) = stored.split_at(cut * matrix.row_bytes());
    matrix.write_rows(cut, second, Stream::Load)?;
    matrix.write_rows(0, first, Stream::Load)?;
    bench.card.synchronise(Stream::Load)?;
    Ok((matrix, values))
}

/// Inputs on the card, and what they are there.
pub(super) struct Inputs {
    kind: ActKind,
    floats: Buffer<f32>,
    f16s: Buffer<f16>,
    bf16s: Buffer<bf16>,
    q8: (Buffer<i8>, Buffer<f32>),
    /// What they stand for.
    pub rounded: Vec<f64>,
}

impl Inputs {
    /// Copies `x` to the device in the form `kind`. Fails if memory is used up or the device fails.
    pub fn new(bench: &Bench, kind: ActKind, x: &[f32]) -> Result<Inputs, CardError> {
        let pick = |wanted: ActKind| if kind == wanted { x } else { &[] };
        let (quantised, scales, rounded) = quantise(pick(ActKind::Q8));
        let floats = pick(ActKind::F32).to_vec();
        let f16s = pick(ActKind::F16).iter().map(|v| f16::from_f32(*v));
        let bf16s = pick(ActKind::BF16).iter().map(|v| bf16::from_f32(*v));
        let (f16s, bf16s): (Vec<_>, Vec<_>) = (f16s.collect(), bf16s.collect());
        let rounded = match kind {
            ActKind::F32 => floats.iter().map(|v| f64::from(*v)).collect(),
            ActKind::F16 => f16s.iter().map(|v| v.to_f64()).collect(),
            ActKind::BF16 => bf16s.iter().map(|v| v.to_f64()).collect(),
            ActKind::Q8 => rounded,
        };
        let (card, pool) = (&bench.card, bench.pool);
        Ok(Inputs {
            kind,
            floats: Buffer::of(card, pool, &floats)?,
            f16s: Buffer::of(card, pool, &f16s)?,
            bf16s: Buffer::of(card, pool, &bf16s)?,
            q8: (Buffer::of(card, pool, &quantised)?, Buffer::of(card, pool, &scales)?),
            rounded,
        })
    }

    /// The inputs on the device, in their form.
    pub fn acts(&self) -> Acts<'_> {
        match self.kind {
            ActKind::F32 => Acts::F32(self.floats.view()),
            ActKind::F16 => Acts::F16(self.f16s.view()),
            ActKind::BF16 => Acts::BF16(self.bf16s.view()),
            ActKind::Q8 => Acts::Q8 { values: self.q8.0.view(), scales: self.q8.1.view() },
        }
    }
}

/// Blocks of 32 in 8 bits: whole numbers, (d, d * sum), and the values that they stand for.
fn quantise(x: &[f32]) -> (Vec<i8>, Vec<f32>, Vec<f64>) {
    let (mut quantised, mut scales, mut values) = (Vec::new(), Vec::new(), Vec::new());
    for block in x.chunks_exact(32) {
        let most = block.iter().fold(0.0f32, |most, v| most.max(v.abs()));
        let d = most / 127.0;
        let whole: Vec<i8> = block.iter().map(|v| (v / d.max(1e-30)).round() as i8).collect();
        let sum: i32 = whole.iter().map(|q| i32::from(*q)).sum();
        scales.extend([d, d * sum as f32]);
        values.extend(whole.iter().map(|q| f64::from(d) * f64::from(*q)));
        quantised.extend(whole);
    }
    (quantised, scales, values)
}

/// `[n][rows]`: inputs times weights, and the bias.
pub(super) fn expected(x: &[f64], weights: &[f32], columns: usize, bias: &[f32]) -> Vec<f64> {
    let mut out = Vec::new();
    for x in x.chunks_exact(columns) {
        for (row, bias) in weights.chunks_exact(columns).zip(bias) {
            let products = row.iter().zip(x).map(|(w, x)| f64::from(*w) * x);
            out.push(products.sum::<f64>() + f64::from(*bias));
        }
    }
    out
}

impl Case {
    fn run(self, bench: &Bench) -> Result<Vec<Check>, CardError> {
        let Case { kind, rows, columns, n, way } = self;
        let mut numbers = Numbers::new((rows * 31 + columns * 7 + n) as u64);
        let (matrix, values) = matrix(bench, kind, rows, columns, &mut numbers)?;
        let x: Vec<f32> = numbers.numbers(n * columns).iter().map(|v| 3.0 * v).collect();
        let inputs = Inputs::new(bench, way.inputs(kind), &x)?;
        // Every other case has a bias, of the size of the products.
        let biased = (rows + n) % 2 == 0;
        let size = if biased { (columns as f32).sqrt() } else { 0.0 };
        let bias: Vec<f32> = (0..rows).map(|_| size * numbers.number()).collect();
        let bias_there = Buffer::of(&bench.card, bench.pool, &bias)?;
        let (stride, offset) = (rows + 5, 3);
        let mut out = Buffer::new(&bench.card, bench.pool, n * stride)?;
        out.fill(0xff)?;
        let to = Output { values: out.view_mut(), stride, offset };
        let bias_view = biased.then(|| bias_there.view());
        multiply_by(way, &*bench.card, &matrix, inputs.acts().into(), n, to, bias_view)?;
        let got = results(&out.to_vec()?, stride, offset, rows);
        let case = format!("{kind:?}, {n} x {rows} x {columns}, {way:?}");
        let name = match way {
            Way::Vectors { .. } => "product_quant",
            Way::Tiles(_) => "product_tiles",
            Way::Dense { .. } => "product_dense",
            Way::Library => "product_library",
        };
        // Weights that are rounded to bf16 on the way, of which errors are independent. Of a few results the largest
        // may be next to nothing.
        let rounds = kind.is_quantised() && way.inputs(kind) == ActKind::BF16;
        let limit = match kind {
            _ if rounds && n * rows >= 16 => 6e-3,
            _ if rounds => 5e-2,
            Kind::F16 | Kind::BF16 => 1e-3,
            _ => 1e-5,
        };
        let want = expected(&inputs.rounded, &values, columns, &bias);
        let mut checks = vec![Check::compare(name, case.clone(), &got, &want, limit)];
        if kind.is_quantised() && want.len() >= 16 {
            let x: Vec<f64> = x.iter().map(|v| f64::from(*v)).collect();
            let want = expected(&x, &values, columns, &bias);
            checks.push(Check::compare(name, case + ", unrounded", &got, &want, 2e-2));
        }
        Ok(checks)
    }
}

/// The results among `out`; none if something else was written.
fn results(out: &[f32], stride: usize, offset: usize, rows: usize) -> Vec<f32> {
    let mut results = Vec::new();
    for out in out.chunks_exact(stride) {
        let (before, rest) = out.split_at(offset);
        let (mine, behind) = rest.split_at(rows);
        if before.iter().chain(behind).any(|v| v.to_bits() != u32::MAX) {
            return Vec::new();
        }
        results.extend(mine);
    }
    results
}
