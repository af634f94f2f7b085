//! Whole answers.

use super::*;
use crate::gateway::Finish;
use crate::rollout::Arm;
use serde_json::json;

fn whole(shape: Shape, tools: bool, pieces: impl IntoIterator<Item = Piece>) -> Value {
    let head = Head {
        id: format!("{}0123456789abcdef0123456789abcdef", shape.id_prefix()),
        created: 5,
        model: "fake".to_owned(),
        shape,
        choices: 1,
        tools,
        include_usage: false,
    };
    let mut whole = Whole::new(head, served("routed"));
    for piece in pieces {
        whole.take(piece).expect("no failure");
    }
    whole.json().expect("JSON")
}

fn served(fingerprint: &str) -> Served {
    let version = "v1".into();
    Served { arm: Arm::Stable, version, fingerprint: fingerprint.into(), rescued: false }
}

fn reply(text: &str, finish: Finish) -> Vec<Piece> {
    let usage = Usage { prompt_tokens: 7, completion_tokens: 2, cached_tokens: 4 };
    vec![
        Piece::Start(served("f")),
        Piece::Text { index: 0, text: text.to_owned() },
        Piece::End { index: 0, finish },
        Piece::Done(usage),
    ]
}

fn usage() -> Value {
    json!({
        "prompt_tokens": 7, "completion_tokens": 2, "total_tokens": 9,
        "prompt_tokens_details": {"cached_tokens": 4},
    })
}

#[test]
fn a_chat_completion_to_the_letter() {
    let expected = json!({
        "id": "chatcmpl-0123456789abcdef0123456789abcdef", "object": "chat.completion",
        "created": 5, "model": "fake", "system_fingerprint": "f",
        "choices": [{
            "index": 0,
            "message": {"role": "assistant", "content": "Hi", "refusal": null},
            "logprobs": null, "finish_reason": "length",
        }],
        "usage": usage(),
    });
    assert_eq!(whole(Shape::Chat, false, reply("Hi", Finish::Length)), expected);
}

#[test]
fn a_plain_completion_to_the_letter() {
    let expected = json!({
        "id": "cmpl-0123456789abcdef0123456789abcdef", "object": "text_completion",
        "created": 5, "model": "fake", "system_fingerprint": "f",
        "choices": [{"text": "Hi", "index": 0, "logprobs": null, "finish_reason": "stop"}],
        "usage": usage(),
    });
    assert_eq!(whole(Shape::Text, false, reply("Hi", Finish::Stop)), expected);
}

#[test]
fn calls_alone_leave_no_content() {
    let call = r#"<tool_call>{"name": "add", "arguments": {"a": 1}}</tool_call>"#;
    let answer = whole(Shape::Chat, true, reply(call, Finish::Stop));
    let choice = &answer["choices"][0];
    assert_eq!(choice["finish_reason"], "tool_calls");
    assert_eq!(choice["message"]["content"], Value::Null);
    let expected = json!([{
        "id": "call_0123456789abcdef01230000", "type": "function",
        "function": {"name": "add", "arguments": "{\"a\":1}"},
    }]);
    assert_eq!(choice["message"]["tool_calls"], expected);
}

#[test]
fn without_tools_a_call_is_text() {
    let call = r#"<tool_call>{"name": "add", "arguments": {}}</tool_call>"#;
    let answer = whole(Shape::Chat, false, reply(call, Finish::Stop));
    assert_eq!(answer["choices"][0]["message"]["content"], call);
    assert_eq!(answer["choices"][0]["finish_reason"], "stop");
}
