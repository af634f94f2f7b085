//! The operators' commands. [`super::operators`] alone decides who may use them.

use super::orders::{LoadRequest, Loaded, OrderRequest, PromoteRequest, RolledBack, WeightRequest};
use super::status_codes::ApiError;
use super::wire::WireError;
use super::{AppState, body};
use super::{completions, events, generate};
use crate::control::{ConditionalOrder, KeysStatus, LoadOrder, Status};
use crate::rollout::{Operator, Order, Weight};
use axum::body::Body;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use axum::routing::{MethodRouter, get, post};
use axum::{Json, Router};
use serde::de::DeserializeOwned;

/// Maximum body of an order, in bytes.
const BODY_LIMIT: usize = 64 << 10;
/// Maximum length of an operator's name, and of a reason, in bytes.
const MAX_NAME: usize = 128;
const MAX_REASON: usize = 2048;
/// All routes for operators.
pub fn routes() -> Router<AppState> {
    Router::new()
        .route("/admin/status", get(status))
        .route("/admin/canary/load", post(load))
        .route("/admin/rollback", post(rollback))
        .route("/admin/promote", post(promote))
        .route("/admin/pause", plain(Operator::Pause))
        .route("/admin/resume", plain(Operator::Resume))
        .route("/admin/weight", post(weight))
        .route("/admin/confirm", plain(Operator::Confirm))
        .route("/admin/undo", plain(Operator::Undo))
        .route("/admin/self-test", post(self_test))
        .route("/admin/events", get(events::stream))
        // A person's question to one model (`x-serin-variant`): pinned, so outside of verdicts.
        .route("/admin/ask", generate::route(&completions::CHAT))
}

async fn status(State(state): State<AppState>) -> Json<Status> {
    let keys =
        state.access.status().map(|keys| KeysStatus { count: keys.keys, problem: keys.problem });
    Json(Status { keys, ..state.gateway.status() })
}

async fn load(State(state): State<AppState>, body: Body) -> Result<Json<Loaded>, ApiError> {
    let LoadRequest { path, retry, allow, expect, inherit_defaults, by, reason } =
        read(body).await?;
    if path.is_empty() {
        return Err(WireError::bad("path", "it is empty").into());
    }
    let (by, reason) = (name(by)?, said(reason)?);
    let order = LoadOrder {
        path: path.into(),
        by,
        reason,
        retry,
        allow,
        expect,
        inherit: inherit_defaults,
    };
    let deployment = state.gateway.control().load_canary(order).await?;
    Ok(Json(Loaded::from(&*deployment)))
}

async fn self_test(State(state): State<AppState>, body: Body) -> Result<Json<Loaded>, ApiError> {
    let OrderRequest { dry_run, by, reason, .. } = read(body).await?;
    if dry_run {
        return Err(WireError::bad("dry_run", "a self-test cannot be previewed").into());
    }
    let deployment = state.gateway.control().self_test(name(by)?, said(reason)?).await?;
    Ok(Json(Loaded::from(&*deployment)))
}

async fn rollback(State(state): State<AppState>, body: Body) -> Result<Response, ApiError> {
    let request: OrderRequest = read(body).await?;
    if request.dry_run {
        return order(&state, Operator::Rollback, request).await;
    }
    let control = state.gateway.control();
    let version = control.models().canary.map(|canary| canary.version.to_string());
    let unload = control.rollback(name(request.by)?, said(request.reason)?, request.expect).await?;
    Ok(Json(RolledBack { version, unload }).into_response())
}

async fn promote(State(state): State<AppState>, body: Body) -> Result<Response, ApiError> {
    let PromoteRequest { now, dry_run, by, reason, expect } = read(body).await?;
    let promote = if now { Operator::PromoteNow } else { Operator::Promote };
    order(&state, promote, OrderRequest { dry_run, by, reason, expect }).await
}

/// The route of an order without further words.
fn plain(command: Operator) -> MethodRouter<AppState> {
    post(async move |State(state): State<AppState>, body: Body| {
        order(&state, command, read(body).await?).await
    })
}

async fn weight(State(state): State<AppState>, body: Body) -> Result<Response, ApiError> {
    let WeightRequest { percent, dry_run, by, reason, expect } = read(body).await?;
    let bad = || WireError::bad("percent", format!("it must be 0 to 100, this is {percent}"));
    let weight = Weight::new(percent).ok_or_else(bad)?;
    order(&state, Operator::SetWeight(weight), OrderRequest { dry_run, by, reason, expect }).await
}

/// Carries out an order and returns the resulting state; a dry run only says what would happen.
async fn order(
    state: &AppState,
    command: Operator,
    request: OrderRequest,
) -> Result<Response, ApiError> {
    let OrderRequest { dry_run, by, reason, expect } = request;
    let order = Order { command, by: name(by)?, reason: said(reason)? };
    let (control, order) = (state.gateway.control(), ConditionalOrder { order, expect });
    if dry_run {
        return Ok(Json(control.preview(order)?).into_response());
    }
    control.order(order).await?;
    Ok(Json(state.gateway.status()).into_response())
}

fn name(by: Option<String>) -> Result<String, WireError> {
    Ok(short("by", by, MAX_NAME)?.unwrap_or_else(|| "operator".to_owned()))
}

fn said(reason: Option<String>) -> Result<Option<String>, WireError> {
    short("reason", reason, MAX_REASON)
}

/// A text for the ledger: one line, of limited length, not empty.
fn short(
    param: &'static str,
    text: Option<String>,
    most: usize,
) -> Result<Option<String>, WireError> {
    let text = text.map(|text| text.split_whitespace().collect::<Vec<_>>().join(" "));
    match text.filter(|text| !text.is_empty()) {
        Some(text) if text.len() > most => {
            Err(WireError::bad(param, format!("it is longer than {most} bytes")))
        }
        text => Ok(text),
    }
}

async fn read<T: DeserializeOwned>(body: Body) -> Result<T, WireError> {
    body::typed(body, BODY_LIMIT).await
}
