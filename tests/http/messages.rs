//! `/v1/messages` as seen by clients, with scripted models.

use crate::support::*;
use axum::Router;
use axum::http::{Request, StatusCode};
use proptest::prelude::*;
use serde_json::{Value, json};
use serin::serving::testing::FakeServer;

const PATH: &str = "/v1/messages";

fn body(more: Value) -> Value {
    let mut body = json!({"model": "fake", "max_tokens": 100, "messages": [{"role": "user", "content": "Hi"}]});
    body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    body
}

fn tools() -> Value {
    json!([{"name": "add", "description": "adds",
        "input_schema": {"type": "object", "properties": {"a": {"type": "integer"}}}}])
}

/// The events of a stream without pings; each one's name is its type.
async fn stream(app: &Router, more: Value) -> Vec<Value> {
    let mut body = body(more);
    body["stream"] = true.into();
    let response = send(app, post(PATH, &body)).await;
    assert_eq!(response.status(), StatusCode::OK);
    let text = text(response).await;
    let event = |event: &str| {
        let (name, data) = event.split_once('\n').expect("a name and data");
        let data: Value = serde_json::from_str(data.strip_prefix("data: ").unwrap()).expect("JSON");
        assert_eq!(data["type"], name.strip_prefix("event: ").expect("a name"));
        data
    };
    let events = text.split_terminator("\n\n").filter(|event| !event.starts_with(':')).map(event);
    events.filter(|event| event["type"] != "ping").collect()
}

/// The message that a client makes of a stream.
fn assembled(events: &[Value]) -> Value {
    let mut message = events[0]["message"].clone();
    let mut inputs = std::collections::BTreeMap::<usize, String>::new();
    for event in &events[1..] {
        let at = event["index"].as_u64().unwrap_or(0) as usize;
        match event["type"].as_str().unwrap() {
            "content_block_start" => {
                let blocks = message["content"].as_array_mut().unwrap();
                assert_eq!(blocks.len(), at);
                blocks.push(event["content_block"].clone());
            }
            "content_block_delta" => {
                let delta = &event["delta"];
                let block = &mut message["content"][at];
                let field = match delta["type"].as_str().unwrap() {
                    "text_delta" => "text",
                    "thinking_delta" => "thinking",
                    "signature_delta" => "signature",
                    "input_json_delta" => {
                        inputs
                            .entry(at)
                            .or_default()
                            .push_str(delta["partial_json"].as_str().unwrap());
                        continue;
                    }
                    other => panic!("{other}"),
                };
                let said =
                    block[field].as_str().unwrap().to_owned() + delta[field].as_str().unwrap();
                block[field] = said.into();
            }
            "content_block_stop" => {
                if let Some(input) = inputs.get(&at) {
                    message["content"][at]["input"] =
                        serde_json::from_str(input).unwrap_or(json!({}));
                }
            }
            "message_delta" => {
                for field in ["stop_reason", "stop_sequence"] {
                    message[field] = event["delta"][field].clone();
                }
                message["usage"] = event["usage"].clone();
            }
            "message_stop" => {}
            other => panic!("{other}"),
        }
    }
    message
}

/// The message without what differs from one answer to the next.
fn comparable(mut message: Value) -> Value {
    message["id"] = "id".into();
    let usage = message["usage"].as_object_mut().unwrap();
    let input = ["input_tokens", "cache_read_input_tokens"];
    let read: u64 = input.iter().map(|name| usage.remove(*name).unwrap().as_u64().unwrap()).sum();
    usage.insert("read".to_owned(), read.into());
    for block in message["content"].as_array_mut().unwrap() {
        if block["type"] == "tool_use" {
            block["id"] = "id".into();
        }
    }
    message
}

#[tokio::test]
async fn a_message() {
    let app = plain_api().await;
    let response = send(&app, post(PATH, &body(json!({"system": "Be brief."})))).await;
    assert_eq!(response.status(), StatusCode::OK);
    let headers = response.headers().clone();
    assert_eq!(headers["x-serin-arm"], "stable");
    let answer: Value = serde_json::from_str(&text(response).await).unwrap();
    assert!(answer["id"].as_str().unwrap().starts_with("msg_"));
    assert_eq!(headers["request-id"].to_str().unwrap(), answer["id"]);
    assert_eq!(answer["content"], json!([{"type": "text", "text": REPLY}]));
    for (field, value) in [
        ("type", json!("message")),
        ("role", json!("assistant")),
        ("model", json!("fake")),
        ("stop_reason", json!("end_turn")),
        ("stop_sequence", Value::Null),
    ] {
        assert_eq!(answer[field], value, "{field}");
    }
    let usage = &answer["usage"];
    assert!(usage["output_tokens"].as_u64().unwrap() > 0);
    assert!(usage["input_tokens"].as_u64().unwrap() > 0);
}

#[tokio::test]
async fn a_stream_has_every_event_in_its_order() {
    let events = stream(&plain_api().await, json!({})).await;
    let mut kinds: Vec<&str> = events.iter().map(|event| event["type"].as_str().unwrap()).collect();
    kinds.dedup();
    assert_eq!(
        kinds,
        [
            "message_start",
            "content_block_start",
            "content_block_delta",
            "content_block_stop",
            "message_delta",
            "message_stop",
        ]
    );
    assert_eq!(events[0]["message"]["content"], json!([]));
    assert_eq!(events[0]["message"]["stop_reason"], Value::Null);
    let (begun, ended) = (&events[0]["message"]["usage"], &events[events.len() - 2]["usage"]);
    for name in ["input_tokens", "cache_creation_input_tokens", "cache_read_input_tokens"] {
        assert_eq!(begun[name], ended[name], "{name} is known from the start");
    }
    assert!(begun["input_tokens"].as_u64().unwrap() > 0);
    assert_eq!(begun["output_tokens"], 0);
    let app = plain_api().await;
    let all = text(send(&app, post(PATH, &body(json!({"stream": true})))).await).await;
    assert!(all.contains("event: ping\ndata: {\"type\":\"ping\"}\n\n"), "{all}");
}

#[tokio::test]
async fn each_end_has_its_reason() {
    let app = plain_api().await;
    let with_call = saying(&call("add")).await;
    let cases = [
        (&app, json!({}), "end_turn", Value::Null),
        (&app, json!({"max_tokens": 2}), "max_tokens", Value::Null),
        (&app, json!({"stop_sequences": ["zebra", "there"]}), "stop_sequence", json!("there")),
        (&with_call, json!({"tools": tools()}), "tool_use", Value::Null),
        (
            &with_call,
            json!({"tools": tools(), "tool_choice": {"type": "none"}}),
            "end_turn",
            Value::Null,
        ),
    ];
    for (app, more, reason, sequence) in cases {
        let answer = ok(app, post(PATH, &body(more.clone()))).await;
        assert_eq!(
            (&answer["stop_reason"], &answer["stop_sequence"]),
            (&json!(reason), &sequence),
            "{more}"
        );
        let streamed = assembled(&stream(app, more.clone()).await);
        assert_eq!(
            (&streamed["stop_reason"], &streamed["stop_sequence"]),
            (&json!(reason), &sequence),
            "{more}"
        );
    }
}

#[tokio::test]
async fn each_kind_of_content_is_a_block() {
    let app = saying(&format!("<think>I add.</think>So: {}", call("add"))).await;
    let answer = ok(
        &app,
        post(
            PATH,
            &body(
                json!({"tools": tools(), "thinking": {"type": "enabled", "budget_tokens": 1024}}),
            ),
        ),
    )
    .await;
    let content = answer["content"].as_array().unwrap();
    assert_eq!(content[0], json!({"type": "thinking", "thinking": "I add.", "signature": ""}));
    assert_eq!(content[1]["type"], "text");
    assert_eq!(
        (&content[2]["type"], &content[2]["name"], &content[2]["input"]),
        (&json!("tool_use"), &json!("add"), &json!({"a": 1}))
    );
    assert!(content[2]["id"].as_str().unwrap().starts_with("toolu_"));
}

#[tokio::test]
async fn streamed_and_whole_are_the_same() {
    let replies = [
        REPLY.to_owned(),
        String::new(),
        call("add"),
        format!("a {}", call("add")),
        format!("<think>x</think>y{}{}", call("add"), call("add")),
        "<tool_call>{broken".to_owned(),
        "<think>never ends".to_owned(),
    ];
    for reply in replies {
        let app = saying(&reply).await;
        for more in
            [json!({}), json!({"tools": tools()}), json!({"max_tokens": 3, "tools": tools()})]
        {
            let whole = ok(&app, post(PATH, &body(more.clone()))).await;
            let streamed = assembled(&stream(&app, more).await);
            assert_eq!(comparable(whole), comparable(streamed), "{reply}");
        }
    }
}

#[tokio::test]
async fn blocks_of_every_kind_are_taken_back() {
    let app = saying(REPLY).await;
    let cache = json!({"type": "ephemeral"});
    let messages = json!([
        {"role": "user", "content": [{"type": "text", "text": "7 + 5?", "cache_control": cache}]},
        {"role": "assistant", "content": [
            {"type": "thinking", "thinking": "hm", "signature": "x"},
            {"type": "redacted_thinking", "data": "x"},
            {"type": "text", "text": "I add."},
            {"type": "tool_use", "id": "t1", "name": "add", "input": {"a": 7}},
            {"type": "tool_use", "id": "t2", "name": "add", "input": {}},
        ]},
        {"role": "user", "content": [
            {"type": "tool_result", "tool_use_id": "t1", "content": "7"},
            {"type": "tool_result", "tool_use_id": "t2", "is_error": true,
             "content": [{"type": "text", "text": "no number"}]},
            {"type": "tool_result", "tool_use_id": "t3"},
            {"type": "text", "text": "And?"},
        ]},
    ]);
    let system = json!([{"type": "text", "text": "Be brief.", "cache_control": cache}]);
    ok(&app, post(PATH, &body(json!({"messages": messages, "system": system, "tools": tools()}))))
        .await;
}

#[tokio::test]
async fn three_turns_with_a_tool() {
    let app = saying(&format!("<think>t</think>Well. {}", call("add"))).await;
    let mut messages = vec![json!({"role": "user", "content": "Add."})];
    let mut lengths = Vec::new();
    for turn in 0..3 {
        let answer =
            ok(&app, post(PATH, &body(json!({"messages": messages, "tools": tools()})))).await;
        let usage = &answer["usage"];
        lengths.push(
            usage["input_tokens"].as_u64().unwrap()
                + usage["cache_read_input_tokens"].as_u64().unwrap(),
        );
        let content = answer["content"].as_array().unwrap();
        let call = content.iter().find(|block| block["type"] == "tool_use").expect("a call");
        let result =
            json!({"type": "tool_result", "tool_use_id": call["id"], "content": turn.to_string()});
        messages.push(json!({"role": "assistant", "content": content}));
        messages.push(json!({"role": "user", "content": [result]}));
    }
    assert!(lengths.is_sorted_by(|a, b| a < b), "each turn is read: {lengths:?}");
}

#[tokio::test]
async fn tokens_can_be_counted() {
    let app = saying(REPLY).await;
    let mut asked = body(json!({"tools": tools()}));
    let answer = ok(&app, post(PATH, &asked)).await;
    let read = &answer["usage"];
    let read =
        read["input_tokens"].as_u64().unwrap() + read["cache_read_input_tokens"].as_u64().unwrap();
    asked.as_object_mut().unwrap().remove("max_tokens");
    let count = ok(&app, post("/v1/messages/count_tokens", &asked)).await;
    assert_eq!(count, json!({"input_tokens": read}));
    asked["mcp_servers"] = json!([{}]);
    let (status, _) = ask(&app, post("/v1/messages/count_tokens", &asked)).await;
    assert_eq!(status.as_u16(), 400, "what a message may not ask for, its count may not");
}

/// The error of an answer in this API's form.
fn error(answer: &Value) -> (&str, &str) {
    assert_eq!(answer["type"], "error", "{answer}");
    assert!(answer["request_id"].as_str().is_some_and(|id| !id.is_empty()), "{answer}");
    let error = &answer["error"];
    (error["type"].as_str().unwrap(), error["message"].as_str().unwrap())
}

#[tokio::test]
async fn what_cannot_be_done_is_refused_by_name() {
    let app = plain_api().await;
    let content = |block: Value| json!({"messages": [{"role": "user", "content": [block]}]});
    let cases = [
        (json!({"max_tokens": null}), "max_tokens"),
        (json!({"max_tokens": 0}), "max_tokens"),
        (json!({"messages": null}), "messages"),
        (json!({"messages": []}), "messages"),
        (json!({"messages": [{"role": "system", "content": "x"}]}), "messages[0].role"),
        (json!({"messages": [{"role": "user"}]}), "messages[0].content"),
        (content(json!({"type": "image", "source": {}})), "messages[0].content[0].type"),
        (content(json!({"type": "document", "source": {}})), "messages[0].content[0].type"),
        (content(json!({"type": "search_result"})), "messages[0].content[0].type"),
        (content(json!({"type": "text"})), "messages[0].content[0].text"),
        (
            content(json!({"type": "tool_result", "content": "x"})),
            "messages[0].content[0].tool_use_id",
        ),
        (
            content(
                json!({"type": "tool_result", "tool_use_id": "t", "content": [{"type": "image"}]}),
            ),
            "messages[0].content[0].content[0].type",
        ),
        (
            json!({"messages": [{"role": "assistant", "content": [{"type": "server_tool_use"}]}]}),
            "messages[0].content[0].type",
        ),
        (json!({"system": 5}), "system"),
        (json!({"temperature": 1.5}), "temperature"),
        (json!({"top_p": 2}), "top_p"),
        (json!({"stop_sequences": 5}), "stop_sequences"),
        (json!({"stop_sequences": vec!["x"; 17]}), "stop_sequences"),
        (json!({"tool_choice": {"type": "any"}}), "tool_choice"),
        (json!({"tool_choice": {"type": "tool", "name": "f"}}), "tool_choice"),
        (json!({"tool_choice": {"type": "tool"}}), "tool_choice.name"),
        (json!({"tool_choice": {"type": "maybe"}}), "tool_choice.type"),
        (
            json!({"tools": [{"type": "web_search_20250305", "name": "web_search"}]}),
            "tools[0].type",
        ),
        (json!({"tools": [{}]}), "tools[0].name"),
        (json!({"thinking": {"type": "maybe"}}), "thinking.type"),
        (json!({"metadata": {"user_id": 5}}), "metadata.user_id"),
        (json!({"container": "x"}), "container"),
        (json!({"mcp_servers": [{}]}), "mcp_servers"),
        (
            json!({"output_config": {"format": {"type": "json_schema"}}}),
            "output_config.format.schema",
        ),
        (
            json!({"output_format": {"type": "text", "schema": 5}, "guided_regex": 5}),
            "guided_regex",
        ),
        (json!({"logit_bias": {"1": 200}}), "logit_bias"),
        (json!({"n": 2}), "n"),
        (json!({"max_completion_tokens": 5}), "max_completion_tokens"),
        (json!({"logprobs": true}), "logprobs"),
        (json!({"top_logprobs": 2}), "top_logprobs"),
        (json!({"functions": [{}]}), "functions"),
        (json!({"output_config": {"task_budget": {}}}), "output_config.task_budget"),
        (json!({"thinking": {"type": "adaptive", "display": "maybe"}}), "thinking.display"),
        (json!({"thinking": {"type": "enabled", "budget_tokens": "x"}}), "thinking.budget_tokens"),
        (json!({"tools": [{"type": "bash_20250124", "name": "bash"}]}), "tools[0].type"),
        (json!({"tools": [{"name": "f", "input_schema": 5}]}), "tools[0].input_schema"),
        (json!({"stop": vec!["x"; 10], "stop_sequences": vec!["x"; 10]}), "stop_sequences"),
        (
            json!({"messages": [{"role": "assistant", "content": [{"type": "tool_result"}]}]}),
            "messages[0].content[0].type",
        ),
    ];
    for (more, param) in cases {
        let (status, answer) = ask(&app, post(PATH, &body(more.clone()))).await;
        assert_eq!(status.as_u16(), 400, "{more}");
        let (kind, message) = error(&answer);
        assert_eq!((status.as_u16(), kind), (400, "invalid_request_error"), "{more}: {answer}");
        assert!(message.contains(&format!("'{param}'")), "{more}: {message}");
    }
}

#[tokio::test]
async fn every_error_of_these_routes_has_their_form() {
    let app = plain_api().await;
    let case = async |request: Request<axum::body::Body>, status: u16, kind: &str| {
        let response = send(&app, request).await;
        let id = response.headers()["request-id"].to_str().unwrap().to_owned();
        assert_eq!(response.status().as_u16(), status);
        let answer: Value = serde_json::from_str(&text(response).await).unwrap();
        assert_eq!(error(&answer).0, kind);
        assert_eq!(answer["request_id"], id);
    };
    let invalid = "invalid_request_error";
    case(raw_post(PATH, "{"), 400, invalid).await;
    case(raw_post(PATH, vec![b' '; BODY_LIMIT + 1]), 413, "request_too_large").await;
    case(get(PATH), 405, invalid).await;
    case(get("/v1/messages/unknown"), 404, "not_found_error").await;
    case(post(PATH, &body(json!({"model": "other"}))), 404, "not_found_error").await;
    case(post("/messages/count_tokens", &json!({})), 400, invalid).await;
    let mut of_page = post(PATH, &body(json!({})));
    of_page.headers_mut().insert("origin", "https://example.com".parse().unwrap());
    case(of_page, 415, invalid).await;
    let (_, elsewhere) = ask(&app, get("/v1/chat/completions")).await;
    assert!(elsewhere.get("type").is_none(), "other routes keep their form");
}

#[tokio::test]
async fn a_model_that_fails_says_so_in_this_form() {
    let ill = |server: &mut FakeServer| server.model("stable").unwrap().nan_share = 1.0;
    let app = api(gateway_saying(REPLY, ill).await);
    for stream in [false, true] {
        let (status, answer) = ask(&app, post(PATH, &body(json!({"stream": stream})))).await;
        assert_eq!((status.as_u16(), error(&answer).0), (500, "api_error"));
    }
}

#[tokio::test]
async fn a_last_message_of_the_assistant_is_continued() {
    let app = plain_api().await;
    let count = async |messages: Value| {
        ok(&app, post("/v1/messages/count_tokens", &json!({"messages": messages}))).await["input_tokens"]
            .as_u64().unwrap()
    };
    let user = json!({"role": "user", "content": "Hi"});
    let begun = json!({"role": "assistant", "content": "Hello"});
    let open = count(json!([user, begun])).await;
    let closed = count(json!([user, begun, user])).await;
    let bare = count(json!([user])).await;
    assert!(bare < open && open < closed, "{bare} {open} {closed}");
    ok(&app, post(PATH, &body(json!({"messages": [user, begun]})))).await;
}

/// A broken call is text, and the calls beside it are calls; one that a limit cut says so.
#[tokio::test]
async fn a_call_that_is_broken_is_never_a_block() {
    let broken =
        |arguments: &str| format!("<tool_call>{{\"name\": \"add\", \"arguments\": {arguments}");
    let wrong = broken("{\"a\": Paris}}</tool_call>");
    for (reply, kinds, reason) in [
        (wrong.clone(), vec!["text"], "end_turn"),
        (broken("{\"a\": \"Par"), vec!["text"], "end_turn"),
        (broken("{\"a\": tru}}</tool_call>"), vec!["text"], "end_turn"),
        (wrong + &call("add"), vec!["text", "tool_use"], "tool_use"),
    ] {
        let app = saying(&reply).await;
        let more = json!({"tools": tools(), "max_tokens": 400});
        let whole = ok(&app, post(PATH, &body(more.clone()))).await;
        for answer in [whole, assembled(&stream(&app, more.clone()).await)] {
            let content = answer["content"].as_array().unwrap();
            let found: Vec<&str> =
                content.iter().map(|block| block["type"].as_str().unwrap()).collect();
            assert_eq!(
                (found, answer["stop_reason"].as_str()),
                (kinds.clone(), Some(reason)),
                "{reply}"
            );
            assert!(reply.starts_with(content[0]["text"].as_str().unwrap()), "{reply}");
        }
    }
    let app = saying(&call("add")).await;
    let cut = ok(&app, post(PATH, &body(json!({"tools": tools(), "max_tokens": 47})))).await;
    assert_eq!(
        (&cut["content"][0]["type"], &cut["stop_reason"]),
        (&json!("tool_use"), &json!("max_tokens"))
    );
}

/// An error about a message names its place in the request, not in the chat that was made of it.
#[tokio::test]
async fn errors_of_a_template_name_the_place_in_the_request() {
    let app = api(gateway_with(&with_template("gemma"), REPLY, |_| {}).await);
    let more = json!({"system": "s"});
    let (status, answer) = ask(&app, post(PATH, &body(more.clone()))).await;
    assert_eq!(status.as_u16(), 400, "{answer}");
    assert!(error(&answer).1.starts_with("system: "), "{answer}");
    let (_, answer) = ask(&app, post("/v1/messages/count_tokens", &body(more))).await;
    assert!(error(&answer).1.starts_with("system: "), "{answer}");
    let instructions = json!({"instructions": "s", "input": "Hi"});
    let (_, answer) = ask(&app, post("/v1/responses", &instructions)).await;
    assert!(answer["error"]["message"].as_str().unwrap().starts_with("instructions: "), "{answer}");
    let (user, system) =
        (json!({"role": "user", "content": "Hi"}), json!({"role": "system", "content": "s"}));
    let input = json!({"instructions": "", "input": [system, user]});
    let (_, answer) = ask(&app, post("/v1/responses", &input)).await;
    let message = answer["error"]["message"].as_str();
    assert!(message.is_some_and(|message| message.starts_with("input[0]: ")), "{answer}");
    // Neighbours of one role are one message, which a strict template takes.
    let user = json!({"role": "user", "content": "Hi"});
    ok(&app, post(PATH, &body(json!({"system": "", "messages": [user, user]})))).await;
}

#[tokio::test]
async fn a_reply_that_the_context_ends_says_so() {
    let app = saying(&"word ".repeat(1000)).await;
    for (most, reason) in [(20, "max_tokens"), (100_000, "model_context_window_exceeded")] {
        let more = json!({"max_tokens": most});
        let whole = ok(&app, post(PATH, &body(more.clone()))).await;
        assert_eq!(whole["stop_reason"], reason);
        assert_eq!(assembled(&stream(&app, more).await)["stop_reason"], reason);
    }
}

#[tokio::test]
async fn models_are_listed_in_this_form_for_its_clients() {
    let app = plain_api().await;
    let of_client = |path: &str| {
        let mut request = get(path);
        request.headers_mut().insert("anthropic-version", "2023-06-01".parse().unwrap());
        request
    };
    let list = ok(&app, of_client("/v1/models")).await;
    let plain = ok(&app, get("/v1/models")).await;
    let ids = |list: &Value| {
        list["data"].as_array().unwrap().iter().map(|m| m["id"].clone()).collect::<Vec<_>>()
    };
    assert_eq!((ids(&list), &plain["object"]), (ids(&plain), &json!("list")));
    assert_eq!(
        (&list["has_more"], &list["first_id"], &list["last_id"]),
        (&json!(false), &list["data"][0]["id"], ids(&list).last().unwrap())
    );
    let one = ok(&app, of_client("/v1/models/fake")).await;
    assert_eq!(one, list["data"][0]);
    assert_eq!((&one["type"], &one["display_name"]), (&json!("model"), &json!("fake")));
    assert!(one["created_at"].as_str().unwrap().ends_with('Z'), "{one}");
    let (status, missing) = ask(&app, of_client("/v1/models/none")).await;
    assert_eq!((status.as_u16(), error(&missing).0), (404, "not_found_error"));
    let (status, batches) = ask(&app, get("/v1/messages/batches")).await;
    assert_eq!((status.as_u16(), error(&batches).0), (501, "api_error"));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    /// Whatever the model writes: whole and streamed agree.
    #[test]
    fn any_reply_is_the_same_streamed_and_whole(reply in "([a-z <>/{}\"]|<think>|</think>|<tool_call>|</tool_call>){0,30}") {
        let runtime = tokio::runtime::Runtime::new().unwrap();
        runtime.block_on(async {
            let app = saying(&reply).await;
            let more = json!({"tools": tools()});
            let whole = ok(&app, post(PATH, &body(more.clone()))).await;
            let streamed = assembled(&stream(&app, more).await);
            assert_eq!(comparable(whole), comparable(streamed));
        });
    }
}
