//! The input of the engine, and the events it returns.
//!
//! Times are measured by the executor, not by the receiver of the events, so a slow reader does not make a
//! model look slow.

use super::work::Work;
use crate::model::{Logprobs, SamplingParams};
use std::time::{Duration, Instant};
use tokio::sync::mpsc::UnboundedSender;

/// One sequence to generate. Dropping the receiver of `events` cancels it within one step.
#[derive(Debug)]
pub struct SeqRequest {
    /// The caller's number for this sequence, repeated in its events.
    pub tag: u32,
    pub prompt: Vec<u32>,
    pub params: SamplingParams,
    /// Maximum number of tokens to generate, at least 1.
    pub max_new_tokens: usize,
    /// Ids that end the reply. They are reported as the finish reason, not as tokens.
    pub stop_ids: Vec<u32>,
    /// Cached prefixes are shared only between sequences with the same salt.
    pub cache_salt: u64,
    /// Receives the events: one before the first token, one per token and one at the end.
    pub events: UnboundedSender<SeqEvent>,
    /// When the request reached the server; queue time counts from here.
    pub arrived: Instant,
}

/// What happened to a sequence.
#[derive(Debug, Clone, PartialEq)]
pub enum SeqEvent {
    /// The first token is about to be generated. Contains the queue time, the prefill time, and the number of
    /// cached prompt tokens.
    Started {
        tag: u32,
        queued: Duration,
        prefill: Duration,
        cached_tokens: usize,
    },
    /// A token was generated at `at`.
    Token {
        tag: u32,
        id: u32,
        at: Instant,
        /// The device cost of the sequence so far, in comparable form.
        work: Work,
        /// If the request asked for them.
        logprobs: Option<Box<Logprobs>>,
    },
    /// The log-probabilities of the last tokens of the prompt, as many as requested
    /// (`SamplingParams::score_last`), each given all tokens before it. Sent before the first token.
    Scored {
        tag: u32,
        logprobs: Vec<f32>,
    },
    Finished {
        tag: u32,
        reason: FinishReason,
        timings: Timings,
    },
    Failed {
        tag: u32,
        fault: Fault,
        timings: Timings,
    },
    /// Never admitted.
    Refused {
        tag: u32,
        why: Refusal,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FinishReason {
    /// One of `stop_ids`.
    Stop,
    /// `max_new_tokens`, or the longest sequence that fits in the lane.
    Length,
}

/// Why a sequence failed. The cause is always the model or the engine, never the client.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    #[error("the model produced NaN or infinite logits")]
    NonFiniteLogits,
    #[error("the device ran out of memory")]
    OutOfMemory,
    #[error("a step failed: {0}")]
    Step(String),
    #[error("the engine panicked: {0}")]
    Panic(String),
    /// This process can no longer use the device.
    #[error("the device has failed: {0}")]
    DeviceLost(String),
    /// The lane was unloaded before the sequence ended.
    #[error("the model was unloaded")]
    Unloaded,
}

/// Why a sequence was not admitted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    #[error("the queue is full ({waiting} requests are waiting)")]
    QueueFull { waiting: usize },
    #[error("the model is not loaded")]
    NoLane,
    #[error("the model is being unloaded")]
    Draining,
    #[error("the model has failed")]
    LaneFailed,
    #[error("the prompt has {len} tokens; at most {max} fit with at least one token of reply")]
    TooLong { len: usize, max: usize },
    #[error("token id {id} is outside the model's vocabulary of {vocab}")]
    BadToken { id: u32, vocab: usize },
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
    pub prompt_tokens: usize,
    /// Prompt tokens whose keys and values were cached at the first admission.
    pub cached_tokens: usize,
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
