//! The inputs that the host passes to a step's kernels: up to four sections of words. The host writes them into its own
//! memory, and the first kernel of the step fetches them.
//!
//! Writing never waits, so a step is never stuck behind a loader's copies. The host may overwrite a section only when
//! the kernel that fetches it has finished. So there are two copies of each section on the host: one for the step in
//! flight, and one for the step after it. It does not know what the sections mean.

use super::buffer::{Buffer, Mapped, Plain, View};
use super::card::{Arg, Card, CardError, Grid, Pool, Stream};
use std::ops::Range;
use std::sync::Arc;

#[cfg(any(test, feature = "known-answers"))]
pub(crate) mod answers;

/// Sections that there may be.
pub const SECTIONS: usize = 4;
/// Places that the host may write to.
pub const PLACES: usize = 2;
/// Words before the first section: each section's length, filled up to 16 bytes.
const HEAD: usize = 4;
/// Threads that fetch a section, 16 bytes each at a time.
const THREADS: u32 = 1024;

/// The sections, here and on the card.
pub struct StepInputs {
    host: [Mapped<u32>; PLACES],
    /// Of `host`, where sections are written to and fetched from.
    place: usize,
    card: Buffer<u32>,
    /// Where each section starts, and what it has room for, in words.
    starts: [usize; SECTIONS],
    rooms: [usize; SECTIONS],
}

impl StepInputs {
    /// Room for `rooms[i]` words of 32 bits of section `i`, in the order of [`Stream::Load`]. Fails if these are too
    /// many or memory is used up.
    pub fn new(
        card: &Arc<dyn Card>,
        pool: Pool,
        rooms: [usize; SECTIONS],
    ) -> Result<StepInputs, CardError> {
        let mut starts = [HEAD; SECTIONS];
        for i in 1..SECTIONS {
            starts[i] = starts[i - 1] + rooms[i - 1].next_multiple_of(4);
        }
        let words = starts[SECTIONS - 1] + rooms[SECTIONS - 1].next_multiple_of(4);
        if u32::try_from(words).is_err() {
            return Err(CardError::Shape(format!("{words} words of inputs are too many")));
        }
        Ok(StepInputs {
            host: [Mapped::new(card, words)?, Mapped::new(card, words)?],
            place: 0,
            card: Buffer::on(card, pool, words, Stream::Load)?,
            starts,
            rooms,
        })
    }

    /// Words on the card for sections of these rooms.
    pub fn words(rooms: [usize; SECTIONS]) -> usize {
        HEAD + rooms.iter().map(|room| room.next_multiple_of(4)).sum::<usize>()
    }

    /// From now on, sections are written to this place, and fetched from it: 0 or 1. Fails with `Err(Shape)` for
    /// another.
    pub fn use_place(&mut self, place: usize) -> Result<(), CardError> {
        if place >= PLACES {
            return Err(CardError::Shape(format!("inputs have no place {place}")));
        }
        self.place = place;
        Ok(())
    }

    /// Writes a section, numbers of 32 or 64 bits. Fails if they do not fit into the section's room.
    pub fn write<T: Plain>(&mut self, section: usize, values: &[T]) -> Result<(), CardError> {
        let (start, room) = (self.starts[section], self.rooms[section]);
        let words = size_of_val(values) / 4;
        if words > room || !size_of::<T>().is_multiple_of(4) {
            let what = format!("{words} words do not fit into the {room} of input {section}");
            return Err(CardError::Shape(what));
        }
        let host = &mut self.host[self.place];
        host.write(start, values)?;
        host.write(section, &[words as u32])
    }

    /// Fetches sections onto the card. Fails if there are no such sections or the launch fails.
    pub fn fetch(&mut self, card: &dyn Card, sections: Range<usize>) -> Result<(), CardError> {
        if sections.is_empty() || sections.end > SECTIONS {
            return Err(CardError::Shape(format!("there are no inputs {sections:?}")));
        }
        let grid = Grid::line(sections.len(), THREADS).shared(16);
        let [a, b, c, d] = self.starts.map(|start| Arg::U32(start as u32));
        let (host, to) = (self.host[self.place].view().arg(), self.card.view().arg());
        // SAFETY: the kernel's arguments; both sides have every section's room, whatever the lengths say.
        unsafe {
            let first = Arg::I32(sections.start as i32);
            card.launch("step_inputs", grid, &[host, to, first, a, b, c, d])
        }
    }

    /// A section on the card, as long as its room.
    pub fn section<T: Plain>(&self, section: usize) -> View<'_, T> {
        self.card.view().part(self.starts[section], self.rooms[section]).cast()
    }
}

#[cfg(all(test, feature = "emulator"))]
mod tests {
    use super::*;
    use crate::cuda::emulated::EmulatedCard;

    #[test]
    fn answers_are_known() {
        crate::cuda::check::prove(answers::checks);
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        let card: Arc<dyn Card> = Arc::new(EmulatedCard::start(1 << 20));
        let pool = card.create_pool().unwrap();
        let mut inputs = StepInputs::new(&card, pool, [4, 2, 0, 0]).unwrap();
        assert!(inputs.write(0, &[0u32; 5]).is_err() && inputs.write(1, &[0u64; 2]).is_err());
        assert!(inputs.write(0, &[0u8; 4]).is_err() && inputs.write(2, &[1u32]).is_err());
        assert!(inputs.fetch(&*card, 1..5).is_err() && inputs.fetch(&*card, 1..1).is_err());
        assert!(inputs.use_place(PLACES).is_err());
        inputs.write(1, &[7u64]).unwrap();
        inputs.fetch(&*card, 0..2).unwrap();
        let mut got = [0u64];
        let view: View<'_, u64> = inputs.section(1);
        assert_eq!(view.len(), 1);
        let place = crate::cuda::buffer::bytes_of_mut(&mut got);
        card.download(view.address(), place, Stream::Compute).unwrap();
        assert_eq!(got, [7]);
    }

    #[test]
    fn a_step_may_be_written_while_the_one_before_is_on_its_way() {
        let pace = crate::cuda::emulated::Pace::default();
        let card: Arc<dyn Card> = Arc::new(EmulatedCard::pessimistic(1 << 20, pace));
        let pool = card.create_pool().unwrap();
        let mut inputs = StepInputs::new(&card, pool, [2, 2, 0, 0]).unwrap();
        card.synchronise(Stream::Load).unwrap();
        let mut kept = Buffer::<u32>::new(&card, pool, 4).unwrap();
        let to = kept.view().address();
        for (place, value) in [(0, 5u32), (1, 6)] {
            inputs.use_place(place).unwrap();
            inputs.write(0, &[value; 2]).unwrap();
            inputs.fetch(&*card, 0..1).unwrap();
            let from = inputs.section::<u32>(0).address();
            card.copy(from, to + 8 * place as u64, 8, Stream::Compute).unwrap();
        }
        assert_eq!(kept.to_vec().unwrap(), [5, 5, 6, 6]);
        kept.fill(0).unwrap();
    }
}
