//! Tests: every variant of each shape, what is left unchanged, what is refused, and what the error names.

use super::*;

fn normal(message: Value) -> Value {
    normalise(0, &message, Wants::default()).unwrap()
}

fn refused(message: Value) -> String {
    let error = normalise(3, &message, Wants::default()).unwrap_err();
    assert!(error.is_client_fault());
    error.to_string()
}

#[test]
fn content_is_always_there_and_is_text() {
    let text = |text: &str| json!({"type": "text", "text": text});
    for role in ["user", "system", "assistant", "tool"] {
        let cases = [
            (json!({"role": role}), ""),
            (json!({"role": role, "content": null}), ""),
            (json!({"role": role, "content": ""}), ""),
            (json!({"role": role, "content": []}), ""),
            (json!({"role": role, "content": " a "}), " a "),
            (json!({"role": role, "content": [text("a")]}), "a"),
            (json!({"role": role, "content": [text("5?"), text("Be brief.")]}), "5?\nBe brief."),
            (json!({"role": role, "content": [text("a"), text(""), text("b")]}), "a\n\nb"),
        ];
        for (message, want) in cases {
            assert_eq!(normal(message.clone())["content"], want, "{message}");
        }
    }
    let parts = Wants { parts: true, ..Wants::default() };
    for content in [json!("a\nb"), json!([text("a"), text("b")])] {
        let message = json!({"role": "user", "content": content});
        assert_eq!(normalise(0, &message, parts).unwrap()["content"], json!([text("a\nb")]));
    }
}

#[test]
fn keys_without_a_value_are_gone_and_unknown_ones_stay() {
    let message = json!({"role": "assistant", "content": "c", "name": null, "refusal": null, "audio": null,
        "function_call": null, "tool_calls": null, "reasoning_content": null, "prefix": true, "x": []});
    let want = json!({"role": "assistant", "content": "c", "prefix": true, "x": []});
    assert_eq!(normal(message), want);
    let message = json!({"role": "assistant", "content": "c", "tool_calls": []});
    assert_eq!(normal(message), json!({"role": "assistant", "content": "c"}));
    let call = json!({"id": null, "index": 0, "function": {"name": "f", "arguments": null, "strict": null}});
    let message = normal(json!({"role": "assistant", "tool_calls": [call]}));
    let want =
        json!([{"index": 0, "function": {"name": "f", "arguments": {}}, "type": "function"}]);
    assert_eq!(message["tool_calls"], want);
    // The client's own data keep their nulls.
    let data = json!({"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": {"a": null}}}]});
    assert_eq!(normal(data)["tool_calls"][0]["function"]["arguments"].to_string(), r#"{"a":null}"#);
}

#[test]
fn arguments_are_an_object_where_they_spell_one() {
    let cases = [
        (json!({"b": 1, "a": 2}), json!({"b": 1, "a": 2}), r#"{"b": 1, "a": 2}"#),
        (json!(r#"{"b": 1,"a":2}"#), json!({"b": 1, "a": 2}), r#"{"b": 1,"a":2}"#),
        (json!(" {} "), json!({}), " {} "),
        (json!(""), json!({}), "{}"),
        (json!("  "), json!({}), "{}"),
        (json!(null), json!({}), "{}"),
        (json!("{broken"), json!("{broken"), "{broken"),
        (json!("[1]"), json!("[1]"), "[1]"),
        (json!([1, "é"]), json!([1, "é"]), r#"[1, "é"]"#),
    ];
    for (given, object, text) in cases {
        let call = |wants| {
            let call = json!({"function": {"name": "f", "arguments": given}});
            let message = json!({"role": "assistant", "tool_calls": [call]});
            let message = normalise(0, &message, wants).unwrap();
            message["tool_calls"][0]["function"]["arguments"].clone()
        };
        assert_eq!(call(Wants::default()), object, "{given}");
        assert_eq!(call(Wants { text_arguments: true, ..Wants::default() }), text, "{given}");
    }
}

#[test]
fn tools_have_a_description_and_parameters() {
    let empty = json!({"type": "object", "properties": {}});
    let cases = [
        (json!({"name": "f"}), json!({"name": "f", "description": "", "parameters": empty})),
        (
            json!({"name": "f", "description": null, "parameters": null, "strict": null}),
            json!({"name": "f", "description": "", "parameters": empty}),
        ),
        (
            json!({"name": "f", "parameters": {}}),
            json!({"name": "f", "parameters": empty, "description": ""}),
        ),
        (
            json!({"name": "f", "description": "d", "parameters": {"properties": {"a": {"default": null}}}}),
            json!({"name": "f", "description": "d", "parameters": {"properties": {"a": {"default": null}}, "type": "object"}}),
        ),
    ];
    for (function, want) in cases {
        let tool = json!({"type": "function", "function": function});
        let tool = normalise_tool(&tool, Wants::default());
        assert_eq!(tool["function"].to_string(), want.to_string());
    }
}

#[test]
fn null_is_no_type_where_that_is_wanted() {
    let schema = |types: Value| {
        let nested = json!({"type": "array", "items": {"type": types}});
        json!({"type": "function", "function": {"name": "f", "description": "",
            "parameters": {"type": "object", "properties": {"a": {"type": types}, "b": nested}}}})
    };
    let listed = schema(json!(["string", "null"]));
    assert_eq!(normalise_tool(&listed, Wants::default()), listed);
    let one_type = Wants { one_type: true, ..Wants::default() };
    for (types, kind, nullable) in [
        (json!(["string", "null"]), json!("string"), Some(true)),
        (json!(["null", "integer"]), json!("integer"), Some(true)),
        (json!(["number", "string"]), json!(["number", "string"]), None),
        (json!(["a", "null", "b"]), json!(["a", "b"]), Some(true)),
        (json!(["null"]), json!("null"), Some(true)),
        (json!("boolean"), json!("boolean"), None),
    ] {
        let tool = normalise_tool(&schema(types), one_type);
        let properties = &tool["function"]["parameters"]["properties"];
        for property in [&properties["a"], &properties["b"]["items"]] {
            assert_eq!(property["type"], kind);
            assert_eq!(property.get("nullable").and_then(Value::as_bool), nullable);
        }
    }
}

#[test]
fn the_developer_is_the_system_for_templates_that_do_not_know_it() {
    let message = json!({"role": "developer", "content": "c"});
    let knows = Wants { developer: true, ..Wants::default() };
    assert_eq!(normal(message.clone())["role"], "system");
    assert_eq!(normalise(0, &message, knows).unwrap()["role"], "developer");
}

#[test]
fn reasoning_is_found_under_each_of_its_names() {
    for name in REASONING {
        let message = normal(json!({"role": "assistant", "content": "c", name: "why"}));
        for read in REASONING {
            assert_eq!(message[read], "why", "{name} read as {read}");
        }
    }
}

#[test]
fn shapes_without_sense_are_refused_by_name() {
    let image =
        json!({"role": "user", "content": [{"type": "text", "text": "?"}, {"type": "image_url"}]});
    assert_eq!(
        refused(image),
        r#"messages[3]: content[1] is of type "image_url"; this model takes text parts only"#
    );
    let cases = [
        (json!("hello"), "a message is an object, this is a string"),
        (json!({"content": "x"}), "role is missing"),
        (json!({"role": null}), "role is missing"),
        (json!({"role": 1}), "role must be a string, this is a number"),
        (
            json!({"role": "user", "content": {"text": "x"}}),
            "content must be a string or a list of parts",
        ),
        (json!({"role": "user", "content": ["x"]}), "content[0] has no type"),
        (json!({"role": "user", "content": [{"type": "text"}]}), "no text string"),
        (
            json!({"role": "assistant", "tool_calls": {}}),
            "tool_calls must be a list, this is an object",
        ),
        (
            json!({"role": "assistant", "tool_calls": [1]}),
            "a tool call is an object, this is a number",
        ),
        (json!({"role": "assistant", "tool_calls": [{"function": "f"}]}), "function is an object"),
    ];
    for (message, what) in cases {
        let said = refused(message);
        assert!(said.starts_with("messages[3]: ") && said.contains(what), "{said}");
    }
}
