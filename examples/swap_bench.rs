//! What loading and unloading a canary costs stable: one model is loaded and unloaded repeatedly while
//! another one serves, on the CPU or on a GPU.
//!
//! `cargo run --release --example swap_bench -- STABLE CANARY --device cuda --cycles 100`
//!
//! It measures stable's inter-token latency while nothing happens, while the canary loads and while it is
//! unloaded. It checks whether stable's greedy tokens stay the same and, on a GPU, compares the free memory
//! after the first and the last cycle. Models may be folders, GGUF files, or (with --load-format) shapes.
//!
//! Prints a JSON object per cycle, and a final one with the rest.
//!
//! Tokens stay the same bit for bit only if the steps do. Several sequences share steps depending on timing,
//! and on a GPU the order of sums depends on the number of rows in a step. A reply may then differ where two
//! tokens were about equally good. Whether they were is checked with the model.

use clap::Parser;
use serde_json::{Value, json};
use serin::control::{EngineConfig, LoadCheck, Loader, folder_loader};
use serin::device::{Device, DeviceChoice};
use serin::engine::{EngineHandle, LaneId, SchedulerConfig, SeqEvent, SeqRequest};
use serin::model::{KvChoice, LoadFormat, Logprobs, SamplingParams};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::mpsc::unbounded_channel;
use tokio::task::JoinHandle;

#[derive(Debug, Parser)]
struct Args {
    stable: PathBuf,
    canary: PathBuf,
    /// `cpu`, `cuda`, `cuda:N`.
    #[arg(long, default_value = "cpu", value_parser = DeviceChoice::parse)]
    device: DeviceChoice,
    #[arg(long, default_value = "auto", value_parser = LoadFormat::parse)]
    load_format: LoadFormat,
    #[arg(long, default_value_t = 20)]
    cycles: usize,
    /// Seconds after which no new cycle is started.
    #[arg(long, default_value_t = 3600)]
    at_most: u64,
    /// Tokens of each reply.
    #[arg(long, default_value_t = 48)]
    new: usize,
    /// Number of sequences that stable decodes at once.
    #[arg(long, default_value_t = 4)]
    sequences: usize,
    /// Bytes of KV cache for each model.
    #[arg(long, default_value_t = 64 << 20)]
    kv_memory: u64,
}

type Error = Box<dyn std::error::Error + Send + Sync>;

const PROMPT: [u32; 6] = [11, 12, 13, 14, 15, 16];
/// Number of most likely tokens that are checked for being about as good as the best.
const LIKELIEST: u8 = 20;

/// Stable's token times in a phase.
#[derive(Default)]
struct Gaps(Vec<f64>);

impl Gaps {
    fn json(mut self) -> Value {
        self.0.sort_by(f64::total_cmp);
        let at = |share: f64| {
            let last = self.0.len().checked_sub(1)?;
            Some(1e3 * self.0[(share * last as f64).round() as usize])
        };
        json!({"tokens": self.0.len(), "p50_ms": at(0.5), "p99_ms": at(0.99), "most_ms": at(1.0)})
    }
}

/// Replies of stable, one after the other, until stopped: the time of each token, and each reply's ids.
struct Stream {
    stop: Arc<std::sync::atomic::AtomicBool>,
    done: JoinHandle<Replies>,
}

/// The time of each token of each reply, and each reply's ids.
type Replies = (Vec<Vec<Instant>>, Vec<Vec<u32>>);

impl Stream {
    fn start(engine: EngineHandle, lane: LaneId, new: usize) -> Stream {
        let stop = Arc::new(std::sync::atomic::AtomicBool::new(false));
        let stopped = stop.clone();
        let done = tokio::spawn(async move {
            let (mut times, mut replies) = (Vec::new(), Vec::new());
            while !stopped.load(std::sync::atomic::Ordering::Relaxed) {
                let (at, ids) = reply(&engine, lane, new).await;
                times.push(at);
                replies.push(ids);
            }
            (times, replies)
        });
        Stream { stop, done }
    }

    async fn end(self) -> Replies {
        self.stop.store(true, std::sync::atomic::Ordering::Relaxed);
        self.done.await.expect("the stream ran")
    }
}

/// A greedy reply: the time and the id of each token.
async fn reply(engine: &EngineHandle, lane: LaneId, new: usize) -> (Vec<Instant>, Vec<u32>) {
    let tokens = ask(engine, lane, PROMPT.to_vec(), new, SamplingParams::greedy()).await;
    tokens.into_iter().map(|token| (token.at, token.id)).unzip()
}

struct Token {
    at: Instant,
    id: u32,
    logprobs: Option<Box<Logprobs>>,
}

async fn ask(
    engine: &EngineHandle,
    lane: LaneId,
    prompt: Vec<u32>,
    new: usize,
    params: SamplingParams,
) -> Vec<Token> {
    let (events, mut inbox) = unbounded_channel();
    let request = SeqRequest {
        tag: 0,
        prompt,
        params,
        max_new_tokens: new,
        stop_ids: Vec::new(),
        cache_salt: 0,
        events,
        background: false,
        guide: None,
        arrived: Instant::now(),
    };
    engine.submit(lane, vec![request]).expect("the engine runs");
    let mut tokens = Vec::new();
    while let Some(event) = inbox.recv().await {
        match event {
            SeqEvent::Token { at, id, logprobs, .. } => tokens.push(Token { at, id, logprobs }),
            SeqEvent::Finished { .. } => break,
            SeqEvent::Started { .. } | SeqEvent::Scored { .. } => {}
            failed => panic!("stable lost a reply: {failed:?}"),
        }
    }
    tokens
}

/// The most likely tokens after the prompt and `reply`, with their log-probabilities.
type Likeliest = Vec<(u32, f32)>;

async fn likeliest(
    engine: &EngineHandle,
    lane: LaneId,
    reply: &[u32],
    new: usize,
) -> Vec<Likeliest> {
    let prompt = [&PROMPT[..], reply].concat();
    let params = SamplingParams { logprobs: Some(LIKELIEST), ..SamplingParams::greedy() };
    let tokens = ask(engine, lane, prompt, new, params).await;
    tokens.into_iter().map(|token| token.logprobs.map_or(Vec::new(), |found| found.top)).collect()
}

/// How much a log-probability depends on the order of sums: the largest difference between decoding a reply
/// and computing each of its prefixes as a prompt.
async fn noise(engine: &EngineHandle, lane: LaneId, reply: &[u32]) -> f32 {
    let decoded = likeliest(engine, lane, &[], reply.len()).await;
    let mut most = 0f32;
    for (i, decoded) in decoded.iter().enumerate() {
        let computed = likeliest(engine, lane, &reply[..i], 1).await.remove(0);
        for (id, own) in decoded {
            let other = computed.iter().find(|(other, _)| other == id);
            most = other.map_or(most, |(_, other)| most.max((own - other).abs()));
        }
    }
    most
}

/// Whether two replies differ first at tokens that are equally good.
///
/// If two computations differ by at most some amount, the best token by one is at most twice that amount
/// below the best by the other: it was computed that much too high, and the best that much too low. Here
/// three orders of sums may be involved, each within `noise` of the middle, so they differ by at most twice
/// that.
async fn part_at_equals(
    engine: &EngineHandle,
    lane: LaneId,
    noise: f32,
    [one, other]: [&[u32]; 2],
) -> bool {
    let same = one.iter().zip(other).take_while(|(a, b)| a == b).count();
    let (Some(a), Some(b)) = (one.get(same), other.get(same)) else {
        return one.len() == other.len();
    };
    let top = likeliest(engine, lane, &one[..same], 1).await.remove(0);
    let cost = |id: &u32| Some(top.first()?.1 - top.iter().find(|(other, _)| other == id)?.1);
    [a, b].iter().all(|id| cost(id).is_some_and(|cost| cost <= 4.0 * noise))
}

/// A phase: its name, begin and end.
type Phase = (&'static str, Instant, Instant);

/// Runs cycles while stable's streams run; returns the phases with their times, and the free bytes after each
/// cycle.
async fn cycles(
    args: &Args,
    engine: &EngineHandle,
    loader: &Loader,
    device: &Device,
) -> Result<(Vec<Phase>, Vec<u64>), Error> {
    let any: LoadCheck = serin::control::any_model();
    let (mut phases, mut free) = (Vec::new(), Vec::new());
    let quiet = Instant::now();
    let end = quiet + Duration::from_secs(args.at_most);
    tokio::time::sleep(Duration::from_secs(3)).await;
    phases.push(("quiet", quiet, Instant::now()));
    for cycle in 0..args.cycles {
        if Instant::now() > end {
            break;
        }
        let begun = Instant::now();
        let canary = loader(args.canary.clone(), any.clone()).await?;
        let loaded = Instant::now();
        phases.push(("loading", begun, loaded));
        reply(engine, canary.lane, args.new).await;
        let asked = Instant::now();
        let report = engine.unload(canary.lane, Duration::from_secs(10)).await?;
        let unloaded = Instant::now();
        phases.push(("unloading", asked, unloaded));
        let left = report.card.map_or(report.used_after, |card| card.used_after);
        assert_eq!(left, 0, "an unload left {left} bytes");
        if let Device::Card(card) = device {
            free.push(card.memory()?.free);
        }
        println!(
            "{}",
            json!({"cycle": {
                "index": cycle, "load_s": (loaded - begun).as_secs_f64(),
                "unload_s": (unloaded - asked).as_secs_f64(), "free": free.last(),
            }})
        );
    }
    Ok((phases, free))
}

fn gaps_in(times: &[Vec<Instant>], phases: &[Phase], name: &str) -> Gaps {
    let inside = |at: Instant| {
        phases.iter().any(|(phase, from, to)| *phase == name && *from <= at && at <= *to)
    };
    let gap = |pair: &[Instant]| inside(pair[1]).then(|| (pair[1] - pair[0]).as_secs_f64());
    Gaps(times.iter().flat_map(|times| times.windows(2).filter_map(gap)).collect())
}

async fn measure(args: &Args) -> Result<Value, Error> {
    let device = args.device.open()?;
    let (engine, _faults) = EngineHandle::start()?;
    let config = EngineConfig {
        scheduler: SchedulerConfig { prefix_cache: false, ..SchedulerConfig::default() },
        block_size: 16,
        kv_memory: args.kv_memory,
        kv_cache: KvChoice::Auto,
        compat_slots: serin::compat::SLOTS,
        load_format: args.load_format,
        text: serin::text::TextOptions::default(),
    };
    let loader = folder_loader(engine.clone(), config, device.clone());
    let stable = loader(args.stable.clone(), serin::control::any_model()).await?;
    let (_, before) = reply(&engine, stable.lane, args.new).await;
    let streams: Vec<Stream> =
        (0..args.sequences).map(|_| Stream::start(engine.clone(), stable.lane, args.new)).collect();
    let (phases, free) = cycles(args, &engine, &loader, &device).await?;
    let (mut times, mut replies) = (Vec::new(), Vec::new());
    for stream in streams {
        let (at, ids) = stream.end().await;
        times.extend(at);
        replies.extend(ids);
    }
    let noise = noise(&engine, stable.lane, &before).await;
    let (mut changed, mut wrong) = (0, 0);
    for ids in replies.iter().filter(|ids| **ids != before) {
        changed += 1;
        // A single sequence has every step to itself, and therefore the same work each time.
        let explained =
            args.sequences > 1 && part_at_equals(&engine, stable.lane, noise, [&before, ids]).await;
        wrong += usize::from(!explained);
    }
    let gaps = |name: &str| gaps_in(&times, &phases, name).json();
    Ok(json!({
        "device": device.to_string(), "cycles": phases.len() / 2, "sequences": args.sequences,
        "replies": replies.len(), "replies_changed": changed, "replies_wrong": wrong, "noise": noise,
        "quiet": gaps("quiet"), "loading": gaps("loading"), "unloading": gaps("unloading"),
        "free_after_first": free.first(), "free_after_last": free.last(),
    }))
}

#[tokio::main]
async fn main() -> ExitCode {
    match measure(&Args::parse()).await {
        Ok(figures) => {
            println!("{figures}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}
