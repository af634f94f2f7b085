//! A known slowdown for tests of whatever measures models: a lane's steps take a factor longer, by a real wait.
//!
//! The wait is part of the step, so tokens come later just as if the device were slower. While sequences decode, the
//! time between two steps is stretched as well: the time from token to token is exactly the factor times as long.
//! It is not in release builds, and knows nothing of models.

use crate::device::Batch;
use std::time::{Duration, Instant};

/// Waits shorter than this are not slept but spun, because a sleep may take longer.
const SPIN: Duration = Duration::from_millis(2);

/// A lane's slowdown.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Slowed {
    factor: f64,
    /// When the last step ended, its wait included.
    ended: Option<Instant>,
}

impl Slowed {
    /// `factor`: at least 1.
    pub fn new(factor: f64) -> Slowed {
        Slowed { factor: factor.max(1.0), ended: None }
    }

    /// Waits at the end of a step that began at `begun`.
    pub fn wait(&mut self, begun: Instant, batch: &Batch, now: &impl Fn() -> Instant) {
        let decodes = batch.rows.iter().any(|row| row.len == 1 && row.context > 1);
        let from = self.ended.filter(|ended| decodes && *ended <= begun).unwrap_or(begun);
        let ran = now().saturating_duration_since(from);
        let until = from + ran.mul_f64(self.factor);
        loop {
            let left = until.saturating_duration_since(now());
            if left.is_zero() {
                break;
            }
            match left.checked_sub(SPIN) {
                Some(most) => std::thread::sleep(most),
                None => std::hint::spin_loop(),
            }
        }
        self.ended = Some(until);
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
}
