//! The engine: token ids in, token ids out, timed where they are generated.
//!
//! One OS thread (`executor`) owns the device and every loaded model. Each model is a *lane* with its own
//! weights, KV blocks, scheduler and memory arena. The loop runs one step of each lane with work in turn.
//! Callers hold an [`EngineHandle`] and exchange messages; there is no lock around a model.
//!
//! Reading order: `request` (inputs and events), `blocks`, `sequence`, `scheduler` (which sequences run next;
//! touches no tensor), `runner` (the interface to tensors: enqueue a step, finish it), `lane`, `turns` (which
//! lane runs next), `work` and `calibration` (the cost of one sequence, derived from a step's time), `executor`,
//! `handle`. It does not know about HTTP, arms, the rollout or text.

pub mod blocks;
mod calibration;
pub mod card_runner;
pub mod executor;
#[cfg(any(test, debug_assertions, feature = "testing"))]
pub mod fake;
pub mod handle;
pub mod lane;
pub mod request;
pub mod runner;
pub mod scheduler;
pub mod sequence;
#[cfg(any(test, debug_assertions, feature = "testing"))]
mod slowed;
mod turns;
mod work;

pub use crate::device::CardReport;
pub use card_runner::CardRunner;
pub use executor::EngineFault;
pub use handle::{EngineError, EngineHandle, Loaded};
pub use lane::{LaneFigures, LaneId, LaneStats, UnloadReport};
pub use request::{Fault, FinishReason, Refusal, SeqEvent, SeqRequest, Timings};
pub use runner::{Capacity, Finished, ModelRunner, PendingStep, RunError, Runner, Sampled};
pub use scheduler::SchedulerConfig;
pub(crate) use turns::LEAST_SHARE;
pub use work::{CostModel, Load, Step, Work};
