//! `/v1/responses`: OpenAI's Responses API over the same generation as chat completions.
//!
//! Reading order: `request` with `items` (bodies), `reply` (the content of a response while it is generated) with
//! `output` (its items), `object` (the response as JSON), `events` (its stream). Nothing is stored, so a response
//! cannot be fetched, cancelled or continued by its id.

mod events;
mod items;
mod object;
mod output;
mod reply;
mod request;

pub use events::NAMES as EVENTS;
pub use object::Response;
pub use request::{FIELDS, INCLUDES, LOGPROBS};

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
use axum::http::Uri;
use events::Events;
use reply::{About, Reply};
use schemars::JsonSchema;
use serde::Serialize;

const PREFIX: &str = "resp_";

/// `POST /v1/responses`.
pub const ENDPOINT: Endpoint = Endpoint { id_prefix: PREFIX, prompt: "input", read };

fn read(
    fields: &mut Fields,
    envelope: Envelope,
    rules: Rules<'_>,
    created: u64,
) -> Result<PreparedRequest, WireError> {
    let id = envelope.id.clone();
    let (parsed, echo, places) = request::read(fields, envelope, rules)?;
    let ParsedRequest { model, requests, n, streaming, look, one_call, logprobs, .. } = parsed;
    let names = names(places);
    let about = About { id, created, model, look, one_call, logprobs, echo, names };
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
        serde_json::to_string(&Response::of(&self, true))
    }
}

/// How long the prompt of a request is.
#[derive(Debug, Serialize, JsonSchema)]
pub struct InputTokens {
    object: &'static str,
    input_tokens: usize,
}

/// Serves `POST /v1/responses/input_tokens`. Fails if the body is not valid, or if stable cannot read the prompt.
pub async fn input_tokens(
    State(state): State<AppState>,
    body: Body,
) -> Result<Json<InputTokens>, ApiError> {
    let read = |fields: &mut Fields| {
        let asked = request::prompt(fields)?;
        Ok((asked.prompt, names(asked.places)))
    };
    let input_tokens = tokens::count(&state, body, read).await?;
    Ok(Json(InputTokens { object: "response.input_tokens", input_tokens }))
}

/// Whatever is asked about a response by its id.
pub async fn not_stored(uri: Uri) -> ApiError {
    let rest = uri.path().rsplit_once("/responses/").map_or("", |(_, rest)| rest);
    ApiError::not_stored(rest.split('/').next().unwrap_or_default())
}

#[cfg(test)]
mod tests;
