//! The objects of responses, field for field as in the public API.
//!
//! This file defines only their form; `chunks` (streamed) and `whole` (not streamed) decide on the content.

use super::Shape;
use super::logprobs::{ChatLogprobs, TextLogprobs};
use crate::serving::{Finish, Usage};
use crate::text::reply::Look;
use schemars::JsonSchema;
use serde::Serialize;

/// The value of `finish_reason`; `calls`: the reply has tool calls. One that was cut says so: its last call may be
/// a part.
pub fn finish_reason(finish: Finish, calls: bool) -> &'static str {
    match (finish, calls) {
        (Finish::Stop | Finish::StopString(_), true) => "tool_calls",
        (finish, _) => finish.as_str(),
    }
}

/// The data that all objects of one answer share.
#[derive(Debug, Clone)]
pub struct Head {
    /// The completion's id.
    pub id: String,
    /// Seconds since 1970.
    pub created: u64,
    /// The model's name as the client wrote it.
    pub model: String,
    /// The endpoint.
    pub shape: Shape,
    /// Number of choices, of all prompts together.
    pub choices: u32,
    /// Number of choices of each prompt.
    pub n: u32,
    /// What replies are parsed for.
    pub look: Look,
    /// Whether tool calls after the first one of a reply are left out.
    pub one_call: bool,
    /// Whether log-probabilities are reported.
    pub logprobs: bool,
    /// Choices that are returned of each prompt; of more, those whose tokens are likeliest on average.
    pub kept: u32,
    /// Whether a stream ends with a usage chunk.
    pub include_usage: bool,
    /// Whether each chunk of a stream says what its choice has used so far.
    pub continuous_usage: bool,
}

impl Head {
    /// The object's type, as a whole or as a chunk of a stream.
    pub fn object(&self, chunk: bool) -> &'static str {
        match (self.shape, chunk) {
            (Shape::Text, _) => "text_completion",
            (Shape::Chat, false) => "chat.completion",
            (Shape::Chat, true) => "chat.completion.chunk",
        }
    }

    /// The id of the `call`-th tool call of a choice.
    pub fn call_id(&self, choice: u32, call: usize) -> String {
        let stem = self.id.strip_prefix(self.shape.id_prefix()).unwrap_or(&self.id);
        let stem: String = stem.chars().take(20).collect();
        format!("call_{stem}{choice:02x}{call:02x}")
    }
}

/// A whole answer, or one chunk of it.
#[derive(Debug, Serialize, JsonSchema)]
pub struct Answer<'a, C> {
    pub id: &'a str,
    pub object: &'static str,
    pub created: u64,
    pub model: &'a str,
    pub system_fingerprint: &'a str,
    pub choices: Vec<C>,
    /// Outer `None`: no such field; inner `None`: `null`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub usage: Option<Option<UsageWire>>,
}

/// Token counts.
#[derive(Debug, Clone, Copy, Serialize, JsonSchema)]
#[schemars(rename = "Usage")]
pub struct UsageWire {
    pub prompt_tokens: usize,
    pub completion_tokens: usize,
    pub total_tokens: usize,
    pub prompt_tokens_details: PromptDetails,
}

/// How many prompt tokens came from the cache.
#[derive(Debug, Clone, Copy, Serialize, JsonSchema)]
pub struct PromptDetails {
    pub cached_tokens: usize,
}

impl From<Usage> for UsageWire {
    fn from(usage: Usage) -> UsageWire {
        UsageWire {
            prompt_tokens: usage.prompt_tokens,
            completion_tokens: usage.completion_tokens,
            total_tokens: usage.prompt_tokens + usage.completion_tokens,
            prompt_tokens_details: PromptDetails { cached_tokens: usage.cached_tokens },
        }
    }
}

/// A choice of a chat completion.
#[derive(Debug, Serialize, JsonSchema)]
pub struct ChatChoice {
    pub index: u32,
    pub message: Message,
    pub logprobs: Option<ChatLogprobs>,
    pub finish_reason: &'static str,
}

/// The model's message.
#[derive(Debug, Serialize, JsonSchema)]
pub struct Message {
    pub role: &'static str,
    /// `null` when there are only tool calls.
    pub content: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reasoning_content: Option<String>,
    pub refusal: Option<()>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub tool_calls: Vec<ToolCall>,
}

/// A tool call; as a delta it has only what is new.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
pub struct ToolCall {
    /// Only in deltas.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub index: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    #[serde(rename = "type", skip_serializing_if = "Option::is_none")]
    pub kind: Option<&'static str>,
    pub function: FunctionCall,
}

/// The function of a call.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
pub struct FunctionCall {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// JSON text, not JSON.
    pub arguments: String,
}

/// A choice of a chat chunk.
#[derive(Debug, Serialize, JsonSchema)]
pub struct ChatDelta {
    pub index: u32,
    pub delta: Delta,
    pub logprobs: Option<ChatLogprobs>,
    pub finish_reason: Option<&'static str>,
}

/// The new content of a chunk.
#[derive(Debug, Default, Serialize, JsonSchema)]
pub struct Delta {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub role: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub content: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reasoning_content: Option<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub tool_calls: Vec<ToolCall>,
}

/// A choice of a plain completion, whole or as a chunk.
#[derive(Debug, Serialize, JsonSchema)]
pub struct TextChoice {
    pub text: String,
    pub index: u32,
    pub logprobs: Option<TextLogprobs>,
    pub finish_reason: Option<&'static str>,
}
