//! A chat template in the template engine: renders a canonical conversation to a prompt, byte for byte as
//! Python's transformers does.
//!
//! Templates are programs that come with model weights. Work is limited by fuel, nesting depth and output
//! size. The limits have room for the largest allowed conversation, so exceeding one is the template's fault
//! and never the client's. They protect against accidents, not against malice: the engine uses no fuel for a list that
//! is added to itself dozens of times, and does not limit how deeply lists are nested. To protect against that, a
//! server runs its templates in a subprocess (see `apart`).
//!
//! One difference from Python is known: outside `tojson`, floats that Python writes with an exponent are
//! written differently.
//!
//! It does not know about tokens or the time: `strftime_now` exists only in jobs that include a time; without
//! it, templates use their own fixed date.

use super::{TextError, date, json};
use minijinja::syntax::SyntaxConfig;
use minijinja::value::ValueKind;
use minijinja::{Environment, Error, ErrorKind, Value};
use serde::{Deserialize, Serialize};
use serde_json::Map;
use std::borrow::Cow;
use std::io;
use std::path::Path;
use std::time::{Duration, SystemTime};

/// Work allowed per rendering. An ordinary template uses a few hundred units per message.
pub(super) const FUEL: u64 = 2_000_000;
/// Nested calls, loops and conditions. Ordinary templates stay below thirty.
const MAX_DEPTH: usize = 200;
/// Maximum output of one rendering, in bytes.
const MAX_OUTPUT: usize = 32 << 20;
const DEFAULT: &str = "chat_template";
const WITH_TOOLS: &str = "chat_template (tool_use)";

/// A template's text and the constants that every conversation gets.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Program {
    pub(super) text: String,
    /// The variant for requests with tools, if the model has one.
    pub(super) with_tools: Option<String>,
    /// The named special tokens.
    pub(super) special: Vec<(String, String)>,
    pub(super) fuel: u64,
}

/// One rendering: a conversation in canonical form, as plain values.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Job {
    pub(super) messages: Vec<serde_json::Value>,
    /// `None` or a non-empty list.
    pub(super) tools: Option<serde_json::Value>,
    pub(super) add_generation_prompt: bool,
    pub(super) extra: Map<String, serde_json::Value>,
    /// Seconds since 1970 in UTC, for `strftime_now`; without it, the template does not have that function.
    pub(super) today: Option<u64>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) enum Stop {
    /// It does not parse.
    Syntax { line: usize, what: String },
    /// It rejected the conversation by `raise_exception`.
    Refused(String),
    /// It failed.
    Failed { line: usize, what: String },
    /// It exceeded a limit.
    Exhausted(String),
    /// There was no process to run it in; not the template's fault.
    NoRoom(String),
}

impl Stop {
    /// As an error of the template in `path`.
    pub(super) fn of(self, path: &Path) -> TextError {
        match self {
            Stop::Syntax { line, what } => {
                TextError::TemplateSyntax { path: path.into(), line, what }
            }
            Stop::Refused(what) => TextError::TemplateRefused(what),
            Stop::Failed { line, what } => TextError::TemplateFailed { line, what },
            Stop::Exhausted(what) => TextError::TemplateExhausted { what },
            Stop::NoRoom(what) => TextError::NoRenderer { what },
        }
    }
}

pub(super) struct ChatTemplate {
    environment: Environment<'static>,
    special: Vec<(String, Value)>,
    has_tool_variant: bool,
}

/// The message of `raise_exception`, carried through the engine's own error.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct Refusal(String);

impl ChatTemplate {
    pub(super) fn compile(program: &Program) -> Result<Self, Stop> {
        let mut environment = environment().map_err(|e| failure(&e))?;
        environment.set_fuel(Some(program.fuel));
        let special = program.special.iter();
        let mut template = Self {
            environment,
            special: special
                .map(|(name, token)| (name.clone(), Value::from(token.as_str())))
                .collect(),
            has_tool_variant: program.with_tools.is_some(),
        };
        template.add(DEFAULT, &program.text)?;
        if let Some(text) = &program.with_tools {
            template.add(WITH_TOOLS, text)?;
        }
        Ok(template)
    }

    fn add(&mut self, name: &'static str, text: &str) -> Result<(), Stop> {
        let text = without_generation_tags(text).into_owned();
        self.environment
            .add_template_owned(name, text)
            .map_err(|e| Stop::Syntax { line: e.line().unwrap_or(1), what: describe(&e) })
    }

    pub(super) fn render(&self, job: &Job) -> Result<String, Stop> {
        let with_tools = job.tools.is_some() && self.has_tool_variant;
        let name = if with_tools { WITH_TOOLS } else { DEFAULT };
        let mut out = Bounded { bytes: Vec::new(), overflown: false };
        let template = self.environment.get_template(name).map_err(|e| failure(&e))?;
        match template.render_captured_to(self.context(job), &mut out) {
            _ if out.overflown => Err(Stop::Exhausted("it wrote more than 32 MiB".into())),
            Err(e) => Err(failure(&e)),
            Ok(_) => String::from_utf8(out.bytes)
                .map_err(|e| Stop::Failed { line: 0, what: e.to_string() }),
        }
    }

    fn context(&self, job: &Job) -> Value {
        let mut context: Vec<(&str, Value)> = vec![("documents", Value::from(()))];
        context.extend(self.special.iter().map(|(name, token)| (name.as_str(), token.clone())));
        context.extend(
            job.extra.iter().map(|(name, value)| (name.as_str(), json::to_template(value))),
        );
        let messages: Value = job.messages.iter().map(json::to_template).collect();
        context.push(("messages", messages));
        let tools = job.tools.as_ref().map_or(Value::from(()), json::to_template);
        context.push(("tools", tools));
        context.push(("add_generation_prompt", job.add_generation_prompt.into()));
        if let Some(today) = job.today {
            let now = SystemTime::UNIX_EPOCH + Duration::from_secs(today);
            let strftime = move |format: String| date::strftime(&format, now);
            context.push(("strftime_now", Value::from_function(strftime)));
        }
        Value::from_pairs(context)
    }
}

/// The engine, configured as in transformers.
fn environment() -> Result<Environment<'static>, Error> {
    let mut environment = Environment::new();
    let syntax = SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build()?;
    environment.set_syntax(syntax);
    environment.set_auto_escape_callback(|_| minijinja::AutoEscape::None);
    environment.set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
    environment.set_recursion_limit(MAX_DEPTH);
    environment.add_filter("tojson", json::tojson);
    // The engine treats `none` as iterable, so templates would loop over tools that are not there.
    environment.add_test("iterable", |value: &Value| {
        !matches!(value.kind(), ValueKind::None) && value.try_iter().is_ok()
    });
    environment.add_function("raise_exception", |what: String| -> Result<Value, Error> {
        Err(Error::new(ErrorKind::InvalidOperation, "raise_exception").with_source(Refusal(what)))
    });
    Ok(environment)
}

/// Replaces `{% generation %}` blocks, which mark the assistant's text for training, by blocks that are
/// always rendered; line numbers do not change.
fn without_generation_tags(source: &str) -> Cow<'_, str> {
    if !source.contains("generation") {
        return Cow::Borrowed(source);
    }
    let mut out = String::with_capacity(source.len() + 32);
    let mut rest = source;
    while let Some(open) = rest.find("{%") {
        let (before, tag) = rest.split_at(open + 2);
        let Some(close) = tag.find("%}") else { break };
        let (inner, after) = tag.split_at(close);
        let word = inner.trim_matches(|c: char| c.is_whitespace() || c == '-' || c == '+');
        out.push_str(before);
        match word {
            "generation" => out.push_str(&inner.replacen(word, "if true", 1)),
            "endgeneration" => out.push_str(&inner.replacen(word, "endif", 1)),
            _ => out.push_str(inner),
        }
        rest = after;
    }
    out.push_str(rest);
    Cow::Owned(out)
}

/// Classifies an engine error by its cause.
fn failure(error: &Error) -> Stop {
    let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(error);
    while let Some(e) = cause {
        if let Some(Refusal(what)) = e.downcast_ref() {
            return Stop::Refused(what.clone());
        }
        if e.downcast_ref::<Error>().is_some_and(|e| e.kind() == ErrorKind::OutOfFuel) {
            return Stop::Exhausted("it did more work than any conversation needs".into());
        }
        cause = e.source();
    }
    Stop::Failed { line: error.line().unwrap_or(0), what: describe(error) }
}

/// An engine error without its source listing.
fn describe(error: &Error) -> String {
    let kind = error.kind().to_string();
    error.detail().map_or_else(|| kind.clone(), |detail| format!("{kind}: {detail}"))
}

/// A buffer that does not grow beyond [`MAX_OUTPUT`].
struct Bounded {
    bytes: Vec<u8>,
    overflown: bool,
}

impl io::Write for &mut Bounded {
    fn write(&mut self, more: &[u8]) -> io::Result<usize> {
        if self.bytes.len() + more.len() > MAX_OUTPUT {
            self.overflown = true;
            return Err(io::ErrorKind::FileTooLarge.into());
        }
        self.bytes.extend_from_slice(more);
        Ok(more.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests;
