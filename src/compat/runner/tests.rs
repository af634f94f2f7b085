//! The runner over scripted instances: pieces, slots, scores, and instances that fail.

use super::*;
use crate::engine::{EngineHandle, LaneId, SchedulerConfig, SeqEvent, SeqRequest};
use crate::model::{SamplingParams, logprobs};
use parking_lot::Mutex;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};

const VOCAB: usize = 32;
const MAX_LEN: usize = 64;
/// Tokens on which an instance fails, and panics.
const FAILS: u32 = 30;
const PANICS: u32 = 31;

/// Its logits depend on every token that it was fed.
struct Scripted {
    seen: Vec<u32>,
    pieces: Arc<Mutex<Vec<usize>>>,
}

/// The logits after these tokens; those of the tokens that do harm are low.
fn logits(seen: &[u32]) -> Vec<f32> {
    let hash = seen.iter().fold(7u32, |hash, id| hash.wrapping_mul(31).wrapping_add(*id + 1));
    // No two are equal.
    let of = |id: u32| (hash.wrapping_mul(2 * id + 1) >> 24) as f32 / 32.0 + id as f32 * 1e-4;
    (0..VOCAB as u32).map(|id| if id < FAILS { of(id) } else { -9.0 }).collect()
}

impl Instance for Scripted {
    fn forward(&mut self, tokens: &Tensor, offset: usize) -> Result<Tensor> {
        let tokens = tokens.flatten_all()?.to_vec1::<u32>()?;
        assert_eq!(offset, self.seen.len(), "the offset is what it was fed");
        self.pieces.lock().push(tokens.len());
        for id in tokens {
            assert_ne!(id, PANICS, "as scripted");
            if id == FAILS {
                return Err(candle_core::Error::Msg("as scripted".into()).bt());
            }
            self.seen.push(id);
        }
        Tensor::from_vec(logits(&self.seen), (1, 1, VOCAB), &Device::Cpu)
    }

    fn clear(&mut self) -> bool {
        self.seen.clear();
        true
    }
}

struct Lane {
    engine: EngineHandle,
    id: LaneId,
    pieces: Arc<Mutex<Vec<usize>>>,
    made: Arc<Mutex<usize>>,
}

impl Lane {
    async fn load(slots: usize, chunks: Chunks, max_batch_tokens: usize) -> Lane {
        let (engine, _faults) = EngineHandle::start().unwrap();
        let (pieces, made) = (Arc::new(Mutex::new(Vec::new())), Arc::new(Mutex::new(0)));
        let (to, count) = (pieces.clone(), made.clone());
        let load = move || {
            let make: Make = Box::new(move || {
                *count.lock() += 1;
                Ok(Box::new(Scripted { seen: Vec::new(), pieces: to.clone() }))
            });
            let plan = Plan { slots, max_len: MAX_LEN, slot_bytes: 0 };
            let runner = CompatRunner::new(make, plan, VOCAB, chunks, Threads::start().unwrap());
            Ok(Box::new(runner.unwrap()) as Box<dyn Runner>)
        };
        let config = SchedulerConfig {
            max_running: slots,
            max_batch_tokens,
            prefix_cache: false,
            ..SchedulerConfig::default()
        };
        let id = engine.load(config, load).await.unwrap().lane;
        pieces.lock().clear();
        Lane { engine, id, pieces, made }
    }

    fn submit(&self, prompt: &[u32], params: SamplingParams) -> UnboundedReceiver<SeqEvent> {
        let (events, inbox) = unbounded_channel();
        let request = SeqRequest {
            tag: 0,
            prompt: prompt.to_vec(),
            params,
            max_new_tokens: 8,
            stop_ids: vec![],
            cache_salt: 0,
            events,
            background: false,
            guide: None,
            arrived: Instant::now(),
        };
        self.engine.submit(self.id, vec![request]).unwrap();
        inbox
    }

    async fn unload(self) {
        let report = self.engine.unload(self.id, Duration::from_secs(5)).await.unwrap();
        assert_eq!((report.used_after, report.reserved_after, report.blocks_leaked), (0, 0, 0));
    }
}

/// Tokens and scores, or what the sequence failed with.
async fn collect(
    mut inbox: UnboundedReceiver<SeqEvent>,
) -> std::result::Result<(Vec<u32>, Vec<f32>), String> {
    let (mut ids, mut scored) = (Vec::new(), Vec::new());
    while let Some(event) = inbox.recv().await {
        match event {
            SeqEvent::Started { .. } => {}
            SeqEvent::Scored { scores, .. } => scored = scores.iter().map(|s| s.logprob).collect(),
            SeqEvent::Token { id, .. } => ids.push(id),
            SeqEvent::Finished { .. } => return Ok((ids, scored)),
            SeqEvent::Failed { fault, .. } => return Err(fault.to_string()),
            other => panic!("unexpected {other:?}"),
        }
    }
    panic!("the stream ended early");
}

fn expected(prompt: &[u32]) -> Vec<u32> {
    let mut seen = prompt.to_vec();
    for _ in 0..8 {
        seen.push(logprobs::top(&logits(&seen), 1)[0].0);
    }
    seen.split_off(prompt.len())
}

fn prompt(seed: u32, len: u32) -> Vec<u32> {
    (0..len).map(|i| (seed * 7 + i * i * 5 + i) % FAILS).collect()
}

#[tokio::test]
async fn replies_are_the_same_whatever_the_pieces_slots_and_chunks() {
    for chunks in [Chunks::Any, Chunks::First, Chunks::Single] {
        for (slots, max_batch_tokens) in [(1, 64), (2, 7), (4, 64), (3, 5)] {
            let lane = Lane::load(slots, chunks, max_batch_tokens).await;
            let prompts: Vec<_> = (0..9).map(|seed| prompt(seed, 1 + seed * 5)).collect();
            let greedy = SamplingParams::greedy();
            let scored = SamplingParams { score_last: 6, ..greedy.clone() };
            let params = |i: usize| if i % 3 == 2 { scored.clone() } else { greedy.clone() };
            let inboxes: Vec<_> =
                prompts.iter().enumerate().map(|(i, one)| lane.submit(one, params(i))).collect();
            for (i, inbox) in inboxes.into_iter().enumerate() {
                let (ids, scores) = collect(inbox).await.unwrap();
                assert_eq!(ids, expected(&prompts[i]), "{chunks:?}, {slots} slots, prompt {i}");
                let known = if i % 3 == 2 { 6.min(prompts[i].len() - 1) } else { 0 };
                assert_eq!(scores.len(), known);
                for (score, at) in scores.iter().zip(prompts[i].len() - known..) {
                    let row = logits(&prompts[i][..at]);
                    let want = logprobs::score(&row, prompts[i][at], 0, false).unwrap().logprob;
                    assert!((score - want).abs() < 1e-4, "prompt {i}, token {at}");
                }
            }
            assert!(*lane.made.lock() <= slots, "cleared instances are used again");
            lane.unload().await;
        }
    }
}

#[tokio::test]
async fn pieces_are_as_large_as_the_model_allows() {
    for (chunks, pieces) in [
        (Chunks::Any, vec![7, 7, 6]),
        (Chunks::First, [&[7usize][..], &[1; 13]].concat()),
        (Chunks::Single, vec![1; 20]),
    ] {
        let lane = Lane::load(1, chunks, 7).await;
        collect(lane.submit(&prompt(1, 20), SamplingParams::greedy())).await.unwrap();
        let seen = lane.pieces.lock().clone();
        assert_eq!(seen[..pieces.len()], pieces, "{chunks:?}");
        assert!(seen[pieces.len()..].iter().all(|piece| *piece == 1));
        lane.unload().await;
    }
}

#[tokio::test]
async fn an_instance_that_fails_takes_only_its_own_sequence_with_it() {
    for bad in [FAILS, PANICS] {
        for at in [0, 3, 19] {
            // Chunks of 8, so that a failure at 3 is in a row that yields nothing.
            let lane = Lane::load(3, Chunks::Any, 8).await;
            let mut spoilt = prompt(3, 20);
            spoilt[at] = bad;
            for round in 0..2 {
                let good = prompt(round, 12);
                let before = lane.submit(&good, SamplingParams::greedy());
                let failing = lane.submit(&spoilt, SamplingParams::greedy());
                let scored = SamplingParams { score_last: 19, ..SamplingParams::greedy() };
                let scoring = lane.submit(&spoilt, scored);
                let after = lane.submit(&good, SamplingParams::greedy());
                for inbox in [failing, scoring] {
                    let why = collect(inbox).await.unwrap_err();
                    assert!(why.contains("scripted") || why.contains("an earlier step"), "{why}");
                    assert!(!why.contains('\n'), "one line: {why}");
                }
                for inbox in [before, after] {
                    assert_eq!(collect(inbox).await.unwrap().0, expected(&good), "round {round}");
                }
            }
            assert!(*lane.made.lock() > 3, "a spoilt slot begins with a new instance");
            lane.unload().await;
        }
    }
}

#[tokio::test]
async fn a_cancelled_sequence_leaves_its_slot_to_the_next() {
    let lane = Lane::load(1, Chunks::Any, 4).await;
    for seed in 0..20 {
        drop(lane.submit(&prompt(seed, 30), SamplingParams::greedy()));
        let kept = prompt(seed + 1, 9);
        let (ids, _) = collect(lane.submit(&kept, SamplingParams::greedy())).await.unwrap();
        assert_eq!(ids, expected(&kept));
    }
    lane.unload().await;
}

#[test]
fn a_model_that_cannot_compute_a_token_is_refused() {
    struct Broken;
    impl Instance for Broken {
        fn forward(&mut self, _: &Tensor, _: usize) -> Result<Tensor> {
            Tensor::from_vec(vec![0.0f32; 3], (1, 3), &Device::Cpu)
        }
        fn clear(&mut self) -> bool {
            true
        }
    }
    let plan = Plan { slots: 1, max_len: 8, slot_bytes: 0 };
    let make: Make = Box::new(|| Ok(Box::new(Broken)));
    let threads = Threads::start().unwrap();
    let why = CompatRunner::new(make, plan, VOCAB, Chunks::Any, threads).err().unwrap();
    assert!(why.contains("3 logits instead of 32"), "{why}");
}
