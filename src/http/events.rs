//! `GET /admin/events`: the rollout's events as server-sent events.
//!
//! A listener that reconnects sends the id of the last event it received (`Last-Event-ID`), and gets the
//! later events that are still kept. A listener that is too slow is told how many events it missed, and
//! continues. The stream ends with the server.

use super::{AppState, Lifecycle, Phase, sse};
use crate::control::{Listener, Note};
use axum::Extension;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::{HeaderMap, HeaderName};
use axum::response::Response;
use futures_util::StreamExt;
use serde_json::json;
use std::collections::VecDeque;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::broadcast::Receiver;
use tokio::sync::broadcast::error::RecvError;

const LAST_EVENT_ID: HeaderName = HeaderName::from_static("last-event-id");
/// How long the stream may be silent.
const PATIENCE: Duration = Duration::from_secs(10);

pub(super) async fn stream(
    State(state): State<AppState>,
    lifecycle: Option<Extension<Lifecycle>>,
    headers: HeaderMap,
) -> Response {
    let seen = headers.get(LAST_EVENT_ID).and_then(|id| id.to_str().ok());
    // Without an id, a new listener gets the few events that are kept, and everything from now on.
    let seen = seen.and_then(|id| id.parse().ok()).unwrap_or(0);
    let Listener { earlier, later } = state.gateway.control().listen(seen);
    let feed = (VecDeque::from(earlier), later);
    let events = futures_util::stream::unfold(feed, async |(mut earlier, mut later)| {
        let text = match earlier.pop_front() {
            Some(note) => event(&note),
            None => next(&mut later).await?,
        };
        Some((Ok::<Bytes, Infallible>(text.into()), (earlier, later)))
    });
    let lifecycle = lifecycle.map(|lifecycle| lifecycle.0).unwrap_or_default();
    let events = events.take_until(async move { lifecycle.reached(Phase::CutOff).await });
    sse::response(events)
}

/// The next event to send; nothing if the server is shutting down.
async fn next(later: &mut Receiver<Arc<Note>>) -> Option<String> {
    match tokio::time::timeout(PATIENCE, later.recv()).await {
        Err(_) => Some(": keep-alive\n\n".to_owned()),
        Ok(Ok(note)) => Some(event(&note)),
        Ok(Err(RecvError::Lagged(missed))) => {
            Some(format!("event: missed\ndata: {}\n\n", json!({"missed": missed})))
        }
        Ok(Err(RecvError::Closed)) => None,
    }
}

fn event(note: &Arc<Note>) -> String {
    let Note { id, at_unix_ms, kind, body } = &**note;
    let data = format!(r#"{{"id":{id},"at_unix_ms":{at_unix_ms},"event":"{kind}","body":{body}}}"#);
    format!("id: {id}\nevent: {kind}\ndata: {data}\n\n")
}
