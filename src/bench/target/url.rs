//! A running server with an OpenAI-compatible API: streamed completions, timed by this client.
//!
//! TTFT ends with the first event that has text. The server counts the tokens (`usage`); if it does not report them,
//! its events are counted. Prompts are words; two short requests find out how many words give a number of tokens. It
//! does not know about blocks or the other version.

use super::sse::{self, Events};
use super::{Ready, Setting, graded};
use crate::bench::plan::{Planned, Point};
use crate::bench::prompts;
use crate::bench::replies::{Answered, Place, Reply, kld_of_tops};
use crate::bench::sample::Sample;
use crate::{outbound, sanitize};
use futures_util::StreamExt;
use rustls::RootCertStore;
use serde_json::{Value, json};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};
use xxhash_rust::xxh3::xxh3_64;

/// How long the client waits for the headers, and for the next bytes.
const PATIENCE: Duration = Duration::from_secs(300);
/// Words of the two requests that find out how many tokens a word has; one word is taken to be one token.
const PROBES: [usize; 2] = [1, 140];
/// Most likely tokens that are asked for when replies are compared.
const TOPS: usize = 20;

named! {
    /// Which of the two routes is asked.
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    pub enum Endpoint {
        /// `/v1/chat/completions`.
        Chat = "chat",
        /// `/v1/completions`.
        Completions = "completions",
    }
}

impl std::str::FromStr for Endpoint {
    type Err = String;

    fn from_str(text: &str) -> Result<Endpoint, String> {
        Endpoint::from_name(text)
            .ok_or_else(|| format!("must be chat or completions, not {text:?}"))
    }
}

/// Where and how to ask.
#[derive(Debug, Clone)]
pub struct Server {
    /// Such as `http://127.0.0.1:8080`; a path such as `/v1` is taken off its end.
    pub url: String,
    /// Name of the model; `None`: the first that the server lists.
    pub model: Option<String>,
    /// Which route.
    pub endpoint: Endpoint,
    /// Sent as `Authorization: Bearer`.
    pub api_key: Option<String>,
    /// Sent as `x-serin-variant`: pins requests to an arm of a serin server.
    pub variant: Option<&'static str>,
}

/// A server that has answered.
pub struct Url {
    http: reqwest::Client,
    server: Server,
    model: String,
    /// Tokens of a word, and of a prompt without words.
    tokens: [f64; 2],
    /// A prompt that must find nothing in the prefix cache begins with a number of its own.
    numbers: AtomicU64,
}

impl Url {
    /// Asks the server for its model, and how many tokens words have.
    ///
    /// # Errors
    ///
    /// Why it cannot be measured.
    pub async fn connect(mut server: Server) -> Result<Url, String> {
        let base = server.url.trim_end_matches('/').trim_end_matches("/v1").to_owned();
        server.url = if base.contains("://") { base } else { format!("http://{base}") };
        let roots = match server.url.starts_with("https://") {
            true => outbound::system_roots()?,
            false => RootCertStore::empty(),
        };
        let http = outbound::client(roots)?.build().map_err(outbound::chain)?;
        let (model, numbers) = (server.model.clone().unwrap_or_default(), AtomicU64::new(1));
        let mut url = Url { http, server, model, tokens: [1.3, 0.0], numbers };
        if url.model.is_empty() {
            url.model = url.first_model().await?;
        }
        url.calibrate().await?;
        Ok(url)
    }

    /// The model's name, and where it is.
    pub fn name(&self) -> String {
        let pinned = self.server.variant.map(|arm| format!(" ({arm})")).unwrap_or_default();
        format!("{} at {}{pinned}", sanitize::line(&self.model), self.server.url)
    }

    async fn first_model(&self) -> Result<String, String> {
        let request = self.http.get(format!("{}/v1/models", self.server.url));
        let answer = self.whole(request).await?;
        let name = answer["data"][0]["id"].as_str();
        name.map(str::to_owned)
            .ok_or_else(|| format!("{} lists no model; name one with --model", self.server.url))
    }

    /// Solves for the tokens of a word and those of a prompt without words.
    async fn calibrate(&mut self) -> Result<(), String> {
        let mut counts = [None; 2];
        for (count, words) in counts.iter_mut().zip(PROBES) {
            let body = self.body(vec![message(&prompts::words(0, 0, words))], 1, false);
            let answer = self.whole(self.post(&body)).await?;
            *count = sse::usage(&answer).map(|[prompt, ..]| prompt as f64);
        }
        match counts {
            [Some(few), Some(many)] if many > few => {
                let each = (many - few) / (PROBES[1] - PROBES[0]) as f64;
                self.tokens = [each, (few - each * PROBES[0] as f64).max(0.0)];
            }
            _ => eprintln!(
                "serin: {} does not say how many tokens a prompt has; 1.3 a word are assumed",
                self.server.url
            ),
        }
        Ok(())
    }

    fn post(&self, body: &Value) -> reqwest::RequestBuilder {
        let route = match self.server.endpoint {
            Endpoint::Chat => "/v1/chat/completions",
            Endpoint::Completions => "/v1/completions",
        };
        let mut request = self.http.post(format!("{}{route}", self.server.url)).json(body);
        if let Some(variant) = self.server.variant {
            request = request.header("x-serin-variant", variant);
        }
        request
    }

    /// The answer to a request that is not streamed.
    async fn whole(&self, request: reqwest::RequestBuilder) -> Result<Value, String> {
        let response = self.send(request).await?;
        let body = tokio::time::timeout(PATIENCE, response.json::<Value>()).await;
        let body = body.map_err(|_| self.slow())?.map_err(outbound::chain)?;
        match sse::error(&body) {
            Some(error) => Err(sanitize::line(&error)),
            None => Ok(body),
        }
    }

    async fn send(
        &self,
        mut request: reqwest::RequestBuilder,
    ) -> Result<reqwest::Response, String> {
        if let Some(key) = &self.server.api_key {
            request = request.bearer_auth(key);
        }
        let sent = tokio::time::timeout(PATIENCE, request.send()).await.map_err(|_| self.slow())?;
        let response = sent.map_err(|error| {
            format!("{} does not answer: {}", self.server.url, outbound::chain(error))
        })?;
        let status = response.status();
        if status.is_success() {
            return Ok(response);
        }
        let body = response.json::<Value>().await.unwrap_or_default();
        let why = sse::error(&body).unwrap_or_else(|| "no reason given".to_owned());
        Err(format!("{} answered {status}: {}", self.server.url, sanitize::line(&why)))
    }

    fn slow(&self) -> String {
        format!("{} sent nothing for {} s", self.server.url, PATIENCE.as_secs())
    }

    fn body(&self, messages: Vec<Value>, max_tokens: usize, streamed: bool) -> Value {
        let mut body = json!({"model": self.model, "max_tokens": max_tokens, "stream": streamed});
        match self.server.endpoint {
            Endpoint::Chat => body["messages"] = Value::Array(messages),
            Endpoint::Completions => {
                let texts = messages.iter().filter_map(|message| message["content"].as_str());
                body["prompt"] = json!(texts.collect::<Vec<_>>().join("\n"));
            }
        }
        if streamed {
            body["stream_options"] = json!({"include_usage": true});
        }
        body
    }

    pub(super) fn prepare(
        &self,
        setting: &Setting,
        point: &Point,
        planned: &[Planned],
    ) -> Vec<Ready> {
        let one = |planned: &Planned| {
            let context = prompts::context(setting.seed, self.words(point.depth, 0.0));
            let number = self.numbers.fetch_add(1, Ordering::Relaxed);
            let begin = match point.prefix_cache {
                true => context,
                false => format!("{number:06} {context}"),
            };
            Ready::Url(self.request(setting, &begin, planned, true))
        };
        planned.iter().map(one).collect()
    }

    /// Words of so many tokens, of which `other` are in the prompt without them.
    fn words(&self, tokens: usize, other: f64) -> usize {
        ((tokens as f64 - other) / self.tokens[0]).round().max(0.0) as usize
    }

    fn request(
        &self,
        setting: &Setting,
        context: &str,
        planned: &Planned,
        streamed: bool,
    ) -> Value {
        let messages = match setting.source.entry(planned.prompt) {
            Some(entry) => entry.after(context),
            None => {
                let count = self.words(setting.source.tokens(), self.tokens[1]).max(1);
                let words = prompts::words(setting.seed, planned.prompt, count);
                vec![message(format!("{context} {words}").trim())]
            }
        };
        let mut body = self.body(messages, setting.reply_tokens(planned.prompt), streamed);
        // JSON numbers beyond 53 bits are not safe everywhere.
        body["seed"] = json!(planned.seed >> 33);
        if let Some(temperature) = setting.temperature {
            body["temperature"] = json!(temperature);
        }
        if setting.ignore_eos {
            body["ignore_eos"] = json!(true);
        }
        body
    }

    pub(super) async fn ask(&self, body: &Value) -> Result<(Sample, Instant), String> {
        let request = self.post(body);
        let sent = Instant::now();
        let response = self.send(request).await?;
        let (mut stream, mut events) = (response.bytes_stream(), Events::default());
        let (mut times, mut usage, mut done) = (Vec::new(), None, false);
        while !done {
            let bytes = tokio::time::timeout(PATIENCE, stream.next()).await;
            let Some(bytes) = bytes.map_err(|_| self.slow())? else { break };
            let (bytes, now) = (bytes.map_err(outbound::chain)?, Instant::now());
            for chunk in events.push(&bytes)? {
                if let Some(error) = chunk.error {
                    return Err(sanitize::line(&error));
                }
                if chunk.has_token {
                    times.push(now);
                }
                usage = chunk.usage.or(usage);
                done |= chunk.done;
            }
        }
        if !done {
            return Err(format!("{} ended the stream before [DONE]", self.server.url));
        }
        let [Some(first), Some(last)] = [times.first().copied(), times.last().copied()] else {
            return Err("the reply is empty".to_owned());
        };
        let gap = |pair: &[Instant]| pair[1].duration_since(pair[0]).as_secs_f32();
        let [prompt_tokens, output_tokens, cached_tokens] = usage.unwrap_or([0, times.len(), 0]);
        let sample = Sample {
            ttft: first.duration_since(sent).as_secs_f64(),
            gaps: times.windows(2).map(gap).collect(),
            end_to_end: last.duration_since(sent).as_secs_f64(),
            prompt_tokens,
            cached_tokens,
            output_tokens,
        };
        Ok((sample, last))
    }

    /// A whole reply with log-probabilities if the server has them.
    async fn reply(&self, setting: &Setting, planned: &Planned) -> Result<Value, String> {
        let body = self.request(setting, "", planned, false);
        if self.server.endpoint == Endpoint::Chat {
            let mut with = body.clone();
            (with["logprobs"], with["top_logprobs"]) = (json!(true), json!(TOPS));
            if let Ok(answer) = self.whole(self.post(&with)).await {
                return Ok(answer);
            }
        }
        self.whole(self.post(&body)).await
    }
}

fn message(text: &str) -> Value {
    json!({"role": "user", "content": text})
}

/// A token with its log-probability, and the most likely tokens at its place.
struct Token {
    id: u64,
    logprob: f64,
    top: Vec<(u64, f64)>,
}

fn tokens(answer: &Value) -> Vec<Token> {
    let id = |one: &Value| xxh3_64(one["token"].as_str().unwrap_or_default().as_bytes());
    let logprob = |one: &Value| one["logprob"].as_f64().unwrap_or(f64::NAN);
    let one = |token: &Value| {
        let top = token["top_logprobs"].as_array().into_iter().flatten();
        let top = top.map(|one| (id(one), logprob(one))).collect();
        Token { id: id(token), logprob: logprob(token), top }
    };
    let content = answer["choices"][0]["logprobs"]["content"].as_array();
    content.into_iter().flatten().map(one).collect()
}

/// Has one or two servers answer a prompt. Their distributions are compared up to the first token that differs: from
/// there on the two continue different texts.
///
/// # Errors
///
/// Which server could not answer, and why.
pub(super) async fn answered(
    targets: &[&Url],
    setting: &Setting,
    planned: &Planned,
) -> Result<Answered, String> {
    let (mut replies, mut all) = (Vec::new(), Vec::new());
    for target in targets {
        let answer = target.reply(setting, planned).await?;
        let choice = &answer["choices"][0];
        let text = [&choice["message"]["content"], &choice["text"]];
        let text = text.into_iter().find_map(Value::as_str).unwrap_or_default().to_owned();
        let tokens = tokens(&answer);
        let length = sse::usage(&answer).map_or(tokens.len(), |[_, output, _]| output);
        let own = Reply {
            tokens: tokens.iter().map(|token| token.id).collect(),
            empty: text.trim().is_empty(),
            looping: false,
            right: None,
            length,
            text,
        };
        replies.push(graded(own, &setting.source, planned.prompt));
        all.push(tokens);
    }
    let places = if let [a, b] = &all[..] { common_places(a, b) } else { Vec::new() };
    Ok(Answered { replies, places })
}

fn common_places(a: &[Token], b: &[Token]) -> Vec<Place> {
    let same = a.iter().zip(b).take_while(|(a, b)| a.id == b.id).count();
    let place = |(a, b): (&Token, &Token)| {
        let top = |token: &Token| token.top.first().map(|(id, _)| *id);
        let known = a.top.len() > 1 && b.top.len() > 1;
        Place {
            // Perplexity needs the same tokens of both, which only this beginning has.
            logprob: None,
            same_top: top(a) == top(b),
            kld: (known && a.logprob.is_finite()).then(|| kld_of_tops(&a.top, &b.top)),
        }
    };
    a.iter().zip(b).take(same + 1).map(place).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn token(id: &str, logprob: f64, other: &str) -> Value {
        let rest = (1.0 - logprob.exp()).ln();
        json!({"token": id, "logprob": logprob, "top_logprobs": [
            {"token": id, "logprob": logprob}, {"token": other, "logprob": rest},
        ]})
    }

    #[test]
    fn distributions_are_compared_up_to_the_first_difference() {
        let answer = |content: &[Value]| json!({"choices": [{"logprobs": {"content": content}}]});
        let a = answer(&[token("x", -0.1, "y"), token("y", -0.2, "z"), token("z", -0.3, "x")]);
        let b = answer(&[token("x", -0.1, "y"), token("q", -0.2, "y"), token("z", -0.3, "x")]);
        let places = common_places(&tokens(&a), &tokens(&b));
        assert_eq!(places.len(), 2);
        assert!(places[0].same_top && places[0].kld.unwrap() < 1e-9);
        assert!(!places[1].same_top && places[1].kld.unwrap() > 0.1);
        assert!(tokens(&json!({"choices": [{"text": "x"}]})).is_empty());
    }
}
