//! The types and ranges of request fields, for the OpenAPI document. A test compares them with the parsers.

use crate::http::responses::{INCLUDES, LOGPROBS};
use crate::http::wire::table::{OwnRow, Treatment, Type};
use crate::serving::MOST_TOP_LOGPROBS;
use serde_json::{Value, json};

/// What a field takes; `null` counts as absent everywhere.
#[derive(Debug, Clone, Copy)]
pub enum Kind {
    Flag,
    Text,
    Object,
    /// From, and up to; without an upper bound `i64::MAX`.
    Integer(i64, i64),
    Number(f64, f64),
    /// Above, and up to.
    Above(f64, f64),
    /// One of these texts.
    Word(&'static [&'static str]),
    /// Whatever the function says.
    Schema(fn() -> Value),
}

use Kind::{Above, Flag, Integer, Number, Object, Schema, Text, Word};

/// The kinds of all honoured fields that mean the same on every route that has them.
const KINDS: &[(&str, Kind)] = &[
    ("add_generation_prompt", Flag),
    ("add_special_tokens", Flag),
    ("allowed_token_ids", Schema(some_ids)),
    ("bad_words", Schema(texts)),
    ("best_of", Integer(1, i64::MAX)),
    ("cache_salt", Text),
    ("chat_template_kwargs", Object),
    ("continue_final_message", Flag),
    ("echo", Flag),
    ("enable_thinking", Flag),
    ("frequency_penalty", Number(-2.0, 2.0)),
    ("grammar", Text),
    ("guided_choice", Schema(texts)),
    ("guided_grammar", Text),
    ("guided_json", Schema(schema)),
    ("guided_regex", Text),
    ("ignore_eos", Flag),
    ("include", Schema(includes)),
    ("include_reasoning", Flag),
    ("include_stop_str_in_output", Flag),
    ("input", Schema(input)),
    ("instructions", Text),
    ("json_schema", Schema(schema)),
    ("logit_bias", Schema(biases)),
    ("max_completion_tokens", Integer(-1, i64::MAX)),
    ("max_output_tokens", Integer(1, i64::MAX)),
    ("max_tokens", Integer(-1, i64::MAX)),
    ("metadata", Object),
    ("min_p", Number(0.0, 1.0)),
    ("min_tokens", Integer(0, i64::MAX)),
    ("model", Text),
    ("n", Integer(1, i64::MAX)),
    ("n_predict", Integer(-1, i64::MAX)),
    ("output_config", Object),
    ("output_config.effort", Text),
    ("output_config.format", Schema(format)),
    ("output_format", Schema(format)),
    ("parallel_tool_calls", Flag),
    ("presence_penalty", Number(-2.0, 2.0)),
    ("prompt", Schema(prompt)),
    ("prompt_cache_key", Text),
    ("reasoning", Object),
    ("reasoning.effort", Text),
    ("reasoning_effort", Text),
    ("reasoning_format", Word(&["auto", "deepseek", "none"])),
    ("repeat_penalty", Above(0.0, 2.0)),
    ("repetition_penalty", Above(0.0, 2.0)),
    ("response_format", Schema(format)),
    ("safety_identifier", Text),
    ("seed", Integer(-1, i64::MAX)),
    ("skip_special_tokens", Flag),
    ("stop", Schema(text_or_texts)),
    ("stop_sequences", Schema(text_or_texts)),
    ("stop_token_ids", Schema(ids)),
    ("store", Flag),
    ("stream", Flag),
    ("stream_options", Object),
    ("structured_outputs", Object),
    ("system", Schema(system)),
    ("temperature", Number(0.0, 2.0)),
    ("text", Object),
    ("text.format", Schema(format)),
    ("thinking", Schema(thinking)),
    ("thinking.display", Word(&["summarized", "omitted"])),
    ("tools[].strict", Flag),
    ("top_k", Integer(-1, u32::MAX as i64)),
    ("top_logprobs", Integer(0, MOST_TOP_LOGPROBS as i64)),
    ("top_p", Number(0.0, 1.0)),
    ("truncate_prompt_tokens", Integer(-1, i64::MAX)),
    ("truncation", Word(&["auto", "disabled"])),
    ("user", Text),
];

/// Fields of one route that differ from those of the others.
const SPECIAL: &[(&str, &str, Kind)] = &[
    ("/chat/completions", "logprobs", Flag),
    ("/chat/completions", "messages", Schema(chat_messages)),
    ("/chat/completions", "tool_choice", Schema(chat_choice)),
    ("/chat/completions", "tools", Schema(chat_tools)),
    ("/completions", "logprobs", Integer(0, MOST_TOP_LOGPROBS as i64)),
    ("/messages", "max_tokens", Integer(1, i64::MAX)),
    ("/messages", "messages", Schema(block_messages)),
    ("/messages", "temperature", Number(0.0, 1.0)),
    ("/messages", "tool_choice", Schema(block_choice)),
    ("/messages", "tools", Schema(named_tools)),
    ("/responses", "tool_choice", Schema(named_choice)),
    ("/responses", "tools", Schema(function_tools)),
];

/// The kind of a route's field, if it is known.
pub fn kind(route: &str, name: &str) -> Option<Kind> {
    let special = SPECIAL.iter().find(|(of, field, _)| *of == route && *field == name);
    let special = special.map(|(_, _, kind)| *kind);
    special.or_else(|| Some(KINDS.iter().find(|(field, _)| *field == name)?.1))
}

/// The schema of a body with these fields.
pub fn body(route: &str, rows: &[OwnRow], required: &[&str]) -> Value {
    let mut body = json!({"type": "object", "properties": {}, "required": required});
    for (path, does) in rows.iter().filter(|(name, _)| !is_nested(name)) {
        body["properties"][*path] = field(route, path, does);
    }
    for (path, does) in rows.iter().filter(|(name, _)| is_nested(name)) {
        let Some((holder, name)) = path.split_once('.') else { continue };
        let outer = &mut body["properties"][holder.trim_end_matches("[]")];
        let holder = if holder.ends_with("[]") { &mut outer["items"] } else { outer };
        holder["properties"][name] = field(route, path, does);
    }
    body
}

/// Whether a row is about a part of a field.
fn is_nested(name: &str) -> bool {
    // These names are no paths.
    name.contains('.') && !name.starts_with("speculative.")
}

fn field(route: &str, name: &str, treatment: &Treatment) -> Value {
    let described = |mut schema: Value, text: String| {
        if !text.is_empty() {
            schema["description"] = text.into();
        }
        schema
    };
    match treatment {
        Treatment::Honoured(how) => {
            let schema = kind(route, name).map_or_else(|| json!({}), Kind::schema);
            described(schema, (*how).to_owned())
        }
        Treatment::Neutral(kind, why) => described(of_type(*kind), format!("No effect: {why}.")),
        // A value that asks for nothing is accepted as well.
        Treatment::Refused(_, instead) => {
            described(json!({"type": "null"}), format!("Refused: {instead}."))
        }
    }
}

fn of_type(kind: Type) -> Value {
    let name = match kind {
        Type::Any => return json!({}),
        Type::Texts => return texts(),
        Type::Flag => "boolean",
        Type::Integer => "integer",
        Type::Text => "string",
        Type::List => "array",
        Type::Object => "object",
    };
    json!({"type": [name, "null"]})
}

impl Kind {
    /// As a JSON schema.
    pub fn schema(self) -> Value {
        match self {
            Flag => json!({"type": ["boolean", "null"]}),
            Text => json!({"type": ["string", "null"]}),
            Object => json!({"type": ["object", "null"]}),
            Integer(least, i64::MAX) => json!({"type": ["integer", "null"], "minimum": least}),
            Integer(least, most) => {
                json!({"type": ["integer", "null"], "minimum": least, "maximum": most})
            }
            Number(least, most) => {
                json!({"type": ["number", "null"], "minimum": least, "maximum": most})
            }
            Above(least, most) => {
                json!({"type": ["number", "null"], "exclusiveMinimum": least, "maximum": most})
            }
            Word(words) => {
                let words = words.iter().map(|word| Value::from(*word)).chain([Value::Null]);
                json!({"enum": words.collect::<Vec<Value>>()})
            }
            Schema(schema) => schema(),
        }
    }
}

fn text_list() -> Value {
    json!({"type": "array", "items": {"type": "string"}})
}

fn texts() -> Value {
    json!({"type": ["array", "null"], "items": {"type": "string"}})
}

fn includes() -> Value {
    let known = INCLUDES.iter().copied().chain([LOGPROBS]).collect::<Vec<_>>();
    json!({"type": ["array", "null"], "items": {"enum": known}})
}

fn text_or_texts() -> Value {
    json!({"anyOf": [{"type": ["string", "null"]}, text_list()]})
}

fn id_list() -> Value {
    json!({"type": "array", "items": {"type": "integer", "minimum": 0, "maximum": u32::MAX}})
}

fn ids() -> Value {
    json!({"anyOf": [id_list(), {"type": "null"}]})
}

fn some_ids() -> Value {
    let mut list = id_list();
    list["minItems"] = 1.into();
    json!({"anyOf": [list, {"type": "null"}]})
}

/// By id or text, as an object or as pairs; `false` is a ban.
fn biases() -> Value {
    let bias =
        json!({"anyOf": [{"type": "number", "minimum": -100, "maximum": 100}, {"const": false}]});
    let id = json!({"type": "integer", "minimum": 0, "maximum": u32::MAX});
    let token = json!({"anyOf": [{"type": "string"}, id]});
    let pair = json!({"type": "array", "prefixItems": [token, bias], "minItems": 2, "maxItems": 2});
    json!({"anyOf": [
        {"type": "object", "additionalProperties": bias, "maxProperties": 1024},
        {"type": "array", "items": pair, "maxItems": 1024},
        {"type": "null"},
    ]})
}

fn prompt() -> Value {
    let lists = json!({"type": "array", "minItems": 1, "items": id_list()});
    json!({"anyOf": [{"type": "string"}, text_list(), id_list(), lists]})
}

fn format() -> Value {
    let properties = json!({
        "type": {"enum": ["text", "json_object", "json_schema"]}, "name": {"type": "string"},
        "schema": {"type": ["object", "boolean"]}, "strict": {"type": ["boolean", "null"]},
        "json_schema": {"type": "object", "properties": {
            "name": {"type": "string"}, "schema": {"type": ["object", "boolean"]}, "strict": {"type": ["boolean", "null"]},
        }},
    });
    json!({"type": ["object", "null"], "properties": properties, "required": ["type"]})
}

fn part(kinds: &[&str]) -> Value {
    let properties = json!({"type": {"enum": kinds}, "text": {"type": "string"}});
    json!({"type": "object", "properties": properties, "required": ["type", "text"]})
}

fn content(kinds: &[&str]) -> Value {
    json!({"anyOf": [{"type": "string"}, {"type": "array", "items": part(kinds)}]})
}

fn message(roles: &[&str], content: Value) -> Value {
    let properties = json!({"role": {"enum": roles}, "content": content});
    json!({"type": "object", "properties": properties, "required": ["role", "content"]})
}

fn chat_messages() -> Value {
    let roles = ["system", "developer", "user", "assistant", "tool", "function"];
    json!({"type": "array", "minItems": 1, "items": message(&roles, content(&["text"]))})
}

fn input() -> Value {
    let roles = ["user", "assistant", "system", "developer"];
    let said = message(&roles, content(&["input_text", "output_text"]));
    let text = json!({"type": "string"});
    let call = json!({
        "type": "object", "required": ["type", "call_id", "name", "arguments"],
        "properties": {"type": {"const": "function_call"}, "call_id": text, "name": text, "arguments": text},
    });
    let output = json!({
        "type": "object", "required": ["type", "call_id", "output"],
        "properties": {
            "type": {"const": "function_call_output"}, "call_id": text,
            "output": content(&["input_text", "output_text"]),
        },
    });
    let reasoning = json!({
        "type": "object", "required": ["type"], "properties": {"type": {"const": "reasoning"}},
    });
    let items = json!({"anyOf": [said, call, output, reasoning]});
    json!({"anyOf": [text, {"type": "array", "minItems": 1, "items": items}]})
}

fn block_messages() -> Value {
    let text = json!({"type": "string"});
    let call = json!({
        "type": "object", "required": ["type", "id", "name", "input"],
        "properties": {"type": {"const": "tool_use"}, "id": text, "name": text, "input": {"type": "object"}},
    });
    let thinking = json!({
        "type": "object", "required": ["type", "thinking"],
        "properties": {"type": {"const": "thinking"}, "thinking": text},
    });
    let result = json!({
        "type": "object", "required": ["type", "tool_use_id"],
        "properties": {
            "type": {"const": "tool_result"}, "tool_use_id": text, "is_error": {"type": "boolean"},
            "content": content(&["text"]),
        },
    });
    let blocks = |more: &[Value]| {
        let any: Vec<Value> =
            std::iter::once(part(&["text"])).chain(more.iter().cloned()).collect();
        json!({"anyOf": [text, {"type": "array", "items": {"anyOf": any}}]})
    };
    let items = json!({"anyOf": [
        message(&["user"], blocks(&[result])), message(&["assistant"], blocks(&[call, thinking])),
    ]});
    json!({"type": "array", "minItems": 1, "items": items})
}

fn system() -> Value {
    json!({"anyOf": [{"type": ["string", "null"]}, {"type": "array", "items": part(&["text"])}]})
}

fn thinking() -> Value {
    let kinds = json!({"type": {"enum": ["enabled", "disabled", "adaptive", "between_tools"]}});
    json!({"type": ["object", "null"], "properties": kinds, "required": ["type"]})
}

fn block_choice() -> Value {
    let properties = json!({
        "type": {"enum": ["auto", "any", "tool", "none"]}, "name": {"type": "string"},
        "disable_parallel_tool_use": {"type": "boolean"},
    });
    json!({"type": ["object", "null"], "properties": properties, "required": ["type"]})
}

fn schema() -> Value {
    json!({"type": ["object", "string", "boolean", "null"]})
}

fn chat_choice() -> Value {
    let named =
        json!({"type": "object", "properties": {"name": {"type": "string"}}, "required": ["name"]});
    choice(json!({"function": named}), "function")
}

fn named_choice() -> Value {
    choice(json!({"name": {"type": "string"}}), "name")
}

/// A word, a function, or the functions that may be called; `named`: how a function is named.
fn choice(named: Value, field: &str) -> Value {
    let mut one = json!({"type": "object", "properties": named, "required": ["type", field]});
    one["properties"]["type"] = json!({"const": "function"});
    let list = json!({"mode": {"enum": ["auto", "required"]}, "tools": {"type": "array", "minItems": 1, "items": one}});
    let list = json!({"type": "object", "properties": list, "required": ["mode", "tools"]});
    let properties = json!({"type": {"const": "allowed_tools"}, "allowed_tools": list});
    let some = match field {
        "function" => {
            json!({"type": "object", "properties": properties, "required": ["type", "allowed_tools"]})
        }
        _ => {
            let mut some = list;
            some["properties"]["type"] = json!({"const": "allowed_tools"});
            some["required"] = json!(["type", "mode", "tools"]);
            some
        }
    };
    json!({"anyOf": [{"enum": ["auto", "none", "required", null]}, one, some]})
}

fn function() -> Value {
    let properties = json!({
        "name": {"type": "string", "minLength": 1}, "description": {"type": "string"},
        "parameters": {"type": "object"},
    });
    json!({"type": "object", "properties": properties, "required": ["name"]})
}

fn chat_tools() -> Value {
    let properties = json!({"type": {"const": "function"}, "function": function()});
    let tool = json!({"type": "object", "properties": properties, "required": ["function"]});
    json!({"type": ["array", "null"], "items": tool})
}

fn function_tools() -> Value {
    let mut tool = function();
    tool["properties"]["type"] = json!({"const": "function"});
    tool["required"] = json!(["type", "name"]);
    json!({"type": ["array", "null"], "items": tool})
}

fn named_tools() -> Value {
    let properties = json!({
        "name": {"type": "string", "minLength": 1}, "description": {"type": "string"},
        "input_schema": {"type": "object"},
    });
    let tool = json!({"type": "object", "properties": properties, "required": ["name"]});
    json!({"type": ["array", "null"], "items": tool})
}
