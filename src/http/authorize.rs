//! Checks API keys: one table says which scope each route of both listeners needs, and one middleware enforces it.
//!
//! A route without a row is closed, so a route that is added later is not open by accident. An unknown path is a 404,
//! with or without a key. Limits per key are applied here too: a request that exceeds one is refused before it costs
//! anything, and the usage of an admitted request is charged when its response has been sent.

use super::bodies::{refuse, until_sent};
use super::caller::{Spent, Verified};
use super::status_codes::ApiError;
use crate::access::{Access, Allowance, Key, Scope, Share};
use axum::extract::{MatchedPath, Request, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};
use axum::middleware::Next;
use axum::response::Response;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// What a route needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Needs {
    /// No key.
    Nothing,
    /// A key with this scope, if keys are asked for.
    Key(Scope),
}

use Needs::Nothing;
const INFERENCE: Needs = Needs::Key(Scope::Inference);
const METRICS: Needs = Needs::Key(Scope::Metrics);
const ADMIN: Needs = Needs::Key(Scope::Admin);

/// Rows of inference routes that are also below `/v1`, then other rows.
macro_rules! with_v1 {
    ($($path:literal),* $(,)?; $($row:expr),* $(,)?) => {
        &[$(($path, INFERENCE), (concat!("/v1", $path), INFERENCE),)* $($row),*]
    };
}

/// The routes of the clients' listener.
pub const CLIENTS: &[(&str, Needs)] = with_v1![
    "/audio/{*rest}",
    "/batches",
    "/batches/{*rest}",
    "/chat/completions",
    "/complete",
    "/completions",
    "/conversations",
    "/conversations/{*rest}",
    "/embedding",
    "/embeddings",
    "/files",
    "/files/{*rest}",
    "/images/{*rest}",
    "/infill",
    "/messages",
    "/messages/batches",
    "/messages/batches/{*rest}",
    "/messages/count_tokens",
    "/models",
    "/models/{*id}",
    "/moderations",
    "/rerank",
    "/reranking",
    "/responses",
    "/responses/compact",
    "/responses/input_tokens",
    "/responses/{id}",
    "/responses/{id}/cancel",
    "/responses/{id}/input_items",
    "/uploads",
    "/uploads/{*rest}",
    "/vector_stores",
    "/vector_stores/{*rest}",
    ;
    ("/", INFERENCE),
    ("/apply-template", INFERENCE),
    ("/detokenize", INFERENCE),
    ("/docs", INFERENCE),
    ("/health", Nothing),
    ("/livez", Nothing),
    ("/metrics", METRICS),
    ("/openapi.json", INFERENCE),
    ("/readyz", Nothing),
    ("/tokenize", INFERENCE),
    ("/v1/feedback", INFERENCE),
    ("/v2/rerank", INFERENCE),
    ("/version", INFERENCE),
];

/// The routes of the operators' listener, for requests that do not come from this machine.
pub const OPERATORS: &[(&str, Needs)] = &[
    // The page's files hold nothing; all that they show is behind the routes below.
    ("/", Nothing),
    ("/admin/ask", ADMIN),
    ("/admin/canary/load", ADMIN),
    ("/admin/confirm", ADMIN),
    ("/admin/events", ADMIN),
    ("/admin/ledger", ADMIN),
    ("/admin/live", ADMIN),
    ("/admin/page", ADMIN),
    ("/admin/pause", ADMIN),
    ("/admin/promote", ADMIN),
    ("/admin/resume", ADMIN),
    ("/admin/rollback", ADMIN),
    ("/admin/self-test", ADMIN),
    ("/admin/status", ADMIN),
    ("/admin/undo", ADMIN),
    ("/admin/weight", ADMIN),
    ("/health", Nothing),
    ("/livez", Nothing),
    ("/metrics", METRICS),
    ("/readyz", Nothing),
    ("/ui", Nothing),
    ("/ui/{*name}", Nothing),
    ("/version", ADMIN),
];

/// The header in which Anthropic's clients send a key.
const X_API_KEY: HeaderName = HeaderName::from_static("x-api-key");

/// The route of a request, for the log; of a response.
#[derive(Debug, Clone)]
pub struct Route(pub String);

/// Whether a route is open to a request: to the owner of the key that is returned, or to anybody. Fails if it is closed
/// to it.
pub fn check(
    access: &Access,
    table: &[(&str, Needs)],
    route: Option<&str>,
    headers: &HeaderMap,
    unix_now: u64,
) -> Result<Option<Arc<Key>>, ApiError> {
    let Some(route) = route else { return Ok(None) };
    let scope = match table.iter().find(|(path, _)| *path == route) {
        Some((_, Nothing)) => return Ok(None),
        Some((_, Needs::Key(scope))) => *scope,
        None => return Err(ApiError::forbidden("This route is closed: nobody may use it.")),
    };
    let shown: Vec<&[u8]> = shown(headers).collect();
    let now = i64::try_from(unix_now).unwrap_or(i64::MAX);
    match shown.iter().find_map(|secret| access.identify(secret, now)) {
        Some(key) if key.may(scope) => Ok(Some(key)),
        Some(_) => Err(ApiError::lacks_scope(scope)),
        None => Err(ApiError::unauthorized(!shown.is_empty())),
    }
}

/// The secrets that a request shows.
pub(super) fn shown(headers: &HeaderMap) -> impl Iterator<Item = &[u8]> {
    let bearer = headers.get_all(header::AUTHORIZATION).iter().filter_map(|value| {
        let (scheme, secret) = value.as_bytes().split_at_checked(b"Bearer ".len())?;
        scheme.eq_ignore_ascii_case(b"Bearer ").then_some(secret)
    });
    let plain = headers.get_all(X_API_KEY).iter().map(HeaderValue::as_bytes);
    bearer.chain(plain).map(<[u8]>::trim_ascii)
}

/// The check around the clients' routes.
pub async fn clients(State(access): State<Access>, mut request: Request, next: Next) -> Response {
    let route = request.extensions().get::<MatchedPath>().map(|path| path.as_str().to_owned());
    let noted = |mut response: Response| {
        response.extensions_mut().insert(Route(route.clone().unwrap_or_default()));
        response
    };
    if !access.asks() {
        return noted(next.run(request).await);
    }
    let headers = request.headers();
    match check(&access, CLIENTS, route.as_deref(), headers, super::unix_now()) {
        Err(error) => noted(refuse(request, error).await),
        Ok(None) => noted(next.run(request).await),
        Ok(Some(key)) => {
            request.extensions_mut().insert(Verified(key.clone()));
            let limited = key.limits.any() && key.may(Scope::Inference);
            let mut response = match limited {
                true => within_limits(&access, &key, request, next).await,
                false => next.run(request).await,
            };
            response.extensions_mut().insert(Verified(key));
            noted(response)
        }
    }
}

/// Runs a request if its key's limits allow it; charges it in the end.
async fn within_limits(access: &Access, key: &Arc<Key>, request: Request, next: Next) -> Response {
    let counts = request.method() == Method::POST;
    if counts && let Err(exceeded) = access.admit(key, Instant::now()) {
        let allowance = access.allowance(key, Instant::now());
        let mut response = refuse(request, ApiError::exceeded(&exceeded)).await;
        insert_limits(response.headers_mut(), &allowance);
        return response;
    }
    let spent = request.extensions().get::<Spent>().cloned().unwrap_or_default();
    let charge =
        counts.then(|| Charge { access: access.clone(), key: key.clone(), spent, refused: false });
    let allowance = access.allowance(key, Instant::now());
    let mut response = next.run(request).await;
    insert_limits(response.headers_mut(), &allowance);
    let Some(mut charge) = charge else { return response };
    let busy = [StatusCode::TOO_MANY_REQUESTS, StatusCode::SERVICE_UNAVAILABLE];
    charge.refused = busy.contains(&response.status());
    until_sent(response, charge)
}

/// Charges an admitted request when it is dropped.
struct Charge {
    access: Access,
    key: Arc<Key>,
    spent: Spent,
    /// For lack of room: then it costs nothing.
    refused: bool,
}

impl Drop for Charge {
    fn drop(&mut self) {
        match self.refused {
            true => self.access.undo(&self.key),
            false => {
                let (prompt, completion) = self.spent.tokens().unwrap_or_default();
                self.access.end(&self.key, prompt + completion);
            }
        }
    }
}

/// OpenAI's headers about limits.
fn insert_limits(headers: &mut HeaderMap, allowance: &Allowance) {
    let Allowance { requests, tokens } = allowance;
    let mut put = |name: [HeaderName; 3], share: &Option<Share>| {
        let Some(share) = share else { return };
        let texts = [share.limit.to_string(), share.remaining.to_string(), span(share.reset)];
        for (name, text) in name.into_iter().zip(texts) {
            if let Ok(value) = HeaderValue::from_str(&text) {
                headers.insert(name, value);
            }
        }
    };
    let [limit, remaining, reset] = LIMIT_HEADERS;
    put([limit.0, remaining.0, reset.0].map(HeaderName::from_static), requests);
    put([limit.1, remaining.1, reset.1].map(HeaderName::from_static), tokens);
}

/// The names of those headers, for requests and for tokens.
pub const LIMIT_HEADERS: [(&str, &str); 3] = [
    ("x-ratelimit-limit-requests", "x-ratelimit-limit-tokens"),
    ("x-ratelimit-remaining-requests", "x-ratelimit-remaining-tokens"),
    ("x-ratelimit-reset-requests", "x-ratelimit-reset-tokens"),
];

/// A time as OpenAI writes it: `120ms`, `2s`, `1m30s`.
fn span(time: Duration) -> String {
    let millis = time.as_nanos().div_ceil(1_000_000);
    let (minutes, rest) = (millis / 60_000, millis % 60_000);
    let seconds = |rest: u128| match rest % 1000 {
        0 => format!("{}s", rest / 1000),
        _ => format!("{}s", format!("{:.3}", rest as f64 / 1000.0).trim_end_matches('0')),
    };
    match (minutes, rest) {
        (0, 0) => "0s".to_owned(),
        (0, rest) if rest < 1000 => format!("{rest}ms"),
        (0, rest) => seconds(rest),
        (minutes, rest) => format!("{minutes}m{}", seconds(rest)),
    }
}

#[cfg(test)]
mod tests;
