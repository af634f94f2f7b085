//! The whole API with scripted models; shared by the tests of the HTTP layer.
#![allow(dead_code)]

use axum::Router;
use axum::body::Body;
use axum::http::{Request, Response, StatusCode};
use axum::routing::any;
use serde_json::{Value, json};
use serin::access::Access;
use serin::http::{AppState, Intake, Live, Operators, Peer, client_app, operator_app};
use serin::serving::Gateway;
use serin::serving::testing::FakeServer;
use std::path::Path;
use tower::ServiceExt;

/// The reply of the scripted models.
pub const REPLY: &str = "Hello there, my friend.";
/// Maximum body size of the API here.
pub const BODY_LIMIT: usize = 64 << 10;

/// A folder with a real tokenizer and template.
pub fn text_from() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/models/tiny-v1"))
}

/// The same folder with one of the tests' chat templates.
pub fn with_template(name: &str) -> tempfile::TempDir {
    let folder = tempfile::tempdir().expect("a folder");
    for file in ["tokenizer.json", "tokenizer_config.json", "config.json"] {
        std::fs::copy(text_from().join(file), folder.path().join(file)).expect("a copy");
    }
    let templates = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/text/templates");
    let template = Path::new(templates).join(format!("{name}.jinja"));
    std::fs::copy(template, folder.path().join("chat_template.jinja")).expect("a template");
    folder
}

/// As [`gateway_saying`], with a folder of [`with_template`].
pub async fn gateway_with(
    folder: &tempfile::TempDir,
    reply: &str,
    change: impl FnOnce(&mut FakeServer),
) -> Gateway {
    let mut server = FakeServer::replying(folder.path(), 1024, reply).expect("a fake server");
    change(&mut server);
    server.start().await.expect("a started server")
}

/// A server whose models all reply `reply`; `change` may change it before the start.
pub async fn gateway_saying(reply: &str, change: impl FnOnce(&mut FakeServer)) -> Gateway {
    let mut server = FakeServer::replying(text_from(), 1024, reply).expect("a fake server");
    change(&mut server);
    server.start().await.expect("a started server")
}

/// The API over models that reply so, with a chat template that shows tools.
pub async fn saying(reply: &str) -> Router {
    api(gateway_with(&with_template("qwen25"), reply, |_| {}).await)
}

/// A call of a tool with one argument, as that template's model writes it.
pub fn call(name: &str) -> String {
    format!("<tool_call>{{\"name\": \"{name}\", \"arguments\": {{\"a\": 1}}}}</tool_call>")
}

/// The handlers' state for `gateway`.
pub fn state(gateway: Gateway) -> AppState {
    let (intake, operators) = (Intake::new(BODY_LIMIT), Operators::default());
    AppState {
        gateway,
        metrics: None,
        body_limit: BODY_LIMIT,
        intake,
        operators,
        live: Live::default(),
        access: Access::open(),
        log_requests: false,
        stable_for: Default::default(),
        recorder: None,
    }
}

/// The API for `gateway`, with both listeners' routes in one.
pub fn api(gateway: Gateway) -> Router {
    api_of(state(gateway))
}

/// As [`api`].
pub fn api_of(state: AppState) -> Router {
    let operators = operator_app(state.clone());
    let operate = any(move |request: Request<Body>| operators.oneshot(request));
    Router::new().route("/admin/{*rest}", operate).fallback_service(client_app(state, &[]))
}

/// The API over models that reply [`REPLY`].
pub async fn plain_api() -> Router {
    api(gateway_saying(REPLY, |_| {}).await)
}

/// A POST request with a JSON body.
pub fn post(path: &str, body: &Value) -> Request<Body> {
    raw_post(path, body.to_string())
}

/// A POST request with any body.
pub fn raw_post(path: &str, body: impl Into<Body>) -> Request<Body> {
    Request::post(path).body(body.into()).expect("a request")
}

/// A GET request.
pub fn get(path: &str) -> Request<Body> {
    Request::get(path).body(Body::empty()).expect("a request")
}

/// The same request from an address.
pub fn from(peer: &str, mut request: Request<Body>) -> Request<Body> {
    request.extensions_mut().insert(Peer(peer.parse().expect("an address")));
    request
}

/// The same request from this machine.
pub fn local(request: Request<Body>) -> Request<Body> {
    from("127.0.0.1:4000", request)
}

/// A chat body with `more` added.
pub fn chat(more: Value) -> Value {
    with(json!({"model": "fake", "messages": [{"role": "user", "content": "Hi"}]}), more)
}

/// A plain completion's body with `more` added.
pub fn plain(more: Value) -> Value {
    with(json!({"model": "fake", "prompt": "Once upon", "max_tokens": 100}), more)
}

fn with(mut body: Value, more: Value) -> Value {
    if let (Value::Object(body), Value::Object(more)) = (&mut body, more) {
        body.extend(more);
    }
    body
}

/// Sends a request and waits for the headers of its answer.
pub async fn send(app: &Router, request: Request<Body>) -> Response<Body> {
    app.clone().oneshot(request).await.expect("routers do not fail")
}

/// The whole body as text.
pub async fn text(response: Response<Body>) -> String {
    let bytes = axum::body::to_bytes(response.into_body(), usize::MAX).await.expect("a body");
    String::from_utf8(bytes.into()).expect("text")
}

/// Sends a request and reads its answer as JSON.
pub async fn ask(app: &Router, request: Request<Body>) -> (StatusCode, Value) {
    let response = send(app, request).await;
    let status = response.status();
    let text = text(response).await;
    (status, serde_json::from_str(&text).unwrap_or_else(|_| panic!("no JSON: {text}")))
}

/// Sends a request that must succeed.
pub async fn ok(app: &Router, request: Request<Body>) -> Value {
    let (status, body) = ask(app, request).await;
    assert_eq!(status, StatusCode::OK, "{body}");
    body
}

/// The JSON of each event of a stream; anything that is not JSON as a string.
pub fn events(stream: &str) -> Vec<Value> {
    let data = stream.split_terminator("\n\n").filter_map(|event| event.strip_prefix("data: "));
    data.map(|data| serde_json::from_str(data).unwrap_or_else(|_| Value::from(data))).collect()
}
