//! The items of a response's output, field for field as in the public API.

use crate::http::wire::logprobs::ChatToken;
use schemars::JsonSchema;
use serde::Serialize;

/// How far a response or an item is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, JsonSchema)]
#[schemars(rename = "ResponseStatus")]
#[serde(rename_all = "snake_case")]
pub enum Status {
    InProgress,
    Completed,
    Incomplete,
    Failed,
}

/// An item of the output.
#[derive(Debug, Clone, Serialize, JsonSchema)]
#[schemars(rename = "ResponseItem")]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum Item {
    /// What the model thought.
    Reasoning { id: String, summary: Vec<Content>, content: Vec<Content>, status: Status },
    /// What the model said.
    Message { id: String, status: Status, role: &'static str, content: Vec<Content> },
    /// A call of one of the client's functions.
    FunctionCall { id: String, call_id: String, name: String, arguments: String, status: Status },
}

/// A part of an item's content.
#[derive(Debug, Clone, Serialize, JsonSchema)]
#[schemars(rename = "ResponseContent")]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum Content {
    /// Text for the reader. There are never annotations.
    OutputText { text: String, annotations: Vec<Content>, logprobs: Vec<ChatToken> },
    /// Text of the model's reasoning.
    ReasoningText { text: String },
}

impl Content {
    /// The text, to be added to.
    pub fn text_mut(&mut self) -> &mut String {
        match self {
            Content::OutputText { text, .. } | Content::ReasoningText { text } => text,
        }
    }

    /// The text.
    pub fn text(&self) -> &str {
        match self {
            Content::OutputText { text, .. } | Content::ReasoningText { text } => text,
        }
    }

    /// The same without text, as when it begins.
    pub fn empty(&self) -> Content {
        match self {
            Content::OutputText { .. } => Content::output(),
            Content::ReasoningText { .. } => Content::ReasoningText { text: String::new() },
        }
    }

    /// Text for the reader, still empty.
    pub fn output() -> Content {
        Content::OutputText { text: String::new(), annotations: Vec::new(), logprobs: Vec::new() }
    }
}

impl Item {
    /// The item's id.
    pub fn id(&self) -> &str {
        match self {
            Item::Reasoning { id, .. } | Item::Message { id, .. } => id,
            Item::FunctionCall { id, .. } => id,
        }
    }

    /// The item's status, to be changed.
    pub fn status_mut(&mut self) -> &mut Status {
        match self {
            Item::Reasoning { status, .. } | Item::Message { status, .. } => status,
            Item::FunctionCall { status, .. } => status,
        }
    }

    /// Its one part; a call has none.
    pub fn content(&self) -> Option<&Content> {
        match self {
            Item::Reasoning { content, .. } | Item::Message { content, .. } => content.first(),
            Item::FunctionCall { .. } => None,
        }
    }

    /// The item's one part, to be added to; a call has none.
    pub fn content_mut(&mut self) -> Option<&mut Content> {
        match self {
            Item::Reasoning { content, .. } | Item::Message { content, .. } => content.first_mut(),
            Item::FunctionCall { .. } => None,
        }
    }

    /// The same without content, as when it begins.
    pub fn empty(&self) -> Item {
        let mut item = self.clone();
        *item.status_mut() = Status::InProgress;
        match &mut item {
            Item::Reasoning { content, .. } | Item::Message { content, .. } => content.clear(),
            Item::FunctionCall { arguments, .. } => arguments.clear(),
        }
        item
    }
}
