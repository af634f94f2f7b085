//! A message as a stream of events.

use super::errors;
use super::reply::{Block, Change, Message, Reply, Tokens};
use crate::http::format::{KEEP_ALIVE, Streamed};
use crate::http::sse;
use crate::http::status_codes::ApiError;
use crate::serving::Piece;
use serde::Serialize;

/// What that API sends while there is nothing to say.
const PING: &str = "event: ping\ndata: {\"type\":\"ping\"}\n\n";

/// The names of all events.
pub const NAMES: &[&str] = &[
    "content_block_delta",
    "content_block_start",
    "content_block_stop",
    "error",
    "message_delta",
    "message_start",
    "message_stop",
    "ping",
];

/// Writes the events of one answer.
#[derive(Debug)]
pub struct Events {
    reply: Reply,
    started: bool,
}

#[derive(Debug, Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
enum Event<'a> {
    MessageStart { message: Message<'a> },
    ContentBlockStart { index: usize, content_block: &'a Block },
    ContentBlockDelta { index: usize, delta: Delta<'a> },
    ContentBlockStop { index: usize },
    MessageDelta { delta: End<'a>, usage: Tokens },
    MessageStop,
}

#[derive(Debug, Serialize)]
#[serde(tag = "type")]
enum Delta<'a> {
    #[serde(rename = "text_delta")]
    Text { text: &'a str },
    #[serde(rename = "thinking_delta")]
    Thinking { thinking: &'a str },
    #[serde(rename = "signature_delta")]
    Signature { signature: &'a str },
    #[serde(rename = "input_json_delta")]
    Input { partial_json: &'a str },
}

#[derive(Debug, Serialize)]
struct End<'a> {
    stop_reason: Option<&'static str>,
    stop_sequence: Option<&'a str>,
}

impl Event<'_> {
    fn name(&self) -> &'static str {
        match self {
            Event::MessageStart { .. } => "message_start",
            Event::ContentBlockStart { .. } => "content_block_start",
            Event::ContentBlockDelta { .. } => "content_block_delta",
            Event::ContentBlockStop { .. } => "content_block_stop",
            Event::MessageDelta { .. } => "message_delta",
            Event::MessageStop => "message_stop",
        }
    }
}

impl Streamed for Events {
    fn events(&mut self, piece: Piece) -> String {
        let mut out = String::new();
        for change in self.reply.take(piece) {
            self.write(&mut out, &change);
        }
        out
    }

    fn error(&mut self, error: &ApiError) -> String {
        let mut out = String::new();
        sse::write(
            &mut out,
            Some("error"),
            &errors::body(error.status(), &error.body(), &self.reply.about.id),
        );
        out
    }

    /// A comment until the message has begun: then no event may come before its first.
    fn keep_alive(&self) -> &'static str {
        if self.started { PING } else { KEEP_ALIVE }
    }
}

impl Events {
    /// The events of this answer.
    pub fn new(reply: Reply) -> Events {
        Events { reply, started: false }
    }

    fn write(&mut self, out: &mut String, change: &Change) {
        match change {
            Change::Started => {
                self.started = true;
                send(out, &Event::MessageStart { message: self.reply.message() });
                out.push_str(PING);
            }
            Change::Begun(index, block) => {
                send(out, &Event::ContentBlockStart { index: *index, content_block: block });
            }
            Change::Text(index, text) => delta(out, *index, Delta::Text { text }),
            Change::Thinking(index, thinking) => {
                delta(out, *index, Delta::Thinking { thinking });
            }
            Change::Input(index, partial_json) => {
                delta(out, *index, Delta::Input { partial_json });
            }
            Change::Finished(index) => {
                if self.reply.is_thinking(*index) {
                    delta(out, *index, Delta::Signature { signature: "" });
                }
                send(out, &Event::ContentBlockStop { index: *index });
            }
            Change::Ended => {
                let Message { stop_reason, stop_sequence, usage, .. } = self.reply.message();
                let delta = End { stop_reason, stop_sequence };
                send(out, &Event::MessageDelta { delta, usage });
                send(out, &Event::MessageStop);
            }
            Change::Failed(error) => {
                let error = ApiError::named(error, &self.reply.about.names);
                out.push_str(&self.error(&error));
            }
        }
    }
}

fn delta(out: &mut String, index: usize, delta: Delta<'_>) {
    send(out, &Event::ContentBlockDelta { index, delta });
}

fn send(out: &mut String, event: &Event<'_>) {
    sse::write(out, Some(event.name()), event);
}
