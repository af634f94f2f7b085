//! What a canary's coming and going costs stable: loads and unloads one model again and again beside another that
//! answers all the while, on the CPU or on a card.
//!
//! `cargo run --release --example swap_bench -- STABLE CANARY --device cuda --cycles 100`
//!
//! Prints one JSON object: stable's time between tokens while nothing happens, while the canary loads and while
//! it is unloaded; whether its greedy tokens stayed what they were; and on a card its free memory after the
//! first cycle and after the last. Models may be folders, GGUF files, or (with --load-format) shapes.

use clap::Parser;
use serde_json::{Value, json};
use serin::config::EngineConfig;
use serin::control::{Loader, Vet, folder_loader};
use serin::device::{Device, DeviceChoice};
use serin::engine::{EngineHandle, LaneId, SchedulerConfig, SeqEvent, SeqRequest};
use serin::model::{KvChoice, LoadFormat, SamplingParams};
use std::path::PathBuf;
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
    /// Sequences that stable decodes at once.
    #[arg(long, default_value_t = 4)]
    sequences: usize,
    /// Bytes of KV cache for each model.
    #[arg(long, default_value_t = 64 << 20)]
    kv_memory: u64,
}

type Error = Box<dyn std::error::Error + Send + Sync>;

const PROMPT: [u32; 6] = [11, 12, 13, 14, 15, 16];
/// Tokens of each of stable's replies.
const NEW: usize = 48;

/// What stable's tokens looked like from begin to end of a phase.
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

/// Replies of stable's, one after the other, until told to stop: when each token came, and each reply's ids.
struct Stream {
    stop: Arc<std::sync::atomic::AtomicBool>,
    done: JoinHandle<Replies>,
}

/// When each token of each reply came, and each reply's ids.
type Replies = (Vec<Vec<Instant>>, Vec<Vec<u32>>);

impl Stream {
    fn start(engine: EngineHandle, lane: LaneId) -> Stream {
        let stop = Arc::new(std::sync::atomic::AtomicBool::new(false));
        let stopped = stop.clone();
        let done = tokio::spawn(async move {
            let (mut times, mut replies) = (Vec::new(), Vec::new());
            while !stopped.load(std::sync::atomic::Ordering::Relaxed) {
                let (at, ids) = reply(&engine, lane).await;
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

async fn reply(engine: &EngineHandle, lane: LaneId) -> (Vec<Instant>, Vec<u32>) {
    let (events, mut inbox) = unbounded_channel();
    let request = SeqRequest {
        tag: 0,
        prompt: PROMPT.to_vec(),
        params: SamplingParams::greedy(),
        max_new_tokens: NEW,
        stop_ids: Vec::new(),
        cache_salt: 0,
        events,
        arrived: Instant::now(),
    };
    engine.submit(lane, vec![request]).expect("the engine runs");
    let (mut times, mut ids) = (Vec::new(), Vec::new());
    while let Some(event) = inbox.recv().await {
        match event {
            SeqEvent::Token { at, id, .. } => {
                times.push(at);
                ids.push(id);
            }
            SeqEvent::Finished { .. } => break,
            SeqEvent::Started { .. } | SeqEvent::Scored { .. } => {}
            failed => panic!("stable lost a reply: {failed:?}"),
        }
    }
    (times, ids)
}

/// What was going on, from when to when.
type Phase = (&'static str, Instant, Instant);

/// Runs cycles beside stable's streams; the phases with their times, and free bytes after each cycle.
async fn cycles(
    args: &Args,
    engine: &EngineHandle,
    loader: &Loader,
    device: &Device,
) -> Result<(Vec<Phase>, Vec<u64>), Error> {
    let any: Vet = serin::control::any_digest();
    let (mut phases, mut free) = (Vec::new(), Vec::new());
    let quiet = Instant::now();
    tokio::time::sleep(Duration::from_secs(3)).await;
    phases.push(("quiet", quiet, Instant::now()));
    for _ in 0..args.cycles {
        let begun = Instant::now();
        let canary = loader(args.canary.clone(), any.clone()).await?;
        let loaded = Instant::now();
        phases.push(("loading", begun, loaded));
        reply(engine, canary.lane).await;
        let begun = Instant::now();
        let report = engine.unload(canary.lane, Duration::from_secs(10)).await?;
        phases.push(("unloading", begun, Instant::now()));
        let left = report.card.map_or(report.after.used as u64, |card| card.after.used);
        assert_eq!(left, 0, "an unload left {left} bytes");
        if let Device::Card(card) = device {
            free.push(card.memory()?.free);
        }
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
        load_format: args.load_format,
        text: serin::text::TextOptions::default(),
    };
    let loader = folder_loader(engine.clone(), config, device.clone());
    let stable = loader(args.stable.clone(), serin::control::any_digest()).await?;
    let (_, before) = reply(&engine, stable.lane).await;
    let streams: Vec<Stream> =
        (0..args.sequences).map(|_| Stream::start(engine.clone(), stable.lane)).collect();
    let (phases, free) = cycles(args, &engine, &loader, &device).await?;
    let (mut times, mut replies) = (Vec::new(), Vec::new());
    for stream in streams {
        let (at, ids) = stream.end().await;
        times.extend(at);
        replies.extend(ids);
    }
    let changed = replies.iter().filter(|ids| **ids != before).count();
    let gaps = |name: &str| gaps_in(&times, &phases, name).json();
    Ok(json!({
        "device": device.to_string(), "cycles": args.cycles, "sequences": args.sequences,
        "replies": replies.len(), "replies_changed": changed,
        "quiet": gaps("quiet"), "loading": gaps("loading"), "unloading": gaps("unloading"),
        "free_after_first": free.first(), "free_after_last": free.last(),
    }))
}

#[tokio::main]
async fn main() -> Result<(), Error> {
    println!("{:#}", measure(&Args::parse()).await?);
    Ok(())
}
