//! Every CPU kernel at the shapes of Qwen3-0.6B, with a roofline measured in the same run.
//!
//! `cargo run --release --example cpu_kernels -- [threads] [kind ..]`; `SERIN_ISA` caps the instruction
//! set. Weights are random and of real size, one copy per layer, so that they come from memory as they
//! would; a step is a whole forward pass over them: embedding, norms, products, attention with q/k norms
//! over a paged f16 cache, gate, output head.

use serin::device::batch::{Batch, Row};
use serin::device::kernels::attention::{AttendScratch, Attention, attend_into};
use serin::device::kernels::cache::{KvCache, KvKind, KvShape};
use serin::device::kernels::isa::Isa;
use serin::device::kernels::ops::{Activation, add_rms_norm, gated};
use serin::device::kernels::pool::Pool;
use serin::device::kernels::quant::{Kind, QMatrix, Scratch, WeightStore, matmul_many};
use serin::device::kernels::rope::RopeTable;
use std::hint::black_box;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

const LAYERS: usize = 28;
const HIDDEN: usize = 1024;
const HEAD_DIM: usize = 128;
const Q: usize = 16 * HEAD_DIM;
const KV: usize = 8 * HEAD_DIM;
const INTERMEDIATE: usize = 3072;
const VOCAB: usize = 151_936;
const REPEATS: usize = 5;
const DECODE_REPEATS: usize = 60;

struct Layer {
    qkv: [QMatrix; 3],
    out: QMatrix,
    gate_up: [QMatrix; 2],
    down: QMatrix,
}

struct Model {
    layers: Vec<Layer>,
    head: QMatrix,
    bytes: usize,
}

/// The kinds of a file: most matrices, and those that get more bits.
#[derive(Clone, Copy)]
struct Mix {
    name: &'static str,
    base: Kind,
    more: Kind,
}

const MIXES: [Mix; 4] = [
    Mix { name: "q4_k_m", base: Kind::Q4K, more: Kind::Q6K },
    Mix { name: "q8_0", base: Kind::Q8_0, more: Kind::Q8_0 },
    Mix { name: "q4_0", base: Kind::Q4_0, more: Kind::Q4_0 },
    Mix { name: "bf16", base: Kind::Bf16, more: Kind::Bf16 },
];

fn random_matrix(
    store: &mut WeightStore,
    pool: &Pool,
    kind: Kind,
    rows: usize,
    cols: usize,
) -> QMatrix {
    let row = kind.row_bytes(cols).expect("whole blocks");
    let mut state = 0x9e37_79b9_7f4a_7c15u64 ^ (rows * cols) as u64;
    let mut bytes: Vec<u8> = Vec::with_capacity(row * rows + 8);
    while bytes.len() < row * rows {
        state =
            state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        bytes.extend_from_slice(&(state ^ state >> 29).to_le_bytes());
    }
    bytes.truncate(row * rows);
    for block in bytes.chunks_exact_mut(kind.block_bytes()) {
        // Small f16 scales; bf16 and f16 values near 2^-7.
        let at = if kind == Kind::Q6K { 208 } else { 0 };
        let high = if kind == Kind::Bf16 { 0x3c } else { 0x14 };
        block[at + 1] = high;
        if matches!(kind, Kind::Q4K | Kind::Q5K) {
            block[3] = 0x14;
        }
    }
    QMatrix::new_in(store, pool, kind, rows, cols, &bytes).expect("a valid matrix")
}

fn gets_more(layer: usize) -> bool {
    !(LAYERS / 8..7 * LAYERS / 8).contains(&layer) || (layer - LAYERS / 8) % 3 == 2
}

fn model(mix: Mix, pool: &Pool) -> Model {
    let shapes = |layer: usize| {
        let more = if gets_more(layer) { mix.more } else { mix.base };
        [
            (mix.base, Q, HIDDEN),
            (mix.base, KV, HIDDEN),
            (more, KV, HIDDEN),
            (mix.base, HIDDEN, Q),
            (mix.base, INTERMEDIATE, HIDDEN),
            (mix.base, INTERMEDIATE, HIDDEN),
            (more, HIDDEN, INTERMEDIATE),
        ]
    };
    let size = |(k, r, c)| QMatrix::packed_bytes(k, r, c).expect("a valid shape");
    let head = (mix.more, VOCAB, HIDDEN);
    let bytes = (0..LAYERS).flat_map(shapes).map(size).sum::<usize>() + size(head);
    let mut store = WeightStore::new(bytes).expect("memory");
    let mut make = |(k, r, c)| random_matrix(&mut store, pool, k, r, c);
    let layers = (0..LAYERS).map(|i| {
        let [q, k, v, out, gate, up, down] = shapes(i).map(&mut make);
        Layer { qkv: [q, k, v], out, gate_up: [gate, up], down }
    });
    let layers = layers.collect();
    Model { layers, head: make(head), bytes }
}

/// Seconds per call, the best of a few.
fn best(mut call: impl FnMut()) -> f64 {
    let mut least = f64::MAX;
    for _ in 0..REPEATS {
        let start = Instant::now();
        call();
        least = least.min(start.elapsed().as_secs_f64());
    }
    least
}

/// Read bandwidth of all threads over memory far larger than the caches, bytes per second.
fn roofline(pool: &Pool) -> f64 {
    let words = vec![1u64; (256 << 20) / 8];
    let sum = AtomicU64::new(0);
    let parts = 256;
    let each = words.len() / parts;
    let seconds = best(|| {
        pool.run(parts, &|i| {
            let part = &words[i * each..(i + 1) * each];
            let mut sums = [0u64; 32];
            for chunk in part.chunks_exact(32) {
                for (s, w) in sums.iter_mut().zip(chunk) {
                    *s ^= w;
                }
            }
            sum.fetch_add(sums.iter().sum(), Ordering::Relaxed);
        });
    });
    black_box(sum);
    (words.len() * 8) as f64 / seconds
}

/// Buffers of a forward pass, and how long its parts took, in seconds: products, head, attention, rest.
struct Step<'a> {
    model: &'a Model,
    cache: KvCache,
    rope: RopeTable,
    scratch: Scratch,
    attend: AttendScratch,
    pool: Arc<Pool>,
    buffers: [Vec<f32>; 6],
    times: [f64; 4],
}

const NORM: [f32; HIDDEN] = [1.0; HIDDEN];
const HEAD_NORM: [f32; HEAD_DIM] = [1.0; HEAD_DIM];

impl<'a> Step<'a> {
    fn new(model: &'a Model, pool: &Arc<Pool>, kind: KvKind) -> Step<'a> {
        let shape = KvShape {
            layers: LAYERS,
            blocks: 700,
            block_size: 16,
            kv_heads: 8,
            head_dim: HEAD_DIM,
        };
        let inv_freq: Vec<f32> = (0..64).map(|i| 1e6f32.powf(-(i as f32) / 64.0)).collect();
        Step {
            model,
            cache: KvCache::with_kind(shape, kind),
            rope: RopeTable::new(&inv_freq, 2048),
            scratch: Scratch::new(pool.clone(), Isa::best()),
            attend: AttendScratch::default(),
            pool: pool.clone(),
            buffers: Default::default(),
            times: [0.0; 4],
        }
    }

    fn timed<T>(&mut self, slot: usize, call: impl FnOnce(&mut Self) -> T) -> T {
        let start = Instant::now();
        let result = call(self);
        self.times[slot] += start.elapsed().as_secs_f64();
        result
    }

    fn product(&mut self, matrices: &[&QMatrix], n: usize, from: usize, to: usize) {
        let rows: usize = matrices.iter().map(|m| m.rows()).sum();
        let cols = matrices[0].cols();
        let x = std::mem::take(&mut self.buffers[from]);
        let mut out = std::mem::take(&mut self.buffers[to]);
        out.resize(out.len().max(n * rows), 0.0);
        matmul_many(matrices, &x[..n * cols], n, &mut out[..n * rows], &mut self.scratch);
        (self.buffers[from], self.buffers[to]) = (x, out);
    }

    /// Adds buffer 2 to the stream (0) and norms it into 1.
    fn norm(&mut self, n: usize) {
        let [x, normed, branch, ..] = &mut self.buffers;
        let len = n * HIDDEN;
        let near = (&*self.pool, Isa::best());
        add_rms_norm(&mut x[..len], &branch[..len], &NORM, 1e-6, &mut normed[..len], near);
    }

    /// A forward pass as a decoder would make it; `batch` says how many tokens and which rows.
    fn forward(&mut self, batch: &Batch) {
        let n = batch.tokens.len();
        let model = self.model;
        for (buffer, width) in self.buffers.iter_mut().zip([HIDDEN, Q, HIDDEN, 4096, 6144, 3072]) {
            buffer.resize(buffer.len().max(n * width), 0.0);
        }
        for (t, token) in batch.tokens.iter().enumerate() {
            model.head.row(*token as usize, &mut self.buffers[0][t * HIDDEN..(t + 1) * HIDDEN]);
        }
        self.buffers[2].fill(0.0);
        for (i, layer) in model.layers.iter().enumerate() {
            self.timed(3, |s| s.norm(n));
            self.timed(0, |s| s.product(&layer.qkv.each_ref(), n, 1, 3));
            self.timed(2, |s| s.attention(i, batch));
            self.timed(0, |s| s.product(&[&layer.out], n, 1, 2));
            self.timed(3, |s| s.norm(n));
            self.timed(0, |s| s.product(&layer.gate_up.each_ref(), n, 1, 4));
            self.timed(3, |s| {
                let [_, _, _, _, gate_up, out] = &mut s.buffers;
                let near = (&*s.pool, Isa::best());
                let (gate_up, out) =
                    (&gate_up[..n * 2 * INTERMEDIATE], &mut out[..n * INTERMEDIATE]);
                gated(Activation::Silu, gate_up, INTERMEDIATE, out, near);
            });
            self.timed(0, |s| s.product(&[&layer.down], n, 5, 2));
        }
        self.timed(3, |s| s.norm(n));
        for (i, token) in batch.wanted_tokens().enumerate() {
            let at = token * HIDDEN;
            self.buffers[1].copy_within(at..at + HIDDEN, i * HIDDEN);
        }
        let rows = batch.wanted_tokens().count();
        self.timed(1, |s| s.product(&[&model.head], rows, 1, 4));
    }

    fn attention(&mut self, layer: usize, batch: &Batch) {
        let n = batch.tokens.len();
        let attention = Attention {
            q_norm: Some(&HEAD_NORM),
            k_norm: Some(&HEAD_NORM),
            ..Attention::plain(Q / HEAD_DIM, HEAD_DIM)
        };
        let [_, out, _, qkv, ..] = &mut self.buffers;
        attend_into(
            &attention,
            &mut qkv[..n * 4096],
            &self.rope,
            &mut self.cache,
            layer,
            batch,
            &mut out[..n * Q],
            &mut self.attend,
            (&self.pool, Isa::best()),
        );
    }

    /// The best of several passes: seconds, and its parts.
    fn best(&mut self, batch: &Batch, repeats: usize) -> (f64, [f64; 4]) {
        let mut least = (f64::MAX, [0.0; 4]);
        for _ in 0..repeats {
            self.times = [0.0; 4];
            let start = Instant::now();
            self.forward(batch);
            let all = start.elapsed().as_secs_f64();
            if all < least.0 {
                least = (all, self.times);
            }
        }
        black_box(&self.buffers);
        least
    }
}

/// `rows` sequences, each with `len` new tokens of which the last is at position `context - 1`.
fn batch(rows: usize, len: usize, context: usize) -> Batch {
    let mut batch = Batch::default();
    let blocks = context.div_ceil(16);
    for row in 0..rows {
        let (start, table) = (batch.tokens.len(), batch.tables.len());
        batch.tables.extend((0..blocks).map(|i| (row * blocks + i * 7 % blocks) as u32));
        for p in context - len..context {
            batch.tokens.push((p * 7919 % VOCAB) as u32);
            batch.positions.push(p as u32);
            batch.slots.push(batch.tables[table + p / 16] * 16 + p as u32 % 16);
        }
        batch.rows.push(Row {
            start,
            len,
            context,
            total: context,
            table,
            table_len: blocks,
            sample: true,
            scored: 0,
        });
    }
    batch
}

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let threads = args.first().and_then(|a| a.parse().ok()).unwrap_or(2);
    let wanted = |name: &str| args.len() < 2 || args[1..].iter().any(|a| a == name);
    let pool = Arc::new(Pool::new(threads));
    println!("{threads} threads, {}; times in ms, the best pass of several", Isa::best().name());
    for mix in MIXES.into_iter().filter(|m| wanted(m.name)) {
        let start = Instant::now();
        let model = model(mix, &pool);
        let made = start.elapsed().as_secs_f64();
        println!("\n{}: {} MB packed, made in {made:.1} s", mix.name, model.bytes / 1_000_000);
        println!("| step | all | products | head | attention | rest | tok/s | GB/s | roofline |");
        println!("|---|---|---|---|---|---|---|---|---|");
        let mut step = Step::new(&model, &pool, KvKind::F16);
        let shapes =
            [(1, 1, 128), (1, 1, 512), (2, 1, 128), (4, 1, 128), (8, 1, 128), (16, 1, 128)];
        for (rows, len, context) in shapes.into_iter().chain([(1, 512, 512)]) {
            let repeats = if len > 1 { REPEATS } else { DECODE_REPEATS };
            let roof = roofline(&pool);
            let (all, parts) = step.best(&batch(rows, len, context), repeats);
            let cells: Vec<String> = parts.iter().map(|t| format!("{:.2}", t * 1e3)).collect();
            let name = if len > 1 { "prefill" } else { "decode" };
            println!(
                "| {name} {rows} x {len} at {context} | {:.2} | {} | {:.1} | {:.1} | {:.1} |",
                all * 1e3,
                cells.join(" | "),
                (rows * len) as f64 / all,
                model.bytes as f64 / (parts[0] + parts[1]) / 1e9,
                roof / 1e9
            );
        }
    }
}
