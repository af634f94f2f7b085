//! The products of one token, by kind of weights and instruction set: what limits decoding on a CPU.
//!
//!     cargo run -p serin-kernels --release --example decode_products -- [THREADS] [KIND ...]
//!
//! The matrices are those of `scripts/make_random_gguf.py --kind`: a quarter of a billion weights with random blocks.
//! Prints how fast as many threads read memory, then a line for each kind: tokens per second in the best of many passes,
//! and bytes of weights read per second. The best pass, since other work on a machine only adds to a pass.
//! `scripts/bench_kinds.py` compares with llama.cpp.

use serin_kernels::cpu::isa::Isa;
use serin_kernels::cpu::pool::Pool;
use serin_kernels::cpu::quant::{QMatrix, Scratch, matmul_many};
use serin_kernels::quant::Kind;
use std::error::Error;
use std::hint::black_box;
use std::sync::Arc;
use std::time::Instant;

const HIDDEN: usize = 1024;
const WIDTH: usize = 3072;
const LAYERS: usize = 16;
const VOCAB: usize = 32768;
/// Seconds for one line.
const SECONDS: f64 = 6.0;

/// Matrices with the same input: queries, keys and values; their output; gate and up; down.
const LAYER: [(&[usize], usize); 4] = [
    (&[1024, 512, 512], HIDDEN),
    (&[HIDDEN], HIDDEN),
    (&[WIDTH, WIDTH], HIDDEN),
    (&[HIDDEN], WIDTH),
];

fn main() -> Result<(), Box<dyn Error>> {
    let mut wanted: Vec<String> = std::env::args().skip(1).collect();
    let threads = match wanted.first().and_then(|first| first.parse().ok()) {
        Some(threads) => {
            wanted.remove(0);
            threads
        }
        None => 1,
    };
    println!("read {:.2} GB/s", read_bandwidth(threads) / 1e9);
    for kind in Kind::ALL.into_iter().filter(|kind| kind.is_quantised()) {
        if !wanted.is_empty() && !wanted.contains(&kind.to_string()) {
            continue;
        }
        let model = model(kind)?;
        for isa in Isa::available().into_iter().filter(|isa| isa.has_avx2()) {
            let best = best_pass(&model, threads, isa);
            let bytes: usize = model.iter().flatten().map(QMatrix::bytes).sum();
            println!(
                "{kind} {} {:.2} tokens/s {:.2} GB/s",
                isa.name(),
                1.0 / best,
                bytes as f64 / best / 1e9
            );
        }
    }
    Ok(())
}

/// Bytes per second that threads read of memory that no cache holds, in the best of many passes.
fn read_bandwidth(threads: usize) -> f64 {
    /// Words of 8 bytes of each thread: together with the others', much more than a cache.
    const WORDS: usize = 32 << 20;
    let words: Vec<u64> = (0..WORDS as u64 * threads as u64).collect();
    let (begun, mut best) = (Instant::now(), f64::INFINITY);
    while begun.elapsed().as_secs_f64() < SECONDS / 2.0 {
        let start = Instant::now();
        std::thread::scope(|scope| {
            for part in words.chunks_exact(WORDS) {
                scope.spawn(move || black_box(sum(part)));
            }
        });
        best = best.min(start.elapsed().as_secs_f64());
    }
    (words.len() * 8) as f64 / best
}

/// Sixteen sums side by side, so that additions do not wait for each other.
fn sum(words: &[u64]) -> u64 {
    let mut sums = [0u64; 16];
    for words in words.as_chunks::<16>().0 {
        for (sum, word) in sums.iter_mut().zip(words) {
            *sum = sum.wrapping_add(*word);
        }
    }
    sums.iter().fold(0, |all, sum| all ^ sum)
}

fn model(kind: Kind) -> Result<Vec<Vec<QMatrix>>, Box<dyn Error>> {
    let mut state = 1u64;
    let mut made = Vec::new();
    for (rows, cols) in (0..LAYERS).flat_map(|_| LAYER).chain([(&[VOCAB][..], HIDDEN)]) {
        let group: Result<Vec<QMatrix>, _> =
            rows.iter().map(|rows| matrix(kind, *rows, cols, &mut state)).collect();
        made.push(group?);
    }
    Ok(made)
}

fn matrix(
    kind: Kind,
    rows: usize,
    cols: usize,
    state: &mut u64,
) -> Result<QMatrix, Box<dyn Error>> {
    let row = kind.row_bytes(cols).ok_or("no whole blocks")?;
    let mut bytes = vec![0; rows * row];
    for word in bytes.chunks_mut(8) {
        *state =
            state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        word.copy_from_slice(&(*state ^ *state >> 29).to_le_bytes()[..word.len()]);
    }
    bytes.chunks_exact_mut(kind.block_bytes()).for_each(|block| kind.spread(block, 0.02));
    Ok(QMatrix::new(kind, rows, cols, &bytes)?)
}

/// Seconds of the best of many passes through all matrices.
fn best_pass(model: &[Vec<QMatrix>], threads: usize, isa: Isa) -> f64 {
    let mut scratch = Scratch::new(Arc::new(Pool::new(threads)), isa);
    let x: Vec<f32> = (0..WIDTH).map(|i| (i * 7919 % 2048) as f32 / 1024.0 - 1.0).collect();
    let mut out = vec![0.0; VOCAB];
    let (begun, mut best) = (Instant::now(), f64::INFINITY);
    while begun.elapsed().as_secs_f64() < SECONDS {
        let start = Instant::now();
        for group in model {
            let rows: usize = group.iter().map(QMatrix::rows).sum();
            matmul_many(group, &x[..group[0].cols()], 1, &mut out[..rows], &mut scratch);
        }
        best = best.min(start.elapsed().as_secs_f64());
    }
    best
}
