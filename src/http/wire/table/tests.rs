//! The tables of fields are true: what they call honoured is read, what is read is in them, and the document is theirs.

use super::super::common::{Envelope, Rules};
use super::super::{Shape, WireError, chat, completion};
use super::*;
use crate::http::{messages, responses};
use crate::serving::Limits;
use serde_json::{Map, json};
use std::collections::BTreeSet;
use std::time::Instant;

/// The routes whose fields are in tables.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Route {
    Chat,
    Text,
    Responses,
    Messages,
}

use Route::{Chat as OfChat, Messages as OfMessages, Responses as OfResponses, Text as OfText};

const ROUTES: [Route; 4] = [OfChat, OfText, OfResponses, OfMessages];

impl Route {
    fn prompt_field(self) -> &'static str {
        match self {
            OfText => "prompt",
            OfResponses => "input",
            OfChat | OfMessages => "messages",
        }
    }

    fn rows(self) -> Vec<OwnRow> {
        match self {
            OfChat => rows(Shape::Chat),
            OfText => rows(Shape::Text),
            OfResponses => rows_by(responses::FIELDS),
            OfMessages => rows_by(messages::FIELDS),
        }
    }

    fn parse(self, fields: &mut Fields) -> Result<(), WireError> {
        let (session, variant, party, client, key) = (None, None, None, 0, None);
        let (id, arrived) = ("id".to_owned(), Instant::now());
        let envelope =
            Envelope { id, arrived, session, variant, marked: false, party, client, key };
        let rules = Rules { served: "fake", limits: Limits { max_n: 4, max_stop: 2 } };
        match self {
            OfChat => chat::chat(fields, envelope, rules).map(|_| ()),
            OfText => completion::completion(fields, envelope, rules).map(|_| ()),
            OfResponses => (responses::ENDPOINT.read)(fields, envelope, rules, 0).map(|_| ()),
            OfMessages => (messages::ENDPOINT.read)(fields, envelope, rules, 0).map(|_| ()),
        }
    }

    /// The smallest body.
    fn body(self) -> Value {
        let mut body = json!({"model": "fake"});
        body[self.prompt_field()] = example(self.prompt_field(), self);
        if self == OfMessages {
            body["max_tokens"] = 2.into();
        }
        body
    }
}

/// A value of each honoured field that a request may have, beside all the others.
fn example(name: &str, route: Route) -> Value {
    match name {
        "messages" => json!([{"role": "user", "content": "Hi"}]),
        "prompt" | "input" | "instructions" | "system" => json!("Hi"),
        "model" => json!("fake"),
        "tools" if route == OfChat => json!([{"type": "function", "function": {"name": "f"}}]),
        "tools" if route == OfMessages => json!([{"name": "f"}]),
        "tools" => json!([{"type": "function", "name": "f"}]),
        "tool_choice" if route == OfMessages => json!({"type": "auto"}),
        "tool_choice" | "truncation" => json!("auto"),
        "thinking" => json!({"type": "enabled", "budget_tokens": 5}),
        "output_config" | "reasoning" => json!({"effort": "low"}),
        "metadata" => json!({"user_id": "someone"}),
        "include" => json!(["message.output_text.logprobs"]),
        "text" => json!({"format": {"type": "text"}}),
        "response_format" => json!({"type": "text"}),
        "chat_template_kwargs" => json!({"a": 1}),
        "stream_options" => json!({"include_usage": true}),
        "stop" | "stop_sequences" => json!(["x"]),
        "stop_token_ids" | "allowed_token_ids" => json!([3]),
        "bad_words" => json!(["x"]),
        "logit_bias" => json!({"3": -1.5, "x": false}),
        "min_tokens" => json!(1),
        "echo" => json!(true),
        "best_of" => json!(2),
        "user" | "safety_identifier" | "prompt_cache_key" | "cache_salt" => json!("someone"),
        "reasoning_effort" => json!("low"),
        "reasoning_format" => json!("auto"),
        "logprobs" if route == OfChat => json!(true),
        "logprobs" | "top_logprobs" | "n" | "max_tokens" | "max_completion_tokens" => json!(2),
        "n_predict" | "seed" | "top_k" | "truncate_prompt_tokens" | "max_output_tokens" => json!(2),
        "temperature" | "top_p" | "min_p" | "frequency_penalty" | "presence_penalty" => json!(0.5),
        "repetition_penalty" | "repeat_penalty" => json!(1.5),
        "continue_final_message" => json!(false),
        "add_generation_prompt" | "stream" | "ignore_eos" | "parallel_tool_calls" => json!(true),
        "include_stop_str_in_output" | "skip_special_tokens" | "add_special_tokens" => json!(true),
        "enable_thinking" | "include_reasoning" => json!(true),
        other => panic!("no example of {other}"),
    }
}

#[test]
fn the_tables_are_sorted_and_name_each_field_once() {
    let names: Vec<&str> = TABLE.iter().map(|(name, _, _)| *name).collect();
    assert!(names.is_sorted(), "{names:?}");
    for own in [responses::FIELDS, messages::FIELDS] {
        let names: Vec<&str> = own.iter().map(|(name, _)| *name).collect();
        assert!(names.is_sorted_by(|a, b| a < b), "{names:?}");
    }
    for route in ROUTES {
        let rows = route.rows();
        let names: BTreeSet<&str> = rows.iter().map(|(name, _)| *name).collect();
        assert_eq!(names.len(), rows.len(), "{route:?}: a field is in both tables");
    }
}

#[test]
fn all_that_is_called_honoured_is_read_and_nothing_else_is() {
    for route in ROUTES {
        let rows = route.rows();
        let honoured = rows.iter().filter(|(_, treatment)| matches!(treatment, Honoured(_)));
        let honoured: BTreeSet<&str> = honoured.map(|(name, _)| *name).collect();
        let body: Map<String, Value> =
            honoured.iter().map(|name| ((*name).to_owned(), example(name, route))).collect();
        let mut fields = Fields::parse(Value::Object(body).to_string().as_bytes()).unwrap();
        route.parse(&mut fields).unwrap_or_else(|error| panic!("{route:?}: {error}"));
        assert_eq!(fields.left(), Vec::<String>::new(), "{route:?}: honoured, but not read");
        // What is refused may be read all the same, in the code that routes share.
        let refused = rows.iter().filter(|(_, treatment)| matches!(treatment, Refused(..)));
        let known: BTreeSet<&str> =
            refused.map(|(name, _)| *name).chain(honoured.iter().copied()).collect();
        let read: BTreeSet<&str> = fields.asked_for().iter().map(String::as_str).collect();
        let missing: Vec<_> = read.difference(&known).collect();
        assert!(missing.is_empty(), "{route:?}: read, but not in the table: {missing:?}");
    }
}

#[test]
fn what_is_refused_is_refused_by_name_and_its_empty_value_is_not() {
    let asks = [json!(2), json!(true), json!(false), json!("x"), json!(["x"]), json!({"x": 1})];
    let empty =
        [json!(0), json!(1), json!(false), json!(""), json!([]), json!({}), json!(["text"])];
    for route in ROUTES {
        let with = |name: &str, value: &Value| {
            let mut body = route.body();
            body[name] = value.clone();
            route.parse(&mut Fields::parse(body.to_string().as_bytes()).unwrap())
        };
        for (name, treatment) in route.rows() {
            match treatment {
                Honoured(_) => {}
                Neutral(_) => {
                    for value in asks.iter().chain(&empty) {
                        assert_eq!(with(name, value), Ok(()), "{route:?} {name}: {value}");
                    }
                }
                Refused(asks_for, _) => {
                    let refused = |value: &&Value| matches!(with(name, value), Err(WireError::Unsupported { param, .. }) if param == *name);
                    assert!(asks.iter().any(|value| refused(&value)), "{route:?} {name}");
                    for value in asks.iter().chain(&empty) {
                        assert_eq!(refused(&value), asks_for(value), "{route:?} {name}: {value}");
                    }
                    assert_eq!(with(name, &Value::Null), Ok(()), "{route:?} {name}: null");
                }
            }
        }
    }
}

fn said(treatment: &Treatment) -> (&'static str, &'static str) {
    match treatment {
        Honoured(how) => ("honoured", how),
        Neutral(why) => ("no effect", why),
        Refused(_, instead) => ("refused", instead),
    }
}

fn document() -> String {
    let mut text = "# Request fields\n\nGenerated from the tables in `src/http/wire/table.rs` and in `request.rs` of \
        `src/http/responses` and\n`src/http/messages`. `null` counts as absent everywhere. Fields that are not listed are \
        accepted and change\nnothing.\n\n## Chat and plain completions\n\n\
        `responses, messages`: whether the field is also one of `/v1/responses` and `/v1/messages`.\n\n\
        | field | chat | prompt | responses, messages | |\n|---|---|---|---|---|\n"
        .to_owned();
    for (name, on, treatment) in TABLE {
        let (word, note) = said(treatment);
        let at = |here| if here { word } else { "-" };
        let (chat, prompt) = (at(on.covers(Shape::Chat)), at(on.covers(Shape::Text)));
        text += &format!("| `{name}` | {chat} | {prompt} | {} | {note} |\n", at(*on == All));
    }
    for (title, own) in [("/v1/responses", responses::FIELDS), ("/v1/messages", messages::FIELDS)] {
        text += &format!("\n## `{title}`\n\n| field | | |\n|---|---|---|\n");
        for (name, treatment) in own {
            let (word, note) = said(treatment);
            text += &format!("| `{name}` | {word} | {note} |\n");
        }
    }
    text
}

/// The document of the tables; run with `SERIN_WRITE_DOCS=1` to write it.
#[test]
fn the_document_is_that_of_the_tables() {
    let text = document();
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
