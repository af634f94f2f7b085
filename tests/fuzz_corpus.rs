//! Replays the stored corpora of `fuzz/` through the entries that the fuzzers run, so that bugs found earlier
//! stay fixed. Without the fuzzers' memory limit; see `hostile_files` for that.

#[path = "../fuzz/src/entries.rs"]
mod entries;

use std::path::Path;

/// Runs `entry` on each file of a corpus.
fn replay(corpus: &str, entry: fn(&[u8]) -> usize) {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(corpus);
    let mut count = 0;
    for file in std::fs::read_dir(&dir).unwrap() {
        let path = file.unwrap().path();
        // Printed first, so that a crash names the file; shown only if there is one.
        println!("{}", path.display());
        entry(&std::fs::read(&path).unwrap());
        count += 1;
    }
    assert!(count > 5, "{} holds a corpus", dir.display());
}

#[test]
fn safetensors() {
    replay("safetensors", entries::safetensors);
}

#[test]
fn gguf() {
    replay("gguf", entries::gguf);
}

#[test]
fn template() {
    replay("template", entries::template);
}

#[test]
fn request_json() {
    replay("request_json", entries::request_json);
}

#[test]
fn detokenizer() {
    replay("detokenizer", entries::detokenizer);
}
