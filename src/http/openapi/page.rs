//! The OpenAPI document as an HTML page: the routes, and the fields of each. It has no scripts, no styles, and loads
//! nothing.

use super::DOCUMENT;
use crate::http::page::with_policy;
use crate::web::escaped;
use axum::response::{Html, IntoResponse, Response};
use serde_json::Value;

/// Serves `GET /docs`.
pub async fn page() -> Response {
    with_policy(Html(written(&DOCUMENT)).into_response())
}

fn written(document: &Value) -> String {
    let mut out =
        "<!doctype html><html lang=\"en\"><meta charset=\"utf-8\"><title>serin: routes</title>\
        <h1>Routes for clients</h1><p>As a document for programs: \
        <a href=\"/openapi.json\">openapi.json</a>.</p>"
            .to_owned();
    for (path, item) in document["paths"].as_object().into_iter().flatten() {
        for (method, operation) in item.as_object().into_iter().flatten() {
            if let Some(summary) = operation["summary"].as_str() {
                route(&mut out, &method.to_uppercase(), path, summary, operation);
            }
        }
    }
    out + "</html>"
}

fn route(out: &mut String, method: &str, path: &str, summary: &str, operation: &Value) {
    let (path, summary) = (escaped(path), escaped(summary));
    *out += &format!("<h2><code>{method} {path}</code></h2><p>{summary}.</p>");
    let body = &operation["requestBody"]["content"]["application/json"]["schema"];
    let Some(fields) = body["properties"].as_object() else { return };
    *out += "<details><summary>Fields</summary><table><tr><th>field<th>takes<th>";
    for (name, schema) in fields {
        let takes = escaped(&takes(schema));
        let note = escaped(schema["description"].as_str().unwrap_or_default());
        *out += &format!("<tr><td><code>{}</code><td>{takes}<td>{note}", escaped(name));
    }
    *out += "</table></details>";
}

/// What a field takes, in a few words.
fn takes(schema: &Value) -> String {
    let kind = match &schema["type"] {
        Value::String(kind) => kind.clone(),
        Value::Array(kinds) => {
            kinds.iter().filter_map(Value::as_str).filter(|kind| *kind != "null").collect()
        }
        _ if schema["anyOf"].is_array() => "several forms".to_owned(),
        _ => match schema["enum"].as_array() {
            Some(words) => {
                let words = words.iter().filter(|word| !word.is_null()).map(Value::to_string);
                words.collect::<Vec<String>>().join(", ")
            }
            None => "anything".to_owned(),
        },
    };
    let bound = |name: &str| Some(schema.get(name)?.as_f64()?.to_string());
    match (bound("minimum"), bound("exclusiveMinimum"), bound("maximum")) {
        (Some(least), _, Some(most)) => format!("{kind}, {least} to {most}"),
        (Some(least), _, None) => format!("{kind}, at least {least}"),
        (_, Some(above), Some(most)) => format!("{kind}, above {above}, up to {most}"),
        _ => kind,
    }
}
