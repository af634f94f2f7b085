//! Runs a plan: blocks of requests on one or two versions, while the state of the device is read.
//!
//! Before each block, one request that is not measured warms the version up, because the first requests after another
//! model meet cold caches. It reads clocks, but does not interpret the figures.

use super::plan::{self, Block, Load, Planned, Point, Size};
use super::prompts::WARM_UP;
use super::replies::Answered;
use super::sample::{Measured, PointRun, Sample};
use super::target::{Ready, Setting, Target, answered};
use crate::progress::Progress;
use futures_util::StreamExt;
use serin_kernels::cuda::Readings;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// Asks the device; it may take milliseconds.
pub type ReadDevice = Arc<dyn Fn() -> Option<Readings> + Send + Sync>;

/// Time between two readings of the device.
const READ_EVERY: Duration = Duration::from_millis(100);
/// Tokens of the reply that warms a version up.
const WARM_TOKENS: usize = 8;

/// One or two versions on one device.
pub struct Bench {
    /// A, and B if there are two.
    pub targets: Vec<Target>,
    /// What all requests have in common.
    pub setting: Setting,
    /// How much is run.
    pub size: Size,
    /// Readings of the device, if it has any.
    pub read: Option<ReadDevice>,
}

impl Bench {
    /// Runs all points, in order.
    ///
    /// # Errors
    ///
    /// Why a version cannot be measured: a request cannot be made ready, or a whole block failed.
    pub async fn run(&self, points: &[Point]) -> Result<Vec<PointRun>, String> {
        let requests = points.iter().map(|point| self.size.of_point(point.load)).sum::<usize>();
        let total = (requests * self.targets.len()) as u64;
        let progress = Progress::counting("bench", total, "requests");
        let (begun, mut runs) = (Instant::now(), Vec::new());
        for (number, point) in points.iter().enumerate() {
            self.warm_up(point).await?;
            let mut blocks = Vec::new();
            for block in plan::blocks(number, point.load, &self.size) {
                blocks.push(self.block(point, &block, begun, &progress).await?);
            }
            runs.push(PointRun { point: *point, blocks });
        }
        progress.end();
        Ok(runs)
    }

    /// As many requests at a time as the point has, on each version; nothing of it is measured.
    async fn warm_up(&self, point: &Point) -> Result<(), String> {
        let at_a_time = match point.load {
            Load::Concurrency(concurrency) => concurrency,
            Load::Rate(_) => 1,
        };
        for target in &self.targets {
            let planned: Vec<Planned> = (0..at_a_time).map(|_| warm(0)).collect();
            let ready = target.prepare(&self.setting, point, &planned).await?;
            let all = ready.into_iter().map(|one| target.ask(one)).collect::<Vec<_>>();
            for one in futures_util::future::join_all(all).await {
                one?;
            }
        }
        Ok(())
    }

    async fn block(
        &self,
        point: &Point,
        block: &Block,
        start: Instant,
        progress: &Progress,
    ) -> Result<Measured, String> {
        let target = &self.targets[block.version.index()];
        let short = Setting { output_tokens: WARM_TOKENS, ..self.setting.clone() };
        let first = target.prepare(&short, point, &[warm(block.pair)]).await?;
        for ready in first {
            target.ask(ready).await?;
        }
        let ready = target.prepare(&self.setting, point, &block.requests).await?;
        let readings = self.read.clone().map(Watched::start);
        let begun = Instant::now();
        let mut samples = ask_all(target, ready, block, (point.load, begun), progress).await;
        let ended =
            samples.iter().filter_map(|(_, one)| one.as_ref().ok().map(|(_, at)| *at)).max();
        let readings = match readings {
            Some(watched) => watched.stop().await,
            None => Vec::new(),
        };
        samples.sort_by_key(|(number, _)| *number);
        if let (None, Some((_, Err(error)))) = (ended, samples.first()) {
            let version = block.version.as_str();
            return Err(format!("no request of a block was answered by {version}: {error}"));
        }
        let watts: Vec<f64> = readings.iter().filter_map(|one| one.power_watts).collect();
        Ok(Measured {
            version: block.version,
            round: block.round,
            pair: block.pair,
            begun: begun.duration_since(start).as_secs_f64(),
            seconds: ended.map_or(0.0, |ended| ended.duration_since(begun).as_secs_f64()),
            samples: samples.into_iter().map(|(_, one)| one.map(|(sample, _)| sample)).collect(),
            watts: (!watts.is_empty()).then(|| watts.iter().sum::<f64>() / watts.len() as f64),
            throttled: readings.into_iter().find_map(|one| one.throttled),
        })
    }

    /// Has all versions answer the first `count` prompts, one after the other. An error says which version could not
    /// answer a prompt, and why.
    pub async fn replies(&self, count: usize) -> Vec<Result<Answered, String>> {
        let progress = Progress::counting("replies", count as u64, "prompts");
        let mut all = Vec::new();
        for number in 0..count {
            let planned = plan::compared(number, self.size.seed);
            all.push(answered(&self.targets, &self.setting, &planned).await);
            progress.add(1);
        }
        progress.end();
        all
    }
}

fn warm(seed: usize) -> Planned {
    Planned { prompt: WARM_UP, seed: seed as u64, at: Duration::ZERO }
}

type Answer = Result<(Sample, Instant), String>;

/// Sends the requests of a block as its load says; answers come with the number of their request, in any order.
async fn ask_all(
    target: &Target,
    ready: Vec<Ready>,
    block: &Block,
    (load, begun): (Load, Instant),
    progress: &Progress,
) -> Vec<(usize, Answer)> {
    let at_a_time = match load {
        Load::Concurrency(concurrency) => concurrency,
        Load::Rate(_) => ready.len().max(1),
    };
    let one = |(number, (ready, at)): (usize, (Ready, Duration))| async move {
        if !at.is_zero() {
            tokio::time::sleep_until((begun + at).into()).await;
        }
        let answer = target.ask(ready).await;
        progress.add(1);
        (number, answer)
    };
    let times = block.requests.iter().map(|planned| planned.at);
    let requests = ready.into_iter().zip(times).enumerate().map(one);
    futures_util::stream::iter(requests).buffer_unordered(at_a_time).collect().await
}

/// A thread that reads the device until it is told to stop: a device that hangs may never answer.
struct Watched {
    stop: Arc<AtomicBool>,
    readings: tokio::task::JoinHandle<Vec<Readings>>,
}

impl Watched {
    fn start(read: ReadDevice) -> Watched {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = stop.clone();
        let readings = tokio::task::spawn_blocking(move || {
            let mut all = Vec::new();
            loop {
                all.extend(read());
                if stopped.load(Ordering::Relaxed) {
                    return all;
                }
                std::thread::sleep(READ_EVERY);
            }
        });
        Watched { stop, readings }
    }

    /// The readings, with one after the end of the block.
    async fn stop(self) -> Vec<Readings> {
        self.stop.store(true, Ordering::Relaxed);
        self.readings.await.unwrap_or_default()
    }
}
