//! CORS: which web pages may call the API from another origin.
//!
//! Off unless origins are configured. It covers every route and every error of the clients' listener, and never the
//! operators' routes: a page that a user happens to open must not be able to control a rollout. Preflight requests are
//! answered here, before keys are checked, because browsers send no key with them. They allow any request header,
//! because client libraries add their own.

use super::authorize::LIMIT_HEADERS;
use super::generate::{ARM, REQUEST_ID, VERSION};
use super::messages;
use axum::http::{HeaderName, HeaderValue, Method, header};
use std::time::Duration;
use tower_http::cors::{AllowHeaders, AllowOrigin, CorsLayer};

/// How long a browser may cache a preflight.
const MAX_AGE: Duration = Duration::from_secs(3600);

/// The layer for pages of these origins (`*`: any); `None` without origins.
pub fn layer(origins: &[String]) -> Option<CorsLayer> {
    if origins.is_empty() {
        return None;
    }
    let origins = match origins.iter().any(|origin| origin == "*") {
        true => AllowOrigin::any(),
        false => AllowOrigin::list(origins.iter().filter_map(|o| HeaderValue::from_str(o).ok())),
    };
    let limits = LIMIT_HEADERS.into_iter().flat_map(|(requests, tokens)| [requests, tokens]);
    let ids = [REQUEST_ID, messages::REQUEST_ID];
    let shown = [ARM, VERSION, header::RETRY_AFTER, header::WWW_AUTHENTICATE];
    let shown = ids.into_iter().chain(shown).chain(limits.map(HeaderName::from_static));
    let layer = CorsLayer::new()
        .allow_origin(origins)
        .allow_methods([Method::GET, Method::POST, Method::DELETE])
        .allow_headers(AllowHeaders::mirror_request())
        .expose_headers(shown.collect::<Vec<_>>())
        .max_age(MAX_AGE);
    Some(layer)
}
