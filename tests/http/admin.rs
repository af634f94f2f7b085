//! Operators' commands, with scripted models.

use crate::support::*;
use axum::Router;
use axum::http::{Request, StatusCode};
use futures_util::StreamExt;
use serde_json::{Value, json};
use serin::control::{ArmStatus, Preview, Status};
use serin::http::orders::RolledBack;
use serin::serving::testing::FakeServer;
use serin_kernels::cuda::{MemoryReading, Readings};
use std::time::Duration;

async fn status(app: &Router) -> Status {
    let body = ok(app, local(get("/admin/status"))).await;
    serde_json::from_value(body).expect("a status")
}

/// An order based on the current state.
async fn order(app: &Router, path: &str, mut body: Value) -> (StatusCode, Value) {
    if path != "/admin/canary/load" {
        body["expect"] = json!(status(app).await.revision);
    }
    ask(app, local(post(path, &body))).await
}

async fn order_ok(app: &Router, path: &str, body: Value) -> Value {
    let (status, body) = order(app, path, body).await;
    assert_eq!(status, StatusCode::OK, "{body}");
    body
}

fn arm<'a>(status: &'a Status, name: &str) -> &'a ArmStatus {
    status.arms.iter().find(|arm| arm.arm == name).expect("an arm")
}

#[tokio::test]
async fn only_loopback_peers_may_operate() {
    let app = plain_api().await;
    let orders = [
        get("/admin/status"),
        post("/admin/pause", &json!({})),
        post("/admin/rollback", &json!({})),
        post("/admin/canary/load", &json!({"path": "canary"})),
    ];
    for request in orders {
        let (status, body) = ask(&app, from("192.0.2.7:4000", request)).await;
        assert_eq!(status, StatusCode::FORBIDDEN, "{body}");
        assert!(body["error"]["message"].as_str().unwrap().contains("loopback"), "{body}");
    }
    assert_eq!(ask(&app, get("/admin/status")).await.0, StatusCode::FORBIDDEN);
    for near in ["127.0.0.1:4000", "[::1]:4000", "[::ffff:127.0.0.1]:4000"] {
        assert_eq!(ask(&app, from(near, get("/admin/status"))).await.0, StatusCode::OK);
    }
    let page = Request::post("/admin/pause").header("origin", "http://example.com");
    let page = page.body(axum::body::Body::empty()).unwrap();
    assert_eq!(ask(&app, local(page)).await.0, StatusCode::FORBIDDEN);
}

#[tokio::test]
async fn an_idle_server_shows_its_stable_model() {
    let app = plain_api().await;
    let status = status(&app).await;
    assert_eq!((status.model.as_str(), status.phase.as_str()), ("fake", "idle"));
    assert_eq!((status.weight, status.steps.as_slice()), (0, &[5, 25, 50, 100][..]));
    let stable = arm(&status, "stable");
    assert!(stable.loaded && stable.lane.is_some());
    assert_eq!(stable.version.as_deref(), Some("stable"));
    assert_eq!(stable.max_model_len, Some(512));
    assert!(!arm(&status, "canary").loaded);
    assert!(status.resident_bytes > 0 && status.unloads.is_empty());
}

#[tokio::test]
async fn a_canary_is_loaded_steered_and_rolled_back() {
    let app = plain_api().await;
    let loaded = order_ok(&app, "/admin/canary/load", json!({"path": "canary"})).await;
    assert_eq!((&loaded["version"], &loaded["max_model_len"]), (&json!("canary"), &json!(512)));
    let shown = status(&app).await;
    assert_eq!((shown.phase.as_str(), shown.weight, shown.step), ("running", 5, Some(0)));
    assert!(arm(&shown, "canary").loaded && !shown.gates.is_empty());
    assert_eq!(shown.decisions[0].kind, "started");

    let paused = order_ok(&app, "/admin/pause", json!({})).await;
    assert_eq!((&paused["phase"], &paused["paused"]), (&json!("paused"), &json!(true)));
    let weighed = order_ok(&app, "/admin/weight", json!({"percent": 40})).await;
    assert_eq!((&weighed["weight"], &weighed["step"]), (&json!(40), &Value::Null));
    assert_eq!(order_ok(&app, "/admin/resume", json!({})).await["paused"], false);

    let back = order_ok(&app, "/admin/rollback", json!({"reason": "a test", "by": "me"})).await;
    let back: RolledBack = serde_json::from_value(back).unwrap();
    let unload = back.unload.expect("a report");
    let memory = unload.report;
    assert_eq!((back.version.as_deref(), unload.version.as_str()), (Some("canary"), "canary"));
    assert_eq!((memory.used_after, memory.reserved_after, memory.blocks_leaked), (0, 0, 0));
    let shown = status(&app).await;
    assert_eq!((shown.phase.as_str(), shown.weight), ("rolled_back", 0));
    assert!(shown.reason.is_some_and(|reason| reason.contains("me") && reason.contains("a test")));
    assert_eq!(shown.unloads.len(), 1);
    assert!(!arm(&status(&app).await, "canary").loaded);
}

#[tokio::test]
async fn a_canary_can_be_promoted_at_once() {
    let app = plain_api().await;
    order_ok(&app, "/admin/canary/load", json!({"path": "canary"})).await;
    let promoted = order_ok(&app, "/admin/promote", json!({"now": true})).await;
    assert_eq!(promoted["phase"], "promoted");
    assert_eq!(arm(&status(&app).await, "stable").version.as_deref(), Some("canary"));
}

#[tokio::test]
async fn orders_that_do_not_fit_the_state_are_conflicts() {
    let app = plain_api().await;
    for (path, body) in [
        ("/admin/rollback", json!({})),
        ("/admin/promote", json!({})),
        ("/admin/pause", json!({})),
        ("/admin/weight", json!({"percent": 5})),
    ] {
        let (status, answer) = order(&app, path, body).await;
        assert_eq!(status, StatusCode::CONFLICT, "{path}: {answer}");
        assert!(answer["error"]["message"].as_str().is_some_and(|m| !m.is_empty()));
    }
    order_ok(&app, "/admin/canary/load", json!({"path": "canary"})).await;
    let (status, answer) = order(&app, "/admin/canary/load", json!({"path": "canary"})).await;
    assert_eq!((status.as_u16(), &answer["error"]["code"]), (409, &json!("canary_present")));
}

#[tokio::test]
async fn orders_that_make_no_sense_are_refused() {
    let app = plain_api().await;
    for (path, body, code) in [
        ("/admin/canary/load", json!({"path": "nowhere"}), "load_failed"),
        ("/admin/canary/load", json!({"path": ""}), "invalid_value"),
        ("/admin/canary/load", json!({}), "invalid_json"),
        ("/admin/weight", json!({"percent": 101}), "invalid_value"),
        ("/admin/weight", json!({"percent": 300}), "invalid_json"),
        ("/admin/promote", json!({"nwo": true}), "invalid_json"),
        ("/admin/confirm", json!({"by": "x".repeat(200)}), "invalid_value"),
    ] {
        let (status, answer) = order(&app, path, body).await;
        assert_eq!((status.as_u16(), &answer["error"]["code"]), (400, &json!(code)), "{answer}");
    }
    let pause = local(raw_post("/admin/pause", ""));
    assert_eq!(ask(&app, pause).await.0, StatusCode::CONFLICT, "an empty body is an empty order");
}

#[tokio::test]
async fn figures_follow_the_traffic() {
    let app = plain_api().await;
    order_ok(&app, "/admin/canary/load", json!({"path": "canary"})).await;
    let body = chat(json!({"model": "fake@stable"}));
    ok(&app, post("/v1/chat/completions", &body)).await;
    let stable = arm(&status(&app).await, "stable").clone();
    assert_eq!((stable.figures.requests, stable.figures.excluded), (0, 1), "pinned is not judged");
    // The reply's last event leaves the engine shortly before the lane's figures are updated.
    let done = async {
        loop {
            let lane = arm(&status(&app).await, "stable").lane.clone().unwrap();
            if lane.figures.tokens_generated > 0 && lane.figures.running == 0 {
                return;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), done).await.expect("the figures come in");
}

#[tokio::test]
async fn of_two_operators_the_second_is_told() {
    let app = plain_api().await;
    order_ok(&app, "/admin/canary/load", json!({"path": "canary"})).await;
    let seen = status(&app).await.revision;
    let first = json!({"percent": 30, "expect": seen});
    ok(&app, local(post("/admin/weight", &first))).await;
    let second = json!({"percent": 60, "expect": seen});
    let (code, body) = ask(&app, local(post("/admin/weight", &second))).await;
    assert_eq!((code.as_u16(), &body["error"]["code"]), (412, &json!("stale_revision")));
    let blind = json!({"percent": 60});
    let (code, body) = ask(&app, local(post("/admin/weight", &blind))).await;
    assert_eq!((code.as_u16(), &body["error"]["code"]), (428, &json!("revision_required")));
    assert_eq!(status(&app).await.weight, 30);
    let (code, _) = ask(&app, local(post("/admin/rollback", &json!({})))).await;
    assert_eq!(code, StatusCode::OK, "stopping needs no revision");
}

#[tokio::test]
async fn a_rejected_version_needs_to_be_asked_for() {
    let app = plain_api().await;
    let load = json!({"path": "canary"});
    order_ok(&app, "/admin/canary/load", load.clone()).await;
    order_ok(&app, "/admin/rollback", json!({"reason": "a test"})).await;
    let (code, body) = order(&app, "/admin/canary/load", load).await;
    assert_eq!(code, StatusCode::BAD_REQUEST, "{body}");
    let text = body["error"]["message"].as_str().unwrap();
    assert!(text.contains("a test") && text.contains("--retry"), "{text}");
    assert_eq!(status(&app).await.phase, "rolled_back");
    order_ok(&app, "/admin/canary/load", json!({"path": "canary", "retry": true})).await;
    assert_eq!(status(&app).await.phase, "running");
}

/// A server whose canary has a shorter context: of its own, or because its KV cache is small.
async fn with_lesser_canary(max_len: usize, blocks: usize) -> Router {
    let change = |server: &mut FakeServer| {
        server.deployments.keep_previous = Duration::from_secs(60);
        let capacity = &mut server.model("canary").expect("a model").capacity;
        (capacity.max_len, capacity.blocks) = (max_len, blocks);
        let script = server.model("stable").expect("a model").clone();
        server.models.insert("better".into(), script);
    };
    api(gateway_saying(REPLY, change).await)
}

#[tokio::test]
async fn a_canary_that_can_do_less_needs_to_be_allowed() {
    for (max_len, blocks, less) in [
        (256, 4096, "its context is 256 tokens, stable's 512"),
        (512, 8, "its context is 128 tokens (its KV cache holds no more), stable's 512"),
    ] {
        let app = with_lesser_canary(max_len, blocks).await;
        let (code, body) = order(&app, "/admin/canary/load", json!({"path": "canary"})).await;
        assert_eq!((code.as_u16(), &body["error"]["code"]), (409, &json!("canary_does_less")));
        let text = body["error"]["message"].as_str().unwrap();
        assert!(text.contains(less) && text.contains("--allow"), "{text}");
        let shown = status(&app).await;
        assert_eq!((shown.phase.as_str(), shown.less.len()), ("idle", 0));
        assert!(!arm(&shown, "canary").loaded);
        // That was no verdict on the version.
        let allowed = json!({"path": "canary", "allow": true});
        order_ok(&app, "/admin/canary/load", allowed).await;
        let shown = status(&app).await;
        assert_eq!((shown.phase.as_str(), shown.less), ("running", vec![less.to_owned()]));
        order_ok(&app, "/admin/rollback", json!({})).await;
        assert!(status(&app).await.less.is_empty(), "it is gone");
    }
}

#[tokio::test]
async fn a_refused_comparison_costs_nobody_the_former_stable() {
    let app = with_lesser_canary(256, 4096).await;
    order_ok(&app, "/admin/canary/load", json!({"path": "better"})).await;
    order_ok(&app, "/admin/promote", json!({"now": true})).await;
    let (code, _) = order(&app, "/admin/canary/load", json!({"path": "canary"})).await;
    assert_eq!(code, StatusCode::CONFLICT);
    assert_eq!(status(&app).await.previous.as_deref(), Some("stable"));
    // What can do more is compared with what serves now.
    order_ok(&app, "/admin/canary/load", json!({"path": "canary", "allow": true})).await;
    order_ok(&app, "/admin/promote", json!({"now": true})).await;
    order_ok(&app, "/admin/canary/load", json!({"path": "better"})).await;
    assert_eq!(status(&app).await.phase, "running");
}

/// A dry run without a revision.
async fn preview(app: &Router, path: &str, mut body: Value) -> Preview {
    body["dry_run"] = json!(true);
    let body = ok(app, local(post(path, &body))).await;
    serde_json::from_value(body).expect("a preview")
}

/// Everything of a status but what passes with time.
async fn lasting(app: &Router) -> Value {
    let mut body = ok(app, local(get("/admin/status"))).await;
    for passing in [
        "stage_age_s",
        "uptime_s",
        "resident_bytes",
        "available_bytes",
        "gates",
        "forecast",
        "arms",
    ] {
        body.as_object_mut().expect("an object").remove(passing);
    }
    body
}

fn becomes(preview: &Preview) -> Vec<(&str, &str)> {
    preview.arms.iter().map(|arm| (arm.version.as_str(), arm.becomes.as_str())).collect()
}

#[tokio::test]
async fn a_dry_run_says_what_an_order_would_do_and_changes_nothing() {
    let keep = |server: &mut FakeServer| server.deployments.keep_previous = Duration::from_secs(60);
    let app = api(gateway_saying(REPLY, keep).await);
    order_ok(&app, "/admin/canary/load", json!({"path": "canary"})).await;
    let before = lasting(&app).await;

    let promoted = preview(&app, "/admin/promote", json!({"now": true, "by": "me"})).await;
    assert_eq!((promoted.weight, promoted.weight_after), (5, 0));
    assert_eq!(promoted.stable_after.as_deref(), Some("canary"));
    assert_eq!(becomes(&promoted), [("stable", "kept"), ("canary", "becomes_stable")]);
    assert!(promoted.text.starts_with("promoted from 5 % by me"), "{}", promoted.text);
    assert!(promoted.memory_back >= 1 << 20, "what the former stable holds: {promoted:?}");
    assert_eq!(promoted.memory_back, promoted.arms[0].memory);

    let later = preview(&app, "/admin/promote", json!({})).await;
    assert_eq!((later.weight_after, later.memory_back), (5, 0));
    assert_eq!(becomes(&later), [("stable", "stays"), ("canary", "stays")]);
    assert!(later.text.contains("as soon as these are met"), "{}", later.text);

    let back = preview(&app, "/admin/rollback", json!({"reason": "a test"})).await;
    assert_eq!((back.weight_after, back.stable_after.as_deref()), (0, Some("stable")));
    assert_eq!(becomes(&back), [("stable", "stays"), ("canary", "unloaded")]);
    assert_eq!((back.memory_back, back.arms[1].leaves_within_s), (back.arms[1].memory, Some(5.0)));
    assert!(back.text.contains("a test"), "{}", back.text);

    assert_eq!(lasting(&app).await, before, "nothing has changed");
    // The order itself, based on the preview.
    let body = json!({"now": true, "expect": promoted.revision});
    ok(&app, local(post("/admin/promote", &body))).await;
    assert_eq!(arm(&status(&app).await, "stable").version.as_deref(), Some("canary"));
}

#[tokio::test]
async fn a_dry_run_counts_the_requests_that_an_order_would_meet() {
    let slow = |server: &mut FakeServer| {
        server.model("canary").expect("a model").step_time = Duration::from_millis(50);
    };
    let app = api(gateway_saying(&REPLY.repeat(20), slow).await);
    order_ok(&app, "/admin/canary/load", json!({"path": "canary"})).await;
    let body = chat(json!({"model": "fake@canary", "stream": true, "max_tokens": 200}));
    let replies = [send(&app, post("/v1/chat/completions", &body)).await];
    let met = async {
        loop {
            let back = preview(&app, "/admin/rollback", json!({})).await;
            if back.arms[1].running == 1 {
                return back;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    let met = tokio::time::timeout(Duration::from_secs(10), met).await.expect("it is seen");
    assert_eq!((met.arms[0].running, met.arms[0].waiting), (0, 0));
    drop(replies);
}

#[tokio::test]
async fn a_dry_run_is_refused_where_the_order_would_be() {
    let app = plain_api().await;
    let dry = |body: Value| {
        let mut body = body;
        body["dry_run"] = json!(true);
        body
    };
    for (path, code) in [("/admin/rollback", "no_canary"), ("/admin/promote", "refused")] {
        let (status, body) = ask(&app, local(post(path, &dry(json!({}))))).await;
        assert_eq!((status.as_u16(), &body["error"]["code"]), (409, &json!(code)), "{body}");
    }
    order_ok(&app, "/admin/canary/load", json!({"path": "canary"})).await;
    let (status, body) = ask(&app, local(post("/admin/promote", &dry(json!({"expect": 1}))))).await;
    assert_eq!((status.as_u16(), &body["error"]["code"]), (412, &json!("stale_revision")));
    let (status, _) = ask(&app, local(post("/admin/self-test", &dry(json!({}))))).await;
    assert_eq!(status, StatusCode::BAD_REQUEST, "a self-test has no dry run");
}

#[tokio::test]
async fn a_promotion_can_be_undone_while_the_former_stable_is_kept() {
    let keep = |server: &mut FakeServer| server.deployments.keep_previous = Duration::from_secs(60);
    let app = api(gateway_saying(REPLY, keep).await);
    order_ok(&app, "/admin/canary/load", json!({"path": "canary"})).await;
    order_ok(&app, "/admin/promote", json!({"now": true})).await;
    let shown = status(&app).await;
    assert_eq!(shown.previous.as_deref(), Some("stable"));
    assert!(shown.unloads.is_empty());
    let (code, _) = order(&app, "/admin/canary/load", json!({"path": "nowhere"})).await;
    assert_eq!(code, StatusCode::BAD_REQUEST);
    assert_eq!(status(&app).await.previous.as_deref(), Some("stable"), "a slip costs nothing");
    order_ok(&app, "/admin/undo", json!({"reason": "regret"})).await;
    let shown = status(&app).await;
    assert_eq!(arm(&shown, "stable").version.as_deref(), Some("stable"));
    assert_eq!((shown.phase.as_str(), shown.previous), ("rolled_back", None));
    let (code, body) = order(&app, "/admin/undo", json!({})).await;
    assert_eq!((code.as_u16(), &body["error"]["code"]), (409, &json!("no_previous")));
}

#[tokio::test]
async fn a_confirmation_that_nobody_asked_for_is_refused() {
    let app = plain_api().await;
    order_ok(&app, "/admin/canary/load", json!({"path": "canary"})).await;
    let (code, body) = order(&app, "/admin/confirm", json!({})).await;
    assert_eq!((code.as_u16(), &body["error"]["code"]), (409, &json!("refused")));
}

#[tokio::test]
async fn events_tell_what_happened_to_those_who_come_late_too() {
    let app = plain_api().await;
    order_ok(&app, "/admin/canary/load", json!({"path": "canary"})).await;
    order_ok(&app, "/admin/pause", json!({"by": "me", "reason": "lunch"})).await;
    let mut request = local(get("/admin/events"));
    request.headers_mut().insert("last-event-id", "1".parse().unwrap());
    let response = send(&app, request).await;
    assert_eq!(response.headers()["content-type"], "text/event-stream; charset=utf-8");
    let mut stream = response.into_body().into_data_stream();
    let mut text = String::new();
    while !text.contains("\"paused\"") {
        let chunk = tokio::time::timeout(Duration::from_secs(5), stream.next()).await;
        text += &String::from_utf8_lossy(&chunk.expect("in time").expect("open").expect("bytes"));
    }
    assert!(!text.contains("id: 1\n") && text.contains("id: 2\n"), "{text}");
    for told in [
        "event: loaded",
        "event: weight",
        "event: decision",
        "\"by\":\"me\"",
        "lunch",
        "\"canary_load\"",
    ] {
        assert!(text.contains(told), "no {told} in {text}");
    }
}

#[tokio::test]
async fn a_self_test_judges_stable_against_itself() {
    let app = plain_api().await;
    let loaded = order_ok(&app, "/admin/self-test", json!({})).await;
    assert_eq!(loaded["version"], "stable");
    let shown = status(&app).await;
    assert!(shown.self_test && shown.phase == "running");
    let (code, _) = order(&app, "/admin/promote", json!({"now": true})).await;
    assert_eq!(code, StatusCode::CONFLICT, "a self-test promotes nothing");
    order_ok(&app, "/admin/rollback", json!({"reason": "seen enough"})).await;
    order_ok(&app, "/admin/canary/load", json!({"path": "stable"})).await;
    assert_eq!(status(&app).await.phase, "running", "what serves was not rejected with it");
}

#[tokio::test]
async fn a_device_is_shown_once_it_tells_of_itself_and_so_is_that_it_was_throttled() {
    let gateway = gateway_saying(REPLY, |_| {}).await;
    let (control, app) = (gateway.control().clone(), api(gateway));
    control.note_readings(None);
    let body = ok(&app, local(get("/admin/status"))).await;
    assert!(body.get("device").is_none(), "{body}");
    order_ok(&app, "/admin/canary/load", json!({"path": "canary"})).await;
    let readings = Readings {
        memory: Some(MemoryReading { used: 3, free: 1, total: 4 }),
        throttled: Some("power limit".to_owned()),
        ..Readings::default()
    };
    control.note_readings(Some(readings.clone()));
    tokio::time::sleep(Duration::from_millis(20)).await;
    control.note_readings(Some(readings));
    let device = status(&app).await.device.expect("a device");
    assert_eq!(
        (device.memory_used, device.memory_total, device.power_watts),
        (Some(3), Some(4), None)
    );
    assert_eq!(device.throttled.as_deref(), Some("power limit"));
    assert!(device.throttled_s > 0.0);
    order_ok(&app, "/admin/pause", json!({})).await;
    let told = status(&app).await.decisions.pop().expect("a decision");
    assert!(told.kind == "paused" && told.text.contains("the device was throttled"), "{told:?}");
}
