//! The only place that maps errors to HTTP statuses and to the public API's error format.
//!
//! Each layer has its own errors with their texts (`serving/error.rs`, `http/wire/error.rs`, `control/error.rs`), and
//! none of them knows about HTTP. Here each variant gets its status, type, `param` and `code`. A message is passed on
//! only if it is meant for the client. `Retry-After` is set only on errors for which waiting helps. It is exact if the
//! time is known. Otherwise it has jitter, because public client libraries would all retry at once.

use super::wire::WireError;
use crate::access::{Exceeded, Scope};
use crate::control::ControlError;
use crate::serving::GatewayError;
use axum::Json;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

const INVALID: &str = "invalid_request_error";
const SERVER: &str = "server_error";

/// An error as a client sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ApiError {
    status: StatusCode,
    retry: Retry,
    /// The client is asked to show a key.
    challenge: bool,
    /// The connection is closed after it.
    last: bool,
    detail: ErrorDetail,
}

/// What a request calls the things that an error of its generation may be about.
#[derive(Debug, Clone, Default)]
pub struct Names {
    /// The field that holds the prompt.
    pub prompt: &'static str,
    /// Where in the request each message of the chat stands; empty if it holds the chat itself.
    pub places: Vec<String>,
}

/// Whether, and when, the same request may succeed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Retry {
    Never,
    /// In a moment; nobody knows when.
    Soon,
    /// After so many seconds.
    After(u64),
}

/// The body of every error answer: `{"error": {..}}`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ErrorBody {
    /// What went wrong.
    pub error: ErrorDetail,
}

/// What went wrong, in the public API's four fields.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ErrorDetail {
    /// A message for people.
    pub message: String,
    /// The class of error.
    #[serde(rename = "type")]
    pub kind: String,
    /// The field at fault, if one is.
    pub param: Option<String>,
    /// A code for programs.
    pub code: Option<String>,
}

impl ApiError {
    fn new(status: StatusCode, kind: &str, message: impl ToString) -> ApiError {
        let (message, kind) = (message.to_string(), kind.to_owned());
        let detail = ErrorDetail { message, kind, param: None, code: None };
        ApiError { status, retry: Retry::Never, challenge: false, last: false, detail }
    }

    fn code(mut self, code: &str) -> ApiError {
        self.detail.code = Some(code.to_owned());
        self
    }

    fn param(mut self, param: impl Into<String>) -> ApiError {
        self.detail.param = Some(param.into());
        self
    }

    fn retry(self) -> ApiError {
        ApiError { retry: Retry::Soon, ..self }
    }

    fn last(self) -> ApiError {
        ApiError { last: true, ..self }
    }

    /// An error of a generation. A message at fault is named by its place in the request.
    pub fn named(error: &GatewayError, names: &Names) -> ApiError {
        let mut named = ApiError::gateway(error, names.prompt);
        let message = &mut named.detail.message;
        // The text layer counts the messages of the chat that it was given.
        let counted = message.strip_prefix("messages[").and_then(|rest| rest.split_once(']'));
        let place = counted.and_then(|(index, rest)| {
            Some((names.places.get(index.parse::<usize>().ok()?)?, rest))
        });
        if let Some((place, rest)) = place {
            *message = format!("{place}{rest}");
        }
        named
    }

    /// An error of a generation; `prompt` names the field with the prompt.
    pub fn gateway(error: &GatewayError, prompt: &str) -> ApiError {
        let new = |status, kind| ApiError::new(status, kind, error);
        let bad = || new(StatusCode::BAD_REQUEST, INVALID);
        match error {
            GatewayError::Invalid { param, .. } => {
                let param = if *param == "messages" { prompt } else { param };
                bad().param(param)
            }
            GatewayError::Untaken(_) => bad().param(prompt).code("unsupported_conversation"),
            GatewayError::ContextLength { .. } => {
                bad().param(prompt).code("context_length_exceeded")
            }
            GatewayError::NoCanary => {
                new(StatusCode::NOT_FOUND, INVALID).param("model").code("model_not_found")
            }
            GatewayError::Busy { .. } => {
                new(StatusCode::TOO_MANY_REQUESTS, "rate_limit_error").code("busy").retry()
            }
            GatewayError::Unavailable(_) => {
                new(StatusCode::SERVICE_UNAVAILABLE, SERVER).code("unavailable").retry()
            }
            GatewayError::Model(_) => {
                new(StatusCode::INTERNAL_SERVER_ERROR, SERVER).code("model_error")
            }
            // Waiting does not help a reply that is too long for the server's deadlines.
            GatewayError::Timeout { .. } => {
                new(StatusCode::GATEWAY_TIMEOUT, SERVER).code("timeout")
            }
        }
    }

    /// The server is alive but cannot answer requests.
    pub fn not_ready(reason: &str) -> ApiError {
        ApiError::new(StatusCode::SERVICE_UNAVAILABLE, SERVER, reason).code("unavailable").retry()
    }

    /// All connections are in use.
    pub fn full() -> ApiError {
        let reason = "All connections of this server are in use; try again in a moment.";
        let full = ApiError::new(StatusCode::SERVICE_UNAVAILABLE, SERVER, reason);
        full.code("too_busy").retry().last()
    }

    /// The server is shutting down.
    pub fn stopping() -> ApiError {
        let reason = "This server is shutting down; try again in a moment.";
        ApiError::new(StatusCode::SERVICE_UNAVAILABLE, SERVER, reason).code("shutting_down").retry()
    }

    /// A request to a route that is closed to the caller.
    pub fn forbidden(reason: &str) -> ApiError {
        ApiError::new(StatusCode::FORBIDDEN, "permission_error", reason).code("forbidden")
    }

    /// A request without a valid key; `wrong`: it shows one that is not valid.
    pub fn unauthorized(wrong: bool) -> ApiError {
        let text = match wrong {
            // Clients such as litellm tell this error from other invalid requests by OpenAI's first words.
            true => "Incorrect API key provided: it is unknown, revoked or expired.",
            false => {
                "This server needs an API key: set the header `Authorization: Bearer KEY` or `x-api-key: KEY`."
            }
        };
        let error = ApiError::new(StatusCode::UNAUTHORIZED, INVALID, text).code("invalid_api_key");
        ApiError { challenge: true, ..error }
    }

    /// A request with a key that is not for this.
    pub fn lacks_scope(scope: Scope) -> ApiError {
        let text =
            format!("This API key does not have the scope \"{scope}\", which this route needs.");
        ApiError::new(StatusCode::FORBIDDEN, "permission_error", text).code("missing_scope")
    }

    /// A request that exceeds a limit of its key.
    pub fn exceeded(exceeded: &Exceeded) -> ApiError {
        let seconds = exceeded.wait().as_nanos().div_ceil(1_000_000_000).max(1);
        let seconds = u64::try_from(seconds).unwrap_or(u64::MAX);
        let (kind, what) = match exceeded {
            Exceeded::Requests { limit, .. } => {
                ("requests", format!("{limit} requests per minute"))
            }
            Exceeded::Tokens { limit, .. } => ("tokens", format!("{limit} tokens per minute")),
            Exceeded::Concurrency { limit } => ("requests", format!("{limit} requests at a time")),
        };
        let text =
            format!("This API key has reached its limit of {what}; try again in {seconds} s.");
        let error = ApiError::new(StatusCode::TOO_MANY_REQUESTS, kind, text);
        ApiError { retry: Retry::After(seconds), ..error.code("rate_limit_exceeded") }
    }

    /// A body with a content coding.
    pub fn encoded(coding: &str) -> ApiError {
        let text = format!(
            "Bodies with the content coding '{coding}' are not accepted: send the JSON as it is, without content-encoding."
        );
        let error = ApiError::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, INVALID, text);
        error.code("unsupported_encoding")
    }

    /// An unexpected error; its details go to the log and not to the client.
    pub fn internal(what: &dyn std::fmt::Display) -> ApiError {
        tracing::error!(%what, "a request failed inside the server");
        let text = "The server failed on this request.";
        ApiError::new(StatusCode::INTERNAL_SERVER_ERROR, SERVER, text).code("internal_error")
    }

    /// The answer to a request for an unknown path.
    pub fn no_route(method: &str, path: &str) -> ApiError {
        let text = format!("Unknown request URL: {method} {path}.");
        ApiError::new(StatusCode::NOT_FOUND, INVALID, text).code("unknown_url")
    }

    /// A response that is asked for by its id.
    pub fn not_stored(id: &str) -> ApiError {
        let text = format!(
            "There is no response '{id}': nothing is stored here. Keep the answer to the request that made it."
        );
        ApiError::new(StatusCode::NOT_FOUND, INVALID, text).param("id").code("not_found")
    }

    /// A route of the public API that this server does not have.
    pub fn not_available(path: &str, what: &str) -> ApiError {
        let text = format!("{path} is not available: {what}.");
        ApiError::new(StatusCode::NOT_IMPLEMENTED, INVALID, text).code("not_available")
    }

    /// A path for operators, on the clients' listener.
    pub fn operators_elsewhere(path: &str) -> ApiError {
        let text = format!(
            "{path} is not on this listener: operators have their own. `serin serve` prints its address at \
             startup (operator.listen; default: http://127.0.0.1:8081)."
        );
        ApiError::new(StatusCode::NOT_FOUND, INVALID, text).code("unknown_url")
    }

    /// A request from a web page that is not marked as JSON.
    pub fn not_json() -> ApiError {
        let text =
            "Requests from web pages must be JSON: set the header content-type: application/json.";
        ApiError::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, INVALID, text).code("not_json").last()
    }

    /// A preflight on a server that is not open to web pages of other origins.
    pub fn no_pages(path: &str) -> ApiError {
        let text = format!(
            "{path} is not open to web pages of other origins: the server's operator can allow them with \
             server.cors_origins."
        );
        ApiError::new(StatusCode::METHOD_NOT_ALLOWED, INVALID, text).code("cors_not_allowed")
    }

    /// A path that does not support this method.
    pub fn bad_method(method: &str, path: &str) -> ApiError {
        let text = format!("{path} does not accept {method} requests.");
        ApiError::new(StatusCode::METHOD_NOT_ALLOWED, INVALID, text).code("method_not_allowed")
    }

    /// The HTTP status.
    pub fn status(&self) -> StatusCode {
        self.status
    }

    /// The response body.
    pub fn body(&self) -> ErrorBody {
        ErrorBody { error: self.detail.clone() }
    }
}

impl From<WireError> for ApiError {
    fn from(error: WireError) -> ApiError {
        let new = |status| ApiError::new(status, INVALID, &error);
        let bad = || new(StatusCode::BAD_REQUEST);
        match &error {
            WireError::Malformed { .. } => bad().code("invalid_json"),
            WireError::Broken => bad().code("incomplete_body"),
            WireError::TooLarge { .. } => {
                new(StatusCode::PAYLOAD_TOO_LARGE).code("body_too_large").last()
            }
            WireError::Slow { .. } => new(StatusCode::REQUEST_TIMEOUT).code("timeout").last(),
            WireError::Crowded => {
                let crowded = ApiError::new(StatusCode::SERVICE_UNAVAILABLE, SERVER, &error);
                crowded.code("too_busy").retry().last()
            }
            WireError::Missing { param } => bad().param(param).code("missing_required_parameter"),
            WireError::WrongType { param, .. } => bad().param(param).code("invalid_type"),
            WireError::BadValue { param, .. } => bad().param(param).code("invalid_value"),
            WireError::Unsupported { param, .. } => bad().param(param).code("unsupported_value"),
            WireError::UnknownModel { .. } => {
                new(StatusCode::NOT_FOUND).param("model").code("model_not_found")
            }
        }
    }
}

impl From<ControlError> for ApiError {
    fn from(error: ControlError) -> ApiError {
        let new = |status| ApiError::new(status, INVALID, &error);
        let conflict = |code| new(StatusCode::CONFLICT).code(code);
        match &error {
            ControlError::NoCanary => conflict("no_canary"),
            ControlError::CanaryPresent { .. } => conflict("canary_present"),
            ControlError::Loading => conflict("loading").retry(),
            ControlError::Resuming => conflict("resuming").retry(),
            ControlError::Less(_) => conflict("canary_does_less").param("allow"),
            ControlError::NothingRead => conflict("nothing_is_read").param("expect"),
            ControlError::NoStable => conflict("no_stable"),
            ControlError::NoPrevious => conflict("no_previous"),
            ControlError::NoRevision { .. } => {
                new(StatusCode::PRECONDITION_REQUIRED).param("expect").code("revision_required")
            }
            ControlError::Stale { .. } => {
                new(StatusCode::PRECONDITION_FAILED).param("expect").code("stale_revision")
            }
            ControlError::NotDurable { .. } => {
                ApiError::new(StatusCode::ACCEPTED, SERVER, &error).code("not_durable")
            }
            ControlError::Refused(_) => conflict("refused"),
            ControlError::Load(_) => new(StatusCode::BAD_REQUEST).param("path").code("load_failed"),
            ControlError::UnknownCompletion => {
                new(StatusCode::NOT_FOUND).param("id").code("unknown_completion")
            }
            ControlError::BadFeedback(_) => {
                new(StatusCode::BAD_REQUEST).param("value").code("invalid_value")
            }
            ControlError::Engine(_) => {
                ApiError::new(StatusCode::INTERNAL_SERVER_ERROR, SERVER, &error).code("engine")
            }
        }
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let mut response = (self.status, Json(self.body())).into_response();
        // For routes with an error format of their own.
        response.extensions_mut().insert(self.body());
        if self.last {
            response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
        }
        let after = match self.retry {
            Retry::Never => None,
            Retry::Soon => Some(u64::from(retry_after(uuid::Uuid::new_v4().as_u128()))),
            Retry::After(seconds) => Some(seconds),
        };
        if let Some(after) = after {
            response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(after));
        }
        if self.challenge {
            let bearer = HeaderValue::from_static("Bearer realm=\"serin\"");
            response.headers_mut().insert(header::WWW_AUTHENTICATE, bearer);
        }
        response
    }
}

/// 1 to 3 seconds, by a random number of any distribution that fills the low bits.
fn retry_after(draw: u128) -> u16 {
    1 + (draw % 3) as u16
}

#[cfg(test)]
mod tests;
