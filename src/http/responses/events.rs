//! A response as a stream of events.

use super::object::Response;
use super::output::{Content, Item, Status};
use super::reply::{Change, Reply};
use crate::http::format::Streamed;
use crate::http::sse;
use crate::http::status_codes::ApiError;
use crate::http::wire::logprobs::ChatToken;
use crate::serving::Piece;
use serde::Serialize;

/// The names of all events.
pub const NAMES: &[&str] = &[
    "response.completed",
    "response.content_part.added",
    "response.content_part.done",
    "response.created",
    "response.failed",
    "response.function_call_arguments.delta",
    "response.function_call_arguments.done",
    "response.in_progress",
    "response.incomplete",
    "response.output_item.added",
    "response.output_item.done",
    "response.output_text.delta",
    "response.output_text.done",
    "response.reasoning_text.delta",
    "response.reasoning_text.done",
];

/// Writes the events of one answer.
#[derive(Debug)]
pub struct Events {
    reply: Reply,
    next: u64,
}

/// The fields of all events; each has some of them.
#[derive(Debug, Default, Serialize)]
struct Event<'a> {
    #[serde(rename = "type")]
    kind: &'static str,
    sequence_number: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    response: Option<Response<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    item_id: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    output_index: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    content_index: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    item: Option<Item>,
    #[serde(skip_serializing_if = "Option::is_none")]
    part: Option<Content>,
    #[serde(skip_serializing_if = "Option::is_none")]
    delta: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    text: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    arguments: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    logprobs: Option<&'a [ChatToken]>,
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
        for change in self.reply.failure(error.clone()) {
            self.write(&mut out, &change);
        }
        out
    }
}

impl Events {
    /// The events of this answer.
    pub fn new(reply: Reply) -> Events {
        Events { reply, next: 0 }
    }

    fn write(&mut self, out: &mut String, change: &Change) {
        for event in events(&self.reply, change) {
            let event = Event { sequence_number: self.next, ..event };
            self.next += 1;
            sse::write(out, Some(event.kind), &event);
        }
    }
}

fn events<'a>(reply: &'a Reply, change: &'a Change) -> Vec<Event<'a>> {
    let of = |kind, response| Event { kind, response: Some(response), ..Event::default() };
    let whole = |kind| vec![of(kind, Response::of(reply, true))];
    match change {
        Change::Created => {
            let kinds = ["response.created", "response.in_progress"];
            kinds.map(|kind| of(kind, Response::begun(reply))).into()
        }
        Change::Added(at) => added(reply, *at),
        Change::Text(at, text, logprobs) => delta(reply, *at, text, logprobs),
        Change::Arguments(at, text) => {
            let kind = "response.function_call_arguments.delta";
            vec![Event { kind, delta: Some(text), ..of_item(reply, *at) }]
        }
        Change::Finished(at) => finished(reply, *at),
        Change::Ended => {
            let cut = reply.status() == Status::Incomplete;
            let kind = if cut { "response.incomplete" } else { "response.completed" };
            whole(kind)
        }
        Change::Failed => whole("response.failed"),
    }
}

/// What all events about an item have.
fn of_item(reply: &Reply, at: usize) -> Event<'_> {
    let item_id = reply.items.get(at).map(Item::id);
    Event { item_id, output_index: Some(at), ..Event::default() }
}

fn of_content(reply: &Reply, at: usize) -> Event<'_> {
    Event { content_index: Some(0), ..of_item(reply, at) }
}

fn added(reply: &Reply, at: usize) -> Vec<Event<'_>> {
    let Some(item) = reply.items.get(at) else { return Vec::new() };
    let kind = "response.output_item.added";
    let begun =
        Event { kind, item: Some(item.empty()), output_index: Some(at), ..Event::default() };
    let part = item.content().map(|content| Event {
        kind: "response.content_part.added",
        part: Some(content.empty()),
        ..of_content(reply, at)
    });
    std::iter::once(begun).chain(part).collect()
}

fn delta<'a>(
    reply: &'a Reply,
    at: usize,
    text: &'a str,
    logprobs: &'a [ChatToken],
) -> Vec<Event<'a>> {
    let said = matches!(reply.items.get(at), Some(Item::Message { .. }));
    let (kind, logprobs) = match said {
        true => ("response.output_text.delta", Some(logprobs)),
        false => ("response.reasoning_text.delta", None),
    };
    vec![Event { kind, delta: Some(text), logprobs, ..of_content(reply, at) }]
}

fn finished(reply: &Reply, at: usize) -> Vec<Event<'_>> {
    let Some(item) = reply.items.get(at) else { return Vec::new() };
    let mut events = Vec::new();
    if let Some(content) = item.content() {
        let (kind, logprobs) = match content {
            Content::OutputText { logprobs, .. } => {
                ("response.output_text.done", Some(logprobs.as_slice()))
            }
            Content::ReasoningText { .. } => ("response.reasoning_text.done", None),
        };
        let text = Some(content.text());
        events.push(Event { kind, text, logprobs, ..of_content(reply, at) });
        let kind = "response.content_part.done";
        events.push(Event { kind, part: Some(content.clone()), ..of_content(reply, at) });
    }
    if let Item::FunctionCall { name, arguments, .. } = item {
        let kind = "response.function_call_arguments.done";
        let (name, arguments) = (Some(name.as_str()), Some(arguments.as_str()));
        events.push(Event { kind, name, arguments, ..of_item(reply, at) });
    }
    let kind = "response.output_item.done";
    let item = Some(item.clone());
    events.push(Event { kind, item, output_index: Some(at), ..Event::default() });
    events
}
