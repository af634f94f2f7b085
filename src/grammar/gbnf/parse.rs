//! Reads the text of a GBNF grammar into nodes.
//!
//! It knows the notation and its limits, but not the translation.

use super::GbnfError;
use super::charset::CharSet;
use std::collections::HashMap;

/// A longer text is refused.
const MAX_BYTES: usize = 256 * 1024;
/// Groups within groups.
const MAX_DEPTH: usize = 64;
/// Operators such as `*` one after another.
const MAX_OPERATORS: usize = 4;
/// The largest bound of a repetition, and the largest product of nested ones: llama.cpp's limit.
const MAX_REPEAT: u32 = 2000;

/// The index of a node. Those of its parts are smaller.
pub(super) type NodeId = usize;

/// A part of a grammar. `Chars` is one character of the set, `Rule` what the rule of that index stands for.
#[derive(Debug, Clone)]
pub(super) enum Node {
    Chars(CharSet),
    Token(Token),
    Rule(usize),
    Seq(Vec<NodeId>),
    Alt(Vec<NodeId>),
    Repeat { of: NodeId, min: u32, max: Option<u32> },
}

/// A token, as Lark spells it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Token {
    pub(super) text: String,
    /// Its number, if the grammar has it.
    pub(super) id: Option<u32>,
    /// It stands for every other token.
    pub(super) negated: bool,
    /// Where the grammar has it.
    pub(super) place: usize,
}

#[derive(Debug)]
pub(super) struct Rule {
    pub(super) name: String,
    pub(super) body: NodeId,
    /// Where it is first named.
    pub(super) place: usize,
}

#[derive(Debug)]
pub(super) struct Grammar {
    pub(super) nodes: Vec<Node>,
    pub(super) rules: Vec<Rule>,
    /// The index of the rule `root`.
    pub(super) root: usize,
}

/// A part of a sequence, and the product of the repetition bounds in it.
struct Part {
    node: NodeId,
    weight: u32,
    operators: usize,
}

/// A text, and how far it is read.
pub(super) struct Parser {
    pub(super) text: Vec<char>,
    pub(super) at: usize,
    nodes: Vec<Node>,
    names: HashMap<String, usize>,
    rules: Vec<RuleEntry>,
}

/// A rule that was named so far, and perhaps defined.
struct RuleEntry {
    name: String,
    place: usize,
    body: Option<NodeId>,
}

pub(super) fn error_at(text: &[char], place: usize, what: impl Into<String>) -> GbnfError {
    let before = &text[..place.min(text.len())];
    let line = 1 + before.iter().filter(|c| **c == '\n').count();
    let column = 1 + before.iter().rev().take_while(|c| **c != '\n').count();
    GbnfError { line, column, what: what.into() }
}

pub(super) fn parse(gbnf: &str) -> Result<Grammar, GbnfError> {
    if gbnf.len() > MAX_BYTES {
        let what = format!(
            "the grammar has {} bytes, and {MAX_BYTES} is the limit: split or shorten it",
            gbnf.len()
        );
        return Err(GbnfError { line: 1, column: 1, what });
    }
    let text: Vec<char> = gbnf.chars().collect();
    if let Some(place) = text.iter().position(|c| *c == '\0') {
        return Err(error_at(&text, place, "a raw zero character: remove it, or write \\x00"));
    }
    let mut parser =
        Parser { text, at: 0, nodes: Vec::new(), names: HashMap::new(), rules: Vec::new() };
    parser.space(true);
    while parser.peek().is_some() {
        parser.rule()?;
    }
    parser.finish()
}

impl Parser {
    fn finish(self) -> Result<Grammar, GbnfError> {
        let mut rules = Vec::with_capacity(self.rules.len());
        for seen in self.rules {
            let Some(body) = seen.body else {
                let what = format!(
                    "the rule {:?} is not defined: add a line `{} ::= ...` or correct the name",
                    seen.name, seen.name
                );
                return Err(error_at(&self.text, seen.place, what));
            };
            rules.push(Rule { name: seen.name, body, place: seen.place });
        }
        let Some(&root) = self.names.get("root") else {
            let what = if rules.is_empty() {
                "the grammar is empty: it needs a rule `root ::= ...`"
            } else {
                "there is no rule named root, where the text starts: add `root ::= ...`"
            };
            return Err(error_at(&self.text, self.text.len(), what));
        };
        Ok(Grammar { nodes: self.nodes, rules, root })
    }

    pub(super) fn error<T>(&self, place: usize, what: impl Into<String>) -> Result<T, GbnfError> {
        Err(error_at(&self.text, place, what))
    }

    pub(super) fn peek(&self) -> Option<char> {
        self.text.get(self.at).copied()
    }

    pub(super) fn takes(&mut self, wanted: &str) -> bool {
        let found = wanted.chars().enumerate().all(|(i, c)| self.text.get(self.at + i) == Some(&c));
        if found {
            self.at += wanted.chars().count();
        }
        found
    }

    /// Skips blanks and comments, and line ends if `lines`.
    fn space(&mut self, lines: bool) {
        while let Some(c) = self.peek() {
            match c {
                ' ' | '\t' => self.at += 1,
                '\r' | '\n' if lines => self.at += 1,
                '#' => {
                    while self.peek().is_some_and(|c| c != '\r' && c != '\n') {
                        self.at += 1;
                    }
                }
                _ => break,
            }
        }
    }

    pub(super) fn push(&mut self, node: Node) -> NodeId {
        self.nodes.push(node);
        self.nodes.len() - 1
    }

    /// The rule of the name here, known or not.
    fn name(&mut self) -> Result<usize, GbnfError> {
        let place = self.at;
        while self.peek().is_some_and(is_name) {
            self.at += 1;
        }
        if self.at == place {
            return self
                .error(place, format!("a rule's name is needed here, not {}", self.found()));
        }
        let name: String = self.text[place..self.at].iter().collect();
        if let Some(&index) = self.names.get(&name) {
            return Ok(index);
        }
        let index = self.rules.len();
        self.names.insert(name.clone(), index);
        self.rules.push(RuleEntry { name, place, body: None });
        Ok(index)
    }

    /// What is here, for an error.
    fn found(&self) -> String {
        self.peek().map_or_else(|| "the end of the grammar".into(), |c| format!("{c:?}"))
    }

    fn rule(&mut self) -> Result<(), GbnfError> {
        let place = self.at;
        let rule = self.name()?;
        if self.rules[rule].body.is_some() {
            let what = format!(
                "the rule {:?} is defined twice: join the two with |, or rename one",
                self.rules[rule].name
            );
            return self.error(place, what);
        }
        self.space(false);
        if !self.takes("::=") {
            let what = format!("::= is needed after a rule's name, not {}", self.found());
            return self.error(self.at, what);
        }
        self.space(true);
        let body = self.alternatives(0)?;
        self.rules[rule].body = Some(body.node);
        match self.peek() {
            None | Some('\r' | '\n') => self.space(true),
            Some(')') => {
                return self.error(self.at, "this ) closes no group: remove it, or add a (");
            }
            Some(_) => {
                let what = format!(
                    "{} means nothing here: quote text, and put every rule on its own line",
                    self.found()
                );
                return self.error(self.at, what);
            }
        }
        Ok(())
    }

    /// Alternatives at a depth of groups.
    fn alternatives(&mut self, depth: usize) -> Result<Part, GbnfError> {
        let mut choices = Vec::new();
        let mut weight = 1;
        loop {
            let part = self.sequence(depth)?;
            weight = weight.max(part.weight);
            choices.push(part.node);
            if !self.takes("|") {
                break;
            }
            self.space(true);
        }
        let node = if let [one] = choices[..] { one } else { self.push(Node::Alt(choices)) };
        Ok(Part { node, weight, operators: 0 })
    }

    fn sequence(&mut self, depth: usize) -> Result<Part, GbnfError> {
        let mut parts: Vec<Part> = Vec::new();
        while let Some(c) = self.peek() {
            let part = match c {
                '"' => self.literal()?,
                '[' => self.class()?,
                '.' => {
                    self.at += 1;
                    self.push(Node::Chars(CharSet::any()))
                }
                '<' | '!' => self.token()?,
                '(' => {
                    parts.push(self.group(depth)?);
                    self.space(depth > 0);
                    continue;
                }
                '*' | '+' | '?' | '{' => {
                    let part = self.operator(depth, parts.pop())?;
                    parts.push(part);
                    self.space(depth > 0);
                    continue;
                }
                c if is_name(c) => {
                    let rule = self.name()?;
                    self.push(Node::Rule(rule))
                }
                _ => break,
            };
            parts.push(Part { node: part, weight: 1, operators: 0 });
            self.space(depth > 0);
        }
        let weight = parts.iter().map(|part| part.weight).max().unwrap_or(1);
        let node = match parts[..] {
            [Part { node, .. }] => node,
            _ => self.push(Node::Seq(parts.into_iter().map(|part| part.node).collect())),
        };
        Ok(Part { node, weight, operators: 0 })
    }

    fn group(&mut self, depth: usize) -> Result<Part, GbnfError> {
        let place = self.at;
        if depth >= MAX_DEPTH {
            let what = format!(
                "{MAX_DEPTH} groups within one another is the limit: give the inner ones names"
            );
            return self.error(place, what);
        }
        self.at += 1;
        self.space(true);
        let part = self.alternatives(depth + 1)?;
        if self.takes(")") {
            return Ok(part);
        }
        match self.peek() {
            None => self.error(place, "this ( is never closed: add a )"),
            Some(_) => self.error(self.at, format!("a ) is needed here, not {}", self.found())),
        }
    }

    /// `* + ?` or a repetition in braces, after a part.
    fn operator(&mut self, depth: usize, before: Option<Part>) -> Result<Part, GbnfError> {
        let place = self.at;
        let Some(part) = before else {
            let what = format!("there is nothing before {} to repeat", self.found());
            return self.error(place, what);
        };
        let (min, max) = match self.peek() {
            Some('*') => (0, None),
            Some('+') => (1, None),
            Some('?') => (0, Some(1)),
            _ => self.bounds(depth)?,
        };
        self.at += 1;
        let weight = part.weight.saturating_mul(max.unwrap_or(min).max(1));
        if weight > MAX_REPEAT {
            let what = format!(
                "nested repetitions come to {weight}, and {MAX_REPEAT} is the limit: use smaller \
                 bounds, or * and +"
            );
            return self.error(place, what);
        }
        if part.operators >= MAX_OPERATORS {
            let what = format!("{MAX_OPERATORS} repetitions of one item is the limit");
            return self.error(place, what);
        }
        let node = self.push(Node::Repeat { of: part.node, min, max });
        Ok(Part { node, weight, operators: part.operators + 1 })
    }

    /// The bounds in braces, up to the closing one.
    fn bounds(&mut self, depth: usize) -> Result<(u32, Option<u32>), GbnfError> {
        let place = self.at;
        self.at += 1;
        self.space(depth > 0);
        let min = self.number()?;
        self.space(depth > 0);
        let mut max = Some(min);
        if self.takes(",") {
            self.space(depth > 0);
            max = None;
            if self.peek().is_some_and(|c| c.is_ascii_digit()) {
                max = Some(self.number()?);
                self.space(depth > 0);
            }
        }
        if self.peek() != Some('}') {
            return self.error(self.at, format!("a }} is needed here, not {}", self.found()));
        }
        if max.is_some_and(|max| max < min) {
            return self.error(place, "the first bound is above the second: exchange them");
        }
        Ok((min, max))
    }

    fn number(&mut self) -> Result<u32, GbnfError> {
        let place = self.at;
        let mut value = 0_u32;
        while let Some(digit) = self.peek().and_then(|c| c.to_digit(10)) {
            value = value.saturating_mul(10).saturating_add(digit);
            self.at += 1;
        }
        if self.at == place {
            let what =
                format!("a number is needed here, not {}: {{m}}, {{m,}} or {{m,n}}", self.found());
            return self.error(place, what);
        }
        if value > MAX_REPEAT {
            let what =
                format!("{MAX_REPEAT} repetitions is the limit: write {{m,}} for no upper bound");
            return self.error(place, what);
        }
        Ok(value)
    }
}

fn is_name(c: char) -> bool {
    c.is_ascii_alphanumeric() || c == '-' || c == '_'
}
