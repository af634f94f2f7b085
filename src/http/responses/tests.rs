//! Tests: input items as chat messages, and events compared byte for byte.

use super::events::NAMES;
use super::*;
use crate::rollout::Arm;
use crate::serving::{Finish, GatewayError, Usage};
use crate::text::reply::{Look, Reasoning};
use serde_json::{Value, json};

fn messages(input: Value) -> Value {
    let mut fields = Fields::parse(json!({"input": input}).to_string().as_bytes()).unwrap();
    match request::prompt(&mut fields).expect("valid").prompt {
        crate::serving::Prompt::Chat { messages, .. } => messages.into(),
        other => panic!("{other:?}"),
    }
}

fn text(text: &str) -> Value {
    json!([{"type": "text", "text": text}])
}

fn call(id: &str) -> Value {
    json!({"type": "function_call", "call_id": id, "name": "f", "arguments": "{}"})
}

fn called(ids: &[&str]) -> Value {
    let call = |id: &&str| json!({"id": id, "type": "function", "function": {"name": "f", "arguments": "{}"}});
    ids.iter().map(call).collect()
}

fn output(id: &str) -> Value {
    json!({"type": "function_call_output", "call_id": id, "output": "4"})
}

#[test]
fn the_items_of_one_turn_are_one_message() {
    let said = |words: &str| json!({"role": "assistant", "content": words});
    let thought = json!({"type": "reasoning", "content": [{"type": "reasoning_text", "text": "hm"}], "summary": []});
    let tool = |id: &str| json!({"role": "tool", "tool_call_id": id, "content": text("4")});
    let cases = [
        (json!("Hi"), json!([{"role": "user", "content": "Hi"}])),
        (
            json!([thought, said("a"), call("1"), call("2"), output("1"), output("2")]),
            json!([
                {"role": "assistant", "content": text("a"), "reasoning_content": "hm", "tool_calls": called(&["1", "2"])},
                tool("1"), tool("2"),
            ]),
        ),
        (
            json!([call("1"), output("1"), call("2"), output("2")]),
            json!([
                {"role": "assistant", "content": [], "tool_calls": called(&["1"])}, tool("1"),
                {"role": "assistant", "content": [], "tool_calls": called(&["2"])}, tool("2"),
            ]),
        ),
        (
            json!([said("a"), said("b")]),
            json!([{"role": "assistant", "content": text("a")}, {"role": "assistant", "content": text("b")}]),
        ),
        (
            json!([said("a"), thought, said("b")]),
            json!([
                {"role": "assistant", "content": text("a")},
                {"role": "assistant", "content": text("b"), "reasoning_content": "hm"},
            ]),
        ),
    ];
    for (input, expected) in cases {
        assert_eq!(messages(input.clone()), expected, "{input}");
    }
}

#[test]
fn efforts_and_tools_are_what_a_template_reads() {
    let body = json!({
        "input": "Hi", "reasoning": {"effort": "none"},
        "tools": [{"type": "function", "name": "f", "strict": true, "parameters": {"type": "object"}}],
    });
    let mut fields = Fields::parse(body.to_string().as_bytes()).unwrap();
    let request::Conversation { prompt, echo, .. } = request::prompt(&mut fields).unwrap();
    let crate::serving::Prompt::Chat { tools, template_kwargs, .. } = prompt else {
        panic!("a chat")
    };
    let function = json!({"name": "f", "parameters": {"type": "object"}, "strict": true});
    assert_eq!(tools, Some(json!([{"type": "function", "function": function}])));
    let kwargs = json!({"reasoning_effort": "none", "enable_thinking": false});
    assert_eq!(Value::from(template_kwargs), kwargs);
    assert_eq!(Value::from(echo.tools), body["tools"]);
}

fn served() -> Served {
    let (version, fingerprint) = ("v1".into(), "f".into());
    Served { arm: Arm::Stable, version, fingerprint, rescued: false, manner: Default::default() }
}

fn events(pieces: Vec<Piece>) -> Vec<Value> {
    let tools: Vec<String> = vec!["f".to_owned()];
    let about = About {
        id: "resp_1".to_owned(),
        created: 5,
        model: "m".to_owned(),
        look: Look { tools: Some(tools.into()), reasoning: Reasoning::Apart, ..Look::default() },
        one_call: false,
        logprobs: false,
        echo: Default::default(),
        names: Names::default(),
    };
    let mut events = Events::new(Reply::new(about, served()));
    let text: String = pieces.into_iter().map(|piece| events.events(piece)).collect();
    let data = text.lines().filter_map(|line| line.strip_prefix("data: "));
    data.map(|data| serde_json::from_str(data).unwrap()).collect()
}

fn said(text: &str) -> Piece {
    Piece::Text { index: 0, text: text.to_owned(), tokens: Vec::new() }
}

#[test]
fn a_failure_in_mid_stream_is_a_failed_response_with_what_was_said() {
    let limit = std::time::Duration::from_secs(1);
    let failed = Piece::Failed(GatewayError::Timeout { what: "next token", limit });
    let events = events(vec![Piece::Start(served(), Usage::default()), said("Hi"), failed]);
    let last = events.last().unwrap();
    assert_eq!(
        (&last["type"], &last["response"]["status"]),
        (&json!("response.failed"), &json!("failed"))
    );
    assert_eq!(last["response"]["error"]["code"], "server_error");
    assert_eq!(last["response"]["output"][0]["content"][0]["text"], "Hi");
}

/// Whenever an answer fails: the stream begins, every item that was added is done, and the failure comes last.
#[test]
fn a_stream_that_fails_begins_and_closes_its_items() {
    let failed = || Piece::Failed(GatewayError::Model("ill".to_owned()));
    let start = || Piece::Start(served(), Usage::default());
    for before in [
        vec![],
        vec![start()],
        vec![start(), said("Hi")],
        vec![start(), said("<think>hm")],
        vec![start(), said("a <tool_call>{\"name\": \"f\", \"arguments\": {\"a")],
    ] {
        let shown = format!("{before:?}");
        let events = events(before.into_iter().chain([failed()]).collect());
        let kinds: Vec<&str> = events.iter().map(|event| event["type"].as_str().unwrap()).collect();
        assert_eq!(kinds[..2], ["response.created", "response.in_progress"], "{shown}");
        assert_eq!(events[0]["response"]["status"], "in_progress");
        assert_eq!(events[0]["response"]["error"], Value::Null);
        let count = |kind: &str| kinds.iter().filter(|one| **one == kind).count();
        assert_eq!(count("response.created"), 1, "{shown}");
        assert_eq!(
            count("response.output_item.added"),
            count("response.output_item.done"),
            "{shown}"
        );
        let last = events.last().unwrap();
        assert_eq!(last["type"], "response.failed", "{shown}");
        let items = last["response"]["output"].as_array().unwrap();
        assert!(items.iter().all(|item| item["status"] != "in_progress"), "{shown}");
        let numbers: Vec<u64> =
            events.iter().map(|e| e["sequence_number"].as_u64().unwrap()).collect();
        assert_eq!(numbers, (0..events.len() as u64).collect::<Vec<_>>());
    }
}

#[test]
fn every_event_is_of_a_known_name() {
    let reply = "<think>hm</think>a<tool_call>{\"name\": \"f\", \"arguments\": {}}</tool_call>";
    let mut seen = std::collections::BTreeSet::new();
    for finish in [Finish::Stop, Finish::Length] {
        let end = Piece::End { index: 0, finish };
        let all = events(vec![
            Piece::Start(served(), Usage::default()),
            said(reply),
            end,
            Piece::Done(Usage::default()),
        ]);
        seen.extend(all.iter().map(|event| event["type"].as_str().unwrap().to_owned()));
    }
    seen.insert("response.failed".to_owned());
    assert_eq!(seen.iter().map(String::as_str).collect::<Vec<_>>(), NAMES);
}
