//! Statuses and error formats.

use super::*;
use std::time::Duration;

fn parts(error: &ApiError) -> (u16, &str, Option<&str>, Option<&str>) {
    let ErrorDetail { kind, param, code, .. } = &error.detail;
    (error.status.as_u16(), kind, param.as_deref(), code.as_deref())
}

#[test]
fn every_gateway_error_has_its_status() {
    let limit = Duration::from_secs(1);
    let length =
        GatewayError::ContextLength { max: 8, asked: 9, prompt: 8, reply: 1, withdrawn: None };
    let invalid = GatewayError::Invalid { param: "n", message: "no".into() };
    let unavailable = GatewayError::Unavailable("loading".into());
    let timeout = GatewayError::Timeout { what: "first token", limit };
    let cases = [
        (invalid, (400, INVALID, Some("n"), None)),
        (
            GatewayError::Untaken("no system".into()),
            (400, INVALID, Some("messages"), Some("unsupported_conversation")),
        ),
        (length, (400, INVALID, Some("messages"), Some("context_length_exceeded"))),
        (GatewayError::NoCanary, (404, INVALID, Some("model"), Some("model_not_found"))),
        (GatewayError::Busy { waiting: 1 }, (429, "rate_limit_error", None, Some("busy"))),
        (unavailable, (503, SERVER, None, Some("unavailable"))),
        (GatewayError::Model("NaN".into()), (500, SERVER, None, Some("model_error"))),
        (timeout, (504, SERVER, None, Some("timeout"))),
    ];
    for (error, expected) in cases {
        assert_eq!(parts(&ApiError::gateway(&error, "messages")), expected);
    }
}

#[test]
fn orders_refused_by_state_are_conflicts() {
    let status = |error: ControlError| ApiError::from(error).status.as_u16();
    assert_eq!(status(ControlError::NoCanary), 409);
    assert_eq!(status(ControlError::CanaryPresent { version: "v2".into() }), 409);
    assert_eq!(status(ControlError::Refused("paused".into())), 409);
    assert_eq!(status(ControlError::Load("no such folder".into())), 400);
    assert_eq!(status(ControlError::BadFeedback("2".into())), 400);
    assert_eq!(status(ControlError::UnknownCompletion), 404);
    assert_eq!(status(ControlError::Engine("stopped".into())), 500);
}

/// Every error of every layer, and whether it goes away by waiting.
#[test]
fn errors_that_go_away_by_waiting_say_so_and_no_others_do() {
    let limit = Duration::from_secs(1);
    let text = || "x".to_owned();
    let gateway = |error: GatewayError| ApiError::gateway(&error, "prompt");
    let control = |error: ControlError| ApiError::from(error);
    let wire = |error: WireError| ApiError::from(error);
    let soon = [
        gateway(GatewayError::Busy { waiting: 1 }),
        gateway(GatewayError::Unavailable("loading".into())),
        ApiError::not_ready("loading"),
        ApiError::full(),
        ApiError::stopping(),
        wire(WireError::Crowded),
        control(ControlError::Loading),
        control(ControlError::Resuming),
    ];
    let length =
        GatewayError::ContextLength { max: 8, asked: 9, prompt: 8, reply: 1, withdrawn: None };
    let never = [
        gateway(GatewayError::Invalid { param: "n", message: text() }),
        gateway(GatewayError::Untaken(text())),
        gateway(length),
        gateway(GatewayError::NoCanary),
        gateway(GatewayError::Model(text())),
        gateway(GatewayError::Timeout { what: "first token", limit }),
        ApiError::forbidden("no"),
        ApiError::internal(&"no"),
        ApiError::no_route("GET", "/x"),
        ApiError::operators_elsewhere("/admin"),
        ApiError::not_json(),
        ApiError::bad_method("GET", "/x"),
        ApiError::unauthorized(true),
        ApiError::unauthorized(false),
        ApiError::lacks_scope(Scope::Admin),
        ApiError::encoded("gzip"),
        wire(WireError::Malformed { what: text() }),
        wire(WireError::Broken),
        wire(WireError::TooLarge { limit: 1 }),
        wire(WireError::Slow { seconds: 1 }),
        wire(WireError::Missing { param: text() }),
        wire(WireError::WrongType { param: text(), expected: "a", got: "b" }),
        wire(WireError::BadValue { param: text(), what: text() }),
        wire(WireError::Unsupported { param: text(), what: text() }),
        wire(WireError::UnknownModel { asked: text(), served: Vec::new() }),
        control(ControlError::NoCanary),
        control(ControlError::CanaryPresent { version: text() }),
        control(ControlError::NoStable),
        control(ControlError::NoPrevious),
        control(ControlError::NothingRead),
        control(ControlError::Refused(text())),
        control(ControlError::Load(text())),
        control(ControlError::UnknownCompletion),
        control(ControlError::BadFeedback(text())),
        control(ControlError::Engine(text())),
    ];
    let after = |error: &ApiError| {
        let response = error.clone().into_response();
        let after = response.headers().get(header::RETRY_AFTER)?;
        Some(after.to_str().unwrap().parse::<u64>().unwrap())
    };
    for error in &soon {
        assert!((1..=3).contains(&after(error).expect("a Retry-After")), "{error:?}");
    }
    for error in &never {
        assert_eq!(after(error), None, "{error:?}");
    }
    for (millis, seconds) in [(0, 1), (1, 1), (1000, 1), (1001, 2), (59_500, 60)] {
        let wait = Duration::from_millis(millis);
        for exceeded in [Exceeded::Requests { limit: 1, wait }, Exceeded::Tokens { limit: 1, wait }]
        {
            assert_eq!(after(&ApiError::exceeded(&exceeded)), Some(seconds), "{millis} ms");
        }
    }
    assert_eq!(after(&ApiError::exceeded(&Exceeded::Concurrency { limit: 1 })), Some(1));
    let all: Vec<u16> = (0..3).map(retry_after).collect();
    assert_eq!(all, [1, 2, 3]);
}

#[test]
fn the_form_has_all_four_fields() {
    let body = ApiError::gateway(&GatewayError::Model("NaN".into()), "prompt").body();
    let json = serde_json::to_string(&body).unwrap();
    let expected = r#"{"error":{"message":"the model failed on this request (NaN)","type":"server_error","param":null,"code":"model_error"}}"#;
    assert_eq!(json, expected);
}

#[test]
fn internal_text_stays_inside() {
    let error = ApiError::internal(&"/secret/path");
    assert!(!error.detail.message.contains("secret"));
}
