//! What clients write and read: request bodies become [`GenerateRequest`]s, replies become JSON.
//!
//! Reading order: [`fields`] (checked access to one JSON object), [`common`] (what chat and plain
//! completions share), [`chat`], [`completion`], [`reply`] (the objects of answers) with
//! [`likely`] (log-probabilities in them). All of it is
//! plain computation; no clock is read and nothing is awaited here.
//!
//! Why checked access by name and not derived types: the messages of derived types tell a line and
//! a column but not the field, and clients are owed the field (`param`), what was expected of it
//! and what came instead. Unknown fields are accepted, because clients send more than any one
//! server knows; fields that would change the reply and cannot be honoured are refused by name.

pub mod chat;
pub mod common;
pub mod completion;
pub mod fields;
pub mod likely;
pub mod reply;

use crate::serving::GenerateRequest;

/// Which of the two generation endpoints a request came to.
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

    /// What completion ids begin with.
    pub const fn id_prefix(self) -> &'static str {
        match self {
            Shape::Chat => "chatcmpl-",
            Shape::Text => "cmpl-",
        }
    }
}

/// A request body, understood.
#[derive(Debug)]
pub struct Ask {
    /// The model's name as the client wrote it.
    pub model: String,
    /// One per prompt; only plain completions have more than one.
    pub requests: Vec<GenerateRequest>,
    /// Replies per prompt.
    pub n: u32,
    /// Whether the reply is wanted as a stream, and how.
    pub streaming: common::Streaming,
    /// Whether the reply is to be read for tool calls.
    pub tools: bool,
    /// Whether a reply may call one tool only.
    pub one_call: bool,
    /// Whether log-probabilities are wanted.
    pub logprobs: bool,
}

impl Ask {
    /// With log-probabilities reported for so many likeliest tokens, if any are wanted.
    fn reporting(mut self, logprobs: Option<u8>) -> Ask {
        self.requests.iter_mut().for_each(|request| request.sampling.logprobs = logprobs);
        self.logprobs = logprobs.is_some();
        self
    }
}

/// What is wrong with a request before any model sees it. Texts are fit for clients.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum WireError {
    /// The body is no JSON, or no JSON that fits.
    #[error("The request body could not be read as JSON: {what}")]
    Malformed {
        /// What the parser said, with line and column.
        what: String,
    },
    /// The body is longer than allowed.
    #[error("The request body is longer than the {limit} bytes that this server accepts.")]
    TooLarge {
        /// The longest body accepted.
        limit: usize,
    },
    /// The body did not arrive in time.
    #[error("The request body did not arrive within {seconds} s.")]
    Slow {
        /// How long the server waited.
        seconds: u64,
    },
    /// Other bodies take all the memory that there is for bodies.
    #[error("The server is receiving too many large requests; try again in a moment.")]
    Crowded,
    /// The connection broke while the body arrived.
    #[error("The request body could not be received to its end.")]
    Broken,
    /// A required field is absent or null.
    #[error("Missing required parameter: '{param}'.")]
    Missing {
        /// The field.
        param: String,
    },
    /// A field is of the wrong JSON type.
    #[error("Invalid type for '{param}': expected {expected}, but got {got} instead.")]
    WrongType {
        /// The field.
        param: String,
        /// What it should be.
        expected: &'static str,
        /// What it is.
        got: &'static str,
    },
    /// A field has a value that it cannot have.
    #[error("Invalid value for '{param}': {what}.")]
    BadValue {
        /// The field.
        param: String,
        /// What is wrong with it.
        what: String,
    },
    /// A field asks for something that this server does not do.
    #[error("'{param}' is not supported yet: {what}.")]
    Unsupported {
        /// The field.
        param: String,
        /// What can be done instead.
        what: String,
    },
    /// The model's name is none of those served.
    #[error("The model '{asked}' does not exist. Served here: {}.", served.join(", "))]
    UnknownModel {
        /// The name that was asked for.
        asked: String,
        /// The names that would do.
        served: Vec<String>,
    },
}

impl WireError {
    /// A bad value of `param`, in words.
    pub fn bad(param: impl Into<String>, what: impl Into<String>) -> WireError {
        WireError::BadValue { param: param.into(), what: what.into() }
    }

    /// A refusal of `param`, with what can be done instead.
    pub fn unsupported(param: impl Into<String>, what: impl Into<String>) -> WireError {
        WireError::Unsupported { param: param.into(), what: what.into() }
    }
}

#[cfg(test)]
mod tests;
