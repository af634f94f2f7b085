//! What a front end hands in and what it gets back.

use crate::rollout::Arm;
use crate::text::Ending;
use serde_json::{Map, Value};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::mpsc::Receiver;

/// A request, parsed and range-checked, not yet routed.
#[derive(Debug, Clone)]
pub struct GenerateRequest {
    /// The completion's id as the client will see it (`chatcmpl-..`); feedback refers to it.
    pub id: String,
    pub prompt: Prompt,
    pub sampling: SamplingPatch,
    /// Replies wanted, at least 1.
    pub n: u32,
    /// `None`: as many tokens as the context holds.
    pub max_tokens: Option<usize>,
    pub stop: Vec<String>,
    /// Go on past the model's end-of-sequence token (load generators ask for this).
    pub ignore_eos: bool,
    /// Session key; requests that share one stay on one arm.
    pub key: Option<String>,
    /// Asked for by header or model name; such requests stay out of verdicts.
    pub pin: Option<Arm>,
    /// Hash of the API key, if there was one: no key may decide a verdict alone.
    pub api_key: Option<u64>,
    /// Hash of what tells clients apart without their help; a conversation is one client's.
    pub client: u64,
    pub arrived: Instant,
}

/// What the model is to go on from.
#[derive(Debug, Clone)]
pub enum Prompt {
    /// Messages as the client sent them; the arm's own template renders them.
    Chat {
        messages: Vec<Value>,
        tools: Option<Value>,
        template_kwargs: Option<Map<String, Value>>,
        ending: Ending,
    },
    Text(String),
    Tokens(Vec<u32>),
}

/// Sampling settings that the client gave; the rest are the model's own defaults.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct SamplingPatch {
    pub temperature: Option<f32>,
    pub top_k: Option<u32>,
    pub top_p: Option<f32>,
    pub min_p: Option<f32>,
    pub repetition_penalty: Option<f32>,
    pub frequency_penalty: Option<f32>,
    pub presence_penalty: Option<f32>,
    pub seed: Option<u64>,
    /// Report the log-probability of each token of the reply, and those of so many likeliest tokens.
    pub logprobs: Option<u8>,
}

/// Who answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Served {
    pub arm: Arm,
    /// Version name of the model, e.g. `tiny-v2`.
    pub version: Arc<str>,
    /// Version and digest, for `system_fingerprint`.
    pub fingerprint: Arc<str>,
    /// The canary failed first and stable took over; the client need not know.
    pub rescued: bool,
}

/// A request under way. Dropping it (or `pieces`) cancels the generation within one step.
#[derive(Debug)]
pub struct Generation {
    /// Who was going to answer when the request was routed; `Piece::Start` says who does.
    pub routed: Served,
    pub pieces: Receiver<Piece>,
}

/// What comes out, in order: one `Start` when the first token is there; then `Text` and, for each of the
/// `n` replies, one `End`; at last `Done`. Or, at any point, one `Failed` and nothing more.
#[derive(Debug, Clone, PartialEq)]
pub enum Piece {
    Start(Served),
    /// `tokens` are those whose text begins here, if the request asked for their log-probabilities. Never
    /// is both empty; tokens that show no text come with the next that do, or alone at the end.
    Text {
        index: u32,
        text: String,
        tokens: Vec<TokenLogprob>,
    },
    End {
        index: u32,
        finish: Finish,
    },
    Done(Usage),
    Failed(GatewayError),
}

/// Most likeliest tokens whose log-probabilities can be asked for.
pub const MOST_TOP_LOGPROBS: usize = crate::model::logprobs::MOST_TOP;

/// A token and how likely the model held it, of its own accord: before penalties, temperature and filters.
#[derive(Debug, Clone, PartialEq)]
pub struct LikelyToken {
    /// What the token spells; by itself it may be no whole character.
    pub bytes: Vec<u8>,
    /// Natural logarithm.
    pub logprob: f32,
}

/// A token of a reply beside those that were likeliest in its place.
#[derive(Debug, Clone, PartialEq)]
pub struct TokenLogprob {
    pub token: LikelyToken,
    /// Likeliest first; as many as were asked for.
    pub top: Vec<LikelyToken>,
    /// Characters of the reply before it.
    pub offset: usize,
}

/// Why a reply ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Finish {
    Stop,
    Length,
}

impl Finish {
    pub fn as_str(self) -> &'static str {
        match self {
            Finish::Stop => "stop",
            Finish::Length => "length",
        }
    }
}

/// Token counts, by the answering arm's tokenizer.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Usage {
    pub prompt_tokens: usize,
    /// Over all `n` replies; the end-of-sequence token is not counted.
    pub completion_tokens: usize,
    pub cached_tokens: usize,
}

/// Why there is no (further) reply. The front end maps these to statuses; texts are fit for clients.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum GatewayError {
    /// The client's doing. `param` names the field.
    #[error("{message}")]
    Invalid { param: &'static str, message: String },
    /// The conversation has a shape that the model's chat template does not take; another's may.
    #[error("{0}")]
    Untaken(String),
    #[error(
        "this model's maximum context length is {max} tokens, but {asked} were requested ({prompt} in the prompt, {reply} in the reply); shorten the prompt or lower max_tokens"
    )]
    ContextLength { max: usize, asked: usize, prompt: usize, reply: usize },
    /// Asked for by name or header, but no canary is loaded.
    #[error("no canary is loaded; drop the variant from the request, or load one")]
    NoCanary,
    #[error("the server is busy: {waiting} requests are waiting; retry shortly")]
    Busy { waiting: usize },
    /// Loading, draining or failed.
    #[error("the model is not ready: {0}")]
    Unavailable(String),
    /// The model's doing: NaN, memory, panic.
    #[error("the model failed on this request ({0})")]
    Model(String),
    #[error("the {what} took longer than {} s", limit.as_secs_f64())]
    Timeout { what: &'static str, limit: Duration },
}

/// The server's own deadlines.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timeouts {
    pub first_token: Duration,
    pub next_token: Duration,
    pub request: Duration,
}

/// Bounds on one request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    pub max_n: u32,
    pub max_stop: usize,
}
