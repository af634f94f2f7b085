//! Converts between text and token ids with stable's tokenizer, and applies its chat template to a conversation; load
//! generators use this. It supports the formats of vLLM and of llama-server: the fields of a request tell which one is
//! meant.

use super::status_codes::{ApiError, Names};
use super::wire::fields::Fields;
use super::wire::{Shape, WireError, chat, common, completion};
use super::{AppState, body};
use crate::serving::{GatewayError, Prompt};
use axum::Json;
use axum::body::Body;
use axum::extract::State;
use schemars::JsonSchema;
use serde::Serialize;

/// A prompt as token ids of stable's tokenizer.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "Tokenized")]
pub struct Tokens {
    count: usize,
    max_model_len: usize,
    tokens: TokenList,
    /// The tokens as the vocabulary spells them, with `return_token_strs`.
    token_strs: Option<Vec<String>>,
}

/// Ids, or with `with_pieces` ids and what they spell.
#[derive(Serialize, JsonSchema)]
#[serde(untagged)]
enum TokenList {
    Ids(Vec<u32>),
    Pieces(Vec<Piece>),
}

/// A token and what it spells.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "TokenPiece")]
struct Piece {
    id: u32,
    piece: Spelling,
}

/// A text, or the bytes of a token that is no whole character.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "TokenSpelling")]
#[serde(untagged)]
enum Spelling {
    Text(String),
    Bytes(Vec<u8>),
}

/// The text of token ids, under the names of both forms.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "Detokenized")]
pub struct Text {
    prompt: String,
    content: String,
}

/// A conversation as the model reads it.
#[derive(Serialize, JsonSchema)]
pub struct Rendered {
    prompt: String,
}

/// Serves `POST /tokenize`. Fails if the body is not valid, if stable is not loaded, or if it cannot read the prompt.
pub async fn tokenize(State(state): State<AppState>, body: Body) -> Result<Json<Tokens>, ApiError> {
    let mut fields = body::fields(&state, body).await?;
    let models = state.gateway.control().models();
    check_model(&mut fields, &models.name)?;
    let request = tokenize_request(&mut fields)?;
    let Some(stable) = models.stable else {
        let reason = GatewayError::Unavailable("stable is still loading".to_owned());
        return Err(ApiError::gateway(&reason, request.param));
    };
    let ids = state.gateway.tokenize(request.prompt, request.add_special).await;
    let ids = ids.map_err(|error| ApiError::gateway(&error, request.param))?;
    let codec = &stable.codec;
    let spelled = || ids.iter().map(|id| codec.token(*id).unwrap_or_default()).collect();
    let (count, token_strs) = (ids.len(), request.strings.then(spelled));
    let piece = |id: u32| Piece { id, piece: Spelling::from(codec.spelling(id)) };
    let tokens = match request.pieces {
        true => TokenList::Pieces(ids.into_iter().map(piece).collect()),
        false => TokenList::Ids(ids),
    };
    Ok(Json(Tokens { count, max_model_len: stable.max_len(), tokens, token_strs }))
}

impl From<Vec<u8>> for Spelling {
    fn from(bytes: Vec<u8>) -> Spelling {
        String::from_utf8(bytes).map_or_else(|e| Spelling::Bytes(e.into_bytes()), Spelling::Text)
    }
}

/// The length of the prompt that `read` finds in a body, in stable's tokens.
pub(super) async fn count(
    state: &AppState,
    body: Body,
    read: fn(&mut Fields) -> Result<(Prompt, Names), WireError>,
) -> Result<usize, ApiError> {
    let mut fields = body::fields(state, body).await?;
    check_model(&mut fields, &state.gateway.control().models().name)?;
    let (prompt, names) = read(&mut fields)?;
    let count = state.gateway.count(prompt).await;
    count.map_err(|error| ApiError::named(&error, &names))
}

/// Serves `POST /detokenize`. Fails if the body is not valid, if stable is not loaded, or if it has no such token.
pub async fn detokenize(State(state): State<AppState>, body: Body) -> Result<Json<Text>, ApiError> {
    let mut fields = body::fields(&state, body).await?;
    check_model(&mut fields, &state.gateway.control().models().name)?;
    let missing = || WireError::Missing { param: "tokens".to_owned() };
    let tokens = fields.array("tokens")?.ok_or_else(missing)?;
    let ids = if tokens.is_empty() { Vec::new() } else { completion::ids(&tokens, "tokens")? };
    let text = apart(move || state.gateway.detokenize(&ids)).await?;
    let text = text.map_err(|error| ApiError::gateway(&error, "tokens"))?;
    Ok(Json(Text { prompt: text.clone(), content: text }))
}

/// Serves `POST /apply-template`. Fails if the body is not valid, if stable is not loaded, or if its template does not
/// take the conversation.
pub async fn apply_template(
    State(state): State<AppState>,
    body: Body,
) -> Result<Json<Rendered>, ApiError> {
    let mut fields = body::fields(&state, body).await?;
    check_model(&mut fields, &state.gateway.control().models().name)?;
    let rendered = state.gateway.render(chat::prompt(&mut fields)?).await;
    let prompt = rendered.map_err(|error| ApiError::gateway(&error, Shape::Chat.prompt_field()))?;
    Ok(Json(Rendered { prompt }))
}

/// Runs `work` off the async threads, because texts may be as long as a body.
async fn apart<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, ApiError> {
    tokio::task::spawn_blocking(work).await.map_err(|error| ApiError::internal(&error))
}

/// The model may be omitted here. Only stable's tokenizer is used, so the name must not be the canary's.
fn check_model(fields: &mut Fields, served: &str) -> Result<(), WireError> {
    let Some(model) = fields.string("model")? else { return Ok(()) };
    match common::model_arm(&model, served)? {
        Some(crate::rollout::Arm::Canary) => {
            Err(WireError::unsupported("model", "only stable's tokenizer can be used"))
        }
        _ => Ok(()),
    }
}

/// What is to be tokenized, and how it is shown.
struct TokenizeRequest {
    prompt: Prompt,
    param: &'static str,
    add_special: Option<bool>,
    strings: bool,
    pieces: bool,
}

/// A `prompt` or `messages` as to vLLM, or `content` as to llama-server, which adds no special tokens by itself.
fn tokenize_request(fields: &mut Fields) -> Result<TokenizeRequest, WireError> {
    let vllm = fields.boolean("add_special_tokens")?;
    let llama = fields.boolean("add_special")?;
    let strings = fields.boolean("return_token_strs")?.unwrap_or(false);
    let pieces = fields.boolean("with_pieces")?.unwrap_or(false);
    if fields.boolean("parse_special")? == Some(false) {
        let what = "control tokens in a text are encoded as such; those in messages are not";
        return Err(WireError::unsupported("parse_special", what));
    }
    let add_special = vllm.or(llama);
    let of = |prompt, param, add_special| TokenizeRequest {
        prompt,
        param,
        add_special,
        strings,
        pieces,
    };
    if let Some(text) = fields.string("prompt")? {
        return Ok(of(Prompt::Text(text), "prompt", add_special));
    }
    if let Some(text) = fields.string("content")? {
        return Ok(of(Prompt::Text(text), "content", add_special.or(Some(false))));
    }
    match fields.peek("messages") {
        Some(_) => Ok(of(chat::prompt(fields)?, "messages", add_special)),
        None => Err(WireError::Missing { param: "prompt".to_owned() }),
    }
}
