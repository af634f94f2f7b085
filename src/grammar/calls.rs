//! Grammar rules for replies that contain tool calls.
//!
//! The syntax of calls is derived from the model's chat template ([`CallForm`]). The arguments of each function are
//! JSON that matches its schema. It does not know how calls are parsed.

use super::GrammarError;
use super::schema;
use super::terms::{Context, marked, quoted};
use crate::text::Codec;
use crate::text::reply::{CallForm, FormPart, Tags};
use serde_json::{Value, json};
use std::fmt::Write;

/// Most calls of a reply that must contain some.
const MAX_CALLS: usize = 8;

/// The calls that a reply may contain.
#[derive(Debug, Clone, PartialEq)]
pub struct Calls {
    /// The functions that may be called; at least one.
    pub functions: Vec<Function>,
    /// Whether only one call may be made.
    pub one: bool,
}

/// A function that may be called.
#[derive(Debug, Clone, PartialEq)]
pub struct Function {
    /// Its place among the request's tools, for errors.
    pub place: usize,
    /// Its name.
    pub name: String,
    /// The JSON schema of its arguments; `None`: any object or, if it is strict, an empty one.
    pub parameters: Option<Value>,
    /// Whether a schema that cannot be enforced is an error.
    pub strict: bool,
}

/// Rules for calls in a model's own form: the rule `calls`, and those that it needs. `opened`: the first of `head` has
/// been written already.
pub(super) fn rules(
    calls: &Calls,
    context: &Context<'_>,
    opened: Option<&str>,
) -> Result<String, GrammarError> {
    let codec = context.codec;
    let form = codec.calls().form().ok_or_else(|| {
        let what = "this model's chat template writes calls in a form that cannot be enforced";
        GrammarError(what.to_owned())
    })?;
    let mut head = text_of(&form.head, codec);
    if let Some(opened) = opened {
        if let Some(keys) = Keys::of(form) {
            return loose(calls, context, &keys, lists(form, Some(opened)));
        }
        head = text_of(&without(&form.head, opened), codec);
    }
    let tail = text_of(&form.tail, codec);
    let several = form.between.as_ref().filter(|_| !calls.one && lists(form, opened));
    let more = several.map_or(String::new(), |between| {
        format!(" ( {} call ){{0,{}}}", text_of(between, codec), MAX_CALLS - 1)
    });
    let mut out = format!("calls: {head} call{more} {tail}\ncall: ");
    let names = (0..calls.functions.len()).map(|at| format!("call_{at}"));
    let _ = writeln!(out, "{}", names.collect::<Vec<_>>().join(" | "));
    let (before, mut rules) = (text_of(&form.before_arguments, codec), String::new());
    for (at, function) in calls.functions.iter().enumerate() {
        let schema = parameters(function, context.can_compile)?;
        let name = match form.quoted {
            true => quoted(&inside_string(&function.name)),
            false => quoted(&function.name),
        };
        let arguments = match &form.tags {
            Some(tags) => tagged(at, &schema, tags, codec, &mut rules),
            None => format!("%json {schema}"),
        };
        let _ = writeln!(out, "call_{at}: {name} {before} {arguments}");
    }
    Ok(out + &rules)
}

/// The keys of a call that is a JSON object with a name and arguments.
struct Keys<'a> {
    name: &'a str,
    arguments: &'a str,
}

impl<'a> Keys<'a> {
    fn of(form: &'a CallForm) -> Option<Keys<'a>> {
        let (Some(FormPart::Text(head)), [FormPart::Text(before)], Some(FormPart::Text(tail))) =
            (form.head.last(), &form.before_arguments[..], form.tail.first())
        else {
            return None;
        };
        let (_, name) = head
            .trim_end_matches(['"', ' '])
            .trim_end_matches(':')
            .trim_end_matches('"')
            .rsplit_once('"')?;
        let arguments =
            before.trim_start_matches(['"', ',', ' ']).trim_end_matches([':', ' ', '"']);
        let plain =
            |key: &str| !key.is_empty() && key.chars().all(|c| c.is_alphanumeric() || c == '_');
        let is_object = form.quoted && form.tags.is_none() && tail.starts_with('}');
        (is_object && plain(name) && plain(arguments)).then_some(Keys { name, arguments })
    }
}

/// Calls as JSON objects with white space wherever a model may put it; `list`: they are in a list. What follows them is
/// text again.
fn loose(
    calls: &Calls,
    context: &Context<'_>,
    keys: &Keys<'_>,
    list: bool,
) -> Result<String, GrammarError> {
    let again = if calls.one { "" } else { r#"( ws "," ws call )*"# };
    let mut out = match list {
        true => format!("calls: ws \"[\" ws call {again} ws \"]\"\n"),
        false => "calls: ws call\n".to_owned(),
    };
    let names = (0..calls.functions.len()).map(|at| format!("call_{at}"));
    let _ = writeln!(
        out,
        "call: {}\nws: SPACE?\nSPACE: /[ \\t\\r\\n]{{1,16}}/",
        names.collect::<Vec<_>>().join(" | ")
    );
    for (at, function) in calls.functions.iter().enumerate() {
        let schema = parameters(function, context.can_compile)?;
        let string = |text: &str| quoted(&quoted(text));
        let (name_key, name) = (string(keys.name), string(&function.name));
        let arguments = string(keys.arguments);
        let _ = writeln!(
            out,
            "call_{at}: \"{{\" ws {name_key} ws \":\" ws {name} ws \",\" ws {arguments} ws \":\" ws %json {schema} ws \"}}\""
        );
    }
    Ok(out)
}

/// Arguments between tags, each in its place; their rules are added to `rules`. Texts end where their closing tag begins.
fn tagged(call: usize, schema: &Value, tags: &Tags, codec: &Codec, rules: &mut String) -> String {
    let required: Vec<&str> =
        schema["required"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    let definitions = ["$defs", "definitions"].map(|key| (key, schema.get(key)));
    let mut arguments = Vec::new();
    for (at, (name, of)) in schema["properties"].as_object().into_iter().flatten().enumerate() {
        let (open, key_end) = (marked(&tags.open, codec), marked(&tags.key_end, codec));
        let value = format!("value_{call}_{at}");
        if is_text(of) {
            let close = quoted(&tags.close);
            let most =
                of["maxLength"].as_u64().map_or("*".to_owned(), |most| format!("{{0,{most}}}"));
            let _ = writeln!(rules, "{value}[lazy]: /(?s:.{most})/ {close}");
        } else {
            let mut own = of.clone();
            if let Value::Object(own) = &mut own {
                let given = definitions.iter().filter_map(|(key, given)| Some((*key, (*given)?)));
                own.extend(given.map(|(key, given)| (key.to_owned(), given.clone())));
                own.insert("x-guidance".to_owned(), schema["x-guidance"].clone());
            }
            let written =
                match own["enum"].as_array().filter(|all| all.iter().all(Value::is_string)) {
                    Some(texts) => {
                        let texts = texts.iter().filter_map(Value::as_str).map(quoted);
                        format!("( {} )", texts.collect::<Vec<_>>().join(" | "))
                    }
                    None => format!("%json {own}"),
                };
            let _ = writeln!(rules, "{value}: {written} {}", marked(&tags.close, codec));
        }
        let argument = format!("{open} {} {key_end} {value}", quoted(name));
        let line = if at == 0 { "" } else { "separator" };
        let optional = if required.contains(&name.as_str()) { "" } else { "?" };
        arguments.push(format!("( {line} {argument} ){optional}"));
    }
    if arguments.len() > 1 && !rules.contains("separator:") {
        let _ = writeln!(rules, "separator: \"\\n\"?");
    }
    arguments.join(" ")
}

/// Whether a value is written as it is, and not as JSON.
fn is_text(schema: &Value) -> bool {
    schema["type"] == "string" && schema.get("enum").is_none()
}

/// Whether further calls are written within the same markers, if the first marker was recognised in a reply; otherwise
/// it is recognised again.
fn lists(form: &CallForm, opened: Option<&str>) -> bool {
    let Some(opened) = opened else { return true };
    let again = |part: &FormPart| matches!(part, FormPart::Text(text) if text.contains(opened));
    !form.between.iter().flatten().any(again)
}

/// The head of calls after the marker that they begin with.
fn without(head: &[FormPart], opened: &str) -> Vec<FormPart> {
    let mut parts = head.to_vec();
    if let Some(FormPart::Text(text)) = parts.first_mut() {
        *text = text.strip_prefix(opened).unwrap_or(text).to_owned();
    }
    parts
}

/// A text as it stands within a JSON string.
fn inside_string(text: &str) -> String {
    let string = quoted(text);
    string.strip_prefix('"').and_then(|rest| rest.strip_suffix('"')).unwrap_or(text).to_owned()
}

fn text_of(parts: &[FormPart], codec: &Codec) -> String {
    let one = |part: &FormPart| match part {
        FormPart::Text(text) => marked(text, codec),
        FormPart::Id(length) => format!("/[a-zA-Z0-9]{{{length}}}/"),
    };
    parts.iter().map(one).collect::<Vec<_>>().join(" ")
}

fn parameters(
    function: &Function,
    can_compile: &dyn Fn(&Value) -> bool,
) -> Result<Value, GrammarError> {
    let none = || match function.strict {
        true => json!({"type": "object", "properties": {}}),
        false => json!({"type": "object"}),
    };
    let mut given = function.parameters.clone().unwrap_or_else(none);
    if let Value::Object(map) = &mut given {
        map.insert("type".to_owned(), "object".into());
    }
    let named = |error: GrammarError| GrammarError(format!("tools[{}]: {error}", function.place));
    let prepared = schema::prepared(&given).map_err(named)?;
    match function.strict || can_compile(&prepared) {
        true => Ok(prepared),
        false => schema::prepared(&json!({"type": "object"})).map_err(named),
    }
}
