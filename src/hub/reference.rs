//! Parses and checks `hf:org/repo[:file][@revision]`.
//!
//! The parts become paths and URLs, so anything that could leave its place is refused. Reads no files and
//! makes no requests.

use super::HubError;
use std::fmt;
use std::path::Path;

const SCHEME: &str = "hf:";

/// A parsed reference.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reference {
    /// `org/repo`.
    pub repo: String,
    /// One file, or part of its name such as `Q4_K_M`.
    pub file: Option<String>,
    /// Branch, tag or commit; `main` unless the reference names one.
    pub revision: String,
}

/// Whether the given path is a reference.
pub fn is_reference(path: &Path) -> bool {
    path.to_str().is_some_and(|text| text.starts_with(SCHEME))
}

impl Reference {
    /// Takes a reference apart. Fails with [`HubError::Reference`] if it does not begin with `hf:`, or a part has other
    /// characters than allowed.
    pub fn parse(text: &str) -> Result<Reference, HubError> {
        let bad = |what| HubError::Reference { text: text.to_owned(), what };
        let rest = text.strip_prefix(SCHEME).ok_or_else(|| bad("it does not begin with hf:"))?;
        let (rest, revision) = match rest.rsplit_once('@') {
            Some((rest, revision)) => (rest, revision),
            None => (rest, "main"),
        };
        let (repo, file) = match rest.split_once(':') {
            Some((repo, file)) => (repo, Some(file)),
            None => (rest, None),
        };
        let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
        let part =
            |part: &str| !part.is_empty() && part.chars().all(plain) && !part.starts_with('.');
        if !repo.split_once('/').is_some_and(|(org, name)| part(org) && part(name)) {
            return Err(bad("organisation and repository are letters, digits, `.`, `_`, `-`"));
        }
        if !revision.split('/').all(part) {
            return Err(bad("the revision is a branch, a tag or a commit"));
        }
        if !file.is_none_or(is_inside) {
            return Err(bad("the file is a path inside the repository"));
        }
        let file = file.map(str::to_owned);
        Ok(Reference { repo: repo.into(), file, revision: revision.into() })
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{SCHEME}{}", self.repo)?;
        if let Some(file) = &self.file {
            write!(f, ":{file}")?;
        }
        if self.revision != "main" {
            write!(f, "@{}", self.revision)?;
        }
        Ok(())
    }
}

/// Whether a name is a plain path below some folder, in characters that need no escaping in a URL.
pub(super) fn is_inside(name: &str) -> bool {
    let plain =
        |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-' | '+' | '=' | ',');
    name.split('/')
        .all(|part| !part.is_empty() && !part.starts_with('.') && part.chars().all(plain))
}
