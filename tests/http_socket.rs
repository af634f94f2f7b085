//! The API over real sockets: peers, deadlines, bounds, disconnects, shutdown.
//!
//! Clients are plain blocking sockets: the runtime has threads of its own for the server.

mod http_support;

use axum::Router;
use http_support::*;
use serde_json::{Value, json};
use serin::engine::LaneStats;
use serin::gateway::Gateway;
use serin::gateway::testing::FakeServer;
use serin::http::{AdminPolicy, AppState, Bounds, app, serve};
use serin::text::Codec;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio::time::timeout;

const LONG: Duration = Duration::from_secs(20);

struct Server {
    at: SocketAddr,
    /// Kept, so that the engine outlives the sockets.
    _gateway: Gateway,
    stable: Arc<LaneStats>,
    stop: oneshot::Sender<()>,
    done: JoinHandle<()>,
}

async fn start(bounds: Bounds, change: impl FnOnce(&mut FakeServer)) -> Server {
    let gateway = gateway_saying(REPLY, change).await;
    let stable = gateway.control().models().stable.expect("stable").stats.clone();
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let at = listener.local_addr().expect("an address");
    let (stop, stopped) = oneshot::channel::<()>();
    let shutdown = async {
        let _ = stopped.await;
    };
    let done = tokio::spawn(serve(listener, wide_api(gateway.clone()), bounds, shutdown));
    Server { at, _gateway: gateway, stable, stop, done }
}

/// The API with room for long bodies.
fn wide_api(gateway: Gateway) -> Router {
    let admin = AdminPolicy::Loopback;
    app(AppState { gateway, metrics: None, body_limit: 16 << 20, admin })
}

/// A stable model that talks slowly and for long.
fn slow(server: &mut FakeServer) {
    let script = server.model("stable").expect("stable");
    script.step_time = Duration::from_millis(20);
    script.reply = script.reply.repeat(40);
}

fn connect(server: &Server, request: &str) -> TcpStream {
    let mut stream = TcpStream::connect(server.at).expect("a connection");
    stream.set_read_timeout(Some(LONG)).expect("a timeout");
    stream.write_all(request.as_bytes()).expect("written");
    stream
}

fn http_post(path: &str, body: &Value) -> String {
    let body = body.to_string();
    let length = body.len();
    format!(
        "POST {path} HTTP/1.1\r\nhost: serin\r\nconnection: close\r\ncontent-length: {length}\r\n\r\n{body}"
    )
}

fn read_all(mut stream: TcpStream) -> String {
    let mut all = Vec::new();
    stream.read_to_end(&mut all).expect("read in time");
    String::from_utf8_lossy(&all).into_owned()
}

/// Waits until `check` holds, within a bound.
async fn until(what: &str, check: impl Fn() -> bool) {
    let wait = async {
        while !check() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(LONG, wait).await.unwrap_or_else(|_| panic!("never: {what}"));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_peer_of_a_real_connection_may_operate_from_here() {
    let server = start(Bounds::default(), |_| {}).await;
    let request = "GET /admin/status HTTP/1.1\r\nhost: serin\r\nconnection: close\r\n\r\n";
    let answer = read_all(connect(&server, request));
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_leaves_cancels_its_generation() {
    let server = start(Bounds::default(), slow).await;
    let running = || server.stable.running.load(Ordering::Relaxed);
    for (cancelled, stream) in [(1, false), (2, true)] {
        let body = chat(json!({"stream": stream}));
        let client = connect(&server, &http_post("/v1/chat/completions", &body));
        until("running", || running() == 1).await;
        drop(client);
        until("cancelled", || running() == 0).await;
        assert_eq!(server.stable.cancelled.load(Ordering::Relaxed), cancelled);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn headers_that_do_not_come_end_the_connection() {
    let bounds = Bounds { headers: Duration::from_millis(200), ..Bounds::default() };
    let server = start(bounds, |_| {}).await;
    let client = connect(&server, "GET /livez HTTP/1.1\r\nhost: ser");
    read_all(client);
    let idle = connect(&server, "GET /livez HTTP/1.1\r\nhost: serin\r\n\r\n");
    assert!(read_all(idle).starts_with("HTTP/1.1 200"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_outlives_the_deadline_for_headers() {
    let bounds = Bounds { headers: Duration::from_millis(100), ..Bounds::default() };
    let server = start(bounds, slow).await;
    let body = chat(json!({"stream": true, "max_tokens": 30}));
    let answer = read_all(connect(&server, &http_post("/v1/chat/completions", &body)));
    assert!(answer.contains("data: [DONE]"), "{answer}");
}

/// The answer is far longer than what the system's buffers take off the server.
#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_does_not_read_is_let_go() {
    let bounds = Bounds { unread: Duration::from_millis(300), ..Bounds::default() };
    let server = start(bounds, |_| {}).await;
    let longest = longest_token();
    let body = json!({"tokens": vec![longest; 2_500_000]});
    let request = http_post("/detokenize", &body);
    let expected = read_all(connect(&server, &request)).len();
    let lazy = connect(&server, &request);
    tokio::time::sleep(Duration::from_secs(3)).await;
    let mut got = Vec::new();
    let _ = { lazy }.read_to_end(&mut got);
    assert!(got.len() < expected, "all {expected} bytes were delivered");
}

/// The id that spells the longest text.
fn longest_token() -> u32 {
    let codec = Codec::load(text_from(), 1024).expect("a tokenizer");
    let length = |id: &u32| codec.decode(&[*id], false).map_or(0, |text| text.len());
    (0..1024).max_by_key(length).expect("a vocabulary")
}

/// Beyond the bound, those who look after the server get through and clients are told to come back.
#[tokio::test(flavor = "multi_thread")]
async fn beyond_the_bound_there_is_room_for_care_only() {
    let server = start(Bounds { connections: 1, ..Bounds::default() }, |_| {}).await;
    let first = connect(&server, "");
    until("taken", || !ask_for(&server, "/v1/models").starts_with("HTTP/1.1 200")).await;
    let told = ask_for(&server, "/v1/models");
    assert!(told.starts_with("HTTP/1.1 503") && told.contains("retry-after"), "{told}");
    for path in ["/livez", "/readyz", "/admin/status"] {
        let answer = ask_for(&server, path);
        assert!(answer.starts_with("HTTP/1.1 200"), "{path}: {answer}");
    }
    drop(first);
    until("free", || ask_for(&server, "/v1/models").starts_with("HTTP/1.1 200")).await;
}

fn ask_for(server: &Server, path: &str) -> String {
    let request = format!("GET {path} HTTP/1.1\r\nhost: serin\r\nconnection: close\r\n\r\n");
    read_all(connect(server, &request))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shutdown_lets_replies_finish() {
    let server = start(Bounds::default(), slow).await;
    let body = chat(json!({"max_tokens": 30}));
    let client = connect(&server, &http_post("/v1/chat/completions", &body));
    until("running", || server.stable.running.load(Ordering::Relaxed) == 1).await;
    server.stop.send(()).expect("a running server");
    let answer = read_all(client);
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    timeout(LONG, server.done).await.expect("in time").expect("no panic");
    assert!(TcpStream::connect(server.at).is_err(), "the port is closed");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shutdown_does_not_wait_beyond_its_grace() {
    let bounds = Bounds { grace: Duration::from_millis(100), ..Bounds::default() };
    let server = start(bounds, slow).await;
    let client = connect(&server, &http_post("/v1/chat/completions", &chat(json!({}))));
    until("running", || server.stable.running.load(Ordering::Relaxed) == 1).await;
    server.stop.send(()).expect("a running server");
    timeout(Duration::from_secs(5), server.done).await.expect("in time").expect("no panic");
    until("cancelled", || server.stable.running.load(Ordering::Relaxed) == 0).await;
    drop(client);
}
