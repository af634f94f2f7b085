//! Which `pub` items have no doc comment, and which functions do not say when they fail.
//!
//! It reads lines, not syntax: a file is formatted, so an item begins with `pub` and the end of a test-only one is
//! indented as its beginning is.

/// Words of which the doc comment of a function that returns a `Result` has one, in lower case.
const SAYS: [&str; 4] = ["fails", "cannot fail", "# errors", "refuses"];
const KINDS: [&str; 8] = ["fn", "struct", "enum", "trait", "union", "type", "const", "static"];

/// What is missing in a file, a line each.
pub fn missing(text: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut docs = String::new();
    let mut lines = text.lines();
    while let Some(line) = lines.next() {
        let start = line.trim_start();
        if let Some(doc) = start.strip_prefix("///") {
            docs.push_str(&doc.to_lowercase());
        } else if start.starts_with("#[") {
            let mut end = line;
            while !end.ends_with(']') {
                end = lines.next().unwrap_or("]");
            }
            if is_for_tests(start) {
                skip_item(&mut lines);
                docs.clear();
            }
        } else {
            if let Some((kind, name)) = item(start) {
                let head = if kind == "fn" { head(start, &mut lines) } else { String::new() };
                if docs.is_empty() {
                    found.push(format!("{kind} {name} has no doc comment"));
                } else if returns_result(&head) && !SAYS.iter().any(|word| docs.contains(word)) {
                    found.push(format!("{kind} {name} does not say when it fails"));
                }
            }
            docs.clear();
        }
    }
    found
}

/// Whether an attribute makes an item one that only tests have.
fn is_for_tests(attribute: &str) -> bool {
    attribute.starts_with("#[cfg(test)]") || attribute.starts_with("#[cfg(all(test")
}

/// Skips an item and what is left of its attributes.
fn skip_item<'a>(lines: &mut impl Iterator<Item = &'a str>) {
    let mut first = lines.by_ref().skip_while(|line| line.trim_start().starts_with("#["));
    let first = first.next().unwrap_or("");
    if first.ends_with([';', ',', '}']) {
        return;
    }
    let indent = &first[..first.len() - first.trim_start().len()];
    let end = |line: &str| line.strip_prefix(indent).is_some_and(|rest| rest.starts_with('}'));
    let _ = lines.find(|line| end(line));
}

/// Kind and name of the item that begins on a line, if it is `pub`.
fn item(line: &str) -> Option<(&str, &str)> {
    let words = line.strip_prefix("pub ")?.split([' ', '(', '<', ':', ';']);
    let mut words = words.filter(|word| !word.is_empty()).peekable();
    loop {
        let word = words.next()?;
        let next = *words.peek()?;
        // `const` is a kind, and what a `const fn` begins with.
        if KINDS.contains(&word) && !KINDS.contains(&next) && next != "unsafe" {
            return Some((word, next));
        }
        if !["const", "unsafe", "async", "extern", "\"C\""].contains(&word) {
            return None;
        }
    }
}

/// A function's signature.
fn head<'a>(first: &str, lines: &mut impl Iterator<Item = &'a str>) -> String {
    let mut head = first.to_owned();
    while !head.ends_with(['{', ';', '}']) {
        let Some(line) = lines.next() else { break };
        head.push(' ');
        head.push_str(line.trim());
    }
    head
}

fn returns_result(head: &str) -> bool {
    let head = head.split(" where ").next().unwrap_or(head);
    let Some((_, to)) = head.rsplit_once("-> ") else { return false };
    let to = to.split(['<', ' ']).next().unwrap_or(to);
    to.rsplit("::").next() == Some("Result")
}

#[test]
fn missing_docs_are_found() {
    let text = "/// A room.\npub struct Room;\npub enum Bare {}\n#[derive(Debug)]\npub type Plain = u8;\n\
        /// Reads it.\n#[allow(\n    dead_code,\n)]\npub const fn read(\n    a: u8,\n) -> io::Result<u8> {\n}\n\
        /// Reads it. Fails if it is gone.\npub async fn again() -> Result<u8, String> {\n}\n\
        /// Either.\npub fn each(f: impl Fn() -> Result<(), ()>) -> u8 {\n}\n\
        /// All.\npub fn all<F>(f: F) -> u8\nwhere\n    F: Fn() -> Result<(), ()>,\n{\n}\n\
        #[cfg(test)]\npub fn tested() {\n    pub fn inner() {}\n}\n    pub const LEFT: u8 = 1;\n\
        pub(crate) fn hidden() {}\n#[cfg(test)]\nmod tests {\n    pub fn own() {}\n}\n";
    let found = missing(text);
    let expected = [
        "enum Bare has no doc comment",
        "type Plain has no doc comment",
        "fn read does not say when it fails",
        "const LEFT has no doc comment",
    ];
    assert_eq!(found, expected);
}
