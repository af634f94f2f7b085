//! A model family's syntax for tool calls, derived from its chat template.
//!
//! A template renders a call in the history exactly as the model should write it. So the template is rendered with no
//! call, with one, and with two; the text around the known name and arguments gives the markers. No family is named in
//! this code: Hermes and Qwen, Mistral, Llama 3, Phi, Granite and DeepSeek differ in the markers, in whether calls are
//! in a list, and in whether the name stands inside the JSON or before it. Pure.

use super::form::{CallForm, Part, Tags};
use super::samples::{Samples, before_marker, common_end_of, common_start, object_end};

/// Marks built-in and custom calls of Llama 3 models; the template writes calls without it.
const PYTHON_TAG: &str = "<|python_tag|>";
const HERMES: (&str, &str) = ("<tool_call>", "</tool_call>");

/// The markers of a family's tool calls. White space around them is of no meaning and left out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CallSyntax {
    /// What opens a call. None: a call is a JSON object without a marker.
    openers: Vec<String>,
    closers: Vec<String>,
    /// What stands between a name and its arguments, if the name stands before the JSON.
    pub(super) separator: String,
    /// Whether the name stands before the JSON.
    pub(super) named: bool,
    /// Whether a reply may be a call without a marker.
    pub(super) bare: bool,
    /// How the template itself writes calls, if that is known.
    form: Option<CallForm>,
}

impl Default for CallSyntax {
    /// That of Hermes and Qwen models, which many others were trained to write.
    fn default() -> CallSyntax {
        let (open, close) = HERMES;
        let (openers, closers) = (vec![open.to_owned()], vec![close.to_owned()]);
        CallSyntax::between(openers, closers, CallForm::hermes())
    }
}

impl CallSyntax {
    /// Finds the syntax; `None` if calls are written neither as JSON nor between tags.
    pub(in crate::text) fn of(samples: Samples<'_>) -> Option<CallSyntax> {
        CallSyntax::of_json(samples).or_else(|| {
            let form = CallForm::of(samples).filter(|form| form.tags.is_some())?;
            Some(CallSyntax::of_tags(form))
        })
    }

    /// That of calls whose arguments stand between tags.
    fn of_tags(form: CallForm) -> CallSyntax {
        let texts = |parts: &[Part]| -> Vec<String> {
            let text = |part: &Part| match part {
                Part::Text(text) => text.split_whitespace().map(str::to_owned).collect(),
                Part::Id(_) => Vec::new(),
            };
            parts.iter().flat_map(text).collect()
        };
        let openers = texts(&form.head).into_iter().take(1).collect();
        let mut closers = texts(&form.tail);
        closers.extend(texts(&form.head));
        CallSyntax::between(openers, closers, form)
    }

    /// Calls that stand between markers.
    fn between(openers: Vec<String>, closers: Vec<String>, form: CallForm) -> CallSyntax {
        let (separator, form) = (String::new(), Some(form));
        CallSyntax { openers, closers, separator, named: false, bare: false, form }
    }

    fn of_json(samples: Samples<'_>) -> Option<CallSyntax> {
        let start = common_start(samples.said, samples.one);
        let end = before_marker(common_end_of(&samples.said[start..], &samples.one[start..]));
        let one = &samples.one[start..samples.one.len() - end];
        let first = Call::find(one, samples.name)?;
        let two = samples
            .two
            .and_then(|two| two.get(common_start(samples.said, two)..two.len().checked_sub(end)?));
        let opener = one[..first.start].trim().to_owned();
        let separator = last_marker(one[first.separator.clone()].trim()).to_owned();
        let mut closers = vec![between_calls(&one[first.end..], first.list).to_owned()];
        let mut openers = vec![opener.clone()];
        let between = two.and_then(|two| {
            let rest = &two[Call::find(two, samples.name)?.end..];
            let next = Call::find(rest, samples.name)?;
            Some(between_calls(&rest[..next.start], first.list))
        });
        if let Some(between) = between {
            let again = &between[between.len() - before_marker(common_end_of(&opener, between))..];
            openers.push(again.trim().to_owned());
            let close = &between[..between.len() - again.len()];
            closers.push(between_calls(close, first.list).to_owned());
        }
        let bare = opener.is_empty();
        if samples.source.contains(PYTHON_TAG) {
            openers.push(PYTHON_TAG.to_owned());
        }
        for markers in [&mut openers, &mut closers] {
            markers.retain(|marker| !marker.is_empty());
            markers.sort();
            markers.dedup();
        }
        let form = CallForm::of(samples);
        Some(CallSyntax { openers, closers, separator, named: first.named, bare, form })
    }

    /// How the template itself writes calls, if that is known.
    pub fn form(&self) -> Option<&CallForm> {
        self.form.as_ref()
    }

    /// The tags of arguments, if they are not written as JSON.
    pub(super) fn tags(&self) -> Option<(&CallForm, &Tags)> {
        let form = self.form.as_ref()?;
        Some((form, form.tags.as_ref()?))
    }

    /// The marker that begins calls as the template writes them; `None` if they begin with JSON.
    pub fn opener(&self) -> Option<&str> {
        let Some(Part::Text(head)) = self.form.as_ref()?.head.first() else { return None };
        self.openers().filter(|opener| head.starts_with(opener)).max_by_key(|opener| opener.len())
    }

    pub(super) fn openers(&self) -> impl Iterator<Item = &str> {
        self.openers.iter().map(String::as_str)
    }

    pub(super) fn closers(&self) -> impl Iterator<Item = &str> {
        self.closers.iter().map(String::as_str)
    }

    /// What may follow a call.
    pub(super) fn after(&self) -> impl Iterator<Item = &str> {
        self.openers().chain(self.closers())
    }

    /// Whether this text is part of a marker. Such special tokens must not be left out of a reply.
    pub fn holds(&self, token: &str) -> bool {
        let separator = std::iter::once(self.separator.as_str());
        !token.is_empty() && self.after().chain(separator).any(|marker| marker.contains(token))
    }
}

/// What stands after a call, without white space and what separates the elements of a list.
fn between_calls(text: &str, list: bool) -> &str {
    let separates = |c: char| c.is_whitespace() || matches!(c, ',' | ';') || list && c == ']';
    text.trim_start_matches(separates).trim_end_matches([' ', '\n', '\t', ',', ';'])
}

/// The last marker in brackets, if there is one: before it may stand a call's id.
fn last_marker(separator: &str) -> &str {
    separator.rfind(['<', '[']).map_or(separator, |at| &separator[at..])
}

/// Where a call is in a text: its start, the end of its JSON, and what stands between name and arguments.
struct Call {
    start: usize,
    separator: std::ops::Range<usize>,
    end: usize,
    /// Whether the name stands before the JSON.
    named: bool,
    /// Whether it is in a list.
    list: bool,
}

impl Call {
    fn find(text: &str, name: &str) -> Option<Call> {
        let at = text.find(name)?;
        match text[..at].find('{') {
            // The name is inside of the JSON.
            Some(brace) => {
                let list = text[..brace].trim_end().strip_suffix('[').map(str::len);
                let end = brace + object_end(&text[brace..])?;
                let start = list.unwrap_or(brace);
                let (named, list) = (false, list.is_some());
                Some(Call { start, separator: brace..brace, end, named, list })
            }
            None => {
                let after = at + name.len();
                let brace = after + text[after..].find('{')?;
                let end = brace + object_end(&text[brace..])?;
                Some(Call { start: at, separator: after..brace, end, named: true, list: false })
            }
        }
    }
}
