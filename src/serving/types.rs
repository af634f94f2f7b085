//! The types that a front end passes in and gets back.

use super::error::GatewayError;
use crate::grammar::Constraint;
use crate::rollout::Arm;
use crate::text::reply::Manner;
use crate::text::{Ending, Shown};
use serde_json::{Map, Value};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};
use tokio::sync::mpsc::Receiver;

/// A request, parsed and range-checked, not yet routed.
#[derive(Debug, Clone)]
pub struct GenerateRequest {
    /// The completion's id as the client will see it (`chatcmpl-..`); feedback refers to it.
    pub id: String,
    /// What the reply continues; encoded by the answering arm's tokenizer.
    pub prompt: Prompt,
    /// The client's sampling settings, already range-checked.
    pub sampling: SamplingPatch,
    /// Replies wanted, at least 1.
    pub n: u32,
    /// `None`: as many tokens as the context holds. 0: none; the prompt is only read.
    pub max_tokens: Option<usize>,
    /// Strings that end a reply and are not part of it; may be empty.
    pub stop: Vec<String>,
    /// Token ids that end a reply as well and are not part of it.
    pub stop_token_ids: Vec<u32>,
    /// A stop string that ends a reply is part of it.
    pub include_stop: bool,
    /// Special tokens of the reply are shown as text.
    pub show_special: bool,
    /// Whether the tokenizer adds its own special tokens; `None`: to a text, not to a conversation.
    pub add_special: Option<bool>,
    /// Keep so many tokens of the prompt, its last ones, and at most as many as fit.
    pub truncate_prompt: Option<usize>,
    /// Which tokens may be drawn, and how likely.
    pub token_constraints: TokenConstraints,
    /// What each reply must be, and the field that says so.
    pub constraint: Option<(Arc<Constraint>, &'static str)>,
    /// The prompt comes before each reply.
    pub echo: bool,
    /// Say with each piece how many tokens its reply has.
    pub count: bool,
    /// Go on past the model's end-of-sequence token (load generators ask for this).
    pub ignore_eos: bool,
    /// Session key; requests that share one stay on one arm.
    pub key: Option<String>,
    /// Asked for by header or model name; such requests stay out of verdicts.
    pub pin: Option<Arm>,
    /// Hash of what the sender cannot change at will, its address: no party may decide a verdict alone.
    pub party: Option<u64>,
    /// Hash of what tells clients apart without their help; a conversation is one client's.
    pub client: u64,
    /// Cached prefixes are shared only between requests with the same salt.
    pub cache_salt: u64,
    /// Counts what the request uses while it runs.
    pub meter: Option<Arc<Meter>>,
    /// When the request reached the server; TTFT and the deadline for the whole reply count from here.
    pub arrived: Instant,
}

/// The tokens that a request has used so far, to be read at any time, also after its client has left.
#[derive(Debug, Default)]
pub struct Meter {
    prompt: AtomicU64,
    completion: AtomicU64,
}

impl Meter {
    /// Tokens of the prompt, once they were handed to a model.
    pub fn prompt(&self) -> u64 {
        self.prompt.load(Ordering::Relaxed)
    }

    /// Tokens generated so far, over all replies.
    pub fn completion(&self) -> u64 {
        self.completion.load(Ordering::Relaxed)
    }

    /// A model has taken a prompt of this many tokens; 0: none has.
    pub fn set_prompt(&self, tokens: usize) {
        self.prompt.store(tokens as u64, Ordering::Relaxed);
    }

    /// One more token was generated.
    pub fn count_token(&self) {
        self.completion.fetch_add(1, Ordering::Relaxed);
    }
}

impl GenerateRequest {
    /// Which special tokens of the reply are shown. Those that mark its parts are shown where replies are parsed.
    pub fn shown(&self) -> Shown {
        match &self.prompt {
            _ if self.show_special => Shown::Special,
            Prompt::Chat { tools, .. } => Shown::Markers { tools: tools.is_some() },
            _ => Shown::Text,
        }
    }

    /// One reply to `prompt`, with the model's own settings and no limits.
    pub fn new(id: String, prompt: Prompt, arrived: Instant) -> GenerateRequest {
        GenerateRequest {
            id,
            prompt,
            sampling: SamplingPatch::default(),
            n: 1,
            max_tokens: None,
            stop: Vec::new(),
            stop_token_ids: Vec::new(),
            include_stop: false,
            show_special: false,
            add_special: None,
            truncate_prompt: None,
            token_constraints: TokenConstraints::default(),
            constraint: None,
            echo: false,
            count: false,
            ignore_eos: false,
            key: None,
            pin: None,
            party: None,
            client: 0,
            cache_salt: 0,
            meter: None,
            arrived,
        }
    }
}

/// What the model is to go on from.
#[derive(Debug, Clone)]
pub enum Prompt {
    /// Messages as the client sent them; the arm's own template renders them.
    Chat {
        /// The `messages` of the request, at least one.
        messages: Vec<Value>,
        /// The request's `tools`; `None` if it offers none.
        tools: Option<Value>,
        /// More variables for the template (`chat_template_kwargs`).
        template_kwargs: Option<Map<String, Value>>,
        /// Whether the prompt opens the assistant's turn, closes the last one, or continues it.
        ending: Ending,
    },
    /// A text; its tokenizer adds its special tokens unless the request says otherwise.
    Text(String),
    /// Token ids, used as they are; no special tokens are added.
    Tokens(Vec<u32>),
}

/// What a request wants of single tokens, before it is known which model answers.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct TokenConstraints {
    /// Added to the logits of these tokens, -100 to 100; -infinity: never drawn.
    pub bias: Vec<(TokenName, f32)>,
    /// No others may be drawn; at least one. `None`: all may.
    pub allowed: Option<Vec<u32>>,
    /// Words whose tokens must not follow each other in a reply; none is empty.
    pub bad_words: Vec<String>,
    /// Neither a stop token nor a stop string ends a reply before it has so many tokens.
    pub min_tokens: usize,
}

/// A token as a client names it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TokenName {
    /// By its id.
    Id(u32),
    /// All tokens of this text.
    Text(String),
}

/// Sampling settings that the client gave; the rest are the model's own defaults.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct SamplingPatch {
    /// 0 to 2; 0 is greedy.
    pub temperature: Option<f32>,
    /// Keep the k most likely tokens; 0 keeps all.
    pub top_k: Option<u32>,
    /// Keep the smallest set of tokens whose probability reaches this; above 0, up to 1.
    pub top_p: Option<f32>,
    /// Drop tokens less likely than this share of the most likely one; 0 to 1.
    pub min_p: Option<f32>,
    /// Divides (or, if negative, multiplies) the logits of tokens in prompt and reply; above 0, up to 2.
    pub repetition_penalty: Option<f32>,
    /// Subtracted from a token's logit for each occurrence in the reply; -2 to 2.
    pub frequency_penalty: Option<f32>,
    /// Subtracted once from the logits of tokens in the reply; -2 to 2.
    pub presence_penalty: Option<f32>,
    /// Seed of the draws; `None`: derived from the completion's id, which is random.
    pub seed: Option<u64>,
    /// Report the log-probability of each token of the reply, and those of so many likeliest tokens.
    pub logprobs: Option<u8>,
}

/// Who answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Served {
    /// Whether stable or the canary answers.
    pub arm: Arm,
    /// Version name of the model, e.g. `tiny-v2`.
    pub version: Arc<str>,
    /// Version and digest, for `system_fingerprint`.
    pub fingerprint: Arc<str>,
    /// The canary failed first and stable took over; the client need not know.
    pub rescued: bool,
    /// How its model writes tool calls and reasoning.
    pub manner: Manner,
}

/// A request under way. Dropping it (or `pieces`) cancels the generation within one step.
#[derive(Debug)]
pub struct Generation {
    /// Who was going to answer when the request was routed; `Piece::Start` says who does.
    pub routed: Served,
    /// The pieces of the reply; nothing follows after `Done` or `Failed`.
    pub pieces: Receiver<Piece>,
}

/// What comes out, in order: one `Start` when the first token is there; then, of each of the `n` replies, the
/// `Echo` of the prompt if it was asked for, `Text`, and one `End`; at last `Done`. Or, at any point, one `Failed`
/// and nothing more.
#[derive(Debug, Clone, PartialEq)]
pub enum Piece {
    /// The first token was generated; says who answers, and how long the prompt is.
    Start(Served, Usage),
    /// The prompt, as the beginning of a reply.
    Echo {
        /// Number of the reply, from 0.
        index: u32,
        /// Its text.
        text: String,
        /// Its tokens, if the request asked for log-probabilities.
        tokens: Vec<PromptToken>,
    },
    /// What a reply has used so far, with the piece that follows; only if the request asked for it.
    Count {
        /// Number of the reply, from 0.
        index: u32,
        /// Of this reply.
        usage: Usage,
    },
    /// `tokens` are those whose text begins here, if the request asked for their log-probabilities. Never
    /// is both empty; tokens that show no text come with the next that do, or alone at the end.
    Text {
        /// Number of the reply, from 0.
        index: u32,
        /// Text to append to what was sent of this reply; empty if only tokens are reported.
        text: String,
        /// The tokens with their log-probabilities, in order; empty if none were requested.
        tokens: Vec<TokenLogprob>,
    },
    /// One of the replies is complete.
    End {
        /// Number of the reply, from 0.
        index: u32,
        /// Why it ended.
        finish: Finish,
    },
    /// All replies are complete; token counts over all of them.
    Done(Usage),
    /// The generation failed; replies that have not ended stay incomplete.
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
    /// The sampled token, whether or not it is among `top`.
    pub token: LikelyToken,
    /// Likeliest first; as many as were asked for.
    pub top: Vec<LikelyToken>,
    /// Characters of the reply before it.
    pub offset: usize,
}

/// A token of a prompt that is repeated.
#[derive(Debug, Clone, PartialEq)]
pub struct PromptToken {
    /// What the token spells; by itself it may be no whole character.
    pub bytes: Vec<u8>,
    /// Natural logarithm, given all tokens before it; the first has none.
    pub logprob: Option<f32>,
    /// The most likely tokens in its place, most likely first; as many as were asked for.
    pub top: Vec<LikelyToken>,
    /// Characters of the prompt before it.
    pub offset: usize,
}

/// Why a reply ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Finish {
    /// An end-of-sequence token, or another token that ends a reply.
    Stop,
    /// The stop string at this place of the request's list.
    StopString(usize),
    /// `max_tokens`, or the end of the model's context.
    Length,
}

impl Finish {
    /// The value of `finish_reason` in the API.
    pub fn as_str(self) -> &'static str {
        match self {
            Finish::Stop | Finish::StopString(_) => "stop",
            Finish::Length => "length",
        }
    }
}

/// Token counts, by the answering arm's tokenizer.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Usage {
    /// Tokens of the prompt, counted once for all `n` replies.
    pub prompt_tokens: usize,
    /// Over all `n` replies; the end-of-sequence token is not counted.
    pub completion_tokens: usize,
    /// Prompt tokens found in the prefix cache; of several replies, the one with the fewest counts.
    pub cached_tokens: usize,
}

/// The server's own deadlines.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timeouts {
    /// From the submission to the engine to the first token of any reply.
    pub first_token: Duration,
    /// From one token to the next, of whichever reply.
    pub next_token: Duration,
    /// From the request's arrival to the end of all replies.
    pub request: Duration,
}

/// Bounds on one request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Maximum `n`, at least 1.
    pub max_n: u32,
    /// Maximum number of stop strings; 0 allows none.
    pub max_stop: usize,
}
