//! Chat clients that ask questions with known answers, stream the replies, and vote on them.

use super::super::CliError;
use super::super::client::Client;
use axum::body::Bytes;
use futures_util::StreamExt;
use futures_util::stream::BoxStream;
use parking_lot::Mutex;
use rand::RngExt;
use serde::Deserialize;
use serde_json::{Value, json};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::task::JoinSet;

#[derive(Debug, Clone, Deserialize)]
struct Question {
    question: String,
    answer: String,
}

/// How the clients chat, besides asking short questions.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Habits {
    /// Every fourth chat begins with a system message.
    pub system: bool,
    /// Every fourth chat is a conversation of several turns.
    pub long: bool,
    /// All replies must be JSON; a right one is one that is whole. Nobody votes.
    pub json: bool,
    /// Clients leave if there is no text after this time, and do not limit the length of a reply.
    pub patience: Option<Duration>,
}

/// One chat in so many has a system message or several turns.
const EVERY: u64 = 4;
/// Earlier turns of a long conversation.
const TURNS: usize = 8;

/// What the clients have observed, per arm (stable, canary).
#[derive(Debug, Clone, Default)]
pub(super) struct Tally {
    pub answered: [u64; 2],
    pub right: [u64; 2],
    /// Requests that clients left because no text came.
    pub left: u64,
    /// Requests that failed.
    pub failed: u64,
    pub last_failure: Option<String>,
}

pub(super) struct Load {
    tally: Arc<Mutex<Tally>>,
    stop: Arc<AtomicBool>,
    tasks: JoinSet<()>,
}

impl Load {
    /// Starts `clients` clients, which ask until they are stopped. Fails if the file of questions cannot be read or is
    /// not valid.
    pub fn start(
        client: &Client,
        model: &str,
        questions: &Path,
        clients: u16,
        habits: Habits,
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
                habits,
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

    /// What the clients have observed so far.
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
    habits: Habits,
}

/// Limit on the length of a reply, in tokens, of clients that do not leave.
const MAX_TOKENS: u32 = 48;

#[derive(Debug, Default)]
struct Chat {
    id: String,
    canary: bool,
    text: String,
}

impl Worker {
    fn question(&self) -> Option<&Question> {
        self.questions.get(rand::rng().random_range(0..self.questions.len().max(1)))
    }

    async fn ask(&self, asked: u64) {
        let Some(question) = self.question() else { return };
        // Half of the clients keep a session key for a few questions.
        let session = (self.number.is_multiple_of(2))
            .then(|| format!("client-{}-{}", self.number, asked / 4));
        let messages = self.messages(question, asked);
        match self.chat(messages, session.as_deref()).await {
            Ok(Some(chat)) => {
                let right = match self.habits.json {
                    true => serde_json::from_str::<Value>(&chat.text).is_ok(),
                    false => chat.text.trim() == question.answer,
                };
                {
                    let mut tally = self.tally.lock();
                    tally.answered[usize::from(chat.canary)] += 1;
                    tally.right[usize::from(chat.canary)] += u64::from(right);
                }
                if !self.habits.json {
                    self.vote(&chat.id, right).await;
                }
            }
            Ok(None) => self.tally.lock().left += 1,
            Err(what) => {
                let mut tally = self.tally.lock();
                tally.failed += 1;
                tally.last_failure = Some(what);
            }
        }
    }

    fn messages(&self, question: &Question, asked: u64) -> Vec<Value> {
        let mut messages = Vec::new();
        let special = (asked + u64::from(self.number)).is_multiple_of(EVERY);
        if special && self.habits.system {
            messages.push(json!({"role": "system", "content": "You answer in one sentence."}));
        }
        let turns = if special && self.habits.long { TURNS } else { 0 };
        for Question { question, answer } in (0..turns).filter_map(|_| self.question()) {
            messages.push(json!({"role": "user", "content": question}));
            messages.push(json!({"role": "assistant", "content": answer}));
        }
        messages.push(json!({"role": "user", "content": question.question}));
        messages
    }

    /// A chat; `None` if the client has lost patience.
    async fn chat(
        &self,
        messages: Vec<Value>,
        session: Option<&str>,
    ) -> Result<Option<Chat>, String> {
        let mut body =
            json!({"model": self.model, "stream": true, "temperature": 0, "messages": messages});
        if self.habits.json {
            body["structured_outputs"] =
                json!({"json": sentence(), "disable_any_whitespace": true});
        }
        if self.habits.patience.is_none() {
            body["max_tokens"] = json!(MAX_TOKENS);
        }
        let mut request = self.client.http.post(self.client.url("/v1/chat/completions"));
        if let Some(session) = session {
            request = request.header("x-serin-session", session);
        }
        let mut chat = Chat::default();
        let begun = within(self.habits.patience, async {
            let response = request.json(&body).send().await.map_err(|e| e.to_string())?;
            let status = response.status();
            if !status.is_success() {
                return Err(format!("{status}: {}", response.text().await.unwrap_or_default()));
            }
            let arm = response.headers().get("x-serin-arm");
            chat.canary = arm.is_some_and(|arm| arm == "canary");
            let mut reply = Reply { bytes: response.bytes_stream().boxed(), pending: Vec::new() };
            let ended = reply.read(&mut chat, |chat| !chat.text.is_empty()).await?;
            Ok((reply, ended))
        });
        let Some((mut reply, ended)) = begun.await? else { return Ok(None) };
        if !ended {
            reply.read(&mut chat, |_| false).await?;
        }
        Ok(Some(chat))
    }

    async fn vote(&self, id: &str, good: bool) {
        let body = json!({"id": id, "value": good});
        let url = self.client.url("/v1/feedback");
        if let Err(error) = self.client.http.post(url).json(&body).send().await {
            self.tally.lock().last_failure = Some(error.to_string());
        }
    }
}

/// The schema of replies that must be JSON: one sentence.
fn sentence() -> Value {
    let answer = json!({"type": "string", "pattern": "^[A-Za-z0-9 ,:'-]+[.]$"});
    json!({"type": "object", "properties": {"answer": answer}, "required": ["answer"]})
}

/// The result of `work`; nothing if it takes longer than `patience`.
async fn within<T>(
    patience: Option<Duration>,
    work: impl Future<Output = Result<T, String>>,
) -> Result<Option<T>, String> {
    match patience {
        None => work.await.map(Some),
        Some(patience) => tokio::time::timeout(patience, work).await.ok().transpose(),
    }
}

struct Reply {
    bytes: BoxStream<'static, reqwest::Result<Bytes>>,
    pending: Vec<u8>,
}

impl Reply {
    /// Reads server-sent events up to `[DONE]` (true), or until `enough` (false); any other end is a failure.
    async fn read(
        &mut self,
        chat: &mut Chat,
        enough: impl Fn(&Chat) -> bool,
    ) -> Result<bool, String> {
        loop {
            while let Some(end) = self.pending.iter().position(|b| *b == b'\n') {
                let line: Vec<u8> = self.pending.drain(..=end).collect();
                let line = String::from_utf8_lossy(&line);
                let Some(data) = line.trim().strip_prefix("data: ") else { continue };
                if data == "[DONE]" {
                    return Ok(true);
                }
                chat.add(data)?;
                if enough(chat) {
                    return Ok(false);
                }
            }
            let Some(part) = self.bytes.next().await else {
                return Err("the stream ended without [DONE]".to_owned());
            };
            self.pending.extend_from_slice(&part.map_err(|e| e.to_string())?);
        }
    }
}

impl Chat {
    /// Adds what one event says.
    fn add(&mut self, data: &str) -> Result<(), String> {
        let chunk: Value = serde_json::from_str(data).map_err(|e| e.to_string())?;
        if let Some(error) = chunk.get("error").filter(|e| !e.is_null()) {
            return Err(error["message"].as_str().unwrap_or("error in stream").to_owned());
        }
        if let Some(id) = chunk["id"].as_str() {
            id.clone_into(&mut self.id);
        }
        self.text += chunk["choices"][0]["delta"]["content"].as_str().unwrap_or("");
        Ok(())
    }
}
