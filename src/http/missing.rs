//! Routes of the public APIs that this server does not have: each response says what is missing.

use super::status_codes::ApiError;
use super::{AppState, responses};
use axum::http::Uri;
use axum::routing::{MethodRouter, any, post};

const EMBEDDINGS: &str = "this server generates text; use a server for embedding models";
const RERANK: &str = "this server generates text; use a server for ranking models";
const INFILL: &str = "infilling is not available; use /v1/completions";
const AUDIO: &str = "the models here read and write text only";
const IMAGES: &str = "the models here read and write text only";
const MODERATIONS: &str = "there is no moderation model; ask a model with a prompt of your own";
const COMPACT: &str = "nothing is stored; shorten the conversation yourself";
const STORED: &str = "nothing is stored here; send what a request needs with it";
const BATCHES: &str = "requests are answered at once; send them one by one";
const COMPLETE: &str = "use /v1/messages";

/// The routes, below `/v1` and without it, and what is missing for each.
pub const MISSING: &[(&str, &str)] = &[
    ("/audio/{*rest}", AUDIO),
    ("/batches", BATCHES),
    ("/batches/{*rest}", BATCHES),
    ("/complete", COMPLETE),
    ("/conversations", STORED),
    ("/conversations/{*rest}", STORED),
    ("/embedding", EMBEDDINGS),
    ("/embeddings", EMBEDDINGS),
    ("/files", STORED),
    ("/files/{*rest}", STORED),
    ("/images/{*rest}", IMAGES),
    ("/infill", INFILL),
    ("/messages/batches", BATCHES),
    ("/messages/batches/{*rest}", BATCHES),
    ("/moderations", MODERATIONS),
    ("/rerank", RERANK),
    ("/reranking", RERANK),
    ("/uploads", STORED),
    ("/uploads/{*rest}", STORED),
    ("/vector_stores", STORED),
    ("/vector_stores/{*rest}", STORED),
];

/// Paths that these routes are below.
pub const PREFIXES: [&str; 2] = ["", "/v1"];

/// All of them, each answering 501, whatever the method.
pub fn routes() -> impl Iterator<Item = (&'static str, MethodRouter<AppState>)> {
    MISSING.iter().map(|(path, what)| (*path, any(missing(what))))
}

/// Ranking, also below `/v2`.
pub fn rerank() -> MethodRouter<AppState> {
    any(missing(RERANK))
}

/// Shortening a response on the server; its path is also that of a response by its id.
pub fn compact() -> MethodRouter<AppState> {
    post(missing(COMPACT)).get(responses::not_stored).delete(responses::not_stored)
}

fn missing(
    what: &'static str,
) -> impl Fn(Uri) -> std::future::Ready<ApiError> + Clone + Send + Sync + 'static {
    move |uri| std::future::ready(ApiError::not_available(uri.path(), what))
}
