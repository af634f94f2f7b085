//! Chat clients that ask questions with known answers, stream the replies, and vote on them.

use super::super::CliError;
use super::super::client::Client;
use futures_util::StreamExt;
use parking_lot::Mutex;
use rand::RngExt;
use serde::Deserialize;
use serde_json::{Value, json};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use tokio::task::JoinSet;

/// A question and its right answer.
#[derive(Debug, Clone, Deserialize)]
struct Question {
    question: String,
    answer: String,
}

/// What the clients have observed, per arm (stable, canary).
#[derive(Debug, Clone, Default)]
pub(super) struct Tally {
    pub answered: [u64; 2],
    pub right: [u64; 2],
    /// Requests that failed.
    pub failed: u64,
    pub last_failure: Option<String>,
}

/// The running clients.
pub(super) struct Load {
    tally: Arc<Mutex<Tally>>,
    stop: Arc<AtomicBool>,
    tasks: JoinSet<()>,
}

impl Load {
    pub fn start(
        client: &Client,
        model: &str,
        questions: &Path,
        clients: u16,
    ) -> Result<Load, CliError> {
        let text = std::fs::read_to_string(questions)
            .map_err(|e| CliError(format!("cannot read {}: {e}", questions.display())))?;
        let questions: Vec<Question> = serde_json::from_str(&text).map_err(CliError::from_text)?;
        let questions = Arc::new(questions);
        let (tally, stop) = (Arc::default(), Arc::new(AtomicBool::new(false)));
        let mut tasks = JoinSet::new();
        for number in 0..clients {
            let worker = Worker {
                client: client.clone(),
                model: model.to_owned(),
                questions: questions.clone(),
                tally: Arc::clone(&tally),
                number,
            };
            let stop = stop.clone();
            tasks.spawn(async move {
                let mut asked = 0u64;
                while !stop.load(Ordering::Relaxed) {
                    worker.ask(asked).await;
                    asked += 1;
                }
            });
        }
        Ok(Load { tally, stop, tasks })
    }

    pub fn tally(&self) -> Tally {
        self.tally.lock().clone()
    }

    /// Lets every client finish its request.
    pub async fn stop(mut self) -> Tally {
        self.stop.store(true, Ordering::Relaxed);
        while self.tasks.join_next().await.is_some() {}
        self.tally()
    }
}

struct Worker {
    client: Client,
    model: String,
    questions: Arc<Vec<Question>>,
    tally: Arc<Mutex<Tally>>,
    number: u16,
}

/// The result of one chat.
struct Chat {
    id: String,
    canary: bool,
    text: String,
}

impl Worker {
    async fn ask(&self, asked: u64) {
        let Some(question) =
            self.questions.get(rand::rng().random_range(0..self.questions.len().max(1)))
        else {
            return;
        };
        // Half of the clients keep a session key for a few questions.
        let session = (self.number.is_multiple_of(2))
            .then(|| format!("client-{}-{}", self.number, asked / 4));
        match self.chat(&question.question, session.as_deref()).await {
            Ok(chat) => {
                let right = chat.text.trim() == question.answer;
                {
                    let mut tally = self.tally.lock();
                    tally.answered[usize::from(chat.canary)] += 1;
                    tally.right[usize::from(chat.canary)] += u64::from(right);
                }
                self.vote(&chat.id, right).await;
            }
            Err(what) => {
                let mut tally = self.tally.lock();
                tally.failed += 1;
                tally.last_failure = Some(what);
            }
        }
    }

    async fn chat(&self, question: &str, session: Option<&str>) -> Result<Chat, String> {
        let body = json!({
            "model": self.model, "stream": true, "max_tokens": 48, "temperature": 0,
            "messages": [{"role": "user", "content": question}],
        });
        let mut request = self.client.http().post(self.client.url("/v1/chat/completions"));
        if let Some(session) = session {
            request = request.header("x-serin-session", session);
        }
        let response = request.json(&body).send().await.map_err(|e| e.to_string())?;
        let status = response.status();
        if !status.is_success() {
            return Err(format!("{status}: {}", response.text().await.unwrap_or_default()));
        }
        let arm = response.headers().get("x-serin-arm").cloned();
        let mut chat = Chat {
            id: String::new(),
            canary: arm.is_some_and(|a| a == "canary"),
            text: String::new(),
        };
        read_stream(response, &mut chat).await?;
        Ok(chat)
    }

    async fn vote(&self, id: &str, good: bool) {
        let body = json!({"id": id, "value": good});
        let url = self.client.url("/v1/feedback");
        if let Err(error) = self.client.http().post(url).json(&body).send().await {
            self.tally.lock().last_failure = Some(error.to_string());
        }
    }
}

/// Reads server-sent events up to `[DONE]`; any other end is a failure.
async fn read_stream(response: reqwest::Response, chat: &mut Chat) -> Result<(), String> {
    let mut bytes = response.bytes_stream();
    let mut pending = Vec::new();
    while let Some(part) = bytes.next().await {
        pending.extend_from_slice(&part.map_err(|e| e.to_string())?);
        while let Some(end) = pending.iter().position(|b| *b == b'\n') {
            let line: Vec<u8> = pending.drain(..=end).collect();
            let line = String::from_utf8_lossy(&line);
            let Some(data) = line.trim().strip_prefix("data: ") else { continue };
            if data == "[DONE]" {
                return Ok(());
            }
            let chunk: Value = serde_json::from_str(data).map_err(|e| e.to_string())?;
            if let Some(error) = chunk.get("error").filter(|e| !e.is_null()) {
                return Err(error["message"].as_str().unwrap_or("error in stream").to_owned());
            }
            if let Some(id) = chunk["id"].as_str() {
                id.clone_into(&mut chat.id);
            }
            chat.text += chunk["choices"][0]["delta"]["content"].as_str().unwrap_or("");
        }
    }
    Err("the stream ended without [DONE]".to_owned())
}
