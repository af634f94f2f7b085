//! Lets both models read replies while the device is idle (cross-reading).
//!
//! Stable and the canary both read a share of the replies of both arms (`both`). The results go to the rollout. The
//! texts are not kept, except for a few characters around the first difference between the two prompts. It does not
//! know how the results are judged.

use super::admission::Admission;
use super::attempt::Played;
use super::both::{Both, Pair, Reply, Unread};
use super::error::GatewayError;
use super::idle::{Idle, NotRun, Tally};
use super::types::{GenerateRequest, Prompt};
use crate::control::{Control, CrossReadStatus};
use crate::engine::{LaneId, Refusal};
use crate::metrics;
use crate::rollout::reading::chances;
use crate::rollout::{Arm, Origin, Weight};
use crate::routing::Deployment;
use parking_lot::Mutex;
use serde_json::Value;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant, SystemTime};
use tokio::sync::mpsc::{Receiver, Sender, channel};

/// Replies that may wait; more are dropped.
const WAITING: usize = 256;
/// Bytes that the waiting requests may hold, all together and each: a reply has at most some thousand tokens, but a
/// request may hold much that its template leaves out.
const WAITING_BYTES: usize = 16 << 20;
const LARGEST: usize = 256 << 10;
/// Times that a reading gives way before the reply is dropped. A reading is short, and each reply that is lost is one
/// less of the sample.
const TRIES: u32 = 100;
/// The share of the time that reading may take, and what it may take at once.
const MOST: f64 = 0.05;
const AT_ONCE: Duration = Duration::from_secs(10);

/// What of [`MOST`] of the time is left, of which at most [`AT_ONCE`] is kept.
#[derive(Debug, Default)]
struct Budget {
    /// The time at which everything is paid for, were nothing kept.
    paid: Duration,
}

impl Budget {
    fn kept() -> Duration {
        AT_ONCE.div_f64(MOST)
    }

    /// How long to wait before the next reading.
    fn wait(&self, elapsed: Duration) -> Duration {
        self.paid.saturating_sub(elapsed + Budget::kept())
    }

    fn spend(&mut self, elapsed: Duration, spent: Duration) {
        self.paid = self.paid.max(elapsed) + spent.div_f64(MOST);
    }
}

pub(super) struct Written {
    request: GenerateRequest,
    /// That the request holds.
    bytes: usize,
    writer: Arm,
    stage: u64,
    origin: Origin,
    tokens: Vec<u32>,
    /// Of the model that wrote it.
    lane: LaneId,
}

impl Written {
    fn is_by(&self, (stable, canary): &(Arc<Deployment>, Arc<Deployment>)) -> bool {
        self.lane == [stable, canary][self.writer.index()].lane
    }
}

/// The door to what is read, and its figures.
pub(super) struct CrossReader {
    /// The share of the replies to read, 0 to 1.
    share: f64,
    queue: Sender<Written>,
    /// Bytes that the waiting requests hold.
    bytes: AtomicUsize,
    idle: Idle,
    admission: Admission,
    sampled: AtomicU64,
    read: AtomicU64,
    tally: Tally,
    dropped: AtomicU64,
    too_long: AtomicU64,
    failed: AtomicU64,
    /// The first difference between the prompts that the models were given for one request, and that canary.
    difference: Mutex<Option<(LaneId, String)>>,
}

impl CrossReader {
    /// Starts the task that has this share of replies, 0 to 1, read. Must be called within a tokio runtime.
    pub fn start(
        share: f64,
        control: &Arc<Control>,
        admission: Admission,
        idle: Idle,
    ) -> Arc<CrossReader> {
        let (queue, inbox) = channel(WAITING);
        let none = || AtomicU64::new(0);
        let reader = Arc::new(CrossReader {
            share,
            queue,
            bytes: AtomicUsize::new(0),
            idle,
            admission,
            sampled: none(),
            read: none(),
            tally: Tally::default(),
            dropped: none(),
            too_long: none(),
            failed: none(),
            difference: Mutex::new(None),
        });
        if share > 0.0 {
            tokio::spawn(run(Arc::downgrade(&reader), Arc::downgrade(control), inbox));
        }
        reader
    }

    /// Has a reply read if it is part of the sample; the chance depends on the arm and the weight alone.
    pub fn offer(&self, request: &GenerateRequest, played: &Played) {
        let assignment = &played.assignment;
        let Some(routed) = assignment.origin.routed.filter(|_| assignment.judged) else { return };
        if routed == Weight::ZERO || routed == Weight::FULL {
            return;
        }
        let chance = chances(self.share, routed.fraction())[assignment.arm.index()];
        if request.n != 1 || played.tokens.is_empty() || rand::random::<f64>() >= chance {
            return;
        }
        self.sampled.fetch_add(1, Ordering::Relaxed);
        let bytes = held(&request.prompt);
        if bytes > LARGEST {
            return count(&self.too_long, "too_long");
        }
        if self.bytes.fetch_add(bytes, Ordering::Relaxed) + bytes > WAITING_BYTES {
            self.bytes.fetch_sub(bytes, Ordering::Relaxed);
            return count(&self.dropped, "dropped");
        }
        let written = Written {
            request: request.clone(),
            bytes,
            writer: assignment.arm,
            stage: assignment.stage,
            origin: assignment.origin,
            tokens: played.tokens.clone(),
            lane: assignment.deployment.lane,
        };
        if self.queue.try_send(written).is_err() {
            self.bytes.fetch_sub(bytes, Ordering::Relaxed);
            count(&self.dropped, "dropped");
        }
    }

    /// What was done; `None` when nothing is read. Of a difference, only what was found of `canary`.
    pub fn report(&self, canary: Option<LaneId>) -> Option<CrossReadStatus> {
        let read = |count: &AtomicU64| count.load(Ordering::Relaxed);
        (self.share > 0.0).then(|| CrossReadStatus {
            sampled: read(&self.sampled),
            read: read(&self.read),
            preempted: read(&self.tally.preempted),
            dropped: read(&self.dropped),
            too_long: read(&self.too_long),
            failed: read(&self.failed),
            seconds: read(&self.tally.micros) as f64 / 1e6,
            difference: self.difference_of(canary),
        })
    }

    fn difference_of(&self, canary: Option<LaneId>) -> Option<String> {
        let mut kept = self.difference.lock();
        // A part of somebody's prompt is kept no longer than it is of use.
        if kept.as_ref().is_some_and(|(of, _)| Some(*of) != canary) {
            *kept = None;
        }
        kept.as_ref().map(|(_, difference)| difference.clone())
    }

    /// Counts how a reading ended, and hands it to the rollout.
    fn note(
        &self,
        control: &Control,
        done: Option<Result<Option<Both>, Unread>>,
        written: &Written,
        canary: LaneId,
    ) {
        let (counter, result) = match done {
            None => (&self.dropped, "dropped"),
            Some(Ok(None)) => (&self.failed, "failed"),
            Some(Ok(Some(both))) => {
                let Written { writer, stage, origin, .. } = *written;
                if let Some(difference) = &both.difference {
                    *self.difference.lock() = Some((canary, difference.clone()));
                }
                control.read(both.reading(writer, stage, origin));
                (&self.read, "read")
            }
            Some(Err(error)) => {
                tracing::debug!(%error, writer = written.writer.as_str(), "a reply was not read");
                match error.why {
                    NotRun::Refused(Refusal::NoFreeBlocks | Refusal::TooLong { .. })
                    | NotRun::Unprepared(GatewayError::ContextLength { .. }) => {
                        (&self.too_long, "too_long")
                    }
                    _ => (&self.failed, "failed"),
                }
            }
        };
        count(counter, result);
    }
}

/// Counts a reply that was chosen by what became of it, here and in the metrics.
fn count(counter: &AtomicU64, result: &'static str) {
    counter.fetch_add(1, Ordering::Relaxed);
    metrics::cross_read(result);
}

async fn run(reader: Weak<CrossReader>, control: Weak<Control>, mut inbox: Receiver<Written>) {
    let (begun, mut budget) = (Instant::now(), Budget::default());
    let mut vocabularies = Vocabularies::default();
    while let Some(written) = inbox.recv().await {
        tokio::time::sleep(budget.wait(begun.elapsed())).await;
        let (Some(reader), Some(control)) = (reader.upgrade(), control.upgrade()) else { return };
        reader.bytes.fetch_sub(written.bytes, Ordering::Relaxed);
        let models = control.models();
        let pair = models.stable.zip(models.canary);
        // Both must still be there, and the writer be the one that wrote.
        let Some((stable, canary)) = pair.filter(|pair| written.is_by(pair)) else {
            count(&reader.dropped, "dropped");
            continue;
        };
        let same = vocabularies.are_same(&stable, &canary);
        let pair = Pair { models: [&stable, &canary], same };
        let with = (control.engine(), &reader.admission);
        let reply = Reply::new(written.writer, &written.tokens);
        let today = SystemTime::now();
        let task = || pair.read(with, &written.request, &reply, today);
        let before = reader.tally.micros.load(Ordering::Relaxed);
        let done = reader.idle.run(&reader.tally, TRIES, task).await;
        let spent = reader.tally.micros.load(Ordering::Relaxed) - before;
        budget.spend(begun.elapsed(), Duration::from_micros(spent));
        reader.note(&control, done, &written, canary.lane);
    }
}

/// Bytes of memory that a prompt holds, about.
fn held(prompt: &Prompt) -> usize {
    /// A value with its place in a list or a map.
    const VALUE: usize = 160;
    fn of(value: &Value) -> usize {
        VALUE
            + match value {
                Value::String(text) => text.len(),
                Value::Array(all) => all.iter().map(of).sum(),
                Value::Object(all) => all.iter().map(|(name, one)| name.len() + of(one)).sum(),
                _ => 0,
            }
    }
    match prompt {
        Prompt::Text(text) => text.len(),
        Prompt::Tokens(ids) => std::mem::size_of_val(ids.as_slice()),
        Prompt::Chat { messages, tools, template_kwargs, .. } => {
            let more = template_kwargs.iter().flat_map(|all| all.values());
            messages.iter().chain(tools).chain(more).map(of).sum()
        }
    }
}

/// Whether the latest two models have the same vocabulary: comparing 100,000 tokens takes a while.
#[derive(Default)]
struct Vocabularies {
    known: Option<([LaneId; 2], bool)>,
}

impl Vocabularies {
    fn are_same(&mut self, stable: &Deployment, canary: &Deployment) -> bool {
        let lanes = [stable.lane, canary.lane];
        match self.known {
            Some((of, same)) if of == lanes => same,
            _ => {
                let same = stable.codec.has_tokens_of(&canary.codec);
                self.known = Some((lanes, same));
                same
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// Whatever the pauses and however long each reading takes: it is at most the share of the time, what may be
        /// used at once, and the last reading.
        #[test]
        fn reading_takes_no_more_than_its_share(steps in prop::collection::vec((0u64..600_000, 0u64..5_000), 1..200)) {
            let (mut budget, mut now) = (Budget::default(), Duration::ZERO);
            let mut used: Vec<(Duration, Duration)> = Vec::new();
            for (pause, took) in steps {
                let took = Duration::from_millis(took);
                now += Duration::from_millis(pause) + budget.wait(now + Duration::from_millis(pause));
                used.push((now, took));
                now += took;
                budget.spend(now, took);
            }
            for (at, (since, _)) in used.iter().enumerate() {
                let mut sum = Duration::ZERO;
                for (begun, took) in &used[at..] {
                    let allowed = (*begun - *since).mul_f64(MOST) + AT_ONCE + Duration::from_secs(5);
                    prop_assert!(sum <= allowed, "{sum:?} of {allowed:?}");
                    sum += *took;
                }
            }
        }
    }
}
