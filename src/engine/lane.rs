//! A lane: one loaded model with its scheduler and its memory.
//!
//! It lives on the executor thread and is dropped there. Its steps are in `steps`. It does not know about other
//! lanes or what its model is used for. Other threads may read its `LaneStats` while it runs.

use super::calibration;
use super::request::{Fault, Refusal, SeqEvent, SeqRequest};
use super::runner::Runner;
use super::scheduler::{Scheduler, SchedulerConfig};
use super::turns::Place;
use super::work::CostModel;
use crate::device::{Arena, CardReport, arena, memory};
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::{Duration, Instant};
use steps::Steps;

/// A lane's id, unique for the life of the process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct LaneId(pub u64);

/// A lane's figures.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct LaneFigures {
    /// Maximum number of waiting sequences; 0 before the lane exists.
    #[serde(skip)]
    pub waiting_most: u64,
    /// Sequences that are admitted and hold KV blocks: in prefill or decoding.
    pub running: u64,
    /// Sequences that wait to be admitted, preempted ones included.
    pub waiting: u64,
    /// KV blocks that sequences refer to.
    pub blocks_used: u64,
    /// All KV blocks of the lane.
    pub blocks_total: u64,
    /// Bytes that these take, of the model's arena or its pool on a GPU.
    #[serde(default)]
    pub kv_bytes: u64,
    /// Sequences that run at a time, each in a slot of its own, on the compatibility lane; 0 elsewhere.
    #[serde(skip)]
    pub slots: u64,
    /// Blocks whose prefix can be found, referenced or not.
    pub blocks_cached: u64,
    /// Cached blocks evicted to make room, since the model was loaded.
    pub blocks_evicted: u64,
    /// Prompt tokens looked up in the prefix cache since the model was loaded.
    pub prefix_lookup_tokens: u64,
    /// Of `prefix_lookup_tokens`, those found in the cache.
    pub prefix_hit_tokens: u64,
    /// The share of these, 0 to 1; `None` before the first lookup.
    pub prefix_hit_rate: Option<f64>,
    /// Times that a running sequence lost its KV blocks to others, since the model was loaded.
    pub preemptions: u64,
    /// Sequences whose caller disconnected before their end, since the model was loaded.
    pub cancelled: u64,
    /// Sampled tokens since the model was loaded, end-of-sequence tokens included.
    pub tokens_generated: u64,
    /// Tokens computed in prefill chunks of two or more since the model was loaded, recomputed ones included.
    pub tokens_prefilled: u64,
    /// Steps run since the model was loaded, failed ones included.
    #[serde(skip)]
    pub steps: u64,
    /// Time that these took, in microseconds: the device's own measurement, if it has one.
    #[serde(skip)]
    pub step_micros: u64,
    /// Bytes in live allocations in the model's arena in main memory.
    pub arena_used: u64,
    /// Bytes of the arena that were taken from the system and not yet given back, free blocks included.
    pub arena_reserved: u64,
    /// Bytes in the model's memory pool on a GPU; 0 without one.
    #[serde(default)]
    pub card_used: u64,
    /// Bytes that this pool has taken from the GPU and not yet given back; 0 without one.
    #[serde(default)]
    pub card_reserved: u64,
    /// The lane has been shut down after a fault, and refuses everything.
    #[serde(skip)]
    pub failed: bool,
}

/// A lane's figures, updated by the executor after each step and read by anybody.
#[derive(Debug, Default)]
pub struct LaneStats(pub(crate) Mutex<LaneFigures>);

impl LaneStats {
    /// The figures after the latest step.
    pub fn read(&self) -> LaneFigures {
        *self.0.lock()
    }
}

/// The memory that an unload freed. In bytes, unless stated otherwise.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct UnloadReport {
    /// In live allocations of the model's arena, just before the model was dropped.
    pub used_before: u64,
    /// The same afterwards: 0, or a leak.
    pub used_after: u64,
    /// Taken from the system by the arena, just before the model was dropped.
    pub reserved_before: u64,
    /// The same afterwards: 0, or a leak.
    pub reserved_after: u64,
    /// Resident set of the process before this model was loaded.
    pub resident_at_load: u64,
    /// The same just before the model was dropped; 0 if the system does not tell.
    pub resident_before: u64,
    /// The same once the memory was freed; 0 if the system does not tell.
    pub resident_after: u64,
    /// KV blocks still referenced when the lane was dropped: 0, or a leak.
    pub blocks_leaked: u64,
    /// Sequences that were cut off because they exceeded the grace period.
    pub evicted: u64,
    /// What the model's memory pool on a GPU gave back, if it had one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub card: Option<CardReport>,
    /// Milliseconds from the unload request until the memory was freed, draining included.
    pub took_ms: f64,
}

pub(super) struct Lane {
    pub id: LaneId,
    pub stats: Arc<LaneStats>,
    runner: Box<dyn Runner>,
    #[cfg(any(test, debug_assertions, feature = "testing"))]
    slowed: Option<super::slowed::Slowed>,
    scheduler: Scheduler,
    steps: Steps,
    arena: Arena,
    resident_at_load: u64,
    panics: u32,
    /// Shut down, after too many consecutive panics or with the device. Such a lane runs nothing more.
    failed: bool,
    pub place: Place,
    /// The measured cost of its steps, if it could be measured.
    pub costs: Option<CostModel>,
    pub draining: Option<Draining>,
}

/// A fault in a step that concerns more than its sequences.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum StepFault {
    Panic(String),
    /// The lane has not ended any sequence yet; the executor has to abandon all lanes.
    DeviceLost(String),
}

pub(super) struct Draining {
    pub since: Instant,
    pub deadline: Instant,
    pub reply: tokio::sync::oneshot::Sender<UnloadReport>,
}

impl Lane {
    /// A lane without sequences. `resident_at_load`: bytes of the process that were resident before the model was loaded.
    pub fn new(
        id: LaneId,
        runner: Box<dyn Runner>,
        config: SchedulerConfig,
        arena: Arena,
        resident_at_load: u64,
    ) -> Lane {
        let waiting_most = config.max_waiting as u64;
        let figures = LaneFigures { waiting_most, ..LaneFigures::default() };
        let scheduler = Scheduler::new(config, runner.capacity());
        let mut lane = Lane {
            id,
            stats: Arc::new(LaneStats(Mutex::new(figures))),
            runner,
            #[cfg(any(test, debug_assertions, feature = "testing"))]
            slowed: None,
            scheduler,
            steps: Steps::default(),
            arena,
            resident_at_load,
            panics: 0,
            failed: false,
            place: Place::default(),
            costs: None,
            draining: None,
        };
        lane.publish();
        lane
    }

    /// Queues a request, or tells its sender why it is refused.
    pub fn submit(&mut self, request: SeqRequest) {
        let verdict = if self.failed {
            Err(Refusal::LaneFailed)
        } else if self.draining.is_some() {
            Err(Refusal::Draining)
        } else {
            self.scheduler.check(&request)
        };
        match verdict {
            Ok(()) => self.scheduler.admit(request),
            Err(why) => {
                let _ = request.events.send(SeqEvent::Refused { tag: request.tag, why });
            }
        }
    }

    /// Makes each step take `factor` times as long; see [`super::EngineHandle::slow_down`].
    #[cfg(any(test, debug_assertions, feature = "testing"))]
    pub fn slow_down(&mut self, factor: f64) {
        self.slowed = Some(super::slowed::Slowed::new(factor));
    }

    /// Whether no sequence is waiting or running, and no step in flight.
    pub fn is_idle(&self) -> bool {
        self.scheduler.is_idle() && self.in_flight() == 0
    }

    /// Measures the cost of its steps, within `budget` of the device's time and of the host's. The host's
    /// time may be much longer, because launching takes time as well. Must be called before the lane has
    /// work, because it writes to KV blocks.
    pub fn measure(&mut self, budget: Duration, now: impl Fn() -> Instant) {
        if !self.runner.can_be_measured() {
            return;
        }
        let (capacity, config) = (self.runner.capacity(), *self.scheduler.config());
        let until = now() + budget;
        self.costs = calibration::measure(&capacity, &config, budget, |batch, draws| {
            let begun = now();
            if begun >= until {
                return None;
            }
            let finished = steps::run(&mut *self.runner, &self.arena, batch, draws).ok()?.ok()?;
            Some(finished.device_time.unwrap_or_else(|| now().saturating_duration_since(begun)))
        });
    }

    /// Number of sequences that could take part in a matched step; none for a lane that is draining.
    pub fn matchable(&self) -> usize {
        if self.failed || self.draining.is_some() { 0 } else { self.scheduler.matchable() }
    }

    /// Ends all sequences; the lane runs nothing more.
    pub fn shut_down(&mut self, fault: &Fault, at: Instant) {
        self.failed = true;
        self.steps.abandon();
        self.stats.0.lock().failed = true;
        self.scheduler.fail_all(fault, at);
        self.publish();
    }

    /// Whether a draining lane may be dropped now.
    pub fn drained(&self, now: Instant) -> bool {
        self.draining.as_ref().is_some_and(|d| self.failed || self.is_idle() || now >= d.deadline)
    }

    /// Drops the model on this thread and frees its memory.
    pub fn unload(mut self, now: impl Fn() -> Instant) {
        let evicted = self.scheduler.waiting() + self.scheduler.running();
        self.scheduler.fail_all(&Fault::Unloaded, now());
        let before = self.arena.usage();
        let resident_before = memory::resident_bytes().unwrap_or(0);
        let blocks_leaked = self.scheduler.blocks().used();
        // A model whose step panicked may panic again when dropped; this must not affect stable.
        let runner = self.runner;
        let card = catch_unwind(AssertUnwindSafe(move || runner.unload())).unwrap_or_default();
        drop((self.steps, self.scheduler));
        let after = self.arena.close();
        arena::trim_heap();
        let resident_after = memory::resident_bytes().unwrap_or(0);
        let Some(draining) = self.draining.take() else {
            return;
        };
        let took = now().saturating_duration_since(draining.since);
        let _ = draining.reply.send(UnloadReport {
            used_before: before.used as u64,
            used_after: after.used as u64,
            reserved_before: before.reserved as u64,
            reserved_after: after.reserved as u64,
            resident_at_load: self.resident_at_load,
            resident_before,
            resident_after,
            blocks_leaked: blocks_leaked as u64,
            evicted: evicted as u64,
            card,
            took_ms: took.as_secs_f64() * 1e3,
        });
    }

    /// Updates the lane's figures, which others read.
    pub fn publish(&mut self) {
        let (scheduler, usage) = (&self.scheduler, self.arena.usage());
        let (blocks, totals) = (scheduler.blocks(), scheduler.totals());
        let (lookups, hits) = (totals.prefix_lookup_tokens, totals.prefix_hit_tokens);
        // A failed device may not answer.
        let card = (!self.failed).then(|| self.runner.card_usage().unwrap_or_default());
        let figures = &mut *self.stats.0.lock();
        *figures = LaneFigures {
            running: scheduler.running() as u64,
            waiting: scheduler.waiting() as u64,
            blocks_used: blocks.used() as u64,
            blocks_total: blocks.total() as u64,
            kv_bytes: self.runner.kv_bytes(),
            slots: self.runner.slots().unwrap_or(0) as u64,
            blocks_cached: blocks.cached() as u64,
            blocks_evicted: blocks.evictions(),
            prefix_lookup_tokens: lookups,
            prefix_hit_tokens: hits,
            prefix_hit_rate: (lookups > 0).then(|| hits as f64 / lookups as f64),
            preemptions: totals.preemptions,
            cancelled: totals.cancelled,
            tokens_generated: totals.tokens_generated,
            tokens_prefilled: totals.tokens_prefilled,
            arena_used: usage.used as u64,
            arena_reserved: usage.reserved as u64,
            card_used: card.map_or(figures.card_used, |card| card.used),
            card_reserved: card.map_or(figures.card_reserved, |card| card.reserved),
            ..*figures
        };
    }
}

pub(super) fn panic_text(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|s| (*s).to_owned());
    text.or_else(|| panic.downcast_ref::<String>().cloned())
        .unwrap_or_else(|| "unknown panic".to_owned())
}

#[cfg(test)]
mod card_tests;
mod steps;
pub(super) use steps::{StepStart, Turn};
