//! Limits on regular expressions and grammars, checked on their text. Pure.
//!
//! The work and memory of a lexer grow with the product of nested repetition counts, and compiling recurses along
//! chains of rule names. The limits are far above what people write. A grammar within them is still subject to limits
//! when it is compiled.

use super::GrammarError;

/// Largest regular expression in bytes.
const MAX_REGEX: usize = 16 << 10;
/// Largest number that a repetition, and those around it, multiply up to.
const MAX_REPEATS: u64 = 20_000;
/// Most rules of a grammar.
const MAX_RULES: usize = 2_000;

/// Checks a regular expression; `what` is what it is called.
pub(super) fn check_regex(regex: &str, what: &str) -> Result<(), GrammarError> {
    if regex.len() > MAX_REGEX {
        let text = format!("{what}: it has {} bytes, at most {MAX_REGEX} are allowed", regex.len());
        return Err(GrammarError(text));
    }
    let escapes = regex.chars().rev().take_while(|c| *c == '\\').count();
    if escapes % 2 == 1 {
        return Err(GrammarError(format!("{what}: it ends with a single backslash")));
    }
    match repeats(regex) > MAX_REPEATS {
        true => {
            let text = format!("{what}: its repetitions multiply to more than {MAX_REPEATS}");
            Err(GrammarError(text))
        }
        false => Ok(()),
    }
}

/// Checks a grammar in Lark: its rules, and its repetitions, which are written alike in its regular expressions.
pub(super) fn check_lark(grammar: &str) -> Result<(), GrammarError> {
    let rules = grammar.lines().filter(|line| line.contains(':')).count();
    if rules > MAX_RULES {
        let text = format!("the grammar has {rules} rules, at most {MAX_RULES} are allowed");
        return Err(GrammarError(text));
    }
    match grammar.lines().any(|line| repeats(line) > MAX_REPEATS) {
        true => {
            let text = format!("the repetitions of a rule multiply to more than {MAX_REPEATS}");
            Err(GrammarError(text))
        }
        false => Ok(()),
    }
}

/// The most that nested counted repetitions multiply up to, which also counts those that follow one another directly.
fn repeats(text: &str) -> u64 {
    let (mut levels, mut most) = (vec![1u64], 1);
    // The group, or the item, before a repetition: what it holds multiplies up to.
    let mut last = 1;
    let mut rest = text.char_indices();
    while let Some((at, c)) = rest.next() {
        match c {
            '\\' => {
                rest.next();
                last = 1;
            }
            '(' => levels.push(1),
            ')' => {
                last = levels.pop().unwrap_or(1);
                if levels.is_empty() {
                    levels.push(1);
                }
            }
            '{' => {
                if let Some(count) = count(&text[at + 1..]) {
                    last = last.saturating_mul(count.max(1));
                }
            }
            '}' | '/' | '?' | '*' | '+' | ' ' => {}
            c if c.is_ascii_digit() || c == ',' => {}
            _ => last = 1,
        }
        if let Some(level) = levels.last_mut() {
            *level = (*level).max(last);
        }
        most = most.max(last);
    }
    most
}

/// The larger count of `{m}`, `{m,}` or `{m,n}`, without the brace.
fn count(text: &str) -> Option<u64> {
    let inside = text.split_once('}')?.0;
    let numbers: Option<Vec<u64>> = inside
        .split(',')
        .map(str::trim)
        .filter(|n| !n.is_empty())
        .map(|n| n.parse().ok())
        .collect();
    numbers?.into_iter().max()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nested_repetitions_multiply() {
        let cases = [
            ("abc", 1),
            ("a{3}", 3),
            ("a{3,7}b{2}", 7),
            ("(a{10}){20}", 200),
            ("(a{10}b{30}){20}", 600),
            ("((a{10}){10}|b){10}", 1000),
            (r"\{5}x", 1),
            ("a{1000}{1000}", 1_000_000),
            ("/a{1000}/{1000}", 1_000_000),
            ("{\"a\": 12}", 1),
        ];
        for (regex, expected) in cases {
            assert_eq!(repeats(regex), expected, "{regex}");
        }
        assert!(check_regex("(a{1000}){1000}", "pattern").is_err());
        assert!(check_regex("a{1000}", "pattern").is_ok());
        assert!(check_regex(r"a\", "pattern").is_err() && check_regex(r"a\\", "pattern").is_ok());
        assert!(check_lark("start: A\nA: /a{1000}/{1000}").is_err());
        assert!(check_lark(&"r: \"a\"\n".repeat(MAX_RULES + 1)).is_err());
    }
}
