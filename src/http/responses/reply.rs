//! A response while it grows: its output items, and which of its changes a stream has to tell.
//!
//! Pure. Whole answers and streams are made by the same steps, so both end with the same items.

use super::PREFIX;
use super::request::Echo;
use crate::http::error::ApiError;
use crate::http::parts::{Part, Parts};
use crate::http::wire::logprobs::ChatToken;
use crate::serving::{Finish, GatewayError, Piece, Served, TokenLogprob, Usage};
use crate::text::reply::{CallEnd, Look};
use schemars::JsonSchema;
use serde::Serialize;
use serde_json::{Map, Value};

/// What is known about an answer before it begins.
#[derive(Debug)]
pub struct About {
    /// The response's id.
    pub id: String,
    /// Seconds since 1970.
    pub created: u64,
    /// The model's name as the client wrote it.
    pub model: String,
    /// What the reply is parsed for.
    pub look: Look,
    /// Whether tool calls after the first one are left out.
    pub one_call: bool,
    /// Whether log-probabilities are reported.
    pub logprobs: bool,
    /// What the answer repeats of the request.
    pub echo: Echo,
}

/// How far a response or an item is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, JsonSchema)]
#[schemars(rename = "ResponseStatus")]
#[serde(rename_all = "snake_case")]
pub enum Status {
    InProgress,
    Completed,
    Incomplete,
    Failed,
}

/// An item of the output.
#[derive(Debug, Clone, Serialize, JsonSchema)]
#[schemars(rename = "ResponseItem")]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum Item {
    /// What the model thought.
    Reasoning { id: String, summary: Vec<Content>, content: Vec<Content>, status: Status },
    /// What the model said.
    Message { id: String, status: Status, role: &'static str, content: Vec<Content> },
    /// A call of one of the client's functions.
    FunctionCall { id: String, call_id: String, name: String, arguments: String, status: Status },
}

/// A part of an item's content.
#[derive(Debug, Clone, Serialize, JsonSchema)]
#[schemars(rename = "ResponseContent")]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum Content {
    /// Text for the reader. There are never annotations.
    OutputText { text: String, annotations: Vec<Content>, logprobs: Vec<ChatToken> },
    /// Text of the model's reasoning.
    ReasoningText { text: String },
}

impl Content {
    fn text_mut(&mut self) -> &mut String {
        match self {
            Content::OutputText { text, .. } | Content::ReasoningText { text } => text,
        }
    }

    /// The text.
    pub fn text(&self) -> &str {
        match self {
            Content::OutputText { text, .. } | Content::ReasoningText { text } => text,
        }
    }

    /// The same without text, as when it begins.
    pub fn empty(&self) -> Content {
        match self {
            Content::OutputText { .. } => Content::output(),
            Content::ReasoningText { .. } => Content::ReasoningText { text: String::new() },
        }
    }

    fn output() -> Content {
        Content::OutputText { text: String::new(), annotations: Vec::new(), logprobs: Vec::new() }
    }
}

impl Item {
    /// The item's id.
    pub fn id(&self) -> &str {
        match self {
            Item::Reasoning { id, .. } | Item::Message { id, .. } => id,
            Item::FunctionCall { id, .. } => id,
        }
    }

    fn status_mut(&mut self) -> &mut Status {
        match self {
            Item::Reasoning { status, .. } | Item::Message { status, .. } => status,
            Item::FunctionCall { status, .. } => status,
        }
    }

    /// Its one part; a call has none.
    pub fn content(&self) -> Option<&Content> {
        match self {
            Item::Reasoning { content, .. } | Item::Message { content, .. } => content.first(),
            Item::FunctionCall { .. } => None,
        }
    }

    fn content_mut(&mut self) -> Option<&mut Content> {
        match self {
            Item::Reasoning { content, .. } | Item::Message { content, .. } => content.first_mut(),
            Item::FunctionCall { .. } => None,
        }
    }

    /// The same without content, as when it begins.
    pub fn empty(&self) -> Item {
        let mut item = self.clone();
        *item.status_mut() = Status::InProgress;
        match &mut item {
            Item::Reasoning { content, .. } | Item::Message { content, .. } => content.clear(),
            Item::FunctionCall { arguments, .. } => arguments.clear(),
        }
        item
    }
}

/// A change that a stream tells; the number is the item's place in the output.
#[derive(Debug)]
pub enum Change {
    Created,
    Added(usize),
    Text(usize, String, Vec<ChatToken>),
    Arguments(usize, String),
    Finished(usize),
    Ended,
    Failed,
}

/// The answer so far.
#[derive(Debug)]
pub struct Reply {
    about: About,
    served: Served,
    parts: Parts,
    items: Vec<Item>,
    /// Whether the last item may grow.
    open: bool,
    finish: Option<Finish>,
    usage: Option<Usage>,
    failed: Option<ApiError>,
}

impl Reply {
    /// Begins an answer; `routed` says who is expected to give it.
    pub fn new(about: About, routed: Served) -> Reply {
        let parts = Parts::new(1, about.look.clone(), about.one_call);
        let (finish, usage, failed) = (None, None, None);
        Reply {
            about,
            served: routed,
            parts,
            items: Vec::new(),
            open: false,
            finish,
            usage,
            failed,
        }
    }

    /// Who answers, as far as is known.
    pub fn served(&self) -> &Served {
        &self.served
    }

    /// The items so far.
    pub fn items(&self) -> &[Item] {
        &self.items
    }

    /// Processes the next piece and returns what has changed, in order.
    pub fn take(&mut self, piece: Piece) -> Vec<Change> {
        let mut changes = Vec::new();
        for part in self.parts.of(piece) {
            self.part(part, &mut changes);
        }
        changes
    }

    fn part(&mut self, part: Part, changes: &mut Vec<Change>) {
        match part {
            Part::Start(served, _) => {
                self.served = served;
                changes.push(Change::Created);
            }
            // Nothing that these requests can ask for.
            Part::Echo { .. } | Part::Count { .. } => {}
            Part::Text { text, tokens, .. } => self.text(text, tokens, changes),
            Part::Reasoning { text, .. } => {
                if !(self.open && matches!(self.items.last(), Some(Item::Reasoning { .. }))) {
                    let id = self.id("rs_", self.items.len());
                    let content = vec![Content::ReasoningText { text: String::new() }];
                    let (summary, status) = (Vec::new(), Status::InProgress);
                    self.begin(Item::Reasoning { id, summary, content, status }, changes);
                }
                self.grow(text, Vec::new(), changes);
            }
            Part::CallBegin { call, name, .. } => {
                let (id, call_id) = (self.id("fc_", self.items.len()), self.id("call_", call));
                let (arguments, status) = (String::new(), Status::InProgress);
                let call = Item::FunctionCall { id, call_id, name, arguments, status };
                self.begin(call, changes);
            }
            Part::CallArguments { delta, .. } => {
                if let Some(Item::FunctionCall { arguments, .. }) = self.items.last_mut() {
                    arguments.push_str(&delta);
                    changes.push(Change::Arguments(self.items.len() - 1, delta));
                }
            }
            Part::CallEnd { end, .. } => self.finish_item(
                match end {
                    CallEnd::Whole => Status::Completed,
                    CallEnd::Cut(_) | CallEnd::Broken(_) => Status::Incomplete,
                },
                changes,
            ),
            Part::End { finish, .. } => self.end(finish, changes),
            Part::Done(usage) => {
                self.usage = Some(usage);
                changes.push(Change::Ended);
            }
            Part::Failed(error) => self.fail(&error, changes),
        }
    }

    fn text(&mut self, text: String, tokens: Vec<TokenLogprob>, changes: &mut Vec<Change>) {
        if !(self.open && matches!(self.items.last(), Some(Item::Message { .. }))) {
            if text.is_empty() {
                return;
            }
            self.begin_message(changes);
        }
        let tokens = tokens.into_iter().filter(|_| self.about.logprobs);
        self.grow(text, tokens.map(ChatToken::from).collect(), changes);
    }

    fn begin_message(&mut self, changes: &mut Vec<Change>) {
        let (id, status) = (self.id("msg_", self.items.len()), Status::InProgress);
        let content = vec![Content::output()];
        self.begin(Item::Message { id, status, role: "assistant", content }, changes);
    }

    fn begin(&mut self, item: Item, changes: &mut Vec<Change>) {
        self.finish_item(Status::Completed, changes);
        self.items.push(item);
        self.open = true;
        changes.push(Change::Added(self.items.len() - 1));
    }

    /// Adds to the last item's text.
    fn grow(&mut self, more: String, tokens: Vec<ChatToken>, changes: &mut Vec<Change>) {
        let at = self.items.len().saturating_sub(1);
        let Some(content) = self.items.last_mut().and_then(Item::content_mut) else { return };
        content.text_mut().push_str(&more);
        if let Content::OutputText { logprobs, .. } = content {
            logprobs.extend(tokens.iter().cloned());
        }
        changes.push(Change::Text(at, more, tokens));
    }

    fn finish_item(&mut self, as_what: Status, changes: &mut Vec<Change>) {
        if !std::mem::replace(&mut self.open, false) {
            return;
        }
        if let Some(item) = self.items.last_mut() {
            *item.status_mut() = as_what;
            changes.push(Change::Finished(self.items.len() - 1));
        }
    }

    fn end(&mut self, finish: Finish, changes: &mut Vec<Change>) {
        if self.items.is_empty() {
            // A reply without a word is an empty message: clients read the first one.
            self.begin_message(changes);
        }
        self.finish = Some(finish);
        let cut = finish == Finish::Length;
        self.finish_item(if cut { Status::Incomplete } else { Status::Completed }, changes);
    }

    fn fail(&mut self, error: &GatewayError, changes: &mut Vec<Change>) {
        changes.push(self.failure(ApiError::gateway(error, super::ENDPOINT.prompt)));
    }

    /// The answer ends with an error.
    pub fn failure(&mut self, error: ApiError) -> Change {
        self.failed = Some(error);
        Change::Failed
    }

    /// An id that starts with `prefix`, of this response's `n`-th thing of its kind.
    fn id(&self, prefix: &str, n: usize) -> String {
        let stem = self.about.id.strip_prefix(PREFIX).unwrap_or(&self.about.id);
        format!("{prefix}{stem}{n:02x}")
    }

    fn status(&self) -> Status {
        match (&self.failed, self.usage, self.finish) {
            (Some(_), _, _) => Status::Failed,
            (None, None, _) => Status::InProgress,
            (None, Some(_), Some(Finish::Length)) => Status::Incomplete,
            (None, Some(_), _) => Status::Completed,
        }
    }

    /// The response as it is now; `output`: with its items.
    pub fn response(&self, output: bool) -> Response<'_> {
        let (about, echo, status) = (&self.about, &self.about.echo, self.status());
        let error = self.failed.as_ref().map(Failure::from);
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
            output: if output { &self.items } else { &[] },
            parallel_tool_calls: echo.parallel,
            previous_response_id: None,
            prompt_cache_key: echo.prompt_cache_key.as_deref(),
            reasoning: Effort { effort: echo.effort.as_deref(), summary: None },
            safety_identifier: echo.safety_identifier.as_deref(),
            service_tier: "default",
            store: false,
            temperature: echo.temperature,
            text: Text { format: TextFormat { kind: "text" } },
            tool_choice: echo.tool_choice,
            tools: &echo.tools,
            top_logprobs: echo.top_logprobs,
            top_p: echo.top_p,
            truncation: echo.truncation,
            usage: self.usage.map(Tokens::from),
            user: echo.user.as_deref(),
            metadata: &echo.metadata,
            system_fingerprint: &self.served.fingerprint,
        }
    }
}

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
    text: Text,
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
    /// Whether the reply was cut.
    pub fn is_incomplete(&self) -> bool {
        self.status == Status::Incomplete
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
struct Text {
    format: TextFormat,
}

#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "ResponseTextFormat")]
struct TextFormat {
    #[serde(rename = "type")]
    kind: &'static str,
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
