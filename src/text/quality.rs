//! Signs that a reply is poor, found in the reply itself, without knowing the right answer.
//!
//! Each sign is one small rule, and each may be wrong about a single reply: lists are repetitive, and some questions
//! ask for a refusal. They are meant for comparing two models under the same traffic. So a rule errs on the lenient
//! side, and gives no sign if the client's own request explains what it found.
//!
//! In reading order: this file (the rules), `request` (what the request asked for), `repeats` (loops), `json` and
//! `script`. The work on one reply is bounded. It does not know about arms, or what a sign leads to.

mod json;
mod repeats;
mod request;
mod script;

pub use request::Request;

use super::reply::{Look, Manner, Reasoning, ReplyParser, ReplyPiece};

/// Most bytes of a reply that need be kept for [`assess`].
pub const MAX_TEXT: usize = 256 << 10;
/// Bytes beyond which a reply is not searched for tool calls: many broken ones take quadratic time.
const MAX_CALLS: usize = 64 << 10;
/// Characters of a reply in which a refusal begins.
const OPENING: usize = 80;

/// Beginnings of refusals, in lower case and with straight apostrophes.
const REFUSALS: [&str; 23] = [
    "i'm sorry, but i can't",
    "i'm sorry, but i cannot",
    "i'm sorry, i can't",
    "i'm sorry, i cannot",
    "i am sorry, but i can't",
    "i am sorry, but i cannot",
    "sorry, but i can't",
    "sorry, i can't",
    "i apologize, but i can",
    "unfortunately, i can't",
    "unfortunately, i cannot",
    "i cannot",
    "i can't assist",
    "i can't help",
    "i can't provide",
    "i can't fulfill",
    "i'm unable to",
    "i am unable to",
    "i'm not able to",
    "i am not able to",
    "i must decline",
    "as an ai ",
    "as an ai,",
];

/// How a reply ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// The model ended it.
    Token,
    /// One of the client's stop strings.
    StopString,
    /// The maximum length.
    Length,
}

/// A complete reply.
pub struct Reply<'a> {
    /// What the client saw, or the first part of it, up to [`MAX_TEXT`] bytes.
    pub text: &'a str,
    /// Whether `text` is all that the client saw.
    pub whole: bool,
    /// All its token ids, or only the last ones.
    pub ids: &'a [u32],
    /// How it ended.
    pub end: End,
    /// How its model writes.
    pub manner: &'a Manner,
    /// The text of some of its ids.
    pub spell: &'a dyn Fn(&[u32]) -> String,
}

/// The signs of one reply.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Signs {
    /// The model ended it without any text or tool call.
    pub empty: bool,
    /// It reached the maximum length.
    pub length: bool,
    /// It reached the maximum length in a loop that the prompt does not hold.
    pub looping: bool,
    /// JSON was asked for, and it is none; or a tool call in it cannot be parsed; or it was cut while a grammar held it.
    pub structure: bool,
    /// It calls a tool that was not offered.
    pub unknown_tool: bool,
    /// It is in another script than the last user message.
    pub script: bool,
    /// It begins as refusals do.
    pub refusal: bool,
}

/// The signs of `reply`, the answer to `request`.
pub fn assess(request: &Request<'_>, reply: &Reply<'_>) -> Signs {
    let parsed = Parsed::of(request, reply);
    let answer = parsed.answer.as_str();
    Signs {
        empty: empty(request, reply),
        length: reply.end == End::Length && !request.tiny(),
        looping: looping(request, reply),
        structure: structure(request, reply, &parsed),
        unknown_tool: parsed.names.iter().any(|name| !request.tools.contains(&name.as_str())),
        script: other_script(request, answer),
        refusal: !request.raw && refusal(answer),
    }
}

/// A reply taken apart: its answer, without reasoning, and the tool calls in it.
struct Parsed {
    answer: String,
    names: Vec<String>,
    /// Whether one was begun that cannot be parsed.
    broken: bool,
}

impl Parsed {
    fn of(request: &Request<'_>, reply: &Reply<'_>) -> Parsed {
        let readable = reply.whole && reply.text.len() <= MAX_CALLS;
        let names = || request.tools.iter().map(|name| (*name).to_owned()).collect();
        let tools = (readable && !request.tools.is_empty()).then(names);
        let look = Look { tools, reasoning: Reasoning::LeftOut, ..Look::default() };
        let mut parser = ReplyParser::new(&look, reply.manner);
        let mut pieces = parser.push(reply.text);
        pieces.extend(parser.finish());
        let (mut answer, mut names) = (String::new(), Vec::new());
        for piece in pieces {
            match piece {
                ReplyPiece::Text(more) => answer.push_str(&more),
                ReplyPiece::Begin { name, .. } => names.push(name),
                ReplyPiece::Reasoning(_)
                | ReplyPiece::Arguments { .. }
                | ReplyPiece::End { .. } => {}
            }
        }
        Parsed { answer, names, broken: parser.broken() }
    }
}

fn empty(request: &Request<'_>, reply: &Reply<'_>) -> bool {
    let expected = request.raw || request.tiny();
    reply.end == End::Token && !expected && reply.text.trim().is_empty()
}

fn looping(request: &Request<'_>, reply: &Reply<'_>) -> bool {
    if reply.end != End::Length {
        return false;
    }
    repeats::period(reply.ids).is_some_and(|period| {
        let sample = repeats::sample(reply.ids, period);
        let text = (reply.spell)(sample);
        // A sample may begin or end inside a character.
        !request.holds(sample, text.trim_matches(char::REPLACEMENT_CHARACTER))
    })
}

/// An empty reply has its own sign; one that was cut, by whatever, need not be complete, unless a grammar held it.
fn structure(request: &Request<'_>, reply: &Reply<'_>, parsed: &Parsed) -> bool {
    if request.structured {
        return reply.end != End::Token && !request.tiny();
    }
    if reply.end != End::Token || !reply.whole {
        return false;
    }
    let wanted = request.json && parsed.names.is_empty() && !reply.text.trim().is_empty();
    parsed.broken || wanted && json::is_missing(&parsed.answer)
}

fn other_script(request: &Request<'_>, answer: &str) -> bool {
    request
        .script
        .is_some_and(|wanted| script::dominant(answer).is_some_and(|found| found != wanted))
}

fn refusal(answer: &str) -> bool {
    let straight = |c: char| if matches!(c, '’' | 'ʼ') { '\'' } else { c };
    let opening: String = answer.trim_start().chars().take(OPENING).map(straight).collect();
    let opening = opening.to_lowercase();
    REFUSALS.iter().any(|refusal| opening.starts_with(refusal))
}

#[cfg(test)]
mod tests;
