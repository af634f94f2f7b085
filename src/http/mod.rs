//! The HTTP edge: an OpenAI-compatible API, probes, metrics and the operator's commands.
//!
//! [`app`] makes a router out of [`AppState`], to be called with `oneshot` in tests and served by
//! [`serve()`]. Reading order: `wire` (what clients write and read), `generate` with `replies`,
//! `chunks` and `whole` (a request's way to its answer), `error` (the only place that knows which
//! error has which status), `models`, `tokens`, `feedback`, `probes` with `gauges`, then `admin` with
//! [`admin_wire`] and `events`, then `serve` (sockets and their bounds).
//!
//! Knows the gateway and the control room by their public types and nothing of what lies behind
//! them. Wire types live here and go no further in.

mod admin;
pub mod admin_wire;
mod body;
mod chunks;
mod error;
mod events;
mod feedback;
mod gauges;
mod generate;
mod models;
mod probes;
mod replies;
mod serve;
mod tokens;
mod whole;
mod wire;

pub use admin::AdminPolicy;
pub use error::{ErrorBody, ErrorDetail};
pub use serve::{Bounds, Peer, Spare, serve};

use crate::gateway::Gateway;
use axum::Router;
use axum::extract::Request;
use axum::http::{Method, Uri};
use axum::middleware::{Next, from_fn};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use error::ApiError;
use metrics_exporter_prometheus::PrometheusHandle;
use std::time::{SystemTime, UNIX_EPOCH};

/// What handlers share.
#[derive(Clone)]
pub struct AppState {
    /// Where requests go.
    pub gateway: Gateway,
    /// Renders the metrics, if they are recorded at all.
    pub metrics: Option<PrometheusHandle>,
    /// Longest request body in bytes.
    pub body_limit: usize,
    /// Who may operate.
    pub admin: AdminPolicy,
}

/// The whole API.
pub fn app(state: AppState) -> Router {
    let care = Router::new()
        .route("/livez", get(probes::live))
        .route("/readyz", get(probes::ready))
        .route("/health", get(probes::ready))
        .route("/version", get(probes::version))
        .route("/metrics", get(probes::metrics));
    Router::new()
        .route("/v1/chat/completions", post(generate::chat))
        .route("/v1/completions", post(generate::completion))
        .route("/v1/models", get(models::list))
        .route("/v1/models/{*id}", get(models::one))
        .route("/v1/feedback", post(feedback::record))
        .route("/tokenize", post(tokens::tokenize))
        .route("/detokenize", post(tokens::detokenize))
        .layer(from_fn(full))
        .merge(care)
        .merge(admin::routes(&state))
        .fallback(async |method: Method, uri: Uri| ApiError::no_route(method.as_str(), uri.path()))
        .method_not_allowed_fallback(async |method: Method, uri: Uri| {
            ApiError::bad_method(method.as_str(), uri.path())
        })
        .with_state(state)
}

/// Turns away what comes on a connection beyond the bound, so that probes and operators get through.
async fn full(request: Request, next: Next) -> Response {
    match request.extensions().get::<Spare>() {
        None => next.run(request).await,
        Some(Spare) => ApiError::full().into_response(),
    }
}

/// Seconds since 1970.
fn unix_now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}
