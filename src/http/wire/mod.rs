//! The formats of requests and responses: bodies become [`GenerateRequest`]s, replies become JSON.
//!
//! Reading order: [`table`] (what is done with which field), [`fields`] (checked access to one JSON object), [`common`]
//! (what all generations share) with `token_wishes`, [`tools`] and [`turns`] (what several APIs share), [`chat`],
//! [`completion`], [`reply`] (the response objects) with [`logprobs`] (log-probabilities in them). All of it is plain
//! computation; no clock is read and nothing is awaited here.
//!
//! Fields are read by name: clients need the field at fault (`param`), what was expected and what came instead, which
//! the errors of derived types do not give.

pub mod chat;
pub mod common;
pub mod completion;
pub mod constraint;
pub mod fields;
pub mod logprobs;
pub mod reply;
pub mod table;
mod token_wishes;
pub mod tools;
pub mod turns;

use crate::serving::GenerateRequest;
use crate::text::reply::Look;

/// The generation endpoint of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shape {
    /// `/v1/chat/completions`.
    Chat,
    /// `/v1/completions`.
    Text,
}

impl Shape {
    /// The name of the field that holds the prompt.
    pub const fn prompt_field(self) -> &'static str {
        match self {
            Shape::Chat => "messages",
            Shape::Text => "prompt",
        }
    }

    /// The prefix of completion ids.
    pub const fn id_prefix(self) -> &'static str {
        match self {
            Shape::Chat => "chatcmpl-",
            Shape::Text => "cmpl-",
        }
    }
}

/// A parsed request body.
#[derive(Debug)]
pub struct Ask {
    /// The model's name as the client wrote it.
    pub model: String,
    /// One per prompt; only plain completions have more than one.
    pub requests: Vec<GenerateRequest>,
    /// Replies per prompt.
    pub n: u32,
    /// Replies per prompt that are returned, the best ones.
    pub kept: u32,
    /// Whether and how the reply is streamed.
    pub streaming: common::Streaming,
    /// What replies are parsed for.
    pub look: Look,
    /// Whether a reply may contain only one tool call.
    pub one_call: bool,
    /// Whether log-probabilities are reported.
    pub logprobs: bool,
    /// Whether the client agreed to have its prompts recorded.
    pub store: bool,
}

impl Ask {
    /// Reports log-probabilities for this many most likely tokens, if requested.
    pub fn reporting(mut self, logprobs: Option<u8>) -> Ask {
        self.requests.iter_mut().for_each(|request| request.sampling.logprobs = logprobs);
        self.logprobs = logprobs.is_some();
        self
    }
}

/// What is wrong with a request, found before any model sees it. The texts are meant for clients.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum WireError {
    /// The body is not valid JSON, or not of the expected form.
    #[error("The request body could not be read as JSON: {what}")]
    Malformed { what: String },
    /// The body is longer than allowed.
    #[error("The request body is longer than the {limit} bytes that this server accepts.")]
    TooLarge { limit: usize },
    /// The body did not arrive in time.
    #[error("The request body did not arrive within {seconds} s.")]
    Slow { seconds: u64 },
    /// Other bodies use all the memory reserved for bodies.
    #[error("The server is receiving too many large requests; try again in a moment.")]
    Crowded,
    /// The connection broke while the body was arriving.
    #[error("The request body could not be received to its end.")]
    Broken,
    /// A required field is missing or null.
    #[error("Missing required parameter: '{param}'.")]
    Missing { param: String },
    /// A field has the wrong JSON type.
    #[error("Invalid type for '{param}': expected {expected}, but got {got} instead.")]
    WrongType { param: String, expected: &'static str, got: &'static str },
    /// A field has an invalid value.
    #[error("Invalid value for '{param}': {what}.")]
    BadValue { param: String, what: String },
    /// A field requests something that this server does not support.
    #[error("'{param}' is not supported yet: {what}.")]
    Unsupported { param: String, what: String },
    /// The model's name is none of those served.
    #[error("The model '{asked}' does not exist. Served here: {}.", served.join(", "))]
    UnknownModel { asked: String, served: Vec<String> },
}

impl WireError {
    /// An invalid value of `param`, with an explanation.
    pub fn bad(param: impl Into<String>, what: impl Into<String>) -> WireError {
        WireError::BadValue { param: param.into(), what: what.into() }
    }

    /// An unsupported value of `param`, with the alternative.
    pub fn unsupported(param: impl Into<String>, what: impl Into<String>) -> WireError {
        WireError::Unsupported { param: param.into(), what: what.into() }
    }
}

#[cfg(test)]
mod tests;
