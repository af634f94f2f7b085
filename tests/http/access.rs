//! Keys over the API: which route needs which key, limits per key, request ids, codings, paths, and web pages.

use crate::support::*;
use axum::Router;
use axum::body::Body;
use axum::http::{HeaderMap, Request, Response, StatusCode};
use futures_util::StreamExt;
use serde_json::{Value, json};
use serin::access::{Access, KeyLimits, KeysFile, NewKey, Scope};
use serin::http::{
    AppState, Bounds, CLIENTS, LIMIT_HEADERS, Lifecycle, Needs, OPERATORS, client_app,
    operator_app, serve,
};
use serin::serving::Gateway;
use serin::serving::testing::FakeServer;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

const CHAT: &str = "/v1/chat/completions";
const FAR: &str = "192.0.2.7:4000";
const HERE: &str = "127.0.0.1:4000";

/// Keys by scope, in force.
struct Keys {
    access: Access,
    secrets: Vec<(Scope, String)>,
}

impl Keys {
    fn with(limits: KeyLimits) -> Keys {
        let folder = tempfile::tempdir().unwrap();
        let mut file = KeysFile::at(folder.path().join("keys.toml"));
        let now = "2027-01-01T00:00:00Z".parse().unwrap();
        let secrets = (1u8..).zip(Scope::ALL).map(|(number, scope)| {
            let (name, scopes) = (scope.to_string(), vec![scope]);
            let asked = NewKey { name, scopes, limits, expires: None };
            let (_, secret) = file.add(asked, ([number; 4], [number; 32]), now).unwrap();
            (scope, secret.reveal().to_owned())
        });
        let secrets = secrets.collect();
        Keys { access: Access::with(file.read().unwrap()), secrets }
    }

    fn of(&self, scope: Scope) -> &str {
        &self.secrets.iter().find(|(of, _)| *of == scope).unwrap().1
    }
}

async fn gateway() -> Gateway {
    let keep = |server: &mut FakeServer| server.deployments.keep_previous = Duration::from_secs(60);
    gateway_saying(REPLY, keep).await
}

fn state_with(gateway: Gateway, keys: &Keys) -> AppState {
    AppState { access: keys.access.clone(), ..state(gateway) }
}

/// A request for a route, from an address, with a method that the route has.
fn to(path: &str, peer: &str, headers: &[(&str, &str)]) -> Request<Body> {
    let get = [
        "/",
        "/livez",
        "/readyz",
        "/health",
        "/version",
        "/metrics",
        "/docs",
        "/openapi.json",
        "/models",
        "/v1/models",
        "/models/{*id}",
        "/v1/models/{*id}",
        "/responses/{id}",
        "/v1/responses/{id}",
        "/responses/{id}/input_items",
        "/v1/responses/{id}/input_items",
        "/admin/status",
        "/admin/ledger",
        "/admin/page",
        "/admin/live",
        "/admin/events",
    ];
    let get = get.contains(&path) || path.starts_with("/ui");
    let path = path.replace("{*id}", "fake").replace("{*name}", "page.css");
    let path = path.replace("{*rest}", "x").replace("{id}", "resp_1");
    let mut request = Request::builder().method(if get { "GET" } else { "POST" }).uri(path);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    from(peer, request.body(Body::from(if get { "" } else { "{" })).unwrap())
}

async fn code(response: Response<Body>) -> (u16, String) {
    let status = response.status().as_u16();
    let body: Value = serde_json::from_str(&text(response).await).unwrap_or_default();
    let error = &body["error"];
    let code = error["code"].as_str().or(error["type"].as_str());
    (status, code.unwrap_or_default().to_owned())
}

/// Every route of the clients' listener, with no key, a key of each scope, and a wrong one.
#[tokio::test]
async fn each_route_for_clients_is_open_to_its_keys_and_to_no_others() {
    let keys = Keys::with(KeyLimits::default());
    let app = client_app(state_with(gateway().await, &keys), &[]);
    for (path, needs) in CLIENTS {
        let (lacking, unknown) = match path.contains("/messages") {
            true => ("permission_error", "authentication_error"), // Anthropic's form
            false => ("missing_scope", "invalid_api_key"),
        };
        let closed = |scope: Option<Scope>| match (needs, scope) {
            (Needs::Nothing, _) => None,
            (Needs::Key(needed), Some(scope)) if scope == *needed => None,
            (Needs::Key(_), Some(_)) => Some((403, lacking)),
            (Needs::Key(_), None) => Some((401, unknown)),
        };
        let wrong = "sk-serin-AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA";
        let mut cases = vec![(None, None), (Some(wrong.to_owned()), None)];
        cases.extend(keys.secrets.iter().map(|(scope, key)| (Some(key.clone()), Some(*scope))));
        for (shown, scope) in cases {
            let bearer = shown.as_ref().map(|key| ("authorization", format!("Bearer {key}")));
            let plain = shown.as_ref().map(|key| ("x-api-key", key.clone()));
            for header in [bearer, plain] {
                let header = header.as_ref().map(|(name, value)| (*name, value.as_str()));
                // The address makes no difference.
                for peer in [FAR, HERE] {
                    let request = to(path, peer, header.as_slice());
                    let response = send(&app, request).await;
                    let asks = response.headers().contains_key("www-authenticate");
                    let got = code(response).await;
                    let what = format!("{path} with {scope:?} {shown:?}: {got:?}");
                    match closed(scope) {
                        Some((status, name)) => {
                            assert_eq!((got.0, got.1.as_str()), (status, name), "{what}");
                            assert_eq!(asks, status == 401, "{what}");
                        }
                        None => {
                            assert!(![401, 403, 405].contains(&got.0), "{what}");
                            assert_ne!(got.1, "unknown_url", "{what}");
                        }
                    }
                }
            }
        }
    }
}

/// Every route of the operators' listener: from this machine as without keys; from elsewhere by key.
#[tokio::test]
async fn each_route_for_operators_is_open_from_elsewhere_to_its_keys_only() {
    let keys = Keys::with(KeyLimits::default());
    let app = operator_app(state_with(gateway().await, &keys));
    let open = operator_app(state(gateway().await));
    for (path, needs) in OPERATORS {
        let near = send(&app, to(path, HERE, &[("host", "localhost")])).await.status();
        assert!(![401, 403].contains(&near.as_u16()), "{path}: {near}");
        let far = send(&open, to(path, FAR, &[])).await.status();
        assert_eq!(far, StatusCode::FORBIDDEN, "{path} without keys");
        for by_proxy in [false, true] {
            let host = ("host", "ops.example.com");
            let peer = if by_proxy { HERE } else { FAR };
            let via = ("x-forwarded-for", FAR);
            let common: &[(&str, &str)] = if by_proxy { &[host, via] } else { &[host] };
            let status = async |shown: Option<&str>| {
                let bearer = shown.map(|key| format!("Bearer {key}"));
                let bearer = bearer.as_ref().map(|bearer| ("authorization", bearer.as_str()));
                let headers = [common, bearer.as_slice()].concat();
                send(&app, to(path, peer, &headers)).await.status().as_u16()
            };
            for scope in Scope::ALL {
                let got = status(Some(keys.of(scope))).await;
                let may = *needs == Needs::Nothing || *needs == Needs::Key(scope);
                match may {
                    true => assert!(![401, 403].contains(&got), "{path} with {scope}: {got}"),
                    false => assert_eq!(got, 403, "{path} with {scope}"),
                }
            }
            for shown in [None, Some("sk-serin-wrong")] {
                let got = status(shown).await;
                match needs {
                    Needs::Nothing => assert!(![401, 403].contains(&got), "{path}: {got}"),
                    Needs::Key(_) => assert_eq!(got, 401, "{path} with {shown:?}"),
                }
            }
        }
    }
}

#[tokio::test]
async fn a_page_of_another_origin_may_not_operate_with_any_key() {
    let keys = Keys::with(KeyLimits::default());
    let app = operator_app(state_with(gateway().await, &keys));
    let bearer = format!("Bearer {}", keys.of(Scope::Admin));
    let host = ("host", "ops.example.com");
    let asked = async |origin: &str, site: &str| {
        let headers =
            [host, ("authorization", &bearer), ("origin", origin), ("sec-fetch-site", site)];
        send(&app, to("/admin/status", FAR, &headers)).await.status().as_u16()
    };
    assert_eq!(asked("https://ops.example.com", "same-origin").await, 200);
    assert_eq!(asked("https://evil.example", "cross-site").await, 403);
    assert_eq!(asked("https://evil.ops.example.com", "same-site").await, 403);
    assert_eq!(asked("null", "cross-site").await, 403);
}

#[tokio::test]
async fn preflights_unknown_paths_and_other_methods_need_no_key() {
    let keys = Keys::with(KeyLimits::default());
    let state = state_with(gateway().await, &keys);
    let page = "https://chat.example.com";
    let app = client_app(state.clone(), &[page.to_owned()]);
    let preflight = |path: &str| {
        Request::builder()
            .method("OPTIONS")
            .uri(path)
            .header("origin", page)
            .header("access-control-request-method", "POST")
            .header("access-control-request-headers", "authorization,content-type")
            .body(Body::empty())
            .unwrap()
    };
    let allowed = |headers: &HeaderMap| headers.get("access-control-allow-origin").cloned();
    for path in [CHAT, "/v1/models", "/metrics", "/livez", "/nowhere"] {
        let response = send(&app, preflight(path)).await;
        assert_eq!(response.status(), StatusCode::OK, "{path}");
        assert_eq!(allowed(response.headers()).unwrap(), page, "{path}");
        assert_eq!(
            response.headers()["access-control-allow-headers"],
            "authorization,content-type"
        );
    }
    let shut = client_app(state, &[]);
    let (status, body) = ask(&shut, preflight(CHAT)).await;
    assert_eq!((status.as_u16(), &body["error"]["code"]), (405, &json!("cors_not_allowed")));
    let with_origin = |mut request: Request<Body>| {
        request.headers_mut().insert("origin", page.parse().unwrap());
        request.headers_mut().insert("content-type", "application/json".parse().unwrap());
        request
    };
    let long = raw_post(CHAT, " ".repeat(BODY_LIMIT + 1));
    let mut long_with_key = with_origin(raw_post(CHAT, " ".repeat(BODY_LIMIT + 1)));
    let bearer = format!("Bearer {}", keys.of(Scope::Inference));
    long_with_key.headers_mut().insert("authorization", bearer.parse().unwrap());
    for (request, status) in [
        (get("/nowhere"), 404),
        (get("/admin/status"), 404),
        (get(CHAT), 405),
        (post(CHAT, &chat(json!({}))), 401),
        (long, 401),
        (long_with_key, 413),
    ] {
        let path = request.uri().path().to_owned();
        let response = send(&app, with_origin(request)).await;
        assert_eq!(response.status().as_u16(), status, "{path}");
        assert_eq!(allowed(response.headers()).expect("a header"), page, "{path} {status}");
        let exposed = response.headers()["access-control-expose-headers"].to_str().unwrap();
        for (requests, tokens) in LIMIT_HEADERS {
            assert!(exposed.contains(requests) && exposed.contains(tokens), "{exposed}");
        }
    }
}

/// The API for clients, for requests with a key of these limits.
async fn limited(limits: KeyLimits, change: impl FnOnce(&mut FakeServer)) -> (Router, String) {
    let keys = Keys::with(limits);
    let app = client_app(state_with(gateway_saying(REPLY, change).await, &keys), &[]);
    (app, format!("Bearer {}", keys.of(Scope::Inference)))
}

fn keyed(mut request: Request<Body>, bearer: &str) -> Request<Body> {
    request.headers_mut().insert("authorization", bearer.parse().unwrap());
    request
}

fn number(response: &Response<Body>, name: &str) -> u64 {
    response.headers()[name].to_str().unwrap().parse().unwrap()
}

#[tokio::test]
async fn requests_per_minute_are_counted_and_refused_ones_are_not() {
    let limits = KeyLimits { requests_per_minute: Some(3), ..KeyLimits::default() };
    let (app, bearer) = limited(limits, |_| {}).await;
    let asked = || send_to(&app, &bearer, CHAT, chat(json!({"max_tokens": 1})));
    for left in [2, 1, 0] {
        let response = asked().await;
        assert_eq!(response.status(), StatusCode::OK);
        assert_eq!(number(&response, "x-ratelimit-limit-requests"), 3);
        assert_eq!(number(&response, "x-ratelimit-remaining-requests"), left);
        assert!(!response.headers().contains_key("x-ratelimit-limit-tokens"));
    }
    for _ in 0..3 {
        let response = asked().await;
        assert_eq!(response.status(), StatusCode::TOO_MANY_REQUESTS);
        let wait = number(&response, "retry-after");
        assert!((19..=20).contains(&wait), "a third of a minute for each: {wait}");
        assert_eq!(number(&response, "x-ratelimit-remaining-requests"), 0);
        let body: Value = serde_json::from_str(&text(response).await).unwrap();
        assert_eq!(body["error"]["code"], "rate_limit_exceeded");
        assert_eq!(body["error"]["type"], "requests");
    }
    let models = send(&app, keyed(get("/v1/models"), &bearer)).await;
    assert_eq!(models.status(), StatusCode::OK, "only requests with a body count");
    assert_eq!(number(&models, "x-ratelimit-limit-requests"), 3);
}

async fn send_to(app: &Router, bearer: &str, path: &str, body: Value) -> Response<Body> {
    send(app, keyed(post(path, &body), bearer)).await
}

#[tokio::test]
async fn tokens_are_charged_as_they_were_used_also_of_a_reply_that_was_cancelled() {
    let limits = KeyLimits { tokens_per_minute: Some(1000), ..KeyLimits::default() };
    let slow = |server: &mut FakeServer| {
        let script = server.model("stable").unwrap();
        script.step_time = Duration::from_millis(10);
        script.reply = script.reply.repeat(40);
    };
    let (app, bearer) = limited(limits, slow).await;
    let left = async || {
        let response = send(&app, keyed(get("/v1/models"), &bearer)).await;
        number(&response, "x-ratelimit-remaining-tokens")
    };
    assert_eq!(left().await, 1000);
    let response = send_to(&app, &bearer, CHAT, chat(json!({"max_tokens": 4}))).await;
    let body: Value = serde_json::from_str(&text(response).await).unwrap();
    let used = body["usage"]["total_tokens"].as_u64().unwrap();
    let after = left().await;
    assert!(after.abs_diff(1000 - used) <= 5, "{after} of 1000 after {used}");
    let refused = send_to(&app, &bearer, CHAT, chat(json!({"max_tokens": "x"}))).await;
    assert!(!text(refused).await.is_empty());
    assert!(left().await >= after, "what no model saw costs nothing");

    let prompt = used - 4;
    let before = left().await;
    let response =
        send_to(&app, &bearer, CHAT, chat(json!({"stream": true, "max_tokens": 100}))).await;
    let mut body = response.into_body().into_data_stream();
    for _ in 0..8 {
        body.next().await.expect("an event").expect("no error");
    }
    drop(body);
    let spent = before.saturating_sub(left().await);
    assert!(spent > prompt.saturating_sub(5), "the prompt and what was generated: {spent}");
    assert!(spent < prompt + 60, "not the whole reply of 100: {spent}");
}

#[tokio::test]
async fn a_key_without_tokens_left_waits_as_long_as_it_is_told() {
    let limits = KeyLimits { tokens_per_minute: Some(10), ..KeyLimits::default() };
    let (app, bearer) = limited(limits, |_| {}).await;
    let response = send_to(&app, &bearer, CHAT, chat(json!({}))).await;
    let body: Value = serde_json::from_str(&text(response).await).unwrap();
    let used = body["usage"]["total_tokens"].as_u64().unwrap();
    let response = send_to(&app, &bearer, CHAT, chat(json!({}))).await;
    assert_eq!(response.status(), StatusCode::TOO_MANY_REQUESTS);
    let expected = (used - 10 + 1) * 6;
    let wait = number(&response, "retry-after");
    assert!(wait <= expected && wait + 2 >= expected, "{wait} s, of {used} tokens");
    let body: Value = serde_json::from_str(&text(response).await).unwrap();
    assert_eq!(body["error"]["type"], "tokens");
}

#[tokio::test]
async fn a_request_holds_its_place_until_its_body_ends_or_is_dropped() {
    let limits = KeyLimits { concurrency: Some(1), ..KeyLimits::default() };
    let (app, bearer) = limited(limits, |_| {}).await;
    let stream = || send_to(&app, &bearer, CHAT, chat(json!({"stream": true})));
    let first = stream().await;
    assert_eq!(first.status(), StatusCode::OK);
    let second = stream().await;
    assert_eq!(second.status(), StatusCode::TOO_MANY_REQUESTS);
    assert_eq!(number(&second, "retry-after"), 1);
    text(first).await;
    let third = stream().await;
    assert_eq!(third.status(), StatusCode::OK, "the first has ended");
    drop(third);
    assert_eq!(stream().await.status(), StatusCode::OK, "the third was dropped");
}

#[tokio::test]
async fn cached_prefixes_are_not_shared_between_keys_or_salts() {
    let keys = Keys::with(KeyLimits::default());
    let other = {
        // A second key with the same scope.
        let folder = tempfile::tempdir().unwrap();
        let mut file = KeysFile::at(folder.path().join("keys.toml"));
        let now = "2027-01-01T00:00:00Z".parse().unwrap();
        let mut secrets = Vec::new();
        for number in [8u8, 9] {
            let (name, scopes) = (number.to_string(), vec![Scope::Inference]);
            let asked = NewKey { name, scopes, limits: KeyLimits::default(), expires: None };
            let (_, secret) = file.add(asked, ([number; 4], [number; 32]), now).unwrap();
            secrets.push(format!("Bearer {}", secret.reveal()));
        }
        keys.access.take_up(file.read().map_err(|error| error.to_string()));
        secrets
    };
    let app = client_app(state_with(gateway().await, &keys), &[]);
    let words = "The quick brown fox jumps over the lazy dog. ".repeat(8);
    let cached = async |bearer: &str, salt: Option<&str>| {
        let body = plain(json!({"prompt": words, "max_tokens": 1, "cache_salt": salt}));
        let response = send_to(&app, bearer, "/v1/completions", body).await;
        let body: Value = serde_json::from_str(&text(response).await).unwrap();
        body["usage"]["prompt_tokens_details"]["cached_tokens"].as_u64().unwrap()
    };
    let [first, second] = [&other[0], &other[1]];
    assert_eq!(cached(first, None).await, 0);
    let hit = cached(first, None).await;
    assert!(hit > 0, "the same key finds its own prefix");
    assert_eq!(cached(second, None).await, 0, "another key does not");
    assert_eq!(cached(first, Some("a")).await, 0, "nor another salt");
    assert_eq!(cached(first, Some("a")).await, hit);
    assert_eq!(cached(second, Some("a")).await, 0);
    assert_eq!(cached(first, Some("")).await, hit, "an empty salt is none");
}

#[tokio::test]
async fn every_response_has_the_clients_id_or_an_own_one() {
    let gateway = gateway().await;
    let clients = client_app(state(gateway.clone()), &[]);
    let operators = operator_app(state(gateway));
    let cases = [
        (&clients, post(CHAT, &chat(json!({}))), 200),
        (&clients, post(CHAT, &json!({})), 400),
        (&clients, post(CHAT, &chat(json!({"stream": true}))), 200),
        (&clients, get("/livez"), 200),
        (&clients, get("/readyz"), 200),
        (&clients, get("/metrics"), 200),
        (&clients, get("/nowhere"), 404),
        (&clients, get(CHAT), 405),
        (&clients, raw_post(CHAT, " ".repeat(BODY_LIMIT + 1)), 413),
        (&operators, local(get("/admin/status")), 200),
        (&operators, from(FAR, get("/admin/status")), 403),
        (&operators, local(get("/nowhere")), 404),
    ];
    for (app, request, status) in cases {
        let (parts, body) = request.into_parts();
        let body = axum::body::to_bytes(body, usize::MAX).await.unwrap();
        for (given, taken) in [(None, false), (Some("trace-1.2_3"), true), (Some("a b\"c"), false)]
        {
            let mut request = Request::from_parts(parts.clone(), Body::from(body.clone()));
            if let Some(given) = given {
                request.headers_mut().insert("x-request-id", given.parse().unwrap());
            }
            let response = send(app, request).await;
            let what = format!("{} {status} {given:?}", parts.uri);
            assert_eq!(response.status().as_u16(), status, "{what}");
            let id = response.headers()["x-request-id"].to_str().unwrap();
            assert_eq!(Some(id) == given, taken, "{what}: {id}");
        }
    }
}

#[tokio::test]
async fn bodies_with_a_content_coding_are_refused_by_name() {
    let gateway = gateway().await;
    let app = client_app(state(gateway.clone()), &[]);
    let operators = operator_app(state(gateway));
    for coding in ["gzip", "br", "deflate", "zstd", "gzip, br"] {
        for (app, path) in [(&app, CHAT), (&app, "/tokenize"), (&operators, "/admin/pause")] {
            let mut request = local(raw_post(path, vec![31, 139, 8, 0]));
            request.headers_mut().insert("content-encoding", coding.parse().unwrap());
            let response = send(app, request).await;
            assert_eq!(response.headers()["accept-encoding"], "identity");
            let status = response.status().as_u16();
            let body: Value = serde_json::from_str(&text(response).await).unwrap();
            assert_eq!((status, &body["error"]["code"]), (415, &json!("unsupported_encoding")));
            assert!(body["error"]["message"].as_str().unwrap().contains(coding), "{body}");
        }
    }
    let mut request = post(CHAT, &chat(json!({})));
    request.headers_mut().insert("content-encoding", "identity".parse().unwrap());
    assert_eq!(send(&app, request).await.status(), StatusCode::OK);
}

#[tokio::test]
async fn trailing_and_double_slashes_reach_the_route() {
    let gateway = gateway().await;
    let app = client_app(state(gateway.clone()), &[]);
    for path in ["/v1/chat/completions/", "//v1//chat/completions", "/v1/chat/completions//"] {
        assert_eq!(
            send(&app, post(path, &chat(json!({})))).await.status(),
            StatusCode::OK,
            "{path}"
        );
    }
    for path in ["/v1/models/", "//v1/models/fake/", "/livez/", "//readyz"] {
        assert_eq!(send(&app, get(path)).await.status(), StatusCode::OK, "{path}");
    }
    let operators = operator_app(state(gateway));
    assert_eq!(send(&operators, local(get("/admin//status/"))).await.status(), StatusCode::OK);
    let far = send(&operators, from(FAR, get("//admin/status"))).await.status();
    assert_eq!(far, StatusCode::FORBIDDEN);
}

/// On an idle server with default bounds: answered, or refused for good with the bound in the message.
#[tokio::test]
async fn more_prompts_than_fit_at_once_are_answered_or_refused_with_the_bound() {
    let app = client_app(state(gateway().await), &[]);
    for (prompts, n, expected) in [(128, 2, 200), (128, 3, 400), (2048, 1, 400), (32, 8, 200)] {
        let body = json!({"prompt": vec!["Hi"; prompts], "n": n, "max_tokens": 1});
        let (status, body) = ask(&app, post("/v1/completions", &plain(body))).await;
        assert_eq!(status.as_u16(), expected, "{prompts} x {n}: {}", body["error"]);
        if expected == 200 {
            assert_eq!(body["choices"].as_array().unwrap().len(), prompts * n);
        } else {
            let message = body["error"]["message"].as_str().unwrap();
            assert!(message.contains("256") || message.contains("128 prompts"), "{message}");
        }
    }
}

/// Over a real socket, a client that sends megabytes without a key still gets to read why it is refused.
#[tokio::test(flavor = "multi_thread")]
async fn a_client_without_a_key_reads_its_401_after_a_long_body() {
    let keys = Keys::with(KeyLimits::default());
    let app = client_app(state_with(gateway().await, &keys), &[]);
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let at = listener.local_addr().unwrap();
    tokio::spawn(serve(listener, app, Bounds::default(), Lifecycle::new()));
    let answer = tokio::task::spawn_blocking(move || {
        let mut stream = TcpStream::connect(at).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        let body = " ".repeat(3 << 20);
        let head = "POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\nconnection: close";
        write!(stream, "{head}\r\ncontent-length: {}\r\n\r\n{body}", body.len()).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    });
    let answer = answer.await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 401") && answer.contains("invalid_api_key"), "{answer}");
}
