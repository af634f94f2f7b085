//! Constrained replies and forced tool calls over all four APIs. The scripted model is constrained where it would say
//! something else.

use crate::support::*;
use serde_json::{Value, json};
use serin::serving::testing::FakeServer;

const PLAIN: &str = "/v1/completions";
const CHAT: &str = "/v1/chat/completions";
const RESPONSES: &str = "/v1/responses";
const MESSAGES: &str = "/v1/messages";

/// The API over a constrained model that says `reply`, with a chat template that shows tools.
async fn constrained(reply: &str) -> axum::Router {
    let folder = with_template("qwen25");
    let change = |server: &mut FakeServer| {
        server.constrained = true;
        server.model("stable").expect("stable").capacity.max_len = 4096;
    };
    api(gateway_with(&folder, reply, change).await)
}

/// Small enough for a model that always takes the first token that it may.
fn schema() -> Value {
    json!({"type": "object", "additionalProperties": false, "required": ["city", "days"], "properties": {
        "city": {"type": "string", "maxLength": 4}, "days": {"enum": [1, 2, 3]}}})
}

fn is_valid(text: &str) -> bool {
    let value: Value = serde_json::from_str(text).unwrap_or_default();
    jsonschema::is_valid(&schema(), &value)
}

fn in_all_apis(format: &Value) -> [(&'static str, Value, &'static str); 4] {
    let message = json!([{"role": "user", "content": "Hi"}]);
    [
        (
            PLAIN,
            json!({"prompt": "Hi", "max_tokens": 60, "guided_json": schema()}),
            "/choices/0/text",
        ),
        (
            CHAT,
            json!({"messages": message, "response_format": {"type": "json_schema", "json_schema": format}}),
            "/choices/0/message/content",
        ),
        (RESPONSES, json!({"input": "Hi", "text": {"format": format}}), "/output/0/content/0/text"),
        (
            MESSAGES,
            json!({"messages": message, "max_tokens": 60, "output_config": {"format": format}}),
            "/content/0/text",
        ),
    ]
}

#[tokio::test]
async fn replies_are_valid_json_in_every_api() {
    let app = constrained("Certainly! Here is some JSON for you.").await;
    let format = json!({"type": "json_schema", "name": "trip", "strict": true, "schema": schema()});
    for (path, body, at) in in_all_apis(&format) {
        let answer = ok(&app, post(path, &body)).await;
        let text = answer.pointer(at).and_then(Value::as_str).unwrap_or_default();
        assert!(is_valid(text), "{path}: {answer}");
    }
    // What the schema already allows is left as it is.
    let said = r#"{"city": "Rom", "days": 2}"#;
    let app = constrained(said).await;
    for (path, body, at) in in_all_apis(&format) {
        let answer = ok(&app, post(path, &body)).await;
        assert_eq!(answer.pointer(at), Some(&json!(said)), "{path}");
    }
}

#[tokio::test]
async fn streams_and_several_replies_are_constrained() {
    let app = constrained("no").await;
    let format = json!({"type": "json_object", "schema": schema()});
    let body = chat(json!({"response_format": format, "stream": true, "n": 2}));
    let mut said = [String::new(), String::new()];
    for event in events(&text(send(&app, post(CHAT, &body)).await).await) {
        let choice = &event["choices"][0];
        let Some(index) = choice["index"].as_u64() else { continue };
        said[index as usize] += choice["delta"]["content"].as_str().unwrap_or_default();
    }
    assert!(said.iter().all(|text| is_valid(text)), "{said:?}");
}

#[tokio::test]
async fn a_reply_that_is_cut_says_so() {
    let app = constrained("no").await;
    let body = chat(
        json!({"response_format": {"type": "json_object", "schema": schema()}, "max_tokens": 5}),
    );
    let answer = ok(&app, post(CHAT, &body)).await;
    assert_eq!(answer["choices"][0]["finish_reason"], "length");
    let log = chat(json!({"guided_choice": ["yes", "no"], "logprobs": true}));
    let answer = ok(&app, post(CHAT, &log)).await;
    assert_eq!(answer["choices"][0]["message"]["content"], "no");
    assert_eq!(answer["choices"][0]["finish_reason"], "stop");
    assert!(!answer["choices"][0]["logprobs"]["content"].as_array().unwrap().is_empty());
}

fn tools() -> Value {
    let function = |name: &str| json!({"name": name, "parameters": schema()});
    json!([{"type": "function", "function": function("trip")}, {"type": "function", "function": function("stay")}])
}

/// The called functions with their arguments.
fn called(path: &str, answer: &Value) -> Vec<(String, Value)> {
    let list = match path {
        CHAT => &answer["choices"][0]["message"]["tool_calls"],
        RESPONSES => &answer["output"],
        _ => &answer["content"],
    };
    let call = |item: &Value| {
        let function = if path == CHAT { &item["function"] } else { item };
        let arguments = match function["arguments"].as_str() {
            Some(text) => serde_json::from_str(text).expect("JSON"),
            None => function["input"].clone(),
        };
        (function["name"].as_str().unwrap_or_default().to_owned(), arguments)
    };
    list.as_array().into_iter().flatten().map(call).collect()
}

/// A tool whose schema cannot be enforced.
fn unenforceable(strict: bool) -> Value {
    let parameters =
        json!({"type": "object", "properties": {"a": {"type": "array", "uniqueItems": true}}});
    let function = json!({"name": "f", "parameters": parameters, "strict": strict});
    json!({"tools": [{"type": "function", "function": function}]})
}

fn forced(name: Option<&str>) -> [(&'static str, Value); 3] {
    let flat = |schema: &str| -> Value {
        let tool = |name: &str| json!({"type": "function", "name": name, schema: self::schema()});
        let mut tools = vec![tool("trip"), tool("stay")];
        if schema == "input_schema" {
            tools.iter_mut().for_each(|tool| {
                tool.as_object_mut().unwrap().remove("type");
            });
        }
        tools.into()
    };
    let message = json!([{"role": "user", "content": "Hi"}]);
    let named = |chat: Value, flat: Value, block: Value| match name {
        Some(_) => [chat, flat, block],
        None => [json!("required"), json!("required"), json!({"type": "any"})],
    };
    let [chat, responses, messages] = named(
        json!({"type": "function", "function": {"name": name}}),
        json!({"type": "function", "name": name}),
        json!({"type": "tool", "name": name}),
    );
    let mut block = messages;
    block["disable_parallel_tool_use"] = true.into();
    [
        (
            CHAT,
            json!({"messages": message, "tools": tools(), "tool_choice": chat, "parallel_tool_calls": false}),
        ),
        (
            RESPONSES,
            json!({"input": "Hi", "tools": flat("parameters"), "tool_choice": responses, "parallel_tool_calls": false}),
        ),
        (
            MESSAGES,
            json!({"messages": message, "tools": flat("input_schema"), "tool_choice": block, "max_tokens": 200}),
        ),
    ]
}

#[tokio::test]
async fn a_tool_that_must_be_called_is_called() {
    let app = constrained("I would rather talk about the weather.").await;
    for name in [None, Some("stay")] {
        for (path, body) in forced(name) {
            let answer = ok(&app, post(path, &body)).await;
            let calls = called(path, &answer);
            assert_eq!(calls.len(), 1, "{path}: {answer}");
            assert!(jsonschema::is_valid(&schema(), &calls[0].1), "{path}: {answer}");
            assert!(name.is_none_or(|name| name == calls[0].0), "{path}: {answer}");
        }
    }
}

#[tokio::test]
async fn a_model_that_calls_by_itself_is_held_to_the_schema() {
    let app = constrained(
        "<tool_call>\n{\"name\": \"trip\", \"arguments\": {\"town\": \"Rom\"}}\n</tool_call>",
    )
    .await;
    let answer = ok(&app, post(CHAT, &chat(json!({"tools": tools()})))).await;
    let calls = called(CHAT, &answer);
    assert_eq!(calls[0].0, "trip", "{answer}");
    assert!(jsonschema::is_valid(&schema(), &calls[0].1), "{answer}");
    // Text stays free.
    let app = constrained("No call, <b>only</b> text {}.").await;
    let answer = ok(&app, post(CHAT, &chat(json!({"tools": tools()})))).await;
    assert_eq!(answer["choices"][0]["message"]["content"], "No call, <b>only</b> text {}.");
    // With a format, text is of that format.
    let format = json!({"type": "json_object", "schema": schema()});
    let answer =
        ok(&app, post(CHAT, &chat(json!({"tools": tools(), "response_format": format})))).await;
    let content = answer["choices"][0]["message"]["content"].as_str().unwrap_or_default();
    assert!(is_valid(content) || called(CHAT, &answer).len() == 1, "{answer}");
}

#[tokio::test]
async fn what_cannot_be_enforced_is_refused_by_name() {
    let app = constrained("no").await;
    let format =
        |schema: Value| json!({"response_format": {"type": "json_schema", "schema": schema}});
    let cases = [
        (format(json!({"type": "none"})), "response_format", "none"),
        (format(json!({"type": "array", "uniqueItems": true})), "response_format", "uniqueItems"),
        (json!({"guided_regex": "("}), "guided_regex", ""),
        (json!({"guided_choice": []}), "guided_choice", "1 to"),
        (json!({"guided_grammar": "begin: \"a\""}), "guided_grammar", "start"),
        (json!({"structured_outputs": {"regex": "a{2,1}"}}), "structured_outputs", ""),
        (json!({"grammar": "root ::= \"a"}), "grammar", "line 1, column"),
        (json!({"grammar": "root ::= nowhere"}), "grammar", "line 1, column"),
        (unenforceable(true), "tools", "uniqueItems"),
    ];
    for (more, param, words) in cases {
        let (status, answer) = ask(&app, post(CHAT, &chat(more.clone()))).await;
        assert_eq!(
            (status.as_u16(), answer["error"]["param"].as_str()),
            (400, Some(param)),
            "{more}: {answer}"
        );
        assert!(answer["error"]["message"].as_str().unwrap().contains(words), "{answer}");
    }
    // What need not be enforced is not refused.
    assert_eq!(
        ok(&app, post(CHAT, &chat(unenforceable(false)))).await["choices"][0]["message"]["content"],
        "no"
    );
    // A model whose tokenizer cannot be used serves all but these.
    let roomy =
        |server: &mut FakeServer| server.model("stable").expect("stable").capacity.max_len = 4096;
    let app = api(gateway_with(&with_template("qwen25"), "Hello", roomy).await);
    let (status, answer) = ask(&app, post(CHAT, &chat(json!({"guided_regex": "a"})))).await;
    assert_eq!(status, 400, "{answer}");
    assert_eq!(
        ok(&app, post(CHAT, &chat(json!({"tools": tools()})))).await["choices"][0]["message"]["content"],
        "Hello"
    );
}
