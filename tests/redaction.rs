//! What clients say is in no log, metric, alert or ledger: words that occur nowhere else are sent in every place
//! that a client can fill, over every route, with success and with errors, while everything is logged.

#[path = "http/support.rs"]
mod http_support;
#[path = "process/support.rs"]
mod process_support;

use axum::Router;
use http_support::{REPLY, gateway_saying, state};
use serde_json::{Value, json};
use serin::access::{Access, KeyLimits, KeysFile, NewKey, Scope};
use serin::alerts::{Alerts, AlertsConfig, RawWebhook, WebhookConfig};
use serin::control::{LoadOrder, Start};
use serin::http::{
    AppState, Bounds, CLIENTS, Lifecycle, OPERATORS, client_app, operator_app, serve,
};
use serin::ledger::{Ledger, Options, Stamp};
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::net::TcpListener;
use tracing_subscriber::fmt::MakeWriter;

/// The beginning of every word that must not be found.
const WORD: &str = "zqcanary";

fn word(place: &str) -> String {
    format!("{WORD}{place}")
}

/// All that is logged.
#[derive(Clone, Default)]
struct Lines(Arc<Mutex<Vec<u8>>>);

impl Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for Lines {
    type Writer = Lines;

    fn make_writer(&'a self) -> Lines {
        self.clone()
    }
}

/// Where a word is found, with what is around it.
fn found(text: &str) -> Option<String> {
    let text = text.to_lowercase();
    let at = text.find(WORD)?;
    let from = text[..at].char_indices().rev().nth(150).map_or(0, |(at, _)| at);
    Some(text[from..].chars().take(300).collect())
}

/// Sends one request on a connection of its own; the whole answer.
fn exchange(
    at: SocketAddr,
    method: &str,
    path: &str,
    headers: &[(&str, String)],
    body: &str,
) -> String {
    let mut stream = TcpStream::connect(at).expect("a connection");
    stream.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    let mut request =
        format!("{method} {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n");
    for (name, value) in headers {
        request += &format!("{name}: {value}\r\n");
    }
    request += &format!("content-length: {}\r\n\r\n{body}", body.len());
    stream.write_all(request.as_bytes()).expect("sent");
    let mut answer = Vec::new();
    // A stream of events of an operator has no end.
    let mut piece = [0; 4096];
    while let Ok(read @ 1..) = stream.read(&mut piece) {
        answer.extend_from_slice(&piece[..read]);
        if path.starts_with("/admin/live") || path.starts_with("/admin/events") {
            break;
        }
    }
    String::from_utf8_lossy(&answer).into_owned()
}

/// A body with a word in every place, as far as the server takes it.
fn body_of(path: &str) -> Value {
    let texts = json!({
        "user": word("user"), "metadata": {"note": word("metadata")}, "prompt_cache_key": word("session"),
        "safety_identifier": word("safety"), "cache_salt": word("salt"), "stop": [word("stop")], "max_tokens": 8,
    });
    let messages = json!([
        {"role": "system", "content": word("system")},
        {"role": "user", "content": word("prompt"), "name": word("name")},
        {"role": "assistant", "content": null, "tool_calls": [{"id": "a", "type": "function",
            "function": {"name": "f", "arguments": format!("{{\"x\": \"{}\"}}", word("arguments"))}}]},
        {"role": "tool", "tool_call_id": "a", "content": word("result")},
        {"role": "user", "content": word("prompt")},
    ]);
    let mut body = match path {
        "/v1/completions" | "/completions" => json!({"prompt": [word("prompt"), word("second")]}),
        "/tokenize" => return json!({"prompt": word("prompt")}),
        "/detokenize" => return json!({"tokens": [5, 6, 7]}),
        "/v1/feedback" => {
            return json!({"id": "chatcmpl-1", "value": true, "comment": word("comment"), "tags": [word("tag")]});
        }
        _ => json!({"messages": messages}),
    };
    if let (Value::Object(body), Value::Object(texts)) = (&mut body, texts) {
        body.extend(texts);
    }
    body
}

/// Bodies with a mistake each, and a word beside it.
fn wrong_bodies() -> Vec<String> {
    let good = body_of("/v1/chat/completions");
    let with = |name: &str, value: Value| {
        let mut body = good.clone();
        body[name] = value;
        body.to_string()
    };
    vec![
        String::new(),
        format!("{{\"messages\": \"{}", word("broken")),
        format!("[\"{}\"]", word("list")),
        with("temperature", json!(9)),
        with("n", json!(99)),
        with(
            "response_format",
            json!({"type": "json_schema", "json_schema": {"name": word("schema")}}),
        ),
        with("grammar", json!(word("grammar"))),
        with("logit_bias", json!({"5": 1})),
        with(
            "tools",
            json!([{"type": "function", "function": {"name": "f", "description": word("tool")}}]),
        ),
        with("tool_choice", json!({"type": "function", "function": {"name": word("choice")}})),
        with("guided_regex", json!(format!("({}", word("regex")))),
        with("guided_grammar", json!(format!("root ::= \"{}\" |", word("grammar")))),
        with(
            "guided_json",
            json!({"type": "array", "uniqueItems": true, "description": word("schema")}),
        ),
        with(
            "tools",
            json!([{"type": "function", "function": {"name": word("strict"), "strict": true,
                "parameters": {"type": "object", "properties": {word("property"):
                    {"type": "array", "uniqueItems": true}}}}}]),
        ),
        with("messages", json!([{"role": "user", "content": word("long").repeat(2000)}])),
        with(
            "messages",
            json!([{"role": "user", "content": [{"type": "image_url", "image_url": word("image")}]}]),
        ),
        word("long").repeat(9000),
    ]
}

struct Server {
    clients: SocketAddr,
    operators: SocketAddr,
    key: String,
    folder: tempfile::TempDir,
    metrics: metrics_exporter_prometheus::PrometheusHandle,
    gateway: serin::serving::Gateway,
}

async fn listen(app: Router) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let at = listener.local_addr().unwrap();
    tokio::spawn(serve(listener, app, Bounds::default(), Lifecycle::new()));
    at
}

/// A server with everything on that keeps or reports something. Its reply is a word too.
async fn start(hook: String) -> Server {
    let folder = tempfile::tempdir().unwrap();
    let metrics = serin::metrics::install().expect("a recorder");
    let raw: RawWebhook =
        serde_json::from_value(json!({"url": hook, "kinds": ["rolled_back", "undone", "noticed"]}))
            .unwrap();
    let webhooks = WebhookConfig::parse_all(vec![raw]).unwrap();
    let alerts = Alerts::start(AlertsConfig { webhooks, ..AlertsConfig::default() }).unwrap();
    let at = Stamp { unix_ms: 1, rollout: Duration::ZERO };
    let path = folder.path().join("serin.ledger");
    let (ledger, resume) = Ledger::open(&path, Options::default(), at, "0", "stable").unwrap();
    let (start, _) = Start::from_ledger(ledger, resume, Some(alerts));
    let reply = format!("{} {REPLY}", word("reply"));
    let gateway = gateway_saying(&reply, |server| server.start = start).await;
    let mut file = KeysFile::at(folder.path().join("keys.toml"));
    let scopes = Scope::ALL.to_vec();
    let limits = KeyLimits { tokens_per_minute: Some(100_000), ..KeyLimits::default() };
    let asked = NewKey { name: "one".to_owned(), scopes, limits, expires: None };
    let now = "2027-01-01T00:00:00Z".parse().unwrap();
    let (_, secret) = file.add(asked, ([1; 4], [1; 32]), now).unwrap();
    let access = Access::with(file.read().unwrap());
    let recorder = Some(metrics.clone());
    let state =
        AppState { access, log_requests: true, metrics: recorder, ..state(gateway.clone()) };
    let clients = listen(client_app(state.clone(), &["*".to_owned()])).await;
    let operators = listen(operator_app(state)).await;
    let key = secret.reveal().to_owned();
    Server { clients, operators, key, folder, metrics, gateway }
}

/// Sends everything; the answers that are errors.
fn send_everything(server: &Server, reply_id: &str) -> Vec<String> {
    let bearer = ("authorization", format!("Bearer {}", server.key));
    let more = [
        ("x-serin-session", word("header")),
        ("x-custom", word("custom")),
        ("cookie", word("cookie")),
        ("user-agent", word("agent")),
        ("x-request-id", format!("{} {}", word("id"), word("id"))),
    ];
    let wrong = [
        ("authorization", format!("Bearer sk-serin-{}", word("key"))),
        ("x-api-key", word("apikey")),
        ("authorization", format!("Basic {}", word("basic"))),
    ];
    let mut answers = Vec::new();
    let with = |first: &(&'static str, String)| [std::slice::from_ref(first), &more[..]].concat();
    for (listener, routes) in [(server.clients, CLIENTS), (server.operators, OPERATORS)] {
        for (route, _) in routes {
            let path =
                route.replace("{*id}", "fake").replace("{*name}", "x").replace("{*rest}", "x");
            let path = path.replace("{id}", "x");
            if ["/admin/canary/load", "/admin/self-test"].contains(&path.as_str()) {
                continue;
            }
            let query = format!("{path}?q={}", word("query"));
            answers.push(exchange(listener, "GET", &query, &with(&bearer), ""));
            let body = body_of(&path).to_string();
            answers.push(exchange(listener, "POST", &path, &with(&bearer), &body));
            for wrong in &wrong {
                answers.push(exchange(listener, "POST", &path, &with(wrong), &body));
            }
        }
    }
    for path in ["/v1/chat/completions", "/v1/completions", "/tokenize", "/v1/feedback"] {
        for body in wrong_bodies() {
            answers.push(exchange(server.clients, "POST", path, &with(&bearer), &body));
        }
        let mut stream = body_of(path);
        stream["stream"] = json!(true);
        exchange(server.clients, "POST", path, &with(&bearer), &stream.to_string());
    }
    let vote =
        json!({"id": reply_id, "value": false, "comment": word("comment"), "tags": [word("tag")]});
    answers.push(exchange(
        server.clients,
        "POST",
        "/v1/feedback",
        &with(&bearer),
        &vote.to_string(),
    ));
    answers.retain(|answer| !answer.starts_with("HTTP/1.1 2"));
    answers
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_that_a_client_says_is_kept_or_reported() {
    let lines = Lines::default();
    let layer = tracing_subscriber::fmt().with_max_level(tracing::Level::TRACE);
    layer.with_ansi(false).with_writer(lines.clone()).init();
    // What is looked for would be found.
    tracing::trace!("{}", word("planted"));
    assert!(
        found(&String::from_utf8_lossy(&std::mem::take(&mut *lines.0.lock().unwrap()))).is_some()
    );
    let (hook, alerts) = process_support::endpoint();
    let server = start(hook).await;
    let asked = LoadOrder::of("canary", "test");
    server.gateway.control().load_canary(asked).await.expect("a canary");
    let bearer = ("authorization", format!("Bearer {}", server.key));
    let body = body_of("/v1/chat/completions").to_string();
    let first = exchange(server.clients, "POST", "/v1/chat/completions", &[bearer], &body);
    assert!(first.starts_with("HTTP/1.1 200") && found(&first).is_some(), "it replies: {first}");
    let from = first.find("chatcmpl-").unwrap();
    let id: String =
        first[from..].chars().take_while(|c| c.is_alphanumeric() || *c == '-').collect();
    let (server, errors) = tokio::task::spawn_blocking(move || {
        let errors = send_everything(&server, &id);
        (server, errors)
    })
    .await
    .unwrap();
    let _ = server.gateway.control().rollback("test".to_owned(), None, None).await;
    server.gateway.control().flush_alerts(Duration::from_secs(5)).await;
    tokio::time::sleep(Duration::from_millis(300)).await;

    let log = String::from_utf8_lossy(&lines.0.lock().unwrap()).into_owned();
    assert!(log.contains("TRACE") && log.contains("serin::requests"), "everything is logged");
    for part in
        ["key=\"01010101\"", "status=401", "arm=stable", "completion_tokens=", "route=/v1/feedback"]
    {
        assert!(log.contains(part), "the log of requests has no {part}");
    }
    assert_eq!(found(&log), None, "in the log");
    assert!(!log.contains(&server.key), "the key is in the log");
    assert_eq!(found(&server.metrics.render()), None, "in the metrics");
    assert!(errors.len() > 60, "{} errors", errors.len());
    for error in &errors {
        assert_eq!(found(error), None, "in an error");
        assert!(!error.contains(&server.key));
    }
    let mut sent = 0;
    while let Ok((_, alert)) = alerts.recv_timeout(Duration::from_secs(1)) {
        sent += 1;
        assert_eq!(found(&alert.to_string()), None, "in an alert");
    }
    assert!(sent > 0, "no alert was sent");
    kept(server.folder.path());
}

/// Nothing in any file: the ledger and what SQLite keeps beside it.
fn kept(folder: &Path) {
    let mut bytes = 0;
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let content = std::fs::read(&path).unwrap();
        bytes += content.len();
        assert_eq!(found(&String::from_utf8_lossy(&content)), None, "in {}", path.display());
    }
    assert!(bytes > 10_000, "the ledger has entries");
}
