//! Tools and formats in a request, as far as all APIs have them alike.
//!
//! It knows the names of fields only as arguments: each API has its own for the same thing.

use super::WireError;
use super::fields::{optional, required, wrong};
use crate::serving::Prompt;
use serde_json::{Map, Value};
use std::sync::Arc;

const CANNOT_BE_FORCED: &str = "a model cannot be made to call a tool; use 'auto' or 'none'";

/// The names of the tools on offer; `None` if there are none.
pub fn offered(prompt: &Prompt) -> Option<Arc<[String]>> {
    let Prompt::Chat { tools: Some(tools), .. } = prompt else { return None };
    let names = tools.as_array()?.iter().filter_map(|tool| tool["function"]["name"].as_str());
    Some(names.map(str::to_owned).collect())
}

/// A function as a chat template reads it: name, description and, from the field `schema`, parameters.
pub fn function(
    mut tool: Map<String, Value>,
    schema: &str,
    param: &str,
) -> Result<Map<String, Value>, WireError> {
    let name = required(&mut tool, "name", param)?;
    if name.is_empty() {
        return Err(WireError::bad(format!("{param}.name"), "it is empty"));
    }
    let mut function = Map::from_iter([("name".to_owned(), Value::from(name))]);
    if let Some(description) = optional(&mut tool, "description", param)? {
        function.insert("description".to_owned(), description.into());
    }
    match tool.remove(schema) {
        None | Some(Value::Null) => {}
        Some(parameters @ Value::Object(_)) => {
            function.insert("parameters".to_owned(), parameters);
        }
        Some(other) => return Err(wrong(format!("{param}.{schema}"), "an object", &other)),
    }
    Ok(function)
}

/// Whether the model may call tools. It cannot be forced to.
pub fn tool_choice(choice: Option<Value>) -> Result<bool, WireError> {
    match choice {
        None => Ok(true),
        Some(Value::String(choice)) => match choice.as_str() {
            "auto" => Ok(true),
            "none" => Ok(false),
            "required" => Err(WireError::unsupported("tool_choice", CANNOT_BE_FORCED)),
            other => {
                let what = format!("'{other}' is none of none, auto, required");
                Err(WireError::bad("tool_choice", what))
            }
        },
        Some(Value::Object(_)) => Err(WireError::unsupported("tool_choice", CANNOT_BE_FORCED)),
        Some(other) => Err(wrong("tool_choice", "a string or an object", &other)),
    }
}

/// As [`tool_choice`], of an object; also whether only one tool may be called at a time.
pub fn tool_choice_of(mut choice: Map<String, Value>) -> Result<(bool, bool), WireError> {
    let one = match choice.remove("disable_parallel_tool_use") {
        None | Some(Value::Null) => false,
        Some(Value::Bool(one)) => one,
        Some(other) => {
            return Err(wrong("tool_choice.disable_parallel_tool_use", "a boolean", &other));
        }
    };
    match required(&mut choice, "type", "tool_choice")?.as_str() {
        "auto" => Ok((true, one)),
        "none" => Ok((false, one)),
        "any" | "tool" => Err(WireError::unsupported("tool_choice", CANNOT_BE_FORCED)),
        other => {
            let what = format!("'{other}' is none of auto, any, tool, none");
            Err(WireError::bad("tool_choice.type", what))
        }
    }
}

/// Text is the only format of a reply; `param` is the field that asks for one.
pub fn text_format(format: Option<Value>, param: &str) -> Result<(), WireError> {
    let mut format = match format {
        None | Some(Value::Null) => return Ok(()),
        Some(Value::Object(format)) => format,
        Some(other) => return Err(wrong(param, "an object", &other)),
    };
    match required(&mut format, "type", param)?.as_str() {
        "text" => Ok(()),
        kind => {
            let what = format!("the only type is 'text', this is '{kind}'");
            Err(WireError::unsupported(param, what))
        }
    }
}
