//! A constraint as one grammar, in llguidance's variant of Lark
//! (<https://github.com/guidance-ai/llguidance/blob/main/docs/syntax.md>).
//!
//! The model's reasoning may come before the constrained part. The markers of reasoning are special tokens in some
//! vocabularies and plain text in others. It does not know how a grammar is compiled.

use super::terms::{Context, json_rule, marked, quoted};
use super::{Calls, Constraint, GrammarError, calls, gbnf, limits, schema};
use crate::text::Codec;
use crate::text::reply::reasoning::{self, Opening};
use serde_json::json;
use std::borrow::Cow;

/// Largest grammar in bytes, and all texts to choose from.
const MAX_BYTES: usize = 64 << 10;
/// Most texts to choose from.
const MAX_CHOICES: usize = 1024;

/// The grammar of a whole reply.
pub(super) fn grammar(
    constraint: &Constraint,
    opening: Opening,
    context: &Context<'_>,
) -> Result<String, GrammarError> {
    let before = thoughts(opening, context.codec);
    let own = match constraint {
        Constraint::Lark(grammar) => {
            limits::check_lark(checked(grammar, "grammar")?)?;
            Some(Cow::Borrowed(grammar))
        }
        Constraint::Gbnf(grammar) => {
            let lark = gbnf::to_lark(grammar).map_err(|error| GrammarError(error.to_string()))?;
            Some(Cow::Owned(lark))
        }
        _ => None,
    };
    if let Some(own) = own {
        return match before {
            None => Ok(own.into_owned()),
            Some(before) => with_start(&own, &before),
        };
    }
    let reply = reply(constraint, context)?;
    Ok(match before {
        None => format!("start: reply\n{reply}"),
        Some(before) => before.start("reply") + &reply,
    })
}

/// The grammar of calls in a text, from the marker on that they begin with.
pub(super) fn calls_after(
    opener: &str,
    calls: &Calls,
    context: &Context<'_>,
) -> Result<String, GrammarError> {
    let Until { rule, lexeme } = match context.codec.is_special(opener) {
        true => Until { rule: marked(opener, context.codec), lexeme: String::new() },
        false => until(opener, context.codec),
    };
    // A token may end a call and go on with text.
    let rules = calls::rules(calls, context, Some(opener))?;
    Ok(format!("start: {rule} calls rest\nrest: /(?s:.*)/\n{lexeme}\n{rules}"))
}

/// The reasoning before the constrained part of a reply.
fn thoughts(opening: Opening, codec: &Codec) -> Option<Until> {
    match opening {
        Opening::Answer => None,
        Opening::Inside(close) => Some(until(close, codec)),
        Opening::Free => {
            let (open, close) = reasoning::markers_in(|marker| codec.token_id(marker).is_some())?;
            let Until { rule, lexeme } = until(close, codec);
            Some(Until { rule: format!("( {} {rule} )?", marked(open, codec)), lexeme })
        }
    }
}

/// Text up to a marker, as part of a rule, and the lexeme that it needs.
struct Until {
    rule: String,
    lexeme: String,
}

impl Until {
    fn start(&self, body: &str) -> String {
        let Until { rule, lexeme } = self;
        format!("start: {rule} thought_end {body}\nthought_end: /[ \\t\\r\\n]{{0,8}}/\n{lexeme}\n")
    }
}

fn until(close: &str, codec: &Codec) -> Until {
    if codec.is_special(close) {
        let rule = format!("THOUGHT {}", marked(close, codec));
        return Until { rule, lexeme: "THOUGHT: /(?s:.*)/".to_owned() };
    }
    let lexeme = format!("thought[lazy]: /(?s:.*)/ {}", quoted(close));
    Until { rule: "thought".to_owned(), lexeme }
}

fn reply(constraint: &Constraint, context: &Context<'_>) -> Result<String, GrammarError> {
    match constraint {
        Constraint::Object => {
            Ok(json_rule("reply", &schema::prepared(&json!({"type": "object"}))?))
        }
        Constraint::Compact(schema) => Ok(json_rule("reply", &schema::compact(schema)?)),
        Constraint::Schema(schema) => Ok(json_rule("reply", &schema::prepared(schema)?)),
        Constraint::Regex(regex) => {
            let regex = checked(regex, "regular expression")?;
            limits::check_regex(regex, "regular expression")?;
            let regex = llguidance::regex_to_lark(regex, "");
            Ok(format!("reply: /{regex}/\n"))
        }
        Constraint::Choice(texts) => choice(texts),
        Constraint::Lark(_) | Constraint::Gbnf(_) => {
            Err(GrammarError("it has rules of its own".to_owned()))
        }
        Constraint::Calls(calls) | Constraint::Auto(calls) => {
            Ok("reply: calls\n".to_owned() + &calls::rules(calls, context, None)?)
        }
        Constraint::Either(calls, other) => {
            let text = reply(other, context)?.replacen("reply:", "text:", 1);
            Ok(format!("reply: calls | text\n{text}{}", calls::rules(calls, context, None)?))
        }
    }
}

fn choice(texts: &[String]) -> Result<String, GrammarError> {
    if texts.is_empty() || texts.len() > MAX_CHOICES {
        let what =
            format!("there must be 1 to {MAX_CHOICES} texts to choose from, not {}", texts.len());
        return Err(GrammarError(what));
    }
    if texts.iter().any(String::is_empty) {
        return Err(GrammarError("an empty text cannot be chosen".to_owned()));
    }
    let texts: Vec<String> = texts.iter().map(|text| quoted(text)).collect();
    Ok(format!("reply: {}\n", checked(&texts.join(" | "), "list of texts")?))
}

fn checked<'a>(text: &'a str, what: &str) -> Result<&'a str, GrammarError> {
    match text.len() {
        0 => Err(GrammarError(format!("the {what} is empty"))),
        bytes if bytes > MAX_BYTES => Err(GrammarError(format!(
            "the {what} has {bytes} bytes, at most {MAX_BYTES} are allowed"
        ))),
        _ => Ok(text),
    }
}

/// A grammar whose start comes after the reasoning: its rule `start` gets another name.
fn with_start(grammar: &str, before: &Until) -> Result<String, GrammarError> {
    let mut renamed = String::with_capacity(grammar.len() + 64);
    let mut found = false;
    for line in grammar.lines() {
        let rest = line.trim_start().strip_prefix("start");
        match rest.filter(|rest| rest.trim_start().starts_with([':', '['])) {
            Some(rest) => {
                found = true;
                renamed.push_str("reply");
                renamed.push_str(rest);
            }
            None => renamed.push_str(line),
        }
        renamed.push('\n');
    }
    match found {
        true => Ok(before.start("reply") + &renamed),
        false => Err(GrammarError("the grammar has no rule 'start'".to_owned())),
    }
}
