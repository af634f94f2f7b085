//! The operators' page over the router: its files, who gets them, its live figures, previews, and its questions.

use crate::support::*;
use axum::Router;
use axum::body::Body;
use axum::http::{Request, StatusCode};
use futures_util::StreamExt;
use serde_json::{Value, json};
use serin::http::{AppState, Live, Operators, client_app, operator_app};
use serin::serving::testing::FakeServer;
use std::time::Duration;

const TOKEN: &str = "0123456789abcdef";

/// Both listeners of a server whose page has a token.
async fn listeners() -> (Router, Router) {
    let keep = |server: &mut FakeServer| server.deployments.keep_previous = Duration::from_secs(60);
    let gateway = gateway_saying(REPLY, keep).await;
    let live = Live::default();
    live.watch(gateway.clone());
    let operators = Operators::with_token(TOKEN);
    let state = AppState { operators, live, ..state(gateway) };
    (client_app(state.clone(), &[]), operator_app(state))
}

/// A browser's request for a page's own data, or for the page if `site` is `none`.
fn browser(mut request: Request<Body>, site: &str, token: Option<&str>) -> Request<Body> {
    let headers = request.headers_mut();
    headers.insert("host", "127.0.0.1:8081".parse().unwrap());
    headers.insert("sec-fetch-site", site.parse().unwrap());
    if let Some(token) = token {
        headers.insert("authorization", format!("Bearer {token}").parse().unwrap());
    }
    local(request)
}

#[tokio::test]
async fn any_browser_on_this_machine_gets_the_files_and_nothing_else_without_the_token() {
    let (_, app) = listeners().await;
    for (path, kind) in [
        ("/", "text/html"),
        ("/ui", "text/html"),
        ("/ui/page.css", "text/css"),
        ("/ui/page.js", "text/javascript"),
        ("/ui/icon.svg", "image/svg+xml"),
        ("/ui/vendor/uplot/uPlot.iife.min.js", "text/javascript"),
    ] {
        let response = send(&app, browser(get(path), "none", None)).await;
        assert_eq!(response.status(), StatusCode::OK, "{path}");
        let header = |name: &str| response.headers()[name].to_str().unwrap().to_owned();
        assert!(header("content-type").starts_with(kind), "{path}: {}", header("content-type"));
        let policy = header("content-security-policy");
        assert!(policy.contains("default-src 'none'") && !policy.contains("unsafe"), "{policy}");
        let mut again = get(path);
        again.headers_mut().insert("if-none-match", header("etag").parse().unwrap());
        let again = send(&app, browser(again, "none", None)).await;
        assert_eq!(again.status(), StatusCode::NOT_MODIFIED, "{path}");
        let far = send(&app, from("192.0.2.7:4000", get(path))).await;
        assert_eq!(far.status(), StatusCode::FORBIDDEN, "{path}");
    }
    for path in ["/ui/nothing.js", "/ui/../mod.rs", "/ui/%2e%2e/mod.rs"] {
        let response = send(&app, browser(get(path), "none", None)).await;
        assert_eq!(response.status(), StatusCode::NOT_FOUND, "{path}");
    }
    for path in ["/admin/status", "/admin/live", "/admin/ledger", "/admin/page", "/metrics"] {
        for (site, token) in [("none", None), ("same-origin", None), ("cross-site", Some(TOKEN))] {
            let response = send(&app, browser(get(path), site, token)).await;
            assert_eq!(response.status(), StatusCode::FORBIDDEN, "{path} from {site}");
        }
    }
}

#[test]
fn no_file_of_the_page_holds_inline_script_or_names_another_host() {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/src/web/files");
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            continue;
        }
        let text = std::fs::read_to_string(&path).unwrap();
        let allowed = "http://www.w3.org/2000/svg";
        let named = text.replace(allowed, "");
        assert!(!named.contains("://"), "{} names an address", path.display());
        for bad in ["innerHTML", "outerHTML =", "eval(", "onclick=", " style=\"", "<script>"] {
            assert!(!text.contains(bad), "{} has {bad}", path.display());
        }
    }
}

#[tokio::test]
async fn programs_are_told_the_token_and_pages_are_not() {
    let (clients, app) = listeners().await;
    let told = ok(&app, local(get("/admin/page"))).await;
    assert_eq!(told, json!({"token": TOKEN}));
    let page = send(&app, browser(get("/admin/page"), "same-origin", Some(TOKEN))).await;
    assert_eq!(page.status(), StatusCode::FORBIDDEN);
    let public = text(send(&clients, get("/")).await).await;
    assert!(public.contains("serin page") && !public.contains(TOKEN), "{public}");
}

/// The next event of a stream: its id, its kind, its data.
async fn event(
    stream: &mut (impl StreamExt<Item = Result<axum::body::Bytes, axum::Error>> + Unpin),
) -> (String, String, Value) {
    let bytes = tokio::time::timeout(Duration::from_secs(10), stream.next()).await;
    let text =
        String::from_utf8(bytes.expect("in time").expect("an event").unwrap().into()).unwrap();
    let of = |field: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(field));
        line.unwrap_or_else(|| panic!("no {field} in {text}")).to_owned()
    };
    (of("id: "), of("event: "), serde_json::from_str(&of("data: ")).unwrap())
}

#[tokio::test]
async fn the_stream_begins_with_what_was_and_goes_on_every_second() {
    let (clients, app) = listeners().await;
    ok(&clients, post("/v1/chat/completions", &chat(json!({})))).await;
    let live = browser(get("/admin/live"), "same-origin", Some(TOKEN));
    let mut stream = send(&app, live).await.into_body().into_data_stream();
    let (_, kind, history) = event(&mut stream).await;
    assert_eq!((&*kind, &history["continues"]), ("history", &json!(false)));
    let names = history["names"].as_array().unwrap().len();
    let (id, kind, sample) = event(&mut stream).await;
    assert_eq!(kind, "sample");
    assert_eq!(sample["point"]["values"].as_array().unwrap().len(), names);
    let stable = &sample["status"]["arms"][0];
    assert_eq!(stable["traffic"]["classes"]["ok"], 1);
    assert_eq!(stable["traffic"]["finish_reasons"].as_object().unwrap().len(), 1);
    assert!(sample["status"]["headline"].as_str().unwrap().contains("no rollout runs"));
    drop(stream);
    let mut again = get("/admin/live");
    again.headers_mut().insert("last-event-id", id.parse().unwrap());
    let again = browser(again, "same-origin", Some(TOKEN));
    let mut stream = send(&app, again).await.into_body().into_data_stream();
    let (_, _, history) = event(&mut stream).await;
    assert_eq!(history["continues"], true);
    assert!(history["fine"]["at"].as_array().unwrap().len() <= 2, "only what is new: {history}");
}

#[tokio::test]
async fn every_order_can_be_previewed_and_a_preview_changes_nothing() {
    let (_, app) = listeners().await;
    ok(&app, local(post("/admin/canary/load", &json!({"path": "canary"})))).await;
    let revision = async || ok(&app, local(get("/admin/status"))).await["revision"].clone();
    let before = revision().await;
    for (path, more, weight) in [
        ("/admin/pause", json!({}), 5),
        ("/admin/weight", json!({"percent": 40}), 40),
        ("/admin/promote", json!({}), 5),
        ("/admin/promote", json!({"now": true}), 0),
        ("/admin/rollback", json!({}), 0),
    ] {
        let mut body = json!({"dry_run": true, "by": "ann", "reason": "to see"});
        body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        let preview = ok(&app, local(post(path, &body))).await;
        assert_eq!(preview["weight_after"], weight, "{path}: {preview}");
        assert_eq!(revision().await, before, "{path}");
    }
    let dry = json!({"dry_run": true});
    let resumed = ok(&app, local(post("/admin/resume", &dry))).await;
    assert_eq!(resumed["text"], "nothing would change");
    let (status, refused) = ask(&app, local(post("/admin/undo", &dry))).await;
    assert_eq!((status, &refused["error"]["code"]), (StatusCode::CONFLICT, &json!("no_previous")));
    let test = ask(&app, local(post("/admin/self-test", &json!({"dry_run": true})))).await;
    assert_eq!(test.0, StatusCode::BAD_REQUEST);
}

#[tokio::test]
async fn an_undo_is_previewed_with_what_becomes_of_both() {
    let (_, app) = listeners().await;
    ok(&app, local(post("/admin/canary/load", &json!({"path": "canary"})))).await;
    let status = ok(&app, local(get("/admin/status"))).await;
    let promote = json!({"now": true, "expect": status["revision"]});
    ok(&app, local(post("/admin/promote", &promote))).await;
    let preview = ok(&app, local(post("/admin/undo", &json!({"dry_run": true})))).await;
    assert_eq!(preview["stable_after"], "stable", "{preview}");
    assert_eq!(preview["arms"][0]["becomes"], "unloaded", "{preview}");
}

#[tokio::test]
async fn a_question_goes_to_the_model_it_names_and_into_no_verdict() {
    let (_, app) = listeners().await;
    ok(&app, local(post("/admin/canary/load", &json!({"path": "canary"})))).await;
    for arm in ["stable", "canary"] {
        let mut request = post("/admin/ask", &chat(json!({})));
        request.headers_mut().insert("x-serin-variant", arm.parse().unwrap());
        let response = send(&app, browser(request, "same-origin", Some(TOKEN))).await;
        assert_eq!(response.status(), StatusCode::OK);
        assert_eq!(response.headers()["x-serin-arm"], arm);
    }
    let status = ok(&app, local(get("/admin/status"))).await;
    for arm in [0, 1] {
        assert_eq!(status["arms"][arm]["figures"]["requests"], 0, "{status}");
        assert_eq!(status["arms"][arm]["traffic"]["classes"]["ok"], 1, "{status}");
    }
    assert_eq!(status["in_flight"], json!([]));
}

#[tokio::test]
async fn without_a_ledger_its_entries_are_null() {
    let (_, app) = listeners().await;
    assert_eq!(ok(&app, local(get("/admin/ledger"))).await, Value::Null);
}
