//! Timers, made of two CUDA events each.

use super::driver::{Faults, Handle};
use super::other;
use crate::cuda::card::{CardError, Timer};
use cudarc::driver::{result, sys};
use std::collections::HashMap;
use std::time::Duration;

/// A timer's start and stop, and which is which.
pub(super) type Events = [Handle<sys::CUevent_st>; 2];
pub(super) const START: usize = 0;
pub(super) const STOP: usize = 1;

#[derive(Debug, Default)]
pub(super) struct Timers {
    events: HashMap<Timer, Events>,
    next: u64,
}

impl Timers {
    /// Creates a timer. The context is bound, here and below. Fails if the driver refuses an event.
    pub fn create(&mut self, faults: &Faults) -> Result<Timer, CardError> {
        let kind = sys::CUevent_flags::CU_EVENT_DEFAULT;
        let event =
            || faults.check(result::event::create(kind), "an event for a timer").map(Handle);
        let start = event()?;
        let stop = event().inspect_err(|_| destroy(start))?;
        self.next += 1;
        self.events.insert(Timer(self.next), [start, stop]);
        Ok(Timer(self.next))
    }

    /// The two events of a timer. Fails if there is no such timer.
    pub fn get(&self, timer: Timer) -> Result<Events, CardError> {
        self.events.get(&timer).copied().ok_or_else(|| other("there is no such timer"))
    }

    /// Enqueues one of a timer's events, [`START`] or [`STOP`], on `stream`. Fails if there is no such timer or the
    /// driver refuses.
    pub fn mark(
        &self,
        timer: Timer,
        which: usize,
        stream: sys::CUstream,
        faults: &Faults,
    ) -> Result<(), CardError> {
        let event = self.get(timer)?[which];
        // SAFETY: event and stream live as long as the card.
        faults.check(unsafe { result::event::record(event.0, stream) }, "marking a timer")
    }

    /// Destroys a timer's events; an unknown timer has none.
    pub fn destroy(&mut self, timer: Timer) {
        self.events.remove(&timer).into_iter().flatten().for_each(destroy);
    }

    /// Destroys all timers.
    pub fn close(&mut self) {
        self.events.drain().flat_map(|(_, events)| events).for_each(destroy);
    }
}

/// Waits for the stop; the time since the start.
pub(super) fn read([start, stop]: Events, faults: &Faults) -> Result<Duration, CardError> {
    // SAFETY: the events live as long as their timer, whose owner asks.
    faults.check(unsafe { result::event::synchronize(stop.0) }, "waiting for a timer")?;
    // SAFETY: as above.
    let passed = unsafe { result::event::elapsed(start.0, stop.0) };
    let milliseconds = faults.check(passed, "reading a timer")?;
    Ok(Duration::from_secs_f64(f64::from(milliseconds.max(0.0)) / 1e3))
}

fn destroy(event: Handle<sys::CUevent_st>) {
    // SAFETY: taken out of the list. What goes wrong now has nobody to tell.
    let _ = unsafe { result::event::destroy(event.0) };
}
