//! Known answers of embedding: rows of every kind, for listed tokens and for tokens sampled on the GPU.

use super::*;
use crate::cuda::acts::ActKind;
use crate::cuda::buffer::Buffer;
use crate::cuda::check::{Bench, Check, Numbers, Size};
use crate::cuda::norm::PIECE;
use crate::cuda::product::answers::matrix;
use crate::cuda::product::normed_answers::pieces;
use crate::cuda::rows::answers::Written;

/// Rows of every kind, the first, the last and one twice among them.
pub(crate) fn checks(bench: &Bench, size: Size) -> Result<Vec<Check>, CardError> {
    let shapes: &[(usize, usize)] = match size {
        Size::Quick => &[(3, 256)],
        Size::Full => &[(1, 32), (5, 96), (130, 768), (7, 2304)],
    };
    let mut checks = Vec::new();
    for kind in Kind::on_cards() {
        for (rows, columns) in shapes {
            let columns = columns.next_multiple_of(kind.block());
            checks.extend(check(bench, kind, *rows, columns)?);
        }
        if !kind.is_quantised() && size == Size::Full {
            checks.extend(check(bench, kind, 4, 33)?);
        }
    }
    Ok(checks)
}

fn check(bench: &Bench, kind: Kind, rows: usize, columns: usize) -> Result<Vec<Check>, CardError> {
    let mut numbers = Numbers::new((rows + columns) as u64);
    let (matrix, values) = matrix(bench, kind, rows, columns, &mut numbers)?;
    let last = rows as u32 - 1;
    let picked = [last, 0, numbers.below(rows) as u32, last, last / 2];
    let listed = [picked[0], DRAWN | 2, picked[2], DRAWN, picked[4]];
    let tokens = Buffer::of(&bench.card, bench.pool, &listed)?;
    let drawn = Buffer::of(&bench.card, bench.pool, &[picked[3], u32::MAX, picked[1]])?;
    let mut out = Buffer::new(&bench.card, bench.pool, picked.len() * columns)?;
    out.fill(0xff)?;
    let (scale, n) = (1.75, picked.len());
    let rows_of = |out: &mut Buffer<f32>, norm: Option<Unscaled<'_>>| {
        let (tokens, drawn) = (tokens.view(), drawn.view());
        embed(&*bench.card, &matrix, tokens, drawn, n, scale, out.view_mut(), norm, None)
    };
    rows_of(&mut out, None)?;
    let row = |token: &u32| &values[*token as usize * columns..][..columns];
    let expected: Vec<f64> =
        picked.iter().flat_map(row).map(|v| f64::from(scale) * f64::from(*v)).collect();
    let (kernel, case) = (kernel(kind)?, format!("{kind:?}, {rows} x {columns}"));
    let mut checks = vec![Check::compare(kernel, case.clone(), &out.to_vec()?, &expected, 1e-6)];
    if !columns.is_multiple_of(PIECE) {
        return Ok(checks);
    }
    let weights: Vec<f32> = numbers.numbers(columns).iter().map(|v| 1.0 + v / 2.0).collect();
    let weight = Buffer::of(&bench.card, bench.pool, &weights)?;
    let weighed = expected.iter().zip(weights.iter().cycle()).map(|(v, w)| v * f64::from(*w));
    let weighed: Vec<f64> = weighed.collect();
    for form in [ActKind::Q8, ActKind::BF16] {
        out.fill(0xff)?;
        let mut normed = Written::new(bench, form, n * columns)?;
        let mut squares = Buffer::new(&bench.card, bench.pool, n * columns / PIECE)?;
        let (weight, values) = (weight.view(), normed.out());
        let norm = Some(Unscaled { weight, values, squares: squares.view_mut() });
        rows_of(&mut out, norm)?;
        checks.push(Check::compare(kernel, case.clone(), &out.to_vec()?, &expected, 1e-6));
        checks.extend(normed.checks(bench, (kernel, &case), &weighed)?);
        let sums = pieces(&expected);
        checks.push(Check::compare(
            kernel,
            format!("{case}, squares"),
            &squares.to_vec()?,
            &sums,
            1e-5,
        ));
    }
    Ok(checks)
}
