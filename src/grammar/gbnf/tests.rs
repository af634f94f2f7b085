//! Tests: the translation, run by llguidance with a vocabulary of bytes, accepts exactly the texts of the grammar,
//! according to a table and to an interpreter that shares no code with the translation.

use super::*;
use llguidance::api::TopLevelGrammar;
use llguidance::toktrie::{ApproximateTokEnv, TokEnv};
use llguidance::{Matcher, ParserFactory};
use proptest::prelude::*;
use std::sync::LazyLock;

static BYTES: LazyLock<TokEnv> = LazyLock::new(ApproximateTokEnv::single_byte_env);

/// llguidance's matcher for Lark text.
fn matcher(lark: &str) -> Matcher {
    let mut factory = ParserFactory::new_simple(&BYTES).unwrap();
    factory.quiet();
    let matcher = Matcher::new(factory.create_parser(TopLevelGrammar::from_lark(lark.to_owned())));
    assert!(!matcher.is_error(), "{:?}\n{lark}", matcher.get_error());
    matcher
}

fn translated(gbnf: &str) -> (Matcher, String) {
    let lark = to_lark(gbnf).unwrap_or_else(|error| panic!("{error}\n{gbnf}"));
    (matcher(&lark), lark)
}

fn takes(matcher: &Matcher, tokens: &[u32]) -> bool {
    let mut matcher = matcher.deep_clone();
    let taken = matcher.try_consume_tokens(tokens).unwrap();
    taken == tokens.len() && matcher.is_accepting().unwrap()
}

fn accepts(matcher: &Matcher, text: &str) -> bool {
    takes(matcher, &text.bytes().map(u32::from).collect::<Vec<_>>())
}

fn check(gbnf: &str, accepted: &[&str], rejected: &[&str]) {
    let (matcher, lark) = translated(gbnf);
    for text in accepted {
        assert!(accepts(&matcher, text), "{text:?} is not accepted\n{gbnf}\n{lark}");
    }
    for text in rejected {
        assert!(!accepts(&matcher, text), "{text:?} is accepted\n{gbnf}\n{lark}");
    }
}

#[test]
fn every_feature_means_what_it_does_in_llama_cpp() {
    check(r#"root ::= "ab""#, &["ab"], &["", "a", "abc", "AB"]);
    check("root ::= \"a\"\r\n", &["a"], &["", "a\n"]);
    check(r#"root ::= """#, &[""], &["a"]);
    check("root ::= ", &[""], &["a"]);
    check(r#"root ::= | "a""#, &["", "a"], &["aa"]);
    check(r#"root ::= "a" | "b" "c""#, &["a", "bc"], &["", "ab", "b", "ac"]);
    check(r#"root ::= ("a" | "b") "c""#, &["ac", "bc"], &["a", "c", "b"]);
    check(r#"root ::= "ab"*"#, &["", "ab", "abab"], &["a", "abb"]);
    check(r#"root ::= "a"+"#, &["a", "aaa"], &["", "b"]);
    check(r#"root ::= "a"? "b""#, &["b", "ab"], &["", "a", "aab"]);
    check(r#"root ::= "a"{3}"#, &["aaa"], &["aa", "aaaa"]);
    check(r#"root ::= "a"{2,}"#, &["aa", "aaaaa"], &["", "a"]);
    check(r#"root ::= "a"{1,3}"#, &["a", "aaa"], &["", "aaaa"]);
    check(r#"root ::= "a"{ 0 , 2 } "b""#, &["b", "aab"], &["aaab"]);
    check(r#"root ::= "a"{0} "b""#, &["b"], &["ab", "a"]);
    check(r#"root ::= "a"{2}{2}"#, &["aaaa"], &["aa", "aaaaaa"]);
    check(r#"root ::= "a"+?"#, &["", "aa"], &["b"]);
    check("root ::= .", &["a", "\n", "\0", "é", "\u{10FFFF}"], &["", "aa"]);
    check("root ::= (\n \"a\"\n # a remark\n | \"b\" )\n", &["a", "b"], &["ab"]);
    check("root ::= \"a\" |\n  \"b\" # remark\n\n# more\n", &["a", "b"], &["ab"]);
    check("# first\nroot\t::=\n one two\none ::= \"1\"\ntwo ::= one", &["11"], &["1", "111"]);
    check("r00t_-A ::= \"x\"\nroot ::= r00t_-A", &["x"], &["r"]);
}

#[test]
fn characters_escapes_and_classes() {
    check(r#"root ::= "\n\r\t\\\"\[\]\-""#, &["\n\r\t\\\"[]-"], &["nrt"]);
    check(r#"root ::= "\x41\u00e9\U0001F600""#, &["Aé😀"], &["Aé"]);
    check("root ::= \"a\nb\"", &["a\nb"], &["a b", "ab"]);
    check(r#"root ::= "/*+?.()[]{}|^$#&~<>-\\""#, &["/*+?.()[]{}|^$#&~<>-\\"], &["/", ""]);
    check("root ::= [a-c]", &["a", "c"], &["d", "-", "", "ab"]);
    check("root ::= [^a-c]", &["d", "\n", "é"], &["a", "b", "", "dd"]);
    check("root ::= [a-]", &["a", "-"], &["b"]);
    check("root ::= [-a]", &["a", "-"], &["b"]);
    check("root ::= [a^]", &["a", "^"], &["b"]);
    check("root ::= [a\\-c]", &["a", "-", "c"], &["b"]);
    check(r#"root ::= [\]\[\\"/]"#, &["]", "[", "\\", "\"", "/"], &["a"]);
    check(r#"root ::= [^\]\\^-]"#, &["a", "["], &["]", "\\", "^", "-"]);
    check(r"root ::= [\x00-\x1F\x7f&~]", &["\0", "\x1f", "\x7f", "&", "~"], &[" ", "a"]);
    check("root ::= [ぁ-ゟ]+", &["あいう"], &["a", "ア", ""]);
    check("root ::= [à-ÿ]", &["é"], &["e", "\u{e9}\u{e9}"]);
    check("root ::= [^\u{1}-\u{10FFFF}]", &["\0"], &["a"]);
}

#[test]
fn names_that_lark_would_not_tell_apart_stay_apart() {
    let gbnf = "root ::= a-b a_b A-b start 1 [x] root2\na-b ::= \"1\" | \"(\" a-b \")\"\na_b ::= \"2\" | \
                \"(\" a_b \")\"\nA-b ::= \"3\" | \"(\" A-b \")\"\nstart ::= \"4\" | \"(\" start \
                \")\"\n1 ::= \"5\" | \"(\" 1 \")\"\nroot2 ::= \"\" | root";
    check(gbnf, &["12345x", "(1)2(3)((4))5x12345x"], &["1234x", "21345x", "12345"]);
}

#[test]
fn greedy_lexemes_do_not_change_the_language() {
    // every one of these is read wrong where each part is one greedy lexeme
    check(
        "root ::= [a-z]* \"foo\" more\nmore ::= \"\" | \"(\" more \")\"",
        &["foo", "xfoo", "foofoo()"],
        &["", "fo", "xfoox"],
    );
    check(
        "root ::= word | \"(\" root \")\"\nword ::= (\"foo\" | \"foobar\") (\"b\" | \"bar\")",
        &["foob", "foobar", "foobarb", "((foobarbar))"],
        &["foo", "foobarx", "(foob"],
    );
    check("root ::= [é] root | [èa]* \"é\"", &["é", "éèaé", "èé"], &["", "è", "éè"]);
    check(
        "root ::= ws \"{\" ws root? ws \"}\" ws\nws ::= [ \\t]{0,3}",
        &["{}", "  { {   }   }   ", "   {      }"],
        &["    {}", "{       }"],
    );
    check("a ::= \"a\" | a a\nroot ::= a \"a\"", &["aa", "aaaa"], &["a", ""]);
}

#[test]
fn left_recursion_and_cycles() {
    check("root ::= root \"+\" [0-9] | [0-9]", &["1", "1+2+3"], &["", "1+", "+1"]);
    check("root ::= root | \"a\"", &["a"], &["", "aa"]);
    check("root ::= a b\na ::= b | \"\"\nb ::= a | \"x\"", &["", "x", "xx"], &["xxx"]);
    check("root ::= (root?)* \"a\"", &["a", "aa", "aaa"], &["", "b"]);
}

/// As in llama.cpp's own grammars.
const JSON: &str = r#"
root ::= thing
thing ::= map | list | text | num | ("true" | "false" | "null") gap
map ::= "{" gap (text ":" gap thing ("," gap text ":" gap thing)*)? "}" gap
list ::= "[" gap ( thing ("," gap thing)* )? "]" gap
text ::= "\"" ( [^"\\\x7F\x00-\x1F] | "\\" (["\\bfnrt] | "u" [0-9a-fA-F]{4}) )* "\"" gap
num ::= "-"? ([0-9] | [1-9] [0-9]{0,15}) ("." [0-9]+)? ([eE] [-+]? [0-9] [1-9]{0,15})? gap
gap ::= | " " | "\n" [ \t]{0,20}
"#;

#[test]
fn json_is_read_in_long_lexemes() {
    let good = [
        "{}",
        "{\"a\": [1, -2.5e+1, \"x\\u00e9\\n\u{1F600}\", true , null],\n\t\"b\": {}\n  }\n",
        "[ [],[ {} ] ]",
        "\"\"",
        "0 ",
    ];
    let bad =
        ["", "{", "{\"a\" 1}", "\"\n\"", "\"\\x\"", "01", "[1,]", "tru", "{}}", "\"a\\u00e\""];
    check(JSON, &good, &bad);
    let lark = to_lark(JSON).unwrap();
    let longest = lark.lines().filter(|line| line.starts_with('T')).map(str::len).max();
    assert!(longest > Some(60), "{lark}");
    assert!(lark.contains("(?:true|false|null)"), "{lark}");
}

#[test]
fn a_grammar_without_recursion_is_one_lexeme() {
    let lark =
        to_lark("root ::= \"1. \" move (\" \" move)+\nmove ::= [NBKQR]? [a-h] [1-8]").unwrap();
    assert_eq!(
        lark,
        "start: T0\nT0: /1\\x{2E} (?:[BKNQR])?[a-h][1-8](?:\\x20(?:[BKNQR])?[a-h][1-8])+/\n"
            .replace("\\x20", " ")
    );
}

#[test]
fn tokens() {
    // the vocabulary's special tokens start at 256
    let (matcher, lark) = translated("root ::= <[256]> [a-z]* <|/tool|> | \"x\" <[260]>");
    assert!(lark.contains("<[256]>") && lark.contains("<|/tool|>"), "{lark}");
    let (a, x) = (u32::from(b'a'), u32::from(b'x'));
    for (tokens, wanted) in [
        (&[256, a, a, 257][..], true),
        (&[256, 257], true),
        (&[x, 260], true),
        (&[256, a], false),
        (&[a], false),
        (&[256, a, 258], false),
        (&[x, 256], false),
    ] {
        assert_eq!(takes(&matcher, tokens), wanted, "{tokens:?}");
    }
    let (matcher, lark) = translated("root ::= <[256]> !<[257]>* <[257]> \"ok\"");
    assert!(lark.contains("<[^257]>"), "{lark}");
    let (o, k) = (u32::from(b'o'), u32::from(b'k'));
    assert!(takes(&matcher, &[256, a, 258, x, 257, o, k]));
    assert!(!takes(&matcher, &[256, a, 258, x]));
}

fn error(gbnf: &str) -> GbnfError {
    match to_lark(gbnf) {
        Ok(lark) => panic!("{gbnf:?} became {lark}"),
        Err(error) => error,
    }
}

#[test]
fn errors_say_where_and_what() {
    for (gbnf, line, column, what) in [
        ("", 1, 1, "is empty"),
        ("# nothing\n", 2, 1, "is empty"),
        ("a ::= \"x\"\n", 2, 1, "no rule named root"),
        ("root ::= a\n\na ::= b | nix", 3, 7, "\"b\" is not defined"),
        ("root ::= \"abc", 1, 10, "is never closed"),
        ("root ::= [abc", 1, 10, "is never closed"),
        ("root ::= (\"a\"\n", 1, 10, "is never closed"),
        ("root ::= (\"a\" ]", 1, 15, "a ) is needed"),
        ("root ::= <[1]", 1, 10, "is never closed"),
        ("root ::= \"a\")", 1, 13, "closes no group"),
        ("root ::= \"a\" 'b'", 1, 14, "means nothing here"),
        ("root ::= \"a\"\n  \"b\"", 2, 3, "a rule's name is needed"),
        ("root = \"a\"", 1, 6, "::= is needed"),
        ("root ::= * \"a\"", 1, 10, "nothing before '*'"),
        ("root ::= \"a\" | {2}", 1, 16, "nothing before '{'"),
        ("root ::= \"a\"{3,2}", 1, 13, "exchange them"),
        ("root ::= \"a\"{,2}", 1, 14, "a number is needed"),
        ("root ::= \"a\"{2", 1, 15, "a } is needed"),
        ("root ::= \"a\"{99999999999999999999}", 1, 14, "2000 repetitions is the limit"),
        ("root ::= (\"a\"{1000}){1000}", 1, 21, "come to 1000000"),
        ("root ::= \"a\"******", 1, 17, "4 repetitions of one item"),
        ("root ::= \"\\q\"", 1, 11, "escape is not known"),
        ("root ::= \"\\x4\"", 1, 11, "needs 2 hexadecimal digits"),
        ("root ::= \"\\uD800\"", 1, 11, "not a character"),
        ("root ::= [\\UFFFFFFFF]", 1, 11, "not a character"),
        ("root ::= [z-a]", 1, 11, "exchange its ends"),
        ("root ::= []", 1, 10, "no characters"),
        ("root ::= [^]", 1, 10, "no characters"),
        ("root ::= [^\\x00-\\U0010FFFF]", 1, 10, "no characters"),
        ("root ::= \"a\0\"", 1, 12, "zero character"),
        ("root ::= \"a\"\nroot ::= \"b\"", 2, 1, "defined twice"),
        ("# x\nroot ::= \"a\" b\nb ::= root", 2, 1, "accepts no text"),
        ("root ::= <[x]>", 1, 10, "as in <[7]>"),
        ("root ::= <a b>", 1, 10, "<a b> is not supported"),
        ("root ::= !<think>", 1, 10, "!<think> is not supported"),
        ("root ::= !\"a\"", 1, 11, "a token is needed"),
        ("root ::= !<[1]>* \"a\"", 1, 10, "negated token is not supported where"),
        ("root ::= !<[1]> | <a>", 1, 10, "negated token is not supported where"),
        ("root ::= !<[1]> | !<[2]>", 1, 10, "negated token is not supported where"),
        ("root ::= [a-z]* \"é\" !<[1]> | [a-z] !<[2]>", 1, 36, "negated token is not supported"),
    ] {
        let error = error(gbnf);
        assert_eq!((error.line, error.column), (line, column), "{gbnf:?}: {error}");
        assert!(error.what.contains(what), "{gbnf:?}: {error}");
        assert_eq!(error.to_string(), format!("line {line}, column {column}: {}", error.what));
    }
}

#[test]
fn sizes_and_depths_are_bounded() {
    let deep = format!("root ::= {}\"a\"{}", "(".repeat(100_000), ")".repeat(100_000));
    assert!(error(&deep).what.contains("groups within one another"));
    assert!(error(&format!("root ::= {}", "(".repeat(100_000))).column < 100);
    assert!(error(&"a".repeat(1 << 20)).what.contains("is the limit"));
    let chain = |n: usize| {
        let rules = (0..n).map(|i| format!("r{i} ::= \"(\" r{} \")\" | \"x\"\n", (i + 1) % n));
        format!("root ::= r0\n{}", rules.collect::<String>())
    };
    assert!(error(&chain(5000)).what.contains("deep"));
    let matcher = translated(&chain(150)).0;
    assert!(accepts(&matcher, "((x))"));
    // each rule twice the one before
    let doubling: String = (0..60).map(|i| format!("r{i} ::= r{0} r{0}\n", i + 1)).collect();
    let lark = to_lark(&format!("root ::= r0\n{doubling}r60 ::= \"a\"")).unwrap();
    assert!(lark.len() < 100_000, "{}", lark.len());
    check(
        &format!("root ::= {}\"x\"{}", "(\"y\" ".repeat(60), ")?".repeat(60)),
        &["", "y"],
        &["x"],
    );
}

#[test]
fn a_repeated_nothing_ends() {
    check("root ::= (\"\")* \"a\"", &["a"], &["", "b"]);
    check("root ::= ((\"\")+ \"b\"?)* \"a\"", &["a", "ba", "bba"], &["b"]);
}

#[test]
fn large_grammars_are_translated() {
    let words: Vec<String> = (0..8000).map(|i| format!("\"word{}\"", i * 7919 % 100_003)).collect();
    let gbnf = format!("root ::= w | \"(\" root \")\"\nw ::= {}", words.join(" | "));
    to_lark(&gbnf).unwrap();
    let rules: String =
        (0..3000).map(|i| format!("r{i} ::= [a-z]* \"x{i}\" gap root?\n")).collect();
    let names: String = (0..3000).map(|i| format!(" | r{i}")).collect();
    to_lark(&format!("root ::= gap{names}\n{rules}gap ::= [ \\t]*\n")).unwrap();
}

/// A part of a grammar, as the interpreter has it.
#[derive(Debug, Clone)]
enum Part {
    Text(Vec<char>),
    Class(bool, Vec<(char, char)>),
    Any,
    Name(usize),
    Seq(Vec<Part>),
    Alt(Vec<Part>),
    Times(Box<Part>, u32, Option<u32>),
}

const NAMES: [&str; 4] = ["root", "a-b", "a_b", "A-B"];
const ALPHABET: [char; 5] = ['a', 'b', 'é', 'è', '\n'];

impl Part {
    fn gbnf(&self) -> String {
        match self {
            Self::Text(text) => {
                format!("\"{}\"", text.iter().map(|c| spelled(*c)).collect::<String>())
            }
            Self::Class(negated, ranges) => {
                let ranges = ranges.iter().map(|(a, b)| {
                    if a == b { spelled(*a) } else { format!("{}-{}", spelled(*a), spelled(*b)) }
                });
                let sign = if *negated { "^" } else { "" };
                format!("[{sign}{}]", ranges.collect::<String>())
            }
            Self::Any => ".".into(),
            Self::Name(name) => NAMES[*name].into(),
            Self::Seq(parts) => {
                format!("({})", parts.iter().map(Self::gbnf).collect::<Vec<_>>().join(" "))
            }
            Self::Alt(parts) => {
                format!("({})", parts.iter().map(Self::gbnf).collect::<Vec<_>>().join(" | "))
            }
            Self::Times(part, min, max) => {
                let times = match (min, max) {
                    (0, None) => "*".into(),
                    (1, None) => "+".into(),
                    (0, Some(1)) => "?".into(),
                    (min, None) => format!("{{{min},}}"),
                    (min, Some(max)) => format!("{{{min},{max}}}"),
                };
                format!("{}{times}", part.gbnf())
            }
        }
    }

    /// The ends of what it can stand for from a place in a text, as bits, by what is known of the rules.
    fn ends(&self, text: &[char], at: usize, known: &[Vec<u64>]) -> u64 {
        let one = |yes: bool| if yes { 1 << (at + 1) } else { 0 };
        match self {
            Self::Text(wanted) => {
                if text[at..].starts_with(wanted) {
                    1 << (at + wanted.len())
                } else {
                    0
                }
            }
            Self::Class(negated, ranges) => one(text
                .get(at)
                .is_some_and(|c| ranges.iter().any(|(a, b)| a <= c && c <= b) != *negated)),
            Self::Any => one(at < text.len()),
            Self::Name(name) => known[*name][at],
            Self::Seq(parts) => {
                parts.iter().fold(1 << at, |from, part| each(from, |at| part.ends(text, at, known)))
            }
            Self::Alt(parts) => {
                parts.iter().fold(0, |ends, part| ends | part.ends(text, at, known))
            }
            Self::Times(part, min, max) => {
                let (mut from, mut ends) = (1_u64 << at, 0);
                for time in 0..=max.unwrap_or(u32::MAX) {
                    if time > *min && from & !ends == 0 {
                        break;
                    }
                    ends |= if time >= *min { from } else { 0 };
                    from = each(from, |at| part.ends(text, at, known));
                }
                ends
            }
        }
    }
}

fn spelled(c: char) -> String {
    if c == '\n' { "\\n".into() } else { c.into() }
}

fn each(from: u64, ends: impl Fn(usize) -> u64) -> u64 {
    (0..64).filter(|at| from >> at & 1 == 1).fold(0, |all, at| all | ends(at))
}

/// Whether a text is in the language: the ends of all rules from all places grow until nothing changes.
fn is_in(rules: &[Part], text: &[char]) -> bool {
    let mut known = vec![vec![0_u64; text.len() + 1]; rules.len()];
    loop {
        let grown: Vec<Vec<u64>> = rules
            .iter()
            .map(|rule| (0..=text.len()).map(|at| rule.ends(text, at, &known)).collect())
            .collect();
        if grown == known {
            return known[0][0] >> text.len() & 1 == 1;
        }
        known = grown;
    }
}

fn part() -> impl Strategy<Value = Part> {
    let letter = || prop::sample::select(&ALPHABET[..]);
    let range = (letter(), letter()).prop_map(|(a, b)| (a.min(b), a.max(b)));
    let leaf = prop_oneof![
        4 => prop::collection::vec(letter(), 0..4).prop_map(Part::Text),
        3 => (any::<bool>(), prop::collection::vec(range, 1..3)).prop_map(|(n, r)| Part::Class(n, r)),
        1 => Just(Part::Any),
        3 => (0..NAMES.len()).prop_map(Part::Name),
    ];
    leaf.prop_recursive(4, 16, 4, |inner| {
        let times = prop::sample::select(
            &[
                (0, None),
                (1, None),
                (0, Some(1)),
                (2, None),
                (0, Some(3)),
                (1, Some(2)),
                (0, Some(0)),
                (2, Some(2)),
            ][..],
        );
        prop_oneof![
            3 => prop::collection::vec(inner.clone(), 0..4).prop_map(Part::Seq),
            3 => prop::collection::vec(inner.clone(), 1..4).prop_map(Part::Alt),
            2 => (inner, times).prop_map(|(part, (min, max))| Part::Times(part.into(), min, max)),
        ]
    })
}

fn grammar() -> impl Strategy<Value = (Vec<Part>, String)> {
    prop::collection::vec(part(), NAMES.len()).prop_map(|rules| {
        let lines =
            rules.iter().zip(NAMES).map(|(rule, name)| format!("{name} ::= {}\n", rule.gbnf()));
        let gbnf = lines.collect();
        (rules, gbnf)
    })
}

/// All texts up to a length.
fn short_texts(length: usize) -> Vec<String> {
    let mut all = vec![String::new()];
    let mut from = 0;
    for _ in 0..length {
        let to = all.len();
        for i in from..to {
            all.extend(ALPHABET.map(|c| format!("{}{c}", all[i])));
        }
        from = to;
    }
    all
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn the_language_is_the_interpreters(
        (rules, gbnf) in grammar(),
        longer in prop::collection::vec("[abéè\n]{4,9}", 12),
    ) {
        let made = to_lark(&gbnf).map(|lark| (matcher(&lark), lark));
        if let Err(error) = &made {
            prop_assert!(error.what.contains("accepts no text"), "{}\n{}", error, gbnf);
        }
        for text in short_texts(3).into_iter().chain(longer) {
            let wanted = is_in(&rules, &text.chars().collect::<Vec<_>>());
            let found = made.as_ref().is_ok_and(|(matcher, _)| accepts(matcher, &text));
            prop_assert_eq!(found, wanted, "{:?}\n{}\n{:?}", text, gbnf, made.map(|made| made.1));
        }
    }

    #[test]
    fn no_text_makes_it_panic(text in "\\PC*") {
        let _ = to_lark(&text);
        let _ = to_lark(&format!("root ::= {text}"));
    }

    #[test]
    fn no_change_makes_it_panic(
        (_, gbnf) in grammar(),
        cuts in prop::collection::vec((any::<prop::sample::Index>(), "[\"\\[\\](){}*+?|<>!.:=\\\\a\n]{0,3}"), 1..4),
        json in any::<bool>(),
    ) {
        let mut text: Vec<char> = if json { JSON } else { &gbnf }.chars().collect();
        for (place, new) in cuts {
            let at = place.index(text.len());
            text.splice(at..(at + 1).min(text.len()), new.chars());
            if text.is_empty() {
                break;
            }
        }
        let text: String = text.into_iter().collect();
        if let Ok(lark) = to_lark(&text) {
            let mut factory = ParserFactory::new_simple(&BYTES).unwrap();
            factory.quiet();
            let _ = factory.create_parser(TopLevelGrammar::from_lark(lark));
        }
    }
}
