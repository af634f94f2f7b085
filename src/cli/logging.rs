//! The log: lines on standard error, written by a dedicated thread.
//!
//! The reader of standard error may stop reading, and a pipe holds only 64 KiB. A thread that wrote log lines itself
//! would then block, and so would every thread that waits for a lock that it holds. So lines go through a bounded queue
//! to a writer thread. When the queue is full they are dropped and counted ([`dropped`]). Panics are logged in the same
//! way, because the standard hook would write to the pipe itself. User text is not logged.

use std::borrow::Cow;
use std::io::IsTerminal;
use std::panic::PanicHookInfo;
use std::sync::{Mutex, OnceLock, PoisonError};
use tracing_appender::non_blocking::{ErrorCounter, NonBlockingBuilder, WorkerGuard};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Registry, reload};

#[derive(Debug, Clone, Copy, clap::ValueEnum)]
pub(super) enum LogFormat {
    Text,
    Json,
}

/// Maximum number of lines that wait for the writer.
const WAITING: usize = 4 << 10;
/// The filter, unless the environment (`RUST_LOG`) or the config sets one.
const DEFAULT: &str = "info";

struct Log {
    writer: Mutex<Option<WorkerGuard>>,
    dropped: ErrorCounter,
    filter: reload::Handle<EnvFilter, Registry>,
}

static LOG: OnceLock<Log> = OnceLock::new();

pub(super) fn init(format: LogFormat) {
    let queue = NonBlockingBuilder::default().lossy(true).buffered_lines_limit(WAITING);
    let (lines, writer) = queue.thread_name("serin-log").finish(std::io::stderr());
    let dropped = lines.error_counter();
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(DEFAULT));
    let (filter, handle) = reload::Layer::new(filter);
    let layer = tracing_subscriber::fmt::layer();
    let layer = layer.with_writer(lines).with_ansi(std::io::stderr().is_terminal());
    let base = tracing_subscriber::registry().with(filter);
    let done = match format {
        LogFormat::Text => base.with(layer).try_init(),
        LogFormat::Json => base.with(layer.json()).try_init(),
    };
    if done.is_err() {
        eprintln!("serin: logging was already set up");
        return;
    }
    let _ = LOG.set(Log { writer: Mutex::new(Some(writer)), dropped, filter: handle });
    std::panic::set_hook(Box::new(note_panic));
}

/// Number of lines that were dropped because the queue was full.
pub(super) fn dropped() -> u64 {
    LOG.get().map_or(0, |log| log.dropped.dropped_lines() as u64)
}

/// Writes what waits, within about a second, and ends the log. For exits that run no destructors.
pub(super) fn finish() {
    let writer = |log: &Log| log.writer.lock().unwrap_or_else(PoisonError::into_inner).take();
    drop(LOG.get().and_then(writer));
}

/// Applies the filter `said`, unless the environment sets one; returns whether anything changed.
pub(super) fn apply(said: Option<&str>) -> Result<bool, String> {
    let Some(log) = LOG.get().filter(|_| std::env::var_os(EnvFilter::DEFAULT_ENV).is_none()) else {
        return Ok(false);
    };
    let wanted = EnvFilter::try_new(said.unwrap_or(DEFAULT)).map_err(|error| error.to_string())?;
    let before = log.filter.with_current(ToString::to_string).unwrap_or_default();
    let changed = before != wanted.to_string();
    log.filter.reload(wanted).map_err(|error| error.to_string())?;
    Ok(changed)
}

fn note_panic(panic: &PanicHookInfo<'_>) {
    let at = panic.location().map(ToString::to_string).unwrap_or_default();
    let thread = std::thread::current();
    let payload = panic.payload();
    let text = payload.downcast_ref::<&str>().copied();
    let text = text.or_else(|| payload.downcast_ref::<String>().map(String::as_str));
    let what = text.map(without_quotes).unwrap_or_default();
    tracing::error!(at, thread = thread.name(), "panicked: {what}");
}

/// A panic's message without the values that it quotes: an error about slicing inside a character quotes the
/// whole text, which may be a user's.
fn without_quotes(message: &str) -> Cow<'_, str> {
    match message.find(['`', '"']) {
        None => message.into(),
        Some(from) => format!("{}... (what it quotes is left out)", &message[..from]).into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::panic::catch_unwind;

    #[test]
    fn a_panic_over_a_users_text_does_not_show_it() {
        let text = "my döctor said";
        let panic = catch_unwind(|| &text[..5]).expect_err("within a character");
        let message = panic.downcast_ref::<String>().expect("a message");
        assert!(message.contains("said"), "else there is nothing to leave out: {message}");
        let shown = without_quotes(message);
        assert!(!shown.contains("said") && shown.contains("boundary"), "{shown}");
        assert_eq!(without_quotes("index out of bounds"), "index out of bounds");
    }
}
