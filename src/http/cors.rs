//! CORS: which web pages may call the API from another origin.
//!
//! Off unless origins are configured. It covers the API for clients and never the operators' routes or the
//! probes: a page that a user happens to open must not be able to control a rollout. Preflights are answered
//! here and allow any request header, since client libraries add their own.

use super::generate::{ARM, REQUEST_ID, VERSION};
use super::messages;
use axum::http::{HeaderValue, Method, header};
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
    let layer = CorsLayer::new()
        .allow_origin(origins)
        .allow_methods([Method::GET, Method::POST])
        .allow_headers(AllowHeaders::mirror_request())
        .expose_headers([ARM, VERSION, REQUEST_ID, messages::REQUEST_ID, header::RETRY_AFTER])
        .max_age(MAX_AGE);
    Some(layer)
}
