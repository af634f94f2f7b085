//! The terms of grammar rules in llguidance's Lark syntax: texts, special tokens, JSON that matches a schema.

use crate::text::Codec;
use serde_json::Value;

pub(super) struct Context<'a> {
    pub codec: &'a Codec,
    /// Whether this schema can be enforced.
    pub can_compile: &'a dyn Fn(&Value) -> bool,
}

/// A text of the model's own: the special tokens in it are tokens, the rest is text.
pub(super) fn marked(text: &str, codec: &Codec) -> String {
    let special = codec.special_tokens();
    let first = |text: &str| {
        let found = special.iter().filter_map(|token| Some((text.find(token.as_str())?, token)));
        found.min_by_key(|(at, token)| (*at, std::cmp::Reverse(token.len())))
    };
    let (mut parts, mut rest) = (Vec::new(), text);
    while let Some((at, token)) = first(rest) {
        parts.extend((at > 0).then(|| quoted(&rest[..at])));
        parts.extend(codec.token_id(token).map(|id| format!("<[{id}]>")));
        rest = &rest[at + token.len()..];
    }
    parts.extend((!rest.is_empty()).then(|| quoted(rest)));
    parts.join(" ")
}

/// A text as Lark writes it.
pub(super) fn quoted(text: &str) -> String {
    // JSON leaves this one as it is, Lark does not take it.
    Value::from(text).to_string().replace('\u{7f}', "\\u007f")
}

/// A rule for JSON of a schema.
pub(super) fn json_rule(name: &str, schema: &Value) -> String {
    format!("{name}: %json {schema}\n")
}
