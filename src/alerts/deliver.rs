//! The task of one webhook: takes the next due alert from its queue, sends it, and handles the result.
//!
//! It reads the clock; the queue, the texts and the judgement are in other files. There is only one attempt at a time
//! per webhook, so a slow receiver is not flooded. The lock is never held across an await.

use super::backoff::{AttemptResult, Schedule, judge};
use super::config::{Format, WebhookConfig};
use super::payload;
use super::queue::{Item, Next, Queue};
use super::wire::{Post, Wire};
use super::{Alert, AlertsError};
use crate::outbound;
use parking_lot::Mutex;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use tokio::sync::Notify;

/// Time since the start, for queues and windows, and the wall-clock time, for signatures.
#[derive(Debug, Clone, Copy)]
pub(super) struct Clock {
    origin: Instant,
}

impl Clock {
    pub(super) fn start() -> Clock {
        Clock { origin: Instant::now() }
    }

    pub(super) fn now(self) -> Duration {
        self.origin.elapsed()
    }

    fn unix(self) -> u64 {
        SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
    }
}

/// What has happened to the alerts for one webhook so far.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct WebhookCounts {
    /// The webhook's index in the list and its host.
    pub name: String,
    /// Delivered.
    pub sent: u64,
    /// Attempts that failed and were followed by another.
    pub retried: u64,
    /// Given up: refused, or failed at the last attempt.
    pub failed: u64,
    /// Dropped before the last attempt: the queue was full, the webhook is gone, or the process ended.
    pub dropped: u64,
    /// Not done yet, including the one that is being sent.
    pub waiting: u64,
    /// Whether the receiver answered 410 Gone; nothing is sent to it until the next start.
    pub gone: bool,
}

impl WebhookCounts {
    /// The name of each result and how many alerts had it.
    pub fn results(&self) -> [(&'static str, u64); 5] {
        [
            ("sent", self.sent),
            ("retried", self.retried),
            ("failed", self.failed),
            ("dropped", self.dropped),
            ("waiting", self.waiting),
        ]
    }
}

/// Whether alerts are accepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum QueueState {
    Open,
    /// No new alerts are accepted; waiting ones are tried once more.
    Closing,
    /// No alerts are accepted or sent.
    Shut,
}

struct Inbox {
    queue: Queue,
    door: QueueState,
    counts: WebhookCounts,
}

/// One webhook with everything that waits for it.
pub(super) struct Lane {
    config: WebhookConfig,
    schedule: Schedule,
    clock: Clock,
    inbox: Mutex<Inbox>,
    wake: Notify,
}

/// What the task does next.
enum Step {
    /// Send it; if `last`, there is no time for another attempt.
    Try(Item, bool),
    Sleep(Duration),
    Idle,
    End,
}

impl Lane {
    pub(super) fn new(
        config: WebhookConfig,
        schedule: Schedule,
        capacity: usize,
        clock: Clock,
    ) -> Lane {
        let counts = WebhookCounts { name: config.name.clone(), ..WebhookCounts::default() };
        let inbox = Inbox { queue: Queue::new(capacity), door: QueueState::Open, counts };
        Lane { config, schedule, clock, inbox: Mutex::new(inbox), wake: Notify::new() }
    }

    pub(super) fn counts(&self) -> WebhookCounts {
        self.inbox.lock().counts.clone()
    }

    /// Accepts an alert if its receiver wants the kind. Never blocks.
    pub(super) fn offer(&self, alert: &Arc<Alert>, repeats: u64) {
        if !self.config.wants(alert.kind) {
            return;
        }
        let due = self.clock.now();
        let item = Item { alert: alert.clone(), repeats, tries: 0, due };
        let (lost, why, dropped) = {
            let mut inbox = self.inbox.lock();
            let (lost, why) = match inbox.door {
                QueueState::Open => (inbox.queue.push(item), "too many alerts wait"),
                QueueState::Closing => (Some(item), "the process is ending"),
                QueueState::Shut => (Some(item), "the webhook is closed"),
            };
            match lost {
                None => inbox.counts.waiting += 1,
                Some(_) => inbox.counts.dropped += 1,
            }
            (lost, why, inbox.counts.dropped)
        };
        if let Some(lost) = lost {
            let (webhook, id) = (self.config.name.as_str(), lost.alert.id.as_str());
            tracing::warn!(webhook, id, dropped, "an alert is not delivered: {why}");
        }
        self.wake.notify_one();
    }

    /// Accepts no more alerts, and makes all waiting ones due for a last attempt.
    pub(super) fn close(&self) {
        let mut inbox = self.inbox.lock();
        if inbox.door == QueueState::Open {
            inbox.door = QueueState::Closing;
        }
        inbox.queue.hurry();
        drop(inbox);
        self.wake.notify_one();
    }

    /// Gives up the alerts that still wait, and returns their number.
    pub(super) fn abandon(&self) -> u64 {
        let mut inbox = self.inbox.lock();
        inbox.door = QueueState::Shut;
        inbox.queue.clear();
        let left = std::mem::take(&mut inbox.counts.waiting);
        inbox.counts.dropped += left;
        left
    }

    /// The task: runs until the queue is closed and empty, or the receiver is gone.
    pub(super) async fn run(self: Arc<Lane>, wire: Wire) {
        loop {
            match self.step() {
                Step::Try(item, last) => self.attempt(&wire, item, last).await,
                Step::Sleep(time) => {
                    // Woken or not, the next step checks everything again.
                    let _ = tokio::time::timeout(time, self.wake.notified()).await;
                }
                Step::Idle => self.wake.notified().await,
                Step::End => return,
            }
        }
    }

    fn step(&self) -> Step {
        let now = self.clock.now();
        let mut inbox = self.inbox.lock();
        let closing = inbox.door != QueueState::Open;
        match inbox.queue.next(now) {
            Next::Try(item) => Step::Try(item, closing),
            Next::Wait(until) => Step::Sleep(until.saturating_sub(now)),
            Next::Empty if closing => Step::End,
            Next::Empty => Step::Idle,
        }
    }

    async fn attempt(&self, wire: &Wire, mut item: Item, last: bool) {
        item.tries += 1;
        let result = wire.post(self.post(&item, self.clock.unix())).await;
        let draw = rand::random::<f64>();
        let outcome = judge(&result, item.tries, &self.schedule, draw, self.clock.unix());
        self.settle(item, outcome, last);
    }

    /// The request of one attempt. It has the attempt's time and the alert's id: see the specification's
    /// "Webhook metadata".
    fn post(&self, item: &Item, unix: u64) -> Post {
        let agent = concat!("serin/", env!("CARGO_PKG_VERSION")).to_owned();
        let mut headers =
            vec![("content-type", "application/json".to_owned()), ("user-agent", agent)];
        let body = match self.config.format {
            Format::Slack => payload::slack(&item.alert, item.repeats),
            Format::Standard => payload::standard(&item.alert, item.repeats),
        };
        let body = body.to_string().into_bytes();
        if self.config.format == Format::Standard {
            let id = item.alert.id.as_str();
            headers.push(("webhook-id", id.to_owned()));
            headers.push(("webhook-timestamp", unix.to_string()));
            let signature = self.config.secret.as_ref().map(|key| key.sign(id, unix, &body));
            headers.extend(signature.map(|signature| ("webhook-signature", signature)));
        }
        Post { url: self.config.url.clone(), headers, body }
    }

    /// Handles the result of an attempt, and logs it.
    fn settle(&self, item: Item, outcome: AttemptResult, last: bool) {
        let (webhook, id, tries) = (self.config.name.as_str(), item.alert.id.clone(), item.tries);
        match outcome {
            AttemptResult::Delivered => {
                self.done(|counts| counts.sent += 1);
                tracing::debug!(webhook, %id, tries, "alert delivered");
            }
            AttemptResult::Again { after, quiet, why } if !last => {
                self.again(item, after, quiet);
                let after = after.as_secs_f64();
                tracing::warn!(webhook, %id, tries, after, "alert not delivered, will be retried: {why}");
            }
            AttemptResult::Again { why, .. } | AttemptResult::Failed { why } => {
                self.done(|counts| counts.failed += 1);
                tracing::error!(webhook, %id, tries, "alert NOT delivered: {why}");
            }
            AttemptResult::Gone => {
                self.done(|counts| {
                    counts.gone = true;
                    counts.failed += 1;
                });
                let also = self.abandon();
                tracing::error!(webhook, %id, also, "the receiver is gone for good (410): this webhook is off until the next start; remove it or fix its url");
            }
        }
    }

    /// Counts the end of one alert.
    fn done(&self, count: impl FnOnce(&mut WebhookCounts)) {
        let mut inbox = self.inbox.lock();
        inbox.counts.waiting = inbox.counts.waiting.saturating_sub(1);
        count(&mut inbox.counts);
    }

    fn again(&self, mut item: Item, after: Duration, quiet: bool) {
        let now = self.clock.now();
        item.due = now + after;
        let mut inbox = self.inbox.lock();
        inbox.counts.retried += 1;
        if quiet {
            inbox.queue.quiet(now + after);
        }
        inbox.queue.put_back(item);
        if inbox.door == QueueState::Closing {
            inbox.queue.hurry();
        }
    }
}

/// The client for these webhooks; certificates are loaded only if one of them uses https.
pub(super) fn wire_for(webhooks: &[WebhookConfig], limit: Duration) -> Result<Wire, AlertsError> {
    let https = webhooks.iter().any(WebhookConfig::is_https);
    let roots = match https {
        true => outbound::system_roots().map_err(|what| AlertsError::NoRoots { what })?,
        false => rustls::RootCertStore::empty(),
    };
    Wire::new(roots, limit)
}
