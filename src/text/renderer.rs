//! A version's chat template as the rest of the server uses it: conversation in, prompt out.
//!
//! It combines four things: the canonical form of a conversation, what this template wants and supports,
//! where it runs, and who is at fault if there is no result. If the template does not support a
//! conversation's shape, the request is at fault, and the error names the message and the shape. If it
//! supports the shape but fails, the model is at fault.

use super::TextError;
use super::abilities::{self, Abilities, Outcome, Shape};
use super::apart::{Apart, Cancellable};
use super::conversation::{Chat, Ending, canonical, cut_at_end};
use super::folder::TemplateSource;
use super::message::Wants;
use super::reply::CallSyntax;
use super::template::{ChatTemplate, FUEL, Job, Program, Stop};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Where templates run.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Templates {
    /// In this process, which a hostile template can crash; for tests and tools.
    #[default]
    Here,
    /// In subprocesses started from this program, which must be `serin`.
    Apart(&'static Path),
}

pub(super) struct Renderer {
    path: PathBuf,
    place: Place,
    wants: Wants,
    abilities: Abilities,
    calls: Arc<CallSyntax>,
}

enum Place {
    Here(Box<ChatTemplate>),
    Apart(Apart),
}

impl Place {
    fn render(&self, jobs: &[Job], cancel: Option<&Cancellable>) -> Vec<Result<String, Stop>> {
        let template = match self {
            Place::Here(template) => template,
            Place::Apart(apart) => return apart.render(jobs, cancel),
        };
        let mut results = Vec::with_capacity(jobs.len());
        for job in jobs {
            results.push(template.render(job));
            if matches!(results.last(), Some(Err(Stop::Exhausted(_)))) {
                break;
            }
        }
        results
    }

    fn render_one(&self, job: Job) -> Result<String, Stop> {
        let result = self.render(&[job], None).pop();
        result.unwrap_or_else(|| Err(Stop::NoRoom("nothing was rendered".into())))
    }
}

impl Renderer {
    /// Compiles a template and tries it on every shape. `special` are the named special tokens.
    pub(super) fn new(
        source: TemplateSource,
        special: &[(String, String)],
        templates: Templates,
        cancel: Option<&Cancellable>,
    ) -> Result<Self, TextError> {
        let TemplateSource { path, text, with_tools } = source;
        let program = Program { text, with_tools, special: special.to_vec(), fuel: FUEL };
        Self::of(path, program, templates, cancel)
    }

    fn of(
        path: PathBuf,
        program: Program,
        templates: Templates,
        cancel: Option<&Cancellable>,
    ) -> Result<Self, TextError> {
        let place = match templates {
            Templates::Here => ChatTemplate::compile(&program).map(Box::new).map(Place::Here),
            Templates::Apart(serin) => Apart::new(serin, &program).map(Place::Apart),
        };
        let place = place.map_err(|stop| stop.of(&path))?;
        let both = program.text + program.with_tools.as_deref().unwrap_or_default();
        let probed = abilities::probe(&both, &mut |jobs| place.render(jobs, cancel));
        let (wants, abilities) = probed.map_err(|stop| match stop {
            Stop::Exhausted(what) => TextError::TemplateUnusable { path: path.clone(), what },
            other => other.of(&path),
        })?;
        // A template may reject a single user message, but must not fail on it.
        if let Outcome::Failed(what) = abilities.of(Shape::User) {
            let what = format!("cannot render a single user message: {what}");
            return Err(TextError::TemplateUnusable { path, what });
        }
        let render = &mut |jobs: &[Job]| place.render(jobs, cancel);
        let calls = Arc::new(abilities::call_syntax(&both, wants, render));
        Ok(Self { path, place, wants, abilities, calls })
    }

    pub(super) fn abilities(&self) -> &Abilities {
        &self.abilities
    }

    pub(super) fn calls(&self) -> &Arc<CallSyntax> {
        &self.calls
    }

    /// The canonical form of a conversation for this template.
    pub(super) fn canonical(&self, chat: &Chat<'_>) -> Result<Job, TextError> {
        canonical(chat, self.wants)
    }

    /// Renders `job`, the canonical form of `chat`.
    pub(super) fn render(&self, chat: &Chat<'_>, job: Job) -> Result<String, TextError> {
        let mut text = self.place.render_one(job).map_err(|stop| self.blame(chat, stop))?;
        if chat.ending == Ending::Continue {
            let end = cut_at_end(&text).map(str::len);
            let missing = || self.untaken(chat.messages.len().checked_sub(1), Shape::Continued, "");
            text.truncate(end.ok_or_else(missing)?);
        }
        Ok(text)
    }

    fn blame(&self, chat: &Chat<'_>, stop: Stop) -> TextError {
        if !matches!(stop, Stop::Refused(_) | Stop::Failed { .. }) {
            return stop.of(&self.path);
        }
        if let Some((index, shape, why)) = self.abilities.obstacle(chat) {
            let said = match &stop {
                Stop::Refused(said) => said,
                _ => why,
            };
            return self.untaken(index, shape, said);
        }
        match (stop, self.unnamed_shape(chat)) {
            (Stop::Failed { what: why, .. }, Some(what)) => {
                TextError::Untaken { place: String::new(), what: what.into(), why }
            }
            (stop, _) => stop.of(&self.path),
        }
    }

    fn untaken(&self, index: Option<usize>, shape: Shape, why: &str) -> TextError {
        TextError::Untaken {
            place: index.map_or(String::new(), |index| format!("messages[{index}]: ")),
            what: shape.words().into(),
            why: why.into(),
        }
    }

    /// What the template fails on regardless of the messages' text: either the client's tools, which are
    /// schemas, or the sequence of roles.
    fn unnamed_shape(&self, chat: &Chat<'_>) -> Option<&'static str> {
        let messages: Vec<Value> = chat.messages.iter().map(neutral).collect();
        let fails = |tools| {
            let plain = Chat { messages: &messages, tools, extra: None, ..*chat };
            let job = canonical(&plain, self.wants);
            job.is_ok_and(|job| matches!(self.place.render_one(job), Err(Stop::Failed { .. })))
        };
        if fails(None) {
            return Some("a conversation of this shape");
        }
        (chat.tools.is_some() && fails(chat.tools)).then_some("these tools")
    }
}

/// A message of the same shape without its text.
fn neutral(message: &Value) -> Value {
    let word = |value: &Value| match value {
        Value::String(text) if !text.is_empty() => "word",
        Value::Array(parts) if !parts.is_empty() => "word",
        _ => "",
    };
    let mut plain = json!({"role": message["role"], "content": word(&message["content"])});
    if let Some(calls) = message["tool_calls"].as_array().filter(|calls| !calls.is_empty()) {
        let call = json!({"type": "function", "function": {"name": "f", "arguments": {}}});
        plain["tool_calls"] = calls.iter().map(|_| call.clone()).collect();
    }
    plain
}

/// A template tried as at load, for external checks without a model folder.
#[doc(hidden)]
pub struct Tried(Renderer);

impl Tried {
    /// Tries a template. `special` are the named special tokens, name and text; `fuel` limits the work, about one unit
    /// per instruction of the template; it is a constant in production. Fails if the template does not parse.
    pub fn new(
        template: &str,
        special: &[(String, String)],
        fuel: u64,
        templates: Templates,
    ) -> Result<Tried, TextError> {
        let (text, special) = (template.to_owned(), special.to_vec());
        let program = Program { text, with_tools: None, special, fuel };
        Renderer::of("chat_template.jinja".into(), program, templates, None).map(Tried)
    }

    /// What the template can do, as found out by trying it.
    pub fn abilities(&self) -> &Abilities {
        self.0.abilities()
    }

    /// How it writes tool calls.
    pub fn calls(&self) -> &CallSyntax {
        &self.0.calls
    }

    /// The template's input, as JSON. Fails if the template does not take the conversation.
    pub fn canonical(&self, chat: &Chat<'_>) -> Result<Value, TextError> {
        let job = self.0.canonical(chat)?;
        Ok(json!({"messages": job.messages, "tools": job.tools,
                  "add_generation_prompt": job.add_generation_prompt, "extra": job.extra}))
    }

    /// Renders a conversation. Fails if the template does not take it or needs more work than is allowed.
    pub fn render(&self, chat: &Chat<'_>) -> Result<String, TextError> {
        self.0.render(chat, self.0.canonical(chat)?)
    }
}

/// Tries a template and renders one conversation with it, within `fuel`. Fails as [`Tried::new`] and [`Tried::render`]
/// do.
#[doc(hidden)]
pub fn render_once(template: &str, chat: &Chat<'_>, fuel: u64) -> Result<String, TextError> {
    let special = [("bos_token", "<s>"), ("eos_token", "</s>")];
    let special = special.map(|(name, token)| (name.to_owned(), token.to_owned()));
    Tried::new(template, &special, fuel, Templates::Here)?.render(chat)
}

#[cfg(test)]
mod tests;
