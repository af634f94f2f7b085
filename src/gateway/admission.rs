//! Work on a request before any model has it, bounded: what cannot fit is refused by its bytes, what would have to
//! wait for a full queue is refused before it is encoded, and few texts are encoded at a time.
//!
//! Without this, a client's long prompts cost seconds of processor time and a gigabyte before they are found to be
//! too long. A request whose client leaves while it waits here is gone. Knows no arm and no wire format.

use super::types::{GatewayError, GenerateRequest, Prompt};
use crate::control::Deployment;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use tokio::sync::Semaphore;

/// Bytes beyond which a text is encoded off the async threads. Chats always are: their templates run in a process
/// of their own, and are waited for.
const SHORT_TEXT: usize = 4 << 10;
/// How much longer than its tokens' spellings a text may be: some tokenizers drop what they normalise.
const SLACK: usize = 2;

/// Bounds how many texts are encoded at a time.
#[derive(Debug, Clone)]
pub(super) struct Admission {
    encodes: Arc<Semaphore>,
}

impl Admission {
    /// Two for each processor: one at work, one whose template's process has its turn.
    pub fn new() -> Admission {
        let processors = std::thread::available_parallelism().map_or(1, usize::from);
        Admission { encodes: Arc::new(Semaphore::new(2 * processors)) }
    }

    /// Runs `work` on a prompt, off the async threads if it may take long, when there is room for it. Dropping the
    /// future gives the place in the queue up; what has begun is bounded by the prompt's length.
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

/// Whether a request can be taken at all, before anything is done for it. `ahead`: the model whose queue counts as
/// well. The canary's requests wait behind stable's: with a queue of its own it would get a share of an overloaded
/// device that has nothing to do with its weight. Stable waits for nobody.
pub(super) fn check(
    request: &GenerateRequest,
    deployment: &Deployment,
    ahead: Option<&Deployment>,
) -> Result<(), GatewayError> {
    check_bytes(&request.prompt, deployment)?;
    let ahead = ahead.map_or(0, |ahead| ahead.stats.waiting.load(Ordering::Relaxed));
    check_queue(deployment, ahead)
}

/// Refuses when the model's queue is full, with so many more `ahead` of it.
pub(super) fn check_queue(deployment: &Deployment, ahead: u64) -> Result<(), GatewayError> {
    let stats = &deployment.stats;
    let [waiting, most] = [&stats.waiting, &stats.waiting_most].map(|n| n.load(Ordering::Relaxed));
    match most > 0 && waiting + ahead >= most {
        true => Err(GatewayError::Busy { waiting: (waiting + ahead) as usize }),
        false => Ok(()),
    }
}

/// Refuses a prompt that has more tokens than fit, however it is cut: none is spelt with more bytes than the longest.
pub(super) fn check_bytes(prompt: &Prompt, deployment: &Deployment) -> Result<(), GatewayError> {
    let longest = SLACK * deployment.codec.longest_token();
    let (tokens, max) = (bytes(prompt) / longest.max(1), deployment.max_len());
    match tokens >= max {
        true => {
            Err(GatewayError::ContextLength { max, asked: tokens + 1, prompt: tokens, reply: 1 })
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
    use std::sync::atomic::AtomicUsize;
    use std::time::Duration;

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
        let admission = Admission { encodes: Arc::new(Semaphore::new(2)) };
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
