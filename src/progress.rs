//! Progress of a long operation: a bar on a terminal, otherwise a log line every few seconds.
//!
//! An operation that takes less than a second shows nothing. The text is a pure function of bytes and time,
//! so that it can be tested; only the outer part reads a clock. It does not know about models or downloads.

use parking_lot::Mutex;
use std::io::{IsTerminal, Write};
use std::time::{Duration, Instant};

/// Nothing is shown before this time.
const PATIENCE: Duration = Duration::from_secs(1);
/// Time between two log lines, and between two updates of the bar.
const LINES: Duration = Duration::from_secs(3);
const LOOKS: Duration = Duration::from_millis(200);
const WIDTH: usize = 30;

/// One long operation.
#[derive(Debug)]
pub struct Progress {
    what: String,
    total: u64,
    terminal: bool,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    started: Instant,
    said: Option<Instant>,
    done: u64,
    /// Bytes that were there at the start: they count for the progress, but not for the speed.
    before: u64,
    ended: bool,
}

impl Progress {
    /// Begins now. `total` 0 means unknown.
    pub fn start(what: impl Into<String>, total: u64) -> Progress {
        let terminal = std::io::stderr().is_terminal();
        let state = State { started: Instant::now(), said: None, done: 0, before: 0, ended: false };
        Progress { what: what.into(), total, terminal, state: Mutex::new(state) }
    }

    /// This many bytes are there already.
    pub fn resume_at(&self, bytes: u64) {
        let mut state = self.state.lock();
        (state.done, state.before) = (bytes, bytes);
    }

    /// This many more bytes are done.
    pub fn add(&self, bytes: u64) {
        let now = Instant::now();
        let mut state = self.state.lock();
        state.done = state.done.saturating_add(bytes);
        let every = if self.terminal { LOOKS } else { LINES };
        let due = state.said.is_none_or(|said| now - said >= every);
        if now - state.started < PATIENCE || !due || state.ended {
            return;
        }
        state.said = Some(now);
        self.say(&line(&self.what, state.done, state.before, self.total, now - state.started));
    }

    /// The operation is over. Reported only if it took long.
    pub fn end(&self) {
        let mut state = self.state.lock();
        let took = state.started.elapsed();
        if !std::mem::replace(&mut state.ended, true) && took >= PATIENCE {
            let text = ended(&self.what, state.done, state.before, took);
            if self.terminal && state.said.is_some() {
                eprint!("\r\x1b[K");
            }
            tracing::info!("{text}");
        }
    }

    fn say(&self, text: &str) {
        if self.terminal {
            eprint!("\r\x1b[K{text}");
            // Failing to draw the bar is not an error.
            let _ = std::io::stderr().flush();
        } else {
            tracing::info!("{text}");
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.end();
    }
}

fn line(what: &str, done: u64, before: u64, total: u64, took: Duration) -> String {
    let rate = rate(done - before, took);
    if total == 0 {
        return format!("{what}: {} at {rate}", size(done));
    }
    let share = (done as f64 / total as f64).min(1.0);
    let full = (share * WIDTH as f64) as usize;
    let bar = format!("{}{}", "#".repeat(full), "-".repeat(WIDTH - full));
    format!("{what}: [{bar}] {:.0} % of {} at {rate}", share * 100.0, size(total))
}

fn ended(what: &str, done: u64, before: u64, took: Duration) -> String {
    format!("{what}: {} in {:.1} s, {}", size(done), took.as_secs_f64(), rate(done - before, took))
}

fn rate(bytes: u64, took: Duration) -> String {
    let seconds = took.as_secs_f64().max(1e-3);
    format!("{}/s", size((bytes as f64 / seconds) as u64))
}

/// Bytes for people: `1.5 GiB`.
pub fn size(bytes: u64) -> String {
    let units = ["B", "KiB", "MiB", "GiB", "TiB"];
    let mut value = bytes as f64;
    let mut unit = 0;
    while value >= 1024.0 && unit + 1 < units.len() {
        value /= 1024.0;
        unit += 1;
    }
    if unit == 0 { format!("{bytes} B") } else { format!("{value:.1} {}", units[unit]) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_says_how_far_and_how_fast() {
        let half = line("loading x", 3 << 20, 1 << 20, 6 << 20, Duration::from_secs(2));
        assert_eq!(
            half,
            "loading x: [###############---------------] 50 % of 6.0 MiB at 1.0 MiB/s"
        );
        assert_eq!(line("x", 512, 0, 0, Duration::from_secs(1)), "x: 512 B at 512 B/s");
        let more = line("x", 9, 0, 6, Duration::from_secs(3));
        assert!(more.contains("100 %"), "{more}");
        assert_eq!(
            ended("x", 4 << 30, 0, Duration::from_secs(4)),
            "x: 4.0 GiB in 4.0 s, 1.0 GiB/s"
        );
    }
}
