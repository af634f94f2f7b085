//! Responses with server-sent events (WHATWG HTML, section 9.2). It does not know their content.

use axum::body::{Body, Bytes};
use axum::http::{HeaderValue, header};
use axum::response::{IntoResponse, Response};
use futures_util::Stream;
use serde::Serialize;
use std::convert::Infallible;

/// Sends the texts as they come, each a whole event.
pub fn response(
    events: impl Stream<Item = Result<Bytes, Infallible>> + Send + 'static,
) -> Response {
    let mut response = Body::from_stream(events).into_response();
    let headers = response.headers_mut();
    headers
        .insert(header::CONTENT_TYPE, HeaderValue::from_static("text/event-stream; charset=utf-8"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    response
}

/// Appends an event with this name, if it has one, and a value as its data.
pub fn write(out: &mut String, name: Option<&str>, value: &impl Serialize) {
    match serde_json::to_string(value) {
        Ok(json) => {
            if let Some(name) = name {
                out.extend(["event: ", name, "\n"]);
            }
            out.extend(["data: ", &json, "\n\n"]);
        }
        Err(error) => unwritten(&error),
    }
}

/// Reports an event that has no form as JSON; the stream goes on without it.
pub fn unwritten(error: &serde_json::Error) {
    tracing::error!(%error, "an event could not be written");
}
