//! The rules of the source tree: which module may use which, where `unsafe` and clocks are allowed, and that
//! each file says what it is. ARCHITECTURE.md states them, and its code map is checked here.

#[path = "tidy_support/circles.rs"]
mod circles;
#[path = "tidy_support/docs.rs"]
mod docs;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

fn sources() -> Vec<(String, String)> {
    sources_in("src")
}

/// All files below a folder with their texts, named from there.
fn sources_in(top: &str) -> Vec<(String, String)> {
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
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join(top);
    let mut files = Vec::new();
    walk(&root, &mut files);
    assert!(files.len() > 40, "the walk found the tree");
    let name = |p: &Path| p.strip_prefix(&root).unwrap().to_string_lossy().into_owned();
    files.iter().map(|p| (name(p), std::fs::read_to_string(p).unwrap())).collect()
}

fn room(file: &str) -> &str {
    file.split('/').next().unwrap_or(file).trim_end_matches(".rs")
}

/// Files that exist only for tests, by the names under which they are included.
fn is_test(file: &str) -> bool {
    let name = file.rsplit('/').next().unwrap_or(file);
    let tests = ["tests.rs", "testing.rs", "properties.rs", "crash.rs"];
    tests.contains(&name) || name.ends_with("_tests.rs") || file.contains("/tests/")
}

/// A file without comment lines and without its unit tests: a `mod tests { .. }` under `cfg(test)` runs to
/// the end of the file; anything else under `cfg(test)` is one line.
fn code(text: &str) -> String {
    let mut out = Vec::new();
    let mut lines = text.lines();
    while let Some(line) = lines.next() {
        let line = line.trim_start();
        if line.starts_with("//") {
            continue;
        }
        if line.starts_with("#[cfg(test)]") {
            match lines.next() {
                Some(next) if next.trim_start().starts_with("mod ") && next.ends_with('{') => break,
                _ => continue,
            }
        }
        out.push(line);
    }
    out.join("\n")
}

/// The code map in ARCHITECTURE.md: each room (top-level module) and the rooms that it may use.
fn may_know() -> BTreeMap<String, Vec<String>> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("ARCHITECTURE.md");
    let text = std::fs::read_to_string(path).unwrap();
    let rows = text.lines().filter(|line| line.starts_with("| `"));
    let map: BTreeMap<String, Vec<String>> = rows
        .map(|row| {
            let cells: Vec<&str> = row.trim_matches('|').split('|').map(str::trim).collect();
            assert_eq!(cells.len(), 3, "a row of the code map has three cells: {row}");
            let name = |cell: &str| cell.trim_matches('`').trim_end_matches('/').to_owned();
            let room = name(cells[0]).trim_end_matches(".rs").to_owned();
            let known = cells[2].split(", ").map(name).filter(|known| known != "nothing");
            (room, known.collect())
        })
        .collect();
    assert!(map.len() > 10, "the code map was found");
    map
}

/// The rooms that the code names after `crate::`, including in braces.
fn rooms_used(code: &str) -> Vec<String> {
    let mut used = Vec::new();
    for (at, _) in code.match_indices("crate::") {
        let rest = &code[at + 7..];
        let parts: Vec<&str> = match rest.strip_prefix('{') {
            Some(list) => list.split('}').next().unwrap_or(list).split(',').collect(),
            None => vec![rest],
        };
        for part in parts {
            let part = part.trim_start();
            let end = part.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(part.len());
            used.push(part[..end].to_owned());
        }
    }
    used
}

#[test]
fn rooms_know_only_the_rooms_below_them() {
    let map = may_know();
    for (file, text) in sources().into_iter().filter(|(file, _)| !is_test(file)) {
        let here = room(&file);
        if ["main", "lib"].contains(&here) {
            continue;
        }
        let allowed = map.get(here);
        let allowed = allowed.unwrap_or_else(|| panic!("{file}: {here} is not in the code map"));
        for there in rooms_used(&code(&text)) {
            let known = there == here || allowed.contains(&there);
            let is_room = map.contains_key(&there);
            assert!(known || !is_room, "{file} uses crate::{there}, which {here} must not know");
        }
    }
}

/// A permission that nothing uses hides the day on which something begins to.
#[test]
fn rooms_use_every_room_that_they_may_know() {
    let mut used: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for (file, text) in sources().into_iter().filter(|(file, _)| !is_test(file)) {
        used.entry(room(&file).to_owned()).or_default().extend(rooms_used(&code(&text)));
    }
    for (here, allowed) in may_know() {
        // `main` calls the library by the crate's name.
        let Some(used) = used.get(&here).filter(|_| here != "main") else { continue };
        let unused: Vec<_> = allowed.iter().filter(|there| !used.contains(there)).collect();
        assert!(
            unused.is_empty(),
            "ARCHITECTURE.md lets {here} know {unused:?}, which it does not use"
        );
    }
}

#[test]
fn there_are_no_circles_between_rooms() {
    let mut map = may_know();
    map.remove("main");
    assert_eq!(circles::circle(&map), None, "a circle in ARCHITECTURE.md's code map");
}

#[test]
fn there_are_no_circles_between_files() {
    for top in ["src", "kernels/src"] {
        let files = sources_in(top).into_iter().filter(|(file, _)| !is_test(file));
        let files: Vec<_> = files.map(|(file, text)| (file, code(&text))).collect();
        let mut uses = circles::uses(&files);
        // Each kind of quantised block names the kernels that read it, which is what its file is for.
        for (_, there) in uses.iter_mut().filter(|(here, _)| here.starts_with("quant")) {
            there.retain(|there| !there.starts_with("cpu/") && !there.starts_with("cuda/"));
        }
        let found = circles::circle(&uses);
        assert_eq!(found, None, "files of {top} need a third one for what they share");
    }
}

/// Fakes are for tests: a release build has them only with the feature that says so.
#[test]
fn fakes_are_not_in_release_builds() {
    const FAKES: [&str; 3] = ["testing", "fake", "slowed"];
    const GUARDS: [&str; 2] =
        ["#[cfg(test)]", "#[cfg(any(test, debug_assertions, feature = \"testing\"))]"];
    let mut found = 0;
    for (file, text) in sources().into_iter().chain(sources_in("kernels/src")) {
        let lines: Vec<&str> = text.lines().map(str::trim).collect();
        for pair in lines.windows(2) {
            let name = pair[1].strip_suffix(';').and_then(|line| line.rsplit_once("mod "));
            if name.is_some_and(|(_, name)| FAKES.contains(&name)) {
                found += 1;
                assert!(GUARDS.contains(&pair[0]), "{file}: `{}` is in release builds", pair[1]);
            }
        }
    }
    assert!(found >= 5, "the modules were found");
}

#[test]
fn the_check_itself_sees_what_it_should() {
    assert_eq!(rooms_used("use crate::{a::B, c};\nuse crate::d::E;"), ["a", "c", "d"]);
    let text = "#[cfg(test)]\nmod tests;\nuse crate::x;\n// crate::y\n#[cfg(test)]\nmod t {\nz }";
    assert_eq!(rooms_used(&code(text)), ["x"]);
    assert!(uses_unsafe("let x = unsafe{ y };") && uses_unsafe("unsafe fn f() {}"));
    assert!(!uses_unsafe("let unsafely = 1;"));
}

#[test]
fn each_file_says_what_it_is() {
    for (file, text) in sources().into_iter().chain(sources_in("kernels/src")) {
        assert!(text.starts_with("//! "), "{file} does not open with a //! line");
    }
}

/// More than the compiler's lint asks for: items of private modules too, and when a function fails.
#[test]
fn each_public_item_has_a_doc_comment_and_says_when_it_fails() {
    let files = sources().into_iter().chain(sources_in("kernels/src"));
    let missing = files.filter(|(file, _)| !is_test(file)).flat_map(|(file, text)| {
        docs::missing(&text).into_iter().map(move |what| format!("{file}: {what}"))
    });
    assert_eq!(missing.collect::<Vec<_>>(), [""; 0]);
}

fn uses_unsafe(code: &str) -> bool {
    let word = |c: char| c.is_alphanumeric() || c == '_';
    code.match_indices("unsafe").any(|(at, found)| {
        let before = code[..at].chars().next_back();
        let after = code[at + found.len()..].chars().next();
        !before.is_some_and(word) && !after.is_some_and(|c| word(c) || c == '"' || c == '`')
    })
}

#[test]
fn unsafe_lives_in_kernels_and_four_files_of_device() {
    const ALLOWED: [&str; 4] = [
        // The global allocator.
        "device/arena.rs",
        // The handlers of fatal signals, and an exit that runs nothing on its way.
        "device/fatal_signals.rs",
        // Mapped files.
        "device/files.rs",
        "device/safetensors/candle.rs",
    ];
    for (file, text) in sources() {
        let (uses, allowed) = (uses_unsafe(&code(&text)), ALLOWED.contains(&file.as_str()));
        assert!(!uses || allowed, "{file} uses unsafe; that belongs in kernels/");
        assert!(uses || !allowed, "{file} uses no unsafe: it need not be allowed");
    }
}

#[test]
fn kernels_for_the_cpu_and_for_cuda_know_nothing_of_each_other() {
    let kernels = sources_in("kernels/src");
    for (file, text) in kernels.iter().filter(|(file, _)| !is_test(file)) {
        let used = rooms_used(&code(text));
        let uses = |room: &str| used.iter().any(|used| used == room);
        match room(file) {
            "cpu" => assert!(!uses("cuda"), "{file} uses crate::cuda"),
            "cuda" => assert!(!uses("cpu"), "{file} uses crate::cpu"),
            // The table of kinds names the kernels of both.
            "lib" | "quant" => {}
            _ => assert!(!uses("cpu") && !uses("cuda"), "{file} is for both, and uses one"),
        }
    }
}

#[test]
fn clocks_are_read_only_where_allowed() {
    const ALLOWED: [&str; 14] = [
        "grammar/watchdog.rs",
        "alerts/deliver.rs",
        "bench/drive.rs",
        "bench/target/",
        "engine/executor.rs",
        "control/",
        "serving/cross_read.rs",
        "serving/gateway.rs",
        "serving/idle.rs",
        "serving/rescue.rs",
        "serving/shadow.rs",
        "http/",
        "cli/",
        "progress.rs",
    ];
    const READS: [&str; 3] = ["Instant::now", "SystemTime::now", ".elapsed()"];
    for (file, text) in sources().iter().filter(|(file, _)| !is_test(file)) {
        let text = code(text);
        let reads = READS.iter().any(|clock| text.contains(clock));
        let allowed = ALLOWED.iter().any(|place| file.starts_with(place));
        assert!(!reads || allowed, "{file} reads a clock; pass the time in");
    }
}

/// A version's digest is made from the record that `text/files.rs` keeps of what it reads.
#[test]
fn the_text_side_reads_files_in_one_place() {
    const READS: [&str; 3] = ["fs::", "File::open", "Tokenizer::from_file"];
    let here =
        |file: &str| room(file) == "text" && !is_test(file) && file != "text/gguf/reading.rs";
    for (file, text) in sources().iter().filter(|(file, _)| here(file)) {
        let text = code(text);
        let reads = READS.iter().any(|read| text.contains(read));
        assert_eq!(reads, file == "text/files.rs", "{file} reads files; let text/files.rs do it");
    }
}

/// Nothing that reads or writes anything. Of hashbrown only the table, which std has not.
#[test]
fn rollout_uses_std_a_table_and_derives_of_serde() {
    let rollout = |file: &str| room(file) == "rollout" && !is_test(file);
    for (file, text) in sources().iter().filter(|(file, _)| rollout(file)) {
        for line in code(text).lines().filter(|l| l.trim_start().starts_with("use ")) {
            let from = line.trim_start().trim_start_matches("use ");
            let derives = "serde::{Deserialize, Serialize};";
            let table = "hashbrown::{DefaultHashBuilder, HashTable};";
            let plain = ["std::", "super::", "self::", "crate::rollout", derives, table];
            let plain = plain.iter().any(|plain| from.starts_with(plain));
            assert!(
                plain,
                "{file}: `{line}`; the rollout uses std, hashbrown's table and serde's derives"
            );
        }
    }
}

/// The duplicate versions in Cargo.lock are those that deny.toml knows, and no others: neither more nor fewer.
#[test]
fn duplicate_dependencies_are_known() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let read = |name: &str| {
        let text = std::fs::read_to_string(root.join(name)).unwrap();
        text.parse::<toml::Table>().unwrap()
    };
    let mut versions = BTreeMap::new();
    for package in read("Cargo.lock")["package"].as_array().unwrap() {
        *versions.entry(package["name"].as_str().unwrap().to_owned()).or_insert(0) += 1;
    }
    let found: Vec<&String> =
        versions.iter().filter(|(_, n)| **n > 1).map(|(name, _)| name).collect();
    let deny = read("deny.toml");
    let skipped = deny["bans"]["skip"].as_array().unwrap().iter();
    let known: Vec<&str> = skipped.map(|skip| skip["name"].as_str().unwrap()).collect();
    assert_eq!(found, known, "deny.toml's `skip` lists other duplicates than Cargo.lock has");
}
