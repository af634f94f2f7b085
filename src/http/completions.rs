//! The endpoints for chat and plain completions.

use super::chunks::Chunks;
use super::format::{Endpoint, Format, Gathered, PreparedRequest, Streamed};
use super::status_codes::Names;
use super::whole::Whole;
use super::wire::common::{Envelope, Rules, Streaming};
use super::wire::fields::Fields;
use super::wire::reply::Head;
use super::wire::{ParsedRequest, Shape, WireError, chat, completion};
use crate::serving::Served;

/// `/v1/chat/completions`.
pub const CHAT: Endpoint = Endpoint {
    id_prefix: Shape::Chat.id_prefix(),
    prompt: Shape::Chat.prompt_field(),
    read: |fields, envelope, rules, created| read(Shape::Chat, fields, envelope, rules, created),
};

/// `/v1/completions`.
pub const TEXT: Endpoint = Endpoint {
    id_prefix: Shape::Text.id_prefix(),
    prompt: Shape::Text.prompt_field(),
    read: |fields, envelope, rules, created| read(Shape::Text, fields, envelope, rules, created),
};

fn read(
    shape: Shape,
    fields: &mut Fields,
    envelope: Envelope,
    rules: Rules<'_>,
    created: u64,
) -> Result<PreparedRequest, WireError> {
    let id = envelope.id.clone();
    let parsed = match shape {
        Shape::Chat => chat::chat(fields, envelope, rules)?,
        Shape::Text => completion::completion(fields, envelope, rules)?,
    };
    let ParsedRequest { model, requests, n, kept, streaming, look, one_call, logprobs, store } =
        parsed;
    let choices = n * requests.len() as u32;
    let Streaming { include_usage, continuous_usage, .. } = streaming;
    let head = Head {
        id,
        created,
        model,
        shape,
        choices,
        n,
        kept,
        look,
        one_call,
        logprobs,
        include_usage,
        continuous_usage,
    };
    Ok(PreparedRequest { requests, n, streamed: streaming.on, store, format: Box::new(head) })
}

impl Format for Head {
    fn names(&self) -> Names {
        Names { prompt: self.shape.prompt_field(), places: Vec::new() }
    }

    fn stream(self: Box<Self>, routed: &Served) -> Box<dyn Streamed> {
        Box::new(Chunks::new(*self, routed))
    }

    fn whole(self: Box<Self>, routed: Served) -> Box<dyn Gathered> {
        Box::new(Whole::new(*self, routed))
    }
}
