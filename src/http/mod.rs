//! The HTTP layer: an OpenAI-compatible API, probes, metrics and the operators' commands.
//!
//! [`client_app`] and [`operator_app`] build routers from [`AppState`], which tests call with `oneshot` and
//! [`serve()`] serves. Reading order: `wire` (request and response formats), `generate` with `replies`, `parts` and
//! `format` (from a request to its response), `completions` with `chunks` and `whole`, `responses` and `messages`
//! (the endpoints), `stable_for` (marked requests, which stable answers: a chat UI asking for a title, for example),
//! `recording` (prompts that clients agreed to have recorded), `missing` (routes that other servers have and this one
//! does not), `status_codes` (maps errors to statuses), `models`, `tokens`, `feedback`, `probes` with `gauges`; then `caller`
//! (who asks), `gate` (which route needs which key), `requests` (ids and the log of requests), `plain` (slashes and
//! content codings), `operators` (access check), `admin` with [`orders`] and `events`, [`page`] (the operators' page
//! and its figures), `cors` (web pages), `openapi` (the description of the routes), `sockets` (and their limits) and
//! `lifecycle` (the phases of shutdown).
//!
//! It knows the gateway and the control module by their public types only. Wire types are used here and in no
//! inner layer.

mod admin;
mod bodies;
mod body;
mod bulk;
mod caller;
mod chunks;
mod completions;
mod cors;
mod events;
mod feedback;
mod format;
mod gate;
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
mod plain;
mod probes;
mod recording;
mod replies;
mod requests;
mod responses;
mod sockets;
mod sse;
mod stable_for;
mod status_codes;
mod tokens;
mod whole;
mod wire;

pub use body::Intake;
pub use gate::{CLIENTS, LIMIT_HEADERS, Needs, OPERATORS};
pub use lifecycle::{Lifecycle, Phase};
pub use operators::Operators;
pub use page::Live;
pub use recording::Recorder;
pub use sockets::{Bounds, OverLimit, Peer, serve};
pub use stable_for::StableFor;
pub use status_codes::{ErrorBody, ErrorDetail};

use crate::access::Access;
use crate::serving::{Gateway, GenerateRequest, Limits};
use axum::Router;
use axum::extract::Request;
use axum::http::{HeaderMap, Method, Uri, header};
use axum::middleware::{Next, from_fn, from_fn_with_state, map_request};
use axum::response::{IntoResponse, Response};
use axum::routing::{MethodRouter, get, post};
use metrics_exporter_prometheus::PrometheusHandle;
use status_codes::ApiError;
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
    /// The keys, if they are asked for.
    pub access: Access,
    /// Whether the log has a line for each request.
    pub log_requests: bool,
    /// Which requests stable answers because of how they are marked.
    pub stable_for: StableFor,
    /// Where prompts go whose clients agreed to it; `None`: nowhere.
    pub recorder: Option<Recorder>,
}

/// The routes for clients, and the probes, behind the check of keys. They are open to web pages of these origins
/// (`*`: any).
pub fn client_app(state: AppState, origins: &[String]) -> Router {
    let clients = Router::new()
        .route("/", get(page::pointer))
        .route("/docs", get(openapi::page))
        .route("/openapi.json", get(openapi::json))
        .merge(below("/v1", public()))
        .merge(below("", public()))
        .route("/v1/feedback", post(feedback::record))
        .route("/tokenize", post(tokens::tokenize))
        .route("/detokenize", post(tokens::detokenize))
        .route("/apply-template", post(tokens::apply_template))
        .route("/v2/rerank", missing::rerank())
        .merge(below("/v1", missing::routes()))
        .merge(below("", missing::routes()))
        .layer(from_fn(full))
        .layer(from_fn(plain::bodies))
        .layer(from_fn(json_of_pages));
    let (access, log) = (state.access.clone(), state.log_requests);
    let routes = clients
        .merge(probes())
        .layer(from_fn_with_state(access, gate::clients))
        .fallback(lost)
        .method_not_allowed_fallback(bad_method)
        .layer(from_fn(messages::in_form))
        .with_state(state);
    // Around everything, including fallbacks. Otherwise fallbacks would answer preflights, and 404s would
    // lack headers.
    let routes = match cors::layer(origins) {
        Some(cors) => Router::new().fallback_service(cors.layer(routes)),
        None => routes,
    };
    around(routes, log)
}

/// What is done for every request of either listener, before its route is looked for.
fn around(routes: Router, log: bool) -> Router {
    Router::new()
        .fallback_service(routes)
        .layer(map_request(plain::path))
        .layer(from_fn_with_state(log, requests::follow))
}

/// The routes of the public APIs, which clients find below `/v1` and, as on other servers, also without it.
fn public() -> [(&'static str, MethodRouter<AppState>); 12] {
    let by_id = get(responses::not_stored).delete(responses::not_stored);
    [
        ("/chat/completions", generate::route(&completions::CHAT)),
        ("/completions", generate::route(&completions::TEXT)),
        ("/responses", generate::route(&responses::ENDPOINT)),
        ("/responses/compact", missing::compact()),
        ("/responses/input_tokens", post(responses::input_tokens).merge(by_id.clone())),
        ("/responses/{id}", by_id),
        ("/responses/{id}/cancel", post(responses::not_stored)),
        ("/responses/{id}/input_items", get(responses::not_stored)),
        ("/messages", generate::route(&messages::ENDPOINT)),
        ("/messages/count_tokens", post(messages::count_tokens)),
        ("/models", get(models::list)),
        ("/models/{*id}", get(models::one)),
    ]
}

fn below(
    prefix: &str,
    routes: impl IntoIterator<Item = (&'static str, MethodRouter<AppState>)>,
) -> Router<AppState> {
    routes.into_iter().fold(Router::new(), |router, (path, route)| {
        let path = format!("{prefix}{path}");
        router.route(&path, route)
    })
}

/// The routes for operators, and the probes, behind the operators' access check; for a listener of their own.
/// A proxy in front of the clients' listener cannot reach it.
pub fn operator_app(state: AppState) -> Router {
    let (who, log) = ((state.operators.clone(), state.access.clone()), state.log_requests);
    let guard = from_fn_with_state(who.clone(), operators::guard);
    let files = page::files().layer(from_fn_with_state(who, operators::guard_files));
    let routes = probes()
        .merge(admin::routes())
        .merge(page::data())
        .fallback(async |method: Method, uri: Uri| ApiError::no_route(method.as_str(), uri.path()))
        .method_not_allowed_fallback(bad_method)
        .layer(from_fn(plain::bodies))
        .layer(guard)
        .merge(files)
        .with_state(state);
    around(routes, log)
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

/// A method that the route does not have. Of a preflight, it says what lets web pages in.
async fn bad_method(method: Method, uri: Uri, headers: HeaderMap) -> ApiError {
    if method == Method::OPTIONS && headers.contains_key(header::ACCESS_CONTROL_REQUEST_METHOD) {
        return ApiError::no_pages(uri.path());
    }
    ApiError::bad_method(method.as_str(), uri.path())
}

/// How a body would be parsed; for external checks without a server. Fails with the response that its client would get:
/// HTTP status and body.
#[doc(hidden)]
pub fn understand(
    chat: bool,
    body: &[u8],
    arrived: Instant,
) -> Result<Vec<GenerateRequest>, (u16, ErrorBody)> {
    let (session, variant, party, client, key) = (None, None, None, 0, None);
    let id = "chatcmpl-0".to_owned();
    let envelope = Envelope { id, arrived, session, variant, marked: false, party, client, key };
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
