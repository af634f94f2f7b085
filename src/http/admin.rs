//! The operators' commands. [`super::operators`] alone decides who may use them.

use super::orders::{LoadAsk, Loaded, OrderAsk, PromoteAsk, RolledBack, WeightAsk};
use super::status_codes::ApiError;
use super::wire::WireError;
use super::{AppState, body};
use super::{completions, events, generate};
use crate::control::{Asked, KeysStatus, LoadAsked, Status};
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
    let LoadAsk { path, retry, allow, expect, inherit_defaults, by, reason } = ask(body).await?;
    if path.is_empty() {
        return Err(WireError::bad("path", "it is empty").into());
    }
    let (by, reason) = (name(by)?, said(reason)?);
    let asked = LoadAsked {
        path: path.into(),
        by,
        reason,
        retry,
        allow,
        expect,
        inherit: inherit_defaults,
    };
    let deployment = state.gateway.control().load_canary(asked).await?;
    Ok(Json(Loaded::from(&*deployment)))
}

async fn self_test(State(state): State<AppState>, body: Body) -> Result<Json<Loaded>, ApiError> {
    let OrderAsk { dry_run, by, reason, .. } = ask(body).await?;
    if dry_run {
        return Err(WireError::bad("dry_run", "a self-test cannot be previewed").into());
    }
    let deployment = state.gateway.control().self_test(name(by)?, said(reason)?).await?;
    Ok(Json(Loaded::from(&*deployment)))
}

async fn rollback(State(state): State<AppState>, body: Body) -> Result<Response, ApiError> {
    let ask: OrderAsk = ask(body).await?;
    if ask.dry_run {
        return order(&state, Operator::Rollback, ask).await;
    }
    let control = state.gateway.control();
    let version = control.models().canary.map(|canary| canary.version.to_string());
    let unload = control.rollback(name(ask.by)?, said(ask.reason)?, ask.expect).await?;
    Ok(Json(RolledBack { version, unload }).into_response())
}

async fn promote(State(state): State<AppState>, body: Body) -> Result<Response, ApiError> {
    let PromoteAsk { now, dry_run, by, reason, expect } = ask(body).await?;
    let promote = if now { Operator::PromoteNow } else { Operator::Promote };
    order(&state, promote, OrderAsk { dry_run, by, reason, expect }).await
}

/// The route of an order without further words.
fn plain(command: Operator) -> MethodRouter<AppState> {
    post(async move |State(state): State<AppState>, body: Body| {
        order(&state, command, ask(body).await?).await
    })
}

async fn weight(State(state): State<AppState>, body: Body) -> Result<Response, ApiError> {
    let WeightAsk { percent, dry_run, by, reason, expect } = ask(body).await?;
    let bad = || WireError::bad("percent", format!("it must be 0 to 100, this is {percent}"));
    let weight = Weight::new(percent).ok_or_else(bad)?;
    order(&state, Operator::SetWeight(weight), OrderAsk { dry_run, by, reason, expect }).await
}

/// Carries out an order and returns the resulting state; a dry run only says what would happen.
async fn order(state: &AppState, command: Operator, ask: OrderAsk) -> Result<Response, ApiError> {
    let OrderAsk { dry_run, by, reason, expect } = ask;
    let order = Order { command, by: name(by)?, reason: said(reason)? };
    let (control, asked) = (state.gateway.control(), Asked { order, expect });
    if dry_run {
        return Ok(Json(control.preview(asked)?).into_response());
    }
    control.order(asked).await?;
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

async fn ask<T: DeserializeOwned>(body: Body) -> Result<T, WireError> {
    body::typed(body, BODY_LIMIT).await
}
