//! The text around the parts of a tool call, as a family's chat template writes it.
//!
//! [`CallSyntax`](super::CallSyntax) says how calls are recognised in a model's output, and is lenient. This is the
//! exact form in which the template writes them, for replies that must contain a call. Pure; it does not know which
//! tools exist.

use super::samples::{Samples, before_marker, common_end_of, common_start, object_end};

/// A template's calls, part by part: `head name arguments-marker arguments (between name ..)* tail`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CallForm {
    /// Before the first call's name.
    pub head: Vec<Part>,
    /// Between a name and its arguments, which are a JSON object.
    pub before_arguments: Vec<Part>,
    /// Between a call's arguments and the next one's name; `None`: a reply has one call.
    pub between: Option<Vec<Part>>,
    /// After the last call's arguments.
    pub tail: Vec<Part>,
    /// Whether a name stands in a JSON string.
    pub quoted: bool,
    /// Arguments are written one by one between tags; `None`: as a JSON object.
    pub tags: Option<Tags>,
}

/// The tags of an argument: `open key key_end value close`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tags {
    /// Before an argument's name.
    pub open: String,
    /// Between its name and its value.
    pub key_end: String,
    /// After its value.
    pub close: String,
}

/// A part of the text around calls.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Part {
    /// This text.
    Text(String),
    /// An id of so many letters and digits.
    Id(usize),
}

/// The digits of the ids in samples: templates shorten them from the left.
const LEAST_ID: usize = 8;

impl CallForm {
    /// Finds the form; `None` if arguments are written neither as JSON nor between tags.
    pub(in crate::text) fn of(samples: Samples<'_>) -> Option<CallForm> {
        CallForm::of_json(samples).or_else(|| CallForm::of_tags(samples))
    }

    fn of_json(samples: Samples<'_>) -> Option<CallForm> {
        let start = common_start(samples.said, samples.one);
        let end = before_marker(common_end_of(&samples.said[start..], &samples.one[start..]));
        let one = &samples.one[start..samples.one.len() - end];
        let call = Call::find(one, samples.name)?;
        let tail = one[call.end..].trim_end();
        let two = samples.two.and_then(|two| {
            let start = common_start(samples.said, two);
            two.get(start..two.len().checked_sub(end)?)
        });
        let between = two.and_then(|two| {
            let rest = &two[Call::find(two, samples.name)?.end..];
            let next = Call::find(rest, samples.name)?;
            rest[next.end..].trim_end().eq(tail).then(|| parts(&rest[..next.name]))
        });
        let before = &one[call.name + samples.name.len()..call.arguments];
        Some(CallForm {
            head: parts(one[..call.name].trim_start()),
            before_arguments: parts(before),
            between,
            tail: parts(tail),
            quoted: one[..call.name].ends_with('"'),
            tags: None,
        })
    }

    fn of_tags(samples: Samples<'_>) -> Option<CallForm> {
        let start = common_start(samples.said, samples.one);
        let end = before_marker(common_end_of(&samples.said[start..], &samples.one[start..]));
        let one = &samples.one[start..samples.one.len() - end];
        let name = one.find(samples.name)?;
        let key = name + one[name..].find(samples.argument)?;
        let value = key + one[key..].find(samples.value)?;
        let (after_name, after_key) = (name + samples.name.len(), key + samples.argument.len());
        let after_value = value + samples.value.len();
        // The last tag before a key opens an argument, the first after a value closes it.
        let open = after_name + one[after_name..key].rfind('<')?;
        let close = after_value + one[after_value..].find('>')? + 1;
        let head = one[..name].trim_start();
        if !head.starts_with('<') || !one[after_value..close].trim_start().starts_with("</") {
            return None;
        }
        let between = samples.two.and_then(|two| {
            let start = common_start(samples.said, two);
            let first = start + two[start..].find(&one[value..close])? + (close - value);
            let next = first + two[first..].find(samples.name)?;
            Some(parts(&two[first..next]))
        });
        Some(CallForm {
            head: parts(head),
            before_arguments: parts(&one[after_name..open]),
            between,
            tail: parts(one[close..].trim_end()),
            quoted: false,
            tags: Some(Tags {
                open: one[open..key].to_owned(),
                key_end: one[after_key..value].to_owned(),
                close: one[after_value..close].to_owned(),
            }),
        })
    }

    /// That of Hermes and Qwen models, which many others were trained to write.
    pub fn hermes() -> CallForm {
        let text = |text: &str| vec![Part::Text(text.to_owned())];
        CallForm {
            head: text("<tool_call>\n{\"name\": \""),
            before_arguments: text("\", \"arguments\": "),
            between: Some(text("}\n</tool_call>\n<tool_call>\n{\"name\": \"")),
            tail: text("}\n</tool_call>"),
            quoted: true,
            tags: None,
        }
    }
}

/// Where the parts of a call are in a text.
struct Call {
    name: usize,
    arguments: usize,
    end: usize,
}

impl Call {
    fn find(text: &str, name: &str) -> Option<Call> {
        let at = text.find(name)?;
        let after = at + name.len();
        let arguments = after + text[after..].find('{')?;
        let end = arguments + object_end(&text[arguments..])?;
        Some(Call { name: at, arguments, end })
    }
}

/// A text in which ids of the samples, runs of zeros with one more digit, are only ids.
fn parts(text: &str) -> Vec<Part> {
    let (mut parts, mut rest) = (Vec::new(), text);
    while let Some(at) = rest.find(&"0".repeat(LEAST_ID)) {
        let id = &rest[at..];
        let length = id.find(|c: char| !c.is_ascii_digit()).unwrap_or(id.len());
        parts.push(Part::Text(rest[..at].to_owned()));
        parts.push(Part::Id(length));
        rest = &id[length..];
    }
    parts.push(Part::Text(rest.to_owned()));
    parts.retain(|part| *part != Part::Text(String::new()));
    parts
}
