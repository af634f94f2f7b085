//! A response as JSON, field for field as in the public API.

use super::output::{Item, Status};
use super::reply::Reply;
use crate::http::status_codes::ApiError;
use crate::serving::Usage;
use schemars::JsonSchema;
use serde::Serialize;
use serde_json::{Map, Value};

/// A response, whole or so far.
#[derive(Debug, Serialize, JsonSchema)]
pub struct Response<'a> {
    id: &'a str,
    object: &'static str,
    created_at: u64,
    status: Status,
    background: bool,
    error: Option<Failure>,
    incomplete_details: Option<Incomplete>,
    instructions: Option<&'a str>,
    max_output_tokens: Option<usize>,
    max_tool_calls: Option<u32>,
    model: &'a str,
    output: &'a [Item],
    parallel_tool_calls: bool,
    previous_response_id: Option<&'a str>,
    prompt_cache_key: Option<&'a str>,
    reasoning: Effort<'a>,
    safety_identifier: Option<&'a str>,
    service_tier: &'static str,
    store: bool,
    temperature: Option<f64>,
    text: Text<'a>,
    tool_choice: &'static str,
    tools: &'a [Value],
    top_logprobs: u8,
    top_p: Option<f64>,
    truncation: &'static str,
    usage: Option<Tokens>,
    user: Option<&'a str>,
    metadata: &'a Map<String, Value>,
    /// An addition of serin's: version and digest of the model that answered, as in chat completions.
    system_fingerprint: &'a str,
}

impl Response<'_> {
    /// The response as it is now; `output`: with its items.
    pub fn of(reply: &Reply, output: bool) -> Response<'_> {
        let (about, echo, status) = (&reply.about, &reply.about.echo, reply.status());
        let error = reply.failed.as_ref().map(Failure::from);
        let cut = status == Status::Incomplete;
        Response {
            id: &about.id,
            object: "response",
            created_at: about.created,
            status,
            background: false,
            error,
            incomplete_details: cut.then_some(Incomplete { reason: "max_output_tokens" }),
            instructions: echo.instructions.as_deref(),
            max_output_tokens: echo.max_output_tokens,
            max_tool_calls: None,
            model: &about.model,
            output: if output { &reply.items } else { &[] },
            parallel_tool_calls: echo.parallel,
            previous_response_id: None,
            prompt_cache_key: echo.prompt_cache_key.as_deref(),
            reasoning: Effort { effort: echo.effort.as_deref(), summary: None },
            safety_identifier: echo.safety_identifier.as_deref(),
            service_tier: "default",
            store: false,
            temperature: echo.temperature,
            text: Text { format: TextFormat::of(&echo.format) },
            tool_choice: echo.tool_choice,
            tools: &echo.tools,
            top_logprobs: echo.top_logprobs,
            top_p: echo.top_p,
            truncation: "disabled",
            usage: reply.usage.map(Tokens::from),
            user: echo.user.as_deref(),
            metadata: &echo.metadata,
            system_fingerprint: &reply.served.fingerprint,
        }
    }
    /// The response as it was when it began.
    pub fn begun(reply: &Reply) -> Response<'_> {
        let (status, usage, error) = (Status::InProgress, None, None);
        Response { status, usage, error, incomplete_details: None, ..Response::of(reply, false) }
    }
}

#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "ResponseError")]
struct Failure {
    code: &'static str,
    message: String,
}

impl From<&ApiError> for Failure {
    fn from(error: &ApiError) -> Failure {
        let busy = error.status() == axum::http::StatusCode::TOO_MANY_REQUESTS;
        let code = if busy { "rate_limit_exceeded" } else { "server_error" };
        Failure { code, message: error.body().error.message }
    }
}

#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "ResponseIncomplete")]
struct Incomplete {
    reason: &'static str,
}

#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "ResponseReasoning")]
struct Effort<'a> {
    effort: Option<&'a str>,
    summary: Option<&'a str>,
}

#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "ResponseText")]
struct Text<'a> {
    format: TextFormat<'a>,
}

#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "ResponseTextFormat")]
struct TextFormat<'a> {
    #[serde(rename = "type")]
    kind: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    schema: Option<&'a Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    strict: Option<bool>,
}

impl TextFormat<'_> {
    fn of(asked: &Map<String, Value>) -> TextFormat<'_> {
        let text = |name: &str| asked.get(name).and_then(Value::as_str);
        TextFormat {
            kind: text("type").unwrap_or("text"),
            name: text("name"),
            schema: asked.get("schema"),
            strict: asked.get("strict").and_then(Value::as_bool),
        }
    }
}

/// Token counts.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "ResponseUsage")]
struct Tokens {
    input_tokens: usize,
    input_tokens_details: InputDetails,
    output_tokens: usize,
    output_tokens_details: OutputDetails,
    total_tokens: usize,
}

#[derive(Debug, Serialize, JsonSchema)]
struct InputDetails {
    /// Always 0: nothing is charged for keeping a prompt.
    cache_write_tokens: usize,
    cached_tokens: usize,
}

#[derive(Debug, Serialize, JsonSchema)]
struct OutputDetails {
    /// Not counted apart: always 0. They are among the `output_tokens`.
    reasoning_tokens: usize,
}

impl From<Usage> for Tokens {
    fn from(usage: Usage) -> Tokens {
        Tokens {
            input_tokens: usage.prompt_tokens,
            input_tokens_details: InputDetails {
                cache_write_tokens: 0,
                cached_tokens: usage.cached_tokens,
            },
            output_tokens: usage.completion_tokens,
            output_tokens_details: OutputDetails { reasoning_tokens: 0 },
            total_tokens: usage.prompt_tokens + usage.completion_tokens,
        }
    }
}
