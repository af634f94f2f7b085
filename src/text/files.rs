//! The files of a model folder, read for the text side: each is hashed as it is read.
//!
//! This is the only place in `text` that reads files. So the list of what was read is complete by
//! construction, and a version's digest can be made from it. It does not know what the files mean.

use super::TextError;
use serde_json::{Map, Value};
use sha2::{Digest, Sha256};
use std::fs;
use std::path::{Path, PathBuf};

const REMEDY: &str = "Copy the file again from where the model came from";

/// A file that was read, and what was in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileRead {
    /// Its path inside the folder, with `/` between parts.
    pub name: String,
    /// SHA-256 of its bytes as they were read.
    pub sha256: [u8; 32],
}

/// Reads the files of one folder and keeps a record of them.
#[derive(Debug)]
pub(super) struct FolderReader {
    dir: PathBuf,
    read: Vec<FileRead>,
}

impl FolderReader {
    pub(super) fn new(dir: &Path) -> FolderReader {
        FolderReader { dir: dir.to_owned(), read: Vec::new() }
    }

    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    /// A file's bytes; `Ok(None)` if it does not exist.
    pub(super) fn bytes(&mut self, name: &str) -> Result<Option<Vec<u8>>, TextError> {
        let bytes = match fs::read(self.path(name)) {
            Ok(bytes) => bytes,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(source) => {
                let (path, remedy) = (self.path(name), "Check its permissions");
                return Err(TextError::Unreadable { path, source, remedy });
            }
        };
        self.read.push(FileRead { name: name.to_owned(), sha256: Sha256::digest(&bytes).into() });
        Ok(Some(bytes))
    }

    /// A file's text; `Ok(None)` if it does not exist.
    pub(super) fn text(&mut self, name: &str) -> Result<Option<String>, TextError> {
        let Some(bytes) = self.bytes(name)? else { return Ok(None) };
        let text = String::from_utf8(bytes);
        text.map(Some).map_err(|e| invalid(&self.path(name), format!("it is not UTF-8 ({e})")))
    }

    /// A file's JSON object; `Ok(None)` if it does not exist.
    pub(super) fn object(&mut self, name: &str) -> Result<Option<Map<String, Value>>, TextError> {
        let Some(bytes) = self.bytes(name)? else { return Ok(None) };
        match serde_json::from_slice(&bytes) {
            Ok(Value::Object(map)) => Ok(Some(map)),
            Ok(_) => Err(invalid(&self.path(name), "it is JSON, but not an object".into())),
            Err(e) => Err(invalid(&self.path(name), format!("it is not JSON ({e})"))),
        }
    }

    /// What was read, by name.
    pub(super) fn into_read(mut self) -> Vec<FileRead> {
        self.read.sort_by(|a, b| a.name.cmp(&b.name));
        self.read
    }
}

pub(super) fn invalid(path: &Path, what: String) -> TextError {
    TextError::Invalid { path: path.into(), what, remedy: REMEDY }
}
