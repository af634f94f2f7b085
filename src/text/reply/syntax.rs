//! How a model's family writes tool calls, found out from its chat template.
//!
//! A template shows a call in the history exactly as the model is meant to write it. So it is rendered with no call, one,
//! and two; what stands around the known name and arguments are the markers. Families need no names here: Hermes and
//! Qwen, Mistral, Llama 3, Phi, Granite and DeepSeek differ in the markers, in whether calls are in a list, and in whether the
//! name stands inside the JSON or before it. Pure.

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
        let end = common_end(&samples.said[start..], &samples.one[start..]);
        let one = &samples.one[start..samples.one.len() - end];
        let first = Call::find(one, samples.name)?;
        let two = samples
            .two
            .and_then(|two| two.get(common_start(samples.said, two)..two.len().checked_sub(end)?));
        let opener = one[..first.start].trim().to_owned();
        let separator = one[first.separator.clone()].trim().to_owned();
        let mut closers = vec![one[first.end..].trim_matches(is_of_list).to_owned()];
        let mut openers = vec![opener.clone()];
        let between = two.and_then(|two| {
            let rest = &two[Call::find(two, samples.name)?.end..];
            Call::find(rest, samples.name).map(|next| rest[..next.start].trim_matches(is_of_list))
        });
        if let Some(between) = between {
            let again = &between[between.len() - common_end(between, &opener)..];
            openers.push(again.trim().to_owned());
            closers
                .push(between[..between.len() - again.len()].trim_matches(is_of_list).to_owned());
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

fn is_of_list(c: char) -> bool {
    c.is_whitespace() || matches!(c, ',' | ';' | ']')
}

/// Where a call is in a text: its start, the end of its JSON, and what stands between name and arguments.
struct Call {
    start: usize,
    separator: std::ops::Range<usize>,
    end: usize,
    /// Whether the name stands before the JSON.
    named: bool,
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
                Some(Call { start, separator: brace..brace, end, named: false })
            }
            None => {
                let after = at + name.len();
                let brace = after + text[after..].find('{')?;
                let end = brace + object_end(&text[brace..])?;
                Some(Call { start: at, separator: after..brace, end, named: true })
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

/// The length of what two texts begin with.
fn common_start(a: &str, b: &str) -> usize {
    let same = a.char_indices().zip(b.chars()).take_while(|((_, a), b)| a == b);
    same.last().map_or(0, |((at, c), _)| at + c.len_utf8())
}

/// The length of what two texts end with.
fn common_end(a: &str, b: &str) -> usize {
    let same = a.chars().rev().zip(b.chars().rev()).take_while(|(a, b)| a == b);
    same.map(|(c, _)| c.len_utf8()).sum()
}
