//! The server's interface to the operating system: signals, and the limit on file descriptors.
//!
//! SIGTERM and SIGINT request a graceful shutdown; a second one of either ends the process at once, with code
//! 130. SIGHUP rereads the config. Only the log filter can change while the server runs; other changed keys are listed
//! in the log and take effect after a restart.

use super::logging;
use crate::config::Config;
use crate::device::fatal_signals;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use std::io;
use std::path::{Path, PathBuf};
use tokio::signal::unix::{Signal, SignalKind, signal};
use toml::{Table, Value};

/// Exit code of a shutdown that did not wait for anything.
const CUT_SHORT: u8 = 130;
/// The key that can change in a running server.
const CHANGEABLE: &str = "server.log";

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum StopSignal {
    /// By a supervisor: SIGTERM.
    Terminate,
    /// By a user at a terminal: SIGINT.
    Interrupt,
}

pub(super) struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    /// Catches both signals from now on. Fails if the system refuses a handler.
    pub fn listen() -> io::Result<Signals> {
        let terminate = signal(SignalKind::terminate())?;
        Ok(Signals { terminate, interrupt: signal(SignalKind::interrupt())? })
    }

    /// Waits for the next of the two signals.
    pub async fn next(&mut self) -> StopSignal {
        tokio::select! {
            _ = self.terminate.recv() => StopSignal::Terminate,
            _ = self.interrupt.recv() => StopSignal::Interrupt,
        }
    }

    /// From now on a signal ends the process at once, after `last`, which must not block.
    pub fn end_at_next(mut self, last: impl FnOnce() + Send + 'static) {
        tokio::spawn(async move {
            self.next().await;
            last();
            fatal_signals::exit_now(CUT_SHORT);
        });
    }
}

/// Rereads the config on SIGHUP, which would otherwise end the process.
pub(super) fn reread_on_hangup(path: Option<PathBuf>) -> io::Result<()> {
    let mut hangup = signal(SignalKind::hangup())?;
    let mut table = path.as_deref().and_then(|path| read(path).ok()).unwrap_or_default();
    tokio::spawn(async move {
        while hangup.recv().await.is_some() {
            match path.as_deref() {
                None => tracing::info!("SIGHUP: there is no config file; nothing has changed"),
                Some(path) => match reread(path, &table) {
                    Ok(now) => table = now,
                    Err(error) => {
                        tracing::error!(%error, "SIGHUP: the config cannot be used; nothing has changed");
                    }
                },
            }
        }
    });
    Ok(())
}

/// Applies what can change and logs what cannot; returns the current file.
fn reread(path: &Path, before: &Table) -> Result<Table, String> {
    let config = Config::read(path).map_err(|error| error.to_string())?;
    let now = read(path)?;
    let mut fixed = changes(before, &now);
    fixed.retain(|key| key != CHANGEABLE);
    let taken = logging::apply(config.log.as_deref())?;
    if taken {
        tracing::info!(log = config.log, "SIGHUP: the log filter has changed");
    }
    if !fixed.is_empty() {
        tracing::warn!(
            "SIGHUP: these changes take effect only after a restart: {}",
            fixed.join(", ")
        );
    }
    if !taken && fixed.is_empty() {
        tracing::info!("SIGHUP: nothing has changed");
    }
    // Keys that need a restart keep their old values until then.
    let mut in_force = before.clone();
    take(&mut in_force, &now, CHANGEABLE);
    Ok(in_force)
}

fn read(path: &Path) -> Result<Table, String> {
    let text = std::fs::read_to_string(path).map_err(|error| error.to_string())?;
    text.parse().map_err(|error: toml::de::Error| error.to_string())
}

fn take(into: &mut Table, from: &Table, key: &str) {
    let Some((table, key)) = key.split_once('.') else { return };
    let value = from.get(table).and_then(|table| table.get(key)).cloned();
    let empty = Value::Table(Table::new());
    let Some(into) = into.entry(table).or_insert(empty).as_table_mut() else { return };
    match value {
        Some(value) => into.insert(key.to_owned(), value),
        None => into.remove(key),
    };
}

/// Keys, as `table.key`, that differ between the two.
fn changes(before: &Table, now: &Table) -> Vec<String> {
    let keys = |table: &Table| flat(table).into_iter().map(|(key, _)| key).collect::<Vec<_>>();
    let (a, b) = (flat(before), flat(now));
    let mut names = [keys(before), keys(now)].concat();
    names.sort();
    names.dedup();
    let value = |of: &[(String, Value)], name: &str| {
        of.iter().find(|(key, _)| key == name).map(|(_, value)| value.clone())
    };
    names.retain(|name| value(&a, name) != value(&b, name));
    names
}

fn flat(table: &Table) -> Vec<(String, Value)> {
    let one = |(name, value): (&String, &Value)| match value {
        Value::Table(inner) => {
            inner.iter().map(|(key, value)| (format!("{name}.{key}"), value.clone())).collect()
        }
        other => vec![(name.clone(), other.clone())],
    };
    table.iter().flat_map(one).collect()
}

/// Raises the limit on open file descriptors as far as this process may; returns the new limit.
pub(super) fn raise_descriptors() -> usize {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    let raised = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum });
    let now = if raised.is_ok() { maximum } else { current };
    now.map_or(usize::MAX, |limit| usize::try_from(limit).unwrap_or(usize::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_changed_in_a_file_is_named() {
        let table = |text: &str| text.parse::<Table>().expect("TOML");
        let before = table("[server]\nlog = \"info\"\nlisten = \"a\"\n[engine]\nmax_running = 1");
        let now =
            table("[server]\nlog = \"debug\"\n[engine]\nmax_running = 1\n[rollout]\nbake = \"1m\"");
        assert_eq!(changes(&before, &now), ["rollout.bake", "server.listen", "server.log"]);
        assert_eq!(changes(&now, &now), [""; 0]);
        let mut in_force = before.clone();
        take(&mut in_force, &now, CHANGEABLE);
        assert_eq!(changes(&in_force, &now), ["rollout.bake", "server.listen"]);
    }
}
