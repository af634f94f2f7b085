//! Chat templates in a subprocess: this same program, run as `serin render-templates`.
//!
//! A template is code that comes with a model's weights, and the template engine does not limit all that it may do. A
//! subprocess has limits that cannot be bypassed, and can be killed (docs/decisions/025).
//!
//! A subprocess belongs to one version's templates and stays alive, since starting one takes milliseconds and
//! asking it takes tens of microseconds. There are two per version. One of them is for long conversations, so that
//! other requests do not wait behind them; it is ended afterwards to free its memory.
//!
//! Calls block, so callers must be on threads where blocking is allowed.

mod child;

pub use child::serve;

use super::template::{Job, Program, Stop};
use parking_lot::Mutex;
use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// The hidden command by which this program renders templates.
pub const COMMAND: &str = "render-templates";
/// Processor time for one batch of jobs, in whole seconds. It may be up to one second less, since the system
/// counts a process's time in whole seconds.
const CPU_SECONDS: u64 = 2;
/// Memory for templates and their values.
const MEMORY: u64 = 512 << 20;
/// Stack, within that memory. Ordinary templates need a few hundred KiB.
const STACK: usize = 16 << 20;
/// A process is killed after this time without a response. It is far above [`CPU_SECONDS`], for busy
/// machines.
const PATIENCE: Duration = Duration::from_secs(30);
/// Requests with more bytes than this are long.
const LONG: usize = 256 << 10;
/// Maximum length of a process's standard error.
const MAX_LAST_WORDS: u64 = 4096;

const OK: u8 = 0;
const STOPPED: u8 = 1;
const END: u8 = 2;

/// Kills what is running for its owner when requested, or when dropped.
#[derive(Debug, Default)]
pub struct Cancel(Arc<Cancelled>);

/// The other half of a [`Cancel`]: the processes that may be cancelled.
#[derive(Debug, Default, Clone)]
pub struct Cancellable(Arc<Cancelled>);

#[derive(Debug, Default)]
struct Cancelled {
    yes: AtomicBool,
    running: Mutex<Option<Arc<Mutex<Child>>>>,
}

impl Cancel {
    /// A handle for registering the process that is killed at a cancel.
    pub fn handle(&self) -> Cancellable {
        Cancellable(Arc::clone(&self.0))
    }
}

impl Drop for Cancel {
    fn drop(&mut self) {
        self.0.yes.store(true, Ordering::SeqCst);
        if let Some(child) = self.0.running.lock().take() {
            let _ = child.lock().kill();
        }
    }
}

impl Cancellable {
    fn is_cancelled(&self) -> bool {
        self.0.yes.load(Ordering::SeqCst)
    }

    /// Registers `child` to be killed at a cancel, including one that happened before.
    fn holds(&self, child: &Arc<Mutex<Child>>) {
        *self.0.running.lock() = Some(Arc::clone(child));
        if self.is_cancelled() {
            let _ = child.lock().kill();
        }
    }

    fn lets_go(&self) {
        *self.0.running.lock() = None;
    }
}

/// One version's templates, in processes that are started when needed.
pub(super) struct Apart {
    serin: PathBuf,
    program: Vec<u8>,
    short: Mutex<Option<Worker>>,
    long: Mutex<Option<Worker>>,
}

impl Apart {
    /// `serin` is the program that has the [`COMMAND`].
    pub(super) fn new(serin: &Path, program: &Program) -> Result<Apart, Stop> {
        let program = serde_json::to_vec(program).map_err(|e| Stop::NoRoom(e.to_string()))?;
        let (short, long) = (Mutex::new(None), Mutex::new(None));
        Ok(Apart { serin: serin.to_owned(), program, short, long })
    }

    /// Renders `jobs` in order, up to the first that exceeds a limit.
    pub(super) fn render(
        &self,
        jobs: &[Job],
        cancel: Option<&Cancellable>,
    ) -> Vec<Result<String, Stop>> {
        let asked = match serde_json::to_vec(jobs) {
            Ok(asked) => asked,
            Err(e) => return vec![Err(Stop::NoRoom(e.to_string()))],
        };
        let long = asked.len() > LONG;
        let mut slot = if long { self.long.lock() } else { self.short.lock() };
        loop {
            let reused = slot.is_some();
            let mut worker = match slot.take().map_or_else(|| self.start(cancel), Ok) {
                Ok(worker) => worker,
                Err(stop) => return vec![Err(stop)],
            };
            if let Some(cancel) = cancel {
                cancel.holds(&worker.child);
            }
            let mut results = Vec::with_capacity(jobs.len());
            let answered = worker.ask(&asked, &mut results);
            if let Some(cancel) = cancel {
                cancel.lets_go();
            }
            match answered {
                Ok(()) if long => return results,
                Ok(()) => {
                    *slot = Some(worker);
                    return results;
                }
                Err(error) => {
                    let cancelled = cancel.is_some_and(Cancellable::is_cancelled);
                    match worker.cause(&error) {
                        // If the process was killed while it was idle, this says nothing about the template.
                        Stop::NoRoom(_) if reused && !cancelled => {}
                        stop => {
                            results.push(Err(stop));
                            return results;
                        }
                    }
                }
            }
        }
    }

    fn start(&self, cancel: Option<&Cancellable>) -> Result<Worker, Stop> {
        let mut worker = Worker::start(&self.serin)
            .map_err(|e| Stop::NoRoom(format!("cannot start {}: {e}", self.serin.display())))?;
        if let Some(cancel) = cancel {
            cancel.holds(&worker.child);
        }
        let mut compiled = Vec::new();
        match worker.ask(&self.program, &mut compiled) {
            Ok(()) => compiled.pop().unwrap_or(Ok(String::new())).map(|_| worker),
            Err(error) => Err(worker.cause(&error)),
        }
    }
}

struct Worker {
    child: Arc<Mutex<Child>>,
    line: UnixStream,
}

impl Worker {
    fn start(serin: &Path) -> io::Result<Worker> {
        let (line, theirs) = UnixStream::pair()?;
        line.set_read_timeout(Some(PATIENCE))?;
        line.set_write_timeout(Some(PATIENCE))?;
        let also = theirs.try_clone()?;
        let child = Command::new(serin)
            .arg(COMMAND)
            .stdin(Stdio::from(OwnedFd::from(theirs)))
            .stdout(Stdio::from(OwnedFd::from(also)))
            .stderr(Stdio::piped())
            // A Ctrl-C in the terminal is meant for the server, which may still need to render while it
            // drains.
            .process_group(0)
            .spawn()?;
        Ok(Worker { child: Arc::new(Mutex::new(child)), line })
    }

    /// Sends one frame and reads the results for it.
    fn ask(&mut self, frame: &[u8], results: &mut Vec<Result<String, Stop>>) -> io::Result<()> {
        send(&mut self.line, frame)?;
        loop {
            let mut tag = [0];
            self.line.read_exact(&mut tag)?;
            match tag[0] {
                END => return Ok(()),
                OK => {
                    let text = String::from_utf8(receive(&mut self.line)?);
                    results.push(Ok(text.map_err(io::Error::other)?));
                }
                _ => {
                    let stop = receive(&mut self.line)?;
                    results.push(Err(serde_json::from_slice(&stop)?));
                }
            }
        }
    }

    /// Why it did not answer, from the way it ended.
    fn cause(&mut self, error: &io::Error) -> Stop {
        if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) {
            let waited = PATIENCE.as_secs();
            return Stop::NoRoom(format!("rendering did not end within {waited} s"));
        }
        let mut child = self.child.lock();
        // The pipe is closed, so the process is ending; if it hangs, it is killed here.
        let words = child.stderr.take().map(last_words).unwrap_or_default();
        match child.wait() {
            Ok(status) => ended(status, &words),
            Err(error) => Stop::NoRoom(error.to_string()),
        }
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        let mut child = self.child.lock();
        let _ = child.kill();
        let _ = child.wait();
    }
}

fn last_words(stderr: std::process::ChildStderr) -> String {
    let mut words = Vec::new();
    let _ = stderr.take(MAX_LAST_WORDS).read_to_end(&mut words);
    String::from_utf8_lossy(&words).into_owned()
}

/// What an exit status says about the template.
fn ended(status: ExitStatus, words: &str) -> Stop {
    use rustix::process::Signal;
    let [aborted, bus, segment, cpu] =
        [Signal::ABORT, Signal::BUS, Signal::SEGV, Signal::XCPU].map(|signal| signal.as_raw());
    match status.signal() {
        Some(signal) if signal == cpu => {
            Stop::Exhausted(format!("it used more than {} s of processor time", CPU_SECONDS - 1))
        }
        Some(_) if words.contains("overflowed its stack") => deep(),
        Some(_) if words.contains("memory allocation of") => {
            Stop::Exhausted(format!("it used more than {} MiB of memory", MEMORY >> 20))
        }
        Some(signal) if [bus, segment].contains(&signal) => deep(),
        Some(signal) if signal == aborted => {
            Stop::Exhausted(format!("it made its process abort ({})", first_line(words)))
        }
        None if status.code() == Some(101) => {
            let what = format!("the template engine panicked ({})", first_line(words));
            Stop::Failed { line: 0, what }
        }
        _ => Stop::NoRoom(format!("the rendering process ended ({status})")),
    }
}

fn deep() -> Stop {
    Stop::Exhausted(format!("it nested values too deeply for a stack of {} MiB", STACK >> 20))
}

fn first_line(words: &str) -> &str {
    words.lines().map(str::trim).find(|line| !line.is_empty()).unwrap_or("without a word")
}

fn send(to: &mut impl Write, frame: &[u8]) -> io::Result<()> {
    let length = u32::try_from(frame.len()).map_err(io::Error::other)?;
    to.write_all(&length.to_le_bytes())?;
    to.write_all(frame)
}

fn receive(from: &mut impl Read) -> io::Result<Vec<u8>> {
    let mut length = [0; 4];
    from.read_exact(&mut length)?;
    let length = u32::from_le_bytes(length) as usize;
    // Grows as data arrive, whatever length was announced.
    let mut frame = Vec::new();
    let got = from.take(length as u64).read_to_end(&mut frame)?;
    if got < length {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    Ok(frame)
}
