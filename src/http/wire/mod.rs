//! The formats of requests and responses: bodies become [`GenerateRequest`]s, replies become JSON.
//!
//! Reading order: [`table`] (how each field is treated), [`fields`] (checked access to one JSON object), [`common`]
//! (fields of all generation requests) with `token_constraints`, [`tools`] and [`turns`] (shared by several APIs), [`chat`],
//! [`completion`], [`reply`] (the response objects) with [`logprobs`] (log-probabilities in them). All of this is pure
//! computation: no clock is read and nothing is awaited.
//!
//! Fields are read by name and not by derived types. Errors must name the field at fault (`param`), what was expected
//! and what was found, which the errors of derived types do not.

pub mod chat;
pub mod common;
pub mod completion;
pub mod constraint;
mod error;
pub mod fields;
pub mod logprobs;
pub mod reply;
pub mod table;
mod token_constraints;
pub mod tools;
pub mod turns;

pub use error::WireError;

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
pub struct ParsedRequest {
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

impl ParsedRequest {
    /// Reports log-probabilities for this many most likely tokens, if requested.
    pub fn reporting(mut self, logprobs: Option<u8>) -> ParsedRequest {
        self.requests.iter_mut().for_each(|request| request.sampling.logprobs = logprobs);
        self.logprobs = logprobs.is_some();
        self
    }
}

#[cfg(test)]
mod tests;
