//! Bounds the work on a request before it reaches a model. A prompt that cannot fit is refused by its length in bytes,
//! a request that would meet a full queue is refused before it is encoded, and only a few texts are encoded at a time.
//!
//! Without this, a client's long prompts would cost seconds of CPU time and a gigabyte of memory before they are found
//! to be too long. If the client leaves while its request waits here, the request is dropped. It does not know about
//! arms or wire formats.

use super::error::GatewayError;
use super::types::{GenerateRequest, Prompt};
use crate::engine::LaneFigures;
use crate::rollout::Weight;
use crate::routing::Deployment;
use std::sync::Arc;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Bytes beyond which a text is encoded off the async threads. Chats always are: their templates run in a process
/// of their own, and are waited for.
const SHORT_TEXT: usize = 4 << 10;
/// How much longer than its tokens' spellings a text may be: some tokenizers drop what they normalise.
const SLACK: usize = 2;

/// Bounds how many texts are encoded at a time.
#[derive(Debug, Clone)]
pub(super) struct Admission {
    encodes: Arc<Semaphore>,
    longest: Arc<Semaphore>,
}

impl Admission {
    /// Two for each processor: one at work, one whose template's process has its turn.
    pub fn new() -> Admission {
        let processors = std::thread::available_parallelism().map_or(1, usize::from);
        let longest = Arc::new(Semaphore::new(1));
        Admission { encodes: Arc::new(Semaphore::new(2 * processors)), longest }
    }

    /// The turn of a text that is longer than any prompt; there is one at a time. Fails if the
    /// semaphore is closed, which nothing does while the server runs.
    pub async fn turn(&self) -> Result<OwnedSemaphorePermit, GatewayError> {
        let turn = self.longest.clone().acquire_owned().await;
        turn.map_err(|error| GatewayError::Unavailable(error.to_string()))
    }

    /// Runs `work` on a prompt, off the async threads if it may take long, when there is room for it. Dropping the
    /// future gives the place in the queue up; what has begun is bounded by the prompt's length. Fails if the work
    /// panics off these threads, or if the runtime is shutting down.
    pub async fn encode<T: Send + 'static>(
        &self,
        prompt: &Prompt,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, GatewayError> {
        let short = match prompt {
            Prompt::Tokens(_) => true,
            Prompt::Text(text) => text.len() <= SHORT_TEXT,
            Prompt::Chat { .. } => false,
        };
        if short {
            return Ok(work());
        }
        self.apart(work).await
    }

    /// Runs `work` off the async threads when there is room for it. Dropping the future gives the place in the queue
    /// up. Fails if the work panics or the runtime is shutting down.
    pub async fn apart<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, GatewayError> {
        let unavailable = |error: String| GatewayError::Unavailable(error);
        let place = self.encodes.clone().acquire_owned().await;
        let place = place.map_err(|error| unavailable(error.to_string()))?;
        let task = tokio::task::spawn_blocking(move || {
            let _place = place;
            work()
        });
        task.await.map_err(|error| unavailable(error.to_string()))
    }
}

/// Whether a request can be taken at all, before anything is done for it. `beside`: of a canary, stable and the weight.
pub(super) fn check(
    request: &GenerateRequest,
    deployment: &Deployment,
    beside: Option<&(Arc<Deployment>, Weight)>,
) -> Result<(), GatewayError> {
    if request.truncate_prompt.is_none() {
        check_bytes(&request.prompt, deployment)?;
    }
    check_queue(deployment)?;
    let Some((stable, weight)) = beside else { return Ok(()) };
    let load = |deployment: &Deployment| {
        let now = deployment.stats.read();
        [now.running, now.waiting, now.waiting_most]
    };
    match canary_has_its_share(load(deployment), load(stable), weight.fraction()) {
        false => Ok(()),
        true => Err(GatewayError::Busy { waiting: load(stable)[1] as usize }),
    }
}

/// Whether a canary has as many requests as its weight says while stable's queue is long: running, waiting, and how
/// many may wait. With turns and a queue of its own, it would get a share of an overloaded device that has nothing to
/// do with its weight.
fn canary_has_its_share(canary: [u64; 3], stable: [u64; 3], weight: f64) -> bool {
    let [running, waiting, most] = stable;
    let overloaded = most > 0 && LONG_QUEUE * waiting >= most;
    let share = (running as f64 * weight / (1.0 - weight).max(f64::EPSILON)).ceil().max(1.0);
    overloaded && (canary[0] + canary[1]) as f64 >= share
}

/// What part of a full queue is a long one: 1 in so many.
const LONG_QUEUE: u64 = 4;

/// Refuses when the model's queue is full.
pub(super) fn check_queue(deployment: &Deployment) -> Result<(), GatewayError> {
    let LaneFigures { waiting, waiting_most: most, .. } = deployment.stats.read();
    match most > 0 && waiting >= most {
        true => Err(GatewayError::Busy { waiting: waiting as usize }),
        false => Ok(()),
    }
}

/// Refuses a prompt that has more tokens than fit, however it is cut: none is spelt with more bytes than the longest.
pub(super) fn check_bytes(prompt: &Prompt, deployment: &Deployment) -> Result<(), GatewayError> {
    let longest = SLACK * deployment.codec.longest_token();
    let (tokens, max) = (bytes(prompt) / longest.max(1), deployment.max_len());
    match tokens >= max {
        true => {
            let (asked, prompt) = (tokens + 1, tokens);
            Err(GatewayError::ContextLength { max, asked, prompt, reply: 1, withdrawn: None })
        }
        false => Ok(()),
    }
}

/// Bytes of a prompt that come out as tokens whatever the template: the messages' own words.
fn bytes(prompt: &Prompt) -> usize {
    match prompt {
        Prompt::Tokens(_) => 0,
        Prompt::Text(text) => text.len(),
        Prompt::Chat { messages, .. } => {
            messages.iter().map(|message| bytes_of_content(&message["content"])).sum()
        }
    }
}

fn bytes_of_content(content: &serde_json::Value) -> usize {
    match content {
        serde_json::Value::String(text) => text.len(),
        serde_json::Value::Array(parts) => {
            parts.iter().filter_map(|part| part["text"].as_str()).map(str::len).sum()
        }
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::time::Duration;

    #[test]
    fn a_canary_has_its_share_of_an_overloaded_device_and_no_more() {
        let stable = [64, 200, 256];
        assert!(!canary_has_its_share([3, 0, 256], stable, 0.05), "64 to 3.4");
        assert!(canary_has_its_share([4, 0, 256], stable, 0.05));
        assert!(canary_has_its_share([1, 3, 256], stable, 0.05));
        assert!(
            !canary_has_its_share([0, 0, 256], [64, 256, 256], 0.0),
            "one that was asked for by name"
        );
        assert!(!canary_has_its_share([63, 0, 256], stable, 0.5));
        assert!(!canary_has_its_share([64, 256, 256], stable, 1.0));
        assert!(
            !canary_has_its_share([64, 9, 256], [64, 63, 256], 0.05),
            "stable's queue is short"
        );
    }

    #[test]
    fn the_bytes_of_a_prompt_are_those_of_its_words() {
        let chat = |messages: Vec<serde_json::Value>| Prompt::Chat {
            messages,
            tools: None,
            template_kwargs: None,
            ending: Default::default(),
        };
        let cases = [
            (Prompt::Text("12345".into()), 5),
            (Prompt::Tokens(vec![1; 9]), 0),
            (chat(vec![json!({"role": "user", "content": "123"})]), 3),
            (chat(vec![json!({"content": [{"type": "text", "text": "12"}, {"text": "345"}]})]), 5),
            (chat(vec![json!({"content": null}), json!({}), json!({"content": 7})]), 0),
        ];
        for (prompt, expected) in cases {
            assert_eq!(bytes(&prompt), expected, "{prompt:?}");
        }
    }

    #[tokio::test]
    async fn few_are_encoded_at_a_time_and_who_leaves_is_not_waited_for() {
        let admission = Admission { encodes: Arc::new(Semaphore::new(2)), ..Admission::new() };
        let long = Prompt::Text("x".repeat(SHORT_TEXT + 1));
        let (running, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let begun = Arc::new(AtomicUsize::new(0));
        let work = || {
            let (running, most, begun) = (running.clone(), most.clone(), begun.clone());
            move || {
                begun.fetch_add(1, Ordering::SeqCst);
                most.fetch_max(running.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                std::thread::sleep(Duration::from_millis(5));
                running.fetch_sub(1, Ordering::SeqCst);
            }
        };
        let all = (0..20).map(|_| admission.encode(&long, work()));
        let done = futures_util::future::join_all(all).await;
        assert!(done.iter().all(Result::is_ok));
        assert_eq!((most.load(Ordering::SeqCst), begun.load(Ordering::SeqCst)), (2, 20));

        let held = admission.encodes.clone().acquire_many_owned(2).await.unwrap();
        let left = tokio::time::timeout(Duration::from_millis(5), admission.encode(&long, work()));
        assert!(left.await.is_err());
        drop(held);
        tokio::time::sleep(Duration::from_millis(5)).await;
        assert_eq!(begun.load(Ordering::SeqCst), 20, "nothing was done for it");
        assert_eq!(admission.encodes.available_permits(), 2);
    }
}
