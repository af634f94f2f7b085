//! A model's chat template: a conversation becomes a prompt, byte for byte as Python's transformers
//! renders it.
//!
//! Templates are programs that come with model weights, so they are compiled and tried once at load
//! (a broken one is found before traffic) and bounded at run: work by fuel, depth, and size of the
//! output. The bounds on the conversation are checked first, and the bounds on the template leave
//! room for the largest conversation, so that running into one of those is the template's doing and
//! never the client's. The bounds hold off accidents and the usual bombs, not every malice: the engine
//! neither charges fuel for a list that is added to itself dozens of times nor bounds how deep lists
//! are nested in lists, so a template remains code that must be trusted as far as its weights are.
//!
//! Two differences to Python are known: outside of `tojson`, floats that Python writes with an exponent
//! are written another way; and `%` does not format strings, which a template finds out at load.
//!
//! It does not know tokens, nor the time: `strftime_now` exists only in requests that bring a time,
//! and templates fall back to their own fixed date without it.

use super::folder::TemplateSource;
use super::message::Knows;
use super::{TextError, date, json, message};
use minijinja::syntax::SyntaxConfig;
use minijinja::{Environment, Error, ErrorKind, Value};
use serde_json::Map;
use std::borrow::Cow;
use std::io;
use std::time::SystemTime;

/// Work that one rendering may do. An honest template spends a few hundred units on a message.
const FUEL: u64 = 2_000_000;
/// Nested calls, loops and conditions. Honest templates stay below thirty.
const MAX_DEPTH: usize = 200;
/// Bytes that one rendering may write.
const MAX_OUTPUT: usize = 32 << 20;
/// Bytes that a conversation may hold, tools and extra variables included.
const MAX_INPUT: usize = 8 << 20;
/// Messages that a conversation may hold.
const MAX_MESSAGES: usize = 8192;
const DEFAULT: &str = "chat_template";
const WITH_TOOLS: &str = "chat_template (tool_use)";
/// Names that `extra` may not take.
const RESERVED: [&str; 5] =
    ["messages", "tools", "add_generation_prompt", "raise_exception", "strftime_now"];

/// A conversation to be rendered.
#[derive(Debug, Clone, Copy, Default)]
pub struct Chat<'a> {
    /// The messages, as the client sent them.
    pub messages: &'a [serde_json::Value],
    /// The list of tools, as the client sent it.
    pub tools: Option<&'a serde_json::Value>,
    /// Whether to end with the opening of the assistant's turn.
    pub add_generation_prompt: bool,
    /// More variables for the template (`chat_template_kwargs`).
    pub extra: Option<&'a Map<String, serde_json::Value>>,
    /// The time for `strftime_now`, read as UTC; without it, the template does not have that function.
    pub today: Option<SystemTime>,
}

/// A compiled chat template.
pub(super) struct ChatTemplate {
    environment: Environment<'static>,
    special: Vec<(String, Value)>,
    has_tool_variant: bool,
    knows: Knows,
}

/// What a template said through `raise_exception`, carried through the engine's own error.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct Refusal(String);

impl ChatTemplate {
    /// Compiles a template and tries it on one user message. `special` are the named special tokens.
    pub(super) fn new(
        source: TemplateSource,
        special: &[(String, String)],
    ) -> Result<Self, TextError> {
        let unusable = |e: Error| TextError::TemplateUnusable {
            path: source.path.clone(),
            what: describe(&e),
        };
        Self::compile(environment().map_err(unusable)?, source, special)
    }

    fn compile(
        environment: Environment<'static>,
        source: TemplateSource,
        special: &[(String, String)],
    ) -> Result<Self, TextError> {
        let knows = Knows::of(&source.text);
        let mut template = Self {
            environment,
            special: special
                .iter()
                .map(|(name, token)| (name.clone(), Value::from(token.as_str())))
                .collect(),
            has_tool_variant: source.with_tools.is_some(),
            knows,
        };
        template.add(DEFAULT, &source, &source.text)?;
        if let Some(text) = &source.with_tools {
            template.add(WITH_TOOLS, &source, text)?;
        }
        template.try_once(source)?;
        Ok(template)
    }

    fn add(
        &mut self,
        name: &'static str,
        source: &TemplateSource,
        text: &str,
    ) -> Result<(), TextError> {
        let text = without_generation_tags(text).into_owned();
        self.environment.add_template_owned(name, text).map_err(|e| TextError::TemplateSyntax {
            path: source.path.clone(),
            line: e.line().unwrap_or(1),
            what: describe(&e),
        })
    }

    /// A template may refuse the trial conversation, but must not fail on it.
    fn try_once(&self, source: TemplateSource) -> Result<(), TextError> {
        let messages = [serde_json::json!({"role": "user", "content": "Hello"})];
        let chat = Chat {
            messages: &messages,
            add_generation_prompt: true,
            today: Some(SystemTime::UNIX_EPOCH),
            ..Chat::default()
        };
        match self.render(&chat) {
            Ok(_) => Ok(()),
            Err(e) if e.is_client_fault() => Ok(()),
            Err(e) => Err(TextError::TemplateUnusable { path: source.path, what: e.to_string() }),
        }
    }

    /// Renders a conversation.
    pub(super) fn render(&self, chat: &Chat<'_>) -> Result<String, TextError> {
        check(chat)?;
        let tools =
            chat.tools.filter(|tools| tools.as_array().is_some_and(|list| !list.is_empty()));
        let name = if tools.is_some() && self.has_tool_variant { WITH_TOOLS } else { DEFAULT };
        let context = self.context(chat, tools)?;
        let mut out = Bounded { bytes: Vec::new(), overflown: false };
        let template = self.environment.get_template(name).map_err(|e| failure(&e))?;
        match template.render_captured_to(context, &mut out) {
            _ if out.overflown => {
                Err(TextError::TemplateExhausted { what: "it wrote more than 32 MiB" })
            }
            Err(e) => Err(failure(&e)),
            Ok(_) => String::from_utf8(out.bytes)
                .map_err(|e| TextError::TemplateFailed { line: 0, what: e.to_string() }),
        }
    }

    fn context(
        &self,
        chat: &Chat<'_>,
        tools: Option<&serde_json::Value>,
    ) -> Result<Value, TextError> {
        let messages = chat.messages.iter().enumerate();
        let messages = messages
            .map(|(i, m)| message::normalise(i, m, self.knows).map(|m| json::to_template(&m)));
        let messages = messages.collect::<Result<Value, TextError>>()?;
        let mut context: Vec<(&str, Value)> = vec![("documents", Value::from(()))];
        context.extend(self.special.iter().map(|(name, token)| (name.as_str(), token.clone())));
        context.extend(
            chat.extra
                .into_iter()
                .flatten()
                .map(|(name, value)| (name.as_str(), json::to_template(value))),
        );
        context.push(("messages", messages));
        context.push(("tools", tools.map_or_else(|| Value::from(()), json::to_template)));
        context.push(("add_generation_prompt", Value::from(chat.add_generation_prompt)));
        if let Some(now) = chat.today {
            let strftime = move |format: &str| date::strftime(format, now);
            context.push(("strftime_now", Value::from_function(strftime)));
        }
        Ok(Value::from_pairs(context))
    }
}

/// Compiles a template, tries it as a load does, and renders one conversation: for checks from outside,
/// which have no model folder. `fuel` bounds the work, as it is bounded in service by a constant.
#[doc(hidden)]
pub fn render_once(template: &str, chat: &Chat<'_>, fuel: u64) -> Result<String, TextError> {
    let path = "chat_template.jinja".into();
    let source = TemplateSource { path, text: template.to_owned(), with_tools: None };
    let special = [("bos_token", "<s>"), ("eos_token", "</s>")];
    let special = special.map(|(name, token)| (name.to_owned(), token.to_owned()));
    let mut environment = environment().map_err(|e| failure(&e))?;
    environment.set_fuel(Some(fuel));
    ChatTemplate::compile(environment, source, &special)?.render(chat)
}

/// The engine, set up as transformers sets up its own.
fn environment() -> Result<Environment<'static>, Error> {
    let mut environment = Environment::new();
    let syntax = SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build()?;
    environment.set_syntax(syntax);
    environment.set_auto_escape_callback(|_| minijinja::AutoEscape::None);
    environment.set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
    environment.set_fuel(Some(FUEL));
    environment.set_recursion_limit(MAX_DEPTH);
    environment.add_filter("tojson", json::tojson);
    environment.add_function("raise_exception", |what: String| -> Result<Value, Error> {
        Err(Error::new(ErrorKind::InvalidOperation, "raise_exception").with_source(Refusal(what)))
    });
    Ok(environment)
}

/// Bounds on what the client sent, and shapes that never make sense.
fn check(chat: &Chat<'_>) -> Result<(), TextError> {
    let bad = |what: String| Err(TextError::BadChat { what });
    if chat.messages.is_empty() {
        return bad("messages must not be empty".into());
    }
    if chat.messages.len() > MAX_MESSAGES {
        return bad(format!(
            "{} messages are more than the {MAX_MESSAGES} allowed",
            chat.messages.len()
        ));
    }
    if let Some(tools) = chat.tools
        && !tools.is_array()
        && !tools.is_null()
    {
        return bad(format!("tools must be a list, this is {}", message::kind(tools)));
    }
    let extra = chat.extra.into_iter().flatten();
    if let Some((name, _)) = extra.clone().find(|(name, _)| RESERVED.contains(&name.as_str())) {
        return bad(format!("chat_template_kwargs may not set {name}"));
    }
    let size = chat
        .messages
        .iter()
        .chain(chat.tools)
        .chain(extra.map(|(_, value)| value))
        .map(size)
        .sum::<usize>();
    if size > MAX_INPUT {
        return bad(format!("the conversation holds more than {} MiB", MAX_INPUT >> 20));
    }
    Ok(())
}

/// About how many bytes of JSON a value is.
fn size(value: &serde_json::Value) -> usize {
    match value {
        serde_json::Value::String(text) => text.len() + 2,
        serde_json::Value::Array(list) => list.iter().map(|item| size(item) + 2).sum::<usize>() + 2,
        serde_json::Value::Object(map) => {
            map.iter().map(|(key, item)| key.len() + size(item) + 6).sum::<usize>() + 2
        }
        _ => 5,
    }
}

/// Replaces `{% generation %}` blocks, which mark the assistant's words for training, by blocks that
/// always render; lines stay where they are.
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

/// Sorts an engine error by whose doing it is.
fn failure(error: &Error) -> TextError {
    let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(error);
    while let Some(e) = cause {
        if let Some(Refusal(what)) = e.downcast_ref() {
            return TextError::TemplateRefused(what.clone());
        }
        if e.downcast_ref::<Error>().is_some_and(|e| e.kind() == ErrorKind::OutOfFuel) {
            return TextError::TemplateExhausted {
                what: "it did more work than any conversation needs",
            };
        }
        cause = e.source();
    }
    TextError::TemplateFailed { line: error.line().unwrap_or(0), what: describe(error) }
}

/// An engine error without its source listing.
fn describe(error: &Error) -> String {
    let kind = error.kind().to_string();
    error.detail().map_or_else(|| kind.clone(), |detail| format!("{kind}: {detail}"))
}

/// A buffer that refuses to grow beyond [`MAX_OUTPUT`].
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
