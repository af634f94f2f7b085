//! Known answers of fetching a step's inputs.

use super::*;
use crate::cuda::check::{Bench, Check, Numbers, Size};

/// Sections of every length class, written twice; what lies between them stays.
pub(crate) fn checks(bench: &Bench, size: Size) -> Result<Vec<Check>, CardError> {
    let cases: &[[usize; SECTIONS]] = match size {
        Size::Quick => &[[70, 8, 2, 40]],
        Size::Full => &[[1, 1, 1, 1], [70, 8, 2, 40], [5000, 12, 3000, 7], [3, 20_000, 4, 9000]],
    };
    cases.iter().map(|rooms| check(bench, *rooms)).collect()
}

fn check(bench: &Bench, rooms: [usize; SECTIONS]) -> Result<Check, CardError> {
    let Bench { card, pool } = bench;
    let mut inputs = StepInputs::new(card, *pool, rooms)?;
    card.synchronise(Stream::Load)?;
    inputs.card.fill(0xff)?;
    let mut numbers = Numbers::new(rooms.iter().sum::<usize>() as u64);
    let mut expected = vec![u32::MAX; inputs.card.len()];
    for (round, fetched) in [0..1, 1..4, 0..3].into_iter().enumerate() {
        for section in fetched.clone() {
            let len = rooms[section].min(rooms[section] * (3 - round) / 3 + 1);
            let words: Vec<u32> = (0..len).map(|_| numbers.bits() as u32).collect();
            inputs.write(section, &words)?;
            expected[inputs.starts[section]..][..len].copy_from_slice(&words);
        }
        inputs.fetch(&**card, fetched)?;
        card.synchronise(Stream::Compute)?;
    }
    let mut got = inputs.card.to_vec()?;
    // Up to three words behind a section belong to nothing.
    for (start, room) in inputs.starts.iter().zip(rooms) {
        got[start + room..start + room.next_multiple_of(4)].fill(u32::MAX);
    }
    // Sections are copied by 16 bytes: what an earlier, longer round left behind the last words may be anything.
    for i in 0..got.len() {
        if expected[i] == u32::MAX {
            got[i] = u32::MAX;
        }
    }
    Ok(Check::equal("step_inputs", format!("sections of {rooms:?} words"), &got, &expected))
}
