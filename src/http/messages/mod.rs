//! `/v1/messages`: Anthropic's Messages API over the same generation as chat completions.
//!
//! Reading order: `request` with `blocks` (bodies), `reply` (what an answer consists of, as it grows), `events` (its
//! stream), `errors` (that API's form of an error, for everything that these routes answer).

mod blocks;
mod errors;
mod events;
mod reply;
mod request;

pub use errors::{Body as ErrorForm, REQUEST_ID, in_form};
pub use events::NAMES as EVENTS;
pub use reply::Message;

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
use events::Events;
use reply::{About, Reply};
use schemars::JsonSchema;
use serde::Serialize;

/// The prefix of ids.
const PREFIX: &str = "msg_";

/// `POST /v1/messages`.
pub const ENDPOINT: Endpoint = Endpoint { id_prefix: PREFIX, prompt: "messages", read };

fn read(
    fields: &mut Fields,
    envelope: Envelope,
    rules: Rules<'_>,
    _created: u64,
) -> Result<Asked, WireError> {
    let id = envelope.id.clone();
    let ask = request::read(fields, envelope, rules)?;
    let Ask { model, requests, n, streaming, look, one_call, .. } = ask;
    let stop = requests.first().map(|request| request.stop.clone()).unwrap_or_default();
    let about = About { id, model, look, one_call, stop };
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
        serde_json::to_string(&self.message())
    }
}

/// How long the prompt of a request is.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "MessagesCount")]
pub struct Count {
    input_tokens: usize,
}

/// `POST /v1/messages/count_tokens`.
pub async fn count_tokens(
    State(state): State<AppState>,
    body: Body,
) -> Result<Json<Count>, ApiError> {
    let mut fields = body::fields(&state, body).await?;
    tokens::check_model(&mut fields, &state.gateway.control().models().name)?;
    let prompt = request::prompt(&mut fields)?.prompt;
    let ids = state.gateway.tokenize(prompt, None).await;
    let ids = ids.map_err(|error| ApiError::gateway(&error, ENDPOINT.prompt))?;
    Ok(Json(Count { input_tokens: ids.len() }))
}

#[cfg(test)]
mod tests;
