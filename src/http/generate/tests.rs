//! When headers are sent, and what a silent stream sends.

use super::super::Peer;
use super::*;
use crate::access::{Key, KeyLimits, NewKey, Scope};
use crate::http::wire::Shape;
use crate::http::wire::reply::Head;
use crate::serving::{Finish, GatewayError, GenerateRequest, Generation, Prompt, Usage};
use crate::text::reply::Look;
use axum::http::StatusCode;
use futures_util::StreamExt;
use std::cell::RefCell;
use std::sync::Arc;
use tokio::sync::mpsc::{Sender, channel};

const SHORT: Duration = Duration::from_millis(20);
const LONG: Duration = Duration::from_secs(60);

fn head(tools: bool) -> Box<dyn Format> {
    let head = Head {
        id: "chatcmpl-1".to_owned(),
        created: 0,
        model: "fake".to_owned(),
        shape: Shape::Chat,
        choices: 1,
        look: Look { tools: tools.then(|| Vec::new().into()), ..Look::default() },
        one_call: false,
        logprobs: false,
        include_usage: false,
    };
    Box::new(head)
}

fn served(arm: Arm) -> Served {
    let (version, fingerprint) = (arm.as_str().into(), "f".into());
    Served { arm, version, fingerprint, rescued: false, manner: Default::default() }
}

/// A generation routed to the canary, with pieces sent by the test.
async fn start() -> (Replies, Sender<Piece>) {
    let request = GenerateRequest::of("chatcmpl-1", Prompt::Text("Hi".to_owned()));
    let (sender, pieces) = channel(16);
    let generation = RefCell::new(Some(Generation { routed: served(Arm::Canary), pieces }));
    let generate = async |_| Ok(generation.take().expect("one request"));
    (Replies::start(vec![request], 1, generate).await.expect("started"), sender)
}

fn text(text: &str) -> Piece {
    Piece::Text { index: 0, text: text.to_owned(), tokens: Vec::new() }
}

async fn body(response: Response) -> String {
    let bytes = axum::body::to_bytes(response.into_body(), usize::MAX).await.expect("a body");
    String::from_utf8(bytes.into()).expect("text")
}

#[tokio::test]
async fn a_failure_before_the_first_token_has_its_own_status() {
    let (replies, sender) = start().await;
    sender.send(Piece::Failed(GatewayError::Model("NaN".into()))).await.unwrap();
    let response = streamed(head(false), replies, LONG, Lifecycle::new()).await;
    assert_eq!(response.status(), StatusCode::INTERNAL_SERVER_ERROR);
    assert_eq!(response.headers()[header::CONTENT_TYPE], "application/json");
    assert_eq!(response.headers()[ARM], "canary");
}

#[tokio::test]
async fn headers_name_who_answers_and_not_who_was_to() {
    let (replies, sender) = start().await;
    sender.send(Piece::Start(served(Arm::Stable), Usage::default())).await.unwrap();
    let response = streamed(head(false), replies, LONG, Lifecycle::new()).await;
    assert_eq!(response.headers()[ARM], "stable");
    assert_eq!(response.headers()[ACCEL_BUFFERING], "no");
    assert_eq!(response.headers()[header::CACHE_CONTROL], "no-cache");
    assert_eq!(response.headers()[header::CONTENT_TYPE], "text/event-stream; charset=utf-8");
}

#[tokio::test]
async fn a_slow_first_token_does_not_keep_headers_back() {
    let (replies, sender) = start().await;
    let response = streamed(head(false), replies, SHORT, Lifecycle::new()).await;
    assert_eq!(
        (response.status(), &response.headers()[ARM]),
        (StatusCode::OK, &"canary".parse().unwrap())
    );
    for piece in [
        Piece::Start(served(Arm::Stable), Usage::default()),
        text("Hi"),
        Piece::End { index: 0, finish: Finish::Stop },
        Piece::Done(Usage::default()),
    ] {
        sender.send(piece).await.unwrap();
    }
    let body = body(response).await;
    assert!(body.starts_with(": keep-alive\n\ndata: {"), "{body}");
    assert!(body.ends_with("data: [DONE]\n\n"), "{body}");
}

#[tokio::test]
async fn silence_is_broken_by_comments() {
    let (replies, sender) = start().await;
    sender.send(Piece::Start(served(Arm::Stable), Usage::default())).await.unwrap();
    let response = streamed(head(false), replies, SHORT, Lifecycle::new()).await;
    let mut events = response.into_body().into_data_stream();
    let role = events.next().await.unwrap().unwrap();
    assert!(role.starts_with(b"data: "));
    assert_eq!(events.next().await.unwrap().unwrap(), KEEP_ALIVE);
    assert_eq!(events.next().await.unwrap().unwrap(), KEEP_ALIVE);
    drop(sender);
    let failure = events.next().await.unwrap().unwrap();
    assert!(failure.starts_with(b"data: {\"error\":"));
    assert!(events.next().await.is_none());
}

#[tokio::test]
async fn a_tool_call_under_way_is_silence_too() {
    let (replies, sender) = start().await;
    sender.send(Piece::Start(served(Arm::Stable), Usage::default())).await.unwrap();
    let response = streamed(head(true), replies, SHORT, Lifecycle::new()).await;
    let mut events = response.into_body().into_data_stream();
    events.next().await.unwrap().unwrap();
    sender.send(text("<tool_call>{\"name\": \"")).await.unwrap();
    let writer = tokio::spawn(async move {
        while sender.send(text("x")).await.is_ok() {
            tokio::time::sleep(SHORT / 10).await;
        }
    });
    assert_eq!(events.next().await.unwrap().unwrap(), KEEP_ALIVE);
    drop(events);
    writer.await.expect("the writer ends when its reader leaves");
}

#[tokio::test]
async fn dropping_the_body_drops_the_generation() {
    let (replies, sender) = start().await;
    sender.send(Piece::Start(served(Arm::Stable), Usage::default())).await.unwrap();
    let response = streamed(head(false), replies, LONG, Lifecycle::new()).await;
    assert!(!sender.is_closed());
    drop(response);
    assert!(sender.is_closed());
}

#[test]
fn a_verified_key_is_one_party_from_anywhere_and_an_address_is_one_without() {
    let key = |id: u8| {
        let asked = NewKey {
            name: "x".to_owned(),
            scopes: vec![Scope::Inference],
            limits: KeyLimits::default(),
            expires: None,
        };
        Some(Arc::new(asked.make([id; 4], [id; 32], Default::default()).0))
    };
    let headers =
        HeaderMap::from_iter([(header::AUTHORIZATION, HeaderValue::from_static("Bearer k"))]);
    let of = |peer: &str, key: Option<Arc<Key>>| {
        let peer = Some(Peer(format!("{peer}:1").parse().expect("an address")));
        let caller = Caller { peer, key, ..Caller::default() };
        let made = envelope(&headers, &caller, "id".to_owned(), Instant::now()).expect("sound");
        (made.party, made.client, made.key)
    };
    assert_eq!(of("10.0.0.1", key(1)), of("10.0.0.2", key(1)));
    assert_ne!(of("10.0.0.1", key(1)).0, of("10.0.0.1", key(2)).0);
    assert_ne!(of("10.0.0.1", key(1)).1, of("10.0.0.1", key(2)).1);
    assert_eq!(of("10.0.0.1", None).0, Some(xxh3_64(&[10, 0, 0, 1])), "as without keys");
    assert_ne!(of("10.0.0.1", None).0, of("10.0.0.2", None).0);
    assert_eq!(of("10.0.0.1", None).2, None);
}
