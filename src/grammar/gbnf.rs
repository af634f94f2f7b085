//! Translates grammars in llama.cpp's notation, GBNF, to the dialect of Lark that llguidance reads.
//!
//! The translated grammar accepts the same texts. llguidance splits text into lexemes with a greedy lexer, which GBNF
//! does not have. So a part becomes one lexeme only if this does not change which texts match; otherwise it becomes
//! single characters.
//!
//! It does not know about models or vocabularies: llguidance checks whether a token that a grammar names exists.

mod atoms;
mod automaton;
mod charset;
mod lexing;
mod lower;
mod parse;
#[cfg(test)]
mod tests;

use lexing::Finding;
use lower::{Apart, Item, Known, Lowered, Symbol};
use std::collections::{HashMap, HashSet};

/// Steps to find the lexemes. Once they are spent, every character becomes a lexeme.
const BUDGET: usize = 60_000_000;
/// How far rules may lead into one another. llguidance follows them on the stack.
const MAX_CHAIN: usize = 200;

/// Why a grammar is refused, and where in it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("line {line}, column {column}: {what}")]
pub struct GbnfError {
    /// Counted from 1.
    pub line: usize,
    /// In characters, counted from 1.
    pub column: usize,
    /// The problem, and what to do about it.
    pub what: String,
}

/// Translates a GBNF grammar to Lark for llguidance. The rule `root` becomes `start`.
///
/// The notation is that of llama.cpp's `grammars/README.md` and `src/llama-grammar.cpp`. Left recursion, which
/// llama.cpp refuses, is allowed.
///
/// # Errors
///
/// A grammar that llama.cpp would not read, that goes beyond a limit on size or nesting, that defines a rule
/// twice, that accepts no text, or that has a token which llguidance has no equal for.
pub fn to_lark(gbnf: &str) -> Result<String, GbnfError> {
    let known = Known::new(parse::parse(gbnf)?);
    let error_at = |place, what: &str| {
        let text: Vec<char> = gbnf.chars().collect();
        Err(parse::error_at(&text, place, what))
    };
    if !known.is_productive() {
        let what = "root accepts no text: every alternative leads back to a rule that is not \
                    finished; add one that ends";
        return error_at(known.grammar.rules[known.grammar.root].place, what);
    }
    let mut apart = Apart::default();
    let mut budget = BUDGET;
    loop {
        let Some(lowered) = lower::lower(&known, &apart) else {
            let what = "the grammar is too large with all names written out: shorten it";
            return error_at(0, what);
        };
        if let Some(rule) = too_deep(&lowered) {
            let place = known.grammar.rules[rule].place;
            let what = format!(
                "rules lead into one another more than {MAX_CHAIN} deep, down to this one: use * or \
                 + in place of long chains"
            );
            return error_at(place, &what);
        }
        if apart.all && !known.has_negated_tokens() {
            return Ok(write(&known, &lowered));
        }
        match lexing::look(&known, &lowered, &mut budget) {
            Finding::Right => return Ok(write(&known, &lowered)),
            Finding::Apart(nodes) => apart.nodes.extend(nodes),
            Finding::TooLarge if apart.all => {
                return error_at(0, "the grammar is too large for negated tokens: shorten it");
            }
            Finding::TooLarge => {
                apart.all = true;
                budget = BUDGET;
            }
            Finding::Unclear(node) => {
                let place = known.token(node).map_or(0, |token| token.place);
                let what = "a negated token is not supported where text or another token may stand \
                            too: keep the two apart, or name the tokens";
                return error_at(place, what);
            }
        }
    }
}

/// The rule of the grammar where the rules lead too deep into one another, if they do.
fn too_deep(lowered: &Lowered) -> Option<usize> {
    let rules_in = |rule: usize| {
        let items = lowered.rules[rule].choices.iter().flatten();
        items.filter_map(|item| match item.symbol {
            Symbol::Rule(inner) => Some(inner),
            Symbol::Lexeme(_) | Symbol::Token(_) => None,
        })
    };
    let mut seen = vec![false; lowered.rules.len()];
    let mut path = vec![rules_in(0)];
    seen[0] = true;
    while let Some(last) = path.last_mut() {
        match last.next() {
            Some(rule) if seen[rule] => {}
            Some(rule) if path.len() >= MAX_CHAIN => return Some(lowered.rules[rule].of),
            Some(rule) => {
                seen[rule] = true;
                path.push(rules_in(rule));
            }
            None => {
                path.pop();
            }
        }
    }
    None
}

/// The text of the rules, the start first, and of the lexemes that they name.
fn write(known: &Known, lowered: &Lowered) -> String {
    let names = names(known, lowered);
    let mut out = String::new();
    let mut lexemes = Vec::new();
    let mut is_named = vec![false; lowered.lexemes.len()];
    for (rule, name) in lowered.rules.iter().zip(&names) {
        out.push_str(name);
        for (i, choice) in rule.choices.iter().enumerate() {
            out.push_str(if i == 0 { ":" } else { "\n  |" });
            if choice.is_empty() {
                out.push_str(" \"\"");
            }
            for item in choice {
                if let Symbol::Lexeme(lexeme) = item.symbol
                    && !std::mem::replace(&mut is_named[lexeme], true)
                {
                    lexemes.push(lexeme);
                }
                write_item(known, &names, item, &mut out);
            }
        }
        out.push('\n');
    }
    for lexeme in lexemes {
        out.push_str(&format!("T{lexeme}: /{}/\n", lowered.lexemes[lexeme].regex));
    }
    out
}

fn write_item(known: &Known, names: &[String], item: &Item, out: &mut String) {
    let name = match item.symbol {
        Symbol::Lexeme(lexeme) => format!("T{lexeme}"),
        Symbol::Token(node) => {
            known.token(node).map(|token| token.text.clone()).unwrap_or_default()
        }
        Symbol::Rule(rule) => names[rule].clone(),
    };
    let times = match (item.min, item.max) {
        (1, Some(1)) => String::new(),
        (0, Some(1)) => "?".into(),
        (0, None) => "*".into(),
        (1, None) => "+".into(),
        (min, None) => format!("~{min} {name}*"),
        (min, Some(max)) if min == max => format!("~{min}"),
        (min, Some(max)) => format!("~{min}..{max}"),
    };
    out.push(' ');
    out.push_str(&name);
    out.push_str(&times);
}

/// A name for every rule, no two the same: those of the grammar, in the letters that Lark takes.
fn names(known: &Known, lowered: &Lowered) -> Vec<String> {
    let mut taken = HashSet::from(["start".to_owned()]);
    let mut counts: HashMap<String, usize> = HashMap::new();
    let mut names = vec!["start".to_owned()];
    for rule in lowered.rules.iter().skip(1) {
        let own = &known.grammar.rules[rule.of].name;
        let mut base = own.to_ascii_lowercase().replace('-', "_");
        if !base.starts_with(|c: char| c.is_ascii_lowercase()) {
            base.insert_str(0, "r_");
        }
        let count = counts.entry(base.clone()).or_insert(0);
        loop {
            *count += 1;
            let name = if *count == 1 { base.clone() } else { format!("{base}_{count}") };
            if taken.insert(name.clone()) {
                names.push(name);
                break;
            }
        }
    }
    names
}
