//! Known answers of fused products: gate and up with their activation, and two matrices of different kinds. They come
//! from plain loops in f64. Tests check that separate launches give the same bits.

use super::answers::{Inputs, expected, matrix};
use super::names::Tile;
use super::{FEW, Matrix, multiply_all, multiply_gated, names};
use crate::cuda::buffer::Buffer;
use crate::cuda::card::CardError;
use crate::cuda::check::{Bench, Check, Numbers, Size};
use crate::cuda::rows::Activation;
use crate::cuda::rows::answers::Written;
use crate::quant::Kind;

/// Gate and up of one kind.
#[derive(Debug, Clone, Copy)]
pub(super) struct Gated {
    pub kind: Kind,
    pub outputs: usize,
    pub columns: usize,
    pub n: usize,
    pub activation: Activation,
    pub biased: bool,
}

/// Two matrices, and inputs.
#[derive(Debug, Clone, Copy)]
pub(super) struct Mixed {
    pub kinds: [Kind; 2],
    pub rows: [usize; 2],
    pub columns: usize,
    pub n: usize,
}

/// Checks every kernel, of gate and up and of two kinds. Fails if a launch fails; a wrong result shows in its check.
pub fn checks(bench: &Bench, size: Size) -> Result<Vec<Check>, CardError> {
    let properties = bench.card.properties();
    // Tiles of halves do nothing together.
    let together = |n: usize| n <= FEW || Tile::of(n, properties).eights();
    let mut checks = Vec::new();
    for case in gated(size).into_iter().filter(|case| together(case.n)) {
        checks.extend(case.run(bench)?);
    }
    for case in mixed(size).into_iter().filter(|case| together(case.n)) {
        checks.push(case.run(bench)?);
    }
    Ok(checks)
}

pub(super) fn gated(size: Size) -> Vec<Gated> {
    let kinds = Kind::on_cards().filter(|kind| names::gated(*kind, 1).is_some());
    let of = |kind: Kind| {
        let mut shapes: Vec<(usize, usize, usize)> = (1..=8).map(|n| (32, 256, n)).collect();
        if kind.is_quantised() {
            shapes.extend([(32, 256, 9), (32, 256, 17), (32, 256, 33)]);
        }
        if size == Size::Full && kind.is_quantised() {
            shapes.extend([(96, 512, 1), (64, 2048, 7), (32, 4096, 2), (32, 4096, 8)]);
            // Columns that several blocks share, and tiles that are not whole.
            shapes.extend([(64, 4096, 12), (96, 2048, 32), (160, 2048, 64)]);
        } else if size == Size::Full {
            shapes.extend([(5, 40, 1), (13, 100, 8), (72, 515, 3), (16, 2048, 2)]);
        }
        shapes.into_iter().map(move |(outputs, columns, n)| {
            let odd = (outputs + n) % 2 == 1;
            let activation = if odd { Activation::GeluTanh } else { Activation::Silu };
            Gated { kind, outputs, columns, n, activation, biased: n % 3 == 0 }
        })
    };
    kinds.flat_map(of).collect()
}

pub(super) fn mixed(size: Size) -> Vec<Mixed> {
    // Those of one warp's rows, and in each of the tiles.
    let every = (1..=8).chain([9, 17, 33]).flat_map(|n| {
        let kinds = [[Kind::Q4K, Kind::Q6K], [Kind::Q5K, Kind::Q6K], [Kind::Q5K, Kind::Q4K]];
        kinds.map(|kinds| Mixed { kinds, rows: [5, 3], columns: 256, n })
    });
    if size == Size::Quick {
        return every.collect();
    }
    let more = [([70, 9], 512, 1), ([130, 1], 4096, 2), ([33, 35], 2048, 8)];
    let more = more.into_iter().chain([([130, 3], 4096, 18), ([3, 260], 2048, 70)]);
    let more =
        more.map(|(rows, columns, n)| Mixed { kinds: [Kind::Q4K, Kind::Q6K], rows, columns, n });
    every.chain(more).collect()
}

/// A bias of the size of the products, or of zeros.
pub(super) fn bias(rows: usize, columns: usize, biased: bool, numbers: &mut Numbers) -> Vec<f32> {
    let size = if biased { (columns as f32).sqrt() } else { 0.0 };
    (0..rows).map(|_| size * numbers.number()).collect()
}

impl Gated {
    fn run(self, bench: &Bench) -> Result<Vec<Check>, CardError> {
        let Gated { kind, outputs, columns, n, activation, biased } = self;
        let mut numbers = Numbers::new((outputs * 31 + columns * 7 + n) as u64);
        let (matrix, values) = matrix(bench, kind, 2 * outputs, columns, &mut numbers)?;
        let x = numbers.numbers(n * columns);
        let inputs = Inputs::new(bench, kind.input_kind(), &x)?;
        let bias = bias(2 * outputs, columns, biased, &mut numbers);
        let there = Buffer::of(&bench.card, bench.pool, &bias)?;
        let mut wide = Buffer::new(&bench.card, bench.pool, 2 * n * outputs)?;
        wide.fill(0xff)?;
        let mut out = Written::new(bench, kind.input_kind(), n * outputs)?;
        let (card, parts, to) = (&*bench.card, [matrix], out.out());
        let view = biased.then(|| there.view());
        multiply_gated(card, &parts, activation, inputs.acts(), n, wide.view_mut(), to, view)?;
        let sums = expected(&inputs.rounded, &values, columns, &bias);
        let want: Vec<f64> = sums
            .chunks_exact(2 * outputs)
            .flat_map(|sums| {
                let (gate, up) = sums.split_at(outputs);
                gate.iter().zip(up).map(|(gate, up)| activated(activation, *gate) * up)
            })
            .collect();
        out.checks(bench, ("product_gated", &format!("{self:?}")), &want)
    }
}

fn activated(activation: Activation, x: f64) -> f64 {
    match activation {
        Activation::Silu => x / (1.0 + (-x).exp()),
        Activation::GeluTanh => {
            let inner = (2.0 / std::f64::consts::PI).sqrt() * (x + 0.044715 * x.powi(3));
            0.5 * x * (1.0 + inner.tanh())
        }
    }
}

impl Mixed {
    /// The matrices on the card, and their values.
    pub(super) fn matrices(
        self,
        bench: &Bench,
        numbers: &mut Numbers,
    ) -> Result<([Matrix; 2], Vec<f32>), CardError> {
        let [first, second] = self.kinds;
        let (first, mut values) = matrix(bench, first, self.rows[0], self.columns, numbers)?;
        let (second, more) = matrix(bench, second, self.rows[1], self.columns, numbers)?;
        values.extend(more);
        Ok(([first, second], values))
    }

    fn run(self, bench: &Bench) -> Result<Check, CardError> {
        let Mixed { rows, columns, n, .. } = self;
        let mut numbers = Numbers::new((rows[0] * 31 + columns * 7 + n) as u64);
        let (parts, values) = self.matrices(bench, &mut numbers)?;
        let kind = parts[0].input_kind(&*bench.card, n);
        let inputs = Inputs::new(bench, kind, &numbers.numbers(n * columns))?;
        let all = rows[0] + rows[1];
        let biased = n % 2 == 0;
        let bias = bias(all, columns, biased, &mut numbers);
        let there = Buffer::of(&bench.card, bench.pool, &bias)?;
        let mut out = Buffer::new(&bench.card, bench.pool, n * all)?;
        out.fill(0xff)?;
        let view = biased.then(|| there.view());
        multiply_all(&*bench.card, &parts, inputs.acts(), n, out.view_mut(), view)?;
        let want = expected(&inputs.rounded, &values, columns, &bias);
        Ok(Check::compare("product_mixed", format!("{self:?}"), &out.to_vec()?, &want, 1e-5))
    }
}
