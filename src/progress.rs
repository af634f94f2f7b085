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
    /// What is counted; `None`: bytes.
    unit: Option<&'static str>,
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
    /// Begins now; counts bytes. `total` 0 means unknown.
    pub fn start(what: impl Into<String>, total: u64) -> Progress {
        Progress::counting(what, total, None)
    }

    /// Begins now; counts what `unit` names, such as requests.
    pub fn counting(
        what: impl Into<String>,
        total: u64,
        unit: impl Into<Option<&'static str>>,
    ) -> Progress {
        let unit = unit.into();
        let terminal = std::io::stderr().is_terminal();
        let state = State { started: Instant::now(), said: None, done: 0, before: 0, ended: false };
        Progress { what: what.into(), total, unit, terminal, state: Mutex::new(state) }
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
        let (done, before, took) = (state.done, state.before, now - state.started);
        self.say(&match self.unit {
            None => line(&self.what, done, before, self.total, took),
            Some(unit) => counted(&self.what, done, (self.total, unit), took),
        });
    }

    /// The operation is over. Reported only if it took long.
    pub fn end(&self) {
        let mut state = self.state.lock();
        let took = state.started.elapsed();
        if !std::mem::replace(&mut state.ended, true) && took >= PATIENCE {
            let text = match self.unit {
                None => ended(&self.what, state.done, state.before, took),
                Some(unit) => {
                    format!("{}: {} {unit} in {:.1} s", self.what, state.done, took.as_secs_f64())
                }
            };
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
    let (bar, percent) = bar(done, total);
    format!("{what}: [{bar}] {percent:.0} % of {} at {rate}", size(total))
}

fn bar(done: u64, total: u64) -> (String, f64) {
    let share = (done as f64 / total as f64).min(1.0);
    let full = (share * WIDTH as f64) as usize;
    (format!("{}{}", "#".repeat(full), "-".repeat(WIDTH - full)), 100.0 * share)
}

/// How much of `total` is done, and how long the rest will take at this speed.
fn counted(what: &str, done: u64, (total, unit): (u64, &str), took: Duration) -> String {
    let (bar, percent) = bar(done, total.max(1));
    let left = took.as_secs_f64() / done.max(1) as f64 * total.saturating_sub(done) as f64;
    let left = format!("{}:{:02}", left as u64 / 60, left as u64 % 60);
    format!("{what}: [{bar}] {percent:.0} % of {total} {unit}, {left} left")
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
        let counted = counted("bench", 64, (256, "requests"), Duration::from_secs(30));
        assert_eq!(
            counted,
            "bench: [#######-----------------------] 25 % of 256 requests, 1:30 left"
        );
        let more = line("x", 9, 0, 6, Duration::from_secs(3));
        assert!(more.contains("100 %"), "{more}");
        assert_eq!(
            ended("x", 4 << 30, 0, Duration::from_secs(4)),
            "x: 4.0 GiB in 4.0 s, 1.0 GiB/s"
        );
    }
}
