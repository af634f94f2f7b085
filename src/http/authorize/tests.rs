//! Tests: the table covers every route, keys are read from both headers, and times are formatted as OpenAI's API does.

use super::*;
use crate::http::missing::PREFIXES;
use std::collections::BTreeSet;
use std::path::Path;

/// Every path that this folder registers with a `.route("..")` or in a list, by the listener that its file belongs
/// to.
fn registered() -> (BTreeSet<String>, BTreeSet<String>) {
    fn walk(folder: &Path, out: &mut Vec<(String, String)>) {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                walk(&path, out);
            } else if !path.ends_with("tests.rs") {
                let name = path.to_string_lossy().into_owned();
                out.push((name, std::fs::read_to_string(&path).unwrap()));
            }
        }
    }
    let mut files = Vec::new();
    walk(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src/http"), &mut files);
    let (mut clients, mut operators) = (BTreeSet::new(), BTreeSet::new());
    for (name, text) in files {
        let code: Vec<&str> = text.lines().filter(|l| !l.trim_start().starts_with("//")).collect();
        let code = code.join("\n");
        for (at, found) in code.match_indices(".route(") {
            let path = code[at + found.len()..].trim_start();
            if path.starts_with("&path, ") {
                continue; // of a list
            }
            let path = path.strip_prefix('"').unwrap_or_else(|| panic!("{name}: no literal path"));
            let path = path[..path.find('"').unwrap()].to_owned();
            let of_operators = name.ends_with("admin.rs") || name.contains("/page/");
            let probe = ["/livez", "/readyz", "/health", "/version", "/metrics"];
            if of_operators || probe.contains(&path.as_str()) {
                operators.insert(path.clone());
            }
            if !of_operators {
                clients.insert(path);
            }
        }
    }
    for (path, _) in super::super::routes::public() {
        clients.extend([path.to_owned(), format!("/v1{path}")]);
    }
    for (path, _) in super::super::missing::MISSING {
        clients.extend(PREFIXES.map(|prefix| format!("{prefix}{path}")));
    }
    (clients, operators)
}

#[test]
fn every_route_has_a_row() {
    let (clients, operators) = registered();
    assert!(clients.len() > 10 && operators.len() > 15, "{clients:?} {operators:?}");
    for (routes, table) in [(clients, CLIENTS), (operators, OPERATORS)] {
        let rows: BTreeSet<String> = table.iter().map(|(path, _)| (*path).to_owned()).collect();
        assert_eq!(rows.len(), table.len(), "a path has two rows");
        let missing: Vec<_> = routes.difference(&rows).collect();
        assert!(missing.is_empty(), "add what they need to the table: {missing:?}");
        let stale: Vec<_> = rows.difference(&routes).collect();
        assert!(stale.is_empty(), "rows without a route: {stale:?}");
    }
}

#[test]
fn a_route_without_a_row_is_closed_even_with_a_key() {
    let access = Access::with(Default::default());
    let headers = HeaderMap::new();
    let error = check(&access, CLIENTS, Some("/new"), &headers, 0).unwrap_err();
    assert_eq!(error.status(), StatusCode::FORBIDDEN);
    assert!(check(&access, CLIENTS, None, &headers, 0).unwrap().is_none(), "no route at all");
    assert!(check(&access, CLIENTS, Some("/livez"), &headers, 0).unwrap().is_none());
}

#[test]
fn keys_are_read_from_both_headers() {
    let of = |name: &'static str, value: &'static str| {
        let headers = HeaderMap::from_iter([(
            HeaderName::from_static(name),
            HeaderValue::from_static(value),
        )]);
        shown(&headers).map(<[u8]>::to_vec).collect::<Vec<_>>()
    };
    for value in ["Bearer k", "bearer k", "BEARER  k "] {
        assert_eq!(of("authorization", value), [b"k"], "{value}");
    }
    assert_eq!(of("x-api-key", " k"), [b"k"]);
    for value in ["Basic k", "k", "Bearer", ""] {
        assert!(of("authorization", value).is_empty(), "{value}");
    }
}

#[test]
fn spans_are_written_as_openai_does() {
    for (millis, text) in [
        (0, "0s"),
        (1, "1ms"),
        (999, "999ms"),
        (1000, "1s"),
        (1500, "1.5s"),
        (59_999, "59.999s"),
        (60_000, "1m0s"),
        (90_000, "1m30s"),
        (3_600_120, "60m0.12s"),
    ] {
        assert_eq!(span(Duration::from_millis(millis)), text);
    }
    assert_eq!(span(Duration::from_nanos(1)), "1ms", "rounded up");
}
