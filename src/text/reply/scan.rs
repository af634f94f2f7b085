//! Follows JSON text character by character: where a value ends, and that it is well formed so far.
//!
//! It does not know the meaning of the JSON. Source: RFC 8259. Control characters inside strings are accepted, because
//! models write them; code that passes the text on has to escape them.

const MAX_DEPTH: usize = 256;

/// What a character means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Step {
    More,
    /// The value is complete with this character.
    Done,
    /// This character cannot follow.
    Invalid,
}

/// What may come next inside an object or a list.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Expect {
    KeyOrEnd,
    Key,
    Colon,
    Value,
    ValueOrEnd,
    CommaOrEnd,
}

/// A `Word` is a number, `true`, `false` or `null`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum Inside {
    #[default]
    Nothing,
    String {
        escaped: bool,
    },
    Word,
}

#[derive(Debug, Clone, Default)]
pub(super) struct Scanner {
    /// The open containers: whether each is an object, and what it expects.
    open: Vec<(bool, Expect)>,
    inside: Inside,
}

impl Scanner {
    /// Number of open objects and lists.
    pub(super) fn depth(&self) -> usize {
        self.open.len()
    }

    /// Whether the last character was inside a string, its opening quote included and its closing one not.
    pub(super) fn in_string(&self) -> bool {
        matches!(self.inside, Inside::String { .. })
    }

    /// Whether a value of the innermost container comes next.
    pub(super) fn at_value(&self) -> bool {
        self.inside == Inside::Nothing
            && matches!(self.open.last(), Some((_, Expect::Value | Expect::ValueOrEnd)))
    }

    /// Whether a key of the innermost object comes next.
    pub(super) fn at_key(&self) -> bool {
        self.inside == Inside::Nothing
            && matches!(self.open.last(), Some((true, Expect::Key | Expect::KeyOrEnd)))
    }

    /// Whether a value of the innermost container has just ended.
    pub(super) fn is_past_value(&self) -> bool {
        matches!(self.open.last(), Some((_, Expect::CommaOrEnd)))
    }

    pub(super) fn push(&mut self, c: char) -> Step {
        match self.inside {
            Inside::String { escaped: true } => self.inside = Inside::String { escaped: false },
            Inside::String { .. } if c == '\\' => self.inside = Inside::String { escaped: true },
            Inside::String { .. } if c == '"' => {
                self.inside = Inside::Nothing;
                self.after_token();
            }
            Inside::String { .. } => {}
            Inside::Word if c.is_ascii_alphanumeric() || matches!(c, '+' | '-' | '.') => {}
            Inside::Word => {
                self.inside = Inside::Nothing;
                self.after_token();
                return self.structure(c);
            }
            Inside::Nothing => return self.structure(c),
        }
        Step::More
    }

    /// A string or a word has ended.
    fn after_token(&mut self) {
        if let Some((_, expect)) = self.open.last_mut() {
            *expect = match *expect {
                Expect::Key | Expect::KeyOrEnd => Expect::Colon,
                _ => Expect::CommaOrEnd,
            };
        }
    }

    fn structure(&mut self, c: char) -> Step {
        if c.is_ascii_whitespace() {
            return Step::More;
        }
        let Some((object, expect)) = self.open.last().copied() else {
            return if matches!(c, '{' | '[') { self.descend(c) } else { Step::Invalid };
        };
        let next = match (c, expect) {
            ('"', Expect::Key | Expect::KeyOrEnd | Expect::Value | Expect::ValueOrEnd) => {
                self.inside = Inside::String { escaped: false };
                expect
            }
            (':', Expect::Colon) => Expect::Value,
            (',', Expect::CommaOrEnd) if object => Expect::Key,
            (',', Expect::CommaOrEnd) => Expect::Value,
            ('}', Expect::KeyOrEnd | Expect::CommaOrEnd) if object => return self.ascend(),
            (']', Expect::ValueOrEnd | Expect::CommaOrEnd) if !object => return self.ascend(),
            ('{' | '[', Expect::Value | Expect::ValueOrEnd) => return self.descend(c),
            ('-' | '0'..='9' | 't' | 'f' | 'n', Expect::Value | Expect::ValueOrEnd) => {
                self.inside = Inside::Word;
                expect
            }
            _ => return Step::Invalid,
        };
        if let Some(innermost) = self.open.last_mut() {
            innermost.1 = next;
        }
        Step::More
    }

    fn descend(&mut self, c: char) -> Step {
        if self.open.len() >= MAX_DEPTH {
            return Step::Invalid;
        }
        let object = c == '{';
        self.open.push((object, if object { Expect::KeyOrEnd } else { Expect::ValueOrEnd }));
        Step::More
    }

    fn ascend(&mut self) -> Step {
        self.open.pop();
        self.after_token();
        if self.open.is_empty() { Step::Done } else { Step::More }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::Value;

    fn scanned(text: &str) -> Vec<Step> {
        let mut scanner = Scanner::default();
        text.chars().map(|c| scanner.push(c)).collect()
    }

    #[test]
    fn what_is_not_json_is_noticed() {
        for bad in [
            "{a",
            "{\"a\" \"",
            "{\"a\":}",
            "[,",
            "[1 2",
            "{\"a\":1,}",
            "[}",
            "{\"a\":[}",
            "x",
            "\"",
            "{]",
        ] {
            assert!(scanned(bad).contains(&Step::Invalid), "{bad}");
        }
    }

    fn value() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            any::<f64>().prop_map(Value::from),
            ".{0,8}".prop_map(Value::from),
            "[{}\\[\\]\",:\\\\]{0,6}".prop_map(Value::from),
        ];
        leaf.prop_recursive(4, 24, 4, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
                prop::collection::hash_map(".{0,4}", inner, 0..4)
                    .prop_map(|map| Value::Object(map.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #[test]
        fn a_value_ends_where_it_ends(value in prop::collection::vec(value(), 0..4), pretty: bool) {
            let value = Value::from(value);
            let text = if pretty { format!("{value:#}") } else { value.to_string() };
            let steps = scanned(&text);
            let (last, before) = steps.split_last().unwrap();
            prop_assert_eq!(*last, Step::Done);
            prop_assert!(before.iter().all(|step| *step == Step::More));
        }
    }
}
