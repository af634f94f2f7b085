//! The tree's own rules: who may know whom, where `unsafe` and clocks may be, and that each file says
//! what it is. Written down in ARCHITECTURE.md.

use std::path::{Path, PathBuf};

fn sources() -> Vec<(String, String)> {
    fn walk(dir: &Path, out: &mut Vec<PathBuf>) {
        for entry in std::fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                walk(&path, out);
            } else if path.extension().is_some_and(|e| e == "rs") {
                out.push(path);
            }
        }
    }
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    walk(&root, &mut files);
    assert!(files.len() > 40, "the walk found the tree");
    let name = |p: &Path| p.strip_prefix(&root).unwrap().to_string_lossy().into_owned();
    files.iter().map(|p| (name(p), std::fs::read_to_string(p).unwrap())).collect()
}

fn room(file: &str) -> &str {
    file.split('/').next().unwrap_or(file).trim_end_matches(".rs")
}

fn is_test(file: &str) -> bool {
    ["tests.rs", "testing.rs", "properties.rs"].iter().any(|end| file.ends_with(end))
}

/// The part of a file before its unit tests, without comment lines.
fn code(text: &str) -> String {
    let end = text.find("#[cfg(test)]").unwrap_or(text.len());
    let lines = text[..end].lines().filter(|l| !l.trim_start().starts_with("//"));
    lines.collect::<Vec<_>>().join("\n")
}

/// Rooms that each room may use. A room that is not listed here must be added, with thought.
const MAY_KNOW: [(&str, &[&str]); 15] = [
    ("main", &["cli"]),
    ("lib", &[]),
    (
        "cli",
        &["config", "control", "engine", "gateway", "http", "metrics", "model", "rollout", "text"],
    ),
    ("http", &["control", "engine", "gateway", "metrics", "rollout", "text"]),
    ("gateway", &["control", "engine", "metrics", "model", "rollout", "router", "text"]),
    (
        "control",
        &["config", "device", "engine", "ledger", "metrics", "model", "rollout", "router", "text"],
    ),
    ("ledger", &["rollout"]),
    ("config", &["engine", "gateway", "rollout"]),
    ("metrics", &["engine", "rollout"]),
    ("engine", &["device", "model"]),
    ("model", &["device"]),
    ("router", &["rollout"]),
    ("text", &[]),
    ("rollout", &[]),
    ("device", &[]),
];

#[test]
fn rooms_know_only_the_rooms_below_them() {
    for (file, text) in sources() {
        let here = room(&file);
        let allowed = MAY_KNOW.iter().find(|(name, _)| *name == here);
        let (_, allowed) = allowed.unwrap_or_else(|| panic!("{file}: room {here} is not listed"));
        let text = code(&text);
        for (at, _) in text.match_indices("crate::") {
            let rest = &text[at + 7..];
            let end = rest.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(rest.len());
            let there = &rest[..end];
            let known = there == here || allowed.contains(&there);
            let is_room = MAY_KNOW.iter().any(|(name, _)| *name == there);
            assert!(known || !is_room, "{file} uses crate::{there}, which {here} must not know");
        }
    }
}

#[test]
fn each_file_says_what_it_is() {
    for (file, text) in sources() {
        assert!(text.starts_with("//! "), "{file} does not open with a //! line");
    }
}

#[test]
fn unsafe_lives_in_device_only() {
    for (file, text) in sources() {
        let uses = code(&text).contains("unsafe ");
        assert!(!uses || room(&file) == "device", "{file} uses unsafe; that belongs in device/");
    }
}

#[test]
fn clocks_are_read_only_where_allowed() {
    const ALLOWED: [&str; 6] = [
        "engine/executor.rs",
        "control/mod.rs",
        "control/deploy.rs",
        "gateway/drive.rs",
        "http/",
        "cli/",
    ];
    for (file, text) in sources().iter().filter(|(file, _)| !is_test(file)) {
        let text = code(text);
        let reads = ["Instant::now", "SystemTime::now"].iter().any(|clock| text.contains(clock));
        let allowed = ALLOWED.iter().any(|place| file.starts_with(place));
        assert!(!reads || allowed, "{file} reads a clock; pass the time in");
    }
}

#[test]
fn rollout_is_plain_std() {
    let rollout = |file: &str| room(file) == "rollout" && !is_test(file);
    for (file, text) in sources().iter().filter(|(file, _)| rollout(file)) {
        for line in code(text).lines().filter(|l| l.trim_start().starts_with("use ")) {
            let from = line.trim_start().trim_start_matches("use ");
            let plain = ["std::", "super::", "crate::rollout"].iter().any(|p| from.starts_with(p));
            assert!(plain, "{file}: `{line}`; the rollout uses std only");
        }
    }
}
