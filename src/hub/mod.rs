//! Models by reference: `hf:org/repo[:file][@revision]` becomes a folder or a file on this machine.
//!
//! Files are stored where Hugging Face's own tools store them, so both can use each other's downloads. Decision:
//! docs/decisions/030.
//!
//! In reading order: `reference` (the text typed), `choose` (which files of a repository are needed), `cache`
//! (where they are stored), `wire` (one request), `fetch` (one file, resumed and checked). It does not know
//! about models.

mod cache;
mod choose;
mod fetch;
mod reference;
mod wire;

use crate::progress::size;
use cache::Cache;
pub use reference::{Reference, is_reference};
use serde_json::Value;
use std::path::{Path, PathBuf};
use wire::Wire;

/// The source of files, unless `HF_ENDPOINT` is set.
const ENDPOINT: &str = "https://huggingface.co";

/// Why a model could not be fetched. One line, with the remedy.
#[derive(Debug, thiserror::Error)]
pub enum HubError {
    /// The text given is not a valid `hf:` reference.
    #[error(
        "\"{text}\" is not a model reference: {what}; write hf:ORGANISATION/REPOSITORY[:FILE][@REVISION]"
    )]
    Reference {
        /// The reference as typed.
        text: String,
        /// The rule that it violates.
        what: &'static str,
    },
    /// The hub answered 404 for a repository, revision or file.
    #[error("{what} was not found on {endpoint}; check the name{}", hint(*.private))]
    NotFound {
        /// The repository with its revision, or `org/repo/file`.
        what: String,
        /// Base URL of the hub.
        endpoint: String,
        /// Whether a token was sent; if not, the message suggests setting one.
        private: bool,
    },
    /// The hub answered 401 or 403.
    #[error("{endpoint} refuses access to {what}: {}", refusal(*.has_token))]
    Refused {
        /// The repository with its revision, or `org/repo/file`.
        what: String,
        /// Base URL of the hub.
        endpoint: String,
        /// Whether a token was sent.
        has_token: bool,
    },
    /// The hub answered with another HTTP error.
    #[error("{endpoint} answered {status} for {what}; try again later")]
    Status {
        /// The repository with its revision, or `org/repo/file`.
        what: String,
        /// Base URL of the hub.
        endpoint: String,
        /// The HTTP status code.
        status: u16,
    },
    /// A request got no usable answer: a network error, a timeout, or a listing that is too large.
    #[error(
        "cannot reach {endpoint}: {what}; check the network, or set HF_HUB_OFFLINE=1 to use only what is downloaded"
    )]
    Unreachable {
        /// Base URL of the hub.
        endpoint: String,
        /// The cause.
        what: String,
    },
    /// Offline mode is on and the model is not completely in the cache.
    #[error("{what} is not downloaded, and HF_HUB_OFFLINE is set")]
    Offline {
        /// The reference, in its `hf:` form.
        what: String,
    },
    /// The download of a file broke off repeatedly without progress. The partial file is kept.
    #[error("{what} was interrupted after {} and could not be resumed: {why}; start again to continue there", size(*.have))]
    Broken {
        /// The file, as `org/repo/file`.
        what: String,
        /// Bytes received so far.
        have: u64,
        /// Why the last attempt ended.
        why: String,
    },
    /// The SHA-256 of a downloaded file is not the one that the hub announced.
    #[error(
        "{what} arrived with SHA-256 {found} instead of {expected}; it was deleted, download it again"
    )]
    Hash {
        /// The file, as `org/repo/file`.
        what: String,
        /// The announced SHA-256, in hex.
        expected: String,
        /// SHA-256 of what was received, in hex.
        found: String,
    },
    /// The length of a downloaded file is not the one that the hub announced.
    #[error(
        "{what} arrived with {found} bytes instead of {expected}; it was deleted, download it again"
    )]
    Length {
        /// The file, as `org/repo/file`.
        what: String,
        /// The announced length, in bytes.
        expected: u64,
        /// Bytes received.
        found: u64,
    },
    /// The disk or the quota is exhausted while a file is written.
    #[error("the disk with {} is full; {what} needs {}", path.display(), size(*.needed))]
    DiskFull {
        /// The partial file being written.
        path: PathBuf,
        /// The file, as `org/repo/file`.
        what: String,
        /// Size of the whole file in bytes; 0 if the hub did not announce it.
        needed: u64,
    },
    /// A file or folder of the cache cannot be created or written.
    #[error("cannot write {}: {source}", path.display())]
    Write {
        /// The file or folder in the cache.
        path: PathBuf,
        /// The error of the operating system.
        source: std::io::Error,
    },
    /// No client can be made for the endpoint, or its answer is not what a hub sends.
    #[error("{endpoint} sent something unexpected: {what}")]
    Protocol {
        /// Base URL of the hub.
        endpoint: String,
        /// What is wrong with it.
        what: String,
    },
    /// No file of the repository, or more than one, matches the reference.
    #[error("{repo} has no files to load: {what}")]
    NoModel {
        /// The repository, as `org/repo`.
        repo: String,
        /// What is missing, or the files to choose from.
        what: String,
    },
    /// None of `HF_HOME`, `XDG_CACHE_HOME` and `HOME` is set.
    #[error("no home folder for downloads; set HF_HOME")]
    NoHome,
}

fn hint(private: bool) -> &'static str {
    if private { "" } else { ", or set HF_TOKEN if it is private" }
}

fn refusal(has_token: bool) -> &'static str {
    match has_token {
        true => "the token has no access; accept the model's licence on its page",
        false => "set HF_TOKEN to a token with access, and accept the model's licence on its page",
    }
}

/// A source of models with its local cache.
pub struct Hub {
    endpoint: String,
    token: Option<String>,
    cache: Cache,
    offline: bool,
    wire: Wire,
}

impl Hub {
    /// Configured from the environment: `HF_ENDPOINT`, `HF_TOKEN`, `HF_HOME`, `HF_HUB_CACHE`,
    /// `HF_HUB_OFFLINE`. Fails if no variable tells where the cache is, or as [`Hub::new`] does.
    pub fn from_env() -> Result<Hub, HubError> {
        let variable = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
        let home = variable("HF_HOME").map(PathBuf::from).or_else(|| {
            let cache = variable("XDG_CACHE_HOME").map(PathBuf::from);
            let cache = cache.or_else(|| Some(PathBuf::from(variable("HOME")?).join(".cache")))?;
            Some(cache.join("huggingface"))
        });
        let home = home.ok_or(HubError::NoHome)?;
        let cache = variable("HF_HUB_CACHE").map_or_else(|| home.join("hub"), PathBuf::from);
        let token = variable("HF_TOKEN").or_else(|| {
            let path = variable("HF_TOKEN_PATH").map_or_else(|| home.join("token"), PathBuf::from);
            Some(std::fs::read_to_string(path).ok()?.trim().to_owned())
        });
        let offline = variable("HF_HUB_OFFLINE")
            .is_some_and(|v| ["1", "true", "yes", "on"].contains(&v.to_lowercase().as_str()));
        let endpoint = variable("HF_ENDPOINT").unwrap_or_else(|| ENDPOINT.into());
        Hub::new(endpoint, token.filter(|t| !t.is_empty()), cache, offline)
    }

    /// A hub at `endpoint` with its cache in `cache`. Fails if the endpoint is no URL, or if no HTTP client can be set
    /// up.
    pub fn new(
        endpoint: String,
        token: Option<String>,
        cache: PathBuf,
        offline: bool,
    ) -> Result<Hub, HubError> {
        let endpoint = endpoint.trim_end_matches('/').to_owned();
        let wire = Wire::new(&endpoint)?;
        Ok(Hub { endpoint, token, cache: Cache::new(cache), offline, wire })
    }

    /// The folder, or the single file, of a reference; missing files are downloaded. Fails if the hub refuses or does
    /// not answer and the cache lacks them, if the reference matches no files, or if a file cannot be written.
    pub async fn fetch(&self, reference: &Reference) -> Result<PathBuf, HubError> {
        let listing = match self.offline {
            true => None,
            false => match self.list(reference).await {
                Ok(listing) => Some(listing),
                Err(error @ HubError::Unreachable { .. }) => {
                    if self.cached(reference).is_err() {
                        return Err(error);
                    }
                    tracing::warn!("{error}; using what was downloaded before");
                    None
                }
                Err(error) => return Err(error),
            },
        };
        let Some((commit, names)) = listing else { return self.cached(reference) };
        let files = choose::files(reference, &names)?;
        for name in &files.names {
            self.file(reference, &commit, name).await?;
        }
        self.cache.note(reference, &commit)?;
        Ok(self.place(reference, &commit, files.single.as_deref()))
    }

    /// Commit and files of a repository at the reference's revision.
    async fn list(&self, reference: &Reference) -> Result<(String, Vec<String>), HubError> {
        let Reference { repo, revision, .. } = reference;
        let url = format!("{}/api/models/{repo}/revision/{revision}", self.endpoint);
        let what = format!("{repo} (revision {revision})");
        let body = self.wire.text(&url, self.token.as_deref(), &what).await?;
        let odd = |what: &str| HubError::Protocol {
            endpoint: self.endpoint.clone(),
            what: what.to_owned(),
        };
        let json: Value =
            serde_json::from_str(&body).map_err(|_| odd("a listing that is not JSON"))?;
        let commit = json["sha"].as_str().filter(|sha| cache::is_hex(sha));
        let commit = commit.ok_or_else(|| odd("a listing without a commit"))?.to_owned();
        let siblings = json["siblings"].as_array().ok_or_else(|| odd("a listing without files"))?;
        let names = siblings.iter().filter_map(|file| file["rfilename"].as_str());
        // Names become paths here: any name that leaves the folder is ignored.
        Ok((commit, names.filter(|name| reference::is_inside(name)).map(str::to_owned).collect()))
    }

    /// What is in the cache, without any request.
    fn cached(&self, reference: &Reference) -> Result<PathBuf, HubError> {
        let missing = || HubError::Offline { what: reference.to_string() };
        let commit = self.cache.commit(reference).ok_or_else(missing)?;
        let names = self.cache.names(reference, &commit);
        let files = choose::files(reference, &names).map_err(|_| missing())?;
        Ok(self.place(reference, &commit, files.single.as_deref()))
    }

    fn place(&self, reference: &Reference, commit: &str, single: Option<&str>) -> PathBuf {
        let folder = self.cache.snapshot(reference, commit);
        single.map_or_else(|| folder.clone(), |name| folder.join(name))
    }
}

/// A short name for a path inside the cache: the repository's name and the beginning of the commit.
pub fn name_of(path: &Path) -> Option<String> {
    let parts: Vec<_> = path.iter().filter_map(|part| part.to_str()).collect();
    let at = parts.iter().position(|part| part.starts_with("models--"))?;
    let repo = parts[at].rsplit("--").next()?;
    let commit = parts.get(at + 2).filter(|_| parts.get(at + 1) == Some(&"snapshots"))?;
    let file = parts.get(at + 3).map(|file| file.trim_end_matches(".gguf"));
    Some(format!("{}-{}", file.unwrap_or(repo), commit.get(..8).unwrap_or(commit)))
}

#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;
