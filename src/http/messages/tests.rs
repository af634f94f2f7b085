//! Tests: blocks as chat messages, and the events of a stream that has no text to send.

use super::*;
use crate::rollout::Arm;
use crate::serving::{Prompt, Usage};
use crate::text::Ending;
use crate::text::reply::Look;
use serde_json::{Value, json};

fn prompt(body: Value) -> (Value, Value, Ending) {
    let mut fields = Fields::parse(body.to_string().as_bytes()).unwrap();
    match request::prompt(&mut fields).expect("valid").prompt {
        Prompt::Chat { messages, template_kwargs, ending, .. } => {
            (messages.into(), Value::from(template_kwargs), ending)
        }
        other => panic!("{other:?}"),
    }
}

fn text(text: &str) -> Value {
    json!([{"type": "text", "text": text}])
}

#[test]
fn blocks_become_messages_in_their_order() {
    let messages = json!([
        {"role": "user", "content": "7 + 5?"},
        {"role": "assistant", "content": [
            {"type": "thinking", "thinking": "hm", "signature": "s"},
            {"type": "text", "text": "I add."},
            {"type": "tool_use", "id": "t1", "name": "add", "input": {"a": 7}},
        ]},
        {"role": "user", "content": [
            {"type": "tool_result", "tool_use_id": "t1", "content": "12", "is_error": true},
            {"type": "text", "text": "And?"},
        ]},
    ]);
    let system = json!([{"type": "text", "text": "Be brief."}]);
    let (chat, kwargs, ending) = prompt(json!({"messages": messages, "system": system}));
    let function = json!({"name": "add", "arguments": "{\"a\":7}"});
    let call = json!({"id": "t1", "type": "function", "function": function});
    let expected = json!([
        {"role": "system", "content": text("Be brief.")},
        {"role": "user", "content": text("7 + 5?")},
        {"role": "assistant", "content": text("I add."), "reasoning_content": "hm", "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "t1", "content": text("12"), "is_error": true},
        {"role": "user", "content": text("And?")},
    ]);
    assert_eq!((chat, kwargs, ending), (expected, Value::Null, Ending::Reply));
}

#[test]
fn neighbours_of_one_role_are_one_message_and_empty_systems_none() {
    let said = |role: &str, words: &str| json!({"role": role, "content": words});
    let call = |id: &str| json!({"type": "tool_use", "id": id, "name": "f", "input": {}});
    let thought = |words: &str| json!({"type": "thinking", "thinking": words, "signature": ""});
    let result = json!({"role": "user", "content": [{"type": "tool_result", "tool_use_id": "t1"}]});
    let messages = json!([
        said("user", "a"), said("user", "b"),
        {"role": "assistant", "content": [thought("1"), call("t1")]},
        {"role": "assistant", "content": [thought("2"), {"type": "text", "text": "c"}, call("t2")]},
        result, said("user", "d"), said("user", "e"), said("assistant", "f"), said("assistant", "g"),
    ]);
    let both = |a: &str, b: &str| json!([{"type": "text", "text": a}, {"type": "text", "text": b}]);
    let called = |id: &str| json!({"id": id, "type": "function", "function": {"name": "f", "arguments": "{}"}});
    let expected = json!([
        {"role": "user", "content": both("a", "b")},
        {"role": "assistant", "content": text("c"), "reasoning_content": "1\n2", "tool_calls": [called("t1"), called("t2")]},
        {"role": "tool", "tool_call_id": "t1", "content": []},
        {"role": "user", "content": both("d", "e")},
        {"role": "assistant", "content": both("f", "g")},
    ]);
    for system in [json!(null), json!(""), json!([]), json!([{"type": "text", "text": ""}])] {
        let (chat, _, ending) = prompt(json!({"messages": messages, "system": system}));
        assert_eq!((chat, ending), (expected.clone(), Ending::Continue), "{system}");
    }
}

#[test]
fn blocks_in_the_wrong_place_are_told_where_they_belong() {
    let of = |role: &str, kind: &str| {
        let body = json!({"messages": [{"role": role, "content": [{"type": kind}]}]});
        let mut fields = Fields::parse(body.to_string().as_bytes()).unwrap();
        request::prompt(&mut fields).unwrap_err().to_string()
    };
    assert!(of("assistant", "tool_result").contains("for messages of the user"));
    for kind in ["tool_use", "thinking", "redacted_thinking"] {
        assert!(of("user", kind).contains("for messages of the assistant"), "{kind}");
    }
    assert!(of("user", "image").contains("not supported yet"));
}

#[test]
fn thinking_can_be_left_out_of_a_reply() {
    use crate::text::reply::Reasoning;
    let shown = |thinking: Value| {
        let body = json!({"max_tokens": 5, "messages": [{"role": "user", "content": "Hi"}], "thinking": thinking});
        let mut fields = Fields::parse(body.to_string().as_bytes()).unwrap();
        let limits = crate::serving::Limits { max_n: 1, max_stop: 4 };
        let (id, arrived) = ("id".to_owned(), std::time::Instant::now());
        let (session, variant, party, client, key) = (None, None, None, 0, None);
        let envelope =
            Envelope { id, arrived, session, variant, marked: false, party, client, key };
        request::read(&mut fields, envelope, Rules { served: "m", limits })
            .unwrap()
            .0
            .look
            .reasoning
    };
    assert_eq!(shown(json!({"type": "adaptive", "display": "omitted"})), Reasoning::LeftOut);
    assert_eq!(shown(json!({"type": "adaptive", "display": "summarized"})), Reasoning::Apart);
    assert_eq!(shown(json!({"type": "adaptive"})), Reasoning::Apart);
}

#[test]
fn only_a_last_text_of_the_assistant_is_continued() {
    let user = json!({"role": "user", "content": "Hi"});
    let call = json!({"type": "tool_use", "id": "t", "name": "f", "input": {}});
    for (last, ending) in [
        (json!({"role": "assistant", "content": "So"}), Ending::Continue),
        (json!({"role": "assistant", "content": [call]}), Ending::Reply),
        (json!({"role": "assistant", "content": []}), Ending::Reply),
        (user.clone(), Ending::Reply),
    ] {
        assert_eq!(prompt(json!({"messages": [user, last]})).2, ending, "{last}");
    }
}

#[test]
fn thinking_is_a_wish_to_the_template() {
    let user = json!([{"role": "user", "content": "Hi"}]);
    for (more, kwargs) in [
        (
            json!({"thinking": {"type": "enabled", "budget_tokens": 5}}),
            json!({"enable_thinking": true}),
        ),
        (json!({"thinking": {"type": "disabled"}}), json!({"enable_thinking": false})),
        (json!({"thinking": {"type": "adaptive"}}), Value::Null),
        (json!({"output_config": {"effort": "low"}}), json!({"reasoning_effort": "low"})),
    ] {
        let mut body = json!({"messages": user});
        body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        assert_eq!(prompt(body).1, kwargs, "{more}");
    }
}

#[test]
fn a_stream_begins_with_what_was_read_and_pings_once_it_has_begun() {
    let (version, fingerprint) = ("v1".into(), "f".into());
    let served = Served {
        arm: Arm::Stable,
        version,
        fingerprint,
        rescued: false,
        manner: Default::default(),
    };
    let prompt = Usage { prompt_tokens: 7, completion_tokens: 0, cached_tokens: 4 };
    let (id, model, look) = ("msg_1".to_owned(), "m".to_owned(), Look::default());
    let about = About {
        id,
        model,
        look,
        one_call: false,
        stop: Vec::new(),
        most: Some(9),
        names: Names::default(),
    };
    let mut stream = Box::new(about).stream(&served);
    assert!(stream.keep_alive().starts_with(": "), "nothing comes before message_start");
    let start = stream.events(Piece::Start(served, prompt));
    let start = start.strip_prefix("event: message_start\ndata: ").unwrap();
    let start: Value = serde_json::from_str(start.lines().next().unwrap()).unwrap();
    assert_eq!(
        start["message"]["usage"],
        json!({
            "input_tokens": 3, "output_tokens": 0,
            "cache_creation_input_tokens": 0, "cache_read_input_tokens": 4,
        })
    );
    assert!(stream.keep_alive().starts_with("event: ping\n"));
    let error = stream.error(&ApiError::stopping());
    let data = error.strip_prefix("event: error\ndata: ").unwrap();
    let data: Value = serde_json::from_str(data.trim_end()).unwrap();
    assert_eq!(
        (&data["type"], &data["error"]["type"]),
        (&json!("error"), &json!("overloaded_error"))
    );
    assert_eq!(data["request_id"], "msg_1");
}
