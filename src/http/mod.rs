//! The HTTP edge: an OpenAI-compatible API, probes, metrics and the operator's commands.
//!
//! [`client_app`] and [`operator_app`] make routers out of [`AppState`], to be called with `oneshot` in tests
//! and served by [`serve()`]. Reading order: `wire` (what clients write and read), `generate` with `replies`,
//! `chunks` and `whole` (a request's way to its answer), `error` (the only place that knows which error has
//! which status), `models`, `tokens`, `feedback`, `probes` with `gauges`, then `operators` (who may operate),
//! `admin` with [`orders`] and `events`, `cors` (web pages), then `sockets` (and their bounds) and
//! `lifecycle` (the phases of the end).
//!
//! Knows the gateway and the control room by their public types and nothing of what lies behind
//! them. Wire types live here and go no further in.

mod admin;
mod body;
mod chunks;
mod cors;
mod error;
mod events;
mod feedback;
mod gauges;
mod generate;
mod lifecycle;
mod models;
mod operators;
pub mod orders;
mod probes;
mod replies;
mod sockets;
mod tokens;
mod whole;
mod wire;

pub use body::Intake;
pub use error::{ErrorBody, ErrorDetail};
pub use lifecycle::{Lifecycle, Phase};
pub use operators::Operators;
pub use sockets::{Bounds, Peer, Spare, serve};

use crate::serving::{Gateway, GenerateRequest, Limits};
use axum::Router;
use axum::extract::Request;
use axum::http::{Method, Uri, header};
use axum::middleware::{Next, from_fn, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use error::ApiError;
use metrics_exporter_prometheus::PrometheusHandle;
use std::time::{Instant, SystemTime, UNIX_EPOCH};
use tower::Layer;
use wire::common::{Envelope, Rules};
use wire::fields::Fields;

/// What handlers share.
#[derive(Clone)]
pub struct AppState {
    /// Where requests go.
    pub gateway: Gateway,
    /// Renders the metrics, if they are recorded at all.
    pub metrics: Option<PrometheusHandle>,
    /// Longest request body in bytes.
    pub body_limit: usize,
    /// Memory for the bodies that are being received.
    pub intake: Intake,
    /// Who may operate.
    pub operators: Operators,
}

/// What clients use, and the probes. The routes for clients are open to web pages of these origins (`*`: of any).
pub fn client_app(state: AppState, origins: &[String]) -> Router {
    let clients = Router::new()
        .route("/v1/chat/completions", post(generate::chat))
        .route("/v1/completions", post(generate::completion))
        .route("/v1/models", get(models::list))
        .route("/v1/models/{*id}", get(models::one))
        .route("/v1/feedback", post(feedback::record))
        .route("/tokenize", post(tokens::tokenize))
        .route("/detokenize", post(tokens::detokenize))
        .layer(from_fn(full))
        .layer(from_fn(json_of_pages))
        .fallback(lost)
        .method_not_allowed_fallback(bad_method)
        .with_state(state.clone());
    // Around the whole of it, fallbacks included: those would else answer preflights, and 404s lack headers.
    let clients = match cors::layer(origins) {
        Some(cors) => Router::new().fallback_service(cors.layer(clients)),
        None => clients,
    };
    probes().method_not_allowed_fallback(bad_method).fallback_service(clients).with_state(state)
}

/// What operators use, and the probes, behind the operators' guard: for a listener that is theirs alone. A proxy in
/// front of the clients' listener never leads here.
pub fn operator_app(state: AppState) -> Router {
    let guard = from_fn_with_state(state.operators.clone(), operators::guard);
    probes()
        .merge(admin::routes())
        .fallback(async |method: Method, uri: Uri| ApiError::no_route(method.as_str(), uri.path()))
        .method_not_allowed_fallback(bad_method)
        .layer(guard)
        .with_state(state)
}

/// What supervisors and monitors ask.
fn probes() -> Router<AppState> {
    Router::new()
        .route("/livez", get(probes::live))
        .route("/readyz", get(probes::ready))
        .route("/health", get(probes::ready))
        .route("/version", get(probes::version))
        .route("/metrics", get(probes::metrics))
}

/// Nowhere, for clients. Operators who came to the wrong door are told where theirs is.
async fn lost(method: Method, uri: Uri) -> ApiError {
    match uri.path() == "/admin" || uri.path().starts_with("/admin/") {
        true => ApiError::operators_elsewhere(uri.path()),
        false => ApiError::no_route(method.as_str(), uri.path()),
    }
}

async fn bad_method(method: Method, uri: Uri) -> ApiError {
    ApiError::bad_method(method.as_str(), uri.path())
}

/// What a body would be understood as, or the answer that its sender would get: for checks from outside,
/// which have nobody to answer it.
#[doc(hidden)]
pub fn understand(
    chat: bool,
    body: &[u8],
    arrived: Instant,
) -> Result<Vec<GenerateRequest>, (u16, ErrorBody)> {
    let (session, variant, api_key, client) = (None, None, None, 0);
    let id = "chatcmpl-0".to_owned();
    let envelope = Envelope { id, arrived, session, variant, api_key, client };
    let rules = Rules { served: "serin", limits: Limits { max_n: 8, max_stop: 4 } };
    let understood = Fields::parse(body).and_then(|fields| match chat {
        true => wire::chat::chat(fields, envelope, rules),
        false => wire::completion::completion(fields, envelope, rules),
    });
    understood.map(|ask| ask.requests).map_err(|error| {
        let error = ApiError::from(error);
        (error.status().as_u16(), error.body())
    })
}

/// Turns away what comes on a connection beyond the bound, so that probes and operators get through, and
/// answers in place of what the end of the server cuts off.
async fn full(request: Request, next: Next) -> Response {
    if request.extensions().get::<Spare>().is_some() {
        return ApiError::full().into_response();
    }
    let Some(lifecycle) = request.extensions().get::<Lifecycle>().cloned() else {
        return next.run(request).await;
    };
    tokio::select! {
        response = next.run(request) => response,
        () = lifecycle.reached(Phase::CutOff) => ApiError::stopping().into_response(),
    }
}

/// Refuses what a page of another origin can send without the browser asking first: anything that is not JSON. Pages
/// that may call the API send JSON, for which they are asked about ([`cors`]).
async fn json_of_pages(request: Request, next: Next) -> Response {
    let headers = request.headers();
    let kind = headers.get(header::CONTENT_TYPE).map(|kind| kind.as_bytes().to_ascii_lowercase());
    let json = kind.is_some_and(|kind| kind.starts_with(b"application/json"));
    let of_page = headers.contains_key(header::ORIGIN);
    match of_page && request.method() == Method::POST && !json {
        true => ApiError::not_json().into_response(),
        false => next.run(request).await,
    }
}

/// Seconds since 1970.
fn unix_now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}
