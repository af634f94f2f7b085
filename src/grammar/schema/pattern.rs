//! Translates a schema's `pattern`, an ECMA-262 regular expression, to the syntax of the crate `regex`.
//!
//! Syntax that both share with different meanings is rewritten or refused: the dot, white space, and nested classes.
//! Syntax that the library does not support, such as lookahead, is refused by the library.

use super::GrammarError;
use crate::grammar::limits::check_regex;

/// Line terminators, which a dot does not match.
const LINE_ENDS: &str = r"\n\r\u2028\u2029";
/// What `\s` matches.
const SPACE: &str =
    r"\t\n\x0B\x0C\r\x20\u00A0\u1680\u2000-\u200A\u2028\u2029\u202F\u205F\u3000\uFEFF";

/// The pattern with the same meaning.
pub(super) fn translated(pattern: &str) -> Result<String, GrammarError> {
    check_regex(pattern, "pattern")?;
    let (mut out, mut inside) = (String::with_capacity(pattern.len()), false);
    let mut rest = pattern.chars().peekable();
    while let Some(c) = rest.next() {
        match c {
            '\\' => escape(rest.next(), inside, &mut out),
            '.' if !inside => out.push_str(&format!("[^{LINE_ENDS}]")),
            '[' if inside => out.push_str(r"\["),
            '[' => {
                inside = true;
                out.push('[');
                if rest.next_if_eq(&'^').is_some() {
                    out.push('^');
                }
                if rest.peek() == Some(&']') {
                    let what = "pattern: an empty class, [] or [^], is not supported";
                    return Err(GrammarError(what.to_owned()));
                }
            }
            ']' if inside => {
                inside = false;
                out.push(']');
            }
            // Set operations of the other syntax.
            '&' | '~' if inside => {
                out.push('\\');
                out.push(c);
            }
            '-' if inside && rest.peek() == Some(&'-') => {
                let what = "pattern: '--' in a class is not supported; write \\-";
                return Err(GrammarError(what.to_owned()));
            }
            c => out.push(c),
        }
    }
    Ok(out)
}

fn escape(escaped: Option<char>, inside: bool, out: &mut String) {
    match (escaped, inside) {
        (Some('s'), true) => out.push_str(SPACE),
        (Some('s'), false) => out.push_str(&format!("[{SPACE}]")),
        (Some('S'), false) => out.push_str(&format!("[^{SPACE}]")),
        (Some('/'), _) => out.push('/'),
        (escaped, _) => {
            out.push('\\');
            out.extend(escaped);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_read_otherwise_is_written_otherwise() {
        let cases = [
            ("^a+$", "^a+$".to_owned()),
            ("a.b", format!("a[^{LINE_ENDS}]b")),
            ("[.]", "[.]".to_owned()),
            (r"\.", r"\.".to_owned()),
            (r"\s[\s,]", format!("[{SPACE}][{SPACE},]")),
            ("[[a]b]", r"[\[a]b]".to_owned()),
            ("[^a&&b]", r"[^a\&\&b]".to_owned()),
            (r"\/[\d\]]", r"/[\d\]]".to_owned()),
        ];
        for (pattern, expected) in cases {
            assert_eq!(translated(pattern).unwrap(), expected, "{pattern}");
        }
        assert!(translated("[]").is_err() && translated("[^]").is_err());
        assert!(translated("[a--b]").is_err());
    }
}
