//! The keys file as text: reading it, and changing one entry without touching the rest.
//!
//! A file with any mistake is refused as a whole: with half of its keys, some clients would be locked out at random. It
//! does not know where the text comes from.

use super::key::{Key, KeyLimits, SecretHash};
use super::scope::Scope;
use jiff::Timestamp;
use serde::Deserialize;
use std::collections::HashSet;
use std::sync::Arc;
use toml_edit::{DocumentMut, Item, Table, value};

/// What a new file begins with.
const HEADER: &str = "\
# API keys of serin. `serin key new`, `serin key list` and `serin key revoke` edit this file; editing it by hand works too.
# A running server takes changes up within two seconds. Only hashes are kept here, so a lost key cannot be shown again.
";
/// Longest name of a key, in characters.
const MAX_NAME: usize = 100;

/// Why a keys file cannot be used, or not be changed as asked.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FileError {
    /// It is not TOML, or has another form.
    #[error("{0}")]
    Syntax(String),
    /// One of the keys is wrong.
    #[error("key \"{id}\": {what}")]
    Key {
        /// Its id.
        id: String,
        /// What is wrong, and what is allowed.
        what: String,
    },
    /// There is no key with this id.
    #[error("there is no key \"{0}\"; `serin key list` shows all")]
    Unknown(String),
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawFile {
    #[serde(default)]
    key: Vec<RawKey>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawKey {
    id: String,
    name: String,
    sha256: String,
    scopes: Vec<String>,
    requests_per_minute: Option<u32>,
    tokens_per_minute: Option<u32>,
    concurrency: Option<u32>,
    created: Timestamp,
    expires: Option<Timestamp>,
}

/// All keys of a file.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Keyring {
    keys: Vec<Arc<Key>>,
}

impl Keyring {
    /// Reads a file's text. Fails if it is not TOML, or if a key in it is not valid or occurs twice.
    pub fn parse(text: &str) -> Result<Keyring, FileError> {
        let raw: RawFile = toml::from_str(text).map_err(|error| {
            let before = error.span().and_then(|span| text.get(..span.start));
            let line = before.map(|before| before.matches('\n').count() + 1);
            let at = line.map(|line| format!("line {line}: ")).unwrap_or_default();
            FileError::Syntax(format!("{at}{}", error.message().replace('\n', " ")))
        })?;
        let keys: Vec<Arc<Key>> =
            raw.key.into_iter().map(|raw| raw.resolve().map(Arc::new)).collect::<Result<_, _>>()?;
        let (mut ids, mut hashes) = (HashSet::new(), HashSet::new());
        for key in &keys {
            if !ids.insert(&key.id) {
                return Err(wrong(&key.id, "two keys have this id"));
            }
            if !hashes.insert(key.hash.hex()) {
                return Err(wrong(&key.id, "another key has the same sha256"));
            }
        }
        Ok(Keyring { keys })
    }

    /// The key with this secret. All keys are compared, each in the same time.
    pub fn find(&self, secret: &[u8]) -> Option<Arc<Key>> {
        let shown = SecretHash::of(secret);
        let mut found = None;
        for key in &self.keys {
            if bool::from(key.hash.same(&shown)) {
                found = Some(key);
            }
        }
        found.cloned()
    }

    /// The key with this id.
    pub fn by_id(&self, id: &str) -> Option<&Arc<Key>> {
        self.keys.iter().find(|key| &*key.id == id)
    }

    /// All keys, in the file's order.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<Key>> {
        self.keys.iter()
    }

    /// How many keys there are.
    pub fn len(&self) -> usize {
        self.keys.len()
    }

    /// Whether there is no key.
    pub fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }
}

impl RawKey {
    fn resolve(self) -> Result<Key, FileError> {
        let RawKey { id, name, created, expires, .. } = self;
        let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_');
        if id.is_empty() || id.len() > 64 || !id.chars().all(plain) {
            return Err(wrong(&id, "an id has 1 to 64 letters, digits, `-` or `_`"));
        }
        check_name(&name).map_err(|what| wrong(&id, what))?;
        let hash = SecretHash::parse(&self.sha256);
        let hash = hash.ok_or_else(|| wrong(&id, "sha256 must be 64 hexadecimal digits"))?;
        let scopes = self.scopes.iter().map(|text| text.parse::<Scope>());
        let scopes: Vec<Scope> =
            scopes.collect::<Result<_, _>>().map_err(|what| wrong(&id, what))?;
        if scopes.is_empty() {
            return Err(wrong(&id, "it has no scope: inference, metrics or admin"));
        }
        let limits = KeyLimits {
            requests_per_minute: self.requests_per_minute,
            tokens_per_minute: self.tokens_per_minute,
            concurrency: self.concurrency,
        };
        check_limits(&limits).map_err(|what| wrong(&id, what))?;
        Ok(Key { id: id.into(), name, hash, scopes, limits, created, expires })
    }
}

pub(super) fn check_name(name: &str) -> Result<(), String> {
    let length = name.chars().count();
    match (1..=MAX_NAME).contains(&length) && !name.chars().any(char::is_control) {
        true => Ok(()),
        false => Err(format!("a name is one line of 1 to {MAX_NAME} characters")),
    }
}

/// Whether these limits let anything through.
pub(super) fn check_limits(limits: &KeyLimits) -> Result<(), String> {
    let all = [
        ("requests_per_minute", limits.requests_per_minute),
        ("tokens_per_minute", limits.tokens_per_minute),
        ("concurrency", limits.concurrency),
    ];
    match all.iter().find(|(_, limit)| *limit == Some(0)) {
        Some((name, _)) => Err(format!("{name} must be at least 1; leave it out for no limit")),
        None => Ok(()),
    }
}

fn wrong(id: &str, what: impl Into<String>) -> FileError {
    FileError::Key { id: id.to_owned(), what: what.into() }
}

/// The text with one more key at its end; comments and the order of the others stay.
pub(super) fn with(text: &str, key: &Key) -> Result<String, FileError> {
    Keyring::parse(text)?;
    let text = if text.trim().is_empty() { HEADER } else { text };
    let text = format!("{}\n\n[[key]]\n{}", text.trim_end(), entry(key));
    Keyring::parse(&text)?;
    Ok(text)
}

pub(super) fn without(text: &str, id: &str) -> Result<String, FileError> {
    Keyring::parse(text)?;
    let mut document = document(text)?;
    let keys = document.get_mut("key").and_then(Item::as_array_of_tables_mut);
    let unknown = || FileError::Unknown(id.to_owned());
    let keys = keys.ok_or_else(unknown)?;
    let of = |table: &Table| table.get("id").and_then(Item::as_str) == Some(id);
    let at = keys.iter().position(of).ok_or_else(unknown)?;
    // A comment just above a key goes with it; what begins the file stays.
    let before = keys.get(at).and_then(|key| key.decor().prefix()?.as_str()).filter(|_| at == 0);
    let head =
        before.and_then(|before| before.rsplit_once("\n\n")).map(|(head, _)| head.to_owned());
    keys.remove(at);
    let rest = document.to_string();
    let text = match head {
        Some(head) => format!("{head}\n\n{}", rest.trim_start()),
        None => rest,
    };
    Keyring::parse(&text)?;
    Ok(text)
}

fn document(text: &str) -> Result<DocumentMut, FileError> {
    text.parse().map_err(|error: toml_edit::TomlError| FileError::Syntax(error.to_string()))
}

fn entry(key: &Key) -> Table {
    let mut table = Table::new();
    table["id"] = value(&*key.id);
    table["name"] = value(&key.name);
    table["sha256"] = value(key.hash.hex());
    table["scopes"] =
        value(key.scopes.iter().map(|scope| scope.as_str()).collect::<toml_edit::Array>());
    let limits = [
        ("requests_per_minute", key.limits.requests_per_minute),
        ("tokens_per_minute", key.limits.tokens_per_minute),
        ("concurrency", key.limits.concurrency),
    ];
    for (name, limit) in limits {
        if let Some(limit) = limit {
            table[name] = value(i64::from(limit));
        }
    }
    table["created"] = value(key.created.to_string());
    if let Some(expires) = key.expires {
        table["expires"] = value(expires.to_string());
    }
    table
}
