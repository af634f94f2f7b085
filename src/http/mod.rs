//! The HTTP layer: an OpenAI-compatible API, probes, metrics and the operators' commands.
//!
//! [`client_app`] and [`operator_app`] build routers from [`AppState`], which tests call with `oneshot` and
//! [`serve()`] serves. Reading order: `wire` (request and response formats), `generate` with `replies`,
//! `parts`, `format`, then
//! `completions` with `chunks` and `whole`, `responses`, `messages` (the endpoints), `error` (maps errors to statuses), `models`,
//! `tokens`, `feedback`, `probes` with `gauges`, then `operators` (access check), `admin` with [`orders`]
//! and `events`, [`page`] (the operators' page and its figures), `cors` (web pages), then `openapi` (the description of the routes), `sockets` (and their limits) and `lifecycle` (the phases of
//! shutdown).
//!
//! It knows the gateway and the control module by their public types only. Wire types are used here and
//! nowhere further in.

mod admin;
mod body;
mod bulk;
mod chunks;
mod completions;
mod cors;
mod error;
mod events;
mod feedback;
mod format;
mod gauges;
mod generate;
mod lifecycle;
mod messages;
mod missing;
mod models;
mod openapi;
mod operators;
pub mod orders;
pub mod page;
mod parts;
mod probes;
mod replies;
mod responses;
mod sockets;
mod sse;
mod tokens;
mod whole;
mod wire;

pub use body::Intake;
pub use error::{ErrorBody, ErrorDetail};
pub use lifecycle::{Lifecycle, Phase};
pub use operators::Operators;
pub use page::Live;
pub use sockets::{Bounds, OverLimit, Peer, serve};

use crate::serving::{Gateway, GenerateRequest, Limits};
use axum::Router;
use axum::extract::Request;
use axum::http::{Method, Uri, header};
use axum::middleware::{Next, from_fn, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::routing::{MethodRouter, get, post};
use error::ApiError;
use metrics_exporter_prometheus::PrometheusHandle;
use std::time::{Instant, SystemTime, UNIX_EPOCH};
use tower::Layer;
use wire::common::{Envelope, Rules};
use wire::fields::Fields;

/// What handlers share.
#[derive(Clone)]
pub struct AppState {
    /// Handles requests.
    pub gateway: Gateway,
    /// Renders the metrics, if they are recorded.
    pub metrics: Option<PrometheusHandle>,
    /// Maximum request body in bytes.
    pub body_limit: usize,
    /// Memory for bodies that are being received.
    pub intake: Intake,
    /// Who may use the operators' routes.
    pub operators: Operators,
    /// The figures that the operators' page plots.
    pub live: Live,
}

/// The routes for clients, and the probes. The routes for clients are open to web pages of these origins
/// (`*`: any).
pub fn client_app(state: AppState, origins: &[String]) -> Router {
    let clients = Router::new()
        .route("/", get(page::pointer))
        .route("/docs", get(openapi::page))
        .route("/openapi.json", get(openapi::json))
        .merge(public("/v1"))
        .merge(public(""))
        .route("/v1/feedback", post(feedback::record))
        .route("/tokenize", post(tokens::tokenize))
        .route("/detokenize", post(tokens::detokenize))
        .route("/apply-template", post(tokens::apply_template))
        .merge(missing::routes())
        .layer(from_fn(full))
        .layer(from_fn(json_of_pages))
        .fallback(lost)
        .method_not_allowed_fallback(bad_method)
        .layer(from_fn(messages::in_form))
        .with_state(state.clone());
    // Around everything, including fallbacks. Otherwise fallbacks would answer preflights, and 404s would
    // lack headers.
    let clients = match cors::layer(origins) {
        Some(cors) => Router::new().fallback_service(cors.layer(clients)),
        None => clients,
    };
    probes().method_not_allowed_fallback(bad_method).fallback_service(clients).with_state(state)
}

/// The routes of the public APIs, which clients find below `/v1` and, as on other servers, also without it.
fn public(prefix: &str) -> Router<AppState> {
    let by_id = get(responses::not_stored).delete(responses::not_stored);
    let routes: [(&str, MethodRouter<AppState>); 11] = [
        ("/chat/completions", generate::route(&completions::CHAT)),
        ("/completions", generate::route(&completions::TEXT)),
        ("/responses", generate::route(&responses::ENDPOINT)),
        ("/responses/input_tokens", post(responses::input_tokens)),
        ("/responses/{id}", by_id),
        ("/responses/{id}/cancel", post(responses::not_stored)),
        ("/responses/{id}/input_items", get(responses::not_stored)),
        ("/messages", generate::route(&messages::ENDPOINT)),
        ("/messages/count_tokens", post(messages::count_tokens)),
        ("/models", get(models::list)),
        ("/models/{*id}", get(models::one)),
    ];
    let add =
        |router: Router<AppState>, (path, route)| router.route(&format!("{prefix}{path}"), route);
    routes.into_iter().fold(Router::new(), add)
}

/// The routes for operators, and the probes, behind the operators' access check; for a listener of their own.
/// A proxy in front of the clients' listener cannot reach it.
pub fn operator_app(state: AppState) -> Router {
    let guard = from_fn_with_state(state.operators.clone(), operators::guard);
    let files = page::files().layer(from_fn(operators::guard_files));
    probes()
        .merge(admin::routes())
        .merge(page::data())
        .fallback(async |method: Method, uri: Uri| ApiError::no_route(method.as_str(), uri.path()))
        .method_not_allowed_fallback(bad_method)
        .layer(guard)
        .merge(files)
        .with_state(state)
}

/// The routes for supervisors and monitors.
fn probes() -> Router<AppState> {
    Router::new()
        .route("/livez", get(probes::live))
        .route("/readyz", get(probes::ready))
        .route("/health", get(probes::ready))
        .route("/version", get(probes::version))
        .route("/metrics", get(probes::metrics))
}

/// An unknown path on the clients' listener. Operators are told where their listener is.
async fn lost(method: Method, uri: Uri) -> ApiError {
    match uri.path() == "/admin" || uri.path().starts_with("/admin/") {
        true => ApiError::operators_elsewhere(uri.path()),
        false => ApiError::no_route(method.as_str(), uri.path()),
    }
}

async fn bad_method(method: Method, uri: Uri) -> ApiError {
    ApiError::bad_method(method.as_str(), uri.path())
}

/// How a body would be parsed, or the error response to it; for external checks without a server.
#[doc(hidden)]
pub fn understand(
    chat: bool,
    body: &[u8],
    arrived: Instant,
) -> Result<Vec<GenerateRequest>, (u16, ErrorBody)> {
    let (session, variant, party, client) = (None, None, None, 0);
    let id = "chatcmpl-0".to_owned();
    let envelope = Envelope { id, arrived, session, variant, party, client };
    let rules = Rules { served: "serin", limits: Limits { max_n: 8, max_stop: 4 } };
    let understood = Fields::parse(body).and_then(|mut fields| match chat {
        true => wire::chat::chat(&mut fields, envelope, rules),
        false => wire::completion::completion(&mut fields, envelope, rules),
    });
    understood.map(|ask| ask.requests).map_err(|error| {
        let error = ApiError::from(error);
        (error.status().as_u16(), error.body())
    })
}

/// Refuses requests on a connection beyond the limit, except probes and operators' requests; and answers
/// requests that the shutdown cuts off.
async fn full(request: Request, next: Next) -> Response {
    if request.extensions().get::<OverLimit>().is_some() {
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

/// Refuses requests that a page of another origin can send without a preflight, which is everything that is
/// not JSON. Allowed pages send JSON, and the browser sends a preflight for it ([`cors`]).
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
