//! Which steps are matched, and what happens to all lanes when the device is lost. Steps in flight: `in_flight`.

use super::*;
use crate::device::Batch;
use crate::engine::RunError;
use crate::engine::fake::{FakeRunner, FakeScript};
use crate::engine::{Capacity, EngineError, EngineHandle, Loaded, PendingStep};
use crate::model::{Draw, LoadError, SamplingParams};
use std::sync::atomic::{AtomicUsize, Ordering};
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};

const CAPACITY: Capacity =
    Capacity { blocks: 64, block_size: 4, vocab: 50, max_len: 128, rope_switch: None };
/// A prompt with this id makes the device fail.
const FATAL: u32 = 13;

/// A fake model that counts its calls and whether it was dropped.
struct Counted {
    inner: FakeRunner,
    steps: Arc<AtomicUsize>,
    drops: Arc<AtomicUsize>,
}

impl Runner for Counted {
    fn capacity(&self) -> Capacity {
        self.inner.capacity()
    }

    fn enqueue(&mut self, batch: &Batch, draws: &[Draw<'_>]) -> Result<PendingStep, RunError> {
        self.steps.fetch_add(1, Ordering::Relaxed);
        self.inner.enqueue(batch, draws)
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.drops.fetch_add(1, Ordering::Relaxed);
    }
}

struct Engine {
    handle: EngineHandle,
    faults: UnboundedReceiver<EngineFault>,
    steps: Arc<AtomicUsize>,
    drops: Arc<AtomicUsize>,
}

impl Engine {
    fn start() -> Engine {
        let (handle, faults) = EngineHandle::start().unwrap();
        Engine { handle, faults, steps: Arc::default(), drops: Arc::default() }
    }

    async fn load(&self) -> Result<Loaded, EngineError> {
        let (steps, drops) = (self.steps.clone(), self.drops.clone());
        let make = move || {
            let script = FakeScript {
                step_time: Duration::from_millis(1),
                lose_device_on: Some(FATAL),
                ..FakeScript::replying(&[7; 100], 0, CAPACITY)
            };
            let inner = FakeRunner::new(script, 1);
            Ok(Box::new(Counted { inner, steps, drops }) as Box<dyn Runner>)
        };
        self.handle.load(SchedulerConfig::default(), make).await
    }

    fn ask(&self, lane: LaneId, prompt: Vec<u32>) -> UnboundedReceiver<SeqEvent> {
        let (events, inbox) = unbounded_channel();
        let request = SeqRequest {
            tag: 0,
            prompt,
            params: SamplingParams::greedy(),
            max_new_tokens: 100,
            stop_ids: vec![],
            cache_salt: 0,
            events,
            background: false,
            guide: None,
            arrived: Instant::now(),
        };
        self.handle.submit(lane, vec![request]).unwrap();
        inbox
    }
}

/// The last event of a sequence.
async fn end(mut inbox: UnboundedReceiver<SeqEvent>) -> SeqEvent {
    let mut last = None;
    while let Some(event) = inbox.recv().await {
        last = Some(event);
    }
    last.expect("an event")
}

fn is_lost(event: &SeqEvent) -> bool {
    matches!(event, SeqEvent::Failed { fault: Fault::DeviceLost(_), .. })
}

#[tokio::test]
async fn a_lost_device_ends_every_lane_and_nothing_is_run_or_freed_on_it_again() {
    let mut engine = Engine::start();
    let stable = engine.load().await.unwrap();
    let canary = engine.load().await.unwrap();
    let mut talking = engine.ask(stable.lane, vec![1, 2]);
    while !matches!(talking.recv().await, Some(SeqEvent::Token { .. })) {}
    let fatal = engine.ask(canary.lane, vec![1, FATAL]);
    assert!(is_lost(&end(fatal).await) && is_lost(&end(talking).await));
    let what = "scripted loss".to_owned();
    let told = engine.faults.recv().await;
    assert_eq!(told, Some(EngineFault::Device { lane: Some(canary.lane), what }));
    assert!([&stable, &canary].iter().all(|one| one.stats.read().failed));

    let steps = engine.steps.load(Ordering::Relaxed);
    for lane in [stable.lane, canary.lane] {
        let refused = end(engine.ask(lane, vec![1])).await;
        assert_eq!(refused, SeqEvent::Refused { tag: 0, why: Refusal::LaneFailed });
        let unload = engine.handle.unload(lane, Duration::ZERO).await;
        assert!(matches!(unload, Err(EngineError::NoLane)), "{unload:?}");
    }
    assert!(engine.load().await.is_err(), "nothing more is put on it");
    assert_eq!(engine.steps.load(Ordering::Relaxed), steps);
    assert!(engine.faults.try_recv().is_err(), "it is told once");

    let Engine { handle, mut faults, drops, .. } = engine;
    drop(handle);
    assert_eq!(faults.recv().await, None, "the executor ends");
    assert_eq!(drops.load(Ordering::Relaxed), 0, "dropping a model could wait for the device");
}

#[tokio::test]
async fn a_load_that_finds_the_device_gone_tells_and_ends_the_lanes() {
    let mut engine = Engine::start();
    let stable = engine.load().await.unwrap();
    let draining = engine.handle.clone();
    let mut talking = engine.ask(stable.lane, vec![1, 2]);
    while !matches!(talking.recv().await, Some(SeqEvent::Token { .. })) {}
    let unload =
        tokio::spawn(async move { draining.unload(stable.lane, Duration::from_secs(60)).await });
    let make = || Err(LoadError::DeviceLost("an illegal address".to_owned()));
    let loaded = engine.handle.load(SchedulerConfig::default(), make).await;
    assert!(loaded.unwrap_err().to_string().contains("an illegal address"));
    let what = "an illegal address".to_owned();
    assert_eq!(engine.faults.recv().await, Some(EngineFault::Device { lane: None, what }));
    assert!(is_lost(&end(talking).await));
    assert!(unload.await.unwrap().is_err(), "nobody waits for memory that does not come back");
}

/// Whether a reply had a matched step, once it has ended.
async fn matched(mut events: UnboundedReceiver<SeqEvent>) -> bool {
    let mut matched = false;
    while let Some(event) = events.recv().await {
        match event {
            SeqEvent::Token { work, .. } => matched = work.matched.is_some(),
            SeqEvent::Finished { .. } => return matched,
            SeqEvent::Started { .. } => {}
            other => panic!("{other:?}"),
        }
    }
    panic!("it has not ended");
}

#[tokio::test]
async fn steps_of_two_models_at_once_are_matched_and_of_one_alone_are_not() {
    let engine = Engine::start();
    let (one, other) = (engine.load().await.unwrap(), engine.load().await.unwrap());
    assert!(!matched(engine.ask(one.lane, vec![1, 2])).await, "alone");
    let busy = engine.ask(one.lane, vec![1, 2]);
    let few = engine.ask(other.lane, vec![3, 4]);
    let (busy, few) = tokio::join!(matched(busy), matched(few));
    assert!(busy && few, "both at once: {busy} {few}");
    let mut many: Vec<_> = (0..5).map(|_| engine.ask(one.lane, vec![1, 2])).collect();
    many.push(engine.ask(other.lane, vec![3, 4]));
    let many = futures_util::future::join_all(many.into_iter().map(matched)).await;
    assert!(many[..5].iter().any(|matched| *matched) && many[5], "{many:?}");
}

mod in_flight;
