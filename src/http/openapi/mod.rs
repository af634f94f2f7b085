//! The description of the clients' routes: an OpenAPI 3.1 document at `/openapi.json`, and a plain page of it at
//! `/docs`.
//!
//! It is generated from the tables of request fields, the types of the responses and the list of errors. Only the types
//! and ranges of fields are written by hand a second time (`fields`); a test compares them with the parsers.

mod fields;
mod page;

pub use page::page;

use super::completions;
use super::feedback::Recorded;
use super::missing::{MISSING, PREFIXES};
use super::models::{EitherList, EitherModel};
use super::probes::{Alive, Version};
use super::status_codes::ErrorBody;
use super::tokens::{Rendered, Text, Tokens};
use super::wire::Shape;
use super::wire::reply::{Answer, ChatChoice, TextChoice};
use super::wire::table::{OwnRow, rows, rows_by};
use super::{format::Endpoint, messages, responses};
use axum::Json;
use schemars::generate::{SchemaGenerator, SchemaSettings};
use schemars::{JsonSchema, Schema};
use serde_json::{Map, Value, json};
use std::sync::LazyLock;

static DOCUMENT: LazyLock<Value> = LazyLock::new(document);

/// Serves `GET /openapi.json`.
pub async fn json() -> Json<&'static Value> {
    Json(&DOCUMENT)
}

/// A generation endpoint in the document.
struct Generates {
    path: &'static str,
    endpoint: &'static Endpoint,
    summary: &'static str,
    rows: Vec<OwnRow>,
    /// The fields that must be given besides the prompt.
    more_required: &'static [&'static str],
    answer: fn(&mut SchemaGenerator) -> Schema,
    /// The names of a stream's events; none if they have no names.
    events: &'static [&'static str],
}

fn generating() -> [Generates; 4] {
    [
        Generates {
            path: "/chat/completions",
            endpoint: &completions::CHAT,
            summary: "Continue a chat",
            rows: rows(Shape::Chat),
            more_required: &[],
            answer: SchemaGenerator::subschema_for::<Answer<'static, ChatChoice>>,
            events: &[],
        },
        Generates {
            path: "/completions",
            endpoint: &completions::TEXT,
            summary: "Continue a text",
            rows: rows(Shape::Text),
            more_required: &[],
            answer: SchemaGenerator::subschema_for::<Answer<'static, TextChoice>>,
            events: &[],
        },
        Generates {
            path: "/responses",
            endpoint: &responses::ENDPOINT,
            summary: "Create a response (OpenAI's Responses API)",
            rows: rows_by(responses::FIELDS),
            more_required: &[],
            answer: SchemaGenerator::subschema_for::<responses::Response<'static>>,
            events: responses::EVENTS,
        },
        Generates {
            path: "/messages",
            endpoint: &messages::ENDPOINT,
            summary: "Create a message (Anthropic's Messages API)",
            rows: rows_by(messages::FIELDS),
            more_required: &["max_tokens"],
            answer: SchemaGenerator::subschema_for::<messages::Message<'static>>,
            events: messages::EVENTS,
        },
    ]
}

/// What a route answers when something is wrong; which of them a request meets depends on the route.
const ERRORS: &[(u16, &str)] = &[
    (400, "The request is wrong: `param` names the field."),
    (401, "The server asks for a key, and it is missing or unknown."),
    (403, "The key's scopes do not cover this route."),
    (404, "There is no such model, response or route."),
    (405, "The route does not accept this method."),
    (408, "The body did not arrive in time."),
    (413, "The body is too long."),
    (415, "The body is compressed, or a web page sends something else than JSON."),
    (429, "The server is busy, or a limit is reached: `Retry-After` says when to try again."),
    (500, "The model or the server failed."),
    (503, "The server is starting, full or stopping: `Retry-After` says when to try again."),
    (504, "One of the server's own deadlines passed."),
];
/// What Anthropic's API says instead of 503 and of a busy server's 429.
const OVERLOADED: (u16, &str) = (529, "The server is busy, starting, full or stopping.");

fn document() -> Value {
    let settings = SchemaSettings::draft2020_12().for_serialize().with(|settings| {
        settings.definitions_path = "/components/schemas".into();
        settings.meta_schema = None;
    });
    let mut schemas = settings.into_generator();
    let mut paths = Map::new();
    for one in generating() {
        for prefix in ["/v1", ""] {
            let path = format!("{prefix}{}", one.path);
            paths.insert(path, json!({"post": generates(&one, &mut schemas)}));
        }
    }
    for (path, item) in others(&mut schemas) {
        paths.insert(path, item);
    }
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "serin", "version": env!("CARGO_PKG_VERSION"),
            "description": "The routes for clients. Request fields that are not listed are accepted and change nothing.",
            "license": {"name": "MIT OR Apache-2.0", "identifier": "MIT OR Apache-2.0"},
        },
        "servers": [{"url": "/"}],
        "paths": paths,
        "security": [{}, {"bearer": []}, {"header": []}],
        "components": {
            "schemas": schemas.take_definitions(true),
            "securitySchemes": {
                "bearer": {"type": "http", "scheme": "bearer"},
                "header": {"type": "apiKey", "in": "header", "name": "x-api-key"},
            },
        },
    })
}

fn generates(one: &Generates, schemas: &mut SchemaGenerator) -> Value {
    let whole = (one.answer)(schemas);
    let required = [&[one.endpoint.prompt], one.more_required].concat();
    let body = fields::body(one.path, &one.rows, &required);
    let mut responses = errors(schemas, one.path.starts_with("/messages"));
    responses["200"] = json!({
        "description": "The answer, as a whole or, with `stream`, as server-sent events.",
        "headers": {
            "x-request-id": header(), "x-serin-arm": header(), "x-serin-version": header(),
        },
        "content": {
            "application/json": {"schema": whole},
            "text/event-stream": {"schema": event(one.events)},
        },
    });
    json!({
        "summary": one.summary,
        "parameters": [
            parameter("x-serin-session", json!({"type": "string"})),
            parameter("x-serin-variant", json!({"enum": ["stable", "canary"]})),
        ],
        "requestBody": request(body),
        "responses": responses,
    })
}

/// One event of a stream. Events without a name are called `message`.
fn event(names: &[&str]) -> Value {
    let names = if names.is_empty() { &["message"] } else { names };
    let data = json!({"type": "string", "contentMediaType": "application/json"});
    json!({
        "type": "object", "required": ["data"],
        "properties": {"event": {"enum": names}, "data": data},
    })
}

fn header() -> Value {
    json!({"schema": {"type": "string"}})
}

fn parameter(name: &str, schema: Value) -> Value {
    json!({"name": name, "in": "header", "required": false, "schema": schema})
}

fn request(schema: Value) -> Value {
    json!({"required": true, "content": {"application/json": {"schema": schema}}})
}

/// The answers to requests that fail, by status.
fn errors(schemas: &mut SchemaGenerator, of_messages: bool) -> Value {
    let schema = match of_messages {
        true => schemas.subschema_for::<messages::ErrorForm>(),
        false => schemas.subschema_for::<ErrorBody>(),
    };
    let listed = ERRORS.iter().chain(of_messages.then_some(&OVERLOADED));
    let listed = listed.filter(|(status, _)| !(of_messages && *status == 503));
    let content = json!({"application/json": {"schema": schema}});
    let one = |(status, what): &(u16, &str)| {
        (status.to_string(), json!({"description": what, "content": content}))
    };
    Value::Object(listed.map(one).collect())
}

/// A route with a JSON answer.
fn simple<T: JsonSchema>(
    schemas: &mut SchemaGenerator,
    method: &str,
    summary: &str,
    body: Option<Value>,
) -> Value {
    of_form::<T>(schemas, method, summary, body, false)
}

fn of_form<T: JsonSchema>(
    schemas: &mut SchemaGenerator,
    method: &str,
    summary: &str,
    body: Option<Value>,
    of_messages: bool,
) -> Value {
    let schema = schemas.subschema_for::<T>();
    let mut responses = errors(schemas, of_messages);
    responses["200"] =
        json!({"description": "Done.", "content": {"application/json": {"schema": schema}}});
    let mut operation = json!({"summary": summary, "responses": responses});
    if let Some(body) = body {
        operation["requestBody"] = request(body);
    }
    json!({method: operation})
}

/// All routes that generate nothing.
fn others(schemas: &mut SchemaGenerator) -> Vec<(String, Value)> {
    let plain = probes(schemas).into_iter().chain(tokens(schemas));
    let mut paths: Vec<_> = plain.map(|(path, item)| (path.to_owned(), item)).collect();
    for prefix in ["/v1", ""] {
        let mut all = models(schemas);
        all.extend(counts(schemas));
        all.extend(stored(schemas));
        paths.extend(all.into_iter().map(|(path, item)| (format!("{prefix}{path}"), item)));
    }
    for (path, what) in MISSING {
        for prefix in PREFIXES {
            paths.push(missing(schemas, &format!("{prefix}{path}"), what));
        }
    }
    paths.push(missing(schemas, "/v2/rerank", "use a server for ranking models"));
    paths
}

fn models(schemas: &mut SchemaGenerator) -> Vec<(&'static str, Value)> {
    let version = json!([parameter("anthropic-version", json!({"type": "string"}))]);
    let mut list = simple::<EitherList>(schemas, "get", "List the models", None);
    list["parameters"] = version.clone();
    let mut one = simple::<EitherModel>(schemas, "get", "Describe a model", None);
    one["parameters"] = json!([in_path("id"), version[0]]);
    // An error has the form that the request asks for, too.
    let forms =
        [schemas.subschema_for::<ErrorBody>(), schemas.subschema_for::<messages::ErrorForm>()];
    for item in [&mut list, &mut one] {
        let answers = item["get"]["responses"].as_object_mut().into_iter().flatten();
        for (_, answer) in answers.filter(|(status, _)| *status != "200") {
            answer["content"]["application/json"]["schema"] = json!({"anyOf": forms});
        }
    }
    vec![("/models", list), ("/models/{id}", one)]
}

fn counts(schemas: &mut SchemaGenerator) -> [(&'static str, Value); 2] {
    let what = "Count the tokens of a request";
    let body = fields::body("/messages", &rows_by(messages::FIELDS), &["messages"]);
    let of_messages = of_form::<messages::Count>(schemas, "post", what, Some(body), true);
    let body = fields::body("/responses", &rows_by(responses::FIELDS), &["input"]);
    let of_responses = simple::<responses::InputTokens>(schemas, "post", what, Some(body));
    [("/messages/count_tokens", of_messages), ("/responses/input_tokens", of_responses)]
}

fn stored(schemas: &mut SchemaGenerator) -> Vec<(&'static str, Value)> {
    let mut paths = Vec::new();
    for (path, methods) in STORED {
        let mut item = json!({"parameters": [in_path("id")]});
        for method in *methods {
            let responses = errors(schemas, false);
            item[*method] = json!({"summary": "Nothing is stored: 404", "responses": responses});
        }
        paths.push((*path, item));
    }
    let (_, compact) = missing(schemas, "/responses/compact", "nothing is stored");
    paths.push(("/responses/compact", compact));
    paths
}

/// A route that is missing, by its most common method.
fn missing(schemas: &mut SchemaGenerator, path: &str, what: &str) -> (String, Value) {
    let of_messages = path.contains("/messages/");
    let mut responses = errors(schemas, of_messages);
    responses["501"] = responses["500"].clone();
    responses["501"]["description"] = what.into();
    let mut item = json!({"post": {"summary": format!("Missing: {what}"), "responses": responses}});
    if path.contains("{*rest}") {
        item["parameters"] = json!([in_path("rest")]);
    }
    (path.replace("{*rest}", "{rest}"), item)
}

/// Routes about stored responses, of which there are none.
const STORED: &[(&str, &[&str])] = &[
    ("/responses/{id}", &["get", "delete"]),
    ("/responses/{id}/cancel", &["post"]),
    ("/responses/{id}/input_items", &["get"]),
];

fn in_path(name: &str) -> Value {
    json!({"name": name, "in": "path", "required": true, "schema": {"type": "string"}})
}

fn probes(schemas: &mut SchemaGenerator) -> [(&'static str, Value); 8] {
    let text = |summary: &str, kind: &str| {
        let content = json!({kind: {"schema": {"type": "string"}}});
        let responses = json!({"200": {"description": "The text.", "content": content}});
        json!({"get": {"summary": summary, "responses": responses}})
    };
    let ready = simple::<Alive>(schemas, "get", "Whether requests can be served", None);
    let document = json!({"200": {
        "description": "This document.", "content": {"application/json": {"schema": {"type": "object"}}},
    }});
    [
        ("/", text("Where to look", "text/html")),
        ("/docs", text("This document as a page", "text/html")),
        ("/health", ready.clone()),
        ("/livez", simple::<Alive>(schemas, "get", "Whether the process answers", None)),
        ("/metrics", text("Metrics for Prometheus", "text/plain")),
        ("/openapi.json", json!({"get": {"summary": "This document", "responses": document}})),
        ("/readyz", ready),
        ("/version", simple::<Version>(schemas, "get", "The version", None)),
    ]
}

/// The fields of a chat whose template is asked for.
fn chat_fields() -> Map<String, Value> {
    let names = [
        "messages",
        "tools",
        "chat_template_kwargs",
        "add_generation_prompt",
        "continue_final_message",
    ];
    let kind =
        |name: &&str| Some(((*name).to_owned(), fields::kind("/chat/completions", name)?.schema()));
    let model = ("model".to_owned(), fields::Kind::Text.schema());
    names.iter().filter_map(kind).chain([model]).collect()
}

fn of_chat() -> Value {
    json!({"type": "object", "properties": chat_fields(), "required": ["messages"]})
}

fn of_either() -> Value {
    let mut either = chat_fields();
    either["messages"] = json!({"anyOf": [either["messages"], {"type": "null"}]});
    for name in ["prompt", "content"] {
        either.insert(name.to_owned(), fields::Kind::Text.schema());
    }
    for name in ["add_special_tokens", "add_special", "return_token_strs", "with_pieces"] {
        either.insert(name.to_owned(), fields::Kind::Flag.schema());
    }
    either.insert("parse_special".to_owned(), json!({"enum": [true, null]}));
    let one_of = ["prompt", "content", "messages"].map(|name| json!({"required": [name]}));
    json!({"type": "object", "properties": either, "anyOf": one_of})
}

fn tokens(schemas: &mut SchemaGenerator) -> [(&'static str, Value); 4] {
    let text = || fields::Kind::Text.schema();
    let (chat, either) = (of_chat(), of_either());
    let ids =
        json!({"type": "array", "items": {"type": "integer", "minimum": 0, "maximum": u32::MAX}});
    let ids = json!({"type": "object", "properties": {"tokens": ids, "model": text()}, "required": ["tokens"]});
    let value =
        json!({"anyOf": [{"type": "boolean"}, {"type": "number", "minimum": -1, "maximum": 1}]});
    let tags = json!({"type": ["array", "null"], "items": {"type": "string"}});
    let vote = json!({
        "type": "object", "required": ["id", "value"],
        "properties": {"id": {"type": "string"}, "value": value, "comment": text(), "tags": tags},
    });
    [
        (
            "/apply-template",
            simple::<Rendered>(schemas, "post", "A chat as the model reads it", Some(chat)),
        ),
        ("/detokenize", simple::<Text>(schemas, "post", "The text of token ids", Some(ids))),
        (
            "/tokenize",
            simple::<Tokens>(schemas, "post", "The token ids of a text or a chat", Some(either)),
        ),
        ("/v1/feedback", simple::<Recorded>(schemas, "post", "Vote on a reply", Some(vote))),
    ]
}

#[cfg(test)]
mod tests;
