//! The engine's public interface: start it, load models, submit sequences, unload.
//!
//! It is cheap to clone and can be used from any thread. Models are loaded on a separate thread, so that
//! existing lanes keep running. The finished model is handed to the executor between two steps.

use super::executor::{Command, EngineFault, Executor, Install};
use super::lane::{LaneId, LaneStats, UnloadReport, panic_text};
use super::request::SeqRequest;
use super::runner::{Capacity, Runner};
use super::scheduler::SchedulerConfig;
use crate::device::{Arena, ArenaError, memory};
use crate::model::LoadError;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak, mpsc};
use std::time::Duration;
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};
use tokio::sync::oneshot;

/// Why the engine could not do what was requested.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// The model could not be loaded.
    #[error(transparent)]
    Load(#[from] LoadError),
    /// There is no arena for the model's memory.
    #[error(transparent)]
    Arena(#[from] ArenaError),
    /// The loader panicked; contains the panic's message.
    #[error("loading panicked: {0}")]
    Panicked(String),
    /// The system refused the executor's or the loader's thread.
    #[error("a thread could not be started: {0}")]
    Thread(#[from] std::io::Error),
    /// The executor's thread has ended.
    #[error("the engine has stopped")]
    Stopped,
    /// No lane has this id, or it was unloaded already.
    #[error("the model is not loaded")]
    NoLane,
}

/// A lane that is ready for sequences.
#[derive(Debug, Clone)]
pub struct Loaded {
    /// The lane's id, for submitting sequences and for unloading.
    pub lane: LaneId,
    /// The limits of the model's runner: KV blocks, vocabulary, sequence length.
    pub capacity: Capacity,
    /// The lane's figures, updated after each step.
    pub stats: Arc<LaneStats>,
}

/// Sends commands to the executor. The executor stops when the last clone is dropped.
#[derive(Debug, Clone)]
pub struct EngineHandle {
    commands: mpsc::Sender<Command>,
    next_lane: Arc<AtomicU64>,
    /// Held by the executor thread while it runs.
    alive: Weak<()>,
}

impl EngineHandle {
    /// Starts the executor thread. Faults arrive on the receiver. Fails if the system refuses the thread.
    pub fn start() -> Result<(EngineHandle, UnboundedReceiver<EngineFault>), EngineError> {
        let (commands, inbox) = mpsc::channel();
        let (faults, fault_inbox) = unbounded_channel();
        let life = Arc::new(());
        let alive = Arc::downgrade(&life);
        std::thread::Builder::new().name("serin-executor".into()).spawn(move || {
            let _life = life;
            Executor::new(inbox, faults).run();
        })?;
        let next_lane = Arc::new(AtomicU64::new(1));
        Ok((EngineHandle { commands, next_lane, alive }, fault_inbox))
    }

    /// Whether the executor is running.
    pub fn is_alive(&self) -> bool {
        self.alive.strong_count() > 0
    }

    /// Runs `make` on a loader thread, with its large allocations in a new arena, then installs the runner as
    /// a new lane. Fails if `make` does or panics, if no arena is free, or if the executor has ended; nothing is left
    /// behind then.
    pub async fn load<F>(&self, config: SchedulerConfig, make: F) -> Result<Loaded, EngineError>
    where
        F: FnOnce() -> Result<Box<dyn Runner>, LoadError> + Send + 'static,
    {
        let resident_at_load = memory::resident_bytes().unwrap_or(0);
        let arena = Arena::open()?;
        let (done, made) = oneshot::channel();
        std::thread::Builder::new().name("serin-loader".into()).spawn(move || {
            let _ = done.send(make_runner(arena, make));
        })?;
        let made = made.await.map_err(|_| EngineError::Stopped)?;
        if let Err(EngineError::Load(LoadError::DeviceLost(what))) = &made {
            self.lose_device(what.clone())?;
        }
        let (runner, arena) = made?;
        let lane = LaneId(self.next_lane.fetch_add(1, Ordering::Relaxed));
        let capacity = runner.capacity();
        let (reply, installed) = oneshot::channel();
        let install = Install { lane, runner, config, arena, resident_at_load, reply };
        self.send(Command::Install(Box::new(install)))?;
        let stats = installed.await.map_err(|_| EngineError::Stopped)?;
        Ok(Loaded { lane, capacity, stats })
    }

    /// Queues sequences on a lane. Results, including refusals, arrive as events of each sequence. Fails if the
    /// executor has ended.
    pub fn submit(&self, lane: LaneId, requests: Vec<SeqRequest>) -> Result<(), EngineError> {
        self.send(Command::Submit { lane, requests })
    }

    /// Sets the lane's turns per turn of a lane with share 1, while both have work. It starts at 1 and is
    /// never less than a twentieth. Fails if the executor has ended.
    pub fn set_share(&self, lane: LaneId, share: f64) -> Result<(), EngineError> {
        self.send(Command::SetShare { lane, share })
    }

    /// Charges the sequences of all lanes by the measured step costs of this one, so that charges can be
    /// compared between lanes. Fails if the executor has ended.
    pub fn set_reference(&self, lane: LaneId) -> Result<(), EngineError> {
        self.send(Command::SetReference { lane })
    }

    /// Makes each step of this lane take `factor` times as long, by a real wait: a known difference for tests of whatever
    /// measures models. Fails if the executor has ended.
    #[cfg(any(test, debug_assertions, feature = "testing"))]
    pub fn slow_down(&self, lane: LaneId, factor: f64) -> Result<(), EngineError> {
        self.send(Command::SlowDown { lane, factor })
    }

    /// Admits no more sequences, lets running ones finish for at most `grace`, drops the model and frees its
    /// memory. Fails if there is no such lane or the executor has ended.
    pub async fn unload(&self, lane: LaneId, grace: Duration) -> Result<UnloadReport, EngineError> {
        let (reply, report) = oneshot::channel();
        self.send(Command::Unload { lane, grace, reply })?;
        report.await.map_err(|_| EngineError::NoLane)
    }

    /// Reports that the device has failed; for callers that notice it outside a step. Every lane is
    /// abandoned. Fails if the executor has ended.
    pub fn lose_device(&self, what: String) -> Result<(), EngineError> {
        self.send(Command::LoseDevice { what })
    }

    fn send(&self, command: Command) -> Result<(), EngineError> {
        self.commands.send(command).map_err(|_| EngineError::Stopped)
    }
}

type Made = Result<(Box<dyn Runner>, Arena), EngineError>;

fn make_runner<F>(arena: Arena, make: F) -> Made
where
    F: FnOnce() -> Result<Box<dyn Runner>, LoadError>,
{
    let made = catch_unwind(AssertUnwindSafe(|| {
        let _in = arena.enter();
        make()
    }));
    let runner = made.map_err(|panic| EngineError::Panicked(panic_text(&*panic)))??;
    arena.trim();
    Ok((runner, arena))
}
