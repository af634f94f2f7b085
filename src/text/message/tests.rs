//! Tests: what is brought into form, what is left alone, what is refused and how it is named.

use super::*;
use serde_json::json;

fn refused(message: Value) -> String {
    let error = normalise(3, &message, Knows::default()).unwrap_err();
    assert!(error.is_client_fault());
    error.to_string()
}

#[test]
fn parts_become_one_string() {
    let parts = json!([{"type": "text", "text": "a "}, {"type": "text", "text": ""}, {"type": "text", "text": "b"}]);
    let message =
        normalise(0, &json!({"role": "user", "content": parts}), Knows::default()).unwrap();
    assert_eq!(message, json!({"role": "user", "content": "a b"}));
    let empty = normalise(0, &json!({"role": "user", "content": []}), Knows::default()).unwrap();
    assert_eq!(empty["content"], "");
}

#[test]
fn arguments_are_opened_where_they_are_an_object() {
    let call = |arguments: &str| {
        let message = json!({"role": "assistant", "content": null,
            "tool_calls": [{"function": {"name": "f", "arguments": arguments}}]});
        normalise(0, &message, Knows::default()).unwrap()["tool_calls"][0]["function"]["arguments"]
            .clone()
    };
    assert_eq!(call(r#"{"b": 1, "a": 2}"#).to_string(), r#"{"b":1,"a":2}"#);
    assert_eq!(call(""), json!({}));
    assert_eq!(call("{broken"), json!("{broken"));
    assert_eq!(call("[1]"), json!("[1]"));
}

#[test]
fn unknown_fields_pass_through_and_null_content_is_empty() {
    let message = json!({"role": "assistant", "content": null, "name": "x", "prefix": true, "tool_calls": null});
    let knowing = Knows { developer: true, no_content: false };
    let normal = normalise(0, &message, knowing).unwrap();
    assert_eq!(normal["content"], "");
    let asked = normalise(0, &message, Knows::of("{% if message['content'] is none %}")).unwrap();
    assert!(asked["content"].is_null());
    for field in ["role", "name", "prefix", "tool_calls"] {
        assert_eq!(normal[field], message[field], "{field}");
    }
}

#[test]
fn reasoning_is_found_under_each_of_its_names() {
    for name in REASONING {
        let message = json!({"role": "assistant", "content": "c", name: "why"});
        let message = normalise(0, &message, Knows::default()).unwrap();
        assert_eq!(
            (&message["reasoning_content"], &message["thinking"]),
            (&json!("why"), &json!("why"))
        );
    }
}

#[test]
fn shapes_without_sense_are_refused_by_name() {
    let image =
        json!({"role": "user", "content": [{"type": "text", "text": "?"}, {"type": "image_url"}]});
    assert_eq!(
        refused(image),
        r#"messages[3]: content[1] is of type "image_url"; this model takes text parts only"#
    );
    let cases = [
        (json!("hello"), "a message is an object, this is a string"),
        (json!({"content": "x"}), "role is missing"),
        (json!({"role": 1}), "role must be a string, this is a number"),
        (
            json!({"role": "user", "content": {"text": "x"}}),
            "content must be a string or a list of parts",
        ),
        (json!({"role": "user", "content": ["x"]}), "content[0] has no type"),
        (json!({"role": "user", "content": [{"type": "text"}]}), "no text string"),
        (
            json!({"role": "assistant", "tool_calls": {}}),
            "tool_calls must be a list, this is an object",
        ),
        (
            json!({"role": "assistant", "tool_calls": [1]}),
            "a tool call is an object, this is a number",
        ),
        (json!({"role": "assistant", "tool_calls": [{"function": "f"}]}), "function is an object"),
    ];
    for (message, what) in cases {
        let said = refused(message);
        assert!(said.starts_with("messages[3]: ") && said.contains(what), "{said}");
    }
}
