//! The routes of the clients' and of the operators' listener with their handlers, and the layers around all of them:
//! connection limits, shutdown, responses to unknown paths and methods.
//!
//! It does not know what the handlers do. [`authorize`] says which scope a route needs.

use super::status_codes::ApiError;
use super::{
    AppState, Lifecycle, OverLimit, Phase, admin, authorize, completions, cors, feedback, generate,
    messages, missing, models, openapi, operators, page, plain, probes, requests, responses,
    tokens,
};
use axum::Router;
use axum::extract::Request;
use axum::http::{HeaderMap, Method, Uri, header};
use axum::middleware::{Next, from_fn, from_fn_with_state, map_request};
use axum::response::{IntoResponse, Response};
use axum::routing::{MethodRouter, get, post};
use tower::Layer;

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
        .layer(from_fn_with_state(access, authorize::clients))
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
pub(super) fn public() -> [(&'static str, MethodRouter<AppState>); 12] {
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
