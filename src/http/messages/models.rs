//! Models in the format of Anthropic's API. It does not know which models exist.

use axum::http::HeaderMap;
use schemars::JsonSchema;
use serde::Serialize;

/// The header that clients of that API send with every request.
pub const VERSION: &str = "anthropic-version";

/// Whether a request to a route that several APIs share is from a client of this one.
pub fn asks(headers: &HeaderMap) -> bool {
    headers.contains_key(VERSION)
}

/// A page of models: all of them.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "MessagesModels")]
pub struct Models {
    data: Vec<Model>,
    has_more: bool,
    first_id: Option<String>,
    last_id: Option<String>,
}

/// A model.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "MessagesModel")]
pub struct Model {
    #[serde(rename = "type")]
    kind: &'static str,
    id: String,
    display_name: String,
    created_at: String,
    lifecycle: &'static str,
    /// Prompt and reply together; `null` while the model loads.
    max_input_tokens: Option<usize>,
    max_tokens: Option<usize>,
}

impl Model {
    /// A model that was loaded at this time, in seconds since 1970, with this context.
    pub fn new(id: &str, loaded: u64, context: Option<usize>) -> Model {
        let loaded =
            i64::try_from(loaded).ok().and_then(|at| jiff::Timestamp::from_second(at).ok());
        Model {
            kind: "model",
            id: id.to_owned(),
            display_name: id.to_owned(),
            created_at: loaded.unwrap_or(jiff::Timestamp::UNIX_EPOCH).to_string(),
            lifecycle: "active",
            max_input_tokens: context,
            max_tokens: context,
        }
    }
}

impl FromIterator<Model> for Models {
    fn from_iter<I: IntoIterator<Item = Model>>(models: I) -> Models {
        let data: Vec<Model> = models.into_iter().collect();
        let id = |model: Option<&Model>| model.map(|model| model.id.clone());
        let (first_id, last_id) = (id(data.first()), id(data.last()));
        Models { data, has_more: false, first_id, last_id }
    }
}
