//! Endpoints for supervisors and monitors: alive, ready, version, metrics.

use super::status_codes::ApiError;
use super::{AppState, Lifecycle, Phase, gauges};
use axum::extract::State;
use axum::http::header;
use axum::response::IntoResponse;
use axum::{Extension, Json};
use schemars::JsonSchema;
use serde::Serialize;

/// The healthy response.
#[derive(Serialize, JsonSchema)]
pub struct Alive {
    status: &'static str,
}

/// The version of this program.
#[derive(Serialize, JsonSchema)]
pub struct Version {
    version: &'static str,
}

/// `GET /livez`: the process answers.
pub async fn live() -> Json<Alive> {
    Json(Alive { status: "ok" })
}

/// Serves `GET /readyz` and `GET /health`: whether requests can be served. Fails with the reason if not.
pub async fn ready(
    State(state): State<AppState>,
    lifecycle: Option<Extension<Lifecycle>>,
) -> Result<Json<Alive>, ApiError> {
    if lifecycle.is_some_and(|lifecycle| lifecycle.phase() > Phase::Serving) {
        return Err(ApiError::stopping());
    }
    let ready = state.gateway.control().ready();
    ready.map(|()| Json(Alive { status: "ok" })).map_err(|reason| ApiError::not_ready(&reason))
}

/// Serves `GET /version`.
pub async fn version() -> Json<Version> {
    Json(Version { version: env!("CARGO_PKG_VERSION") })
}

/// `GET /metrics`, in Prometheus' text format; empty if nothing is recorded.
pub async fn metrics(State(state): State<AppState>) -> impl IntoResponse {
    let page = |recorder| gauges::page(state.gateway.control(), recorder);
    let text = state.metrics.as_ref().map(page).unwrap_or_default();
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], text)
}
