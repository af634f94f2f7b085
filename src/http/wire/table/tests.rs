//! Tests of the tables of fields: every field called honoured is read, every field that is read is listed, and the
//! document matches the tables.

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
        "text.format" | "output_format" | "output_config.format" => json!({"type": "text"}),
        // At most one of them can be given, which none is here.
        "grammar" | "guided_choice" | "guided_grammar" | "guided_json" | "guided_regex" => {
            Value::Null
        }
        "json_schema" | "structured_outputs" => Value::Null,
        "tools[].strict" => json!(true),
        "thinking.display" => json!("omitted"),
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
        "reasoning_effort" | "reasoning.effort" | "output_config.effort" => json!("low"),
        "reasoning_format" => json!("auto"),
        "logprobs" if route == OfChat => json!(true),
        "logprobs" | "top_logprobs" | "n" | "max_tokens" | "max_completion_tokens" => json!(2),
        "n_predict" | "seed" | "top_k" | "truncate_prompt_tokens" | "max_output_tokens" => json!(2),
        "temperature" | "top_p" | "min_p" | "frequency_penalty" | "presence_penalty" => json!(0.5),
        "repetition_penalty" | "repeat_penalty" => json!(1.5),
        "continue_final_message" | "store" => json!(false),
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
        let honoured: BTreeSet<&str> =
            honoured.map(|(name, _)| *name).filter(|name| !name.contains('.')).collect();
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

/// A value of each JSON type, and those that ask for nothing.
fn values() -> Vec<Value> {
    let values = [
        json!(2),
        json!(0.5),
        json!(true),
        json!("x"),
        json!(["x"]),
        json!([5]),
        json!({"x": 1}),
        json!(0),
        json!(1),
        json!(false),
        json!(""),
        json!([]),
        json!({}),
        json!(["text"]),
        json!("disabled"),
    ];
    values.into()
}

/// Puts a value at a path of a body, with what has to be beside it, and returns its place there.
fn put(body: &mut Value, path: &str, value: Value, route: Route) -> String {
    let nested = path.split_once('.').filter(|_| !path.starts_with("speculative."));
    let Some((holder, name)) = nested else {
        body[path] = value;
        return path.to_owned();
    };
    match holder {
        "thinking" => body[holder] = json!({"type": "enabled"}),
        "tools[]" => {
            body["tools"] = example("tools", route);
            body["tools"][0][name] = value;
            return format!("tools[0].{name}");
        }
        _ => body[holder] = json!({}),
    }
    body[holder][name] = value;
    path.to_owned()
}

#[test]
fn what_is_refused_is_refused_by_name_and_its_empty_value_is_not() {
    for route in ROUTES {
        for (name, treatment) in route.rows() {
            let with = |value: &Value| {
                let mut body = route.body();
                let place = put(&mut body, name, value.clone(), route);
                let parsed = route.parse(&mut Fields::parse(body.to_string().as_bytes()).unwrap());
                (place, parsed)
            };
            match treatment {
                Honoured(_) => {}
                Neutral(kind, _) => {
                    for value in values() {
                        let (place, parsed) = with(&value);
                        let wrong = matches!(&parsed, Err(WireError::WrongType { param, .. }) if *param == place);
                        let expected = if kind.holds(&value) { parsed == Ok(()) } else { wrong };
                        assert!(expected, "{route:?} {name}: {value}: {parsed:?}");
                    }
                }
                Refused(asks_for, _) => {
                    let refused = |value: &Value| {
                        let (place, parsed) = with(value);
                        matches!(parsed, Err(WireError::Unsupported { param, .. }) if param == place)
                    };
                    assert!(values().iter().any(refused), "{route:?} {name}");
                    for value in values() {
                        assert_eq!(refused(&value), asks_for(&value), "{route:?} {name}: {value}");
                    }
                    assert_eq!(with(&Value::Null).1, Ok(()), "{route:?} {name}: null");
                }
            }
        }
    }
}

/// What asks for nothing is of at most two types: the field's own, and what forms send for an empty one.
#[test]
fn no_refused_field_is_accepted_with_a_value_of_any_type() {
    for route in [OfResponses, OfMessages] {
        let own = if route == OfResponses { responses::FIELDS } else { messages::FIELDS };
        for (name, treatment) in own {
            let Refused(asks_for, _) = treatment else { continue };
            let accepted = values().into_iter().filter(|value| !asks_for(value));
            let empty = |value: &Value| {
                [
                    json!(false),
                    json!(true),
                    json!(""),
                    json!([]),
                    json!({}),
                    json!(0),
                    json!("disabled"),
                ]
                .contains(value)
            };
            assert!(accepted.clone().all(|value| empty(&value)), "{route:?} {name}");
        }
    }
}

/// A field of one API that would change a reply is not dropped by another.
#[test]
fn what_one_route_honours_or_refuses_the_newer_apis_know() {
    for route in [OfResponses, OfMessages] {
        let known: BTreeSet<&str> = route.rows().into_iter().map(|(name, _)| name).collect();
        for other in ROUTES {
            let rows = other.rows();
            let told = rows.iter().filter(|(_, treatment)| !matches!(treatment, Neutral(..)));
            let top = told.map(|(name, _)| *name).filter(|name| !name.contains('.'));
            let dropped: Vec<&str> = top.filter(|name| !known.contains(name)).collect();
            assert!(dropped.is_empty(), "{route:?} drops fields of {other:?}: {dropped:?}");
        }
    }
}

/// The fields of the public request types, by the types of the client libraries (late 2026).
#[test]
fn every_field_of_the_public_request_types_is_in_a_table() {
    let responses = "background context_management conversation include input instructions max_output_tokens max_tool_calls \
        metadata model moderation parallel_tool_calls previous_response_id prompt prompt_cache_key prompt_cache_options \
        prompt_cache_retention reasoning safety_identifier service_tier store stream stream_options temperature text \
        tool_choice tools top_logprobs top_p truncation user reasoning.context reasoning.effort reasoning.generate_summary \
        reasoning.mode reasoning.summary text.format text.verbosity tools[].strict tools[].allowed_callers \
        tools[].defer_loading tools[].output_schema";
    let messages = "max_tokens messages model cache_control container diagnostics inference_geo metadata output_config \
        service_tier speed stop_sequences stream system temperature thinking tool_choice tools top_k top_p user_profile_id \
        workspace_id billing_policy compaction context_management fallback_credit_token fallbacks mcp_servers thread betas \
        output_config.effort output_config.format output_config.task_budget thinking.budget_tokens thinking.display \
        tools[].allowed_callers tools[].cache_control tools[].defer_loading tools[].eager_input_streaming \
        tools[].input_examples tools[].strict";
    for (route, fields) in [(OfResponses, responses), (OfMessages, messages)] {
        let known: BTreeSet<&str> = route.rows().into_iter().map(|(name, _)| name).collect();
        let missing: Vec<&str> =
            fields.split_whitespace().filter(|name| !known.contains(name)).collect();
        assert!(missing.is_empty(), "{route:?}: {missing:?}");
    }
}

/// Honoured fields of the newer APIs, and the parts of them, take values of their own type only.
#[test]
fn a_value_of_the_wrong_type_is_an_error_that_names_the_field() {
    let two_types =
        ["input", "logit_bias", "stop", "stop_sequences", "system", "guided_json", "json_schema"];
    for route in [OfResponses, OfMessages] {
        for (name, treatment) in route.rows() {
            let Honoured(_) = treatment else { continue };
            let good = match name {
                "grammar" | "guided_grammar" | "guided_regex" => kind(&json!("x")),
                "guided_choice" => kind(&json!([])),
                "structured_outputs" => kind(&json!({})),
                name => kind(&example(name, route)),
            };
            for value in [json!(7), json!(true), json!("x"), json!(["x"]), json!({"x": 1})] {
                let number = kind(&value) == "number" && good == "number";
                if kind(&value) == good
                    || number
                    || two_types.contains(&name) && kind(&value) != "number"
                {
                    continue;
                }
                let mut body = route.body();
                let place = put(&mut body, name, value.clone(), route);
                let parsed = route.parse(&mut Fields::parse(body.to_string().as_bytes()).unwrap());
                let named = match &parsed {
                    Err(
                        WireError::WrongType { param, .. }
                        | WireError::Unsupported { param, .. }
                        | WireError::Missing { param },
                    ) => param.starts_with(&place),
                    _ => false,
                };
                assert!(named, "{route:?} {name}: {value}: {parsed:?}");
            }
        }
    }
}

fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "flag",
        Value::Number(_) => "number",
        Value::String(_) => "text",
        Value::Array(_) => "list",
        Value::Object(_) => "object",
    }
}

/// The same for what is inside of messages, items and tools.
#[test]
fn parts_of_the_wrong_type_are_named() {
    let tool = |more: Value| {
        let mut tool = json!({"type": "function", "name": "f"});
        tool.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        tool
    };
    let custom = |more: Value| {
        let mut tool = tool(more);
        tool["type"] = json!("custom");
        json!([tool])
    };
    let result = json!({"type": "tool_result", "tool_use_id": "t", "is_error": "x"});
    let thought = |content: Value| json!([{"type": "reasoning", "content": content}]);
    let in_chat = |more: Value| json!([{"type": "function", "function": tool(more)}]);
    for (route, field, value, param) in [
        (OfResponses, "tools", json!([tool(json!({"parameters": 5}))]), "tools[0].parameters"),
        (OfResponses, "tools", json!([tool(json!({"description": []}))]), "tools[0].description"),
        (OfMessages, "tools", custom(json!({"input_schema": 5})), "tools[0].input_schema"),
        (OfMessages, "tools", custom(json!({"description": []})), "tools[0].description"),
        (OfChat, "tools", in_chat(json!({"parameters": 5})), "tools[0].function.parameters"),
        (OfChat, "tools", in_chat(json!({"description": 5})), "tools[0].function.description"),
        (
            OfMessages,
            "messages",
            json!([{"role": "user", "content": [result]}]),
            "messages[0].content[0].is_error",
        ),
        (
            OfMessages,
            "tool_choice",
            json!({"type": "auto", "disable_parallel_tool_use": "yes"}),
            "tool_choice.disable_parallel_tool_use",
        ),
        (
            OfMessages,
            "thinking",
            json!({"type": "enabled", "budget_tokens": "x"}),
            "thinking.budget_tokens",
        ),
        (OfResponses, "input", thought(json!([5])), "input[0].content[0]"),
        (OfResponses, "input", thought(json!([{"text": 7}])), "input[0].content[0].text"),
        (OfResponses, "include", json!([5]), "include[0]"),
    ] {
        let mut body = route.body();
        body[field] = value.clone();
        let parsed = route.parse(&mut Fields::parse(body.to_string().as_bytes()).unwrap());
        let named = matches!(&parsed, Err(WireError::WrongType { param: at, .. }) if at == param);
        assert!(named, "{route:?} {field}: {value}: {parsed:?}");
    }
}

fn said(treatment: &Treatment) -> (&'static str, &'static str) {
    match treatment {
        Honoured(how) => ("honoured", how),
        Neutral(_, why) => ("no effect", why),
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
        text +=
            &format!("| `{name}` | {chat} | {prompt} | {} | {note} |\n", at(on.covers_others()));
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
