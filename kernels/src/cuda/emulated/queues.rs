//! Work that an emulated GPU has accepted but not yet done, by stream.

use super::super::card::{Arg, Gemm, Grid, Stream, Timer};
use std::collections::VecDeque;
use std::time::Duration;

/// One piece of work, with everything that the call brought.
#[derive(Debug, Clone)]
pub(super) enum Work {
    Launch(&'static str, Grid, Vec<Arg>),
    Product(Gemm),
    Upload(u64, Vec<u8>),
    Copy { from: u64, to: u64, bytes: usize },
    Fill { address: u64, byte: u8, bytes: usize },
    Free(u64),
    Mark { timer: Timer, end: bool },
}

impl Work {
    /// Whether it is done without holding the card's state.
    pub fn is_long(&self) -> bool {
        matches!(self, Work::Launch(..) | Work::Product(_))
    }

    /// What it is, in words; for a launch, its kernel's name.
    pub fn name(&self) -> &'static str {
        match self {
            Work::Launch(kernel, ..) => kernel,
            Work::Product(_) => "a product",
            Work::Upload(..) => "a copy to the GPU",
            Work::Copy { .. } => "copying",
            Work::Fill { .. } => "filling",
            Work::Free(_) => "giving back",
            Work::Mark { .. } => "a timer",
        }
    }

    /// The memory that a kernel or a product is given.
    pub fn addresses(&self) -> Vec<u64> {
        let all = match self {
            Work::Launch(_, _, args) => args
                .iter()
                .filter_map(|arg| match arg {
                    Arg::Address(address) => Some(*address),
                    _ => None,
                })
                .collect(),
            Work::Product(gemm) => vec![gemm.weights, gemm.x, gemm.out],
            _ => Vec::new(),
        };
        all.into_iter().filter(|address| *address != 0).collect()
    }
}

/// Both streams' work, with the host's time when it was enqueued.
#[derive(Debug, Default)]
pub(super) struct Queues([VecDeque<(Work, Duration)>; 2]);

impl Queues {
    /// Puts work at the end of a stream; `at` is when the host enqueued it.
    pub fn push(&mut self, stream: Stream, work: Work, at: Duration) {
        self.0[stream as usize].push_back((work, at));
    }

    /// Names of what is on a stream, the oldest first.
    pub fn names(&self, stream: Stream) -> Vec<&'static str> {
        self.0[stream as usize].iter().map(|(work, _)| work.name()).collect()
    }

    /// How many pieces of work are on [`Stream::Compute`] up to the last end of this timer; 0 if none waits.
    pub fn up_to_end(&self, timer: Timer) -> usize {
        let is_end = |(work, _): &(Work, Duration)| matches!(work, Work::Mark { timer: of, end: true } if *of == timer);
        self.0[Stream::Compute as usize].iter().rposition(is_end).map_or(0, |last| last + 1)
    }

    /// Takes the oldest work off a stream, with the time at which it was enqueued.
    pub fn pop(&mut self, stream: Stream) -> Option<(Work, Duration)> {
        self.0[stream as usize].pop_front()
    }
}
