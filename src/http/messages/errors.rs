//! Errors in Anthropic's format, for all routes of this API.
//!
//! Handlers and layers create errors in the format of the other routes, and also store them in the response's
//! extensions. One layer around all routes, [`in_form`], rewrites the errors of this API's routes.

use super::models::asks;
use crate::http::generate::REQUEST_ID as SERIN_ID;
use crate::http::requests::RequestId;
use crate::http::status_codes::ErrorBody;
use axum::Json;
use axum::extract::Request;
use axum::http::{HeaderName, HeaderValue, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use schemars::JsonSchema;
use serde::Serialize;

/// The header by which this API names a request.
pub const REQUEST_ID: HeaderName = HeaderName::from_static("request-id");
/// The status by which it says that a server is too busy.
const OVERLOADED: u16 = 529;

/// An error's body.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "MessagesError")]
pub struct Body {
    #[serde(rename = "type")]
    kind: &'static str,
    error: Detail,
    request_id: String,
}

#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "MessagesErrorDetail")]
struct Detail {
    #[serde(rename = "type")]
    kind: &'static str,
    message: String,
}

/// The body of an error with this status.
pub fn body(status: StatusCode, error: &ErrorBody, request_id: &str) -> Body {
    let kind = kind(self::status(status, error));
    let error = Detail { kind, message: error.error.message.clone() };
    Body { kind: "error", error, request_id: request_id.to_owned() }
}

/// A server that is too busy, or starting, or stopping says so with a status of its own; 429 is left for limits of a
/// client.
fn status(status: StatusCode, error: &ErrorBody) -> StatusCode {
    let busy = error.error.code.as_deref() == Some("busy");
    match status {
        StatusCode::SERVICE_UNAVAILABLE => overloaded(),
        StatusCode::TOO_MANY_REQUESTS if busy => overloaded(),
        status => status,
    }
}

fn overloaded() -> StatusCode {
    StatusCode::from_u16(OVERLOADED).unwrap_or(StatusCode::SERVICE_UNAVAILABLE)
}

fn kind(status: StatusCode) -> &'static str {
    match status.as_u16() {
        401 => "authentication_error",
        402 => "billing_error",
        403 => "permission_error",
        404 => "not_found_error",
        413 => "request_too_large",
        429 => "rate_limit_error",
        408 | 504 => "timeout_error",
        OVERLOADED => "overloaded_error",
        400..=499 => "invalid_request_error",
        _ => "api_error",
    }
}

/// Whether a path is one of this API's.
fn covers(path: &str) -> bool {
    let path = path.strip_prefix("/v1").unwrap_or(path);
    path.strip_prefix("/messages").is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

/// Gives each answer of these routes a `request-id`, and errors their form; also on other routes, if a client of this
/// API asks.
pub async fn in_form(request: Request, next: Next) -> Response {
    if !covers(request.uri().path()) && !asks(request.headers()) {
        return next.run(request).await;
    }
    let asked = request.extensions().get::<RequestId>().cloned();
    let mut response = next.run(request).await;
    let own = response.headers().get(SERIN_ID).cloned();
    let id = match asked {
        Some(asked) if asked.given || own.is_none() => HeaderValue::from_str(&asked.id).ok(),
        _ => own,
    };
    let name = id.as_ref().and_then(|id| id.to_str().ok()).unwrap_or_default().to_owned();
    if let Some(error) = response.extensions_mut().remove::<ErrorBody>() {
        response = rewritten(response, &error, &name);
    }
    if let Some(id) = id {
        response.headers_mut().insert(REQUEST_ID, id);
    }
    response
}

fn rewritten(response: Response, error: &ErrorBody, id: &str) -> Response {
    let (mut head, _) = response.into_parts();
    let json = Json(body(head.status, error, id)).into_response();
    head.status = status(head.status, error);
    head.headers.remove(header::CONTENT_LENGTH);
    Response::from_parts(head, json.into_body())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::status_codes::ErrorDetail;

    fn error(code: &str) -> ErrorBody {
        let (message, kind) = ("why".to_owned(), "server_error".to_owned());
        ErrorBody { error: ErrorDetail { message, kind, param: None, code: Some(code.into()) } }
    }

    #[test]
    fn each_status_has_its_type() {
        for (given, code, status, kind) in [
            (400, "invalid_value", 400, "invalid_request_error"),
            (401, "invalid_api_key", 401, "authentication_error"),
            (403, "forbidden", 403, "permission_error"),
            (404, "model_not_found", 404, "not_found_error"),
            (405, "method_not_allowed", 405, "invalid_request_error"),
            (408, "timeout", 408, "timeout_error"),
            (413, "body_too_large", 413, "request_too_large"),
            (429, "busy", 529, "overloaded_error"),
            (429, "rate_limit", 429, "rate_limit_error"),
            (500, "model_error", 500, "api_error"),
            (503, "unavailable", 529, "overloaded_error"),
            (504, "timeout", 504, "timeout_error"),
        ] {
            let given = StatusCode::from_u16(given).expect("a status");
            let body = body(given, &error(code), "id");
            assert_eq!((body.error.kind, body.kind), (kind, "error"), "{code}");
            assert_eq!(super::status(given, &error(code)).as_u16(), status, "{code}");
        }
    }

    #[test]
    fn only_the_paths_of_this_api_are_covered() {
        for path in ["/v1/messages", "/messages", "/v1/messages/count_tokens", "/messages/x"] {
            assert!(covers(path), "{path}");
        }
        for path in ["/v1/messages2", "/v1/chat/completions", "/v1/responses", "/", "/v1"] {
            assert!(!covers(path), "{path}");
        }
    }
}
