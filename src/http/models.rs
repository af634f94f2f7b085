//! The list of models, in OpenAI's format, or in Anthropic's for requests from Anthropic's clients. It is always
//! available, even while no model is loaded.

use super::status_codes::ApiError;
use super::wire::WireError;
use super::{AppState, messages};
use crate::control::ModelsView;
use crate::rollout::Arm;
use crate::routing::Deployment;
use axum::Json;
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, State};
use axum::http::HeaderMap;
use schemars::JsonSchema;
use serde::Serialize;

/// All names that requests may use.
#[derive(Serialize, JsonSchema)]
pub struct ModelList {
    object: &'static str,
    data: Vec<Model>,
}

/// One name and what it refers to.
#[derive(Serialize, JsonSchema)]
pub struct Model {
    id: String,
    object: &'static str,
    created: u64,
    owned_by: &'static str,
    /// Name of the model's folder; `null` while it loads.
    root: Option<String>,
    max_model_len: Option<usize>,
    version: Option<String>,
}

/// A list in one form or the other.
#[derive(Serialize, JsonSchema)]
#[serde(untagged)]
pub enum EitherList {
    Plain(ModelList),
    OfMessages(messages::Models),
}

/// A model in one form or the other.
#[derive(Serialize, JsonSchema)]
#[serde(untagged)]
pub enum EitherModel {
    Plain(Model),
    OfMessages(messages::Model),
}

/// Serves `GET /v1/models`.
pub async fn list(State(state): State<AppState>, headers: HeaderMap) -> Json<EitherList> {
    let data = models(&state.gateway.control().models());
    Json(match messages::asks(&headers) {
        true => EitherList::OfMessages(data.iter().map(of_messages).collect()),
        false => EitherList::Plain(ModelList { object: "list", data }),
    })
}

/// Serves `GET /v1/models/{id}`. Fails if no model has this name.
pub async fn one(
    State(state): State<AppState>,
    headers: HeaderMap,
    id: Result<Path<String>, PathRejection>,
) -> Result<Json<EitherModel>, ApiError> {
    let Path(id) = id.map_err(|_| WireError::bad("model", "the name is not text"))?;
    let models = models(&state.gateway.control().models());
    let served = models.iter().map(|model| model.id.clone()).collect();
    let found = models.into_iter().find(|model| model.id == id);
    let found = found.ok_or(WireError::UnknownModel { asked: id, served })?;
    Ok(Json(match messages::asks(&headers) {
        true => EitherModel::OfMessages(of_messages(&found)),
        false => EitherModel::Plain(found),
    }))
}

fn of_messages(model: &Model) -> messages::Model {
    messages::Model::new(&model.id, model.created, model.max_model_len)
}

/// The public name, which always exists, and one name for each loaded arm.
fn models(view: &ModelsView) -> Vec<Model> {
    let arms = [(Arm::Stable, &view.stable), (Arm::Canary, &view.canary)];
    let loaded = arms.into_iter().filter_map(|(arm, deployment)| {
        let deployment = deployment.as_deref()?;
        Some(model(format!("{}@{arm}", view.name), Some(deployment)))
    });
    std::iter::once(model(view.name.to_string(), view.stable.as_deref())).chain(loaded).collect()
}

fn model(id: String, deployment: Option<&Deployment>) -> Model {
    let folder = |d: &Deployment| Some(d.path.file_name()?.to_string_lossy().into_owned());
    Model {
        id,
        object: "model",
        created: deployment.map_or(0, |d| d.loaded_unix),
        owned_by: "serin",
        root: deployment.and_then(folder),
        max_model_len: deployment.map(Deployment::max_len),
        version: deployment.map(|d| d.version.to_string()),
    }
}
