//! Known answers of products that add to the residual stream, and of products that multiply their sums by a norm's
//! scale. They come from plain loops in f64.

use super::answers::{Inputs, expected, matrix};
use super::fused_answers::bias;
use super::names::Tile;
use super::{FEW, Output, multiply, multiply_gated, multiply_normed, names};
use crate::cuda::acts::{ProductInput, Scale};
use crate::cuda::buffer::Buffer;
use crate::cuda::card::CardError;
use crate::cuda::check::{Bench, Check, Numbers, Size};
use crate::cuda::norm::{PIECE, Unscaled};
use crate::cuda::rows::Activation;
use crate::cuda::rows::answers::Written;
use crate::quant::Kind;

/// Larger than models have it, so that it shows.
const EPS: f32 = 1e-1;

/// A product that joins the residual stream; `last`: no product follows.
#[derive(Debug, Clone, Copy)]
pub(super) struct Normed {
    pub kind: Kind,
    pub width: usize,
    pub columns: usize,
    pub n: usize,
    pub biased: bool,
    pub last: bool,
}

/// A product whose inputs are without their scale.
#[derive(Debug, Clone, Copy)]
struct Scaled {
    kind: Kind,
    outputs: usize,
    columns: usize,
    n: usize,
}

/// Checks every kernel that joins the residual stream, and every one that scales. Fails if a launch fails; a wrong
/// result shows in its check.
pub fn checks(bench: &Bench, size: Size) -> Result<Vec<Check>, CardError> {
    let properties = bench.card.properties();
    // Tiles of halves do nothing together.
    let together = |n: usize| n <= FEW || Tile::of(n, properties).eights();
    let mut checks = Vec::new();
    for case in normed(size).into_iter().filter(|case| together(case.n)) {
        checks.extend(case.run(bench)?);
    }
    for case in scaled(size).into_iter().filter(|case| together(case.n)) {
        checks.extend(case.run(bench)?);
    }
    Ok(checks)
}

fn kinds() -> impl Iterator<Item = Kind> {
    Kind::on_cards().filter(|kind| names::normed(*kind, 1).is_some())
}

pub(super) fn normed(size: Size) -> Vec<Normed> {
    let of = |kind: Kind| {
        let mut shapes: Vec<(usize, usize, usize)> = (1..=8).map(|n| (PIECE, 256, n)).collect();
        if size == Size::Full {
            shapes.extend([(3 * PIECE, 512, 1), (2 * PIECE, 2048, 7), (PIECE, 4096, 2)]);
        }
        if kind.is_quantised() {
            shapes.extend([(PIECE, 256, 9), (PIECE, 256, 17), (PIECE, 256, 33)]);
        }
        if kind.is_quantised() && size == Size::Full {
            // Columns that several blocks share, and whole tiles.
            shapes.extend([(PIECE, 4096, 12), (2 * PIECE, 2048, 32), (3 * PIECE, 2048, 64)]);
        }
        shapes.into_iter().map(move |(width, columns, n)| {
            let (biased, last) = (n % 3 == 0, n == 4 || n == 17);
            Normed { kind, width, columns, n, biased, last }
        })
    };
    kinds().flat_map(of).collect()
}

fn scaled(size: Size) -> Vec<Scaled> {
    let of = |kind: Kind| {
        let mut shapes: Vec<(usize, usize, usize)> = (1..=8).map(|n| (32, 256, n)).collect();
        if size == Size::Full {
            // Fewer pieces than lanes that add them up, and more.
            shapes.extend([(32, 768, 8), (32, 5 * 1024, 1), (64, 5 * 1024, 3)]);
        }
        if kind.is_quantised() {
            shapes.extend([(32, 256, 9), (32, 256, 17), (32, 256, 33)]);
        }
        if kind.is_quantised() && size == Size::Full {
            // Columns that several blocks share, and whole tiles.
            shapes.extend([(64, 4096, 12), (96, 768, 32), (160, 2048, 64)]);
        }
        shapes.into_iter().map(move |(outputs, columns, n)| Scaled { kind, outputs, columns, n })
    };
    kinds().flat_map(of).collect()
}

impl Normed {
    fn run(self, bench: &Bench) -> Result<Vec<Check>, CardError> {
        let Normed { kind, width, columns, n, biased, last } = self;
        let (case, kernel) = (format!("{self:?}"), "product_normed");
        let mut numbers = Numbers::new((width * 31 + columns * 7 + n) as u64);
        let (matrix, values) = matrix(bench, kind, width, columns, &mut numbers)?;
        let inputs = Inputs::new(bench, kind.input_kind(), &numbers.numbers(n * columns))?;
        let bias = bias(width, columns, biased, &mut numbers);
        let there = Buffer::of(&bench.card, bench.pool, &bias)?;
        let before = numbers.numbers(n * width);
        let mut stream = Buffer::of(&bench.card, bench.pool, &before)?;
        let mut branch = Buffer::new(&bench.card, bench.pool, n * width)?;
        let weights: Vec<f32> = numbers.numbers(width).iter().map(|v| 1.0 + v / 2.0).collect();
        let weight = Buffer::of(&bench.card, bench.pool, &weights)?;
        let mut out = Written::new(bench, kind.input_kind(), n * width)?;
        let mut squares = Buffer::new(&bench.card, bench.pool, n * width / PIECE)?;
        let unscaled = (!last).then(|| Unscaled {
            weight: weight.view(),
            values: out.out(),
            squares: squares.view_mut(),
        });
        let (x, view) = (inputs.acts(), biased.then(|| there.view()));
        let (to, scratch) = (stream.view_mut(), branch.view_mut());
        multiply_normed(&*bench.card, &[matrix], x, n, view, to, scratch, unscaled)?;
        let sums = expected(&inputs.rounded, &values, columns, &bias);
        let sums: Vec<f64> =
            sums.iter().zip(&before).map(|(sum, before)| sum + f64::from(*before)).collect();
        let mut checks = vec![Check::compare(kernel, case.clone(), &stream.to_vec()?, &sums, 1e-5)];
        if !last {
            let weighed = weights.iter().cycle().zip(&sums);
            let weighed: Vec<f64> = weighed.map(|(w, v)| f64::from(*w) * v).collect();
            checks.extend(out.checks(bench, (kernel, &case), &weighed)?);
            checks.push(Check::compare(kernel, case, &squares.to_vec()?, &pieces(&sums), 1e-5));
        }
        Ok(checks)
    }
}

/// What the squares of each piece add up to.
pub(crate) fn pieces(rows: &[f64]) -> Vec<f64> {
    rows.chunks(PIECE).map(|piece| piece.iter().map(|v| v * v).sum()).collect()
}

impl Scaled {
    /// By itself, and as gate and up.
    fn run(self, bench: &Bench) -> Result<Vec<Check>, CardError> {
        let Scaled { kind, outputs, columns, n } = self;
        let mut numbers = Numbers::new((outputs * 31 + columns * 7 + n) as u64);
        let (matrix, values) = matrix(bench, kind, 2 * outputs, columns, &mut numbers)?;
        let inputs = Inputs::new(bench, kind.input_kind(), &numbers.numbers(n * columns))?;
        // Not what the inputs' squares are: nobody looks at that.
        let squares: Vec<f32> =
            (0..n * columns / PIECE).map(|_| 64.0 * (1.5 + numbers.number())).collect();
        let there = Buffer::of(&bench.card, bench.pool, &squares)?;
        let scale = Some(Scale { squares: there.view(), eps: EPS });
        let x = ProductInput { acts: inputs.acts(), scale };
        let bias = bias(2 * outputs, columns, true, &mut numbers);
        let bias_there = Buffer::of(&bench.card, bench.pool, &bias)?;
        let mut wide = Buffer::new(&bench.card, bench.pool, 2 * n * outputs)?;
        let to = Output::of(wide.view_mut(), 2 * outputs);
        multiply(&*bench.card, &matrix, x, n, to, Some(bias_there.view()))?;
        let none = vec![0.0; bias.len()];
        let sums = expected(&inputs.rounded, &values, columns, &none);
        let rms = squares.chunks(columns / PIECE).map(|row| {
            let mean = row.iter().map(|v| f64::from(*v)).sum::<f64>() / columns as f64;
            (mean + f64::from(EPS)).sqrt()
        });
        let rows = rms.zip(sums.chunks_exact(2 * outputs));
        let want: Vec<f64> = rows
            .flat_map(|(rms, row)| {
                row.iter().zip(&bias).map(move |(sum, bias)| sum / rms + f64::from(*bias))
            })
            .collect();
        let case = format!("{self:?}");
        let alone = Check::compare("product_scaled", case.clone(), &wide.to_vec()?, &want, 1e-5);
        let mut out = Written::new(bench, kind.input_kind(), n * outputs)?;
        let (to, wide, by) = (out.out(), wide.view_mut(), Some(bias_there.view()));
        multiply_gated(&*bench.card, &[matrix], Activation::Silu, x, n, wide, to, by)?;
        let gated: Vec<f64> = want
            .chunks_exact(2 * outputs)
            .flat_map(|sums| {
                let (gate, up) = sums.split_at(outputs);
                gate.iter().zip(up).map(|(gate, up)| gate / (1.0 + (-gate).exp()) * up)
            })
            .collect();
        let gated = out.checks(bench, ("product_gated_scaled", &case), &gated)?;
        Ok(std::iter::once(alone).chain(gated).collect())
    }
}
