//! The parts of tools and formats in a request that are the same in all APIs.
//!
//! Field names are arguments, because each API has its own names for the same thing.

use super::WireError;
use super::constraint::Constrained;
use super::fields::{optional, required, typed, wrong};
use crate::grammar::{Calls, Constraint, Function};
use crate::serving::Prompt;
use serde_json::{Map, Value};
use std::sync::Arc;

/// The names of the tools on offer; `None` if there are none.
pub fn offered(prompt: &Prompt) -> Option<Arc<[String]>> {
    let Prompt::Chat { tools: Some(tools), .. } = prompt else { return None };
    let names = tools.as_array()?.iter().filter_map(|tool| tool["function"]["name"].as_str());
    Some(names.map(str::to_owned).collect())
}

/// The tools on offer as they were declared.
pub fn declared(prompt: &Prompt) -> Option<Arc<Value>> {
    let Prompt::Chat { tools: Some(tools), .. } = prompt else { return None };
    Some(Arc::new(tools.clone()))
}

/// A function as a chat template reads it: name, description and, from the field `schema`, parameters. `strict` is kept
/// beside them. Fails if the name is missing or empty, or if a field is of the wrong type.
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
    if let Some(description) = optional::<String>(&mut tool, "description", param)? {
        function.insert("description".to_owned(), description.into());
    }
    if let Some(parameters) = optional::<Map<_, _>>(&mut tool, schema, param)? {
        function.insert("parameters".to_owned(), parameters.into());
    }
    if let Some(strict) = optional::<bool>(&mut tool, "strict", param)? {
        function.insert("strict".to_owned(), strict.into());
    }
    Ok(function)
}

/// What a model is to do with the tools on offer.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum ToolChoice {
    /// It decides itself; `Some`: it may call only these.
    Auto(Option<Vec<String>>),
    /// It must call one; `Some`: of these.
    Required(Option<Vec<String>>),
    /// It is not shown any.
    #[default]
    None,
}

impl ToolChoice {
    /// Whether it names one function, which is then called once.
    fn is_named(&self) -> bool {
        matches!(self, ToolChoice::Required(Some(names)) if names.len() == 1)
    }

    /// The word for the choice in `tool_choice`.
    pub fn word(&self) -> &'static str {
        match self {
            ToolChoice::Auto(_) => "auto",
            ToolChoice::Required(_) => "required",
            ToolChoice::None => "none",
        }
    }

    /// The constraint that it makes of `tools`, in the form of chat completions; `one`: for one call only. Fails if it
    /// names a function that is not among the tools, if there is none to call, or if `format` is another constraint.
    pub fn constraint(
        &self,
        tools: Option<&Value>,
        one: bool,
        format: Constrained,
    ) -> Result<Constrained, WireError> {
        let (names, must) = match self {
            ToolChoice::None => return Ok(format),
            ToolChoice::Auto(names) => (names, false),
            ToolChoice::Required(names) => (names, true),
        };
        let tools = tools.and_then(Value::as_array).into_iter().flatten();
        let all: Vec<Function> = tools.enumerate().filter_map(callable).collect();
        let unknown = |name: &&String| all.iter().all(|function| function.name != **name);
        if names.iter().flatten().any(|name| unknown(&name)) {
            return Err(WireError::bad(
                "tool_choice",
                "it names a function that is not among tools",
            ));
        }
        let may = |function: &Function| names.as_ref().is_none_or(|n| n.contains(&function.name));
        let functions: Vec<Function> = all.into_iter().filter(may).collect();
        let one = one || self.is_named();
        match (functions.is_empty(), must) {
            (true, true) => Err(WireError::bad(
                "tool_choice",
                "a tool must be called, but there is none in tools",
            )),
            (true, false) => Ok(format),
            (false, true) => {
                Ok(Some((Arc::new(Constraint::Calls(Calls { functions, one })), "tool_choice")))
            }
            (false, false) => {
                let calls = Calls { functions, one };
                Ok(Some(match format {
                    Some((other, param)) => {
                        (Arc::new(Constraint::Either(calls, Box::new((*other).clone()))), param)
                    }
                    None => (Arc::new(Constraint::Auto(calls)), "tools"),
                }))
            }
        }
    }
}

/// A tool and its place as a constraint has it.
fn callable((place, tool): (usize, &Value)) -> Option<Function> {
    let function = &tool["function"];
    Some(Function {
        place,
        name: function["name"].as_str()?.to_owned(),
        parameters: function.get("parameters").filter(|schema| schema.is_object()).cloned(),
        strict: function["strict"] == Value::Bool(true),
    })
}

/// The field `tool_choice` of OpenAI's APIs: a word, a function by name, or the functions that may be called. The name
/// stands in an object `function` in chat completions, beside the type in responses. Fails if it is of another form.
pub fn tool_choice(choice: Option<Value>) -> Result<ToolChoice, WireError> {
    let mut choice = match choice {
        None | Some(Value::Null) => return Ok(ToolChoice::Auto(None)),
        Some(Value::String(word)) => return word_choice(&word, None, "tool_choice"),
        Some(Value::Object(choice)) => choice,
        Some(other) => return Err(wrong("tool_choice", "a string or an object", &other)),
    };
    match required(&mut choice, "type", "tool_choice")?.as_str() {
        "function" => Ok(ToolChoice::Required(Some(vec![function_named(choice, "tool_choice")?]))),
        "allowed_tools" => allowed_tools(choice),
        other => {
            let what = format!("'{other}' is neither function nor allowed_tools");
            Err(WireError::unsupported("tool_choice.type", what))
        }
    }
}

fn word_choice(
    word: &str,
    names: Option<Vec<String>>,
    param: &str,
) -> Result<ToolChoice, WireError> {
    match word {
        "auto" => Ok(ToolChoice::Auto(names)),
        "required" => Ok(ToolChoice::Required(names)),
        "none" if names.is_none() => Ok(ToolChoice::None),
        other => Err(WireError::bad(param, format!("'{other}' is none of none, auto, required"))),
    }
}

fn function_named(mut choice: Map<String, Value>, param: &str) -> Result<String, WireError> {
    match choice.remove("function") {
        Some(Value::Object(mut function)) => {
            required(&mut function, "name", &format!("{param}.function"))
        }
        Some(other) => Err(wrong(format!("{param}.function"), "an object", &other)),
        None => required(&mut choice, "name", param),
    }
}

fn allowed_tools(mut choice: Map<String, Value>) -> Result<ToolChoice, WireError> {
    let (mut param, nested) = ("tool_choice".to_owned(), choice.remove("allowed_tools"));
    if let Some(nested) = nested {
        param.push_str(".allowed_tools");
        choice = typed(nested, &param)?;
    }
    let mode = required(&mut choice, "mode", &param)?;
    let tools = match choice.remove("tools") {
        Some(Value::Array(tools)) if !tools.is_empty() => tools,
        Some(Value::Array(_)) => return Err(WireError::bad(param + ".tools", "it is empty")),
        Some(other) => return Err(wrong(param + ".tools", "an array", &other)),
        None => return Err(WireError::Missing { param: param + ".tools" }),
    };
    let name = |(index, tool): (usize, Value)| match tool {
        Value::Object(tool) => function_named(tool, &format!("{param}.tools[{index}]")),
        other => Err(wrong(format!("{param}.tools[{index}]"), "an object", &other)),
    };
    let names = tools.into_iter().enumerate().map(name).collect::<Result<Vec<_>, _>>()?;
    word_choice(&mode, Some(names), &format!("{param}.mode"))
}

/// The field `tool_choice` of Anthropic's API, an object; also whether only one tool may be called at a time. Fails if
/// it is of another form.
pub fn tool_choice_of(mut choice: Map<String, Value>) -> Result<(ToolChoice, bool), WireError> {
    let one = optional(&mut choice, "disable_parallel_tool_use", "tool_choice")?.unwrap_or(false);
    let choice = match required(&mut choice, "type", "tool_choice")?.as_str() {
        "auto" => ToolChoice::Auto(None),
        "none" => ToolChoice::None,
        "any" => ToolChoice::Required(None),
        "tool" => {
            let name = required(&mut choice, "name", "tool_choice")?;
            ToolChoice::Required(Some(vec![name]))
        }
        other => {
            let what = format!("'{other}' is none of auto, any, tool, none");
            return Err(WireError::bad("tool_choice.type", what));
        }
    };
    Ok((choice, one))
}
