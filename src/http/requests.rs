//! Middleware around every request: its id, and its log line if enabled.
//!
//! A client's `x-request-id` is used if it is valid, and every response has one. The log line says who called which
//! route, and the result. It never contains prompts, replies, keys or values of headers.

use super::authorize::Route;
use super::bodies::until_sent;
use super::caller::{Spent, Verified};
use super::generate::{ARM, REQUEST_ID};
use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode};
use axum::middleware::Next;
use axum::response::Response;
use std::time::Instant;
use tracing::Instrument;

/// Longest id that is taken from a client.
const MAX_ID: usize = 128;

/// Gives every response an id, and the log a line for every request if `log` is set.
pub async fn follow(State(log): State<bool>, mut request: Request, next: Next) -> Response {
    let given = given_id(request.headers());
    let own = given.clone().unwrap_or_else(|| format!("req-{}", uuid::Uuid::new_v4().simple()));
    let spent = Spent::default();
    request.extensions_mut().insert(spent.clone());
    request.extensions_mut().insert(RequestId { id: own.clone(), given: given.is_some() });
    let mut line = log.then(|| Line::begin(&own, request.method(), spent));
    // Whatever is logged about the request meanwhile carries its id.
    let span = tracing::info_span!("request", id = %own);
    let mut response = next.run(request).instrument(span).await;
    let headers = response.headers_mut();
    let missing = !headers.contains_key(REQUEST_ID);
    if (given.is_some() || missing)
        && let Ok(id) = HeaderValue::from_str(&own)
    {
        headers.insert(REQUEST_ID, id);
    }
    let Some(mut line) = line.take() else { return response };
    line.answered(&response);
    until_sent(response, line)
}

/// The id of a request. If it is not the client's, an answer that has an id of its own has that one instead.
#[derive(Debug, Clone)]
pub(super) struct RequestId {
    pub id: String,
    pub given: bool,
}

/// The client's id of a request, if it is short and of plain characters.
fn given_id(headers: &HeaderMap) -> Option<String> {
    let plain =
        |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.' | b':');
    let given = headers.get(REQUEST_ID)?.as_bytes();
    let sound = (1..=MAX_ID).contains(&given.len()) && given.iter().all(|byte| plain(*byte));
    sound.then(|| String::from_utf8_lossy(given).into_owned())
}

/// What the log says of one request; written when the response has been sent, or the client has left.
struct Line {
    id: String,
    method: Method,
    started: Instant,
    spent: Spent,
    answer: Option<Answer>,
}

struct Answer {
    route: String,
    status: StatusCode,
    arm: String,
    key: Option<String>,
    headers_ms: u64,
}

impl Line {
    fn begin(id: &str, method: &Method, spent: Spent) -> Line {
        let (id, method) = (id.to_owned(), method.clone());
        Line { id, method, started: Instant::now(), spent, answer: None }
    }

    fn answered(&mut self, response: &Response) {
        if let Some(id) = response.headers().get(REQUEST_ID) {
            self.id = String::from_utf8_lossy(id.as_bytes()).into_owned();
        }
        let arm = response.headers().get(ARM).map(|arm| arm.as_bytes()).unwrap_or_default();
        let extensions = response.extensions();
        self.answer = Some(Answer {
            route: extensions.get::<Route>().map(|route| route.0.clone()).unwrap_or_default(),
            status: response.status(),
            arm: String::from_utf8_lossy(arm).into_owned(),
            key: extensions.get::<Verified>().map(|verified| verified.0.id.to_string()),
            headers_ms: self.started.elapsed().as_millis() as u64,
        });
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        let Line { id, method, spent, answer, .. } = self;
        let total_ms = self.started.elapsed().as_millis() as u64;
        let (prompt_tokens, completion_tokens) = spent.tokens().unzip();
        match answer {
            Some(Answer { route, status, arm, key, headers_ms }) => tracing::info!(
                target: "serin::requests",
                id = %id, %method, %route, status = status.as_u16(), %arm, key = key.as_deref(), prompt_tokens,
                completion_tokens, headers_ms = *headers_ms, total_ms, "request"
            ),
            None => tracing::info!(
                target: "serin::requests",
                id = %id, %method, prompt_tokens, completion_tokens, total_ms, "request: the client left"
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_short_and_plain() {
        let id = |value: &[u8]| {
            let value = HeaderValue::from_bytes(value).unwrap();
            given_id(&HeaderMap::from_iter([(REQUEST_ID, value)]))
        };
        let longest = "x".repeat(MAX_ID);
        for good in ["a", "req_1-2.3:4", longest.as_str()] {
            assert_eq!(id(good.as_bytes()).as_deref(), Some(good));
        }
        let too_long = "x".repeat(MAX_ID + 1);
        for bad in ["", "a b", "a\"b", "<x>", "ü", too_long.as_str()] {
            assert_eq!(id(bad.as_bytes()), None, "{bad}");
        }
    }
}
