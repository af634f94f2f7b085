//! The keys file on disk: read only if no other user can read it, and replaced as a whole.
//!
//! This is the only part that accesses the disk. A change is written to a second file, which is renamed over the first.
//! So a server that reads at that moment finds either the old keys or the new ones, and a crash loses neither.

use super::file::{self, FileError, Keyring};
use super::key::{Key, NewKey, Secret};
use jiff::Timestamp;
use std::fs::{self, File, Metadata};
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};

/// Permissions of everybody who is neither owner nor group.
const OTHERS: u32 = 0o007;
/// Of a new file: for its owner alone.
const OWNER_ONLY: u32 = 0o600;
/// More than any sensible number of keys.
const MAX_BYTES: u64 = 16 << 20;

/// Why the keys file cannot be read or changed. One line each.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// There is none.
    #[error(
        "there is no keys file {}; `serin key new --keys {} --name NAME --scope inference` creates one",
        .0.display(), .0.display()
    )]
    Missing(PathBuf),
    /// Others may read it.
    #[error("other users can read {} (mode {mode:03o}); run chmod 600 {}", path.display(), path.display())]
    Readable {
        /// The file.
        path: PathBuf,
        /// Its permissions.
        mode: u32,
    },
    /// The system refuses.
    #[error("cannot {what} {}: {source}", path.display())]
    Io {
        /// What was tried.
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// The system's error.
        source: io::Error,
    },
    /// Its text is wrong, or cannot be changed as asked.
    #[error("{}: {source}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        source: FileError,
    },
    /// The new key is asked for something that no key may have.
    #[error("{0}")]
    InvalidKey(String),
}

/// When a file was changed last, as far as the system says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct FileStamp {
    inode: u64,
    length: u64,
    changed: (i64, i64),
}

/// A keys file.
#[derive(Debug, Clone)]
pub struct KeysFile {
    path: PathBuf,
    /// Of the last reading; `None`: it could not be looked at.
    seen: Option<FileStamp>,
}

impl KeysFile {
    /// The file at this path; not read yet.
    pub fn at(path: PathBuf) -> KeysFile {
        KeysFile { path, seen: None }
    }

    /// The path of the file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Reads the keys. Fails if the file is missing, cannot be read, may be read by others, or is not valid.
    pub fn read(&mut self) -> Result<Keyring, StoreError> {
        self.seen = self.look();
        let text = self.text()?;
        Keyring::parse(&text).map_err(|source| self.wrong(source))
    }

    /// Reads the keys if the file has changed since the last reading.
    pub fn read_if_changed(&mut self) -> Option<Result<Keyring, StoreError>> {
        (self.look() != self.seen).then(|| self.read())
    }

    /// Adds a key with an id and a secret of these random bits; makes the file if there is none. Fails if the name or
    /// the limits are not valid, if no scope is given, or if the file cannot be read or written.
    pub fn add(
        &self,
        asked: NewKey,
        (id, bits): ([u8; 4], [u8; 32]),
        now: Timestamp,
    ) -> Result<(Key, Secret), StoreError> {
        file::check_name(&asked.name).map_err(StoreError::InvalidKey)?;
        file::check_limits(&asked.limits).map_err(StoreError::InvalidKey)?;
        if asked.scopes.is_empty() {
            return Err(StoreError::InvalidKey(
                "a key needs a scope: --scope inference".to_owned(),
            ));
        }
        let text = match self.text() {
            Err(StoreError::Missing(_)) => String::new(),
            text => text?,
        };
        let (key, secret) = asked.make(id, bits, now);
        let text = file::with(&text, &key).map_err(|source| self.wrong(source))?;
        self.replace(&text)?;
        Ok((key, secret))
    }

    /// Removes a key. Fails if there is no such key, or if the file cannot be read or written.
    pub fn remove(&self, id: &str) -> Result<(), StoreError> {
        let text = file::without(&self.text()?, id).map_err(|source| self.wrong(source))?;
        self.replace(&text)
    }

    fn look(&self) -> Option<FileStamp> {
        let found = fs::metadata(&self.path).ok()?;
        let changed = (found.ctime(), found.ctime_nsec());
        Some(FileStamp { inode: found.ino(), length: found.len(), changed })
    }

    fn text(&self) -> Result<String, StoreError> {
        let file = File::open(&self.path).map_err(|source| match source.kind() {
            io::ErrorKind::NotFound => StoreError::Missing(self.path.clone()),
            _ => self.io("read")(source),
        })?;
        let found = file.metadata().map_err(self.io("read"))?;
        let mode = found.permissions().mode() & 0o777;
        if mode & OTHERS != 0 {
            return Err(StoreError::Readable { path: self.path.clone(), mode });
        }
        if !found.is_file() || found.len() > MAX_BYTES {
            let what = format!("it is no file of at most {} MiB", MAX_BYTES >> 20);
            return Err(self.wrong(FileError::Syntax(what)));
        }
        io::read_to_string(file).map_err(self.io("read"))
    }

    /// Writes a second file and renames it over this one.
    fn replace(&self, text: &str) -> Result<(), StoreError> {
        // A link stays a link.
        let path = fs::canonicalize(&self.path).unwrap_or_else(|_| self.path.clone());
        let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
        let folder = folder.unwrap_or(Path::new("."));
        let write = || {
            let mut new = tempfile::Builder::new().prefix(".keys-").tempfile_in(folder)?;
            new.write_all(text.as_bytes())?;
            keep_owner(new.path(), fs::metadata(&path).ok(), folder)?;
            new.as_file().sync_all()?;
            new.persist(&path).map_err(|error| error.error)?;
            File::open(folder)?.sync_all()
        };
        write().map_err(self.io("write"))
    }

    fn io(&self, what: &'static str) -> impl Fn(io::Error) -> StoreError {
        let path = self.path.clone();
        move |source| StoreError::Io { what, path: path.clone(), source }
    }

    fn wrong(&self, source: FileError) -> StoreError {
        StoreError::File { path: self.path.clone(), source }
    }
}

/// The new file belongs to the owner of the old one, or of the folder if there was none, so that a service without
/// a fixed user can read what root has written. Who may not change owners keeps the file.
fn keep_owner(new: &Path, old: Option<Metadata>, folder: &Path) -> io::Result<()> {
    let mode = old.as_ref().map_or(OWNER_ONLY, |old| old.permissions().mode() & 0o770);
    let owner = old.map_or_else(|| fs::metadata(folder), Ok)?;
    if let Err(error) = chown(new, Some(owner.uid()), Some(owner.gid()))
        && error.kind() != io::ErrorKind::PermissionDenied
    {
        return Err(error);
    }
    fs::set_permissions(new, fs::Permissions::from_mode(mode))
}
