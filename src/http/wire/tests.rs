//! Tests: which request bodies are accepted, and which field each error names.

use super::common::{Envelope, Rules, Streaming};
use super::fields::Fields;
use super::{ParsedRequest, Shape, WireError};
use crate::rollout::Arm;
use crate::serving::{GenerateRequest, Limits, Prompt};
use crate::text::Ending;
use proptest::prelude::*;
use serde_json::{Value, json};
use std::time::Instant;

fn envelope() -> Envelope {
    Envelope {
        id: "id-1".to_owned(),
        arrived: Instant::now(),
        session: None,
        variant: None,
        marked: false,
        party: None,
        client: 0,
        key: None,
    }
}

fn parse_with(shape: Shape, body: &Value, envelope: Envelope) -> Result<ParsedRequest, WireError> {
    let limits = Limits { max_n: 4, max_stop: 2 };
    let rules = Rules { served: "fake", limits };
    let mut fields = Fields::parse(body.to_string().as_bytes())?;
    match shape {
        Shape::Chat => super::chat::chat(&mut fields, envelope, rules),
        Shape::Text => super::completion::completion(&mut fields, envelope, rules),
    }
}

/// The smallest valid body with `more` added.
fn body(shape: Shape, more: Value) -> Value {
    let mut body = match shape {
        Shape::Chat => json!({"model": "fake", "messages": [{"role": "user", "content": "Hi"}]}),
        Shape::Text => json!({"model": "fake", "prompt": "Hi"}),
    };
    let (Value::Object(body_map), Value::Object(more)) = (&mut body, more) else {
        panic!("bodies are objects");
    };
    body_map.extend(more);
    body
}

fn parse(shape: Shape, more: Value) -> Result<ParsedRequest, WireError> {
    parse_with(shape, &body(shape, more), envelope())
}

fn first(parsed: Result<ParsedRequest, WireError>) -> GenerateRequest {
    parsed.expect("a valid body").requests.remove(0)
}

/// The kind of an error and the field that it names.
fn complaint(result: Result<ParsedRequest, WireError>) -> (&'static str, String) {
    match result.expect_err("a bad body") {
        WireError::Missing { param } => ("missing", param),
        WireError::WrongType { param, .. } => ("type", param),
        WireError::BadValue { param, .. } => ("value", param),
        WireError::Unsupported { param, .. } => ("unsupported", param),
        other => panic!("unexpected: {other}"),
    }
}

#[track_caller]
fn refused(shape: Shape, more: Value, kind: &str, param: &str) {
    let shown = more.to_string();
    assert_eq!(complaint(parse(shape, more)), (kind_name(kind), param.to_owned()), "{shown}");
}

fn kind_name(kind: &str) -> &'static str {
    ["missing", "type", "value", "unsupported"].into_iter().find(|k| *k == kind).expect("a kind")
}

#[test]
fn the_smallest_bodies_leave_everything_to_the_model() {
    let chat = parse(Shape::Chat, json!({})).unwrap();
    assert_eq!(
        (chat.n, chat.look.tools.is_some(), chat.streaming),
        (1, false, Streaming::default())
    );
    let request = first(Ok(chat));
    assert_eq!(request.sampling, Default::default());
    assert_eq!((request.max_tokens, request.key, request.pin), (None, None, None));
    assert_eq!(first(parse(Shape::Text, json!({}))).max_tokens, Some(16));
}

#[test]
fn nulls_count_as_absent_and_unknown_fields_are_accepted() {
    let more = json!({
        "temperature": null, "stop": null, "stream": null, "stream_options": null, "tools": null,
        "n": null, "user": null, "seed": null, "response_format": null, "logit_bias": null,
        "some_future_field": {"a": [1]}, "parallel_tool_calls": true, "store": false,
    });
    assert!(parse(Shape::Chat, more).is_ok());
}

#[test]
fn bodies_that_are_no_json_tell_where() {
    let parse = |body: &str| Fields::parse(body.as_bytes()).map(|_| ()).unwrap_err().to_string();
    let bare = parse(r#"{"temperature": warm}"#);
    assert!(bare.ends_with("expected value at line 1 column 17"), "{bare}");
    assert!(parse("").contains("EOF"), "{}", parse(""));
    assert!(parse("[1]").contains("expected an object, but got an array"), "{}", parse("[1]"));
    assert!(parse(r#"{"temperature": 1e999}"#).contains("out of range"));
    let deep = format!("{{\"a\":{}1{}}}", "[".repeat(200), "]".repeat(200));
    assert!(parse(&deep).contains("recursion limit"), "{}", parse(&deep));
}

#[test]
fn numbers_have_ranges() {
    for shape in [Shape::Chat, Shape::Text] {
        for (field, value) in [
            ("temperature", json!(-0.1)),
            ("temperature", json!(2.1)),
            ("top_p", json!(1.01)),
            ("top_k", json!(-2)),
            ("min_p", json!(1.5)),
            ("repetition_penalty", json!(0)),
            ("repetition_penalty", json!(2.5)),
            ("frequency_penalty", json!(-2.5)),
            ("presence_penalty", json!(3)),
            ("n", json!(0)),
            ("n", json!(5)),
            ("max_tokens", json!(-2)),
        ] {
            refused(shape, json!({field: value}), "value", field);
        }
        for field in ["temperature", "top_p", "top_k", "min_p", "n", "max_tokens", "seed"] {
            refused(shape, json!({field: "1"}), "type", field);
            refused(shape, json!({field: [1]}), "type", field);
            refused(shape, json!({field: true}), "type", field);
        }
        refused(shape, json!({"n": 1.5}), "type", "n");
        refused(shape, json!({"seed": 1.5}), "type", "seed");
    }
}

#[test]
fn numbers_arrive_as_they_were_meant() {
    let request = first(parse(
        Shape::Chat,
        json!({
            "temperature": 0.5, "top_p": 0.9, "top_k": 40, "min_p": 0.05, "seed": -2, "n": 2.0,
            "repetition_penalty": 1.1, "frequency_penalty": -2, "presence_penalty": 2,
            "max_tokens": 7, "max_completion_tokens": 9, "ignore_eos": true,
        }),
    ));
    let sampling = &request.sampling;
    assert_eq!((sampling.temperature, sampling.top_p), (Some(0.5), Some(0.9)));
    assert_eq!((sampling.top_k, sampling.min_p), (Some(40), Some(0.05)));
    assert_eq!(sampling.repetition_penalty, Some(1.1));
    assert_eq!((sampling.frequency_penalty, sampling.presence_penalty), (Some(-2.0), Some(2.0)));
    assert_eq!((sampling.seed, request.n), (Some(u64::MAX - 1), 2));
    assert_eq!((request.max_tokens, request.ignore_eos), (Some(9), true));
    for off in [-1, 0] {
        assert_eq!(first(parse(Shape::Chat, json!({"top_k": off}))).sampling.top_k, Some(0));
    }
}

#[test]
fn what_forms_send_for_nothing_is_no_error() {
    let of = |more: Value| first(parse(Shape::Chat, more));
    assert_eq!(of(json!({"max_tokens": 0})).max_tokens, None);
    assert_eq!(of(json!({"max_tokens": -1})).max_tokens, None);
    assert_eq!(of(json!({"n_predict": 5})).max_tokens, Some(5));
    assert_eq!(of(json!({"n_predict": 5, "max_tokens": 6})).max_tokens, Some(6));
    assert_eq!(of(json!({"seed": -1})).sampling.seed, None);
    assert_eq!(of(json!({"seed": 1.0})).sampling.seed, Some(1));
    assert!(of(json!({"top_p": 0})).sampling.top_p.is_some_and(|p| p > 0.0 && p < 1e-30));
    assert_eq!(of(json!({"repeat_penalty": 1.5})).sampling.repetition_penalty, Some(1.5));
    let text = |more: Value| first(parse(Shape::Text, more)).max_tokens;
    assert_eq!(text(json!({"max_tokens": -1})), None);
    assert_eq!(text(json!({"max_completion_tokens": 3})), Some(3));
    refused(Shape::Text, json!({"max_tokens": 0}), "value", "max_tokens");
    refused(Shape::Text, json!({"truncate_prompt_tokens": 0}), "value", "truncate_prompt_tokens");
}

#[test]
fn wishes_for_the_template_are_handed_on() {
    let kwargs = |more: Value| match first(parse(Shape::Chat, more)).prompt {
        Prompt::Chat { template_kwargs, .. } => Value::from(template_kwargs),
        other => panic!("{other:?}"),
    };
    let both = json!({"enable_thinking": false, "reasoning_effort": "low"});
    assert_eq!(kwargs(both.clone()), both);
    let named =
        json!({"enable_thinking": false, "chat_template_kwargs": {"enable_thinking": true}});
    assert_eq!(kwargs(named), json!({"enable_thinking": true}), "the more precise name");
    assert_eq!(kwargs(json!({})), Value::Null);
}

#[test]
fn numbers_that_would_overflow_logits_are_tamed() {
    let tiny = json!({"temperature": 1e-44, "repetition_penalty": 1e-300, "top_p": 1e-300});
    let sampling = first(parse(Shape::Chat, tiny)).sampling;
    assert_eq!(sampling.temperature, Some(0.0));
    assert_eq!(sampling.repetition_penalty, Some(0.01));
    assert!(sampling.top_p.is_some_and(|p| p > 0.0));
}

#[test]
fn messages_are_checked_one_by_one() {
    let messages = |messages: Value| json!({"messages": messages});
    let cases = [
        (json!(null), "missing", "messages"),
        (json!("Hi"), "type", "messages"),
        (json!([]), "value", "messages"),
        (json!(["Hi"]), "type", "messages[0]"),
        (json!([{"content": "Hi"}]), "missing", "messages[0].role"),
        (json!([{"role": 1, "content": "Hi"}]), "type", "messages[0].role"),
        (json!([{"role": "robot", "content": "Hi"}]), "value", "messages[0].role"),
        (json!([{"role": "user"}]), "missing", "messages[0].content"),
        (json!([{"role": "user", "content": null}]), "type", "messages[0].content"),
        (json!([{"role": "user", "content": 1}]), "type", "messages[0].content"),
        (json!([{"role": "user", "content": ["Hi"]}]), "type", "messages[0].content[0]"),
        (json!([{"role": "user", "content": [{}]}]), "missing", "messages[0].content[0].type"),
        (
            json!([{"role": "user", "content": [{"type": "text"}]}]),
            "missing",
            "messages[0].content[0].text",
        ),
        (
            json!([{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}]),
            "unsupported",
            "messages[0].content[0].type",
        ),
        (
            json!([{"role": "assistant", "content": null, "tool_calls": {}}]),
            "type",
            "messages[0].tool_calls",
        ),
        (
            json!([{"role": "assistant", "content": null, "tool_calls": [{"id": "a"}]}]),
            "missing",
            "messages[0].tool_calls[0].function",
        ),
    ];
    for (value, kind, param) in cases {
        refused(Shape::Chat, messages(value), kind, param);
    }
}

#[test]
fn messages_travel_as_they_were_written() {
    let written = json!([
        {"role": "developer", "content": "Be brief."},
        {"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]},
        {"role": "assistant", "content": null, "tool_calls": [
            {"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}]},
        {"role": "tool", "tool_call_id": "c", "content": "4", "extra": true},
        {"role": "tool", "tool_call_id": "d"},
        {"role": "assistant", "content": null},
        {"role": "assistant", "tool_calls": []},
        {"role": "function", "name": "f", "content": "4"},
    ]);
    let request = first(parse(Shape::Chat, json!({"messages": written})));
    let Prompt::Chat { messages, tools, .. } = request.prompt else { panic!("a chat") };
    assert_eq!((Value::Array(messages), tools), (written, None));
}

#[test]
fn a_prompt_ends_as_the_request_says() {
    let (goes_on, opens) = ("continue_final_message", "add_generation_prompt");
    let ending = |more: Value| match first(parse(Shape::Chat, more)).prompt {
        Prompt::Chat { ending, .. } => ending,
        _ => panic!("a chat"),
    };
    assert_eq!(ending(json!({})), Ending::Reply);
    assert_eq!(ending(json!({opens: true, goes_on: false})), Ending::Reply);
    assert_eq!(ending(json!({opens: false})), Ending::Closed);
    assert_eq!(ending(json!({goes_on: true})), Ending::Continue);
    assert_eq!(ending(json!({goes_on: true, opens: false})), Ending::Continue);
    refused(Shape::Chat, json!({goes_on: true, opens: true}), "value", goes_on);
}

#[test]
fn tools_are_given_unless_none_may_be_chosen() {
    let tools = json!([{"type": "function", "function": {"name": "f", "parameters": {}}}]);
    let with = |choice: Value| parse(Shape::Chat, json!({"tools": tools, "tool_choice": choice}));
    for choice in [json!(null), json!("auto")] {
        assert!(with(choice).unwrap().look.tools.is_some());
    }
    assert!(with(json!("none")).unwrap().look.tools.is_none());
    assert!(parse(Shape::Chat, json!({"tools": []})).unwrap().look.tools.is_none());
    assert_eq!(complaint(with(json!("maybe"))), ("value", "tool_choice".to_owned()));
    refused(Shape::Chat, json!({"tools": {}}), "type", "tools");
    refused(Shape::Chat, json!({"tools": [{}]}), "missing", "tools[0].function");
    refused(
        Shape::Chat,
        json!({"tools": [{"type": "function", "function": {}}]}),
        "missing",
        "tools[0].function.name",
    );
    refused(
        Shape::Chat,
        json!({"tools": [{"type": "code_interpreter"}]}),
        "unsupported",
        "tools[0].type",
    );
}

#[test]
fn one_tool_call_at_a_time_can_be_asked_for() {
    let one = |more: Value| parse(Shape::Chat, more).map(|parsed| parsed.one_call);
    assert_eq!(one(json!({})), Ok(false));
    assert_eq!(one(json!({"parallel_tool_calls": true})), Ok(false));
    assert_eq!(one(json!({"parallel_tool_calls": false})), Ok(true));
    refused(Shape::Chat, json!({"parallel_tool_calls": 1}), "type", "parallel_tool_calls");
}

#[test]
fn what_cannot_be_honoured_is_refused_by_name() {
    for (field, value) in [
        ("prompt_logprobs", json!(5)),
        ("functions", json!([{"name": "f"}])),
        ("structural_tag", json!({"x": 1})),
    ] {
        refused(Shape::Chat, json!({field: value}), "unsupported", field);
    }
    for (field, value) in
        [("response_fields", json!(["x"])), ("suffix", json!("end")), ("prompt_logprobs", json!(5))]
    {
        refused(Shape::Text, json!({field: value}), "unsupported", field);
    }
    let neutral = json!({"logprobs": false, "logit_bias": {}, "response_format": {"type": "text"}});
    assert!(parse(Shape::Chat, neutral).is_ok());
    let neutral = json!({"best_of": 1, "echo": false, "suffix": "", "logit_bias": {}});
    assert!(parse(Shape::Text, neutral).is_ok());
    refused(Shape::Chat, json!({"response_format": {}}), "missing", "response_format.type");
}

#[test]
fn log_probabilities_are_asked_for_in_two_ways() {
    let wanted = |shape, more: Value| {
        let parsed = parse(shape, more).expect("a valid body");
        assert_eq!(parsed.logprobs, parsed.requests[0].sampling.logprobs.is_some());
        parsed.requests[0].sampling.logprobs
    };
    for (more, expected) in [
        (json!({}), None),
        (json!({"logprobs": false, "top_logprobs": 0}), None),
        (json!({"logprobs": true}), Some(0)),
        (json!({"logprobs": true, "top_logprobs": null}), Some(0)),
        (json!({"logprobs": true, "top_logprobs": 20}), Some(20)),
    ] {
        assert_eq!(wanted(Shape::Chat, more), expected);
    }
    refused(Shape::Chat, json!({"top_logprobs": 1}), "value", "top_logprobs");
    refused(Shape::Chat, json!({"logprobs": false, "top_logprobs": 1}), "value", "top_logprobs");
    refused(Shape::Chat, json!({"logprobs": true, "top_logprobs": 21}), "value", "top_logprobs");
    refused(Shape::Chat, json!({"logprobs": true, "top_logprobs": -1}), "value", "top_logprobs");
    refused(Shape::Chat, json!({"logprobs": true, "top_logprobs": "1"}), "type", "top_logprobs");
    refused(Shape::Chat, json!({"logprobs": 3}), "type", "logprobs");
    for (more, expected) in [
        (json!({}), None),
        (json!({"logprobs": false}), None),
        (json!({"logprobs": null}), None),
        (json!({"logprobs": 0}), Some(0)),
        (json!({"logprobs": 20}), Some(20)),
    ] {
        assert_eq!(wanted(Shape::Text, more), expected);
    }
    refused(Shape::Text, json!({"logprobs": 21}), "value", "logprobs");
    refused(Shape::Text, json!({"logprobs": -1}), "value", "logprobs");
    refused(Shape::Text, json!({"logprobs": true}), "type", "logprobs");
}

#[test]
fn stops_are_a_string_or_a_few() {
    let stop = |stop: Value| first(parse(Shape::Chat, json!({"stop": stop}))).stop;
    assert_eq!(stop(json!("a")), ["a"]);
    assert_eq!(stop(json!(["a", "b"])), ["a", "b"]);
    assert!(stop(json!([])).is_empty());
    refused(Shape::Chat, json!({"stop": ["a", "b", "c"]}), "value", "stop");
    assert!(stop(json!("")).is_empty() && stop(json!(["", "a"])) == ["a"]);
    refused(Shape::Chat, json!({"stop": [1]}), "type", "stop[0]");
    refused(Shape::Chat, json!({"stop": 1}), "type", "stop");
}

#[test]
fn stream_options_belong_to_streams() {
    let streaming = |more: Value| parse(Shape::Chat, more).map(|parsed| parsed.streaming);
    let usage = json!({"stream": true, "stream_options": {"include_usage": true}});
    assert_eq!(
        streaming(usage),
        Ok(Streaming { on: true, include_usage: true, continuous_usage: false })
    );
    let none = json!({"stream": true, "stream_options": {}});
    assert_eq!(streaming(none), Ok(Streaming { on: true, ..Streaming::default() }));
    refused(Shape::Chat, json!({"stream_options": {}}), "value", "stream_options");
    refused(Shape::Chat, json!({"stream": "yes"}), "type", "stream");
    refused(
        Shape::Chat,
        json!({"stream": true, "stream_options": {"include_usage": 1}}),
        "type",
        "stream_options.include_usage",
    );
}

#[test]
fn the_model_is_named_with_or_without_its_arm() {
    let pin = |model: &str| parse(Shape::Chat, json!({"model": model})).map(|a| a.requests[0].pin);
    assert_eq!(pin("fake"), Ok(None));
    assert_eq!(pin("fake@stable"), Ok(Some(Arm::Stable)));
    assert_eq!(pin("fake@canary"), Ok(Some(Arm::Canary)));
    for unknown in ["gpt-4o", "fake@", "fake@green", "fakes"] {
        let error = pin(unknown).unwrap_err();
        assert!(matches!(&error, WireError::UnknownModel { asked, .. } if asked == unknown));
        assert!(error.to_string().contains("fake, fake@stable, fake@canary"), "{error}");
    }
    for absent in [json!(null), json!("")] {
        assert_eq!(parse(Shape::Chat, json!({"model": absent})).unwrap().model, "fake");
    }
    refused(Shape::Chat, json!({"model": 1}), "type", "model");
}

#[test]
fn name_and_header_must_agree_on_the_arm() {
    let pin = |model: &str, variant| {
        let envelope = Envelope { variant, ..envelope() };
        let body = body(Shape::Chat, json!({"model": model}));
        parse_with(Shape::Chat, &body, envelope).map(|parsed| parsed.requests[0].pin)
    };
    assert_eq!(pin("fake", Some(Arm::Canary)), Ok(Some(Arm::Canary)));
    assert_eq!(pin("fake@canary", Some(Arm::Canary)), Ok(Some(Arm::Canary)));
    assert!(pin("fake@stable", Some(Arm::Canary)).is_err());
}

#[test]
fn the_session_key_comes_from_the_header_first() {
    let key = |session: Option<&str>, more: Value| {
        let envelope = Envelope { session: session.map(str::to_owned), ..envelope() };
        first(parse_with(Shape::Chat, &body(Shape::Chat, more), envelope)).key
    };
    let all = json!({"prompt_cache_key": "p", "safety_identifier": "s", "user": "u"});
    assert_eq!(key(Some("h"), all.clone()).as_deref(), Some("h"));
    assert_eq!(key(None, all).as_deref(), Some("p"));
    let older = json!({"prompt_cache_key": "", "safety_identifier": "s", "user": "u"});
    assert_eq!(key(None, older), None, "a user is no session");
    assert_eq!(key(None, json!({})), None);
    let client = |more: Value| first(parse(Shape::Chat, more)).client;
    assert_ne!(client(json!({"user": "u"})), client(json!({"user": "v"})));
    assert_ne!(client(json!({"safety_identifier": "u"})), client(json!({})));
    refused(Shape::Chat, json!({"user": 7}), "type", "user");
    refused(Shape::Chat, json!({"user": "u".repeat(513)}), "value", "user");
}

#[test]
fn prompts_come_in_four_forms() {
    let prompts = |prompt: Value| -> Vec<Prompt> {
        let parsed = parse(Shape::Text, json!({"prompt": prompt})).unwrap();
        parsed.requests.into_iter().map(|request| request.prompt).collect()
    };
    assert!(matches!(&prompts(json!("a"))[..], [Prompt::Text(a)] if a == "a"));
    assert!(matches!(&prompts(json!([1, 2]))[..], [Prompt::Tokens(ids)] if ids == &[1, 2]));
    let texts = prompts(json!(["a", "b"]));
    assert!(matches!(&texts[..], [Prompt::Text(a), Prompt::Text(b)] if a == "a" && b == "b"));
    let mixed = prompts(json!(["a", [2, 3]]));
    assert!(
        matches!(&mixed[..], [Prompt::Text(a), Prompt::Tokens(ids)] if a == "a" && ids == &[2, 3])
    );
    let ids = prompts(json!([[1], [2, 3]]));
    assert!(
        matches!(&ids[..], [Prompt::Tokens(a), Prompt::Tokens(b)] if a == &[1] && b == &[2, 3])
    );
    for (prompt, kind, param) in [
        (json!(null), "missing", "prompt"),
        (json!({}), "type", "prompt"),
        (json!([]), "value", "prompt"),
        (json!(["a", 1]), "type", "prompt[1]"),
        (json!([1, "a"]), "type", "prompt[1]"),
        (json!([[1], 2]), "type", "prompt[1]"),
        (json!([[]]), "value", "prompt[0]"),
        (json!([1, -1]), "value", "prompt[1]"),
        (json!([4294967296u64]), "value", "prompt[0]"),
        (json!([[1, 1.5]]), "value", "prompt[0][1]"),
        (json!(vec!["a"; 129]), "value", "prompt"),
    ] {
        refused(Shape::Text, json!({"prompt": prompt}), kind, param);
    }
}

#[test]
fn a_batch_shares_a_session_and_numbers_its_ids() {
    let requests = parse(Shape::Text, json!({"prompt": ["a", "b", "c"]})).unwrap().requests;
    let ids: Vec<&str> = requests.iter().map(|request| request.id.as_str()).collect();
    assert_eq!(ids, ["id-1", "id-1-1", "id-1-2"]);
    assert!(requests.iter().all(|request| request.key.as_deref() == Some("id-1")));
}

fn any_json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        "[a-z@]{0,6}".prop_map(Value::from),
        Just(json!("user")),
        Just(json!("text")),
    ];
    leaf.prop_recursive(3, 24, 4, |inner| {
        let name = prop_oneof![
            Just("role".to_owned()),
            Just("content".to_owned()),
            Just("type".to_owned()),
            Just("function".to_owned()),
            Just("name".to_owned()),
        ];
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::hash_map(name, inner, 0..4)
                .prop_map(|map| Value::Object(map.into_iter().collect())),
        ]
    })
}

fn any_body() -> impl Strategy<Value = Value> {
    let names = [
        "messages",
        "prompt",
        "tools",
        "tool_choice",
        "stop",
        "n",
        "temperature",
        "top_p",
        "repetition_penalty",
        "seed",
        "stream",
        "stream_options",
        "response_format",
        "structured_outputs",
        "guided_json",
        "guided_choice",
        "grammar",
        "user",
    ];
    let field = (prop::sample::select(names.to_vec()), any_json());
    prop::collection::vec(field, 0..6).prop_map(|fields| {
        let fields = fields.into_iter().map(|(name, value)| (name.to_owned(), value));
        Value::Object(fields.collect())
    })
}

proptest! {
    /// Any body is either refused or gives a request within its ranges.
    #[test]
    fn no_body_gets_past_the_ranges(more in any_body()) {
        for shape in [Shape::Chat, Shape::Text] {
            let Ok(parsed) = parse(shape, more.clone()) else { continue };
            prop_assert!(!parsed.requests.is_empty() && parsed.n >= 1 && parsed.n <= 4);
            for request in parsed.requests {
                let sampling = request.sampling;
                prop_assert!(sampling.temperature.is_none_or(|t| (0.0..=2.0).contains(&t)));
                prop_assert!(sampling.top_p.is_none_or(|p| p > 0.0 && p <= 1.0));
                prop_assert!(sampling.repetition_penalty.is_none_or(|p| (0.01..=2.0).contains(&p)));
                prop_assert!(request.stop.len() <= 2 && request.stop.iter().all(|s| !s.is_empty()));
            }
        }
    }
}

#[test]
fn a_number_that_json_has_not_is_named() {
    let parse = |text: &str| Fields::parse(text.as_bytes()).map(drop);
    for (text, word) in [
        (r#"{"n": 1, "temperature": NaN}"#, "NaN"),
        (r#"{"temperature":NaN, "n": 1}"#, "NaN"),
        ("{\n  \"temperature\": Infinity\n}", "Infinity"),
        (r#"{"temperature": -Infinity}"#, "Infinity"),
    ] {
        let error = parse(text).unwrap_err();
        let WireError::BadValue { param, what } = &error else { panic!("{text}: {error}") };
        assert_eq!(param, "temperature", "{text}");
        assert!(what.contains(word), "{what}");
    }
    assert!(matches!(parse(r#"{"temperature": nope}"#), Err(WireError::Malformed { .. })));
}

#[test]
fn the_cache_is_salted_by_key_and_by_request() {
    let salt = |key: Option<&str>, named: Value| {
        let envelope = Envelope { key: key.map(Into::into), ..envelope() };
        let body = body(Shape::Text, json!({"cache_salt": named}));
        parse_with(Shape::Text, &body, envelope).map(|parsed| parsed.requests[0].cache_salt)
    };
    assert_eq!(salt(None, Value::Null), Ok(0), "without either, nothing changes");
    assert_eq!(salt(None, json!("")), Ok(0));
    let all = [
        salt(None, Value::Null),
        salt(Some("a"), Value::Null),
        salt(Some("b"), Value::Null),
        salt(None, json!("a")),
        salt(None, json!("b")),
        salt(Some("a"), json!("b")),
        salt(Some("ab"), Value::Null),
        salt(None, json!("ab")),
    ];
    let distinct: std::collections::HashSet<u64> =
        all.iter().map(|salt| *salt.as_ref().expect("sound")).collect();
    assert_eq!(distinct.len(), all.len());
    assert_eq!(salt(Some("a"), json!("b")), salt(Some("a"), json!("b")));
    assert!(
        matches!(salt(None, json!(5)), Err(WireError::WrongType { param, .. }) if param == "cache_salt")
    );
    assert!(salt(None, json!("x".repeat(513))).is_err());
}

#[test]
fn a_reply_is_constrained_under_every_name() {
    use crate::grammar::Constraint;
    let schema = json!({"type": "integer"});
    let of_schema = Constraint::Schema(schema.clone());
    let named = json!({"name": "x", "schema": schema, "strict": true});
    for (field, value, constraint) in [
        ("response_format", json!({"type": "json_object"}), Constraint::Object),
        ("response_format", json!({"type": "json_object", "schema": schema}), of_schema.clone()),
        (
            "response_format",
            json!({"type": "json_schema", "json_schema": named}),
            of_schema.clone(),
        ),
        ("response_format", json!({"type": "json_schema", "schema": schema}), of_schema.clone()),
        ("structured_outputs", json!({"json": schema}), of_schema.clone()),
        ("structured_outputs", json!({"json_object": true}), Constraint::Object),
        ("structured_outputs", json!({"regex": "a", "json": null}), Constraint::Regex("a".into())),
        ("guided_json", json!(schema.to_string()), of_schema.clone()),
        ("guided_regex", json!("a+"), Constraint::Regex("a+".into())),
        ("guided_choice", json!(["a", "b"]), Constraint::Choice(vec!["a".into(), "b".into()])),
        ("guided_grammar", json!("start: \"a\""), Constraint::Lark("start: \"a\"".into())),
        ("json_schema", schema.clone(), of_schema.clone()),
        ("grammar", json!("root ::= \"a\""), Constraint::Gbnf("root ::= \"a\"".into())),
    ] {
        for shape in [Shape::Chat, Shape::Text] {
            let asked = parse(shape, json!({field: value})).unwrap();
            let (got, param) = asked.requests[0].constraint.clone().unwrap();
            assert_eq!((&*got, param), (&constraint, field), "{value}");
        }
    }
    for none in [
        json!({"grammar": ""}),
        json!({"response_format": {"type": "text"}}),
        json!({"structured_outputs": {}}),
    ] {
        assert!(parse(Shape::Chat, none).unwrap().requests[0].constraint.is_none());
    }
}

#[test]
fn a_constraint_that_cannot_be_read_names_its_place() {
    let format = |value| json!({"response_format": value});
    for (body, code, param) in [
        (format(json!({"type": "xml"})), "unsupported", "response_format.type"),
        (format(json!({"type": "json_schema"})), "missing", "response_format.schema"),
        (
            format(json!({"type": "json_schema", "json_schema": {"schema": 1}})),
            "type",
            "response_format.json_schema.schema",
        ),
        (
            json!({"structured_outputs": {"structural_tag": "x"}}),
            "unsupported",
            "structured_outputs.structural_tag",
        ),
        (json!({"structured_outputs": {"choice": [1]}}), "type", "structured_outputs.choice[0]"),
        (
            json!({"structured_outputs": {"regex": "a", "choice": ["a"]}}),
            "value",
            "structured_outputs.choice",
        ),
        (json!({"guided_json": "{"}), "value", "guided_json"),
        (json!({"guided_regex": "a", "guided_choice": ["b"]}), "value", "guided_choice"),
        (
            json!({"guided_regex": "a", "response_format": {"type": "json_object"}}),
            "value",
            "guided_regex",
        ),
    ] {
        refused(Shape::Chat, body, code, param);
    }
}

#[test]
fn a_choice_of_tools_is_a_constraint() {
    use crate::grammar::Constraint;
    let tools = json!([{"type": "function", "function": {"name": "f", "strict": true, "parameters": {"type": "object"}}},
        {"type": "function", "function": {"name": "g"}}]);
    let with = |more: Value| {
        let mut body = json!({"tools": tools});
        body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        body
    };
    let names = |body: Value| {
        let asked = parse(Shape::Chat, body).unwrap();
        let constraint = asked.requests[0].constraint.clone();
        let (kind, calls) = match constraint.as_ref().map(|(constraint, _)| &**constraint) {
            Some(Constraint::Calls(calls)) => ("calls", calls.clone()),
            Some(Constraint::Auto(calls)) => ("auto", calls.clone()),
            Some(Constraint::Either(calls, _)) => ("either", calls.clone()),
            other => return format!("{other:?}"),
        };
        let names: Vec<_> = calls.functions.iter().map(|function| function.name.as_str()).collect();
        format!("{kind} {} {}", names.join(","), calls.one)
    };
    assert_eq!(names(with(json!({}))), "auto f,g false");
    assert_eq!(
        names(with(json!({"tool_choice": "auto", "parallel_tool_calls": false}))),
        "auto f,g true"
    );
    assert_eq!(names(with(json!({"tool_choice": "none"}))), "None");
    assert_eq!(names(with(json!({"tool_choice": "required"}))), "calls f,g false");
    let g = json!({"type": "function", "function": {"name": "g"}});
    assert_eq!(names(with(json!({"tool_choice": g}))), "calls g true");
    let some = |mode: &str| json!({"type": "allowed_tools", "allowed_tools": {"mode": mode, "tools": [g]}});
    assert_eq!(names(with(json!({"tool_choice": some("auto")}))), "auto g false");
    assert_eq!(names(with(json!({"tool_choice": some("required")}))), "calls g true");
    let format = json!({"type": "json_object"});
    assert_eq!(names(with(json!({"response_format": format}))), "either f,g false");
    assert_eq!(
        names(with(json!({"response_format": format, "tool_choice": "required"}))),
        "calls f,g false"
    );
    let unknown = json!({"type": "function", "function": {"name": "h"}});
    refused(Shape::Chat, with(json!({"tool_choice": unknown})), "value", "tool_choice");
    refused(Shape::Chat, json!({"tool_choice": "required"}), "value", "tool_choice");
    refused(Shape::Chat, with(json!({"tool_choice": "any"})), "value", "tool_choice");
    refused(
        Shape::Chat,
        with(json!({"tool_choice": {"type": "custom"}})),
        "unsupported",
        "tool_choice.type",
    );
    refused(
        Shape::Chat,
        with(json!({"tool_choice": {"type": "function"}})),
        "missing",
        "tool_choice.name",
    );
}
