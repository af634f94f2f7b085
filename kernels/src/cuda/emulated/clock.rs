//! The clock of an emulated GPU: a simple cost model, so that the same work takes the same time everywhere. Queues run
//! in parallel; copies from and to the host share one copy engine.

use super::super::card::Stream;
use super::queues::Work;
use std::time::Duration;

/// What work costs.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Pace {
    /// Each launch, copy or product.
    pub start: Duration,
    /// Picoseconds for each thread of a launch.
    pub thread: u64,
    /// Picoseconds for each multiplication of a product.
    pub multiply: u64,
    /// Picoseconds for each byte that is copied from or to the host.
    pub byte: u64,
}

impl Default for Pace {
    /// Of the order of a GeForce 3060: 4 us a launch, 12 GB/s over the bus.
    fn default() -> Pace {
        Pace { start: Duration::from_micros(4), thread: 100, multiply: 1, byte: 80 }
    }
}

impl Pace {
    fn of(&self, work: &Work) -> Duration {
        let picoseconds = match work {
            Work::Launch(_, grid, _) => {
                let count = |sides: [u32; 3]| sides.iter().map(|n| u64::from(*n)).product::<u64>();
                count(grid.blocks) * count(grid.threads) * self.thread
            }
            Work::Product(gemm) => (gemm.rows * gemm.columns * gemm.n) as u64 * self.multiply,
            Work::Upload(_, bytes) => bytes.len() as u64 * self.byte,
            Work::Copy { .. } | Work::Fill { .. } => 0,
            Work::Free(_) | Work::Mark { .. } => return Duration::ZERO,
        };
        self.start + Duration::from_nanos(picoseconds / 1000)
    }
}

/// The host's time, and when each stream and the copy engine will have done what was begun.
#[derive(Debug, Default)]
pub(super) struct Clock {
    pace: Pace,
    host: Duration,
    ends: [Duration; 2],
    copies: Duration,
}

impl Clock {
    /// A clock at 0, of a device that is as fast as `pace` says.
    pub fn new(pace: Pace) -> Clock {
        Clock { pace, ..Clock::default() }
    }

    /// The host's time.
    pub fn now(&self) -> Duration {
        self.host
    }

    /// When work begins that was enqueued at `at`, and how long it takes.
    pub fn begin(&self, stream: Stream, at: Duration, work: &Work) -> (Duration, Duration) {
        let begun = self.ends[stream as usize].max(at);
        let begun = if is_copy(work) { begun.max(self.copies) } else { begun };
        (begun, self.pace.of(work))
    }

    /// Notes that `work` ends at `at` on its stream.
    pub fn end(&mut self, stream: Stream, at: Duration, work: &Work) {
        self.ends[stream as usize] = at;
        if is_copy(work) {
            self.copies = at;
        }
    }

    /// The host has waited for a stream.
    pub fn wait(&mut self, stream: Stream) {
        self.host = self.host.max(self.ends[stream as usize]);
    }

    /// The host has waited for something that was done at this time.
    pub fn wait_until(&mut self, done: Duration) {
        self.host = self.host.max(done);
    }

    /// The host has waited for a copy of so many bytes.
    pub fn copied(&mut self, bytes: usize) {
        let took = Duration::from_nanos(bytes as u64 * self.pace.byte / 1000);
        self.host += self.pace.start + took;
    }
}

fn is_copy(work: &Work) -> bool {
    matches!(work, Work::Upload(..))
}

#[derive(Debug, Default)]
pub(super) struct Marks([Option<Duration>; 2]);

impl Marks {
    /// Sets the time of the end, or else of the beginning.
    pub fn set(&mut self, end: bool, at: Duration) {
        self.0[usize::from(end)] = Some(at);
    }

    /// The end, and the time from the start to it.
    pub fn ended(&self) -> Option<(Duration, Duration)> {
        let [start, end] = self.0;
        Some((end?, end?.checked_sub(start?)?))
    }
}
