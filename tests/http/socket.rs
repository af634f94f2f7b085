//! The API over real sockets: addresses, deadlines, limits, disconnects, shutdown.
//!
//! Clients are plain blocking sockets; the server runs on the runtime's own threads.

use crate::support::*;
use axum::Router;
use serde_json::{Value, json};
use serin::engine::LaneStats;
use serin::http::{AppState, Bounds, Intake, Lifecycle, Phase, serve};
use serin::serving::Gateway;
use serin::serving::testing::FakeServer;
use serin::text::Codec;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio::time::timeout;

const LONG: Duration = Duration::from_secs(20);

struct Server {
    at: SocketAddr,
    /// Kept, so that the engine outlives the sockets.
    _gateway: Gateway,
    stable: Arc<LaneStats>,
    lifecycle: Lifecycle,
    done: JoinHandle<()>,
}

async fn start(bounds: Bounds, change: impl FnOnce(&mut FakeServer)) -> Server {
    let gateway = gateway_saying(REPLY, change).await;
    let stable = gateway.control().models().stable.expect("stable").stats.clone();
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let at = listener.local_addr().expect("an address");
    let lifecycle = Lifecycle::new();
    let api = wide_api(gateway.clone());
    let done = tokio::spawn(serve(listener, api, bounds, lifecycle.clone()));
    Server { at, _gateway: gateway, stable, lifecycle, done }
}

/// The API of both listeners, with room for long bodies.
fn wide_api(gateway: Gateway) -> Router {
    api_of(AppState { body_limit: 16 << 20, intake: Intake::new(16 << 20), ..state(gateway) })
}

/// A stable model that generates slowly and for long.
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
        "POST {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\ncontent-length: {length}\r\n\r\n{body}"
    )
}

fn read_all(mut stream: TcpStream) -> String {
    let mut all = Vec::new();
    stream.read_to_end(&mut all).expect("read in time");
    String::from_utf8_lossy(&all).into_owned()
}

/// Waits until `check` holds, for a limited time.
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
    let request = "GET /admin/status HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n";
    let answer = read_all(connect(&server, request));
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_leaves_cancels_its_generation() {
    let server = start(Bounds::default(), slow).await;
    let running = || server.stable.read().running;
    for (cancelled, stream) in [(1, false), (2, true)] {
        let body = chat(json!({"stream": stream}));
        let client = connect(&server, &http_post("/v1/chat/completions", &body));
        until("running", || running() == 1).await;
        drop(client);
        until("cancelled", || running() == 0).await;
        assert_eq!(server.stable.read().cancelled, cancelled);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn headers_that_do_not_come_end_the_connection() {
    let short = Duration::from_millis(200);
    let bounds = Bounds { headers: short, keep_alive: short, ..Bounds::default() };
    let server = start(bounds, |_| {}).await;
    let client = connect(&server, "GET /livez HTTP/1.1\r\nhost: ser");
    read_all(client);
    let idle = connect(&server, "GET /livez HTTP/1.1\r\nhost: localhost\r\n\r\n");
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

/// The answer is far longer than what the system's buffers take from the server.
#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_does_not_read_is_let_go() {
    let unread = Duration::from_millis(300);
    let server = start(Bounds { unread, ..Bounds::default() }, |_| {}).await;
    let longest = longest_token();
    let body = json!({"tokens": vec![longest; 2_500_000]});
    let request = http_post("/detokenize", &body);
    let expected = read_all(connect(&server, &request)).len();
    let mut lazy = connect(&server, &request);
    lazy.set_read_timeout(None).unwrap();
    // The answer has begun; how long it takes until then depends on the machine.
    let mut got = vec![0];
    lazy.read_exact(&mut got).unwrap();
    tokio::time::sleep(10 * unread).await;
    let _ = lazy.read_to_end(&mut got);
    assert!(got.len() < expected, "all {expected} bytes were delivered");
}

/// The id with the longest text.
fn longest_token() -> u32 {
    let codec = Codec::load(text_from(), 1024).expect("a tokenizer");
    let length = |id: &u32| codec.decode(&[*id], false).map_or(0, |text| text.len());
    (0..1024).max_by_key(length).expect("a vocabulary")
}

/// Beyond the limit, probes and operators get through, and clients are told to come back later.
#[tokio::test(flavor = "multi_thread")]
async fn beyond_the_bound_there_is_room_for_care_only() {
    let server = start(Bounds { connections: 1, ..Bounds::default() }, slow).await;
    let first = connect(&server, &http_post("/v1/chat/completions", &chat(json!({}))));
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
    let request = format!("GET {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n");
    read_all(connect(server, &request))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shutdown_lets_replies_finish() {
    let server = start(Bounds::default(), slow).await;
    let body = chat(json!({"max_tokens": 30}));
    let client = connect(&server, &http_post("/v1/chat/completions", &body));
    until("running", || server.stable.read().running == 1).await;
    server.lifecycle.enter(Phase::Draining);
    let answer = read_all(client);
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    timeout(LONG, server.done).await.expect("in time").expect("no panic");
    assert!(TcpStream::connect(server.at).is_err(), "the port is closed");
}

/// Cut off: a stream ends with an error and no `[DONE]`, a non-streamed reply is a 503, and nothing is waited
/// for.
#[tokio::test(flavor = "multi_thread")]
async fn what_the_end_cuts_off_is_told_so() {
    let server = start(Bounds::default(), slow).await;
    let ask = |stream: bool| http_post("/v1/chat/completions", &chat(json!({"stream": stream})));
    let (streamed, whole) = (connect(&server, &ask(true)), connect(&server, &ask(false)));
    until("running", || server.stable.read().running == 2).await;
    server.lifecycle.enter(Phase::Leaving);
    assert!(ask_for(&server, "/readyz").starts_with("HTTP/1.1 503"));
    assert!(ask_for(&server, "/v1/models").starts_with("HTTP/1.1 200"), "still taken");
    server.lifecycle.enter(Phase::Draining);
    server.lifecycle.enter(Phase::CutOff);
    timeout(Duration::from_secs(5), server.done).await.expect("in time").expect("no panic");
    let (streamed, whole) = (read_all(streamed), read_all(whole));
    assert!(streamed.contains("shutting_down") && !streamed.contains("[DONE]"), "{streamed}");
    assert!(whole.starts_with("HTTP/1.1 503") && whole.contains("shutting_down"), "{whole}");
    until("cancelled", || server.stable.read().running == 0).await;
}

/// Far more silent connections than the limit, together with probes and honest requests.
#[tokio::test(flavor = "multi_thread")]
async fn silence_takes_nobodys_room() {
    let server = start(Bounds { connections: 64, ..Bounds::default() }, |_| {}).await;
    let _silent: Vec<_> = (0..600).map(|_| connect(&server, "")).collect();
    for path in ["/livez", "/v1/models", "/admin/status"] {
        let answer = ask_for(&server, path);
        assert!(answer.starts_with("HTTP/1.1 200"), "{path}: {answer}");
    }
    let answer = read_all(connect(&server, &http_post("/v1/chat/completions", &chat(json!({})))));
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
}

/// Bodies that arrive one byte at a time hold connections, and lose them when others need them.
#[tokio::test(flavor = "multi_thread")]
async fn slow_bodies_take_nobodys_room() {
    let server = start(Bounds { connections: 64, ..Bounds::default() }, |_| {}).await;
    let head =
        "POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\ncontent-length: 100000\r\n\r\n{";
    let mut slow: Vec<_> = (0..300).map(|_| connect(&server, head)).collect();
    for path in ["/livez", "/v1/models"] {
        let answer = ask_for(&server, path);
        assert!(answer.starts_with("HTTP/1.1 200"), "{path}: {answer}");
    }
    let answer = read_all(connect(&server, &http_post("/v1/chat/completions", &chat(json!({})))));
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    let last = slow.pop().expect("one");
    let told = read_all(last);
    assert!(told.starts_with("HTTP/1.1 408"), "too slow: {told}");
}

/// Far more simultaneous requests than the limit are all answered: with a result or with "come back later".
#[tokio::test(flavor = "multi_thread")]
async fn a_burst_of_requests_is_answered_to_the_last() {
    let bounds = Bounds { connections: 16, pending_per_client: 8, ..Bounds::default() };
    let server = start(bounds, |_| {}).await;
    let request = "GET /v1/models HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n";
    let burst: Vec<_> = (0..400).map(|_| connect(&server, request)).collect();
    for answer in burst.into_iter().map(read_all) {
        assert!(
            answer.starts_with("HTTP/1.1 200") || answer.starts_with("HTTP/1.1 503"),
            "{answer:?}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_that_is_too_long_is_answered_while_it_is_written() {
    let server = start(Bounds::default(), |_| {}).await;
    let body = json!({"tokens": "x".repeat(40 << 20)});
    let answer = read_all(connect(&server, &http_post("/detokenize", &body)));
    assert!(answer.starts_with("HTTP/1.1 413"), "{answer}");
}
