//! Routes of the public APIs that this server does not have: each says what is missing.

use super::AppState;
use super::error::ApiError;
use axum::http::Uri;
use axum::routing::{MethodRouter, post};

const EMBEDDINGS: &str = "this server generates text; use a server for embedding models";
const RERANK: &str = "this server generates text; use a server for ranking models";
const INFILL: &str = "infilling is not available; use /v1/completions";
const AUDIO: &str = "the models here read and write text only";
const IMAGES: &str = "the models here read and write text only";
const MODERATIONS: &str = "there is no moderation model; ask a model with a prompt of your own";
const COMPACT: &str = "nothing is stored; shorten the conversation yourself";

/// The routes, and what is missing for each.
pub const MISSING: &[(&str, &str)] = &[
    ("/embedding", EMBEDDINGS),
    ("/embeddings", EMBEDDINGS),
    ("/infill", INFILL),
    ("/rerank", RERANK),
    ("/reranking", RERANK),
    ("/v1/audio/{*rest}", AUDIO),
    ("/v1/embeddings", EMBEDDINGS),
    ("/v1/images/{*rest}", IMAGES),
    ("/v1/moderations", MODERATIONS),
    ("/v1/rerank", RERANK),
    ("/v1/reranking", RERANK),
    ("/v1/responses/compact", COMPACT),
    ("/v2/rerank", RERANK),
];

/// All of them, each answering 501.
pub fn routes() -> impl Iterator<Item = (&'static str, MethodRouter<AppState>)> {
    MISSING.iter().map(|(path, what)| {
        (*path, post(async |uri: Uri| ApiError::not_available(uri.path(), what)))
    })
}
