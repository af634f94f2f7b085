//! `/v1/responses`: OpenAI's Responses API over the same generation as chat completions.
//!
//! Reading order: `request` with `items` (bodies), `reply` (what an answer consists of, as it grows), `events` (its
//! stream). Nothing is stored, so a response cannot be fetched, cancelled or continued by its id.

mod events;
mod items;
mod reply;
mod request;

pub use events::NAMES as EVENTS;
pub use reply::Response;
pub use request::FIELDS;

use super::error::ApiError;
use super::format::{Asked, Endpoint, Format, Gathered, Streamed};
use super::wire::common::{Envelope, Rules};
use super::wire::fields::Fields;
use super::wire::{Ask, WireError};
use super::{AppState, body, tokens};
use crate::serving::{GatewayError, Piece, Served};
use axum::Json;
use axum::body::Body;
use axum::extract::State;
use axum::http::Uri;
use events::Events;
use reply::{About, Reply};
use schemars::JsonSchema;
use serde::Serialize;

/// The prefix of ids.
const PREFIX: &str = "resp_";

/// `POST /v1/responses`.
pub const ENDPOINT: Endpoint = Endpoint { id_prefix: PREFIX, prompt: "input", read };

fn read(
    fields: &mut Fields,
    envelope: Envelope,
    rules: Rules<'_>,
    created: u64,
) -> Result<Asked, WireError> {
    let id = envelope.id.clone();
    let (ask, echo) = request::read(fields, envelope, rules)?;
    let Ask { model, requests, n, streaming, look, one_call, logprobs, .. } = ask;
    let about = About { id, created, model, look, one_call, logprobs, echo };
    Ok(Asked { requests, n, streamed: streaming.on, format: Box::new(about) })
}

impl Format for About {
    fn prompt(&self) -> &'static str {
        ENDPOINT.prompt
    }

    fn stream(self: Box<Self>, routed: &Served) -> Box<dyn Streamed> {
        Box::new(Events::new(Reply::new(*self, routed.clone())))
    }

    fn whole(self: Box<Self>, routed: Served) -> Box<dyn Gathered> {
        Box::new(Reply::new(*self, routed))
    }
}

impl Gathered for Reply {
    fn take(&mut self, piece: Piece) -> Result<(), GatewayError> {
        match piece {
            Piece::Failed(error) => Err(error),
            piece => {
                Reply::take(self, piece);
                Ok(())
            }
        }
    }

    fn served(&self) -> &Served {
        Reply::served(self)
    }

    fn json(self: Box<Self>) -> Result<String, serde_json::Error> {
        serde_json::to_string(&self.response(true))
    }
}

/// How long the prompt of a request is.
#[derive(Debug, Serialize, JsonSchema)]
pub struct InputTokens {
    object: &'static str,
    input_tokens: usize,
}

/// `POST /v1/responses/input_tokens`.
pub async fn input_tokens(
    State(state): State<AppState>,
    body: Body,
) -> Result<Json<InputTokens>, ApiError> {
    let mut fields = body::fields(&state, body).await?;
    tokens::check_model(&mut fields, &state.gateway.control().models().name)?;
    let prompt = request::prompt(&mut fields)?.0;
    let ids = state.gateway.tokenize(prompt, None).await;
    let ids = ids.map_err(|error| ApiError::gateway(&error, ENDPOINT.prompt))?;
    Ok(Json(InputTokens { object: "response.input_tokens", input_tokens: ids.len() }))
}

/// Whatever is asked about a response by its id.
pub async fn not_stored(uri: Uri) -> ApiError {
    let rest = uri.path().rsplit_once("/responses/").map_or("", |(_, rest)| rest);
    ApiError::not_stored(rest.split('/').next().unwrap_or_default())
}

#[cfg(test)]
mod tests;
