//! Where downloads are stored: the layout of Hugging Face's own cache.
//!
//! `models--org--repo/` contains `blobs/` (contents, named by etag), `snapshots/COMMIT/` (file names, linked
//! to blobs) and `refs/` (the commit of a branch). This file handles only paths and links; it downloads
//! nothing.

use super::{HubError, Reference};
use std::fs::{File, OpenOptions, TryLockError};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Time between two attempts to take a lock.
const LOCK_PAUSE: Duration = Duration::from_millis(200);

pub(super) struct Cache {
    root: PathBuf,
}

/// Whether a text from outside is a hash and nothing else; it becomes a file name.
pub(super) fn is_hex(text: &str) -> bool {
    (32..=64).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_hexdigit())
}

impl Cache {
    pub(super) fn new(root: PathBuf) -> Cache {
        Cache { root }
    }

    fn repo(&self, reference: &Reference) -> PathBuf {
        self.root.join(folder(reference))
    }

    /// Waits until no other process downloads this content. It is the lock that Hugging Face's own tools take; it is
    /// released when the file is closed. On a file system without locks there is nothing to wait for.
    pub(super) async fn lock(&self, reference: &Reference, etag: &str) -> Result<File, HubError> {
        let path = self.root.join(".locks").join(folder(reference)).join(format!("{etag}.lock"));
        parent(&path)?;
        let file = OpenOptions::new().create(true).truncate(false).write(true).open(&path);
        let file = file.map_err(|source| HubError::Write { path: path.clone(), source })?;
        let mut waited = false;
        while let Err(TryLockError::WouldBlock) = file.try_lock() {
            if !waited {
                tracing::info!("another process is downloading {}; waiting for it", reference.repo);
            }
            waited = true;
            tokio::time::sleep(LOCK_PAUSE).await;
        }
        Ok(file)
    }

    pub(super) fn snapshot(&self, reference: &Reference, commit: &str) -> PathBuf {
        self.repo(reference).join("snapshots").join(commit)
    }

    pub(super) fn blob(&self, reference: &Reference, etag: &str) -> PathBuf {
        self.repo(reference).join("blobs").join(etag)
    }

    /// Stores which commit the revision is.
    pub(super) fn note(&self, reference: &Reference, commit: &str) -> Result<(), HubError> {
        if reference.revision == commit {
            return Ok(());
        }
        let path = self.repo(reference).join("refs").join(&reference.revision);
        parent(&path)?;
        std::fs::write(&path, commit).map_err(|source| HubError::Write { path, source })
    }

    /// The revision's commit at the last request.
    pub(super) fn commit(&self, reference: &Reference) -> Option<String> {
        if self.snapshot(reference, &reference.revision).is_dir() {
            return Some(reference.revision.clone());
        }
        let path = self.repo(reference).join("refs").join(&reference.revision);
        let commit = std::fs::read_to_string(path).ok()?.trim().to_owned();
        is_hex(&commit).then_some(commit)
    }

    /// The existing files of a snapshot, by their names in the repository.
    pub(super) fn names(&self, reference: &Reference, commit: &str) -> Vec<String> {
        let root = self.snapshot(reference, commit);
        let (mut names, mut folders) = (Vec::new(), vec![root.clone()]);
        while let Some(folder) = folders.pop() {
            for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
                let path = entry.path();
                if path.is_dir() {
                    folders.push(path);
                } else if let Ok(name) = path.strip_prefix(&root)
                    && path.is_file()
                {
                    names.push(name.to_string_lossy().into_owned());
                }
            }
        }
        names.sort_unstable();
        names
    }

    /// Links a name to a blob. Where links are not possible, the blob itself is moved there.
    pub(super) fn link(&self, blob: &Path, to: &Path) -> Result<(), HubError> {
        parent(to)?;
        let written = |source| HubError::Write { path: to.to_owned(), source };
        if to.symlink_metadata().is_ok() {
            std::fs::remove_file(to).map_err(written)?;
        }
        let up = to.ancestors().position(|dir| dir.ends_with("snapshots")).unwrap_or(2);
        let name = blob.file_name().unwrap_or_default();
        let relative = PathBuf::from("../".repeat(up)).join("blobs").join(name);
        #[cfg(unix)]
        let linked = std::os::unix::fs::symlink(relative, to);
        #[cfg(not(unix))]
        let linked = std::fs::rename(blob, to);
        linked.map_err(written)
    }
}

fn folder(reference: &Reference) -> String {
    format!("models--{}", reference.repo.replace('/', "--"))
}

/// Creates the folder for a file.
pub(super) fn parent(path: &Path) -> Result<(), HubError> {
    let folder = path.parent().unwrap_or(path);
    std::fs::create_dir_all(folder)
        .map_err(|source| HubError::Write { path: folder.to_owned(), source })
}
