//! Which files in the same folder could be loaded instead of a model that was refused.
//!
//! It runs only after a refusal, and only reads. It does not know why the model was refused.

use super::config::ModelConfig;
use super::error::LoadError;
use super::gguf::Gguf;
use super::intake::Checkpoint;
use std::path::{Path, PathBuf};

/// Files that are looked at, and that are named.
const LOOKED_AT: usize = 64;
const NAMED: usize = 4;

/// Adds to a refusal which files of the folder would load. Errors of other kinds stay as they are.
pub fn or_beside(path: &Path, error: LoadError) -> LoadError {
    let refused = matches!(
        error,
        LoadError::Config { .. } | LoadError::DType { .. } | LoadError::NoWeights { .. }
    );
    let files = if refused { instead_of(path) } else { Vec::new() };
    match files.is_empty() {
        true => error,
        false => LoadError::Instead { error: Box::new(error), files: files.join(", ") },
    }
}

fn instead_of(path: &Path) -> Vec<String> {
    let folder = if path.is_dir() { path } else { path.parent().unwrap_or(Path::new(".")) };
    let Ok(entries) = std::fs::read_dir(folder) else { return Vec::new() };
    let is_gguf = |p: &PathBuf| p.extension().is_some_and(|e| e.eq_ignore_ascii_case("gguf"));
    let mut files: Vec<PathBuf> =
        entries.flatten().map(|entry| entry.path()).filter(|p| is_gguf(p) && p != path).collect();
    files.sort_unstable();
    let name = |p: &PathBuf| p.file_name().map(|name| name.to_string_lossy().into_owned());
    let good = files.iter().take(LOOKED_AT).filter(|file| loads(file)).filter_map(name);
    let mut found: Vec<String> = good.take(NAMED).collect();
    if !path.is_dir() && folder.join("config.json").is_file() && Checkpoint::open(folder).is_ok() {
        found.push("the folder itself".to_owned());
    }
    found
}

/// Whether the head of a GGUF file has nothing against it.
fn loads(file: &Path) -> bool {
    Gguf::open(file).is_ok_and(|gguf| ModelConfig::from_json(gguf.config()).is_ok())
}
