//! The body of a request to `/v1/responses`.

use super::items;
use crate::http::wire::chat::{offered, tool_choice};
use crate::http::wire::common::{Envelope, Rules, ask};
use crate::http::wire::fields::{Fields, wrong};
use crate::http::wire::table::{OwnRow, Treatment, any, is_filled, is_not_one, is_true, refuse_by};
use crate::http::wire::{Ask, WireError};
use crate::serving::{MOST_TOP_LOGPROBS as MOST_TOP, Prompt};
use crate::text::Ending;
use crate::text::reply::{Look, Reasoning};
use serde_json::{Map, Value, json};

use Treatment::{Honoured, Neutral, Refused};

/// Variables for the chat template.
type Kwargs = Option<Map<String, Value>>;

const STATELESS: &str = "nothing is stored here; send the whole conversation as input";
const LOGPROBS: &str = "message.output_text.logprobs";

/// The fields of this route beside those that all routes share.
pub const FIELDS: &[OwnRow] = &[
    ("background", Refused(is_true, "wait for the answer, or stream it")),
    ("chat_template_kwargs", Honoured("an addition of vLLM's")),
    ("context_management", Refused(is_filled, "shorten the conversation yourself")),
    ("conversation", Refused(any, STATELESS)),
    ("include", Honoured("message.output_text.logprobs; the others change nothing here")),
    ("input", Honoured("a text, or messages, function calls, their outputs and reasoning")),
    ("instructions", Honoured("the first message, from the system")),
    ("max_output_tokens", Honoured("at least 1; cut to what the context leaves")),
    ("max_tokens", Refused(any, "use max_output_tokens")),
    ("max_tool_calls", Neutral("it bounds calls of hosted tools, and there are none")),
    ("metadata", Honoured("repeated in the answer")),
    ("n", Refused(is_not_one, "send the request several times")),
    ("parallel_tool_calls", Honoured("")),
    ("previous_response_id", Refused(is_filled, STATELESS)),
    ("prompt", Refused(any, "use instructions and input")),
    ("reasoning", Honoured("the effort, handed to the chat template; none: no thinking")),
    ("response_format", Refused(any, "use text.format")),
    ("store", Neutral("nothing is stored, as the answer says")),
    ("temperature", Honoured("0 to 2; 0 is greedy")),
    ("text", Honoured("format of type text; the others are refused")),
    ("tool_choice", Honoured("auto or none; the others are refused")),
    ("tools", Honoured("functions; hosted tools are refused")),
    ("top_logprobs", Honoured("0 to 20")),
    ("truncation", Honoured("a conversation that is too long is refused, also with auto")),
];

/// What the answer repeats of the request.
#[derive(Debug, Clone, Default)]
pub struct Echo {
    pub instructions: Option<String>,
    pub max_output_tokens: Option<usize>,
    pub metadata: Map<String, Value>,
    pub parallel: bool,
    pub temperature: Option<f64>,
    pub top_p: Option<f64>,
    pub effort: Option<String>,
    pub truncation: &'static str,
    pub tools: Vec<Value>,
    pub tool_choice: &'static str,
    pub top_logprobs: u8,
    pub user: Option<String>,
    pub prompt_cache_key: Option<String>,
    pub safety_identifier: Option<String>,
}

/// Parses a body.
pub fn read(
    fields: &mut Fields,
    envelope: Envelope,
    rules: Rules<'_>,
) -> Result<(Ask, Echo), WireError> {
    refuse_by(fields, FIELDS)?;
    let (prompt, mut echo) = prompt(fields)?;
    echo.parallel = fields.boolean("parallel_tool_calls")?.unwrap_or(true);
    echo.metadata = metadata(fields)?;
    echo.truncation = truncation(fields)?;
    let logprobs = logprobs(fields)?;
    echo.top_logprobs = logprobs.unwrap_or(0);
    let most = fields.integer("max_output_tokens", 1, i64::MAX)?;
    echo.max_output_tokens = most.and_then(|most| usize::try_from(most).ok());
    let number = |name: &str| fields.peek(name).and_then(Value::as_f64);
    (echo.temperature, echo.top_p) = (number("temperature"), number("top_p"));
    let word = |name: &str| fields.peek(name).and_then(Value::as_str).map(str::to_owned);
    echo.user = word("user");
    echo.prompt_cache_key = word("prompt_cache_key");
    echo.safety_identifier = word("safety_identifier");
    let look = Look { tools: offered(&prompt), reasoning: Reasoning::Apart };
    let ask = ask(fields, envelope, rules, vec![prompt], echo.max_output_tokens)?;
    let ask = Ask { look, one_call: !echo.parallel, ..ask.reporting(logprobs) };
    Ok((ask, echo))
}

/// The conversation with its tools, and the beginning of what the answer repeats.
pub fn prompt(fields: &mut Fields) -> Result<(Prompt, Echo), WireError> {
    let instructions = fields.string("instructions")?;
    let input = fields.take("input").ok_or_else(|| WireError::Missing { param: "input".into() })?;
    let messages = items::messages(input, instructions.clone())?;
    check_format(fields)?;
    let (written, offered) = tools(fields)?;
    let chosen = tool_choice(fields.take("tool_choice"))?;
    let tools = (chosen && !offered.is_empty()).then_some(Value::Array(offered));
    let (template_kwargs, effort) = template_kwargs(fields)?;
    let echo = Echo {
        instructions,
        tools: written,
        tool_choice: if chosen { "auto" } else { "none" },
        effort,
        ..Echo::default()
    };
    Ok((Prompt::Chat { messages, tools, template_kwargs, ending: Ending::Reply }, echo))
}

/// The tools as written, and as a chat template reads them.
fn tools(fields: &mut Fields) -> Result<(Vec<Value>, Vec<Value>), WireError> {
    let written = fields.array("tools")?.unwrap_or_default();
    let chat = written.iter().enumerate().map(|(index, tool)| {
        let at = |field: &str| format!("tools[{index}]{field}");
        let Value::Object(tool) = tool else { return Err(wrong(at(""), "an object", tool)) };
        match tool.get("type") {
            Some(Value::String(kind)) if kind == "function" => {}
            Some(Value::String(kind)) => {
                let what = format!("only tools of type 'function' can be used, not '{kind}'");
                return Err(WireError::unsupported(at(".type"), what));
            }
            None => return Err(WireError::Missing { param: at(".type") }),
            Some(other) => return Err(wrong(at(".type"), "a string", other)),
        }
        match tool.get("name") {
            Some(Value::String(name)) if name.is_empty() => {
                return Err(WireError::bad(at(".name"), "it is empty"));
            }
            Some(Value::String(_)) => {}
            None | Some(Value::Null) => return Err(WireError::Missing { param: at(".name") }),
            Some(other) => return Err(wrong(at(".name"), "a string", other)),
        }
        let kept = ["name", "description", "parameters"].into_iter();
        let function: Map<String, Value> =
            kept.filter_map(|name| Some((name.to_owned(), tool.get(name)?.clone()))).collect();
        Ok(json!({"type": "function", "function": function}))
    });
    let chat = chat.collect::<Result<Vec<Value>, WireError>>()?;
    Ok((written, chat))
}

/// What the template is given besides the conversation, and the effort that was asked for.
fn template_kwargs(fields: &mut Fields) -> Result<(Kwargs, Option<String>), WireError> {
    let mut given = fields.object("chat_template_kwargs")?;
    let Some(reasoning) = fields.object("reasoning")? else { return Ok((given, None)) };
    let effort = match reasoning.get("effort") {
        None | Some(Value::Null) => return Ok((given, None)),
        Some(Value::String(effort)) => effort.clone(),
        Some(other) => return Err(wrong("reasoning.effort", "a string", other)),
    };
    let kwargs = given.get_or_insert_default();
    kwargs.entry("reasoning_effort").or_insert_with(|| effort.as_str().into());
    if effort == "none" {
        kwargs.entry("enable_thinking").or_insert(Value::Bool(false));
    }
    Ok((given, Some(effort)))
}

/// Text is the only supported format.
fn check_format(fields: &mut Fields) -> Result<(), WireError> {
    let Some(text) = fields.object("text")? else { return Ok(()) };
    let format = match text.get("format") {
        None | Some(Value::Null) => return Ok(()),
        Some(Value::Object(format)) => format,
        Some(other) => return Err(wrong("text.format", "an object", other)),
    };
    match format.get("type") {
        Some(Value::String(kind)) if kind == "text" => Ok(()),
        Some(Value::String(kind)) => {
            let what = format!("the only type is 'text', this is '{kind}'");
            Err(WireError::unsupported("text.format", what))
        }
        None => Err(WireError::Missing { param: "text.format.type".into() }),
        Some(other) => Err(wrong("text.format.type", "a string", other)),
    }
}

fn metadata(fields: &mut Fields) -> Result<Map<String, Value>, WireError> {
    let metadata = fields.object("metadata")?.unwrap_or_default();
    match metadata.iter().find(|(_, value)| !value.is_string()) {
        None => Ok(metadata),
        Some((name, value)) => Err(wrong(format!("metadata.{name}"), "a string", value)),
    }
}

fn truncation(fields: &mut Fields) -> Result<&'static str, WireError> {
    match fields.string("truncation")?.as_deref() {
        None | Some("disabled") => Ok("disabled"),
        Some("auto") => Ok("auto"),
        Some(other) => {
            Err(WireError::bad("truncation", format!("'{other}' is neither auto nor disabled")))
        }
    }
}

/// How many most likely tokens to report log-probabilities for; `None`: report none.
fn logprobs(fields: &mut Fields) -> Result<Option<u8>, WireError> {
    let include = fields.array("include")?.unwrap_or_default();
    for (index, one) in include.iter().enumerate() {
        if !one.is_string() {
            return Err(wrong(format!("include[{index}]"), "a string", one));
        }
    }
    let top = fields.integer("top_logprobs", 0, MOST_TOP as i64)?;
    let wanted = include.iter().any(|one| one == LOGPROBS) || top.is_some_and(|top| top > 0);
    Ok(wanted.then(|| top.and_then(|top| u8::try_from(top).ok()).unwrap_or(0)))
}
