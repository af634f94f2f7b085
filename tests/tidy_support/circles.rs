//! Which files use which, from their `use` lines and the paths in their code, and whether that goes round in a circle.
//!
//! A file and the modules below it count as one: a parent may use its children and they it.

use std::collections::{BTreeMap, BTreeSet};

/// What each node points to.
pub type Graph = BTreeMap<String, Vec<String>>;

/// The modules that each file uses, by module path (`ledger/store`).
pub fn uses(files: &[(String, String)]) -> Graph {
    let modules: BTreeSet<String> = files.iter().map(|(file, _)| module(file)).collect();
    let mut graph = Graph::new();
    for (file, code) in files {
        let here = module(file);
        let paths = imports(code).into_iter().chain(inline(code));
        let used = paths.filter_map(|path| resolve(&here, &path, &modules));
        let related = |there: &String| below(there, &here) || below(&here, there);
        let used: BTreeSet<String> = used.filter(|there| !related(there)).collect();
        graph.insert(here.clone(), used.into_iter().collect());
    }
    graph
}

/// A file's place in the module tree.
fn module(file: &str) -> String {
    let path = file.trim_end_matches(".rs");
    path.trim_end_matches("/mod").to_owned()
}

/// Whether a module is another or lies below it.
fn below(inner: &str, outer: &str) -> bool {
    inner == outer || inner.strip_prefix(outer).is_some_and(|rest| rest.starts_with('/'))
}

/// Every path that is imported, braces taken apart.
fn imports(code: &str) -> Vec<String> {
    let mut paths = Vec::new();
    let starts = code.match_indices("use ").filter(|(at, _)| {
        let before = code[..*at].rsplit('\n').next().unwrap_or("").trim();
        let visible = before.strip_prefix("pub").unwrap_or(before);
        visible.is_empty() || visible.starts_with('(') && visible.ends_with(')')
    });
    for (at, _) in starts {
        let text = code[at + 4..].split(';').next().unwrap_or("");
        let flat: String = text.chars().filter(|c| !c.is_whitespace()).collect();
        expand("", &flat, &mut paths);
    }
    paths
}

/// Every path in code that begins at the crate or at a parent.
fn inline(code: &str) -> Vec<String> {
    let word = |c: char| c.is_alphanumeric() || c == '_';
    let starts = ["crate::", "super::"].into_iter().flat_map(|start| code.match_indices(start));
    let whole = starts.filter(|(at, _)| {
        // `$crate::` of macros counts; `super::super::` is found at its first part.
        !code[..*at].chars().next_back().is_some_and(|before| word(before) || before == ':')
    });
    let path = |(at, _): (usize, &str)| {
        let rest = &code[at..];
        let end = rest.find(|c: char| !word(c) && c != ':').unwrap_or(rest.len());
        rest[..end].trim_end_matches(':').to_owned()
    };
    whole.map(path).collect()
}

fn expand(prefix: &str, tree: &str, out: &mut Vec<String>) {
    let Some(open) = tree.find('{') else {
        out.push(format!("{prefix}{tree}"));
        return;
    };
    let prefix = format!("{prefix}{}", &tree[..open]);
    let inside = &tree[open + 1..tree.rfind('}').unwrap_or(tree.len())];
    let (mut depth, mut from) = (0, 0);
    for (at, c) in inside.char_indices().chain([(inside.len(), ',')]) {
        match c {
            '{' => depth += 1,
            '}' => depth -= 1,
            ',' if depth == 0 => {
                if at > from {
                    expand(&prefix, &inside[from..at], out);
                }
                from = at + 1;
            }
            _ => {}
        }
    }
}

/// The module that a path leads into, if it is one of this tree's.
fn resolve(here: &str, path: &str, modules: &BTreeSet<String>) -> Option<String> {
    let mut parts: Vec<&str> = path.split("::").collect();
    let mut base: Vec<&str> = match parts[0] {
        "crate" => Vec::new(),
        "self" | "super" => here.split('/').collect(),
        _ => return None,
    };
    while matches!(parts.first(), Some(&("crate" | "self" | "super"))) {
        if parts.remove(0) == "super" {
            base.pop();
        }
    }
    base.extend(parts);
    (1..=base.len()).rev().map(|n| base[..n].join("/")).find(|path| modules.contains(path))
}

/// A way from some node back to itself, if there is one.
pub fn circle(graph: &Graph) -> Option<Vec<String>> {
    let mut done = BTreeSet::new();
    graph.keys().find_map(|node| walk(graph, node, &mut Vec::new(), &mut done))
}

fn walk<'a>(
    graph: &'a Graph,
    node: &'a str,
    way: &mut Vec<&'a str>,
    done: &mut BTreeSet<&'a str>,
) -> Option<Vec<String>> {
    if let Some(at) = way.iter().position(|one| *one == node) {
        return Some(way[at..].iter().map(|one| (*one).to_owned()).collect());
    }
    if done.contains(node) {
        return None;
    }
    way.push(node);
    let next = graph.get(node).into_iter().flatten();
    let found = next.into_iter().find_map(|there| walk(graph, there, way, done));
    way.pop();
    done.insert(node);
    found
}

#[test]
fn circles_are_found() {
    let file = |name: &str, code: &str| (name.to_owned(), code.to_owned());
    let files = [
        file("a/mod.rs", "mod b;\nuse b::X;"),
        file("a/b.rs", "use super::c::{D, E};\nuse crate::z;"),
        file("a/c.rs", "use super::{\n    b::{self, X},\n};"),
        file("z.rs", "use std::fmt;\npub enum Cause { A, }}\nenum B { C { d: u8, e: u8 } }"),
    ];
    let inline = [
        file("a.rs", "fn f() { crate::b::g(); }"),
        file("b.rs", "fn g() -> Vec<super::a::X> { mycrate::z() }"),
        file("z.rs", ""),
    ];
    assert_eq!(circle(&uses(&inline)), Some(vec!["a".to_owned(), "b".to_owned()]));
    let graph = uses(&files);
    assert_eq!(graph["a/b"], ["a/c", "z"]);
    assert_eq!(circle(&graph), Some(vec!["a/b".to_owned(), "a/c".to_owned()]));
    assert_eq!(circle(&uses(&files[1..2])), None);
}
