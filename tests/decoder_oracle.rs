//! The batched, paged decoder compared with candle-transformers' own Llama on the same checkpoint: greedy
//! tokens must be equal, however the work was split, mixed or interrupted.
//!
//! Both compute in f32 and differ only in the order of their sums, which depends on the instruction set. So
//! only those replies are compared for which all of candle's margins are wider than such differences can be.

use candle_core::{DType, Device, Tensor};
use candle_nn::VarBuilder;
use candle_transformers::models::llama::{Cache, Config, Llama, LlamaConfig};
use serde_json::{Value, json};
use serin::engine::{
    Capacity, EngineHandle, FinishReason, LaneId, ModelRunner, Runner, SchedulerConfig, SeqEvent,
    SeqRequest,
};
use serin::model::{Checkpoint, Decoder, KvPlan, LoadFormat, SamplingParams, Weights, logprobs};
use serin::text::{Chat, Codec};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};

const MAX_NEW: usize = 40;
/// Smallest margin at which tokens have to be equal, relative to the largest logit: twice the possible error
/// of a logit (`TOLERANCE` in `family_oracle`).
const MARGIN: f32 = 2e-3;

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("models/tiny-v1")
}

/// Fifty conversations of different lengths: one to three turns, with and without a system message.
fn prompts(codec: &Codec) -> Vec<Vec<u32>> {
    let text = std::fs::read_to_string(folder().join("../questions.json")).unwrap();
    let questions: Vec<Value> = serde_json::from_str(&text).unwrap();
    let turn = |role: &str, q: &Value, key: &str| json!({"role": role, "content": q[key]});
    (0..50)
        .map(|i| {
            let mut messages = Vec::new();
            if i % 4 == 0 {
                messages.push(json!({"role": "system", "content": "You are a helpful assistant."}));
            }
            for k in 0..i % 3 {
                let q = &questions[(i * 7 + k * 31) % questions.len()];
                messages.push(turn("user", q, "question"));
                messages.push(turn("assistant", q, "answer"));
            }
            messages.push(turn("user", &questions[(i * 11) % questions.len()], "question"));
            let chat = Chat {
                messages: &messages,
                ending: Default::default(),
                tools: None,
                extra: None,
                today: None,
            };
            codec.encode_chat(&chat, false).unwrap().0
        })
        .collect()
}

/// Greedy replies from candle-transformers, one sequence at a time with a contiguous cache, and the smallest
/// margin.
fn oracle(prompts: &[Vec<u32>], eos: &[u32]) -> Vec<(Vec<u32>, f32)> {
    let text = std::fs::read_to_string(folder().join("config.json")).unwrap();
    let config: Config = serde_json::from_str::<LlamaConfig>(&text).unwrap().into_config(false);
    let weights = candle_core::safetensors::load(folder().join("model.safetensors"), &Device::Cpu);
    let vars = VarBuilder::from_tensors(weights.unwrap(), DType::F32, &Device::Cpu);
    let llama = Llama::load(vars, &config).unwrap();
    let reply = |prompt: &Vec<u32>| {
        let mut cache = Cache::new(true, DType::F32, &config, &Device::Cpu).unwrap();
        let mut input = prompt.clone();
        let (mut position, mut out, mut narrowest) = (0, Vec::new(), f32::INFINITY);
        while out.len() < MAX_NEW {
            let ids = Tensor::new(input.as_slice(), &Device::Cpu).unwrap().unsqueeze(0).unwrap();
            let logits = llama.forward(&ids, position, &mut cache).unwrap();
            let logits: Vec<f32> = logits.squeeze(0).unwrap().to_vec1().unwrap();
            let best = logprobs::top(&logits, 2);
            let largest = logits.iter().fold(0f32, |max, v| max.max(v.abs()));
            narrowest = narrowest.min((best[0].1 - best[1].1) / largest);
            let next = best[0].0;
            if eos.contains(&next) {
                break;
            }
            out.push(next);
            position += input.len();
            input = vec![next];
        }
        (out, narrowest)
    };
    prompts.iter().map(reply).collect()
}

struct Lane {
    engine: EngineHandle,
    lane: LaneId,
    stats: std::sync::Arc<serin::engine::LaneStats>,
}

async fn load(scheduler: SchedulerConfig, blocks: usize, block_size: usize) -> Lane {
    let (engine, _faults) = EngineHandle::start().unwrap();
    let make = move || {
        let decoder = Decoder::load(
            &Weights::open(&folder(), LoadFormat::Auto)?,
            KvPlan::exact(blocks, block_size),
        )?;
        Ok(Box::new(ModelRunner::new(decoder)) as Box<dyn Runner>)
    };
    let loaded = engine.load(scheduler, make).await.unwrap();
    let expected = Capacity { blocks, block_size, ..loaded.capacity };
    assert_eq!(loaded.capacity, expected);
    Lane { engine, lane: loaded.lane, stats: loaded.stats }
}

impl Lane {
    fn submit(&self, prompt: &[u32], eos: &[u32]) -> UnboundedReceiver<SeqEvent> {
        let (events, inbox) = unbounded_channel();
        let request = SeqRequest {
            tag: 0,
            prompt: prompt.to_vec(),
            params: SamplingParams::greedy(),
            max_new_tokens: MAX_NEW,
            stop_ids: eos.to_vec(),
            cache_salt: 0,
            events,
            background: false,
            guide: None,
            arrived: Instant::now(),
        };
        self.engine.submit(self.lane, vec![request]).unwrap();
        inbox
    }

    async fn groups(&self, prompts: &[Vec<u32>], eos: &[u32], size: usize) -> Vec<Vec<u32>> {
        let mut replies = Vec::new();
        for group in prompts.chunks(size) {
            let inboxes: Vec<_> = group.iter().map(|p| self.submit(p, eos)).collect();
            for inbox in inboxes {
                replies.push(collect(inbox).await);
            }
        }
        replies
    }

    async fn unload_clean(self) -> u64 {
        let preemptions = self.stats.read().preemptions;
        let report = self.engine.unload(self.lane, Duration::from_secs(5)).await.unwrap();
        assert_eq!((report.used_after, report.reserved_after, report.blocks_leaked), (0, 0, 0));
        assert!(report.used_before > 1 << 20, "weights and cache were in the arena");
        preemptions
    }
}

async fn collect(mut inbox: UnboundedReceiver<SeqEvent>) -> Vec<u32> {
    let mut ids = Vec::new();
    while let Some(event) = inbox.recv().await {
        match event {
            SeqEvent::Started { .. } => assert!(ids.is_empty()),
            SeqEvent::Token { id, .. } => ids.push(id),
            SeqEvent::Finished { reason, timings, .. } => {
                assert_eq!(reason == FinishReason::Length, ids.len() == MAX_NEW);
                assert_eq!(timings.output_tokens, ids.len());
                return ids;
            }
            other => panic!("unexpected {other:?}"),
        }
    }
    panic!("the stream ended early");
}

#[tokio::test]
async fn greedy_tokens_equal_candle_transformers() {
    let codec =
        Codec::load(&folder(), Checkpoint::open(&folder()).unwrap().config().vocab).unwrap();
    let (prompts, eos) = (prompts(&codec), codec.eos_ids());
    let replies = prompts.iter().cloned().zip(oracle(&prompts, eos));
    let wide = replies.filter(|(_, (_, narrowest))| *narrowest > MARGIN);
    let (prompts, expected): (Vec<_>, Vec<_>) = wide.map(|(p, (reply, _))| (p, reply)).unzip();
    println!("{} of 50 replies have no near-tie", prompts.len());
    assert!(prompts.len() >= 40, "too few: {}", prompts.len());
    let longest = prompts.iter().zip(&expected).map(|(p, r)| p.len() + r.len()).max().unwrap();
    assert!(expected.iter().all(|reply| reply.len() > 2), "the oracle says something");
    let wide = SchedulerConfig {
        max_running: 8,
        max_batch_tokens: 2048,
        max_waiting: 64,
        prefix_cache: false,
        reserved_tokens: 0,
    };
    let chunked = SchedulerConfig { max_batch_tokens: 11, ..wide };

    let alone = load(wide, 64, 16).await;
    assert_eq!(alone.groups(&prompts, eos, 1).await, expected, "alone");
    alone.unload_clean().await;

    let mixed = load(wide, 256, 16).await;
    assert_eq!(mixed.groups(&prompts, eos, 8).await, expected, "batches of 8");
    assert_eq!(mixed.unload_clean().await, 0);

    let pieces = load(chunked, 256, 16).await;
    assert_eq!(pieces.groups(&prompts, eos, 8).await, expected, "batches of 8, chunked");
    assert_eq!(pieces.unload_clean().await, 0);

    for (name, scheduler) in [("whole", wide), ("chunked", chunked)] {
        // Room for little more than the longest sequence, so that others must be preempted.
        let tight = load(scheduler, longest.div_ceil(4) + 4, 4).await;
        assert_eq!(tight.groups(&prompts, eos, 8).await, expected, "preempted, {name}");
        let preemptions = tight.unload_clean().await;
        assert!(preemptions > 0, "{name}: nothing was preempted");
        println!("{name}: {preemptions} preemptions");
    }
}
