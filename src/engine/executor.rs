//! The only thread that uses the device. It takes commands, runs one step of each lane in turn, and sends events.
//!
//! Commands are handled on this thread alone, so a lane can be added or dropped without a lock. The thread
//! sleeps when no lane has work. This is the only file of the engine that reads a clock.
//!
//! On a device with its own queue, the next step is enqueued shortly before the one in flight ends, so that the device
//! never waits for the host. It is not enqueued earlier, because a request that arrives in between would miss the step.

use super::UnloadReport;
use super::lane::{Draining, Lane, LaneId, LaneStats, StepFault, StepStart, Turn};
use super::request::{Fault, Refusal, SeqEvent, SeqRequest};
use super::runner::Runner;
use super::scheduler::SchedulerConfig;
use super::turns;
use super::work::CostModel;
use crate::device::Arena;
use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, TryRecvError};
use std::time::{Duration, Instant};
use tokio::sync::{mpsc::UnboundedSender, oneshot};

/// A fault that concerns more than one request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EngineFault {
    /// A step of this lane panicked.
    Lane {
        /// The lane; it goes on unless it is shut down after too many panics in a row.
        lane: LaneId,
        /// The panic's message.
        what: String,
    },
    /// The device has failed: nothing on it can run again, and all lanes are abandoned. `lane`: the lane in
    /// whose step the failure appeared, if it was in a step.
    Device {
        /// `None` if the failure appeared outside any step.
        lane: Option<LaneId>,
        /// The device's error.
        what: String,
    },
}

pub(super) enum Command {
    /// Adds a lane.
    Install(Box<Install>),
    /// Queues sequences on the lane.
    Submit { lane: LaneId, requests: Vec<SeqRequest> },
    /// Drains the lane and drops its model.
    Unload { lane: LaneId, grace: Duration, reply: oneshot::Sender<UnloadReport> },
    /// Sets the lane's turns per turn of a lane with share 1.
    SetShare { lane: LaneId, share: f64 },
    /// From now on, the sequences of all lanes are charged by the step costs of this lane.
    SetReference { lane: LaneId },
    /// The device was found to have failed outside any step.
    LoseDevice { what: String },
    /// Makes the lane's steps take longer.
    #[cfg(any(test, debug_assertions, feature = "testing"))]
    SlowDown { lane: LaneId, factor: f64 },
}

/// A model that a loader thread has prepared.
pub(super) struct Install {
    pub lane: LaneId,
    pub runner: Box<dyn Runner>,
    pub config: SchedulerConfig,
    pub arena: Arena,
    pub resident_at_load: u64,
    pub reply: oneshot::Sender<Arc<LaneStats>>,
}

/// How often a draining lane's deadline is checked while nothing else happens.
const IDLE_TICK: Duration = Duration::from_millis(20);

/// How long a model may be measured before it serves: alone, and next to a model that already serves.
const MEASURE: Duration = Duration::from_secs(1);
const MEASURE_BESIDE: Duration = Duration::from_millis(100);

/// Minimum number of turns from one matched step to the next. Steps with fewer sequences than are available
/// cost throughput.
const MATCH_EVERY: usize = 8;

/// If matched steps are shorter than this, a good part of the model fits in the CPU caches.
const CACHES_MATTER: Duration = Duration::from_millis(20);

/// How long before the expected end of a step the next one is enqueued: the time that scheduling and launching take, and
/// by how much a wait may overshoot.
const ENQUEUE_BEFORE: Duration = Duration::from_micros(300);
/// Share of the rest of a step's expected time that is waited for. Steps vary.
const ENQUEUE_AFTER: f64 = 0.9;

pub(super) struct Executor {
    commands: Receiver<Command>,
    faults: UnboundedSender<EngineFault>,
    lanes: Vec<Lane>,
    /// Index of the lane that had the last turn.
    last: usize,
    /// The lanes of the steps in flight, the oldest first: at most two, and one between turns. A lane that has failed
    /// may be listed without one.
    in_flight: VecDeque<LaneId>,
    finished: Option<Instant>,
    /// The cost model by which sequences are charged; at first, that of the first model.
    costs: Option<CostModel>,
    reference: Option<LaneId>,
    /// Turns since the last matched step, and the number of matched steps.
    unmatched: usize,
    matches: usize,
    match_took: Duration,
    /// The device has failed. From then on nothing is run and nothing is freed, because both could block for
    /// ever.
    lost: bool,
}

impl Executor {
    /// An executor without lanes. Faults of lanes and of the device are sent to `faults`.
    pub fn new(commands: Receiver<Command>, faults: UnboundedSender<EngineFault>) -> Executor {
        Executor {
            commands,
            faults,
            lanes: Vec::new(),
            last: 0,
            in_flight: VecDeque::new(),
            finished: None,
            costs: None,
            reference: None,
            unmatched: 0,
            matches: 0,
            match_took: Duration::ZERO,
            lost: false,
        }
    }

    /// Runs until every handle has been dropped.
    pub fn run(mut self) {
        while self.take_commands() {
            self.step_next();
            self.drop_drained(Instant::now());
        }
        if self.lost {
            std::mem::forget(self.lanes);
            return;
        }
        for lane in self.lanes.drain(..) {
            lane.unload(Instant::now);
        }
    }

    /// Enqueues a step of the next lane with work, or finishes one. Commands are handled before every step and not once per
    /// round. Otherwise a request would wait longer the later its lane comes, and the canary's lane comes
    /// last.
    fn step_next(&mut self) {
        if self.match_steps() {
            return;
        }
        let busy = self.lanes.iter().filter(|lane| !lane.is_idle()).count();
        let places = self.lanes.iter_mut().map(|lane| {
            let has_work = !lane.is_idle();
            (&mut lane.place, has_work)
        });
        let Some(index) = turns::next(places, self.last) else { return };
        let lane = &self.lanes[index];
        let (turn, beside) = match lane.in_flight() {
            0 => (Turn::Next { shared: busy > 1 }, lane.has_queue()),
            _ => (Turn::Ahead, lane.can_run_ahead()),
        };
        if !self.in_flight.is_empty() && !beside {
            // Nothing can be enqueued: results need not wait. Then commands come first.
            return self.finish_oldest();
        }
        if !self.lingers() && !self.take_turn(index, turn) {
            self.finish_oldest();
        }
    }

    /// While a step is in flight, handles commands until it is almost done. Returns whether there were any.
    fn lingers(&mut self) -> bool {
        let Some(id) = self.in_flight.front() else { return false };
        let lane = self.lanes.iter().find(|lane| lane.id == *id);
        let now = Instant::now();
        let Some(end) = lane.and_then(|lane| lane.expected_end(self.finished.unwrap_or(now)))
        else {
            return false;
        };
        let wait = end.saturating_duration_since(now).mul_f64(ENQUEUE_AFTER);
        match self.commands.recv_timeout(wait.saturating_sub(ENQUEUE_BEFORE)) {
            Ok(command) => {
                self.apply(command);
                true
            }
            Err(_) => false,
        }
    }

    /// From time to time, two models that both decode alternate strictly and run steps with the same number
    /// of sequences. Such times can be compared whatever else the two models do. Ordinary steps cannot:
    /// depending on its share of the traffic, a model runs larger steps, several steps in a row, or steps
    /// with warm caches. Where steps are short, a first round brings both models into the same state: each
    /// has run a small step, followed by one of the other model.
    fn match_steps(&mut self) -> bool {
        let busy = self.lanes.iter().enumerate().filter(|(_, lane)| !lane.is_idle());
        let mut pair: Vec<usize> = busy.map(|(index, _)| index).collect();
        if pair.len() != 2 || self.matchable(&pair) == 0 {
            return false;
        }
        if self.unmatched < MATCH_EVERY {
            return false;
        }
        self.unmatched = 0;
        self.matches = self.matches.wrapping_add(1);
        if self.matches.is_multiple_of(2) {
            pair.reverse();
        }
        self.finish_all();
        let begun = Instant::now();
        if self.match_took < CACHES_MATTER {
            self.steps_of_each(&pair, false);
        }
        self.steps_of_each(&pair, true);
        self.match_took = begun.elapsed();
        true
    }

    /// The number of sequences that each of these lanes can contribute to a matched step.
    fn matchable(&self, pair: &[usize]) -> usize {
        pair.iter().map(|index| self.lanes[*index].matchable()).min().unwrap_or(0)
    }

    /// Runs a step of each of these lanes with the same number of sequences.
    fn steps_of_each(&mut self, pair: &[usize], matched: bool) {
        let rows = self.matchable(pair);
        for index in pair.iter().filter(|_| rows > 0) {
            self.take_turn(*index, Turn::Of { rows, matched });
            // Both begin on a device without work, so that their times are comparable.
            self.finish_all();
        }
    }

    /// One turn of a lane: enqueues a step, and finishes those that have to be finished now. Returns whether that got
    /// anything done.
    fn take_turn(&mut self, index: usize, turn: Turn) -> bool {
        let lane = &mut self.lanes[index];
        let id = lane.id;
        let begun = lane.begin(turn, Instant::now);
        if begun == StepStart::Nothing {
            return false;
        }
        lane.place.stepped();
        self.last = index;
        self.unmatched += 1;
        if let StepStart::Failed(fault) = begun {
            fault.into_iter().for_each(|fault| self.report(id, fault));
            return turn != Turn::Ahead;
        }
        self.in_flight.push_back(id);
        let leave = usize::from(!self.lanes[index].must_finish());
        while self.in_flight.len() > leave {
            self.finish_oldest();
        }
        true
    }

    fn finish_all(&mut self) {
        while !self.in_flight.is_empty() {
            self.finish_oldest();
        }
    }

    fn finish_oldest(&mut self) {
        let Some(id) = self.in_flight.pop_front() else { return };
        let Some(lane) = self.lanes.iter_mut().find(|lane| lane.id == id) else { return };
        let fault = lane.finish(self.costs.as_ref(), Instant::now);
        self.finished = Some(Instant::now());
        if let Some(fault) = fault {
            self.report(id, fault);
        }
    }

    /// Handles a fault in a step of this lane.
    fn report(&mut self, lane: LaneId, fault: StepFault) {
        match fault {
            StepFault::Panic(what) => {
                let _ = self.faults.send(EngineFault::Lane { lane, what });
            }
            StepFault::DeviceLost(what) => self.lose_device(Some(lane), what),
        }
    }

    /// Abandons every lane, and releases the callers that wait for an unload.
    fn lose_device(&mut self, lane: Option<LaneId>, what: String) {
        if std::mem::replace(&mut self.lost, true) {
            return;
        }
        let _ = self.faults.send(EngineFault::Device { lane, what: what.clone() });
        self.in_flight.clear();
        let (fault, now) = (Fault::DeviceLost(what), Instant::now());
        for lane in &mut self.lanes {
            lane.shut_down(&fault, now);
            lane.draining = None;
        }
    }

    /// Handles all waiting commands; sleeps first if there is no work. Returns false when every handle has
    /// been dropped.
    fn take_commands(&mut self) -> bool {
        if self.lanes.iter().all(Lane::is_idle) {
            let tick = self.lanes.iter().any(|l| l.draining.is_some()).then_some(IDLE_TICK);
            let first = match tick {
                Some(tick) => self.commands.recv_timeout(tick),
                None => self.commands.recv().map_err(|_| RecvTimeoutError::Disconnected),
            };
            match first {
                Ok(command) => self.apply(command),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return false,
            }
        }
        loop {
            match self.commands.try_recv() {
                Ok(command) => self.apply(command),
                Err(TryRecvError::Empty) => return true,
                Err(TryRecvError::Disconnected) => return false,
            }
        }
    }

    fn apply(&mut self, command: Command) {
        match command {
            Command::LoseDevice { what } => self.lose_device(None, what),
            Command::Install(install) if self.lost => {
                let Install { runner, arena, .. } = *install;
                std::mem::forget((runner, arena));
            }
            Command::Unload { .. } if self.lost => {}
            Command::Install(install) => self.install(*install),
            Command::Submit { lane, requests } => self.submit(lane, requests),
            Command::SetShare { lane, share } => {
                if let Some(lane) = self.lanes.iter_mut().find(|l| l.id == lane) {
                    lane.place.set_share(share);
                }
            }
            Command::SetReference { lane } if self.reference == Some(lane) => {}
            Command::SetReference { lane } => {
                self.reference = Some(lane);
                let costs = self.lanes.iter().find(|l| l.id == lane).and_then(|l| l.costs.clone());
                // Another model's costs are better than none: versions of one model are much alike.
                self.costs = costs.or(self.costs.take());
            }
            #[cfg(any(test, debug_assertions, feature = "testing"))]
            Command::SlowDown { lane, factor } => {
                if let Some(lane) = self.lanes.iter_mut().find(|l| l.id == lane) {
                    lane.slow_down(factor);
                }
            }
            Command::Unload { lane, grace, reply } => {
                let since = Instant::now();
                if let Some(lane) = self.lanes.iter_mut().find(|l| l.id == lane) {
                    lane.draining = Some(Draining { since, deadline: since + grace, reply });
                }
            }
        }
    }

    fn install(&mut self, install: Install) {
        let Install { lane, runner, config, arena, resident_at_load, reply } = install;
        let mut lane = Lane::new(lane, runner, config, arena, resident_at_load);
        // If no lane has work, nobody waits. Next to a model that is serving, the new model is measured only
        // briefly or not at all.
        if self.lanes.iter().all(Lane::is_idle) {
            let alone = self.lanes.is_empty();
            lane.measure(if alone { MEASURE } else { MEASURE_BESIDE }, Instant::now);
        }
        // The caller may have given up while the model was loading. Then nothing could ever unload it.
        if reply.send(lane.stats.clone()).is_ok() {
            self.lanes.push(lane);
        } else {
            lane.unload(Instant::now);
        }
    }

    fn submit(&mut self, id: LaneId, requests: Vec<SeqRequest>) {
        let lane = self.lanes.iter_mut().find(|l| l.id == id);
        let Some(lane) = lane else {
            for request in requests {
                let event = SeqEvent::Refused { tag: request.tag, why: Refusal::NoLane };
                let _ = request.events.send(event);
            }
            return;
        };
        requests.into_iter().for_each(|request| lane.submit(request));
        lane.publish();
    }

    fn drop_drained(&mut self, now: Instant) {
        while let Some(index) = self.lanes.iter().position(|lane| lane.drained(now)) {
            let lane = self.lanes.remove(index);
            self.in_flight.retain(|id| *id != lane.id);
            lane.unload(Instant::now);
        }
    }
}

#[cfg(test)]
mod tests;
