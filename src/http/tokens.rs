//! Tokenizing and detokenizing with stable's tokenizer; load generators use this.

use super::error::ApiError;
use super::wire::fields::Fields;
use super::wire::{Shape, WireError, chat, common, completion};
use super::{AppState, body};
use crate::serving::{GatewayError, Prompt};
use axum::Json;
use axum::body::Body;
use axum::extract::State;
use serde::Serialize;

/// A prompt as token ids of stable's tokenizer.
#[derive(Serialize)]
pub struct Tokens {
    count: usize,
    max_model_len: usize,
    tokens: Vec<u32>,
}

/// The text of token ids.
#[derive(Serialize)]
pub struct Text {
    prompt: String,
}

/// `POST /tokenize`.
pub async fn tokenize(State(state): State<AppState>, body: Body) -> Result<Json<Tokens>, ApiError> {
    let mut fields = body::fields(&state, body).await?;
    let models = state.gateway.control().models();
    check_model(&mut fields, &models.name)?;
    let add_special = fields.boolean("add_special_tokens")?;
    let (prompt, shape) = prompt(&mut fields)?;
    let Some(stable) = models.stable else {
        let reason = GatewayError::Unavailable("stable is still loading".to_owned());
        return Err(ApiError::gateway(&reason, shape.prompt_field()));
    };
    let tokens = state.gateway.tokenize(prompt, add_special).await;
    let tokens = tokens.map_err(|error| ApiError::gateway(&error, shape.prompt_field()))?;
    Ok(Json(Tokens { count: tokens.len(), max_model_len: stable.max_len(), tokens }))
}

/// `POST /detokenize`.
pub async fn detokenize(State(state): State<AppState>, body: Body) -> Result<Json<Text>, ApiError> {
    let mut fields = body::fields(&state, body).await?;
    check_model(&mut fields, &state.gateway.control().models().name)?;
    let missing = || WireError::Missing { param: "tokens".to_owned() };
    let tokens = fields.array("tokens")?.ok_or_else(missing)?;
    let ids = if tokens.is_empty() { Vec::new() } else { completion::ids(&tokens, "tokens")? };
    let prompt = apart(move || state.gateway.detokenize(&ids)).await?;
    Ok(Json(Text { prompt: prompt.map_err(|error| ApiError::gateway(&error, "tokens"))? }))
}

/// Runs `work` off the async threads, because texts may be as long as a body.
async fn apart<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, ApiError> {
    tokio::task::spawn_blocking(work).await.map_err(|error| ApiError::internal(&error))
}

/// The model may be omitted here. Only stable's tokenizer is used, so the name must not be the canary's.
fn check_model(fields: &mut Fields, served: &str) -> Result<(), WireError> {
    let Some(asked) = fields.string("model")? else { return Ok(()) };
    match common::model_arm(&asked, served)? {
        Some(crate::rollout::Arm::Canary) => {
            Err(WireError::unsupported("model", "only stable's tokenizer can be used"))
        }
        _ => Ok(()),
    }
}

fn prompt(fields: &mut Fields) -> Result<(Prompt, Shape), WireError> {
    match fields.string("prompt")? {
        Some(text) => Ok((Prompt::Text(text), Shape::Text)),
        None if fields.peek("messages").is_some() => Ok((chat::prompt(fields)?, Shape::Chat)),
        None => Err(WireError::Missing { param: "prompt".to_owned() }),
    }
}
