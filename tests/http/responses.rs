//! `/v1/responses` as seen by clients, with scripted models.

use crate::support::*;
use axum::Router;
use axum::http::StatusCode;
use proptest::prelude::*;
use serde_json::{Value, json};
use serin::serving::testing::FakeServer;

const PATH: &str = "/v1/responses";

fn body(more: Value) -> Value {
    let mut body = json!({"model": "fake", "input": "Hi"});
    body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    body
}

fn tools() -> Value {
    json!([{"type": "function", "name": "add", "description": "adds", "strict": true,
        "parameters": {"type": "object", "properties": {"a": {"type": "integer"}}}}])
}

/// The events of a stream: name and data.
async fn stream(app: &Router, more: Value) -> Vec<(String, Value)> {
    let mut body = body(more);
    body["stream"] = true.into();
    let response = send(app, post(PATH, &body)).await;
    assert_eq!(response.status(), StatusCode::OK);
    let text = text(response).await;
    let event = |event: &str| {
        let (name, data) = event.split_once('\n').expect("a name and data");
        let name = name.strip_prefix("event: ").expect("a name").to_owned();
        (name, serde_json::from_str(data.strip_prefix("data: ").expect("data")).expect("JSON"))
    };
    text.split_terminator("\n\n").filter(|event| !event.starts_with(':')).map(event).collect()
}

/// The response without what differs from one answer to the next.
fn comparable(mut response: Value) -> Value {
    response["id"] = "id".into();
    response["created_at"] = 0.into();
    response["usage"]["input_tokens_details"] = Value::Null;
    for item in response["output"].as_array_mut().unwrap() {
        item["id"] = "id".into();
        if item["call_id"].is_string() {
            item["call_id"] = "id".into();
        }
    }
    response
}

#[tokio::test]
async fn a_response() {
    let app = plain_api().await;
    let more = json!({
        "instructions": "Be brief.", "metadata": {"a": "b"}, "temperature": 0.5, "store": true,
        "max_output_tokens": 50, "user": "someone", "truncation": "auto",
    });
    let response = send(&app, post(PATH, &body(more))).await;
    assert_eq!(response.status(), StatusCode::OK);
    let headers = response.headers().clone();
    assert_eq!(
        (&headers["x-serin-arm"], &headers["x-serin-version"]),
        (&"stable".parse().unwrap(), &"stable".parse().unwrap())
    );
    let answer: Value = serde_json::from_str(&text(response).await).unwrap();
    assert!(answer["id"].as_str().unwrap().starts_with("resp_"));
    assert_eq!(answer["id"], headers["x-request-id"].to_str().unwrap());
    for (field, value) in [
        ("object", json!("response")),
        ("status", json!("completed")),
        ("error", Value::Null),
        ("store", json!(false)),
        ("instructions", json!("Be brief.")),
        ("truncation", json!("disabled")),
        ("metadata", json!({"a": "b"})),
        ("temperature", json!(0.5)),
        ("model", json!("fake")),
        ("max_output_tokens", json!(50)),
        ("user", json!("someone")),
        ("tools", json!([])),
        ("incomplete_details", Value::Null),
        ("tool_choice", json!("auto")),
    ] {
        assert_eq!(answer[field], value, "{field}");
    }
    let item = &answer["output"][0];
    assert_eq!(
        (&item["type"], &item["role"], &item["status"]),
        (&json!("message"), &json!("assistant"), &json!("completed"))
    );
    let part = json!({"type": "output_text", "text": REPLY, "annotations": [], "logprobs": []});
    assert_eq!(item["content"], json!([part]));
    let usage = &answer["usage"];
    let sum = usage["input_tokens"].as_u64().unwrap() + usage["output_tokens"].as_u64().unwrap();
    assert_eq!(usage["total_tokens"], sum);
    assert!(usage["output_tokens"].as_u64().unwrap() > 0);
    assert_eq!(usage["input_tokens_details"], json!({"cache_write_tokens": 0, "cached_tokens": 0}));
    assert_eq!(usage["output_tokens_details"], json!({"reasoning_tokens": 0}));
}

#[tokio::test]
async fn a_stream_has_every_event_in_its_order() {
    let events = stream(&plain_api().await, json!({})).await;
    let mut names: Vec<&str> = events.iter().map(|(name, _)| name.as_str()).collect();
    names.dedup();
    assert_eq!(
        names,
        [
            "response.created",
            "response.in_progress",
            "response.output_item.added",
            "response.content_part.added",
            "response.output_text.delta",
            "response.output_text.done",
            "response.content_part.done",
            "response.output_item.done",
            "response.completed",
        ]
    );
    for (place, (name, event)) in events.iter().enumerate() {
        assert_eq!((&event["type"], &event["sequence_number"]), (&json!(name), &json!(place)));
    }
    assert_eq!(events[0].1["response"]["status"], "in_progress");
    assert_eq!(events[0].1["response"]["output"], json!([]));
    assert_eq!(events[2].1["item"]["content"], json!([]));
    let said: String = events.iter().filter_map(|(_, event)| event["delta"].as_str()).collect();
    assert_eq!(said, REPLY);
    let id = &events[2].1["item"]["id"];
    let of_item = events.iter().filter(|(_, event)| event["item_id"].is_string());
    assert!(
        of_item.clone().count() > 3 && of_item.clone().all(|(_, event)| event["item_id"] == *id)
    );
}

#[tokio::test]
async fn calls_are_items_and_so_are_texts_between_them() {
    let reply = format!("First. {} {} Then.", call("add"), call("sub"));
    let app = saying(&reply).await;
    let mut two = tools();
    two.as_array_mut().unwrap().push(json!({"type": "function", "name": "sub"}));
    let answer = ok(&app, post(PATH, &body(json!({"tools": two})))).await;
    let kinds: Vec<&str> =
        answer["output"].as_array().unwrap().iter().map(|i| i["type"].as_str().unwrap()).collect();
    assert_eq!(kinds[..3], ["message", "function_call", "function_call"]);
    let item = &answer["output"][1];
    assert_eq!((&item["name"], &item["status"]), (&json!("add"), &json!("completed")));
    let arguments: Value = serde_json::from_str(item["arguments"].as_str().unwrap()).unwrap();
    assert_eq!(arguments, json!({"a": 1}));
    assert_ne!(item["call_id"], answer["output"][2]["call_id"]);
    assert_eq!(answer["tools"], two, "tools are repeated as they were written");
    let one = json!({"tools": two, "parallel_tool_calls": false});
    let answer = ok(&app, post(PATH, &body(one))).await;
    let calls = answer["output"].as_array().unwrap().iter();
    assert_eq!(calls.filter(|item| item["type"] == "function_call").count(), 1);
}

#[tokio::test]
async fn a_stream_of_a_call() {
    let events = stream(&saying(&call("add")).await, json!({"tools": tools()})).await;
    let of = |kind: &str| {
        events.iter().filter(|(name, _)| name == kind).map(|(_, e)| e).collect::<Vec<_>>()
    };
    let added = of("response.output_item.added");
    assert_eq!((added.len(), &added[0]["item"]["arguments"]), (1, &json!("")));
    let deltas: String = of("response.function_call_arguments.delta")
        .iter()
        .filter_map(|event| event["delta"].as_str())
        .collect();
    let done = of("response.function_call_arguments.done");
    assert_eq!((&done[0]["arguments"], &done[0]["name"]), (&json!(deltas), &json!("add")));
    assert!(of("response.content_part.added").is_empty());
}

#[tokio::test]
async fn reasoning_is_an_item_of_its_own() {
    let app = saying("<think>I add.</think>It is 12.").await;
    let answer = ok(&app, post(PATH, &body(json!({"reasoning": {"effort": "low"}})))).await;
    assert_eq!(answer["output"][0]["type"], "reasoning", "{answer}");
    assert_eq!(
        answer["output"][0]["content"],
        json!([{"type": "reasoning_text", "text": "I add."}])
    );
    assert_eq!(answer["output"][0]["summary"], json!([]));
    assert_eq!(answer["output"][1]["content"][0]["text"], "It is 12.");
    assert_eq!(answer["reasoning"], json!({"effort": "low", "summary": null}));
    let events = stream(&app, json!({})).await;
    let said: String = events
        .iter()
        .filter(|(name, _)| name == "response.reasoning_text.delta")
        .filter_map(|(_, event)| event["delta"].as_str())
        .collect();
    assert_eq!(said, "I add.");
}

#[tokio::test]
async fn each_end_has_its_status() {
    let app = plain_api().await;
    let answer = ok(&app, post(PATH, &body(json!({"max_output_tokens": 2})))).await;
    assert_eq!(answer["status"], "incomplete");
    assert_eq!(answer["incomplete_details"], json!({"reason": "max_output_tokens"}));
    assert_eq!(answer["output"][0]["status"], "incomplete");
    let events = stream(&app, json!({"max_output_tokens": 2})).await;
    assert_eq!(events.last().unwrap().0, "response.incomplete");

    let app = saying("").await;
    let answer = ok(&app, post(PATH, &body(json!({})))).await;
    assert_eq!(answer["output"][0]["content"][0]["text"], "", "an empty reply is a message");

    let ill = |server: &mut FakeServer| server.model("stable").unwrap().nan_share = 1.0;
    let app = api(gateway_saying(REPLY, ill).await);
    let (status, answer) = ask(&app, post(PATH, &body(json!({"stream": true})))).await;
    assert_eq!((status.as_u16(), &answer["error"]["code"]), (500, &json!("model_error")));
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
        for more in [
            json!({}),
            json!({"tools": tools()}),
            json!({"max_output_tokens": 3, "tools": tools()}),
        ] {
            let whole = ok(&app, post(PATH, &body(more.clone()))).await;
            let events = stream(&app, more).await;
            let last = events.last().unwrap().1["response"].clone();
            let done: Vec<Value> = events
                .iter()
                .filter(|(name, _)| name == "response.output_item.done")
                .map(|(_, event)| event["item"].clone())
                .collect();
            assert_eq!(last["output"], json!(done), "{reply}");
            assert_eq!(comparable(whole), comparable(last), "{reply}");
        }
    }
}

#[tokio::test]
async fn log_probabilities_come_with_the_text() {
    let app = plain_api().await;
    let more = json!({"include": ["message.output_text.logprobs"], "top_logprobs": 2});
    let answer = ok(&app, post(PATH, &body(more.clone()))).await;
    let whole = answer["output"][0]["content"][0]["logprobs"].as_array().unwrap().clone();
    let spelled: String = whole.iter().filter_map(|token| token["token"].as_str()).collect();
    assert_eq!((spelled.as_str(), whole[0]["top_logprobs"].as_array().unwrap().len()), (REPLY, 2));
    let events = stream(&app, more).await;
    let deltas = events.iter().filter(|(name, _)| name == "response.output_text.delta");
    let streamed: Vec<Value> =
        deltas.flat_map(|(_, event)| event["logprobs"].as_array().unwrap().clone()).collect();
    assert_eq!(streamed, whole);
}

#[tokio::test]
async fn input_is_taken_in_every_form() {
    let app = saying(REPLY).await;
    let history = json!([
        {"role": "developer", "content": "Be brief."},
        {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "7 + 5?"}]},
        {"type": "reasoning", "id": "rs_1", "summary": [{"type": "summary_text", "text": "hm"}]},
        {"type": "function_call", "call_id": "c1", "name": "add", "arguments": "{\"a\": 7}"},
        {"type": "function_call", "call_id": "c2", "name": "add", "arguments": "{\"a\": 5}"},
        {"type": "function_call_output", "call_id": "c1", "output": "7"},
        {"type": "function_call_output", "call_id": "c2", "output": [{"type": "input_text", "text": "5"}]},
        {"type": "message", "id": "msg_1", "status": "completed", "role": "assistant",
         "content": [{"type": "output_text", "text": "12", "annotations": []}]},
        {"role": "user", "content": "And 1 more?"},
    ]);
    for input in [json!("Hi"), history] {
        ok(&app, post(PATH, &body(json!({"input": input, "tools": tools()})))).await;
    }
}

/// What the API answered is a valid part of the next request.
#[tokio::test]
async fn three_turns_with_a_tool() {
    let app = saying(&format!("<think>t</think>Well. {}", call("add"))).await;
    let mut input = vec![json!({"role": "user", "content": "Add."})];
    let mut lengths = Vec::new();
    for turn in 0..3 {
        let answer = ok(&app, post(PATH, &body(json!({"input": input, "tools": tools()})))).await;
        lengths.push(answer["usage"]["input_tokens"].as_u64().unwrap());
        let items = answer["output"].as_array().unwrap().clone();
        let call = items.iter().find(|item| item["type"] == "function_call").expect("a call");
        let output = json!({"type": "function_call_output", "call_id": call["call_id"], "output": turn.to_string()});
        input.extend(items.clone());
        input.push(output);
    }
    assert!(lengths.is_sorted_by(|a, b| a < b), "each turn is read: {lengths:?}");
}

#[tokio::test]
async fn what_cannot_be_done_is_refused_by_name() {
    let app = plain_api().await;
    let message = |content: Value| json!([{"role": "user", "content": content}]);
    let unsupported = "unsupported_value";
    let cases = [
        (json!({"previous_response_id": "resp_1"}), "previous_response_id", unsupported),
        (json!({"background": true}), "background", unsupported),
        (json!({"conversation": "conv_1"}), "conversation", unsupported),
        (json!({"prompt": {"id": "p"}}), "prompt", unsupported),
        (json!({"tools": [{"type": "web_search"}]}), "tools[0].type", unsupported),
        (json!({"tools": [{"type": "file_search"}]}), "tools[0].type", unsupported),
        (json!({"tools": [{"type": "function"}]}), "tools[0].name", "missing_required_parameter"),
        (json!({"tool_choice": "required"}), "tool_choice", "invalid_value"),
        (json!({"tool_choice": {"type": "function", "name": "f"}}), "tool_choice", "invalid_value"),
        (json!({"tool_choice": {"type": "web_search"}}), "tool_choice.type", unsupported),
        (json!({"text": {"format": {"type": "grammar"}}}), "text.format.type", unsupported),
        (
            json!({"text": {"format": {"type": "json_schema"}}}),
            "text.format.schema",
            "missing_required_parameter",
        ),
        (json!({"prompt_logprobs": 2}), "prompt_logprobs", unsupported),
        (json!({"max_tokens": 5}), "max_tokens", unsupported),
        (json!({"response_format": {"type": "text"}}), "response_format", unsupported),
        (json!({"n": 2}), "n", unsupported),
        (json!({"max_completion_tokens": 5}), "max_completion_tokens", unsupported),
        (json!({"messages": []}), "messages", unsupported),
        (json!({"functions": [{}]}), "functions", unsupported),
        (json!({"logprobs": true}), "logprobs", unsupported),
        (json!({"thinking_token_budget": 5}), "thinking_token_budget", unsupported),
        (json!({"continue_final_message": true}), "continue_final_message", unsupported),
        (json!({"include": ["everything"]}), "include[0]", "invalid_value"),
        (json!({"background": "x"}), "background", unsupported),
        (json!({"text": {"verbosity": 5}}), "text.verbosity", "invalid_type"),
        (json!({"reasoning": {"summary": 5}}), "reasoning.summary", "invalid_type"),
        (json!({"metadata": {"a": "x".repeat(513)}}), "metadata.a", "invalid_value"),
        (json!({"metadata": {"x".repeat(65): ""}}), "metadata", "invalid_value"),
        (json!({"temperature": 2.5}), "temperature", "invalid_value"),
        (json!({"max_output_tokens": 0}), "max_output_tokens", "invalid_value"),
        (json!({"truncation": "maybe"}), "truncation", "invalid_value"),
        (json!({"metadata": {"a": 1}}), "metadata.a", "invalid_type"),
        (json!({"input": null}), "input", "missing_required_parameter"),
        (json!({"input": 5}), "input", "invalid_type"),
        (json!({"input": []}), "input", "invalid_value"),
        (json!({"input": [{"type": "item_reference", "id": "x"}]}), "input[0].type", unsupported),
        (json!({"input": [{"type": "computer_call"}]}), "input[0].type", unsupported),
        (json!({"input": [{"content": "x"}]}), "input[0].type", "missing_required_parameter"),
        (json!({"input": [{"role": "robot", "content": "x"}]}), "input[0].role", "invalid_value"),
        (
            json!({"input": message(json!([{"type": "input_image"}]))}),
            "input[0].content[0].type",
            unsupported,
        ),
        (
            json!({"input": message(json!([{"type": "input_file"}]))}),
            "input[0].content[0].type",
            unsupported,
        ),
        (json!({"input": message(json!(null))}), "input[0].content", "missing_required_parameter"),
        (json!({"input": "a ".repeat(600)}), "input", "context_length_exceeded"),
    ];
    for (more, param, code) in cases {
        let (status, answer) = ask(&app, post(PATH, &body(more.clone()))).await;
        let error = &answer["error"];
        assert_eq!(
            (status.as_u16(), &error["param"], &error["code"]),
            (400, &json!(param), &json!(code)),
            "{more}: {answer}"
        );
    }
}

#[tokio::test]
async fn nothing_is_stored() {
    let app = plain_api().await;
    let id = ok(&app, post(PATH, &body(json!({})))).await["id"].as_str().unwrap().to_owned();
    for (method, path) in [
        ("GET", format!("{PATH}/{id}")),
        ("DELETE", format!("{PATH}/{id}")),
        ("POST", format!("{PATH}/{id}/cancel")),
        ("GET", format!("{PATH}/{id}/input_items")),
    ] {
        let request = axum::http::Request::builder().method(method).uri(&path);
        let (status, answer) = ask(&app, request.body(Default::default()).unwrap()).await;
        assert_eq!(
            (status.as_u16(), &answer["error"]["code"]),
            (404, &json!("not_found")),
            "{path}"
        );
        assert!(answer["error"]["message"].as_str().unwrap().contains(&id), "{answer}");
    }
}

#[tokio::test]
async fn tokens_of_an_input_can_be_counted() {
    let app = saying(REPLY).await;
    let count =
        ok(&app, post("/v1/responses/input_tokens", &body(json!({"tools": tools()})))).await;
    let answer = ok(&app, post(PATH, &body(json!({"tools": tools()})))).await;
    assert_eq!(count["input_tokens"], answer["usage"]["input_tokens"]);
    let more = json!({"previous_response_id": "resp_1"});
    let (status, answer) = ask(&app, post("/v1/responses/input_tokens", &body(more))).await;
    assert_eq!((status.as_u16(), &answer["error"]["param"]), (400, &json!("previous_response_id")));
}

/// Both APIs count what no context holds, and refuse to answer it by their own names.
#[tokio::test]
async fn longer_inputs_than_the_context_are_counted() {
    let app = saying(REPLY).await;
    let count = async |words: usize| {
        let text = "word ".repeat(words);
        let of_responses = json!({"input": text});
        let of_messages = json!({"messages": [{"role": "user", "content": text}]});
        let counted = ok(&app, post("/v1/responses/input_tokens", &of_responses)).await;
        let other = ok(&app, post("/v1/messages/count_tokens", &of_messages)).await;
        assert_eq!(counted["input_tokens"], other["input_tokens"]);
        counted["input_tokens"].as_u64().unwrap()
    };
    let (some, many) = (count(1_000).await, count(10_000).await);
    assert_eq!(many - some, 9_000, "a token a word: {some} {many}");
    let (_, answer) = ask(&app, post(PATH, &json!({"input": "word ".repeat(10_000)}))).await;
    assert_eq!(
        (&answer["error"]["param"], &answer["error"]["code"]),
        (&json!("input"), &json!("context_length_exceeded"))
    );
    assert!(!answer["error"]["message"].as_str().unwrap().contains("max_tokens"), "{answer}");
}

#[tokio::test]
async fn requests_are_routed_as_chats_are() {
    let app = plain_api().await;
    let (status, answer) = ask(&app, post(PATH, &body(json!({"model": "fake@canary"})))).await;
    assert_eq!((status.as_u16(), &answer["error"]["code"]), (404, &json!("model_not_found")));
    let pinned = ok(&app, post(PATH, &body(json!({"model": "fake@stable"})))).await;
    assert_eq!(pinned["model"], "fake@stable");
    let vote = json!({"id": pinned["id"], "value": true});
    assert_eq!(ok(&app, post("/v1/feedback", &vote)).await["recorded"], true);
    ok(&app, post("/responses", &body(json!({})))).await;
}

#[tokio::test]
async fn a_call_that_is_broken_is_incomplete() {
    let broken =
        |arguments: &str| format!("<tool_call>{{\"name\": \"add\", \"arguments\": {arguments}");
    for reply in
        [broken("{\"a\": Paris}}</tool_call>"), broken("{\"a\": \"Par"), broken("{\"a\": tru}}")]
    {
        let after = if reply.ends_with("call>") { call("add") } else { String::new() };
        let reply = reply + &after;
        let app = saying(&reply).await;
        let more = json!({"tools": tools()});
        let whole = ok(&app, post(PATH, &body(more.clone()))).await;
        let last = stream(&app, more).await.last().unwrap().1["response"].clone();
        for answer in [whole, last] {
            for item in answer["output"].as_array().unwrap() {
                let arguments = item["arguments"].as_str().unwrap();
                let valid = serde_json::from_str::<Value>(arguments).is_ok();
                let status = if valid { "completed" } else { "incomplete" };
                assert_eq!(item["status"], status, "{reply}");
            }
            assert_eq!(answer["output"][0]["status"], "incomplete", "{reply}");
        }
    }
}

/// Log-probabilities are those of the text: not those of reasoning and of calls.
#[tokio::test]
async fn only_tokens_of_the_text_have_log_probabilities() {
    let app = saying(&format!("<think>hm</think>So it is. {}", call("add"))).await;
    let more = json!({"include": ["message.output_text.logprobs"], "tools": tools()});
    let whole = ok(&app, post(PATH, &body(more.clone()))).await;
    let streamed = stream(&app, more).await.last().unwrap().1["response"].clone();
    for answer in [whole, streamed] {
        let items = answer["output"].as_array().unwrap();
        let message = &items.iter().find(|item| item["type"] == "message").unwrap()["content"][0];
        let tokens = message["logprobs"].as_array().unwrap().iter();
        let spelled: String = tokens.filter_map(|token| token["token"].as_str()).collect();
        assert_eq!(spelled, message["text"].as_str().unwrap());
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    /// Whatever the model writes: whole and streamed agree, and the text is what was written.
    #[test]
    fn any_reply_is_the_same_streamed_and_whole(reply in "([a-z <>/{}\"]|<think>|</think>|<tool_call>|</tool_call>){0,30}") {
        let runtime = tokio::runtime::Runtime::new().unwrap();
        runtime.block_on(async {
            let app = saying(&reply).await;
            let more = json!({"tools": tools()});
            let whole = ok(&app, post(PATH, &body(more.clone()))).await;
            let events = stream(&app, more).await;
            assert_eq!(comparable(whole), comparable(events.last().unwrap().1["response"].clone()));
        });
    }
}
