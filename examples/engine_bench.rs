//! Measures the speed of the engine on a GGUF file: handle, scheduler, sampling and decoder together, as the
//! server uses them, but without HTTP and text.
//!
//! `SERIN_THREADS=2 RAYON_NUM_THREADS=2 cargo run --release --example engine_bench -- FILE.gguf`
//!
//! It measures prefill of 512 tokens, decoding of 1, 8 and 16 sequences, and the TTFT of a second turn
//! compared with that of an unseen prompt of the same length. Prompts are random ids, so no tokenizer is
//! needed. They differ each time, so that the prefix cache helps only where it should.
//!
//! Each figure is printed as soon as it is known, as a line with its own JSON object; together they are the
//! result. So the results so far are kept if the program is ended early. `scripts/bench_cpu.py` runs this in
//! turn with llama.cpp, and `scripts/gpu_check` on a GPU.

use clap::Parser;
use serde_json::{Value, json};
use serin::device::{Device, DeviceChoice, ModelPool};
use serin::engine::{
    CardRunner, EngineHandle, LaneId, ModelRunner, Runner, SchedulerConfig, SeqEvent, SeqRequest,
    Timings,
};
use serin::model::card::weight_bytes;
use serin::model::{
    CardDecoder, CardPlan, Decoder, KvChoice, KvPlan, LoadError, LoadFormat, SamplingParams,
    Weights,
};
use serin_kernels::cuda::weights::PlaneLayout;
use serin_kernels::cuda::{Buffer, Card, CardError, Stream};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::mpsc::unbounded_channel;

/// Measures the engine on a model file.
#[derive(Debug, Parser)]
struct Args {
    file: PathBuf,
    /// `cpu`, `cuda`, `cuda:N`.
    #[arg(long, default_value = "cpu", value_parser = DeviceChoice::parse)]
    device: DeviceChoice,
    /// `auto`, or `dummy:FORM` for random weights of the shape in a config.json.
    #[arg(long, default_value = "auto", value_parser = LoadFormat::parse)]
    load_format: LoadFormat,
    /// Number of times each figure is measured, after one uncounted warm-up.
    #[arg(long, default_value_t = 3)]
    repeats: usize,
    /// Size of the KV cache in tokens.
    #[arg(long, default_value_t = 5120)]
    kv_tokens: usize,
    /// Which measurements to run, in this order, separated by commas: prefill, decode, turn.
    #[arg(long, value_delimiter = ',', default_value = "prefill,decode,turn")]
    only: Vec<String>,
    /// Prompt length for decoding, and length of each reply, in tokens.
    #[arg(long, default_value_t = 128)]
    prompt: usize,
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u16).range(2..))]
    new: u16,
    /// Lengths of the prompts whose prefill is timed, in tokens.
    #[arg(long, value_delimiter = ',', default_value = "512")]
    prefill: Vec<usize>,
    /// Numbers of concurrent sequences for decoding.
    #[arg(long, value_delimiter = ',', default_value = "1,8,16")]
    sequences: Vec<usize>,
}

type Error = Box<dyn std::error::Error>;

const BLOCK: usize = 16;
/// A conversation's first turn, its reply, and the user's next message, in tokens.
const TURN: [usize; 3] = [1000, 16, 24];

/// The result of one sequence.
struct Trace {
    submitted: Instant,
    ids: Vec<u32>,
    /// When each of its tokens was generated.
    at: Vec<Instant>,
    timings: Timings,
}

impl Trace {
    fn first_token(&self) -> Duration {
        self.at[0] - self.submitted
    }
}

struct Bench {
    engine: EngineHandle,
    lane: LaneId,
    vocab: usize,
    /// On a GPU: bytes read per token of one sequence, and bytes per second of a copy.
    card: Option<(u64, f64)>,
    /// State of the random id generator.
    random: u64,
}

impl Bench {
    async fn load(args: &Args) -> Result<Bench, Error> {
        let weights = Weights::open(&args.file, args.load_format)?;
        let vocab = weights.config().vocab;
        let (engine, _faults) = EngineHandle::start()?;
        let blocks = args.kv_tokens.div_ceil(BLOCK);
        let device = args.device.open()?;
        let card = match &device {
            Device::Cpu => None,
            Device::Card(card) => Some(about_card(card, &weights)?),
        };
        let make = move || runner(&weights, blocks, device);
        let lane = engine.load(SchedulerConfig::default(), make).await?.lane;
        Ok(Bench { engine, lane, vocab, card, random: 1 })
    }

    fn prompt(&mut self, len: usize) -> Vec<u32> {
        let mut next = || {
            self.random = self.random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (self.random >> 33) as usize % self.vocab
        };
        (0..len).map(|_| next() as u32).collect()
    }

    /// Runs all prompts at once, greedily, each to its full number of tokens.
    async fn run(&self, prompts: Vec<Vec<u32>>, new: usize) -> Vec<Trace> {
        let (events, mut inbox) = unbounded_channel();
        let submitted = Instant::now();
        let request = |(tag, prompt): (usize, Vec<u32>)| SeqRequest {
            tag: tag as u32,
            prompt,
            params: SamplingParams::greedy(),
            max_new_tokens: new,
            stop_ids: Vec::new(),
            cache_salt: 0,
            events: events.clone(),
            background: false,
            guide: None,
            arrived: submitted,
        };
        let timings = Timings::default();
        let fresh = || Trace { submitted, ids: Vec::new(), at: Vec::new(), timings };
        let mut traces: Vec<Trace> = prompts.iter().map(|_| fresh()).collect();
        let requests = prompts.into_iter().enumerate().map(request).collect();
        self.engine.submit(self.lane, requests).expect("the engine runs");
        let mut running = traces.len();
        while running > 0 {
            match inbox.recv().await.expect("a sender is held here") {
                SeqEvent::Token { tag, id, at, .. } => {
                    traces[tag as usize].ids.push(id);
                    traces[tag as usize].at.push(at);
                }
                SeqEvent::Finished { tag, timings, .. } => {
                    traces[tag as usize].timings = *timings;
                    running -= 1;
                }
                SeqEvent::Started { .. } | SeqEvent::Scored { .. } => {}
                failed => panic!("{failed:?}"),
            }
        }
        assert!(traces.iter().all(|trace| trace.at.len() == new));
        traces
    }

    /// Prompt tokens per second, up to the first token of the reply.
    async fn prefill(&mut self, tokens: usize) -> f64 {
        let prompt = self.prompt(tokens);
        let trace = self.run(vec![prompt], 1).await.remove(0);
        tokens as f64 / trace.first_token().as_secs_f64()
    }

    /// Tokens per second of all sequences together: while all of them decode, and from start to finish.
    async fn decode(&mut self, sequences: usize, prompt: usize, new: usize) -> [f64; 2] {
        let prompts = (0..sequences).map(|_| self.prompt(prompt)).collect();
        let traces = self.run(prompts, new).await;
        let start = traces.iter().map(|t| t.at[0]).max().expect("a sequence");
        let end = traces.iter().map(|t| t.at[new - 1]).min().expect("a sequence");
        let all = traces.iter().flat_map(|t| &t.at);
        let within = all.filter(|at| start < **at && **at <= end).count();
        let last = traces.iter().map(|t| t.at[new - 1]).max().expect("a sequence");
        let whole = last - traces[0].submitted;
        [
            within as f64 / (end - start).as_secs_f64(),
            (sequences * new) as f64 / whole.as_secs_f64(),
        ]
    }

    /// A second turn after its first, and an unseen prompt of the same length; also the number of cached
    /// tokens.
    async fn second_turn(&mut self) -> (Duration, Duration, usize) {
        let mut turn = self.prompt(TURN[0]);
        let first = self.run(vec![turn.clone()], TURN[1]).await.remove(0);
        turn.extend(first.ids);
        turn.extend(self.prompt(TURN[2]));
        let fresh = self.prompt(turn.len());
        let cached = self.run(vec![turn], 1).await.remove(0);
        let uncached = self.run(vec![fresh], 1).await.remove(0);
        assert_eq!(uncached.timings.cached_tokens, 0, "random prompts share nothing");
        (cached.first_token(), uncached.first_token(), cached.timings.cached_tokens)
    }
}

fn runner(weights: &Weights, blocks: usize, device: Device) -> Result<Box<dyn Runner>, LoadError> {
    let card = match device {
        Device::Card(card) => card,
        Device::Cpu => {
            let kind = KvChoice::Auto.kind(weights);
            let decoder = Decoder::load(weights, KvPlan { blocks, block_size: BLOCK, kind })?;
            return Ok(Box::new(ModelRunner::new(decoder)));
        }
    };
    let SchedulerConfig { max_batch_tokens, max_running, .. } = SchedulerConfig::default();
    let (step, kv) = ((max_batch_tokens, max_running), KvChoice::Auto.on_card(weights));
    let multiprocessors = card.properties().multiprocessors as usize;
    let plan = CardPlan::new(weights.config(), step, (blocks, BLOCK), kv, multiprocessors);
    let decoder = CardDecoder::load(weights, plan, ModelPool::open(card)?)?;
    Ok(Box::new(CardRunner::new(decoder)))
}

/// Describes the GPU and the model's memory there; returns the bytes read per token of one sequence, and the
/// bytes per second of a copy.
fn about_card(card: &Arc<dyn Card>, weights: &Weights) -> Result<(u64, f64), Error> {
    let copied = copied_per_second(card)?;
    let properties = card.properties();
    let capability = format!("{}.{}", properties.capability.0, properties.capability.1);
    say(&json!({"card": {
        "name": properties.name, "capability": capability, "multiprocessors": properties.multiprocessors,
        "copy_bytes_per_s": copied,
    }}));
    let all = weight_bytes(weights)?;
    let read = all - bytes_not_read(weights)?;
    say(&json!({"model": {"weight_bytes": all, "bytes_per_token": read}}));
    let free = card.memory()?.free;
    if all > free {
        return Err(format!("does not fit: {all} bytes of weights, {free} bytes free").into());
    }
    Ok((read, copied))
}

/// Bytes of weights that decoding does not read: of an embedding that is not also the head, only one row per
/// token is read.
fn bytes_not_read(weights: &Weights) -> Result<u64, Error> {
    const EMBEDDING: &str = "model.embed_tokens.weight";
    let config = weights.config();
    if config.tied_embeddings || !weights.has("lm_head.weight") {
        return Ok(0);
    }
    let layout = PlaneLayout::new(weights.kind(EMBEDDING)?, config.vocab, config.hidden);
    Ok(layout.map_or(0, |layout| layout.bytes() as u64))
}

/// Bytes per second, read and written, of the fastest of several large copies on the GPU.
fn copied_per_second(card: &Arc<dyn Card>) -> Result<f64, CardError> {
    let bytes = if card.properties().emulated { 1 << 22 } else { 1 << 30 };
    card.enter()?;
    let pool = card.create_pool()?;
    let from = Buffer::<u8>::new(card, pool, bytes)?;
    let mut to = Buffer::<u8>::new(card, pool, bytes)?;
    let mut best = f64::INFINITY;
    for _ in 0..10 {
        card.synchronise(Stream::Compute)?;
        let begun = Instant::now();
        to.copy_from(&from)?;
        card.synchronise(Stream::Compute)?;
        best = best.min(begun.elapsed().as_secs_f64());
    }
    drop((from, to));
    card.synchronise(Stream::Compute)?;
    card.trim_pool(pool)?;
    card.destroy_pool(pool)?;
    Ok(2.0 * bytes as f64 / best)
}

fn sorted(values: &[f64]) -> Vec<f64> {
    let mut values = values.to_vec();
    values.sort_by(f64::total_cmp);
    values
}

fn rate(values: &[f64]) -> Value {
    let sorted = sorted(values);
    json!({"all": values, "median": sorted[sorted.len() / 2], "best": sorted.last()})
}

/// Prints one line of the result.
fn say(figures: &Value) {
    println!("{figures}");
}

async fn measure(args: &Args) -> Result<(), Error> {
    let env = |name: &str| std::env::var(name).ok();
    say(&json!({
        "file": args.file, "repeats": args.repeats, "debug": cfg!(debug_assertions),
        "SERIN_THREADS": env("SERIN_THREADS"), "RAYON_NUM_THREADS": env("RAYON_NUM_THREADS"),
    }));
    let begun = Instant::now();
    let mut bench = Bench::load(args).await?;
    say(&json!({"load_s": begun.elapsed().as_secs_f64()}));
    for what in &args.only {
        match what.as_str() {
            "prefill" => measure_prefill(args, &mut bench).await,
            "decode" => measure_decode(args, &mut bench).await,
            "turn" => measure_turn(args, &mut bench).await,
            other => return Err(format!("--only {other}: prefill, decode or turn").into()),
        }
    }
    Ok(())
}

async fn measure_prefill(args: &Args, bench: &mut Bench) {
    for tokens in args.prefill.iter().copied() {
        bench.prefill(tokens).await;
        let mut rates = Vec::new();
        for _ in 0..args.repeats {
            rates.push(bench.prefill(tokens).await);
        }
        say(&json!({format!("prefill_{tokens}"): rate(&rates)}));
    }
}

async fn measure_decode(args: &Args, bench: &mut Bench) {
    let (prompt, new) = (args.prompt, usize::from(args.new));
    for sequences in args.sequences.iter().copied() {
        bench.decode(sequences, prompt, new).await;
        let (mut steady, mut whole) = (Vec::new(), Vec::new());
        for _ in 0..args.repeats {
            let [while_all, end_to_end] = bench.decode(sequences, prompt, new).await;
            steady.push(while_all);
            whole.push(end_to_end);
        }
        let mut figures = json!({
            format!("decode_{sequences}"): rate(&steady), format!("whole_{sequences}"): rate(&whole),
        });
        if let (1, Some((read, copied))) = (sequences, bench.card) {
            let best = steady.iter().copied().fold(0.0, f64::max);
            figures["share_of_copy_bandwidth"] = (best * read as f64 / copied).into();
        }
        say(&figures);
    }
}

async fn measure_turn(args: &Args, bench: &mut Bench) {
    let (mut ms, mut ratios, mut tokens) = ([Vec::new(), Vec::new()], Vec::new(), 0);
    for _ in 0..args.repeats {
        let (cached, uncached, found) = bench.second_turn().await;
        ms[0].push(cached.as_secs_f64() * 1e3);
        ms[1].push(uncached.as_secs_f64() * 1e3);
        ratios.push(cached.as_secs_f64() / uncached.as_secs_f64());
        tokens = found;
    }
    let ratio = sorted(&ratios)[ratios.len() / 2];
    say(&json!({"second_turn": {
        "prompt_tokens": TURN.iter().sum::<usize>(), "cached_tokens": tokens,
        "cached_ms": ms[0], "uncached_ms": ms[1], "ratio": ratio,
    }}));
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let args = Args::parse();
    let measured = match args.repeats {
        0 => Err("--repeats must be at least 1".into()),
        _ => measure(&args).await,
    };
    match measured {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}
