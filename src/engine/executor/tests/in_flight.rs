//! When steps are enqueued on a device with its own queue, and when they are waited for.

use super::*;
use crate::engine::runner::{Finished, Progress, Sampled};
use std::collections::VecDeque;
use std::sync::Mutex;

/// A device that computes one step at a time, each for the same time.
#[derive(Debug, Default)]
struct Device {
    /// When it will have done everything that it was given.
    free: Option<Instant>,
    /// Steps that were enqueued and not finished: the runner's number.
    in_flight: VecDeque<usize>,
    log: Vec<Enqueued>,
}

/// An enqueued step.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Enqueued {
    runner: usize,
    /// Those of the steps in flight at that moment.
    before: Vec<usize>,
    /// Tokens of each row.
    rows: Vec<usize>,
}

/// A model on that device: every token is a 7.
struct Queued {
    number: usize,
    takes: Duration,
    device: Arc<Mutex<Device>>,
    /// The number of the step ahead that cannot be enqueued.
    fails_ahead: Option<usize>,
    ends: VecDeque<(Instant, usize)>,
}

impl Runner for Queued {
    fn capacity(&self) -> Capacity {
        CAPACITY
    }

    fn enqueue(&mut self, batch: &Batch, draws: &[Draw<'_>]) -> Result<PendingStep, RunError> {
        let mut device = self.device.lock().unwrap();
        let before: Vec<usize> = device.in_flight.iter().copied().collect();
        assert!(before.len() <= 1, "at most two steps are in flight");
        let ahead = batch.rows.iter().all(|row| row.drawn.is_some());
        assert_eq!(ahead, before.contains(&self.number), "a step ahead follows one of this model");
        if ahead && self.fails_ahead == Some(device.log.len()) {
            return Err(RunError::Step("as asked".into()));
        }
        let rows = batch.rows.iter().map(|row| row.len).collect();
        device.log.push(Enqueued { runner: self.number, before, rows });
        device.in_flight.push_back(self.number);
        let now = Instant::now();
        let end = device.free.map_or(now, |free| free.max(now)) + self.takes;
        device.free = Some(end);
        self.ends.push_back((end, draws.len()));
        Ok(PendingStep(Progress::Draws { rows: vec![None; draws.len()], place: 0 }))
    }

    fn finish(&mut self, _: PendingStep, _: &Batch, _: &[Draw<'_>]) -> Result<Finished, RunError> {
        let (end, rows) = self.ends.pop_front().unwrap();
        std::thread::sleep(end.saturating_duration_since(Instant::now()));
        let oldest = self.device.lock().unwrap().in_flight.pop_front();
        assert_eq!(oldest, Some(self.number), "steps are finished in order");
        Ok(Finished { results: vec![Sampled::token(7); rows], device_time: Some(self.takes) })
    }

    fn has_queue(&self) -> bool {
        true
    }

    fn can_be_measured(&self) -> bool {
        false
    }
}

/// A model on the CPU, which computes its steps when they are enqueued. None of the device's may wait for that.
struct OnCpu {
    inner: FakeRunner,
    device: Arc<Mutex<Device>>,
}

impl Runner for OnCpu {
    fn capacity(&self) -> Capacity {
        self.inner.capacity()
    }

    fn enqueue(&mut self, batch: &Batch, draws: &[Draw<'_>]) -> Result<PendingStep, RunError> {
        assert!(self.device.lock().unwrap().in_flight.is_empty(), "results that are held back");
        self.inner.enqueue(batch, draws)
    }

    fn can_be_measured(&self) -> bool {
        false
    }
}

async fn load(engine: &Engine, device: &Arc<Mutex<Device>>, number: usize, takes: u64) -> LaneId {
    let (device, takes) = (device.clone(), Duration::from_millis(takes));
    let make = move || {
        let runner = Queued { number, takes, device, fails_ahead: None, ends: VecDeque::new() };
        Ok(Box::new(runner) as Box<dyn Runner>)
    };
    engine.handle.load(SchedulerConfig::default(), make).await.unwrap().lane
}

/// A whole reply of 100 tokens.
async fn whole(inbox: UnboundedReceiver<SeqEvent>) {
    let SeqEvent::Finished { timings, .. } = end(inbox).await else { panic!("it has not ended") };
    assert_eq!(timings.output_tokens, 100);
}

#[tokio::test]
async fn a_model_alone_runs_one_step_ahead() {
    let (engine, device) = (Engine::start(), Arc::default());
    let lane = load(&engine, &device, 0, 1).await;
    whole(engine.ask(lane, vec![1, 2])).await;
    let log = std::mem::take(&mut device.lock().unwrap().log);
    assert_eq!(log.len(), 100, "no step is computed in vain where the end is known");
    assert_eq!(log[0], Enqueued { runner: 0, before: vec![], rows: vec![2] });
    assert!(log[2..].iter().all(|step| step.before == [0]), "{log:?}");
}

#[tokio::test]
async fn two_models_never_leave_the_device_without_a_step() {
    let (engine, device) = (Engine::start(), Arc::default());
    let lanes = [load(&engine, &device, 0, 1).await, load(&engine, &device, 1, 1).await];
    let [one, other] = lanes.map(|lane| engine.ask(lane, vec![1, 2]));
    tokio::join!(whole(one), whole(other));
    let log = std::mem::take(&mut device.lock().unwrap().log);
    let both = log.iter().filter(|step| step.before == [1 - step.runner]).count();
    // Matched steps begin on an idle device, and one model begins and ends before the other.
    assert!(both > log.len() * 6 / 10, "{both} of {}", log.len());
}

#[tokio::test]
async fn a_request_is_in_the_next_step_although_steps_run_ahead() {
    let (engine, device) = (Engine::start(), Arc::default());
    // Steps so long that the request comes within one, however busy this machine is.
    let lane = load(&engine, &device, 0, 400).await;
    let mut talking = engine.ask(lane, vec![1, 2]);
    // Its start, and three tokens: from the second on, the time of a step is known.
    for _ in 0..4 {
        talking.recv().await.unwrap();
    }
    // A token has just come: the step after it has just begun.
    let known = device.lock().unwrap().log.len();
    let mut asked = engine.ask(lane, vec![3; 9]);
    while !matches!(asked.recv().await, Some(SeqEvent::Token { .. })) {}
    let log = std::mem::take(&mut device.lock().unwrap().log);
    assert_eq!(log[known], Enqueued { runner: 0, before: vec![], rows: vec![1, 9] }, "{log:?}");
}

#[tokio::test]
async fn a_step_ahead_that_cannot_be_enqueued_is_run_in_its_turn() {
    let (engine, device) = (Engine::start(), Arc::<Mutex<Device>>::default());
    let onto = device.clone();
    let make = move || {
        let takes = Duration::from_millis(1);
        let runner =
            Queued { number: 0, takes, device: onto, fails_ahead: Some(20), ends: VecDeque::new() };
        Ok(Box::new(runner) as Box<dyn Runner>)
    };
    let lane = engine.handle.load(SchedulerConfig::default(), make).await.unwrap().lane;
    whole(engine.ask(lane, vec![1, 2])).await;
    let log = std::mem::take(&mut device.lock().unwrap().log);
    assert_eq!(log.len(), 100);
    assert!(log[2..20].iter().all(|step| step.before == [0]), "{log:?}");
    assert!(
        log[20..].iter().all(|step| step.before.is_empty()),
        "one by one from then on: {log:?}"
    );
}

#[tokio::test]
async fn results_of_a_device_do_not_wait_for_a_model_on_the_cpu() {
    let (mut engine, device) = (Engine::start(), Arc::default());
    let lane = load(&engine, &device, 0, 2).await;
    let make = move || {
        let step_time = Duration::from_millis(3);
        let script = FakeScript { step_time, ..FakeScript::replying(&[7; 100], 0, CAPACITY) };
        Ok(Box::new(OnCpu { inner: FakeRunner::new(script, 1), device }) as Box<dyn Runner>)
    };
    let beside = engine.handle.load(SchedulerConfig::default(), make).await.unwrap().lane;
    let [one, other] = [lane, beside].map(|lane| engine.ask(lane, vec![1, 2]));
    tokio::join!(whole(one), whole(other));
    assert!(engine.faults.try_recv().is_err(), "no step panicked");
}

#[tokio::test]
async fn a_model_is_unloaded_with_its_steps_in_flight() {
    let (engine, device) = (Engine::start(), Arc::default());
    let lanes = [load(&engine, &device, 0, 2).await, load(&engine, &device, 1, 2).await];
    let [mut goes, stays] = lanes.map(|lane| engine.ask(lane, vec![1, 2]));
    while !matches!(goes.recv().await, Some(SeqEvent::Token { .. })) {}
    let report = engine.handle.unload(lanes[0], Duration::ZERO).await.unwrap();
    assert_eq!((report.evicted, report.blocks_leaked), (1, 0));
    assert!(matches!(end(goes).await, SeqEvent::Failed { fault: Fault::Unloaded, .. }));
    // What it left on the device is of no concern to the other.
    device.lock().unwrap().in_flight.retain(|number| *number == 1);
    whole(stays).await;
}
