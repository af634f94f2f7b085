//! The fields that constrain a reply: `response_format` and its names in other APIs, `structured_outputs` and
//! `guided_*` of vLLM, `json_schema` and `grammar` of llama-server.
//!
//! At most one may be given. It does not know what a grammar or a schema means.

use super::WireError;
use super::fields::{Fields, optional, required, typed, wrong};
use crate::grammar::Constraint;
use serde_json::{Map, Value};
use std::sync::Arc;

/// A constraint and the field that asks for it.
pub type Constrained = Option<(Arc<Constraint>, &'static str)>;

const FORMATS: &str = "text, json_object, json_schema";
/// Settings of `structured_outputs` that change nothing: which engine, and the pattern of white space.
const NEUTRAL: [&str; 4] =
    ["disable_fallback", "disable_additional_properties", "whitespace_pattern", "backend"];

/// The format of the reply in the field `param`: text, a JSON object, or JSON of a schema. The schema stands in it or,
/// as OpenAI's chat completions have it, in its field `json_schema`. Fails if it is of another type or lacks a schema
/// that it needs.
pub fn format(format: Option<Value>, param: &'static str) -> Result<Constrained, WireError> {
    let Some(format) = format.filter(|format| !format.is_null()) else { return Ok(None) };
    let mut format: Map<String, Value> = typed(format, param)?;
    let constraint = match required(&mut format, "type", param)?.as_str() {
        "text" => return Ok(None),
        "json_object" => match format.remove("schema").filter(|schema| !schema.is_null()) {
            Some(schema) => Constraint::Schema(schema),
            None => Constraint::Object,
        },
        "json_schema" => match format.remove("json_schema") {
            Some(Value::Object(inner)) => schema(inner, &format!("{param}.json_schema"))?,
            Some(other) => return Err(wrong(format!("{param}.json_schema"), "an object", &other)),
            None => schema(format, param)?,
        },
        kind => {
            let what = format!("'{kind}' is none of {FORMATS}");
            return Err(WireError::unsupported(format!("{param}.type"), what));
        }
    };
    Ok(Some((Arc::new(constraint), param)))
}

/// A schema with its name. `strict` changes nothing: a schema is always enforced.
fn schema(mut format: Map<String, Value>, param: &str) -> Result<Constraint, WireError> {
    optional::<String>(&mut format, "name", param)?;
    optional::<bool>(&mut format, "strict", param)?;
    match format.remove("schema") {
        Some(schema @ (Value::Object(_) | Value::Bool(_))) => Ok(Constraint::Schema(schema)),
        None | Some(Value::Null) => Err(WireError::Missing { param: format!("{param}.schema") }),
        Some(other) => Err(wrong(format!("{param}.schema"), "an object", &other)),
    }
}

/// The constraint that the fields of vLLM and llama-server ask for. Fails if one is not valid, or if there are several.
pub fn constraint(fields: &mut Fields) -> Result<Constrained, WireError> {
    let structured = match fields.object("structured_outputs")? {
        Some(options) => structured_outputs(options)?,
        None => None,
    };
    let json = fields.take("guided_json").map(|value| written("guided_json", value)).transpose()?;
    let regex = fields.string("guided_regex")?.map(Constraint::Regex);
    let choice = fields.take("guided_choice").map(|value| choice("guided_choice", value));
    let guided = fields.string("guided_grammar")?.map(ebnf);
    let schema =
        fields.take("json_schema").map(|value| written("json_schema", value)).transpose()?;
    let grammar = fields.string("grammar")?.filter(|text| !text.is_empty());
    let grammar = grammar.map(ebnf);
    let all = [
        (structured, "structured_outputs"),
        (json, "guided_json"),
        (regex, "guided_regex"),
        (choice.transpose()?, "guided_choice"),
        (guided, "guided_grammar"),
        (schema, "json_schema"),
        (grammar, "grammar"),
    ];
    let given = all.into_iter().filter_map(|(constraint, param)| Some((constraint?, param)));
    given.map(|(constraint, param)| Some((Arc::new(constraint), param))).try_fold(None, one_of)
}

/// The one constraint that is given, of two places. Fails if both are.
pub fn one_of(a: Constrained, b: Constrained) -> Result<Constrained, WireError> {
    match (a, b) {
        (Some((_, first)), Some((_, second))) => {
            let what = format!("a reply has one constraint; leave out it or {first}");
            Err(WireError::bad(second, what))
        }
        (a, b) => Ok(a.or(b)),
    }
}

fn structured_outputs(mut options: Map<String, Value>) -> Result<Option<Constraint>, WireError> {
    const PARAM: &str = "structured_outputs";
    let compact = optional(&mut options, "disable_any_whitespace", PARAM)?.unwrap_or(false);
    let mut found = None;
    for name in ["json", "regex", "choice", "grammar", "json_object"] {
        let Some(value) = options.remove(name).filter(|value| !value.is_null()) else { continue };
        let at = || format!("{PARAM}.{name}");
        let constraint = match name {
            "json" => Some(written(&at(), value)?),
            "regex" => Some(Constraint::Regex(typed(value, at())?)),
            "grammar" => Some(ebnf(typed(value, at())?)),
            "choice" => Some(choice(&at(), value)?),
            _ => typed::<bool>(value, at())?.then_some(Constraint::Object),
        };
        if found.is_some() && constraint.is_some() {
            return Err(WireError::bad(at(), "a reply has one constraint; give one of them"));
        }
        found = found.or(constraint);
    }
    let unknown =
        |(name, value): &(&String, &Value)| !value.is_null() && !NEUTRAL.contains(&name.as_str());
    match options.iter().find(unknown) {
        None => Ok(found.map(|constraint| match constraint {
            Constraint::Schema(schema) if compact => Constraint::Compact(schema),
            constraint => constraint,
        })),
        Some((name, _)) => Err(WireError::unsupported(
            format!("{PARAM}.{name}"),
            "use json, regex, choice, grammar or json_object",
        )),
    }
}

/// A schema as an object, or as a text that has one.
fn written(param: &str, value: Value) -> Result<Constraint, WireError> {
    match value {
        Value::Object(_) | Value::Bool(_) => Ok(Constraint::Schema(value)),
        Value::String(text) => match serde_json::from_str(&text) {
            Ok(schema @ Value::Object(_)) => Ok(Constraint::Schema(schema)),
            _ => Err(WireError::bad(param, "the text is no JSON schema")),
        },
        other => Err(wrong(param, "a JSON schema", &other)),
    }
}

fn choice(param: &str, value: Value) -> Result<Constraint, WireError> {
    let texts: Vec<Value> = typed(value, param)?;
    let text = |(index, text): (usize, Value)| typed(text, format_args!("{param}[{index}]"));
    texts.into_iter().enumerate().map(text).collect::<Result<_, _>>().map(Constraint::Choice)
}

/// A grammar in Lark or, if it has rules of its form, in GBNF.
fn ebnf(text: String) -> Constraint {
    match text.contains("::=") {
        true => Constraint::Gbnf(text),
        false => Constraint::Lark(text),
    }
}
