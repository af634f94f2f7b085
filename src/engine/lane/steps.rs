//! The steps of a lane: scheduled and enqueued, then in flight, then finished.
//!
//! The device computes a step in flight without the host. So the executor enqueues the next step before it waits for
//! this one. The next step belongs to another lane, or to this lane and is then scheduled before the results are known.
//! Which step is next, and when to wait, is the executor's decision.

use super::{Lane, StepFault};
use crate::device::{Arena, Batch};
use crate::engine::request::Fault;
use crate::engine::runner::{Finished, PendingStep, RunError, Runner};
use crate::engine::work::{CostModel, Load, Step};
use crate::model::Draw;
use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::{Duration, Instant};

/// Which step a lane enqueues.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::engine) enum Turn {
    /// Everything that is due. `shared`: another lane has work in this round.
    Next { shared: bool },
    /// Exactly this number of decodes. `matched`: its time will be compared with that of another lane.
    Of { rows: usize, matched: bool },
    /// The step after the one in flight, whose results are not known yet.
    Ahead,
}

/// A lane's steps in flight, and what is known of earlier ones.
#[derive(Debug, Default)]
pub(super) struct Steps {
    /// At most two, the oldest first.
    in_flight: VecDeque<InFlight>,
    /// Batches whose memory is used again.
    spare: Vec<Batch>,
    pace: Pace,
    expected: Expected,
    /// A step ahead failed when it was enqueued. This is not tried again.
    never_ahead: bool,
}

/// How long steps take at least. A disturbed one is longer, and would be waited for in vain the next time.
#[derive(Debug, Default)]
struct Expected {
    /// Of steps that only decode, by their number of rows; zero where none is known.
    decodes: Vec<Duration>,
    /// Of a prompt token, in steps with a prompt.
    prompt_token: Duration,
}

/// By how much the known time of a step rises with every longer one: contexts grow.
const RISE: f64 = 1.05;

impl Expected {
    fn of(&self, load: &Load) -> Duration {
        match load.prefill {
            0 => self.decodes.get(load.decodes).copied().unwrap_or_default(),
            tokens => self.prompt_token * tokens as u32,
        }
    }

    fn note(&mut self, load: &Load, took: Duration) {
        let (known, took) = match load.prefill {
            0 => {
                self.decodes.resize(self.decodes.len().max(load.decodes + 1), Duration::ZERO);
                (&mut self.decodes[load.decodes], took)
            }
            tokens => (&mut self.prompt_token, took / tokens as u32),
        };
        *known = if known.is_zero() { took } else { took.min(known.mul_f64(RISE)) };
    }
}

/// Whether a step was started in this turn.
#[derive(Debug, PartialEq, Eq)]
pub(in crate::engine) enum StepStart {
    /// There was nothing to do.
    Nothing,
    InFlight,
    /// The step could not be enqueued; its sequences have ended, unless it was one ahead.
    Failed(Option<StepFault>),
}

#[derive(Debug)]
struct InFlight {
    pending: PendingStep,
    batch: Batch,
    begun: Instant,
    matched: bool,
}

/// How long a step may take while another lane waits for its turn: about as long as a reader would notice.
pub(super) const SHARED_STEP: Duration = Duration::from_millis(30);
/// Number of prefill tokens that such a step may always have, so that long prompts make progress.
pub(super) const LEAST_SHARED_TOKENS: usize = 32;

/// How fast a lane computes tokens, from its own steps.
#[derive(Debug, Default)]
struct Pace {
    /// Seconds per token of a step; 0 before the first step.
    per_token: f64,
}

impl Pace {
    /// Records a step of `tokens` tokens. Small steps say little about the cost of more tokens.
    fn note(&mut self, tokens: usize, took: Duration) {
        if tokens < LEAST_SHARED_TOKENS {
            return;
        }
        let seen = took.as_secs_f64() / tokens as f64;
        self.per_token =
            if self.per_token == 0.0 { seen } else { 0.8 * self.per_token + 0.2 * seen };
    }

    /// Number of tokens that fit into a step while another lane waits; the minimum until the speed is known.
    fn shared_tokens(&self) -> usize {
        match self.per_token {
            0.0 => LEAST_SHARED_TOKENS,
            pace => ((SHARED_STEP.as_secs_f64() / pace) as usize).max(LEAST_SHARED_TOKENS),
        }
    }
}

/// Number of consecutive panics after which a lane is shut down.
const PANICS_TO_FAIL: u32 = 3;

impl Steps {
    /// Forgets the steps in flight: nobody waits for them.
    pub fn abandon(&mut self) {
        self.in_flight.clear();
    }
}

impl Lane {
    /// Number of steps that are enqueued and not finished.
    pub fn in_flight(&self) -> usize {
        self.steps.in_flight.len()
    }

    /// Whether the step that was enqueued last needs the host, or is already done. Then nothing may be enqueued before
    /// it is finished.
    pub fn must_finish(&self) -> bool {
        self.steps.in_flight.back().is_some_and(|step| !step.pending.is_on_its_own())
    }

    /// When the oldest step in flight will probably be done, if the device began it no sooner than at `free`.
    pub fn expected_end(&self, free: Instant) -> Option<Instant> {
        let step = self.steps.in_flight.front()?;
        Some(step.begun.max(free) + self.steps.expected.of(&Load::of_batch(&step.batch)))
    }

    /// Whether its steps are computed by a device with a queue of its own.
    pub fn has_queue(&self) -> bool {
        self.runner.has_queue()
    }

    /// Whether a step could be scheduled after the one in flight, unless blocks are short or its sequences end.
    pub fn can_run_ahead(&self) -> bool {
        !self.steps.never_ahead && self.scheduler.can_run_ahead()
    }

    /// Schedules a step and enqueues it.
    pub fn begin(&mut self, turn: Turn, now: impl Fn() -> Instant) -> StepStart {
        let mut batch = self.steps.spare.pop().unwrap_or_default();
        let begun = now();
        if !self.schedule(turn, &mut batch, begun) {
            self.steps.spare.push(batch);
            self.publish();
            return StepStart::Nothing;
        }
        let draws = self.scheduler.draws();
        let runner = &mut self.runner;
        let enqueued = guarded(&self.arena, || runner.enqueue(&batch, &draws));
        let matched = matches!(turn, Turn::Of { matched: true, .. });
        let failed = match enqueued {
            Ok(Ok(pending)) => {
                self.steps.in_flight.push_back(InFlight { pending, batch, begun, matched });
                return StepStart::InFlight;
            }
            Ok(Err(fault)) => Ok(fault),
            Err(panic) => Err(panic),
        };
        self.steps.spare.push(batch);
        StepStart::Failed(match turn {
            Turn::Ahead => self.fail_ahead(failed),
            Turn::Next { .. } | Turn::Of { .. } => self.fail_step(failed, now()),
        })
    }

    /// A step ahead could not be enqueued. Its sequences are those of the step in flight, and go on.
    fn fail_ahead(&mut self, failed: Result<Fault, String>) -> Option<StepFault> {
        self.steps.never_ahead = true;
        self.scheduler.cancel_ahead();
        let fault = match failed {
            Ok(Fault::DeviceLost(what)) => return Some(StepFault::DeviceLost(what)),
            Ok(fault) => {
                tracing::warn!(%fault, "a step ahead failed: this model's steps are enqueued one by one from now on");
                None
            }
            Err(panic) => Some(StepFault::Panic(panic)),
        };
        self.publish();
        fault
    }

    fn schedule(&mut self, turn: Turn, batch: &mut Batch, now: Instant) -> bool {
        match turn {
            Turn::Next { shared } => {
                self.scheduler.set_shared(shared);
                self.scheduler.set_shared_tokens(self.steps.pace.shared_tokens());
                self.scheduler.schedule(batch, now)
            }
            Turn::Of { rows, .. } => self.scheduler.schedule_some(batch, rows),
            Turn::Ahead => !self.steps.never_ahead && self.scheduler.schedule_ahead(batch),
        }
    }

    /// Waits for the oldest step in flight, and processes its results. `costs`: the cost model by which sequences are
    /// charged.
    pub fn finish(
        &mut self,
        costs: Option<&CostModel>,
        now: impl Fn() -> Instant,
    ) -> Option<StepFault> {
        let InFlight { pending, batch, begun, matched } = self.steps.in_flight.pop_front()?;
        let draws = match pending.is_on_its_own() {
            true => Vec::new(),
            false => self.scheduler.draws(),
        };
        let runner = &mut self.runner;
        let outcome = guarded(&self.arena, || runner.finish(pending, &batch, &draws));
        #[cfg(any(test, debug_assertions, feature = "testing"))]
        if let Some(slowed) = &mut self.slowed {
            slowed.wait(begun, &batch, &now);
        }
        let at = now();
        let fault = match outcome {
            Ok(Ok(Finished { results, device_time })) => {
                let took = device_time.unwrap_or_else(|| at.saturating_duration_since(begun));
                let step = Step { took, all: Load::of_batch(&batch), model: costs, matched };
                self.steps.note(&step, batch.tokens.len());
                let micros = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
                self.stats.0.lock().step_micros += micros;
                self.panics = 0;
                self.scheduler.complete(results, at, &step);
                self.stats.0.lock().steps += 1;
                self.publish();
                None
            }
            Ok(Err(fault)) => self.fail_step(Ok(fault), at),
            Err(panic) => self.fail_step(Err(panic), at),
        };
        self.steps.spare.push(batch);
        fault
    }

    /// Ends the sequences of a step that failed or panicked. Other sequences continue, unless the model panics in every
    /// step.
    fn fail_step(&mut self, failed: Result<Fault, String>, at: Instant) -> Option<StepFault> {
        let fault = match failed {
            Ok(Fault::DeviceLost(what)) => return Some(StepFault::DeviceLost(what)),
            Ok(fault) => {
                self.panics = 0;
                self.scheduler.fail_step(&fault, at);
                None
            }
            Err(panic) => {
                self.panics += 1;
                let fault = Fault::Panic(panic.clone());
                match self.panics < PANICS_TO_FAIL {
                    true => self.scheduler.fail_step(&fault, at),
                    false => self.shut_down(&fault, at),
                }
                Some(StepFault::Panic(panic))
            }
        };
        self.stats.0.lock().steps += 1;
        self.publish();
        fault
    }
}

impl Steps {
    fn note(&mut self, step: &Step<'_>, tokens: usize) {
        self.pace.note(tokens, step.took);
        self.expected.note(&step.all, step.took);
    }
}

/// A step from beginning to end.
pub(super) fn run(
    runner: &mut dyn Runner,
    arena: &Arena,
    batch: &Batch,
    draws: &[Draw<'_>],
) -> Result<Result<Finished, Fault>, String> {
    guarded(arena, || {
        let pending = runner.enqueue(batch, draws)?;
        runner.finish(pending, batch, draws)
    })
}

/// Calls the runner in the lane's arena; panics are caught and become the outer error.
fn guarded<T>(
    arena: &Arena,
    call: impl FnOnce() -> Result<T, RunError>,
) -> Result<Result<T, Fault>, String> {
    let call = AssertUnwindSafe(|| {
        let _in = arena.enter();
        call()
    });
    let result = catch_unwind(call).map_err(|panic| super::panic_text(&*panic))?;
    Ok(result.map_err(|error| match error {
        RunError::OutOfMemory => Fault::OutOfMemory,
        RunError::Step(what) => Fault::Step(what),
        RunError::DeviceLost(what) => Fault::DeviceLost(what),
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shared_step_is_as_long_as_its_pace_allows() {
        let mut pace = Pace::default();
        assert_eq!(pace.shared_tokens(), LEAST_SHARED_TOKENS, "nothing is known yet");
        pace.note(8, Duration::from_secs(1));
        assert_eq!(pace.shared_tokens(), LEAST_SHARED_TOKENS, "small steps say nothing");
        pace.note(256, Duration::from_millis(128));
        assert_eq!(pace.shared_tokens(), 60);
        for _ in 0..50 {
            pace.note(100, Duration::from_secs(1));
        }
        assert_eq!(pace.shared_tokens(), LEAST_SHARED_TOKENS, "a slow model still gets on");
    }
}
