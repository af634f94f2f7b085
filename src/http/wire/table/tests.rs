//! The table of fields is true: what it calls honoured is read, what is read is in it, and the document is its own.

use super::super::common::{Envelope, Rules};
use super::super::{Ask, Shape, WireError, chat, completion};
use super::*;
use crate::serving::Limits;
use serde_json::{Map, json};
use std::collections::BTreeSet;
use std::time::Instant;

/// A value of each honoured field that a request may have, beside all the others.
fn example(name: &str, shape: Shape) -> Value {
    match name {
        "messages" => json!([{"role": "user", "content": "Hi"}]),
        "prompt" => json!("Hi"),
        "model" => json!("fake"),
        "tools" => json!([{"type": "function", "function": {"name": "f"}}]),
        "tool_choice" => json!("auto"),
        "response_format" => json!({"type": "text"}),
        "chat_template_kwargs" => json!({"a": 1}),
        "stream_options" => json!({"include_usage": true}),
        "stop" => json!(["x"]),
        "stop_token_ids" => json!([3]),
        "user" | "safety_identifier" | "prompt_cache_key" | "cache_salt" => json!("someone"),
        "reasoning_effort" => json!("low"),
        "logprobs" if shape == Shape::Chat => json!(true),
        "logprobs" | "top_logprobs" | "n" | "max_tokens" | "max_completion_tokens" => json!(2),
        "n_predict" | "seed" | "top_k" | "truncate_prompt_tokens" => json!(2),
        "temperature" | "top_p" | "min_p" | "frequency_penalty" | "presence_penalty" => json!(0.5),
        "repetition_penalty" | "repeat_penalty" => json!(1.5),
        "continue_final_message" => json!(false),
        "add_generation_prompt" | "stream" | "ignore_eos" | "parallel_tool_calls" => json!(true),
        "include_stop_str_in_output" | "skip_special_tokens" | "add_special_tokens" => json!(true),
        "enable_thinking" | "include_reasoning" => json!(true),
        "reasoning_format" => json!("auto"),
        other => panic!("no example of {other}"),
    }
}

fn parse(shape: Shape, fields: &mut Fields) -> Result<Ask, WireError> {
    let (session, variant, party, client, key) = (None, None, None, 0, None);
    let (id, arrived) = ("id".to_owned(), Instant::now());
    let envelope = Envelope { id, arrived, session, variant, party, client, key };
    let rules = Rules { served: "fake", limits: Limits { max_n: 4, max_stop: 2 } };
    match shape {
        Shape::Chat => chat::chat(fields, envelope, rules),
        Shape::Text => completion::completion(fields, envelope, rules),
    }
}

fn rows(shape: Shape) -> impl Iterator<Item = &'static Row> {
    TABLE.iter().filter(move |(_, on, _)| on.covers(shape))
}

#[test]
fn the_table_is_sorted_and_names_each_field_once() {
    let names: Vec<&str> = TABLE.iter().map(|(name, _, _)| *name).collect();
    assert!(names.is_sorted_by(|a, b| a < b), "{names:?}");
}

#[test]
fn all_that_is_called_honoured_is_read_and_nothing_else_is() {
    for shape in [Shape::Chat, Shape::Text] {
        let honoured: BTreeSet<&str> = rows(shape)
            .filter(|(_, _, treatment)| matches!(treatment, Honoured(_)))
            .map(|(name, _, _)| *name)
            .collect();
        let body: Map<String, Value> =
            honoured.iter().map(|name| ((*name).to_owned(), example(name, shape))).collect();
        let mut fields = Fields::parse(Value::Object(body).to_string().as_bytes()).unwrap();
        parse(shape, &mut fields).unwrap_or_else(|error| panic!("{shape:?}: {error}"));
        assert_eq!(fields.left(), Vec::<String>::new(), "{shape:?}: honoured, but not read");
        let read: BTreeSet<&str> = fields.asked_for().iter().map(String::as_str).collect();
        let missing: Vec<_> = read.difference(&honoured).collect();
        assert!(missing.is_empty(), "{shape:?}: read, but not in the table: {missing:?}");
    }
}

#[test]
fn what_is_refused_is_refused_by_name_and_its_empty_value_is_not() {
    let asks = [json!(2), json!(true), json!(false), json!("x"), json!(["x"]), json!({"x": 1})];
    let empty =
        [json!(0), json!(1), json!(false), json!(""), json!([]), json!({}), json!(["text"])];
    for shape in [Shape::Chat, Shape::Text] {
        let with = |name: &str, value: &Value| {
            let mut body = json!({"model": "fake"});
            let prompt = shape.prompt_field();
            body[prompt] = example(prompt, shape);
            body[name] = value.clone();
            let mut fields = Fields::parse(body.to_string().as_bytes()).unwrap();
            parse(shape, &mut fields).map(|_| ())
        };
        for (name, _, treatment) in rows(shape) {
            match treatment {
                Honoured(_) => {}
                Neutral(_) => {
                    for value in asks.iter().chain(&empty) {
                        assert_eq!(with(name, value), Ok(()), "{shape:?} {name}: {value}");
                    }
                }
                Refused(asks_for, _) => {
                    let refused = |value: &&Value| matches!(with(name, value), Err(WireError::Unsupported { param, .. }) if param == *name);
                    assert!(asks.iter().any(|value| refused(&value)), "{shape:?} {name}");
                    for value in asks.iter().chain(&empty) {
                        assert_eq!(refused(&value), asks_for(value), "{shape:?} {name}: {value}");
                    }
                    assert_eq!(with(name, &Value::Null), Ok(()), "{shape:?} {name}: null");
                }
            }
        }
    }
}

/// The document of the table; run with `SERIN_WRITE_DOCS=1` to write it.
#[test]
fn the_document_is_that_of_the_table() {
    let mut text = "# Request fields\n\nGenerated from the table in `src/http/wire/table.rs`. `null` counts as absent everywhere. \
        Fields that are not\nlisted are accepted and change nothing.\n\n| field | chat | prompt | |\n|---|---|---|---|\n".to_owned();
    for (name, on, treatment) in TABLE {
        let (word, note) = match treatment {
            Honoured(how) => ("honoured", *how),
            Neutral(why) => ("no effect", *why),
            Refused(_, instead) => ("refused", *instead),
        };
        let at = |shape| if on.covers(shape) { word } else { "-" };
        text += &format!("| `{name}` | {} | {} | {note} |\n", at(Shape::Chat), at(Shape::Text));
    }
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/api-fields.md");
    if std::env::var_os("SERIN_WRITE_DOCS").is_some() {
        std::fs::write(path, &text).unwrap();
    }
    let kept = std::fs::read_to_string(path).unwrap_or_default();
    assert!(
        kept == text,
        "docs/api-fields.md is out of date: run this test with SERIN_WRITE_DOCS=1"
    );
}
