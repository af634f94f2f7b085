//! Known answers of embedding: rows of every kind, listed and drawn.

use super::*;
use crate::cuda::buffer::Buffer;
use crate::cuda::check::{Bench, Check, Numbers, Size};
use crate::cuda::product::answers::matrix;

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
            checks.push(check(bench, kind, *rows, columns)?);
        }
        if !kind.is_quantised() && size == Size::Full {
            checks.push(check(bench, kind, 4, 33)?);
        }
    }
    Ok(checks)
}

fn check(bench: &Bench, kind: Kind, rows: usize, columns: usize) -> Result<Check, CardError> {
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
    embed(&*bench.card, &matrix, tokens.view(), drawn.view(), n, scale, out.view_mut())?;
    let row = |token: &u32| &values[*token as usize * columns..][..columns];
    let expected: Vec<f64> =
        picked.iter().flat_map(row).map(|v| f64::from(scale) * f64::from(*v)).collect();
    let case = format!("{kind:?}, {rows} x {columns}");
    Ok(Check::compare(kernel(kind)?, case, &out.to_vec()?, &expected, 1e-6))
}
