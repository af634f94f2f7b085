//! Event streams, compared byte for byte.

use super::*;
use crate::rollout::Arm;
use crate::serving::LikelyToken;
use crate::text::reply::Look;
use serde_json::{Value, json};
use std::time::Duration;

/// Looks for tool calls.
fn calling() -> Look {
    Look { tools: Some(Vec::new().into()), ..Look::default() }
}

fn head(shape: Shape) -> Head {
    Head {
        id: format!("{}0123456789abcdef0123456789abcdef", shape.id_prefix()),
        created: 1_700_000_000,
        model: "fake".to_owned(),
        shape,
        choices: 1,
        n: 1,
        kept: 1,
        look: Look::default(),
        one_call: false,
        logprobs: false,
        include_usage: false,
        continuous_usage: false,
    }
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

const PROMPT: Usage = Usage { prompt_tokens: 7, completion_tokens: 0, cached_tokens: 4 };
const USAGE: Usage = Usage { prompt_tokens: 7, completion_tokens: 2, cached_tokens: 4 };

fn text(index: u32, text: &str) -> Piece {
    Piece::Text { index, text: text.to_owned(), tokens: Vec::new() }
}

fn end(index: u32) -> Piece {
    Piece::End { index, finish: Finish::Stop }
}

fn stream(head: Head, pieces: impl IntoIterator<Item = Piece>) -> String {
    let mut chunks = Chunks::new(head, &served("routed"));
    pieces.into_iter().map(|piece| chunks.events(piece)).collect()
}

/// The JSON of each event, `[DONE]` as a string.
fn events(stream: &str) -> Vec<Value> {
    let event = |event: &str| {
        let data = event.strip_prefix("data: ").expect("data");
        serde_json::from_str(data).unwrap_or_else(|_| Value::from(data))
    };
    stream.split_terminator("\n\n").map(event).collect()
}

#[test]
fn a_chat_stream_to_the_letter() {
    let pieces =
        [Piece::Start(served("v1-abc"), PROMPT), text(0, "Hi"), end(0), Piece::Done(USAGE)];
    let chunk = |choice: &str| {
        format!(
            "data: {{\"id\":\"chatcmpl-0123456789abcdef0123456789abcdef\",\
             \"object\":\"chat.completion.chunk\",\"created\":1700000000,\"model\":\"fake\",\
             \"system_fingerprint\":\"v1-abc\",\"choices\":[{{\"index\":0,{choice}}}]}}\n\n"
        )
    };
    let expected = [
        chunk(r#""delta":{"role":"assistant","content":""},"logprobs":null,"finish_reason":null"#),
        chunk(r#""delta":{"content":"Hi"},"logprobs":null,"finish_reason":null"#),
        chunk(r#""delta":{},"logprobs":null,"finish_reason":"stop""#),
        "data: [DONE]\n\n".to_owned(),
    ];
    assert_eq!(stream(head(Shape::Chat), pieces), expected.concat());
}

#[test]
fn a_plain_stream_to_the_letter() {
    let pieces = [Piece::Start(served("f"), PROMPT), text(0, "Hi"), end(0), Piece::Done(USAGE)];
    let chunk = |choice: &str| {
        format!(
            "data: {{\"id\":\"cmpl-0123456789abcdef0123456789abcdef\",\
             \"object\":\"text_completion\",\"created\":1700000000,\"model\":\"fake\",\
             \"system_fingerprint\":\"f\",\"choices\":[{{{choice}}}]}}\n\n"
        )
    };
    let expected = [
        chunk(r#""text":"Hi","index":0,"logprobs":null,"finish_reason":null"#),
        chunk(r#""text":"","index":0,"logprobs":null,"finish_reason":"stop""#),
        "data: [DONE]\n\n".to_owned(),
    ];
    assert_eq!(stream(head(Shape::Text), pieces), expected.concat());
}

#[test]
fn usage_comes_last_and_is_null_before() {
    for shape in [Shape::Chat, Shape::Text] {
        let pieces = [Piece::Start(served("f"), PROMPT), text(0, "Hi"), end(0), Piece::Done(USAGE)];
        let events = events(&stream(Head { include_usage: true, ..head(shape) }, pieces));
        let (usage, before) = events[..events.len() - 1].split_last().expect("events");
        assert!(before.iter().all(|event| event.get("usage") == Some(&Value::Null)));
        assert_eq!(usage["choices"], json!([]));
        let expected = json!({
            "prompt_tokens": 7, "completion_tokens": 2, "total_tokens": 9,
            "prompt_tokens_details": {"cached_tokens": 4},
        });
        assert_eq!(usage["usage"], expected);
        assert_eq!(events.last(), Some(&json!("[DONE]")));
    }
}

#[test]
fn each_choice_gets_its_role_and_its_end() {
    let pieces = [
        Piece::Start(served("f"), PROMPT),
        text(1, "b"),
        text(0, "a"),
        end(1),
        end(0),
        Piece::Done(USAGE),
    ];
    let events = events(&stream(Head { choices: 2, ..head(Shape::Chat) }, pieces));
    let choice = |event: &Value| event["choices"][0].clone();
    let indices: Vec<Value> =
        events[..6].iter().map(|event| choice(event)["index"].clone()).collect();
    assert_eq!(indices, [0, 1, 1, 0, 1, 0]);
    assert!(events[..2].iter().all(|event| choice(event)["delta"]["role"] == "assistant"));
    assert!(events[..4].iter().all(|event| choice(event)["finish_reason"].is_null()));
}

#[test]
fn a_failure_ends_the_stream_without_done() {
    let limit = Duration::from_secs(30);
    let failure = Piece::Failed(GatewayError::Timeout { what: "next token", limit });
    let pieces = [Piece::Start(served("f"), PROMPT), text(0, "Hi"), failure];
    let events = events(&stream(head(Shape::Chat), pieces));
    let error = &events.last().expect("events")["error"];
    assert_eq!(error["type"], "server_error");
    assert_eq!(error["code"], "timeout");
    assert_eq!(error["param"], Value::Null);
    assert!(!events.contains(&json!("[DONE]")));
}

#[test]
fn a_stream_that_was_cut_says_so_even_if_it_has_calls() {
    let call = r#"<tool_call>{"name": "add", "arguments": {"a": 1}}</tool_call>"#;
    for (finish, reason) in [(Finish::Stop, "tool_calls"), (Finish::Length, "length")] {
        let end = Piece::End { index: 0, finish };
        let pieces = [Piece::Start(served("f"), PROMPT), text(0, call), end];
        let events = events(&stream(Head { look: calling(), ..head(Shape::Chat) }, pieces));
        assert_eq!(events.last().unwrap()["choices"][0]["finish_reason"], reason);
    }
}

#[test]
fn tool_calls_become_deltas() {
    let call = r#"<tool_call>{"name": "add", "arguments": {"a": 1}}</tool_call>"#;
    let (one, two) = call.split_at(20);
    let pieces =
        [Piece::Start(served("f"), PROMPT), text(0, "Sure. "), text(0, one), text(0, two), end(0)];
    let events = events(&stream(Head { look: calling(), ..head(Shape::Chat) }, pieces));
    let deltas: Vec<&Value> = events.iter().map(|event| &event["choices"][0]["delta"]).collect();
    assert_eq!(deltas.len(), 5);
    assert_eq!(deltas[1], &json!({"content": "Sure. "}));
    let begin = json!({"tool_calls": [{
        "index": 0, "id": "call_0123456789abcdef01230000", "type": "function",
        "function": {"name": "add", "arguments": ""},
    }]});
    assert_eq!(deltas[2], &begin);
    let rest = json!({"tool_calls": [{"index": 0, "function": {"arguments": "{\"a\": 1}"}}]});
    assert_eq!(deltas[3], &rest);
    assert_eq!(deltas[4], &json!({}));
    assert_eq!(events[4]["choices"][0]["finish_reason"], "tool_calls");
}

#[test]
fn text_that_may_be_a_call_is_withheld_and_not_lost() {
    let mut chunks = Chunks::new(Head { look: calling(), ..head(Shape::Chat) }, &served("f"));
    assert_eq!(chunks.events(text(0, "<tool_")), "");
    let events = events(&chunks.events(end(0)));
    assert_eq!(events[0]["choices"][0]["delta"], json!({"content": "<tool_"}));
    assert_eq!(events[1]["choices"][0]["finish_reason"], "stop");
}

fn token(text: &str, logprob: f32, offset: usize) -> TokenLogprob {
    let likely = |bytes: &[u8], logprob| LikelyToken { bytes: bytes.to_vec(), logprob };
    let top = vec![likely(b"a", -0.25), likely(&[0xE4], -1.5)];
    TokenLogprob { token: likely(text.as_bytes(), logprob), top, offset }
}

fn carrying(text: &str, tokens: Vec<TokenLogprob>) -> Piece {
    Piece::Text { index: 0, text: text.to_owned(), tokens }
}

#[test]
fn a_chunk_carries_its_tokens_log_probabilities() {
    let pieces = [
        Piece::Start(served("f"), PROMPT),
        carrying("Hi", vec![token("H", -0.5, 0), token("i", -1.0, 1)]),
        carrying("", vec![token("", -2.0, 2)]),
        end(0),
        Piece::Done(USAGE),
    ];
    let head = |shape| Head { logprobs: true, ..head(shape) };
    let top = json!([
        {"token": "a", "logprob": -0.25, "bytes": [97]},
        {"token": "\u{FFFD}", "logprob": -1.5, "bytes": [0xE4]},
    ]);
    let written = |text: &str, logprob: f64| json!({"token": text, "logprob": logprob, "bytes": text.as_bytes(), "top_logprobs": top});
    let chat = events(&stream(head(Shape::Chat), pieces.clone()));
    let logprobs: Vec<&Value> = chat[..4].iter().map(|e| &e["choices"][0]["logprobs"]).collect();
    let both = json!({"content": [written("H", -0.5), written("i", -1.0)], "refusal": null});
    let last = json!({"content": [written("", -2.0)], "refusal": null});
    assert_eq!(logprobs, [&Value::Null, &both, &last, &Value::Null]);
    let plain = events(&stream(head(Shape::Text), pieces));
    let top = json!({"a": -0.25, "\u{FFFD}": -1.5});
    let chosen = |text: &str, logprob: f64| {
        let mut top = top.clone();
        top[text] = json!(logprob);
        top
    };
    assert_eq!(
        plain[0]["choices"][0]["logprobs"],
        json!({
            "tokens": ["H", "i"], "token_logprobs": [-0.5, -1.0], "text_offset": [0, 1],
            "top_logprobs": [chosen("H", -0.5), chosen("i", -1.0)],
        })
    );
    assert_eq!(plain[1]["choices"][0]["logprobs"]["text_offset"], json!([2]));
    assert_eq!(plain[2]["choices"][0]["logprobs"], Value::Null);
}

#[test]
fn log_probabilities_are_those_of_the_text() {
    let call = r#"<tool_call>{"name": "add", "arguments": {"a": 1}}</tool_call>"#;
    let pieces = [
        Piece::Start(served("f"), PROMPT),
        carrying("Hi", vec![token("Hi", -0.5, 0)]),
        carrying(call, vec![token("x", -0.5, 2), token("y", -0.5, 20)]),
        end(0),
    ];
    let head = Head { logprobs: true, look: calling(), ..head(Shape::Chat) };
    let events = events(&stream(head, pieces));
    let count = |event: &Value| event["choices"][0]["logprobs"]["content"].as_array().map(Vec::len);
    let counts: Vec<Option<usize>> = events.iter().map(count).collect();
    assert_eq!((counts[0], counts[1]), (None, Some(1)), "nothing comes with the role");
    assert_eq!(counts[2..].iter().flatten().count(), 0, "and nothing with the call");
}

#[test]
fn a_stream_with_a_broken_call_does_not_end_as_if_it_were_whole() {
    let whole = r#"<tool_call>{"name": "add", "arguments": {"a": 1}}</tool_call>"#;
    let broken = r#"<tool_call>{"name": "add", "arguments": {"a": Paris}}</tool_call>"#;
    for (reply, reason) in [
        (whole.to_owned(), "tool_calls"),
        (broken.to_owned(), "stop"),
        (whole.to_owned() + broken, "stop"),
    ] {
        let pieces = [Piece::Start(served("f"), PROMPT), text(0, &reply), end(0)];
        let events = events(&stream(Head { look: calling(), ..head(Shape::Chat) }, pieces));
        assert_eq!(events.last().unwrap()["choices"][0]["finish_reason"], reason, "{reply}");
    }
}

#[test]
fn a_stream_leaves_out_calls_after_the_first_when_one_is_wanted() {
    let call = |name: &str| format!("<tool_call>{{\"name\": \"{name}\"}}</tool_call>");
    let both = call("first") + &call("second");
    let pieces = [Piece::Start(served("f"), PROMPT), text(0, &both), end(0)];
    let head = Head { one_call: true, look: calling(), ..head(Shape::Chat) };
    let written = stream(head, pieces);
    assert!(written.contains("first") && !written.contains("second"), "{written}");
    assert!(written.contains("\"finish_reason\":\"tool_calls\""), "{written}");
}
