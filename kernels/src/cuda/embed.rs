//! Embedding: rows of a matrix in any kind, picked by token, as floats.
//!
//! It does not know the vocabulary. Token ids are checked by the code that makes them; an id outside the matrix gives a
//! row of NaN. If there are few rows, the same launch can also apply the norm to them and compute their tokens' rotary
//! angles.

use super::buffer::{View, ViewMut};
use super::card::{Arg, Card, CardError, Grid};
use super::norm::Unscaled;
use super::product::Matrix;
use super::rope::Turns;
use super::rows::require;
use crate::quant::Kind;

#[cfg(any(test, feature = "known-answers"))]
pub(crate) mod answers;

/// Marks a listed token of which only its index in `drawn` is known: `DRAWN | index`.
pub const DRAWN: u32 = 1 << 31;

const NO_TURNS: [Arg; 8] = {
    let null = Arg::Address(0);
    [null, null, null, null, Arg::I32(0), Arg::F32(0.0), null, null]
};

/// `out[i] = scale * weights[tokens[i]]`, for the first `n` tokens: `[n][columns]`. A token that is marked with
/// [`DRAWN`] is the id at that index of `drawn`, read when the kernel runs. With `norm`, the rows' norm without its scale;
/// with `turns`, as many tokens' angles. Fails if lengths do not fit together or the launch fails.
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
    turns: Option<Turns<'_>>,
) -> Result<(), CardError> {
    check(weights, &tokens, n, &out, norm.as_ref(), turns.as_ref())?;
    if n == 0 {
        return Ok(());
    }
    let turned = turns.as_ref().is_some_and(|turns| turns.half() > 0);
    let normed = norm.as_ref().map_or([Arg::Address(0); 4], |norm| {
        let [values, scales] = norm.values.args();
        [norm.weight.arg(), values, scales, norm.squares.arg()]
    });
    let turns = turns.as_ref().map_or(NO_TURNS, Turns::args);
    let more = [&normed[..], &turns].concat();
    let quantised = weights.kind().is_quantised();
    // Numbers, or words of eight.
    let columns = weights.columns();
    let items = if quantised { columns / 8 } else { columns };
    let blocks = items.div_ceil(256).min(64) + usize::from(turned);
    let grid = Grid::of([n as u32, blocks as u32, 1], 256);
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
                card.launch(name, grid, &[&planes[..], &rest, &more].concat())
            }
            false => {
                let args = [low, tokens, drawn, count, rows, columns, scale, out];
                card.launch(name, grid, &[&args[..], &more].concat())
            }
        }
    }
}

/// Holds all lengths against what the kernels read and write.
fn check(
    weights: &Matrix,
    tokens: &View<'_, u32>,
    n: usize,
    out: &ViewMut<'_, f32>,
    norm: Option<&Unscaled<'_>>,
    turns: Option<&Turns<'_>>,
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
    if let Some(norm) = norm {
        norm.check("embed", n)?;
        require(norm.weight.len() == columns, || {
            format!("embed: {} weights of a norm for {columns} columns", norm.weight.len())
        })?;
    }
    if let Some(turns) = turns {
        turns.check()?;
        require(turns.tokens() == n, || {
            format!("embed: angles of {} tokens, and {n} tokens", turns.tokens())
        })?;
    }
    Ok(())
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
    use crate::cuda::card::Stream;
    use crate::cuda::emulated::EmulatedCard;
    use crate::cuda::rope;
    use std::sync::Arc;

    #[test]
    fn answers_are_known() {
        crate::cuda::check::prove(answers::checks);
    }

    /// For rows of one block and of several, of each way to pick them.
    #[test]
    fn angles_are_those_of_a_launch_by_themselves() {
        let card: Arc<dyn Card> = Arc::new(EmulatedCard::start(1 << 24));
        let pool = card.create_pool().unwrap();
        let half = 300;
        let frequencies: Vec<f32> = (0..2 * half).map(|i| 0.99f32.powi(i)).collect();
        let inv_freq = Buffer::of(&card, pool, &frequencies).unwrap();
        let positions = Buffer::of(&card, pool, &[0u32, 131_071, 77]).unwrap();
        let longs = Buffer::of(&card, pool, &[0u32, 1, 0]).unwrap();
        let half = half as usize;
        let mut angles = [(); 4].map(|()| Buffer::<f32>::new(&card, pool, 3 * half).unwrap());
        let by = || rope::Frequencies {
            inv_freq: inv_freq.first(half),
            long_inv_freq: Some(inv_freq.view().part(half, half)),
            factor: 1.25,
        };
        for (kind, columns) in [(Kind::F32, 32), (Kind::Q4K, 256), (Kind::Q8_0, 8192)] {
            let mut matrix = Matrix::new(&card, pool, kind, 3, columns).unwrap();
            let stored = vec![1; 3 * matrix.row_bytes()];
            matrix.write_rows(0, &stored, Stream::Load).unwrap();
            let tokens = Buffer::of(&card, pool, &[2, 0, 1]).unwrap();
            let mut out = [(); 2].map(|()| Buffer::<f32>::new(&card, pool, 3 * columns).unwrap());
            let [cos, sin, cos_by_itself, sin_by_itself] = &mut angles;
            let of = |cos, sin| {
                let (positions, longs, frequencies) = (positions.view(), longs.view(), by());
                Turns { positions, longs, frequencies, cos, sin }
            };
            let turns = [Some(of(cos.view_mut(), sin.view_mut())), None];
            rope::angles(&*card, of(cos_by_itself.view_mut(), sin_by_itself.view_mut())).unwrap();
            for (out, turns) in out.iter_mut().zip(turns) {
                let (tokens, none, out) = (tokens.view(), View::none(), out.view_mut());
                embed(&*card, &matrix, tokens, none, 3, 1.0, out, None, turns).unwrap();
            }
            let [cos, sin, cos_by_itself, sin_by_itself] =
                [0, 1, 2, 3].map(|i| angles[i].to_vec().unwrap());
            assert!(cos == cos_by_itself && sin == sin_by_itself && cos[0] == 1.25, "{kind:?}");
            let [with, without] = out.map(|out| out.to_vec().unwrap());
            assert_eq!(with, without, "{kind:?}");
        }
    }

    #[test]
    fn a_token_that_is_not_there_gives_no_number_and_shapes_are_checked() {
        let card: Arc<dyn Card> = Arc::new(EmulatedCard::start(1 << 20));
        let pool = card.create_pool().unwrap();
        for kind in Kind::on_cards() {
            let mut matrix = Matrix::new(&card, pool, kind, 2, 256).unwrap();
            let stored = vec![0; 2 * matrix.row_bytes()];
            matrix.write_rows(0, &stored, Stream::Load).unwrap();
            let tokens = Buffer::of(&card, pool, &[1, 2, u32::MAX]).unwrap();
            let mut out = Buffer::new(&card, pool, 3 * 256).unwrap();
            embed(&*card, &matrix, tokens.view(), View::none(), 3, 1.0, out.view_mut(), None, None)
                .unwrap();
            let out = out.to_vec().unwrap();
            assert!(out[..256].iter().all(|v| *v == 0.0));
            assert!(out[256..].iter().all(|v| v.is_nan()));
        }
        let mut matrix = Matrix::new(&card, pool, Kind::F32, 2, 4).unwrap();
        matrix.write_rows(0, &[0; 32], Stream::Load).unwrap();
        let tokens = Buffer::of(&card, pool, &[1, 0]).unwrap();
        let mut out = Buffer::<f32>::new(&card, pool, 9).unwrap();
        let none = View::none();
        let mut run = |n, at| {
            let out = out.view_mut().part(at, 8);
            embed(&*card, &matrix, tokens.view(), none, n, 1.0, out, None, None)
        };
        assert!(run(2, 0).is_ok() && run(0, 0).is_ok());
        assert!(run(3, 0).is_err() && run(2, 1).is_err());
    }
}
