//! Makes untrusted text safe to show: replaces characters that could control a terminal or change the text direction.
//!
//! The ledger keeps the original text.

/// The replacement for a character that is not shown.
const GONE: char = '\u{FFFD}';

/// The text on one line.
pub fn line(text: &str) -> String {
    text.chars().map(|c| if is_odd(c) { GONE } else { c }).collect()
}

/// The text with its line breaks.
pub fn lines(text: &str) -> String {
    text.chars().map(|c| if c != '\n' && is_odd(c) { GONE } else { c }).collect()
}

/// Control characters, marks that change the writing direction, and separators that only some programs treat
/// as line ends.
fn is_odd(c: char) -> bool {
    let turns = matches!(c, '\u{61C}' | '\u{200E}' | '\u{200F}' | '\u{202A}'..='\u{202E}' | '\u{2066}'..='\u{2069}');
    let hidden = matches!(c, '\u{2028}' | '\u{2029}' | '\u{FEFF}' | '\u{E0000}'..='\u{E007F}');
    c.is_control() || turns || hidden
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn nothing_that_commands_a_terminal_is_left() {
        let text = "slow \u{1b}[2J\u{9b}31m\u{7} \u{202e}evil\u{2069}\r\n\u{feff}ok";
        assert_eq!(
            lines(text),
            "slow \u{fffd}[2J\u{fffd}31m\u{fffd} \u{fffd}evil\u{fffd}\u{fffd}\n\u{fffd}ok"
        );
        assert_eq!(line("a\nb"), "a\u{fffd}b");
        for plain in ["", "müde, 5 % of 1/2", "遅い", "\u{1F6D1} halt"] {
            assert_eq!(line(plain), plain);
        }
    }

    proptest! {
        #[test]
        fn cleaning_keeps_the_length_and_is_done_once(text in any::<String>()) {
            let clean = line(&text);
            prop_assert_eq!(clean.chars().count(), text.chars().count());
            prop_assert!(!clean.chars().any(|c| c.is_control()));
            prop_assert_eq!(line(&clean), clean);
        }
    }
}
