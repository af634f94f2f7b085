//! The keys file of a running server: read at startup, and again whenever it changes.
//!
//! The file is polled once a second, which costs a microsecond. A file system watch would miss changes on network file
//! systems and in mounted volumes.

use super::CliError;
use crate::access::{Access, KeysFile};
use crate::config::AccessConfig;
use std::path::Path;
use std::time::Duration;

/// How often the file is looked at.
const EVERY: Duration = Duration::from_secs(1);

/// Reads the keys and keeps them up to date from now on. Must be called within a tokio runtime.
pub(super) fn open(config: &AccessConfig) -> Result<Access, CliError> {
    let Some(path) = &config.keys else { return Ok(Access::open()) };
    let mut file = KeysFile::at(path.clone());
    let keys = file.read().map_err(|error| CliError(format!("access.keys: {error}")))?;
    tracing::info!(keys = keys.len(), file = %path.display(), "keys are asked for");
    let access = Access::with(keys);
    tokio::spawn(follow(file, access.clone()));
    Ok(access)
}

pub(super) fn count(path: &Path) -> Result<usize, CliError> {
    let keys = KeysFile::at(path.to_owned()).read();
    keys.map(|keys| keys.len()).map_err(|error| CliError(format!("access.keys: {error}")))
}

async fn follow(mut file: KeysFile, access: Access) {
    loop {
        tokio::time::sleep(EVERY).await;
        let look = tokio::task::spawn_blocking(move || {
            let read = file.read_if_changed();
            (file, read)
        });
        let Ok((back, read)) = look.await else { return };
        file = back;
        let Some(read) = read else { continue };
        match &read {
            Ok(keys) => tracing::info!(keys = keys.len(), "the keys file has changed"),
            Err(error) => {
                tracing::error!(%error, "the keys file cannot be used; the keys from before are in force");
            }
        }
        access.take_up(read.map_err(|error| error.to_string()));
    }
}
