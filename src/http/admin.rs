//! The operator's commands. Who may give them is decided by [`refusal`] and nowhere else.
//!
//! Loopback peers only, and of those only programs: a request that a browser sent on behalf of a
//! page (`Origin`) or that a proxy passed on (`Forwarded` and its kin) comes from somebody else.

use super::admin_wire::{
    LoadAsk, LoadedWire, NothingAsk, PromoteAsk, RollbackAsk, RolledBackWire, StatusWire,
    UnloadWire, WeightAsk,
};
use super::error::ApiError;
use super::wire::WireError;
use super::{AppState, Peer, body};
use crate::control::ControlError;
use crate::rollout::Weight;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::HeaderMap;
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use serde::de::DeserializeOwned;
use std::net::IpAddr;
use std::path::Path;

/// Who may operate.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum AdminPolicy {
    /// Programs on this machine.
    #[default]
    Loopback,
    /// Nobody.
    Off,
}

/// Longest body of an order in bytes.
const BODY_LIMIT: usize = 64 << 10;
/// Headers that betray a request made on somebody else's behalf.
const ON_BEHALF: [&str; 5] =
    ["origin", "forwarded", "x-forwarded-for", "x-forwarded-host", "x-real-ip"];

/// All routes of this room, behind its guard.
pub fn routes(state: &AppState) -> Router<AppState> {
    Router::new()
        .route("/admin/status", get(status))
        .route("/admin/canary/load", post(load))
        .route("/admin/rollback", post(rollback))
        .route("/admin/promote", post(promote))
        .route("/admin/pause", post(pause))
        .route("/admin/resume", post(resume))
        .route("/admin/weight", post(weight))
        .route_layer(from_fn_with_state(state.admin, guard))
}

async fn guard(State(policy): State<AdminPolicy>, request: Request, next: Next) -> Response {
    let peer = request.extensions().get::<Peer>().map(|peer| peer.0.ip());
    match refusal(policy, peer, request.headers()) {
        None => next.run(request).await,
        Some(reason) => ApiError::forbidden(reason).into_response(),
    }
}

/// Why a request may not operate; `None` if it may.
fn refusal(policy: AdminPolicy, peer: Option<IpAddr>, headers: &HeaderMap) -> Option<&'static str> {
    if policy == AdminPolicy::Off {
        return Some("Operating over HTTP is switched off on this server.");
    }
    if !peer.is_some_and(|ip| ip.to_canonical().is_loopback()) {
        return Some("Operating is possible from this server's own machine only (loopback).");
    }
    if ON_BEHALF.iter().any(|name| headers.contains_key(*name)) {
        return Some("Operating is not possible through a browser or a proxy.");
    }
    None
}

async fn status(State(state): State<AppState>) -> Json<StatusWire> {
    Json(StatusWire::from(&state.gateway.control().status()))
}

async fn load(State(state): State<AppState>, body: Body) -> Result<Json<LoadedWire>, ApiError> {
    let LoadAsk { path } = ask(body).await?;
    if path.is_empty() {
        return Err(WireError::bad("path", "it is empty").into());
    }
    let deployment = state.gateway.control().load_canary(Path::new(&path)).await?;
    Ok(Json(LoadedWire::from(&*deployment)))
}

async fn rollback(
    State(state): State<AppState>,
    body: Body,
) -> Result<Json<RolledBackWire>, ApiError> {
    let RollbackAsk { reason } = ask(body).await?;
    let reason = reason.filter(|reason| !reason.trim().is_empty());
    let reason = reason.unwrap_or_else(|| "ordered by the operator".to_owned());
    let control = state.gateway.control();
    let version = control.models().canary.map(|canary| canary.version.to_string());
    let report = control.rollback(&reason).await?;
    let name = version.clone().unwrap_or_default();
    let unload = report.map(|report| UnloadWire::new(&name, "rolled back", &report));
    Ok(Json(RolledBackWire { version, unload }))
}

async fn promote(State(state): State<AppState>, body: Body) -> Result<Json<StatusWire>, ApiError> {
    let PromoteAsk { now } = ask(body).await?;
    after(&state, state.gateway.control().promote(now))
}

async fn pause(State(state): State<AppState>, body: Body) -> Result<Json<StatusWire>, ApiError> {
    let NothingAsk {} = ask(body).await?;
    after(&state, state.gateway.control().pause())
}

async fn resume(State(state): State<AppState>, body: Body) -> Result<Json<StatusWire>, ApiError> {
    let NothingAsk {} = ask(body).await?;
    after(&state, state.gateway.control().resume())
}

async fn weight(State(state): State<AppState>, body: Body) -> Result<Json<StatusWire>, ApiError> {
    let WeightAsk { percent } = ask(body).await?;
    let bad = || WireError::bad("percent", format!("it must be 0 to 100, this is {percent}"));
    let weight = Weight::new(percent).ok_or_else(bad)?;
    after(&state, state.gateway.control().set_weight(weight))
}

async fn ask<T: DeserializeOwned>(body: Body) -> Result<T, WireError> {
    body::typed(body, BODY_LIMIT).await
}

/// The state that an order led to.
fn after(state: &AppState, done: Result<(), ControlError>) -> Result<Json<StatusWire>, ApiError> {
    done?;
    Ok(Json(StatusWire::from(&state.gateway.control().status())))
}

#[cfg(test)]
mod tests;
