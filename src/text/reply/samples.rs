//! Samples of how a template renders a text or calls in the last message of a conversation, and their common parts.
//! Pure.

/// A conversation's last message as the template renders it: text, one call, and two calls of the same function, with
/// nothing after it. In calls, `name` and `value` occur nowhere else in that message.
#[derive(Debug, Clone, Copy)]
pub(in crate::text) struct Samples<'a> {
    pub(in crate::text) said: &'a str,
    pub(in crate::text) one: &'a str,
    pub(in crate::text) two: Option<&'a str>,
    pub(in crate::text) name: &'a str,
    /// The call's one argument and its value.
    pub(in crate::text) argument: &'a str,
    pub(in crate::text) value: &'a str,
    pub(in crate::text) source: &'a str,
}

/// The length of the JSON object at the start of a text.
pub(super) fn object_end(text: &str) -> Option<usize> {
    let mut values = serde_json::Deserializer::from_str(text).into_iter::<serde_json::Value>();
    values.next()?.ok()?;
    Some(values.byte_offset())
}

/// The length of what two texts begin with, up to a marker in brackets that they have only in part.
pub(super) fn common_start(a: &str, b: &str) -> usize {
    let same = a.char_indices().zip(b.chars()).take_while(|((_, a), b)| a == b);
    let same = same.last().map_or(0, |((at, c), _)| at + c.len_utf8());
    let open = a[..same].rfind(['<', '[']);
    open.filter(|open| !a[*open..same].contains(['>', ']', '\n'])).unwrap_or(same)
}

/// What two texts end with.
pub(super) fn common_end_of<'a>(a: &str, b: &'a str) -> &'a str {
    let same = a.chars().rev().zip(b.chars().rev()).take_while(|(a, b)| a == b);
    let length: usize = same.map(|(c, _)| c.len_utf8()).sum();
    &b[b.len() - length..]
}

/// The length of an ending without the marker in brackets of which it has only the last part.
pub(super) fn before_marker(end: &str) -> usize {
    match (end.find(['<', '[']), end.find(['>', ']'])) {
        (open, Some(close)) if open.is_none_or(|open| close < open) => end.len() - close - 1,
        _ => end.len(),
    }
}
