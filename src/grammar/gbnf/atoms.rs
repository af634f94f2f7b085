//! Parses the atoms of a GBNF grammar: string literals, character classes and tokens.

use super::GbnfError;
use super::charset::CharSet;
use super::parse::{Node, NodeId, Parser, Token};

impl Parser {
    pub(super) fn literal(&mut self) -> Result<NodeId, GbnfError> {
        let place = self.at;
        self.at += 1;
        let mut chars = Vec::new();
        loop {
            match self.peek() {
                None => {
                    return self.error(place, "this \" is never closed: add a \" after the text");
                }
                Some('"') => break,
                Some(_) => {
                    let c = self.char()?;
                    chars.push(self.push(Node::Chars(CharSet::one(c))));
                }
            }
        }
        self.at += 1;
        Ok(if let [one] = chars[..] { one } else { self.push(Node::Seq(chars)) })
    }

    pub(super) fn class(&mut self) -> Result<NodeId, GbnfError> {
        let place = self.at;
        self.at += 1;
        let negated = self.takes("^");
        let mut ranges = Vec::new();
        loop {
            match self.peek() {
                None => return self.error(place, "this [ is never closed: add a ]"),
                Some(']') => break,
                Some(_) => {
                    let start = self.at;
                    let from = u32::from(self.char()?);
                    let mut to = from;
                    if self.peek() == Some('-') && self.text.get(self.at + 1) != Some(&']') {
                        self.at += 1;
                        to = u32::from(self.char()?);
                    }
                    if to < from {
                        return self
                            .error(start, "this range ends before it starts: exchange its ends");
                    }
                    ranges.push((from, to));
                }
            }
        }
        self.at += 1;
        let set = CharSet::new(&ranges);
        let set = if negated { set.negated() } else { set };
        if ranges.is_empty() || set.is_empty() {
            return self
                .error(place, "this class has no characters: name some, or write . for any");
        }
        Ok(self.push(Node::Chars(set)))
    }

    /// One character of a literal or a class, or an escape.
    fn char(&mut self) -> Result<char, GbnfError> {
        let place = self.at;
        let Some(c) = self.peek() else {
            return self.error(place, "the grammar ends within a text or a class");
        };
        self.at += 1;
        if c != '\\' {
            return Ok(c);
        }
        let escape = self.peek();
        self.at += 1;
        match escape {
            Some('n') => Ok('\n'),
            Some('r') => Ok('\r'),
            Some('t') => Ok('\t'),
            Some(c @ ('\\' | '"' | '[' | ']' | '-')) => Ok(c),
            Some('x') => self.code(place, 2),
            Some('u') => self.code(place, 4),
            Some('U') => self.code(place, 8),
            _ => self.error(
                place,
                "this escape is not known: there are \\n \\r \\t \\\\ \\\" \\[ \\] \\- \\xHH \\uHHHH \
                 \\UHHHHHHHH",
            ),
        }
    }

    fn code(&mut self, place: usize, digits: usize) -> Result<char, GbnfError> {
        let mut code = 0_u32;
        for _ in 0..digits {
            let Some(digit) = self.peek().and_then(|c| c.to_digit(16)) else {
                let what = format!("this escape needs {digits} hexadecimal digits");
                return self.error(place, what);
            };
            code = code << 4 | digit;
            self.at += 1;
        }
        match char::from_u32(code) {
            Some(c) => Ok(c),
            None => self.error(
                place,
                "this code is not a character: characters end at 10FFFF and leave out D800 to DFFF",
            ),
        }
    }

    /// `<[7]>`, `<think>`, or `!` and one of these.
    pub(super) fn token(&mut self) -> Result<NodeId, GbnfError> {
        let place = self.at;
        let negated = self.takes("!");
        if !self.takes("<") {
            return self.error(self.at, "a token is needed after !, as in !<[7]>");
        }
        let start = self.at;
        while self.peek().is_some_and(|c| c != '>') {
            self.at += 1;
        }
        let inner: String = self.text[start..self.at].iter().collect();
        if !self.takes(">") {
            return self.error(place, "this < is never closed: add a > after the token");
        }
        let (text, id) = match inner.strip_prefix('[') {
            Some(number) => {
                let id =
                    number.strip_suffix(']').filter(|id| id.chars().all(|c| c.is_ascii_digit()));
                let Some(id) = id.and_then(|id| id.parse::<u32>().ok()) else {
                    return self.error(place, "a token's number is written as in <[7]>");
                };
                (if negated { format!("<[^{id}]>") } else { format!("<[{id}]>") }, Some(id))
            }
            None if negated => {
                let what = format!(
                    "!<{inner}> is not supported: negate a token by its number, as in !<[7]>"
                );
                return self.error(place, what);
            }
            None if inner.is_empty() || inner.contains(|c: char| c == '<' || c.is_whitespace()) => {
                let what = format!(
                    "the token <{inner}> is not supported: a token's name has no blanks and no <; \
                     use its number, as in <[7]>"
                );
                return self.error(place, what);
            }
            None => (format!("<{inner}>"), None),
        };
        Ok(self.push(Node::Token(Token { text, id, negated, place })))
    }
}
