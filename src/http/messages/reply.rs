//! A message that is being generated: its content blocks, and the changes that a stream has to report.
//!
//! Pure. Whole responses and streams are built by the same steps, so both end with the same blocks. A tool call becomes
//! a block only when its input is complete, because clients run the calls that they get: a call whose input is not
//! valid JSON becomes text.

use super::PREFIX;
use crate::http::parts::{Part, Parts};
use crate::http::status_codes::Names;
use crate::serving::{Finish, GatewayError, Piece, Served, Usage};
use crate::text::reply::{CallEnd, Look};
use schemars::JsonSchema;
use serde::Serialize;
use serde_json::{Map, Value};

/// What is known about an answer before it begins.
#[derive(Debug)]
pub struct About {
    /// The message's id.
    pub id: String,
    /// The model's name as the client wrote it.
    pub model: String,
    /// What the reply is parsed for.
    pub look: Look,
    /// Whether tool calls after the first one are left out.
    pub one_call: bool,
    /// The stop strings, in the request's order.
    pub stop: Vec<String>,
    /// The longest reply that the request asks for, in tokens.
    pub most: Option<usize>,
    /// What the request calls the things that errors are about.
    pub names: Names,
}

/// A block of content.
#[derive(Debug, Clone, PartialEq, Serialize, JsonSchema)]
#[schemars(rename = "MessagesBlock")]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum Block {
    /// What the model thought. It is not signed.
    Thinking { thinking: String, signature: &'static str },
    /// What the model said.
    Text { text: String },
    /// A call of one of the client's tools.
    ToolUse { id: String, name: String, input: Map<String, Value> },
}

/// A change that a stream tells; the number is the block's place.
#[derive(Debug)]
pub enum Change {
    Started,
    /// A block begins, as it is then: empty.
    Begun(usize, Block),
    Text(usize, String),
    Thinking(usize, String),
    Input(usize, String),
    Finished(usize),
    Ended,
    Failed(GatewayError),
}

/// The answer so far.
#[derive(Debug)]
pub struct Reply {
    pub about: About,
    pub served: Served,
    parts: Parts,
    blocks: Vec<Block>,
    /// Whether the last block may grow.
    open: bool,
    /// The call in progress: its id, its name and the JSON text of its input.
    call: Option<(String, String, String)>,
    ended: Option<(Finish, bool)>,
    usage: Usage,
}

impl Reply {
    /// Begins an answer; `routed` says who is expected to give it.
    pub fn new(about: About, routed: Served) -> Reply {
        let parts = Parts::new(1, about.look.clone(), about.one_call);
        let (blocks, call, usage) = (Vec::new(), None, Usage::default());
        Reply { about, served: routed, parts, blocks, open: false, call, ended: None, usage }
    }

    /// The last block, if it is a thought in progress.
    pub fn is_thinking(&self, at: usize) -> bool {
        matches!(self.blocks.get(at), Some(Block::Thinking { .. }))
    }

    /// Processes the next piece and returns what has changed, in order.
    pub fn take(&mut self, piece: Piece) -> Vec<Change> {
        let mut changes = Vec::new();
        for part in self.parts.of(piece) {
            self.part(part, &mut changes);
        }
        changes
    }

    fn part(&mut self, part: Part, changes: &mut Vec<Change>) {
        match part {
            Part::Start(served, usage) => {
                self.served = served;
                self.usage = usage;
                changes.push(Change::Started);
            }
            // Nothing that these requests can ask for.
            Part::Echo { .. } | Part::Count { .. } => {}
            Part::Text { text, .. } if text.is_empty() => {}
            Part::Text { text, .. } => self.text(text, changes),
            Part::Reasoning { text, .. } => self.thinking(text, changes),
            Part::CallBegin { call, name, .. } => {
                let stem = self.about.id.strip_prefix(PREFIX).unwrap_or(&self.about.id);
                self.call = Some((format!("toolu_{stem}{call:02x}"), name, String::new()));
            }
            Part::CallArguments { delta, .. } => {
                if let Some((_, _, input)) = &mut self.call {
                    input.push_str(&delta);
                }
            }
            Part::CallEnd { end: CallEnd::Broken(written), .. } => {
                self.call = None;
                self.text(written, changes);
            }
            Part::CallEnd { end: CallEnd::Whole | CallEnd::Cut(_), .. } => self.call(changes),
            Part::End { finish, calls, .. } => {
                self.finish_block(changes);
                self.ended = Some((finish, calls.any));
            }
            Part::Done(usage) => {
                self.usage = usage;
                changes.push(Change::Ended);
            }
            Part::Failed(error) => changes.push(Change::Failed(error)),
        }
    }

    fn last(&self) -> usize {
        self.blocks.len().saturating_sub(1)
    }

    fn text(&mut self, more: String, changes: &mut Vec<Change>) {
        if !(self.open && matches!(self.blocks.last(), Some(Block::Text { .. }))) {
            self.begin(Block::Text { text: String::new() }, changes);
        }
        if let Some(Block::Text { text }) = self.blocks.last_mut() {
            text.push_str(&more);
        }
        changes.push(Change::Text(self.last(), more));
    }

    fn thinking(&mut self, more: String, changes: &mut Vec<Change>) {
        if !(self.open && matches!(self.blocks.last(), Some(Block::Thinking { .. }))) {
            self.begin(Block::Thinking { thinking: String::new(), signature: "" }, changes);
        }
        if let Some(Block::Thinking { thinking, .. }) = self.blocks.last_mut() {
            thinking.push_str(&more);
        }
        changes.push(Change::Thinking(self.last(), more));
    }

    /// The call in progress becomes a block. One that was cut with the reply has no input; the stop reason says so.
    fn call(&mut self, changes: &mut Vec<Change>) {
        let Some((id, name, written)) = self.call.take() else { return };
        self.begin(Block::ToolUse { id, name, input: Map::new() }, changes);
        if let Some(Block::ToolUse { input, .. }) = self.blocks.last_mut() {
            *input = serde_json::from_str(&written).unwrap_or_default();
        }
        changes.push(Change::Input(self.last(), written));
        self.finish_block(changes);
    }

    fn begin(&mut self, block: Block, changes: &mut Vec<Change>) {
        self.finish_block(changes);
        self.blocks.push(block.clone());
        self.open = true;
        changes.push(Change::Begun(self.last(), block));
    }

    fn finish_block(&mut self, changes: &mut Vec<Change>) {
        if !std::mem::replace(&mut self.open, false) {
            return;
        }
        changes.push(Change::Finished(self.last()));
    }

    /// Why the reply ended, and the stop sequence if one ended it.
    fn stop_reason(&self) -> (Option<&'static str>, Option<&str>) {
        match self.ended {
            None => (None, None),
            // The context ended a reply that might have been longer.
            Some((Finish::Length, _))
                if self.about.most.is_some_and(|most| self.usage.completion_tokens < most) =>
            {
                (Some("model_context_window_exceeded"), None)
            }
            Some((Finish::Length, _)) => (Some("max_tokens"), None),
            Some((Finish::StopString(at), _)) => {
                (Some("stop_sequence"), self.about.stop.get(at).map(String::as_str))
            }
            Some((Finish::Stop, true)) => (Some("tool_use"), None),
            Some((Finish::Stop, false)) => (Some("end_turn"), None),
        }
    }

    /// The message as it is now.
    pub fn message(&self) -> Message<'_> {
        let (stop_reason, stop_sequence) = self.stop_reason();
        Message {
            id: &self.about.id,
            kind: "message",
            role: "assistant",
            model: &self.about.model,
            content: &self.blocks,
            stop_reason,
            stop_sequence,
            usage: Tokens::from(self.usage),
        }
    }
}

/// A message, whole or so far.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "MessagesMessage")]
pub struct Message<'a> {
    id: &'a str,
    #[serde(rename = "type")]
    kind: &'static str,
    role: &'static str,
    model: &'a str,
    content: &'a [Block],
    pub stop_reason: Option<&'static str>,
    pub stop_sequence: Option<&'a str>,
    pub usage: Tokens,
}

/// Token counts.
#[derive(Debug, Clone, Copy, Serialize, JsonSchema)]
#[schemars(rename = "MessagesUsage")]
pub struct Tokens {
    /// Tokens of the prompt that were not in the cache.
    input_tokens: usize,
    output_tokens: usize,
    cache_creation_input_tokens: usize,
    cache_read_input_tokens: usize,
}

impl From<Usage> for Tokens {
    fn from(usage: Usage) -> Tokens {
        Tokens {
            input_tokens: usage.prompt_tokens.saturating_sub(usage.cached_tokens),
            output_tokens: usage.completion_tokens,
            cache_creation_input_tokens: 0,
            cache_read_input_tokens: usage.cached_tokens,
        }
    }
}
