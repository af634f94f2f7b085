//! `/v1/messages`: Anthropic's Messages API over the same generation as chat completions.
//!
//! Reading order: `request` with `blocks` (bodies), `reply` (the content of a response while it is generated), `events`
//! (its stream), `models` (the list of models), `errors` (Anthropic's error format, for all of these routes).

mod blocks;
mod errors;
mod events;
mod models;
mod reply;
mod request;

pub use errors::{Body as ErrorForm, REQUEST_ID, in_form};
pub use events::NAMES as EVENTS;
pub use models::{Model, Models, asks};
pub use reply::Message;

pub use request::FIELDS;

use super::format::{Endpoint, Format, Gathered, PreparedRequest, Streamed};
use super::status_codes::{ApiError, Names};
use super::wire::common::{Envelope, Rules};
use super::wire::fields::Fields;
use super::wire::{ParsedRequest, WireError};
use super::{AppState, tokens};
use crate::serving::{Piece, Served};
use axum::Json;
use axum::body::Body;
use axum::extract::State;
use events::Events;
use reply::{About, Reply};
use schemars::JsonSchema;
use serde::Serialize;

const PREFIX: &str = "msg_";

/// `POST /v1/messages`.
pub const ENDPOINT: Endpoint = Endpoint { id_prefix: PREFIX, prompt: "messages", read };

fn read(
    fields: &mut Fields,
    envelope: Envelope,
    rules: Rules<'_>,
    _created: u64,
) -> Result<PreparedRequest, WireError> {
    let id = envelope.id.clone();
    let (parsed, places) = request::read(fields, envelope, rules)?;
    let ParsedRequest { model, requests, n, streaming, look, one_call, .. } = parsed;
    let first = requests.first();
    let stop = first.map(|request| request.stop.clone()).unwrap_or_default();
    let most = first.and_then(|request| request.max_tokens);
    let about = About { id, model, look, one_call, stop, most, names: names(places) };
    Ok(PreparedRequest {
        requests,
        n,
        streamed: streaming.on,
        store: false,
        format: Box::new(about),
    })
}

fn names(places: Vec<String>) -> Names {
    Names { prompt: ENDPOINT.prompt, places }
}

impl Format for About {
    fn names(&self) -> Names {
        self.names.clone()
    }

    fn stream(self: Box<Self>, routed: &Served) -> Box<dyn Streamed> {
        Box::new(Events::new(Reply::new(*self, routed.clone())))
    }

    fn whole(self: Box<Self>, routed: Served) -> Box<dyn Gathered> {
        Box::new(Reply::new(*self, routed))
    }
}

impl Gathered for Reply {
    fn take(&mut self, piece: Piece) {
        Reply::take(self, piece);
    }

    fn served(&self) -> &Served {
        &self.served
    }

    fn json(self: Box<Self>) -> Result<String, serde_json::Error> {
        serde_json::to_string(&self.message())
    }
}

/// How long the prompt of a request is.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "MessagesCount")]
pub struct Count {
    input_tokens: usize,
}

/// Serves `POST /v1/messages/count_tokens`. Fails if the body is not valid, or if stable cannot read the prompt.
pub async fn count_tokens(
    State(state): State<AppState>,
    body: Body,
) -> Result<Json<Count>, ApiError> {
    let read = |fields: &mut Fields| {
        let asked = request::prompt(fields)?;
        Ok((asked.prompt, names(asked.places)))
    };
    Ok(Json(Count { input_tokens: tokens::count(&state, body, read).await? }))
}

#[cfg(test)]
mod tests;
