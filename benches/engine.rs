//! Microbenchmarks of the engine's hot paths: a scheduler step without tensors, the sampler, paged attention.
//!
//! Shapes are those of Qwen3-0.6B. Target: a scheduler step with 64 decoding sequences below 20 us. Figures
//! are in `benches/runs/hot-parts.md`.

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use serin::device::{
    Angles, AttentionSpec, Batch, HeadNorm, KvCache, KvKind, KvShape, Rope, Row, Workbench, attend,
};
use serin::engine::scheduler::Scheduler;
use serin::engine::{Capacity, Load, Sampled, SchedulerConfig, SeqEvent, SeqRequest, Step};
use serin::model::sampler::sample;
use serin::model::{Draw, SamplingParams};
use std::hint::black_box;
use std::time::{Duration, Instant};
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};

const VOCAB: usize = 151_936;
const BLOCK: usize = 16;
/// Sequences of a scheduler bench begin at the first length and are replaced at the second.
const LENGTHS: [usize; 2] = [256, 768];

/// A scheduler whose sequences have all decoded their first token, and the receivers of their events.
struct Running {
    scheduler: Scheduler,
    batch: Batch,
    inboxes: Vec<UnboundedReceiver<SeqEvent>>,
    now: Instant,
}

impl Running {
    fn new(sequences: usize, now: Instant) -> Running {
        let capacity = Capacity {
            blocks: sequences * (LENGTHS[1] / BLOCK + 8),
            block_size: BLOCK,
            vocab: VOCAB,
            max_len: 4096,
            rope_switch: None,
        };
        let config = SchedulerConfig { max_running: sequences, ..SchedulerConfig::default() };
        let mut scheduler = Scheduler::new(config, capacity);
        let mut inboxes = Vec::new();
        for tag in 0..sequences as u32 {
            let (events, inbox) = unbounded_channel();
            let prompt = (0..LENGTHS[0] as u32).map(|i| (i * 7919 + tag * 104_729) % 150_000);
            scheduler.admit(SeqRequest {
                tag,
                prompt: prompt.collect(),
                params: SamplingParams::greedy(),
                max_new_tokens: 4096,
                stop_ids: vec![VOCAB as u32 - 1],
                cache_salt: 0,
                events,
                background: false,
                guide: None,
                arrived: now,
            });
            inboxes.push(inbox);
        }
        let mut running = Running { scheduler, batch: Batch::default(), inboxes, now };
        while running.step() < sequences || running.batch.tokens.len() > sequences {}
        running.drain();
        running
    }

    /// Everything of a step except the model; returns the number of tokens.
    fn step(&mut self) -> usize {
        self.scheduler.schedule(&mut self.batch, self.now);
        let yields = self.scheduler.draws().len();
        let results = (0..yields as u32).map(|i| Sampled::token(1 + i)).collect();
        let all = Load::of_batch(&self.batch);
        let step = Step { took: Duration::ZERO, all, model: None, matched: false };
        self.scheduler.complete(results, self.now, &step);
        yields
    }

    /// Reads the sequences' events, which is normally the work of other threads.
    fn drain(&mut self) {
        self.inboxes.iter_mut().for_each(|inbox| while inbox.try_recv().is_ok() {});
    }

    /// Time for this number of steps, without the setup.
    fn timed(sequences: usize, steps: u64) -> Duration {
        let (mut took, mut left) = (Duration::ZERO, steps);
        while left > 0 {
            let mut running = Running::new(sequences, Instant::now());
            let most = (LENGTHS[1] - LENGTHS[0]) as u64 - 2;
            for _ in 0..left.min(most) {
                let begun = Instant::now();
                black_box(running.step());
                took += begun.elapsed();
                running.drain();
            }
            left = left.saturating_sub(most);
        }
        took
    }
}

fn scheduler(c: &mut Criterion) {
    let mut group = c.benchmark_group("scheduler step");
    for sequences in [1, 8, 64] {
        group.bench_function(format!("{sequences} decoding"), |b| {
            b.iter_custom(|steps| Running::timed(sequences, steps));
        });
    }
}

/// Uniform in [0, 1), from a counter.
fn noise(i: u64) -> f32 {
    let z = i.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    ((z ^ (z >> 29)).wrapping_mul(0xbf58_476d_1ce4_e5b9) >> 40) as f32 / (1u64 << 24) as f32
}

/// Logits that look like a model's: a wide distribution, and a few that stand out.
fn logits() -> Vec<f32> {
    let heap = (0..VOCAB as u64).map(|i| (0..6).map(|k| noise(6 * i + k) - 0.5).sum::<f32>() * 3.0);
    let mut logits: Vec<f32> = heap.collect();
    for (rank, id) in (0..40).map(|rank| (rank, (rank * 3677 + 11) % VOCAB)) {
        logits[id] = 16.0 - 0.2 * rank as f32;
    }
    logits
}

fn sampler(c: &mut Criterion) {
    let mut group = c.benchmark_group("sampler, one row of 151936");
    let logits = logits();
    let tokens: Vec<u32> = (0..1024).map(|i| i * 97 % 5000).collect();
    let plain = SamplingParams { seed: 7, ..SamplingParams::default() };
    let usual = SamplingParams { temperature: 0.7, top_k: 20, top_p: 0.8, ..plain.clone() };
    let penalties =
        SamplingParams { repetition_penalty: 1.1, presence_penalty: 0.5, ..usual.clone() };
    for (name, params) in [
        ("greedy", SamplingParams::greedy()),
        ("temperature alone", plain.clone()),
        ("top-p 0.95", SamplingParams { top_p: 0.95, ..plain.clone() }),
        ("top-p 0.95 of a flat row", SamplingParams { top_p: 0.95, temperature: 4.0, ..plain }),
        ("temperature 0.7, top-k 20, top-p 0.8", usual),
        ("the same with penalties over 1024 tokens", penalties),
    ] {
        let draw =
            Draw { params: &params, tokens: &tokens, unknown: 0, prompt_len: 512, guide: None };
        group.bench_function(name, |b| {
            let own = || logits.clone();
            b.iter_batched_ref(own, |row| sample(row, &draw), BatchSize::LargeInput);
        });
    }
}

const SHAPE: KvShape =
    KvShape { layers: 1, blocks: 1024, block_size: BLOCK, kv_heads: 8, head_dim: 128 };
const HEADS: usize = 16;

/// A step of rows that each add `len` tokens to `before`.
fn step(rows: usize, before: usize, len: usize) -> Batch {
    let mut batch = Batch::default();
    let blocks = (before + len).div_ceil(BLOCK);
    for row in 0..rows {
        let (start, table) = (batch.tokens.len(), batch.tables.len());
        // Blocks as they are after a while: not in order.
        let block = |i: usize| ((i * 389 + row * blocks * 389) % SHAPE.blocks) as u32;
        batch.tables.extend((0..blocks).map(block));
        for position in before..before + len {
            let slot = block(position / BLOCK) as usize * BLOCK + position % BLOCK;
            batch.tokens.push(0);
            batch.positions.push(position as u32);
            batch.slots.push(slot as u32);
        }
        batch.rows.push(Row {
            start,
            len,
            context: before + len,
            total: before + len,
            table,
            table_len: blocks,
            sample: true,
            scored: 0,
            drawn: None,
        });
    }
    batch
}

fn attention(c: &mut Criterion) {
    let mut group = c.benchmark_group("paged attention, one layer, f16 cache");
    let norm = || vec![1.0; SHAPE.head_dim];
    let spec = AttentionSpec {
        heads: HEADS,
        scale: (SHAPE.head_dim as f32).powf(-0.5),
        window: None,
        soft_cap: None,
        head_norm: Some(HeadNorm { query: norm(), key: norm(), eps: 1e-6 }),
        query_scale: None,
    };
    let half = SHAPE.head_dim / 2;
    let inv_freq = (0..half).map(|i| 1e6f32.powf(-(i as f32) / half as f32)).collect();
    let rope = Rope { inv_freq, factor: 1.0, long: None };
    let mut bench = Workbench::shared();
    let mut cache = KvCache::with_kind(SHAPE, KvKind::F16);
    for (rows, before, len) in [(1, 511, 1), (1, 4095, 1), (8, 511, 1), (16, 511, 1), (1, 0, 512)] {
        let batch = step(rows, before, len);
        let mut angles = Angles::default();
        rope.fill(&batch, &mut angles);
        let tokens = batch.tokens.len();
        let values = (tokens * (HEADS + 2 * SHAPE.kv_heads) * SHAPE.head_dim) as u64;
        let fresh: Vec<f32> = (0..values).map(|i| noise(i) - 0.5).collect();
        let mut out = vec![0.0; tokens * HEADS * SHAPE.head_dim];
        group.throughput(Throughput::Elements(tokens as u64));
        group.bench_function(format!("{rows} x {len} at {}", before + len), |b| {
            let own = || fresh.clone();
            b.iter_batched_ref(
                own,
                |qkv| {
                    let (near, scratch) = (bench.products.near(), &mut bench.attention);
                    attend(&spec, qkv, &angles, &mut cache, 0, &batch, &mut out, scratch, near);
                },
                BatchSize::LargeInput,
            );
        });
    }
}

criterion_group!(benches, scheduler, sampler, attention);
criterion_main!(benches);
