//! How a model's family writes tool calls, found out from its chat template.
//!
//! A template shows a call in the history exactly as the model is meant to write it. So it is rendered with no
//! call, one, and two; what stands around the known name and arguments are the markers. Families need no names
//! here: Hermes and Qwen, Mistral, Llama 3, Phi, Granite and DeepSeek differ in the markers, in whether calls are
//! in a list, and in whether the name stands inside the JSON or before it. Pure.

/// Marks built-in and custom calls of Llama 3 models; the template writes calls without it.
const PYTHON_TAG: &str = "<|python_tag|>";
const HERMES: (&str, &str) = ("<tool_call>", "</tool_call>");

/// The markers of a family's tool calls. White space around them is of no meaning and left out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CallSyntax {
    /// What opens a call. None: a call is a JSON object without a marker.
    openers: Vec<String>,
    /// What closes a call.
    closers: Vec<String>,
    /// What stands between a name and its arguments, if the name stands before the JSON.
    separator: String,
    /// Whether the name stands before the JSON.
    named: bool,
    /// Whether a reply may be a call without a marker.
    bare: bool,
}

impl Default for CallSyntax {
    /// That of Hermes and Qwen models, which many others were trained to write.
    fn default() -> CallSyntax {
        let (open, close) = HERMES;
        let (openers, closers) = (vec![open.to_owned()], vec![close.to_owned()]);
        CallSyntax { openers, closers, separator: String::new(), named: false, bare: false }
    }
}

/// A conversation's last message as the template renders it: text, one call, and two calls of the same function, with
/// nothing after it. In calls, `name` and `value` occur nowhere else in that message.
#[derive(Debug, Clone, Copy)]
pub(in crate::text) struct Samples<'a> {
    pub(in crate::text) said: &'a str,
    pub(in crate::text) one: &'a str,
    pub(in crate::text) two: Option<&'a str>,
    pub(in crate::text) name: &'a str,
    pub(in crate::text) source: &'a str,
}

impl CallSyntax {
    /// Finds the syntax; `None` if calls are not written as JSON.
    pub(in crate::text) fn of(samples: Samples<'_>) -> Option<CallSyntax> {
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
        Some(CallSyntax { openers, closers, separator, named: first.named, bare })
    }

    /// Whether a reply may be a call without a marker.
    pub(super) fn is_bare(&self) -> bool {
        self.bare
    }

    /// Whether the name stands before the JSON.
    pub(super) fn is_named(&self) -> bool {
        self.named
    }

    /// What stands between a name and its arguments.
    pub(super) fn separator(&self) -> &str {
        &self.separator
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

/// The length of the JSON object at the start of a text.
fn object_end(text: &str) -> Option<usize> {
    let mut values = serde_json::Deserializer::from_str(text).into_iter::<serde_json::Value>();
    values.next()?.ok()?;
    Some(values.byte_offset())
}

/// The length of what two texts begin with, up to a marker in brackets that they have only in part.
fn common_start(a: &str, b: &str) -> usize {
    let same = a.char_indices().zip(b.chars()).take_while(|((_, a), b)| a == b);
    let same = same.last().map_or(0, |((at, c), _)| at + c.len_utf8());
    let open = a[..same].rfind(['<', '[']);
    open.filter(|open| !a[*open..same].contains(['>', ']', '\n'])).unwrap_or(same)
}

/// What two texts end with.
fn common_end_of<'a>(a: &str, b: &'a str) -> &'a str {
    let same = a.chars().rev().zip(b.chars().rev()).take_while(|(a, b)| a == b);
    let length: usize = same.map(|(c, _)| c.len_utf8()).sum();
    &b[b.len() - length..]
}

/// The length of an ending without the marker in brackets of which it has only the last part.
fn before_marker(end: &str) -> usize {
    match (end.find(['<', '[']), end.find(['>', ']'])) {
        (open, Some(close)) if open.is_none_or(|open| close < open) => end.len() - close - 1,
        _ => end.len(),
    }
}
