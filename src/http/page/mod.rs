//! The operators' page: its files, its live figures (`live`, `history`), the entries of the ledger, and its address.
//!
//! The files are the same for everybody and need no token; all data that they show come from the operators' routes. The
//! page may load nothing from elsewhere and runs no inline script.

mod history;
mod live;

pub use live::Live;

use super::AppState;
use super::status_codes::ApiError;
use crate::ledger::{EntrySummary, Kept, Reader};
use crate::web;
use axum::extract::{Path, Query, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use axum::response::{Html, IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use serde::{Deserialize, Serialize};

const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; \
    connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";
/// Entries of the ledger in one answer: by default, and at most.
const ENTRIES: usize = 200;
const MOST_ENTRIES: usize = 2000;

/// The page itself, for any browser on this machine.
pub(super) fn files() -> Router<AppState> {
    let index = |headers: HeaderMap| async move { file("index.html", &headers) };
    Router::new().route("/", get(index)).route("/ui", get(index)).route(
        "/ui/{*name}",
        get(async |Path(name): Path<String>, headers: HeaderMap| file(&name, &headers)),
    )
}

/// What the page reads; behind the operators' access check.
pub(super) fn data() -> Router<AppState> {
    Router::new()
        .route("/admin/live", get(live::stream))
        .route("/admin/ledger", get(entries))
        .route("/admin/page", get(address))
}

/// `GET /` of the clients' listener: says where to look.
pub(super) async fn pointer(State(state): State<AppState>) -> Response {
    let model = web::escaped(state.gateway.control().name());
    let text = format!(
        "<!doctype html><html lang=\"en\"><meta charset=\"utf-8\"><title>serin</title>\
         <h1>serin serves {model}</h1>\
         <p>This is the address for clients: an OpenAI-compatible API under <code>/v1</code>.</p>\
         <p>The operators' page has an address of its own, on the server's machine only. \
         <code>serin page</code> prints it there.</p></html>"
    );
    with_policy(Html(text).into_response())
}

fn file(name: &str, headers: &HeaderMap) -> Response {
    let Some(file) = web::file(name) else {
        return ApiError::no_route("GET", &format!("/ui/{name}")).into_response();
    };
    let known = headers.get(header::IF_NONE_MATCH).is_some_and(|tags| tags == file.tag.as_str());
    let mut response = match known {
        true => StatusCode::NOT_MODIFIED.into_response(),
        false => file.bytes.into_response(),
    };
    let texts = [(header::CONTENT_TYPE, &file.media_type), (header::ETAG, &file.tag)];
    for (name, text) in texts {
        let value = HeaderValue::from_str(text);
        response.headers_mut().insert(name, value.expect("a media type or a tag in ASCII"));
    }
    response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    with_policy(response)
}

pub(super) fn with_policy(mut response: Response) -> Response {
    for (name, value) in [
        ("content-security-policy", POLICY),
        ("x-content-type-options", "nosniff"),
        ("referrer-policy", "no-referrer"),
        ("cross-origin-resource-policy", "same-origin"),
        ("cross-origin-opener-policy", "same-origin"),
    ] {
        let value = HeaderValue::from_static(value);
        response.headers_mut().insert(HeaderName::from_static(name), value);
    }
    response
}

/// The token of the page's address, for a program that prints it; no page gets it.
async fn address(State(state): State<AppState>, headers: HeaderMap) -> Response {
    match state.operators.token_for(&headers) {
        Ok(token) => Json(PageToken { token }).into_response(),
        Err(why) => ApiError::forbidden(why).into_response(),
    }
}

/// `GET /admin/page`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PageToken {
    /// What a page has to send; `null` if this server allows none.
    pub token: Option<String>,
}

#[derive(Debug, Deserialize)]
struct Which {
    /// Only entries before this row.
    before: Option<u64>,
    limit: Option<usize>,
}

/// One entry of the ledger, in words.
#[derive(Debug, Serialize)]
struct Line {
    seq: u64,
    at_unix_ms: i64,
    rollout: String,
    #[serde(flatten)]
    summary: EntrySummary,
}

impl From<Kept> for Line {
    fn from(kept: Kept) -> Line {
        let summary = kept.entry.summary();
        Line { seq: kept.seq, at_unix_ms: kept.at_unix_ms, rollout: kept.rollout, summary }
    }
}

/// `GET /admin/ledger?before=ROW&limit=N`: the latest entries, oldest first; `null` without a ledger.
async fn entries(
    State(state): State<AppState>,
    Query(which): Query<Which>,
) -> Result<Json<Option<Vec<Line>>>, ApiError> {
    let Some(ledger) = state.gateway.control().ledger_path() else { return Ok(Json(None)) };
    let limit = which.limit.unwrap_or(ENTRIES).min(MOST_ENTRIES);
    let before = which.before.unwrap_or(u64::MAX);
    let read = move || Reader::open(&ledger)?.last(before, limit);
    let read = tokio::task::spawn_blocking(read).await;
    let kept = read.map_err(|error| ApiError::internal(&error))?;
    let kept = kept.map_err(|error| ApiError::internal(&error))?;
    Ok(Json(Some(kept.into_iter().map(Line::from).collect())))
}
