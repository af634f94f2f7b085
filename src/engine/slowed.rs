//! A known slowdown, for tests of code that measures models: a lane's steps take longer by a given factor, through a
//! real wait.
//!
//! The wait is part of the step, so tokens come later just as if the device were slower. While sequences decode, the
//! time between two steps is stretched as well. If a wait takes too long, because another program uses the CPU, the
//! excess is subtracted from the next waits. So the mean inter-token latency grows by exactly the factor, whatever else
//! runs. Release builds do not contain it (unless they have the feature `testing`). It does not know about models.

use crate::device::Batch;
use std::time::{Duration, Instant};

/// Waits shorter than this are not slept but spun, because a sleep may take longer.
const SPIN: Duration = Duration::from_millis(2);

#[derive(Debug, Clone, PartialEq)]
pub(super) struct Slowed {
    factor: f64,
    /// When the last step ended, its wait included.
    ended: Option<Instant>,
    /// By how much earlier waits were too long.
    too_long: Duration,
}

impl Slowed {
    /// Makes steps take `factor` times as long; less than 1 counts as 1.
    pub fn new(factor: f64) -> Slowed {
        Slowed { factor: factor.max(1.0), ended: None, too_long: Duration::ZERO }
    }

    /// Waits at the end of a step that began at `begun`.
    pub fn wait(&mut self, begun: Instant, batch: &Batch, now: &impl Fn() -> Instant) {
        let decodes = batch.rows.iter().any(|row| row.len == 1 && row.context > 1);
        let from = self.ended.filter(|ended| decodes && *ended <= begun).unwrap_or(begun);
        let ran = now().saturating_duration_since(from);
        let wanted = ran.mul_f64(self.factor - 1.0);
        let wait = wanted.saturating_sub(self.too_long);
        self.too_long = self.too_long.saturating_sub(wanted);
        let until = from + ran + wait;
        let ended = loop {
            let at = now();
            let left = until.saturating_duration_since(at);
            if left.is_zero() {
                break at;
            }
            match left.checked_sub(SPIN) {
                Some(most) => std::thread::sleep(most),
                None => std::hint::spin_loop(),
            }
        };
        self.too_long += ended.saturating_duration_since(until);
        self.ended = Some(ended);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::Row;
    use std::cell::Cell;

    fn batch(len: usize, context: usize) -> Batch {
        let row = Row {
            start: 0,
            len,
            context,
            total: context,
            table: 0,
            table_len: 0,
            sample: true,
            scored: 0,
            drawn: None,
        };
        Batch { rows: vec![row], ..Batch::default() }
    }

    #[test]
    fn steps_take_the_factor_longer_and_decodes_the_time_between_them_too() {
        let start = Instant::now();
        let at = Cell::new(Duration::ZERO);
        // Every look at the clock takes a microsecond, so that spinning ends.
        let now = || {
            at.set(at.get() + Duration::from_micros(1));
            start + at.get()
        };
        let mut slowed = Slowed::new(1.5);
        at.set(Duration::from_micros(1_000));
        slowed.wait(start, &batch(20, 20), &now);
        let first = slowed.ended.unwrap() - start;
        assert!((first.as_secs_f64() - 1.5e-3).abs() < 5e-6, "{first:?}");
        // 100 us between two steps, and 300 us of a step: 400 us, times 1.5.
        let begun = start + first + Duration::from_micros(100);
        at.set(first + Duration::from_micros(400));
        slowed.wait(begun, &batch(1, 21), &now);
        let second = slowed.ended.unwrap() - start - first;
        assert!((second.as_secs_f64() - 6e-4).abs() < 5e-6, "{second:?}");
        // A new prompt after a pause: only the step itself.
        let begun = start + Duration::from_millis(50);
        at.set(Duration::from_millis(51));
        slowed.wait(begun, &batch(20, 20), &now);
        let third = slowed.ended.unwrap() - begun;
        assert!((third.as_secs_f64() - 1.5e-3).abs() < 5e-6, "{third:?}");
    }

    #[test]
    fn a_wait_that_took_too_long_is_taken_off_the_next_ones() {
        let start = Instant::now();
        let at = Cell::new(Duration::ZERO);
        let (looks, waits) = (Cell::new(0), Cell::new(0));
        // In every 50th wait, another program has the processor for half a millisecond.
        let now = || {
            looks.set(looks.get() + 1);
            let away = looks.get() == 2 && waits.get() % 50 == 0;
            at.set(at.get() + Duration::from_micros(if away { 500 } else { 1 }));
            start + at.get()
        };
        let (mut slowed, mut ended) = (Slowed::new(1.2), start);
        for wait in 0..1000 {
            looks.set(0);
            waits.set(wait);
            at.set(ended - start + Duration::from_micros(199));
            slowed.wait(ended, &batch(1, 9), &now);
            ended = slowed.ended.unwrap();
        }
        let ratio = (ended - start).as_secs_f64() / (1000.0 * 200e-6);
        assert!((ratio - 1.2).abs() < 0.02, "{ratio}");
    }
}
