//! Downloads one file: requests it, resumes after interruptions, checks it, and gives it its name.
//!
//! A partial download is stored as `ETAG.incomplete`. It gets a name that can be loaded only after its length
//! and, for large files, its SHA-256 match what the hub announced. A file that does not match is deleted,
//! because resuming it could never make it right.

use super::cache::{is_hex, parent};
use super::wire::HubRequest;
use super::{Hub, HubError, Reference};
use crate::outbound;
use crate::progress::Progress;
use reqwest::header::{CONTENT_LENGTH, CONTENT_RANGE, ETAG, HeaderMap};
use reqwest::{Method, StatusCode};
use sha2::{Digest, Sha256};
use std::fs::{File, OpenOptions};
use std::io::Read;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::io::AsyncWriteExt;

/// Maximum number of consecutive attempts without a byte.
const ATTEMPTS: u32 = 5;
/// Maximum wait between two pieces of a body.
const STALL: Duration = Duration::from_secs(60);
const PAUSE: Duration = Duration::from_millis(500);

/// What the hub announces about a file before sending it.
struct RemoteFile {
    etag: String,
    size: Option<u64>,
    /// Large files are named by their SHA-256.
    sha256: Option<String>,
}

struct Download<'a> {
    url: String,
    /// `repo/name`, for errors.
    what: String,
    remote: RemoteFile,
    partial: PathBuf,
    progress: &'a Progress,
}

impl Hub {
    /// Makes sure that `name` is in the repository's snapshot, downloading it if necessary.
    pub(super) async fn file(
        &self,
        reference: &Reference,
        commit: &str,
        name: &str,
    ) -> Result<(), HubError> {
        let to = self.cache.snapshot(reference, commit).join(name);
        if to.is_file() {
            return Ok(());
        }
        let what = format!("{}/{name}", reference.repo);
        let url = format!("{}/{}/resolve/{commit}/{name}", self.endpoint, reference.repo);
        let remote = self.remote_file(&url, &what).await?;
        let blob = self.cache.blob(reference, &remote.etag);
        let lock = match blob.is_file() {
            true => None,
            false => Some(self.cache.lock(reference, &remote.etag).await?),
        };
        // While this waited for the lock, another process may have downloaded it.
        if !blob.is_file() {
            parent(&blob)?;
            let partial = blob.with_file_name(format!("{}.incomplete", remote.etag));
            let progress = Progress::start(format!("downloading {what}"), remote.size.unwrap_or(0));
            let download = Download { url, what, remote, partial, progress: &progress };
            self.download(&download).await?;
            progress.end();
            self.check(&download).await?;
            std::fs::rename(&download.partial, &blob)
                .map_err(|source| HubError::Write { path: blob.clone(), source })?;
        }
        drop(lock);
        self.cache.link(&blob, &to)
    }

    async fn remote_file(&self, url: &str, what: &str) -> Result<RemoteFile, HubError> {
        let token = self.token.as_deref();
        // These headers come from the hub itself; storage behind a redirect does not send them.
        let request = HubRequest { method: Method::HEAD, url, token, from: 0, follow: false, what };
        let answer = self.wire.send(&request).await?;
        let headers = answer.headers();
        let linked = text(headers, "x-linked-etag").map(|etag| clean(&etag));
        let sha256 = linked.clone().filter(|etag| etag.len() == 64);
        let etag = linked.or_else(|| text(headers, ETAG.as_str()).map(|etag| clean(&etag)));
        let etag = etag.filter(|etag| is_hex(etag)).ok_or_else(|| HubError::Protocol {
            endpoint: self.endpoint.clone(),
            what: format!("no usable etag for {what}"),
        })?;
        let size = text(headers, "x-linked-size").or_else(|| {
            let own = answer.status() == StatusCode::OK;
            own.then(|| text(headers, CONTENT_LENGTH.as_str())).flatten()
        });
        Ok(RemoteFile { sha256, size: size.and_then(|size| size.parse().ok()), etag })
    }

    /// Downloads until the file is complete, resuming after interruptions.
    async fn download(&self, download: &Download<'_>) -> Result<(), HubError> {
        let mut failures = 0;
        loop {
            let have = length(&download.partial);
            if download.remote.size == Some(have) && have > 0 {
                return Ok(());
            }
            let why = match self.continue_from(download, have).await {
                Ok(()) => return Ok(()),
                Err(Stop::Broken(why)) => why,
                Err(Stop::Failed(HubError::Unreachable { what, .. })) if have > 0 => what,
                Err(Stop::Failed(error)) => return Err(error),
            };
            let got = length(&download.partial);
            failures = if got > have { 0 } else { failures + 1 };
            if failures >= ATTEMPTS {
                let what = download.what.clone();
                return Err(HubError::Broken { what, have: got, why });
            }
            tracing::warn!("{} was interrupted at {got} bytes: {why}; resuming", download.what);
            tokio::time::sleep(PAUSE * (1 << failures)).await;
        }
    }

    async fn continue_from(&self, download: &Download<'_>, have: u64) -> Result<(), Stop> {
        let request = HubRequest {
            method: Method::GET,
            url: &download.url,
            token: self.token.as_deref(),
            from: have,
            follow: true,
            what: &download.what,
        };
        let mut answer = self.wire.send(&request).await?;
        let continues = answer.status() == StatusCode::PARTIAL_CONTENT
            && text(answer.headers(), CONTENT_RANGE.as_str())
                .is_some_and(|range| range.starts_with(&format!("bytes {have}-")));
        let mut file = tokio::fs::File::from_std(download.open(continues && have > 0)?);
        download.progress.resume_at(if continues { have } else { 0 });
        if answer.status() == StatusCode::RANGE_NOT_SATISFIABLE {
            return Err(Stop::Broken("it was longer than the hub announced".into()));
        }
        loop {
            let data = match tokio::time::timeout(STALL, answer.chunk()).await {
                Ok(Ok(Some(data))) => data,
                Ok(Ok(None)) => break,
                Ok(Err(error)) => return flushed(file, outbound::chain(error)).await,
                Err(_) => return flushed(file, "nothing came for a minute".to_owned()).await,
            };
            file.write_all(&data).await.map_err(|source| download.unwritten(source))?;
            download.progress.add(data.len() as u64);
        }
        // A write is complete only once the next one, or this, has returned.
        file.flush().await.map_err(|source| download.unwritten(source))?;
        file.sync_all().await.map_err(|source| download.unwritten(source))?;
        match download.remote.size {
            Some(size) if length(&download.partial) < size => {
                Err(Stop::Broken("the connection was closed early".into()))
            }
            _ => Ok(()),
        }
    }

    /// Checks length and hash; a wrong file is deleted.
    async fn check(&self, download: &Download<'_>) -> Result<(), HubError> {
        let (found, what) = (length(&download.partial), download.what.clone());
        if let Some(expected) = download.remote.size.filter(|expected| *expected != found) {
            download.delete();
            return Err(HubError::Length { what, expected, found });
        }
        let Some(expected) = download.remote.sha256.clone() else { return Ok(()) };
        let path = download.partial.clone();
        let hashed = tokio::task::spawn_blocking(move || hash(&path)).await;
        let hashed = hashed.map_err(std::io::Error::other).and_then(|hashed| hashed);
        let found = hashed.map_err(|source| download.unwritten(source))?;
        if found.eq_ignore_ascii_case(&expected) {
            return Ok(());
        }
        download.delete();
        Err(HubError::Hash { what, expected, found })
    }
}

/// An attempt that broke off; what has come is in the file, to go on from there.
async fn flushed(mut file: tokio::fs::File, why: String) -> Result<(), Stop> {
    let _ = file.flush().await;
    Err(Stop::Broken(why))
}

enum Stop {
    /// Resuming may help.
    Broken(String),
    Failed(HubError),
}

impl From<HubError> for Stop {
    fn from(error: HubError) -> Stop {
        Stop::Failed(error)
    }
}

impl Download<'_> {
    fn open(&self, append: bool) -> Result<File, HubError> {
        let mut options = OpenOptions::new();
        options.create(true).write(true);
        options.append(append).truncate(!append);
        options.open(&self.partial).map_err(|source| self.unwritten(source))
    }

    fn unwritten(&self, source: std::io::Error) -> HubError {
        let path = self.partial.clone();
        match source.kind() {
            std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded => {
                let needed = self.remote.size.unwrap_or(0);
                HubError::DiskFull { path, what: self.what.clone(), needed }
            }
            _ => HubError::Write { path, source },
        }
    }

    fn delete(&self) {
        if let Err(error) = std::fs::remove_file(&self.partial) {
            tracing::warn!("cannot delete {}: {error}", self.partial.display());
        }
    }
}

fn length(path: &Path) -> u64 {
    std::fs::metadata(path).map_or(0, |m| m.len())
}

fn text(headers: &HeaderMap, name: &str) -> Option<String> {
    Some(headers.get(name)?.to_str().ok()?.to_owned())
}

/// An etag without quotes and prefix.
fn clean(etag: &str) -> String {
    etag.trim_start_matches("W/").trim_matches('"').to_owned()
}

fn hash(path: &Path) -> std::io::Result<String> {
    let mut file = File::open(path)?;
    let mut hash = Sha256::new();
    let mut buffer = vec![0; 1 << 20];
    loop {
        match file.read(&mut buffer)? {
            0 => break,
            n => hash.update(&buffer[..n]),
        }
    }
    Ok(hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect())
}
