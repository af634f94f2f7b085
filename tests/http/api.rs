//! The API as seen by clients: routes, formats, statuses, with scripted models.

use crate::support::*;
use axum::body::Body;
use axum::http::{Request, StatusCode, header};
use serde_json::{Value, json};
use serin::engine::SchedulerConfig;
use serin::http::{AppState, Recorder, StableFor, client_app};
use serin::rollout::Weight;
use serin::serving::testing::FakeServer;
use serin::text::Codec;
use std::time::Duration;

const CHAT: &str = "/v1/chat/completions";
const PLAIN: &str = "/v1/completions";

/// The ids of [`REPLY`].
fn reply_ids() -> Vec<u32> {
    let codec = Codec::load(text_from(), 1024).expect("a codec");
    codec.encode(REPLY, false).expect("ids")
}

fn model<'a>(server: &'a mut FakeServer, name: &str) -> &'a mut serin::engine::fake::FakeScript {
    server.model(name).expect("a scripted model")
}

#[tokio::test]
async fn a_chat_completion() {
    let app = plain_api().await;
    let response = send(&app, post(CHAT, &chat(json!({})))).await;
    assert_eq!(response.status(), StatusCode::OK);
    let headers = response.headers().clone();
    assert_eq!(
        (&headers["x-serin-arm"], &headers["x-serin-version"]),
        (&"stable".parse().unwrap(), &"stable".parse().unwrap())
    );
    let body: Value = serde_json::from_str(&text(response).await).unwrap();
    assert_eq!(headers["x-request-id"], body["id"].as_str().unwrap());
    assert!(body["id"].as_str().unwrap().starts_with("chatcmpl-"));
    assert_eq!((&body["object"], &body["model"]), (&json!("chat.completion"), &json!("fake")));
    assert_eq!(body["system_fingerprint"], "stable-fake");
    let choice = json!({
        "index": 0, "message": {"role": "assistant", "content": REPLY, "refusal": null},
        "logprobs": null, "finish_reason": "stop",
    });
    assert_eq!(body["choices"], json!([choice]));
    let messages = json!({"messages": [{"role": "user", "content": "Hi"}]});
    let prompt = ok(&app, post("/tokenize", &messages)).await["count"].as_u64().unwrap();
    let (usage, reply) = (&body["usage"], reply_ids().len() as u64);
    assert_eq!(
        (usage["prompt_tokens"].as_u64(), usage["completion_tokens"].as_u64()),
        (Some(prompt), Some(reply))
    );
    assert_eq!(usage["total_tokens"].as_u64(), Some(prompt + reply));
    assert!(usage["prompt_tokens_details"]["cached_tokens"].is_u64());
}

#[tokio::test]
async fn a_chat_stream() {
    let app = plain_api().await;
    let body = chat(json!({"stream": true, "stream_options": {"include_usage": true}}));
    let response = send(&app, post(CHAT, &body)).await;
    assert_eq!(response.status(), StatusCode::OK);
    assert_eq!(response.headers()[header::CONTENT_TYPE], "text/event-stream; charset=utf-8");
    assert_eq!(response.headers()[header::CACHE_CONTROL], "no-cache");
    assert_eq!(response.headers()["x-accel-buffering"], "no");
    assert_eq!(response.headers()["x-serin-arm"], "stable");
    let stream = text(response).await;
    let events = events(&stream);
    let (done, chunks) = events.split_last().unwrap();
    assert_eq!(done, "[DONE]");
    for name in ["id", "object", "created", "model", "system_fingerprint"] {
        assert!(chunks.iter().all(|chunk| chunk[name] == chunks[0][name]), "{name}: {stream}");
    }
    let (usage, chunks) = chunks.split_last().unwrap();
    assert_eq!((&usage["choices"], usage["usage"].is_object()), (&json!([]), true));
    assert!(chunks.iter().all(|chunk| chunk.get("usage") == Some(&Value::Null)));
    let choices: Vec<&Value> = chunks.iter().map(|chunk| &chunk["choices"][0]).collect();
    assert_eq!(choices[0]["delta"], json!({"role": "assistant", "content": ""}));
    let (last, before) = choices.split_last().unwrap();
    assert_eq!((&last["delta"], &last["finish_reason"]), (&json!({}), &json!("stop")));
    assert!(before.iter().all(|choice| choice["finish_reason"].is_null()));
    let said: String = before.iter().filter_map(|c| c["delta"]["content"].as_str()).collect();
    assert_eq!(said, REPLY);
}

#[tokio::test]
async fn without_include_usage_no_chunk_speaks_of_it() {
    let app = plain_api().await;
    let response = send(&app, post(CHAT, &chat(json!({"stream": true})))).await;
    let stream = text(response).await;
    assert!(!stream.contains("usage"), "{stream}");
    assert!(stream.ends_with("data: [DONE]\n\n"));
}

#[tokio::test]
async fn length_and_stop_strings_end_replies() {
    let app = plain_api().await;
    let body = ok(&app, post(CHAT, &chat(json!({"max_tokens": 2})))).await;
    assert_eq!(body["choices"][0]["finish_reason"], "length");
    assert_eq!(body["usage"]["completion_tokens"], 2);
    let body = ok(&app, post(CHAT, &chat(json!({"stop": "there"})))).await;
    assert_eq!(body["choices"][0]["finish_reason"], "stop");
    assert_eq!(body["choices"][0]["message"]["content"], "Hello ");
}

#[tokio::test]
async fn a_reply_is_as_long_as_the_context_leaves_if_more_was_asked_for() {
    let app = plain_api().await;
    let body = ok(&app, post(CHAT, &chat(json!({"max_tokens": 5000})))).await;
    assert_eq!(body["choices"][0]["message"]["content"], REPLY);
    let long = json!({"prompt": vec![5; 510], "max_tokens": 600, "ignore_eos": true});
    let body = ok(&app, post(PLAIN, &plain(long))).await;
    assert_eq!(body["choices"][0]["finish_reason"], "length");
    assert_eq!(body["usage"]["total_tokens"], 512);
}

#[tokio::test]
async fn a_prompt_is_cut_to_its_last_tokens_if_that_is_wanted() {
    let app = plain_api().await;
    for (most, left) in [(10, 10), (-1, 511), (5000, 511)] {
        let cut = json!({"prompt": vec![5; 2000], "truncate_prompt_tokens": most});
        let body = ok(&app, post(PLAIN, &plain(cut))).await;
        assert_eq!(body["usage"]["prompt_tokens"], left, "{most}");
    }
    let text = json!({"prompt": "word ".repeat(4000), "truncate_prompt_tokens": 7});
    let body = ok(&app, post(PLAIN, &plain(text))).await;
    assert_eq!(body["usage"]["prompt_tokens"], 7);
}

#[tokio::test]
async fn replies_end_where_the_request_says() {
    let app = plain_api().await;
    let content = async |app: &axum::Router, more: Value| {
        let body = ok(app, post(CHAT, &chat(more))).await;
        let choice = &body["choices"][0];
        assert_eq!(choice["finish_reason"], "stop", "{body}");
        choice["message"]["content"].as_str().unwrap().to_owned()
    };
    let kept = json!({"stop": "there", "include_stop_str_in_output": true});
    assert_eq!(content(&app, kept).await, "Hello there");
    let third = reply_ids()[2];
    let cut = content(&app, json!({"stop_token_ids": [third]})).await;
    assert!(REPLY.starts_with(&cut) && cut.len() < REPLY.len(), "{cut}");
    let (status, body) = ask(&app, post(CHAT, &chat(json!({"stop_token_ids": [99999]})))).await;
    assert_eq!((status.as_u16(), &body["error"]["param"]), (400, &json!("stop_token_ids")));
    assert_eq!(content(&app, json!({"model": null})).await, REPLY);

    let app = api(gateway_saying("Hello <|im_start|>my friend.", |_| {}).await);
    assert_eq!(content(&app, json!({"stop": "<|im_start|>"})).await, "Hello ", "one special token");
    let hidden = content(&app, json!({})).await;
    let shown = content(&app, json!({"skip_special_tokens": false})).await;
    assert!(!hidden.contains("im_start") && shown.contains("<|im_start|>"), "{hidden} {shown}");
}

#[tokio::test]
async fn plain_completions_come_in_batches() {
    let app = plain_api().await;
    let one = ok(&app, post(PLAIN, &plain(json!({})))).await;
    assert!(one["id"].as_str().unwrap().starts_with("cmpl-"));
    assert_eq!(one["object"], "text_completion");
    let choice = json!({"text": REPLY, "index": 0, "logprobs": null, "finish_reason": "stop"});
    assert_eq!(one["choices"], json!([choice]));
    let many = ok(&app, post(PLAIN, &plain(json!({"prompt": ["a", "b", "c"], "n": 2})))).await;
    let choices = many["choices"].as_array().unwrap();
    assert_eq!(choices.len(), 6);
    for (index, choice) in choices.iter().enumerate() {
        assert_eq!((&choice["index"], &choice["text"]), (&json!(index), &json!(REPLY)));
    }
    assert_eq!(many["usage"]["completion_tokens"], 6 * reply_ids().len());
    let ids = ok(&app, post(PLAIN, &plain(json!({"prompt": [[5, 6], [7]]})))).await;
    assert_eq!(ids["choices"].as_array().unwrap().len(), 2);
    assert_eq!(ids["usage"]["prompt_tokens"], 3);
}

#[tokio::test]
async fn a_plain_stream_of_a_batch_has_each_choice() {
    let app = plain_api().await;
    let body = plain(json!({"prompt": ["a", "b"], "stream": true}));
    let stream = text(send(&app, post(PLAIN, &body)).await).await;
    for index in 0..2 {
        let events = events(&stream);
        let mine = events.iter().filter(|e| e["choices"][0]["index"] == index);
        let said: String = mine.filter_map(|e| e["choices"][0]["text"].as_str()).collect();
        assert_eq!(said, REPLY);
    }
    assert!(stream.ends_with("data: [DONE]\n\n"));
}

/// An invalid body, and the expected status, `param` and `code`.
type Case = (Value, u16, Option<&'static str>, &'static str);

async fn check(path: &str, cases: Vec<Case>) {
    let app = plain_api().await;
    for (body, status, param, code) in cases {
        let (got, answer) = ask(&app, post(path, &body)).await;
        let error = &answer["error"];
        assert_eq!(got.as_u16(), status, "{body}: {answer}");
        assert_eq!(error["type"], "invalid_request_error", "{body}: {answer}");
        assert_eq!(error["param"], json!(param), "{body}: {answer}");
        assert_eq!(error["code"], code, "{body}: {answer}");
        assert!(error["message"].as_str().is_some_and(|m| !m.is_empty()), "{body}: {answer}");
    }
}

#[tokio::test]
async fn bad_chats_are_refused_by_field() {
    let value = |field: &'static str, value: Value| -> Case {
        (chat(json!({field: value})), 400, Some(field), "invalid_value")
    };
    let kind = |field: &'static str, value: Value| -> Case {
        (chat(json!({field: value})), 400, Some(field), "invalid_type")
    };
    let unsupported = |field: &'static str, value: Value| -> Case {
        (chat(json!({field: value})), 400, Some(field), "unsupported_value")
    };
    let missing = "missing_required_parameter";
    let role = json!([{"role": "robot", "content": "Hi"}]);
    check(
        CHAT,
        vec![
            (json!({"model": "fake"}), 400, Some("messages"), missing),
            (chat(json!({"model": "gpt-4o"})), 404, Some("model"), "model_not_found"),
            (chat(json!({"model": "fake@canary"})), 404, Some("model"), "model_not_found"),
            (chat(json!({"messages": role})), 400, Some("messages[0].role"), "invalid_value"),
            value("messages", json!([])),
            kind("messages", json!("Hi")),
            value("temperature", json!(2.5)),
            kind("temperature", json!("hot")),
            value("top_p", json!(1.5)),
            value("top_k", json!(-2)),
            value("min_p", json!(2)),
            value("repetition_penalty", json!(0)),
            value("frequency_penalty", json!(3)),
            value("presence_penalty", json!(-3)),
            value("n", json!(9)),
            value("max_tokens", json!(-2)),
            value("max_completion_tokens", json!(-2)),
            value("stop", json!(vec!["x"; 17])),
            kind("seed", json!("lucky")),
            value("stream_options", json!({"include_usage": true})),
            value("tool_choice", json!("required")),
            unsupported("prompt_logprobs", json!(5)),
            unsupported("echo", json!(true)),
            unsupported("best_of", json!(2)),
            (
                chat(json!({"messages": [{"role": "user", "content": "a ".repeat(600)}]})),
                400,
                Some("messages"),
                "context_length_exceeded",
            ),
        ],
    )
    .await;
}

#[tokio::test]
async fn bad_plain_completions_are_refused_by_field() {
    check(
        PLAIN,
        vec![
            (json!({"model": "fake"}), 400, Some("prompt"), "missing_required_parameter"),
            (plain(json!({"prompt": []})), 400, Some("prompt"), "invalid_value"),
            (plain(json!({"prompt": ["a", 1]})), 400, Some("prompt[1]"), "invalid_type"),
            (plain(json!({"best_of": 0})), 400, Some("best_of"), "invalid_value"),
            (plain(json!({"suffix": "x"})), 400, Some("suffix"), "unsupported_value"),
            (plain(json!({"logprobs": 21})), 400, Some("logprobs"), "invalid_value"),
            (
                plain(json!({"prompt": vec![5; 512]})),
                400,
                Some("prompt"),
                "context_length_exceeded",
            ),
        ],
    )
    .await;
}

#[tokio::test]
async fn ids_outside_the_vocabulary_are_refused() {
    let app = plain_api().await;
    let (status, body) = ask(&app, post(PLAIN, &plain(json!({"prompt": [1, 99999]})))).await;
    assert_eq!((status.as_u16(), &body["error"]["param"]), (400, &json!("prompt")));
}

#[tokio::test]
async fn bodies_that_cannot_be_read_are_refused() {
    let app = plain_api().await;
    let (status, body) = ask(&app, raw_post(CHAT, r#"{"temperature": NaN}"#)).await;
    assert_eq!((status.as_u16(), &body["error"]["param"]), (400, &json!("temperature")));
    let (status, body) = ask(&app, raw_post(CHAT, r#"{"temperature": warm}"#)).await;
    assert_eq!((status.as_u16(), &body["error"]["code"]), (400, &json!("invalid_json")));
    let message = body["error"]["message"].as_str().unwrap();
    assert!(message.contains("line 1 column 17"), "{message}");
    let (status, body) = ask(&app, raw_post(CHAT, vec![b' '; BODY_LIMIT + 1])).await;
    assert_eq!((status.as_u16(), &body["error"]["code"]), (413, &json!("body_too_large")));
    assert!(body["error"]["message"].as_str().unwrap().contains(&BODY_LIMIT.to_string()));
    let pieces = (0..80).map(|_| Ok::<_, std::io::Error>(vec![b' '; 1 << 10]));
    let unknown_length = Body::from_stream(futures_util::stream::iter(pieces));
    let (status, _) = ask(&app, raw_post(CHAT, unknown_length)).await;
    assert_eq!(status.as_u16(), 413);
}

#[tokio::test]
async fn unknown_routes_and_methods_answer_in_the_same_form() {
    let gateway = gateway_saying(REPLY, |_| {}).await;
    let app = client_app(state(gateway), &[]);
    for path in ["/v2", "/v1/unknown", "/admin", "/admin/status", "/admin/unknown"] {
        let (status, body) = ask(&app, local(get(path))).await;
        assert_eq!((status.as_u16(), &body["error"]["code"]), (404, &json!("unknown_url")));
        let message = body["error"]["message"].as_str().unwrap();
        assert_eq!(message.contains("operator.listen"), path.starts_with("/admin"), "{message}");
    }
    for (request, allow) in [(get(CHAT), "POST"), (post("/v1/models", &json!({})), "GET,HEAD")] {
        let response = send(&app, request).await;
        assert_eq!(response.status(), StatusCode::METHOD_NOT_ALLOWED);
        assert_eq!(response.headers()[header::ALLOW], allow);
        let body: Value = serde_json::from_str(&text(response).await).unwrap();
        assert_eq!(body["error"]["code"], "method_not_allowed");
    }
}

#[tokio::test]
async fn a_failure_before_the_first_token_has_its_status_even_when_streamed() {
    let ill = |server: &mut FakeServer| model(server, "stable").nan_share = 1.0;
    let app = api(gateway_saying(REPLY, ill).await);
    for stream in [false, true] {
        let response = send(&app, post(CHAT, &chat(json!({"stream": stream})))).await;
        assert_eq!(response.status(), StatusCode::INTERNAL_SERVER_ERROR);
        assert_eq!(response.headers()["x-serin-arm"], "stable");
        assert!(response.headers().contains_key("x-request-id"));
        let body: Value = serde_json::from_str(&text(response).await).unwrap();
        assert_eq!(
            (&body["error"]["type"], &body["error"]["code"]),
            (&json!("server_error"), &json!("model_error"))
        );
    }
}

#[tokio::test]
async fn a_failure_in_mid_stream_is_told_and_not_done() {
    let third = reply_ids()[2];
    let ill = |server: &mut FakeServer| model(server, "stable").nan_on = Some(third);
    let app = api(gateway_saying(REPLY, ill).await);
    let body = chat(json!({"stream": true, "messages": [{"role": "user", "content": "?"}]}));
    let response = send(&app, post(CHAT, &body)).await;
    assert_eq!(response.status(), StatusCode::OK);
    let stream = text(response).await;
    let events = events(&stream);
    assert_eq!(events[0]["choices"][0]["delta"]["role"], "assistant");
    assert_eq!(events.last().unwrap()["error"]["code"], "model_error");
    assert!(!stream.contains("[DONE]"), "{stream}");
    let (status, _) =
        ask(&app, post(CHAT, &chat(json!({"messages": [{"role": "user", "content": "?"}]})))).await;
    assert_eq!(status, StatusCode::INTERNAL_SERVER_ERROR);
}

#[tokio::test]
async fn a_full_queue_is_busy_and_says_when_to_come_back() {
    let small = |server: &mut FakeServer| {
        let waiting = SchedulerConfig {
            max_running: 1,
            max_batch_tokens: 512,
            max_waiting: 8,
            ..Default::default()
        };
        server.scheduler = waiting;
        model(server, "stable").step_time = Duration::from_millis(50);
    };
    let app = api(gateway_saying(REPLY, small).await);
    let body = plain(json!({"prompt": vec!["a"; 8]}));
    let (first, request) = (app.clone(), post(PLAIN, &body));
    let first = tokio::spawn(async move { send(&first, request).await.status() });
    tokio::time::sleep(Duration::from_millis(100)).await;
    let response = send(&app, post(PLAIN, &body)).await;
    assert_eq!(response.status(), StatusCode::TOO_MANY_REQUESTS);
    let after: u64 = response.headers()[header::RETRY_AFTER].to_str().unwrap().parse().unwrap();
    assert!((1..=3).contains(&after));
    let body: Value = serde_json::from_str(&text(response).await).unwrap();
    assert_eq!(body["error"]["type"], "rate_limit_error");
    assert_eq!(first.await.unwrap(), StatusCode::OK, "who came first is served");

    // Requests that could never wait together are an error of their own, not a busy server.
    let (status, body) =
        ask(&app, post(PLAIN, &plain(json!({"prompt": vec!["a"; 3], "n": 3})))).await;
    assert_eq!(status, StatusCode::BAD_REQUEST);
    let said = body["error"]["message"].as_str().unwrap();
    assert!(said.contains("9 replies") && said.contains("engine.max_waiting"), "{said}");
}

#[tokio::test]
async fn tool_calls_are_found_when_there_are_tools() {
    let call = r#"<tool_call>{"name": "add", "arguments": {"a": 1}}</tool_call>"#;
    let app = api(gateway_with(&with_template("qwen25"), call, |_| {}).await);
    let tools = json!([{"type": "function", "function": {"name": "add"}}]);
    let body = ok(&app, post(CHAT, &chat(json!({"tools": tools})))).await;
    let choice = &body["choices"][0];
    assert_eq!(choice["finish_reason"], "tool_calls");
    assert_eq!(choice["message"]["content"], Value::Null);
    let function = json!({"name": "add", "arguments": "{\"a\": 1}"});
    assert_eq!(choice["message"]["tool_calls"][0]["function"], function);
    let body = chat(json!({"tools": tools, "stream": true}));
    let stream = text(send(&app, post(CHAT, &body)).await).await;
    let events = events(&stream);
    let calls: Vec<&Value> = events
        .iter()
        .map(|e| &e["choices"][0]["delta"]["tool_calls"][0])
        .filter(|c| c.is_object())
        .collect();
    assert_eq!(
        (&calls[0]["function"]["name"], &calls[0]["type"]),
        (&json!("add"), &json!("function"))
    );
    let arguments = calls[1..].iter().map(|call| call["function"]["arguments"].as_str().unwrap());
    assert_eq!(arguments.collect::<String>(), "{\"a\": 1}");
    assert_eq!(events[events.len() - 2]["choices"][0]["finish_reason"], "tool_calls");
    for off in [json!({}), json!({"tools": tools, "tool_choice": "none"})] {
        let body = ok(&app, post(CHAT, &chat(off))).await;
        assert_eq!(body["choices"][0]["message"]["content"], call);
    }
}

#[tokio::test]
async fn calls_are_found_in_the_syntax_of_the_models_own_template() {
    let tools = json!([{"type": "function", "function": {"name": "add"}}]);
    let llama = r#"{"name": "add", "parameters": {"a": 1}}"#;
    let mistral = r#"[TOOL_CALLS][{"name": "add", "arguments": {"a": 1}}]"#;
    for (template, reply) in [("mistral_tools", mistral), ("llama3", llama)] {
        let app = api(gateway_with(&with_template(template), reply, |_| {}).await);
        let body = ok(&app, post(CHAT, &chat(json!({"tools": tools})))).await;
        let function = &body["choices"][0]["message"]["tool_calls"][0]["function"];
        assert_eq!(function, &json!({"name": "add", "arguments": "{\"a\": 1}"}), "{template}");
    }
    // The tiny model's template does not show tools: the request is not answered without them.
    let app = plain_api().await;
    let (status, body) = ask(&app, post(CHAT, &chat(json!({"tools": tools})))).await;
    assert_eq!(status, StatusCode::BAD_REQUEST);
    assert_eq!(body["error"]["code"], "unsupported_conversation");
    assert!(body["error"]["message"].as_str().unwrap().contains("does not show tools"));
}

#[tokio::test]
async fn reasoning_is_told_from_the_answer_unless_the_client_says_otherwise() {
    let said = "<think>\nSmall.\n</think>\n\nBig.";
    let app = api(gateway_saying(said, |_| {}).await);
    let cases = [
        (json!({}), json!("Small."), "Big."),
        (json!({"reasoning_format": "deepseek"}), json!("Small."), "Big."),
        (json!({"include_reasoning": false}), Value::Null, "Big."),
        (json!({"reasoning_format": "none"}), Value::Null, said),
    ];
    for (more, reasoning, content) in cases {
        let body = ok(&app, post(CHAT, &chat(more.clone()))).await;
        let message = &body["choices"][0]["message"];
        assert_eq!(
            (&message["reasoning_content"], &message["content"]),
            (&reasoning, &json!(content))
        );
        let mut more = more;
        more["stream"] = json!(true);
        let stream = text(send(&app, post(CHAT, &chat(more))).await).await;
        let joined = |name: &str| -> String {
            let events = events(&stream);
            let deltas = events.iter().map(|event| event["choices"][0]["delta"][name].clone());
            deltas.filter_map(|delta| delta.as_str().map(str::to_owned)).collect()
        };
        assert_eq!(joined("content"), content);
        assert_eq!(joined("reasoning_content"), reasoning.as_str().unwrap_or_default());
    }
    let (status, _) = ask(&app, post(CHAT, &chat(json!({"reasoning_format": "x"})))).await;
    assert_eq!(status, StatusCode::BAD_REQUEST);
}

async fn load_canary(app: &axum::Router) {
    ok(app, local(post("/admin/canary/load", &json!({"path": "canary"})))).await;
}

#[tokio::test]
async fn models_are_listed_by_name_and_arm() {
    let app = plain_api().await;
    let ids = |list: &Value| -> Vec<String> {
        let models = list["data"].as_array().unwrap();
        models.iter().map(|model| model["id"].as_str().unwrap().to_owned()).collect()
    };
    let list = ok(&app, get("/v1/models")).await;
    assert_eq!(
        (&list["object"], ids(&list)),
        (&json!("list"), vec!["fake".into(), "fake@stable".into()])
    );
    let expected = json!({
        "id": "fake", "object": "model", "created": 0, "owned_by": "serin", "root": "stable",
        "max_model_len": 512, "version": "stable",
    });
    assert_eq!(list["data"][0], expected);
    load_canary(&app).await;
    let list = ok(&app, get("/v1/models")).await;
    assert_eq!(ids(&list), ["fake", "fake@stable", "fake@canary"]);
    let one = ok(&app, get("/v1/models/fake@canary")).await;
    assert_eq!((&one["id"], &one["version"]), (&json!("fake@canary"), &json!("canary")));
    let (status, body) = ask(&app, get("/v1/models/some/other")).await;
    assert_eq!((status.as_u16(), &body["error"]["code"]), (404, &json!("model_not_found")));
}

#[tokio::test]
async fn name_and_header_pin_an_arm() {
    let app = plain_api().await;
    load_canary(&app).await;
    for arm in ["stable", "canary"] {
        let body = chat(json!({"model": format!("fake@{arm}")}));
        let response = send(&app, post(CHAT, &body)).await;
        assert_eq!(
            (&response.headers()["x-serin-arm"], &response.headers()["x-serin-version"]),
            (&arm.parse().unwrap(), &arm.parse().unwrap())
        );
        let answer: Value = serde_json::from_str(&text(response).await).unwrap();
        assert_eq!(answer["model"], format!("fake@{arm}"));
        assert_eq!(answer["system_fingerprint"], format!("{arm}-fake"));
        let mut request = post(CHAT, &chat(json!({})));
        request.headers_mut().insert("x-serin-variant", arm.parse().unwrap());
        assert_eq!(send(&app, request).await.headers()["x-serin-arm"], arm);
    }
    let mut request = post(CHAT, &chat(json!({"model": "fake@stable"})));
    request.headers_mut().insert("x-serin-variant", "canary".parse().unwrap());
    assert_eq!(ask(&app, request).await.0, StatusCode::BAD_REQUEST);
    let mut request = post(CHAT, &chat(json!({})));
    request.headers_mut().insert("x-serin-variant", "green".parse().unwrap());
    let (status, body) = ask(&app, request).await;
    assert_eq!((status.as_u16(), &body["error"]["param"]), (400, &json!("x-serin-variant")));
}

#[tokio::test]
async fn marked_requests_go_to_stable() {
    let names = |name: &str| [name.to_owned()];
    let state = AppState {
        stable_for: StableFor::new(&names("task"), &names("x-task")),
        ..state(gateway_saying(REPLY, |server| server.policy.holdback = Weight::ZERO).await)
    };
    let app = api_of(state);
    load_canary(&app).await;
    ok(&app, local(post("/admin/weight", &json!({"percent": 100, "expect": 2})))).await;
    let arm = async |path: &str, more: Value, header: Option<&'static str>| {
        let mut body = json!({"max_tokens": 5, "messages": [{"role": "user", "content": "Hi"}]});
        if path.ends_with("responses") {
            body = json!({"input": "Hi"});
        }
        body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        let mut request = post(path, &body);
        if let Some(value) = header {
            request.headers_mut().insert("x-task", value.parse().unwrap());
        }
        let response = send(&app, request).await;
        assert_eq!(response.status(), StatusCode::OK, "{path} {more}");
        response.headers()["x-serin-arm"].to_str().unwrap().to_owned()
    };
    for path in [CHAT, "/v1/responses", "/v1/messages"] {
        assert_eq!(arm(path, json!({}), None).await, "canary");
        assert_eq!(arm(path, json!({}), Some("title")).await, "stable", "{path}");
        let named = json!({"model": "fake@canary"});
        assert_eq!(arm(path, named, Some("title")).await, "canary", "it asks for an arm itself");
        if path != "/v1/messages" {
            assert_eq!(arm(path, json!({"metadata": {"task": "title"}}), None).await, "stable");
            assert_eq!(arm(path, json!({"metadata": {"other": "title"}}), None).await, "canary");
        }
    }
}

/// Only `"store": true` of a chat completion is consent, and only the conversation is kept.
#[tokio::test]
async fn prompts_are_recorded_with_consent() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("prompts.jsonl");
    let recorder = Recorder::open(&path, 1 << 20).unwrap();
    let gateway = gateway_saying(REPLY, |_| {}).await;
    let app = api_of(AppState { recorder: Some(recorder.clone()), ..state(gateway) });
    let messages = |text: &str| json!([{"role": "user", "content": text}]);
    for (store, text) in [(json!(null), "a"), (json!(false), "b"), (json!(true), "consented")] {
        let body = json!({"messages": messages(text), "store": store, "user": "someone"});
        ok(&app, post(CHAT, &chat(body))).await;
    }
    ok(&app, post(PLAIN, &plain(json!({"store": true})))).await;
    ok(&app, post("/v1/responses", &json!({"input": "Hi", "store": true}))).await;
    // Lines are written in order: this one is the last.
    recorder.record(&[json!("end")], None);
    let lines = loop {
        let text = std::fs::read_to_string(&path).unwrap();
        if text.contains("end") {
            break text
                .lines()
                .map(|l| serde_json::from_str::<Value>(l).unwrap())
                .collect::<Vec<_>>();
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    };
    assert_eq!(lines.len(), 2, "{lines:?}");
    assert_eq!(lines[0]["messages"], messages("consented"));
    let mut names: Vec<&String> = lines[0].as_object().unwrap().keys().collect();
    names.retain(|name| !["messages", "max_tokens"].contains(&name.as_str()));
    assert!(names.is_empty(), "{names:?}");
    for store in [json!("yes"), json!(1)] {
        let body = chat(json!({"messages": messages("x"), "store": store}));
        let answer = send(&app, post(CHAT, &body)).await;
        assert_eq!(answer.status(), 400);
    }
}

#[tokio::test]
async fn tokens_go_there_and_back() {
    let app = plain_api().await;
    let there = ok(&app, post("/tokenize", &json!({"model": "fake", "prompt": REPLY}))).await;
    assert_eq!(there["tokens"], json!(reply_ids()));
    assert_eq!(
        (&there["count"], &there["max_model_len"]),
        (&json!(reply_ids().len()), &json!(512))
    );
    let bare = json!({"prompt": REPLY, "add_special_tokens": false});
    assert_eq!(ok(&app, post("/tokenize", &bare)).await["tokens"], json!(reply_ids()));
    let back = ok(&app, post("/detokenize", &json!({"tokens": there["tokens"]}))).await;
    assert_eq!(back, json!({"prompt": REPLY, "content": REPLY}));
    for (path, body, param) in [
        ("/tokenize", json!({}), "prompt"),
        ("/tokenize", json!({"prompt": 1}), "prompt"),
        ("/tokenize", json!({"messages": []}), "messages"),
        ("/tokenize", json!({"prompt": "a", "model": "other"}), "model"),
        ("/detokenize", json!({}), "tokens"),
        ("/detokenize", json!({"tokens": ["a"]}), "tokens[0]"),
        ("/detokenize", json!({"tokens": [999_999]}), "tokens"),
    ] {
        let (status, answer) = ask(&app, post(path, &body)).await;
        assert!(status.is_client_error(), "{answer}");
        assert_eq!(answer["error"]["param"], param, "{answer}");
    }
}

#[tokio::test]
async fn a_tokenizer_is_also_asked_as_on_other_servers() {
    let app = plain_api().await;
    let of = async |body: Value| ok(&app, post("/tokenize", &body)).await["tokens"].clone();
    assert_eq!(of(json!({"content": REPLY})).await, json!(reply_ids()));
    let pieces = of(json!({"content": REPLY, "with_pieces": true})).await;
    let pieces = pieces.as_array().unwrap();
    let spelled: String = pieces.iter().filter_map(|one| one["piece"].as_str()).collect();
    assert_eq!((spelled.as_str(), &pieces[0]["id"]), (REPLY, &json!(reply_ids()[0])));
    let parts = of(json!({"content": "\u{1f600}", "with_pieces": true})).await;
    let bytes = parts.as_array().unwrap().iter().flat_map(|one| match &one["piece"] {
        Value::String(text) => text.clone().into_bytes(),
        list => serde_json::from_value(list.clone()).unwrap(),
    });
    assert_eq!(bytes.collect::<Vec<u8>>(), "\u{1f600}".as_bytes());
    let asked = json!({"prompt": REPLY, "return_token_strs": true});
    let strings = ok(&app, post("/tokenize", &asked)).await["token_strs"].clone();
    assert_eq!(strings.as_array().unwrap().len(), reply_ids().len());
    let special = json!({"content": "x", "parse_special": false});
    let (status, answer) = ask(&app, post("/tokenize", &special)).await;
    assert_eq!((status.as_u16(), &answer["error"]["param"]), (400, &json!("parse_special")));
}

#[tokio::test]
async fn a_chat_can_be_rendered_without_a_reply() {
    let app = plain_api().await;
    let of = async |body: Value| ok(&app, post("/apply-template", &body)).await["prompt"].clone();
    let messages = json!([{"role": "user", "content": "What is 7 plus 5?"}]);
    let open = of(json!({"messages": messages})).await;
    let closed = of(json!({"messages": messages, "add_generation_prompt": false})).await;
    let (open, closed) = (open.as_str().unwrap(), closed.as_str().unwrap());
    assert!(closed.contains("What is 7 plus 5?") && open.starts_with(closed), "{open}");
    assert!(open.len() > closed.len());
    let ids = ok(&app, post("/tokenize", &json!({"messages": messages}))).await;
    let back = ok(&app, post("/detokenize", &json!({"tokens": ids["tokens"]}))).await;
    assert_eq!(back["prompt"], open);
    for (body, param) in [(json!({}), "messages"), (json!({"messages": []}), "messages")] {
        let (status, answer) = ask(&app, post("/apply-template", &body)).await;
        assert_eq!((status.as_u16(), &answer["error"]["param"]), (400, &json!(param)));
    }
}

#[tokio::test]
async fn routes_that_are_missing_say_what_is_missing() {
    let app = plain_api().await;
    for path in [
        "/v1/embeddings",
        "/embeddings",
        "/v1/rerank",
        "/rerank",
        "/infill",
        "/v1/audio/speech",
        "/v1/audio/transcriptions",
        "/v1/images/generations",
        "/v1/moderations",
        "/v1/responses/compact",
        "/moderations",
        "/audio/speech",
        "/responses/compact",
        "/v1/files",
        "/files",
        "/v1/batches",
        "/v1/batches/b/cancel",
        "/v1/conversations",
        "/v1/complete",
    ] {
        let (status, answer) = ask(&app, post(path, &json!({"input": "x"}))).await;
        assert_eq!((status.as_u16(), &answer["error"]["code"]), (501, &json!("not_available")));
        let message = answer["error"]["message"].as_str().unwrap();
        assert!(message.starts_with(path) && message.len() > path.len() + 30, "{message}");
        let stored = path.ends_with("/responses/compact");
        let (status, answer) = ask(&app, get(path)).await;
        let expected = if stored { (404, "not_found") } else { (501, "not_available") };
        assert_eq!(
            (status.as_u16(), answer["error"]["code"].as_str().unwrap()),
            expected,
            "{path}"
        );
    }
}

#[tokio::test]
async fn routes_are_also_found_without_their_version() {
    let app = plain_api().await;
    let responses = json!({"input": "Hi"});
    let messages = json!({"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 9});
    for (path, body) in [
        ("/chat/completions", chat(json!({}))),
        ("/completions", plain(json!({}))),
        ("/responses", responses),
        ("/messages", messages.clone()),
        ("/messages/count_tokens", messages),
    ] {
        ok(&app, post(path, &body)).await;
        ok(&app, post(&format!("/v1{path}"), &body)).await;
    }
    assert_eq!(ok(&app, get("/models")).await, ok(&app, get("/v1/models")).await);
    assert_eq!(ok(&app, get("/models/fake")).await["id"], "fake");
}

#[tokio::test]
async fn the_routes_are_described_for_programs_and_for_people() {
    let app = plain_api().await;
    let document = ok(&app, get("/openapi.json")).await;
    assert_eq!(document["openapi"], "3.1.0");
    for (path, item) in document["paths"].as_object().unwrap() {
        let real = path.replace("{id}", "fake").replace("{rest}", "x");
        for method in item.as_object().unwrap().keys().filter(|name| *name != "parameters") {
            let request = Request::builder().method(method.to_uppercase().as_str()).uri(&real);
            let response = send(&app, request.body(Body::from("{}")).unwrap()).await;
            let status = response.status().as_u16();
            let listed = &document["paths"][path][method]["responses"];
            assert!(listed.get(status.to_string()).is_some(), "{method} {path}: {status}");
            let unknown = text(response).await.contains("unknown_url");
            assert!(!unknown, "{method} {path} is described and not there");
        }
    }
    let page = send(&app, get("/docs")).await;
    let policy = page.headers()["content-security-policy"].to_str().unwrap().to_owned();
    assert!(policy.starts_with("default-src 'none'"), "{policy}");
    let page = text(page).await;
    for wanted in ["POST /v1/messages", "max_output_tokens", "number, 0 to 2", "/apply-template"] {
        assert!(page.contains(wanted), "{wanted}");
    }
    assert!(!page.contains("<script") && !page.contains("<style"));
}

#[tokio::test]
async fn replies_can_be_voted_on() {
    let app = plain_api().await;
    let reply = ok(&app, post(CHAT, &chat(json!({})))).await;
    let vote = json!({"id": reply["id"], "value": true, "comment": "good", "tags": ["kind"]});
    let recorded = ok(&app, post("/v1/feedback", &vote)).await;
    assert_eq!(recorded, json!({"object": "feedback", "id": reply["id"], "recorded": true}));
    let (status, body) = ask(&app, post("/v1/feedback", &json!({"id": "x", "value": -1}))).await;
    assert_eq!((status.as_u16(), &body["error"]["code"]), (404, &json!("unknown_completion")));
    let (status, body) = ask(&app, post("/v1/feedback", &json!({"id": "x", "value": 2}))).await;
    assert_eq!((status.as_u16(), &body["error"]["param"]), (400, &json!("value")));
}

#[tokio::test]
async fn probes_answer() {
    let app = plain_api().await;
    for path in ["/livez", "/readyz", "/health"] {
        assert_eq!(ok(&app, get(path)).await, json!({"status": "ok"}));
    }
    assert_eq!(ok(&app, get("/version")).await["version"], env!("CARGO_PKG_VERSION"));
    let metrics = send(&app, get("/metrics")).await;
    assert_eq!(metrics.status(), StatusCode::OK);
    let kind = metrics.headers()[header::CONTENT_TYPE].to_str().unwrap().to_owned();
    assert!(kind.starts_with("text/plain; version=0.0.4"), "{kind}");
    assert_eq!(text(metrics).await, "");
}

#[tokio::test]
async fn a_request_without_a_known_length_is_read_to_its_end() {
    let app = plain_api().await;
    let body = chat(json!({})).to_string().into_bytes();
    let pieces: Vec<_> = body.chunks(7).map(|p| Ok::<_, std::io::Error>(p.to_vec())).collect();
    let body = Body::from_stream(futures_util::stream::iter(pieces));
    let request = Request::post(CHAT).body(body).unwrap();
    assert_eq!(send(&app, request).await.status(), StatusCode::OK);
}

const CLIENT_ROUTES: [(&str, &str); 7] = [
    ("POST", CHAT),
    ("POST", "/v1/completions"),
    ("GET", "/v1/models"),
    ("GET", "/v1/models/fake"),
    ("POST", "/v1/feedback"),
    ("POST", "/tokenize"),
    ("POST", "/detokenize"),
];
const PAGE: &str = "https://chat.example.com";

/// Every route and every error tells an allowed page that it may call the API, and no other page.
#[tokio::test]
async fn pages_of_listed_origins_may_call_every_route() {
    let gateway = gateway_saying(REPLY, |_| {}).await;
    let app = client_app(state(gateway), &[PAGE.to_owned()]);
    let asked = |method: &str, path: &str, origin: &str| {
        let request = Request::builder().method(method).uri(path).header(header::ORIGIN, origin);
        let request = request.header(header::CONTENT_TYPE, "application/json");
        let request = request.header("access-control-request-method", "POST");
        request
            .header("access-control-request-headers", "x-stainless-os")
            .body(Body::from("{}"))
            .unwrap()
    };
    let lost = [("GET", "/nowhere"), ("GET", CHAT)];
    for (method, path) in CLIENT_ROUTES.into_iter().chain(lost) {
        for method in [method, "OPTIONS"] {
            let response = send(&app, asked(method, path, PAGE)).await;
            let allowed = response.headers().get("access-control-allow-origin");
            assert_eq!(allowed.expect("a header"), PAGE, "{method} {path}");
            assert!(
                method != "OPTIONS" || response.status() == StatusCode::OK,
                "{path}: {response:?}"
            );
            let response = send(&app, asked(method, path, "https://evil.example")).await;
            let allowed = response.headers().get("access-control-allow-origin");
            assert!(allowed.is_none(), "{method} {path}: {allowed:?}");
        }
    }
    let preflight = send(&app, asked("OPTIONS", "/v1/responses/r", PAGE)).await;
    let methods = preflight.headers()["access-control-allow-methods"].to_str().unwrap();
    assert_eq!(methods, "GET,POST,DELETE", "every method that a route has");
    for path in ["/livez", "/metrics", "/admin/status"] {
        let response = send(&app, asked("GET", path, "https://evil.example")).await;
        assert!(!response.headers().contains_key("access-control-allow-origin"), "{path}");
    }
}

/// Requests that a browser sends for a page without a preflight never reach a model.
#[tokio::test]
async fn pages_have_to_send_json() {
    let app = plain_api().await;
    let kinds =
        ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x"];
    for (method, path) in CLIENT_ROUTES.into_iter().filter(|(method, _)| *method == "POST") {
        for kind in kinds.into_iter().map(Some).chain([None]) {
            let mut request =
                Request::builder().method(method).uri(path).header(header::ORIGIN, PAGE);
            if let Some(kind) = kind {
                request = request.header(header::CONTENT_TYPE, kind);
            }
            let body = Body::from(chat(json!({})).to_string());
            let (status, body) = ask(&app, request.body(body).unwrap()).await;
            assert_eq!(
                (status.as_u16(), &body["error"]["code"]),
                (415, &json!("not_json")),
                "{path} {kind:?}"
            );
        }
    }
    let programs = raw_post(CHAT, chat(json!({})).to_string());
    assert_eq!(ask(&app, programs).await.0, StatusCode::OK, "without a page, any kind will do");
}
