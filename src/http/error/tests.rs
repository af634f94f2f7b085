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

#[test]
fn only_refusals_for_lack_of_room_ask_for_a_retry() {
    let after = |error: &GatewayError| {
        let response = ApiError::gateway(error, "prompt").into_response();
        response.headers().get(header::RETRY_AFTER).cloned()
    };
    let busy = after(&GatewayError::Busy { waiting: 1 }).expect("a Retry-After");
    assert!(["1", "2", "3"].contains(&busy.to_str().unwrap()));
    assert!(after(&GatewayError::Unavailable("loading".into())).is_some());
    assert!(after(&GatewayError::Model("NaN".into())).is_none());
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
