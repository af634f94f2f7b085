//! Responses that are not streamed.

use super::*;
use crate::rollout::Arm;
use crate::serving::{Finish, LikelyToken, Usage};
use crate::text::reply::Look;
use serde_json::json;

fn head(shape: Shape, tools: bool) -> Head {
    Head {
        id: format!("{}0123456789abcdef0123456789abcdef", shape.id_prefix()),
        created: 5,
        model: "fake".to_owned(),
        shape,
        choices: 1,
        n: 1,
        kept: 1,
        look: Look { tools: tools.then(|| Vec::new().into()), ..Look::default() },
        one_call: false,
        logprobs: false,
        include_usage: false,
        continuous_usage: false,
    }
}

fn whole(shape: Shape, tools: bool, pieces: impl IntoIterator<Item = Piece>) -> Value {
    let mut whole = Whole::new(head(shape, tools), served("routed"));
    for piece in pieces {
        whole.take(piece);
    }
    whole.json().expect("JSON")
}

fn served(fingerprint: &str) -> Served {
    let version = "v1".into();
    Served {
        arm: Arm::Stable,
        version,
        fingerprint: fingerprint.into(),
        rescued: false,
        manner: Default::default(),
    }
}

fn reply(text: &str, finish: Finish) -> Vec<Piece> {
    let usage = Usage { prompt_tokens: 7, completion_tokens: 2, cached_tokens: 4 };
    vec![
        Piece::Start(served("f"), Usage::default()),
        Piece::Text { index: 0, text: text.to_owned(), tokens: Vec::new() },
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
fn a_reply_that_was_cut_says_so_even_if_it_has_calls() {
    let call = r#"<tool_call>{"name": "add", "arguments": {"a": 1}}</tool_call>"#;
    for (finish, reason) in [(Finish::Stop, "tool_calls"), (Finish::Length, "length")] {
        let answer = whole(Shape::Chat, true, reply(call, finish));
        assert_eq!(answer["choices"][0]["finish_reason"], reason);
        assert!(answer["choices"][0]["message"]["tool_calls"].is_array());
    }
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
        "function": {"name": "add", "arguments": "{\"a\": 1}"},
    }]);
    assert_eq!(choice["message"]["tool_calls"], expected);
}

#[test]
fn a_broken_call_is_text_and_those_beside_it_are_calls() {
    let whole_call = r#"<tool_call>{"name": "add", "arguments": {"a": 1}}</tool_call>"#;
    let broken = r#"<tool_call>{"name": "add", "arguments": {"a": Paris}}</tool_call>"#;
    let answer = whole(Shape::Chat, true, reply(broken, Finish::Stop));
    let choice = &answer["choices"][0];
    assert_eq!(
        (&choice["message"]["content"], &choice["finish_reason"]),
        (&json!(broken), &json!("stop"))
    );
    assert!(choice["message"].get("tool_calls").is_none());
    let both = broken.to_owned() + whole_call;
    let answer = whole(Shape::Chat, true, reply(&both, Finish::Stop));
    let choice = &answer["choices"][0];
    assert_eq!(
        (&choice["message"]["content"], &choice["finish_reason"]),
        (&json!(broken), &json!("tool_calls"))
    );
    assert_eq!(choice["message"]["tool_calls"].as_array().map(Vec::len), Some(1));
    assert_eq!(choice["message"]["tool_calls"][0]["function"]["arguments"], r#"{"a": 1}"#);
}

#[test]
fn without_tools_a_call_is_text() {
    let call = r#"<tool_call>{"name": "add", "arguments": {}}</tool_call>"#;
    let answer = whole(Shape::Chat, false, reply(call, Finish::Stop));
    assert_eq!(answer["choices"][0]["message"]["content"], call);
    assert_eq!(answer["choices"][0]["finish_reason"], "stop");
}

#[test]
fn log_probabilities_are_gathered() {
    let likely = |bytes: &[u8], logprob| LikelyToken { bytes: bytes.to_vec(), logprob };
    let token = |text: &str, offset| TokenLogprob {
        token: likely(text.as_bytes(), -0.5),
        top: vec![likely(text.as_bytes(), -0.5)],
        offset,
    };
    let piece = |text: &str, offset| Piece::Text {
        index: 0,
        text: text.to_owned(),
        tokens: vec![token(text, offset)],
    };
    let answer = |shape, tools| {
        let mut whole = Whole::new(Head { logprobs: true, ..head(shape, tools) }, served("f"));
        for piece in [piece("H", 0), piece("i", 1)] {
            whole.take(piece);
        }
        whole.json().expect("JSON")["choices"][0]["logprobs"].clone()
    };
    let written = |text: &str| {
        let mut token = json!({"token": text, "logprob": -0.5, "bytes": text.as_bytes()});
        token["top_logprobs"] = json!([token.clone()]);
        token
    };
    let chat = json!({"content": [written("H"), written("i")], "refusal": null});
    assert_eq!(answer(Shape::Chat, false), chat);
    assert_eq!(answer(Shape::Chat, true), chat);
    let plain = json!({
        "tokens": ["H", "i"], "token_logprobs": [-0.5, -0.5], "text_offset": [0, 1],
        "top_logprobs": [{"H": -0.5}, {"i": -0.5}],
    });
    assert_eq!(answer(Shape::Text, false), plain);
}

#[test]
fn calls_after_the_first_are_left_out_when_one_is_wanted() {
    let call = |name: &str| format!("<tool_call>{{\"name\": \"{name}\"}}</tool_call>");
    let both = call("first") + &call("second");
    let answer = |one_call| {
        let mut whole = Whole::new(Head { one_call, ..head(Shape::Chat, true) }, served("f"));
        for piece in reply(&both, Finish::Stop) {
            whole.take(piece);
        }
        whole.json().expect("JSON")["choices"][0].clone()
    };
    assert_eq!(answer(false)["message"]["tool_calls"].as_array().map(Vec::len), Some(2));
    let one = answer(true);
    assert_eq!(one["message"]["tool_calls"].as_array().map(Vec::len), Some(1));
    assert_eq!(one["message"]["tool_calls"][0]["function"]["name"], "first");
    assert_eq!(one["finish_reason"], "tool_calls");
}
