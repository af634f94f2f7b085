//! async-openai (Rust): chat completions, or the Responses API with the argument `responses`; one line of JSON at the end.
//! It knows nothing of serin but its address.

mod shape;

use async_openai::Client;
use async_openai::config::OpenAIConfig;
use async_openai::error::OpenAIError;
use async_openai::types::chat::{CreateChatCompletionRequest, CreateChatCompletionResponse};
use async_openai::types::responses::{CreateResponse, OutputItem, Response, ResponseStreamEvent};
use futures::StreamExt;
use serde_json::{Value, json};
use std::time::Duration;

type Outcome = Result<(), Box<dyn std::error::Error>>;

const HELLO: &str = "Hello there, my friend. How are you today?";
const ANSWER: &str = "It is sunny in Paris, and the temperature is 21 degrees.";

fn client(url: &str, key: &str) -> Client<OpenAIConfig> {
    Client::with_config(OpenAIConfig::new().with_api_base(format!("{url}/v1")).with_api_key(key))
}

fn default_client() -> Client<OpenAIConfig> {
    let env = |name| std::env::var(name).unwrap_or_default();
    client(&env("SERIN_URL"), &std::env::var("SERIN_KEY").unwrap_or("none".into()))
}

fn same<T: PartialEq + std::fmt::Debug>(got: T, expected: T, what: &str) -> Outcome {
    match got == expected {
        true => Ok(()),
        false => Err(format!("{what}: {got:?} instead of {expected:?}").into()),
    }
}

fn parameters() -> Value {
    json!({"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]})
}

fn chat_request(more: Value) -> Result<CreateChatCompletionRequest, serde_json::Error> {
    let mut body =
        json!({"model": "scripted", "messages": [{"role": "user", "content": "Good morning."}]});
    for (name, value) in more.as_object().into_iter().flatten() {
        body[name] = value.clone();
    }
    serde_json::from_value(body)
}

async fn ask(more: Value) -> Result<CreateChatCompletionResponse, Box<dyn std::error::Error>> {
    Ok(default_client().chat().create(chat_request(more)?).await?)
}

fn text(reply: &CreateChatCompletionResponse) -> &str {
    reply.choices[0].message.content.as_deref().unwrap_or("")
}

fn failed<T>(reply: Result<T, OpenAIError>, word: &str) -> Outcome {
    match reply {
        Err(OpenAIError::ApiError(error)) if format!("{error:?}").contains(word) => Ok(()),
        Err(other) => Err(format!("no {word} in {other:?}").into()),
        Ok(_) => Err("no error".into()),
    }
}

async fn cancelled() -> Result<f64, reqwest::Error> {
    let url = std::env::var("SERIN_METRICS").unwrap_or_default();
    let text = reqwest::get(url).await?.text().await?;
    let lines = text
        .lines()
        .filter(|l| l.starts_with("serin_requests_total") && l.contains("client_cancel"));
    Ok(lines.filter_map(|l| l.rsplit(' ').next()?.parse::<f64>().ok()).sum())
}

async fn counted_one_more(before: f64) -> Outcome {
    for _ in 0..100 {
        if cancelled().await? == before + 1.0 {
            return Ok(());
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    Err("the server did not count a cancelled request".into())
}

/// The tools of the rows about constraints, as this API has them.
fn chat_tools(strict: bool) -> Value {
    let tool = |(name, parameters): (&str, Value)| {
        let function = json!({"name": name, "parameters": parameters, "strict": strict});
        json!({"type": "function", "function": function})
    };
    shape::tools().map(tool).into()
}

fn said(words: &str, more: Value) -> Value {
    let mut body =
        json!({"messages": [{"role": "user", "content": words}], "max_tokens": shape::ENOUGH});
    for (name, value) in more.as_object().into_iter().flatten() {
        body[name] = value.clone();
    }
    body
}

/// A reply by a schema, whole and streamed.
async fn chat_schema() -> Outcome {
    let wanted = json!({"name": "person", "schema": shape::person(), "strict": true});
    let body = said(
        "Who is it?",
        json!({"response_format": {"type": "json_schema", "json_schema": wanted}}),
    );
    shape::is_person(text(&ask(body.clone()).await?))?;
    let mut stream = default_client().chat().create_stream(chat_request(body)?).await?;
    let mut all = String::new();
    while let Some(chunk) = stream.next().await {
        all += chunk?.choices.first().and_then(|c| c.delta.content.as_deref()).unwrap_or("");
    }
    shape::is_person(&all)
}

/// Calls of the allowed tools; the model by itself would say something else.
async fn chat_call(
    words: &str,
    more: Value,
    allowed: &[&str],
) -> Result<usize, Box<dyn std::error::Error>> {
    let reply = serde_json::to_value(ask(said(words, more)).await?)?;
    let calls =
        reply["choices"][0]["message"]["tool_calls"].as_array().cloned().unwrap_or_default();
    let calls: Vec<Value> = calls.iter().map(|call| call["function"].clone()).collect();
    shape::called(&calls, allowed)
}

async fn chat_forced() -> Outcome {
    let (both, tools) = (["get_weather", "get_time"], chat_tools(false));
    chat_call(shape::TEXT, json!({"tools": tools, "tool_choice": "required"}), &both).await?;
    let named = json!({"type": "function", "function": {"name": "get_time"}});
    chat_call(shape::TEXT, json!({"tools": tools, "tool_choice": named}), &both[1..]).await?;
    let one = json!({"tools": tools, "tool_choice": "required", "parallel_tool_calls": false});
    same(chat_call(shape::TWICE, one, &both).await?, 1, "calls")?;
    chat_call("strict tools", json!({"tools": chat_tools(true)}), &both).await.map(drop)
}

async fn chat_row(row: &str) -> Outcome {
    let tools = json!([{"type": "function", "function": {"name": "get_weather", "parameters": parameters()}}]);
    match row {
        "chat" => same(text(&ask(json!({})).await?), HELLO, "the reply"),
        "stream" => {
            let mut stream =
                default_client().chat().create_stream(chat_request(json!({}))?).await?;
            let mut all = String::new();
            while let Some(chunk) = stream.next().await {
                all += chunk?
                    .choices
                    .first()
                    .and_then(|c| c.delta.content.clone())
                    .as_deref()
                    .unwrap_or("");
            }
            same(all.as_str(), HELLO, "the streamed reply")
        }
        "tools" => {
            let first =
                serde_json::to_value(ask(json!({"tools": tools})).await?)?["choices"][0]["message"]
                    .clone();
            let call = first["tool_calls"][0].clone();
            same(call["function"]["name"].as_str(), Some("get_weather"), "the call")?;
            let said = json!({"role": "assistant", "tool_calls": [call]});
            let result = json!({"role": "tool", "tool_call_id": call["id"], "content": "sunny"});
            let messages = json!([{"role": "user", "content": "x"}, said, result]);
            same(
                text(&ask(json!({"tools": tools, "messages": messages})).await?),
                ANSWER,
                "the answer",
            )
        }
        "schema" => chat_schema().await,
        "forced" => chat_forced().await,
        "errors" => {
            failed(
                default_client().chat().create(chat_request(json!({"top_p": 5}))?).await,
                "top_p",
            )?;
            failed(
                default_client().chat().create(chat_request(json!({"model": "no-such"}))?).await,
                "no-such",
            )
        }
        "cancel" => {
            let before = cancelled().await?;
            let long =
                json!({"messages": [{"role": "user", "content": "say-long"}], "max_tokens": 4000});
            let mut stream = default_client().chat().create_stream(chat_request(long)?).await?;
            for _ in 0..4 {
                stream.next().await;
            }
            drop(stream);
            counted_one_more(before).await
        }
        _ => {
            let usage = ask(json!({})).await?.usage.ok_or("no usage")?;
            same(usage.total_tokens, usage.prompt_tokens + usage.completion_tokens, "total_tokens")
        }
    }
}

fn response_request(more: Value) -> Result<CreateResponse, serde_json::Error> {
    let mut body = json!({"model": "scripted", "input": "Good morning."});
    for (name, value) in more.as_object().into_iter().flatten() {
        body[name] = value.clone();
    }
    serde_json::from_value(body)
}

async fn respond(more: Value) -> Result<Response, Box<dyn std::error::Error>> {
    Ok(default_client().responses().create(response_request(more)?).await?)
}

fn output(reply: &Response) -> String {
    let value = serde_json::to_value(&reply.output).unwrap_or_default();
    let parts =
        value.as_array().into_iter().flatten().flat_map(|item| item["content"].as_array().cloned());
    parts.flatten().filter_map(|part| part["text"].as_str().map(str::to_owned)).collect()
}

fn response_tools(strict: bool) -> Value {
    let tool = |(name, parameters): (&str, Value)| {
        let mut tool = json!({"type": "function", "name": name, "strict": strict});
        tool["parameters"] = parameters;
        tool
    };
    shape::tools().map(tool).into()
}

/// A response by a schema, whole and streamed.
async fn responses_schema() -> Outcome {
    let wanted =
        json!({"type": "json_schema", "name": "person", "schema": shape::person(), "strict": true});
    let body = json!({"input": "Who is it?", "text": {"format": wanted}, "max_output_tokens": shape::ENOUGH});
    shape::is_person(&output(&respond(body.clone()).await?))?;
    let mut stream = default_client().responses().create_stream(response_request(body)?).await?;
    let mut all = String::new();
    while let Some(event) = stream.next().await {
        if let ResponseStreamEvent::ResponseOutputTextDelta(part) = event? {
            all += &part.delta;
        }
    }
    shape::is_person(&all)
}

/// Calls of the allowed tools; the model by itself would say something else.
async fn response_call(
    words: &str,
    choice: Value,
    allowed: &[&str],
) -> Result<usize, Box<dyn std::error::Error>> {
    let mut body =
        json!({"input": words, "max_output_tokens": shape::ENOUGH, "tools": response_tools(false)});
    for (name, value) in choice.as_object().into_iter().flatten() {
        body[name] = value.clone();
    }
    let reply = respond(body).await?;
    let items = serde_json::to_value(&reply.output)?;
    let calls =
        items.as_array().into_iter().flatten().filter(|item| item["type"] == "function_call");
    shape::called(&calls.cloned().collect::<Vec<_>>(), allowed)
}

async fn responses_forced() -> Outcome {
    let both = ["get_weather", "get_time"];
    response_call(shape::TEXT, json!({"tool_choice": "required"}), &both).await?;
    let named = json!({"type": "function", "name": "get_time"});
    response_call(shape::TEXT, json!({"tool_choice": named}), &both[1..]).await?;
    let some = json!({"type": "allowed_tools", "mode": "required", "tools": [named]});
    response_call(shape::TEXT, json!({"tool_choice": some}), &both[1..]).await?;
    let one = json!({"tool_choice": "required", "parallel_tool_calls": false});
    same(response_call(shape::TWICE, one, &both).await?, 1, "calls")?;
    response_call("strict tools", json!({"tools": response_tools(true)}), &both).await.map(drop)
}

async fn responses_row(row: &str) -> Outcome {
    let tools = json!([{"type": "function", "name": "get_weather", "parameters": parameters(), "strict": false}]);
    match row {
        "chat" => same(output(&respond(json!({})).await?).as_str(), HELLO, "the response"),
        "stream" => {
            let mut stream =
                default_client().responses().create_stream(response_request(json!({}))?).await?;
            let mut all = String::new();
            while let Some(event) = stream.next().await {
                if let ResponseStreamEvent::ResponseOutputTextDelta(part) = event? {
                    all += &part.delta;
                }
            }
            same(all.as_str(), HELLO, "the streamed response")
        }
        "tools" => {
            let first = respond(json!({"tools": tools})).await?;
            let call = first.output.iter().find(|item| matches!(item, OutputItem::FunctionCall(_)));
            let call = serde_json::to_value(call.ok_or("no call")?)?;
            let result = json!({"type": "function_call_output", "call_id": call["call_id"], "output": "sunny"});
            let input = json!([{"role": "user", "content": "x"}, call, result]);
            same(
                output(&respond(json!({"tools": tools, "input": input})).await?).as_str(),
                ANSWER,
                "the answer",
            )
        }
        "schema" => responses_schema().await,
        "forced" => responses_forced().await,
        "errors" => {
            failed(
                default_client().responses().create(response_request(json!({"top_p": 5}))?).await,
                "top_p",
            )?;
            failed(
                default_client()
                    .responses()
                    .create(response_request(json!({"model": "no-such"}))?)
                    .await,
                "no-such",
            )
        }
        "cancel" => {
            let before = cancelled().await?;
            let long = json!({"input": "say-long", "max_output_tokens": 4000});
            let mut stream =
                default_client().responses().create_stream(response_request(long)?).await?;
            for _ in 0..7 {
                stream.next().await;
            }
            drop(stream);
            counted_one_more(before).await
        }
        _ => {
            let usage = respond(json!({})).await?.usage.ok_or("no usage")?;
            same(usage.total_tokens, usage.input_tokens + usage.output_tokens, "total_tokens")
        }
    }
}

async fn key() -> Result<Option<()>, Box<dyn std::error::Error>> {
    let Ok(url) = std::env::var("SERIN_KEYED_URL") else { return Ok(None) };
    let right = client(&url, &std::env::var("SERIN_KEY")?);
    same(text(&right.chat().create(chat_request(json!({}))?).await?), HELLO, "the reply")?;
    failed(client(&url, "sk-wrong").chat().create(chat_request(json!({}))?).await, "key")?;
    Ok(Some(()))
}

#[tokio::main]
async fn main() {
    let responses = std::env::args().nth(1).as_deref() == Some("responses");
    let mut cells = serde_json::Map::new();
    for row in ["chat", "stream", "tools", "schema", "forced", "errors", "cancel", "usage"] {
        let done = if responses { responses_row(row).await } else { chat_row(row).await };
        let (state, why) = match done {
            Ok(()) => ("green", String::new()),
            Err(error) => ("red", error.to_string().chars().take(500).collect()),
        };
        cells.insert(row.into(), json!({"state": state, "why": why}));
    }
    let (state, why) = match key().await {
        Ok(Some(())) => ("green", String::new()),
        Ok(None) => ("not tried", "this server has no keys".into()),
        Err(error) => ("red", error.to_string()),
    };
    cells.insert("key".into(), json!({"state": state, "why": why}));
    println!("\n{}", json!({"versions": {"async-openai": "0.43.0"}, "cells": cells}));
}
