//! The input of the engine, and the events it returns.
//!
//! Times are measured by the executor, not by the receiver of the events, so a slow reader does not make a
//! model look slow.

use super::work::Work;
use crate::model::{GuideFailed, Logprobs, SamplingParams, Score, SharedGuide};
use std::time::{Duration, Instant};
use tokio::sync::mpsc::UnboundedSender;

/// One sequence to generate. Dropping the receiver of `events` cancels it within one step.
#[derive(Debug)]
pub struct SeqRequest {
    /// The caller's number for this sequence, repeated in its events.
    pub tag: u32,
    /// Token ids; at least one, and each in the model's vocabulary, or the request is refused.
    pub prompt: Vec<u32>,
    /// Sampling parameters, already range-checked.
    pub params: SamplingParams,
    /// Maximum number of tokens to generate, at least 1.
    pub max_new_tokens: usize,
    /// Ids that end the reply. They are reported as the finish reason, not as tokens.
    pub stop_ids: Vec<u32>,
    /// Cached prefixes are shared only between sequences with the same salt.
    pub cache_salt: u64,
    /// Receives the events: one before the first token, one per token and one at the end.
    pub events: UnboundedSender<SeqEvent>,
    /// Nobody waits for it: it takes only free KV blocks, and leaves none in the prefix cache. Refused if there are
    /// too few.
    pub background: bool,
    /// Restricts the reply.
    pub guide: Option<SharedGuide>,
    /// When the request reached the server; queue time counts from here.
    pub arrived: Instant,
}

/// What happened to a sequence. Small, because there is one for every token: what only the last one has is boxed.
#[derive(Debug, Clone, PartialEq)]
pub enum SeqEvent {
    /// The first token is about to be generated. Contains the queue time, the prefill time, and the number of
    /// cached prompt tokens.
    Started {
        /// The request's own `tag`.
        tag: u32,
        /// From arrival to the first step that the sequence took part in.
        queued: Duration,
        /// From that step to the first token.
        prefill: Duration,
        /// Prompt tokens whose keys and values were found in the prefix cache.
        cached_tokens: usize,
    },
    /// A token was generated at `at`.
    Token {
        /// The request's own `tag`.
        tag: u32,
        /// The token's id; never one of the request's `stop_ids`.
        id: u32,
        /// When the executor received it from the model.
        at: Instant,
        /// The device cost of the sequence so far, in comparable form.
        work: Work,
        /// If the request asked for them.
        logprobs: Option<Box<Logprobs>>,
    },
    /// The scores of the last tokens of the prompt, as many as requested
    /// (`SamplingParams::score_last`), each given all tokens before it. Sent before the first token.
    Scored {
        /// The request's own `tag`.
        tag: u32,
        /// Natural logarithms, in the order of the prompt.
        scores: Vec<Score>,
    },
    /// The reply is complete; no event follows.
    Finished {
        /// The request's own `tag`.
        tag: u32,
        /// What ended the reply.
        reason: FinishReason,
        /// Where the time went, from arrival to the end.
        timings: Box<Timings>,
    },
    /// The sequence was ended by a fault; no event follows.
    Failed {
        /// The request's own `tag`.
        tag: u32,
        /// What went wrong.
        fault: Fault,
        /// Where the time went, from arrival to the fault.
        timings: Box<Timings>,
    },
    /// Never admitted.
    Refused {
        /// The request's own `tag`.
        tag: u32,
        /// Why not.
        why: Refusal,
    },
}

/// Why a reply is complete.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FinishReason {
    /// One of `stop_ids`, or the guide says that the reply is complete.
    Stop,
    /// `max_new_tokens`, or the longest sequence that fits in the lane.
    Length,
}

/// Why a sequence failed. Except for [`Fault::Guide`], the cause is the model or the engine, never the client.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// The logits of this sequence contain NaN or infinity; others in the step are not affected.
    #[error("the model produced NaN or infinite logits")]
    NonFiniteLogits,
    /// A step could not allocate memory on the device.
    #[error("the device ran out of memory")]
    OutOfMemory,
    /// A step failed as a whole, or the engine has stopped; contains the cause.
    #[error("a step failed: {0}")]
    Step(String),
    /// The model panicked in a step; contains the panic's message.
    #[error("the engine panicked: {0}")]
    Panic(String),
    /// This process can no longer use the device.
    #[error("the device has failed: {0}")]
    DeviceLost(String),
    /// What restricts the reply failed; the model is not at fault.
    #[error(transparent)]
    Guide(#[from] GuideFailed),
    /// The lane was unloaded before the sequence ended.
    #[error("the model was unloaded")]
    Unloaded,
}

/// Why a sequence was not admitted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// `SchedulerConfig::max_waiting` sequences are waiting already.
    #[error("the queue is full ({waiting} requests are waiting)")]
    QueueFull {
        /// Sequences in the queue.
        waiting: usize,
    },
    /// No lane has the given id, or it was unloaded.
    #[error("the model is not loaded")]
    NoLane,
    /// The lane finishes what it has, and then is unloaded.
    #[error("the model is being unloaded")]
    Draining,
    /// The lane gave up after repeated panics or because the device failed.
    #[error("the model has failed")]
    LaneFailed,
    /// The prompt leaves no room for a token of the reply.
    #[error("the prompt has {len} tokens; at most {max} fit with at least one token of reply")]
    TooLong {
        /// Length of the prompt, in tokens.
        len: usize,
        /// Longest prompt that the lane takes, in tokens.
        max: usize,
    },
    /// The prompt contains an id that the model has no token for.
    #[error("token id {id} is outside the model's vocabulary of {vocab}")]
    BadToken {
        /// The first such id in the prompt.
        id: u32,
        /// Size of the vocabulary; valid ids are below it.
        vocab: usize,
    },
    /// A background sequence finds too few free KV blocks.
    #[error("too few KV blocks are free")]
    NoFreeBlocks,
    /// The prompt has no tokens.
    #[error("the prompt is empty")]
    EmptyPrompt,
}

/// The timings of a sequence, measured by the executor.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Timings {
    /// From arrival to the first step it took part in.
    pub queued: Duration,
    /// From the first step to the first token.
    pub prefill: Duration,
    /// From arrival to the first token (TTFT), if there was one.
    pub first_token: Option<Duration>,
    /// From the first to the last token.
    pub decode: Duration,
    /// From arrival to the end.
    pub total: Duration,
    /// Tokens of the prompt, cached ones included.
    pub prompt_tokens: usize,
    /// Prompt tokens whose keys and values were cached at the first admission.
    pub cached_tokens: usize,
    /// Tokens generated, without the stop token.
    pub output_tokens: usize,
    /// Times the sequence lost its KV blocks and was recomputed.
    pub preemptions: u32,
}

impl Timings {
    /// Mean time per output token after the first (TPOT); `None` below two tokens.
    pub fn per_token(&self) -> Option<Duration> {
        let gaps = u32::try_from(self.output_tokens.checked_sub(1)?).ok().filter(|n| *n > 0)?;
        Some(self.decode / gaps)
    }
}
