//! Embedding: rows of a matrix in any kind, picked by token, as floats.
//!
//! Knows no vocabulary; tokens are checked by whoever made them, and one that the matrix does not have gives a row
//! that is not a number. Few rows may be normed at once.

use super::buffer::{View, ViewMut};
use super::card::{Arg, Card, CardError, Grid};
use super::norm::Unscaled;
use super::product::Matrix;
use super::rows::require;
use crate::quant::Kind;

#[cfg(any(test, feature = "known-answers"))]
pub(crate) mod answers;

/// Marks a listed token of which only its index in `drawn` is known: `DRAWN | index`.
pub const DRAWN: u32 = 1 << 31;

/// `out[i] = scale * weights[tokens[i]]`, for the first `n` tokens: `[n][columns]`. A token that is marked with
/// [`DRAWN`] is the id at that index of `drawn`, read when the kernel runs. With `norm`, the rows' norm without its scale.
#[allow(clippy::too_many_arguments, reason = "parts of a step belong to different owners")]
pub fn embed(
    card: &dyn Card,
    weights: &Matrix,
    tokens: View<'_, u32>,
    drawn: View<'_, u32>,
    n: usize,
    scale: f32,
    out: ViewMut<'_, f32>,
    norm: Option<Unscaled<'_>>,
) -> Result<(), CardError> {
    let columns = weights.columns();
    if tokens.len() < n || n > i32::MAX as usize {
        return Err(CardError::Shape(format!("there are {} tokens, not {n}", tokens.len())));
    }
    if n.checked_mul(columns).is_none_or(|all| all > out.len()) {
        let len = out.len();
        let what = format!("{n} rows of {columns} numbers do not fit into {len}");
        return Err(CardError::Shape(what));
    }
    if !out.address().is_multiple_of(16) {
        return Err(CardError::Shape("rows do not start on 16 bytes".into()));
    }
    if let Some(norm) = &norm {
        norm.check("embed", n)?;
        require(norm.weight.len() == columns, || {
            format!("embed: {} weights of a norm for {columns} columns", norm.weight.len())
        })?;
    }
    if n == 0 {
        return Ok(());
    }
    let normed = norm.as_ref().map_or([Arg::Address(0); 4], |norm| {
        let [values, scales] = norm.values.args();
        [norm.weight.arg(), values, scales, norm.squares.arg()]
    });
    let quantised = weights.kind().is_quantised();
    // Numbers, or words of eight.
    let items = if quantised { columns / 8 } else { columns };
    let grid = Grid::of([n as u32, items.div_ceil(256).min(64) as u32, 1], 256);
    let [low, high, scales, supers] = weights.planes();
    let (tokens, scale, out) = (tokens.arg(), Arg::F32(scale), out.arg());
    let (drawn, count) = (drawn.arg(), Arg::U32(drawn.len().min(DRAWN as usize) as u32));
    let rows = Arg::I32(weights.rows() as i32);
    let name = kernel(weights.kind())?;
    let groups = Arg::I32(weights.groups() as i32);
    let columns = Arg::I32(columns as i32);
    // SAFETY: the kernels' arguments; all lengths have been checked, and a token beyond the matrix reads nothing.
    unsafe {
        match quantised {
            true => {
                let planes = [low, high, scales, supers];
                let rest = [tokens, drawn, count, rows, groups, scale, out];
                card.launch(name, grid, &[&planes[..], &rest, &normed].concat())
            }
            false => {
                let args = [low, tokens, drawn, count, rows, columns, scale, out];
                card.launch(name, grid, &[&args[..], &normed].concat())
            }
        }
    }
}

/// The kernel that picks rows of such weights.
fn kernel(kind: Kind) -> Result<&'static str, CardError> {
    let kernels = kind.card().map(|card| &card.kernels);
    kernels
        .map(|kernels| kernels.embed)
        .ok_or_else(|| CardError::Shape(format!("no kernel picks rows of {kind}")))
}

#[cfg(all(test, feature = "emulator"))]
mod tests {
    use super::*;
    use crate::cuda::buffer::Buffer;
    use crate::cuda::card::Queue;
    use crate::cuda::emulated::EmulatedCard;
    use std::sync::Arc;

    #[test]
    fn answers_are_known() {
        crate::cuda::check::prove(answers::checks);
    }

    #[test]
    fn a_token_that_is_not_there_gives_no_number_and_shapes_are_checked() {
        let card: Arc<dyn Card> = Arc::new(EmulatedCard::start(1 << 20));
        let pool = card.create_pool().unwrap();
        for kind in Kind::on_cards() {
            let mut matrix = Matrix::new(&card, pool, kind, 2, 256).unwrap();
            let stored = vec![0; 2 * matrix.row_bytes()];
            matrix.write_rows(0, &stored, Queue::Load).unwrap();
            let tokens = Buffer::of(&card, pool, &[1, 2, u32::MAX]).unwrap();
            let mut out = Buffer::new(&card, pool, 3 * 256).unwrap();
            embed(&*card, &matrix, tokens.view(), View::none(), 3, 1.0, out.view_mut(), None)
                .unwrap();
            let out = out.to_vec().unwrap();
            assert!(out[..256].iter().all(|v| *v == 0.0));
            assert!(out[256..].iter().all(|v| v.is_nan()));
        }
        let mut matrix = Matrix::new(&card, pool, Kind::F32, 2, 4).unwrap();
        matrix.write_rows(0, &[0; 32], Queue::Load).unwrap();
        let tokens = Buffer::of(&card, pool, &[1, 0]).unwrap();
        let mut out = Buffer::<f32>::new(&card, pool, 9).unwrap();
        let none = View::none();
        let mut run = |n, at| {
            let out = out.view_mut().part(at, 8);
            embed(&*card, &matrix, tokens.view(), none, n, 1.0, out, None)
        };
        assert!(run(2, 0).is_ok() && run(0, 0).is_ok());
        assert!(run(3, 0).is_err() && run(2, 1).is_err());
    }
}
