//! `serin serve --supervise`: runs this program as a child process, and restarts it when it dies.
//!
//! It is for containers without a supervisor. The parent has no model, no port and no ledger; it forwards signals and
//! follows the rule in `restarts`. The server is a process and not a thread, because only the end of a process cleans
//! up after a device failure.

use super::CliError;
use super::restarts::{End, Next, Restarts};
use crate::control::life::{ALONE, CANARY, DROPPED};
use rustix::process::{Pid, Signal, kill_process, set_parent_process_death_signal};
use std::ffi::OsString;
use std::io::Read;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{ExitCode, ExitStatus};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use tokio::process::{Child, Command};
use tokio::signal::unix::{self, SignalKind, signal};

/// The flag that turns this on.
pub(super) const FLAG: &str = "--supervise";
/// The flag that the child gets instead.
pub(super) const CHILD: &str = "--supervised";
pub(super) const NO_CANARY: &str = "--no-canary";

/// How often the child's messages are read.
const LISTEN_EVERY: Duration = Duration::from_secs(1);

pub(super) async fn run() -> Result<ExitCode, CliError> {
    let program = std::env::current_exe().map_err(CliError::from_text)?;
    let mut told = SignalStreams::listen().map_err(CliError::from_text)?;
    let (mut restarts, mut alone) = (Restarts::default(), false);
    loop {
        let begun = Instant::now();
        let (mut child, mut line) = start(&program, alone)?;
        let (end, stop) = follow(&mut child, &mut told, &mut line).await?;
        if stop {
            return Ok(ExitCode::from(end.code()));
        }
        line.listen();
        if line.dropped {
            restarts.dropped();
        }
        match restarts.ended(end, begun.elapsed(), line.canary) {
            Next::Stop(code) => {
                tracing::info!("the server ended ({end}) and is not restarted");
                return Ok(ExitCode::from(code));
            }
            Next::Again { after, stable_only } => {
                tracing::error!(stable_only, "the server ended ({end}); it restarts in {after:?}");
                alone = stable_only;
                tokio::select! {
                    () = tokio::time::sleep(after) => {}
                    () = told.stopped() => return Ok(ExitCode::SUCCESS),
                }
            }
        }
    }
}

/// Starts the child. Its standard input is a socket, on which it reports whether a canary is loaded.
fn start(program: &Path, alone: bool) -> Result<(Child, Line), CliError> {
    let args = child_args(std::env::args_os().skip(1), alone);
    let (own, other) = UnixStream::pair().map_err(CliError::from_text)?;
    let line = Line::over(own).map_err(CliError::from_text)?;
    let child = Command::new(program).args(args).stdin(OwnedFd::from(other)).spawn();
    let child = child.map_err(|error| {
        CliError(format!("the server cannot be started ({}): {error}", program.display()))
    })?;
    tracing::info!(pid = child.id(), stable_only = alone, "the server is started");
    Ok((child, line))
}

/// The child's arguments, derived from the parent's.
fn child_args(own: impl Iterator<Item = OsString>, alone: bool) -> Vec<OsString> {
    let mut args: Vec<OsString> = own.filter(|arg| arg != FLAG).collect();
    args.push(CHILD.into());
    if alone && !args.iter().any(|arg| arg == NO_CANARY) {
        args.push(NO_CANARY.into());
    }
    args
}

/// Waits for the child's end and forwards signals; also returns whether it was told to stop.
async fn follow(
    child: &mut Child,
    told: &mut SignalStreams,
    line: &mut Line,
) -> Result<(End, bool), CliError> {
    let mut stop = false;
    loop {
        tokio::select! {
            status = child.wait() => {
                return Ok((end_of(status.map_err(CliError::from_text)?), stop));
            }
            // Read regularly, so that the socket never fills up.
            () = tokio::time::sleep(LISTEN_EVERY) => line.listen(),
            signal = told.next() => {
                stop |= signal != Signal::HUP;
                let pid = child.id().and_then(|id| Pid::from_raw(i32::try_from(id).ok()?));
                // If the child is already gone, `wait` will notice.
                let _ = pid.map(|pid| kill_process(pid, signal));
            }
        }
    }
}

fn end_of(status: ExitStatus) -> End {
    match (status.code(), status.signal()) {
        (Some(code), _) => End::Code(u8::try_from(code).unwrap_or(u8::MAX)),
        (None, signal) => End::Signal(signal.and_then(|n| u8::try_from(n).ok()).unwrap_or(0)),
    }
}

struct Line {
    own: UnixStream,
    /// A canary is loaded or being loaded.
    canary: bool,
    /// The child dropped a canary that had killed the server.
    dropped: bool,
}

impl Line {
    fn over(own: UnixStream) -> std::io::Result<Line> {
        own.set_nonblocking(true)?;
        Ok(Line { own, canary: false, dropped: false })
    }

    /// Reads everything that has been sent so far.
    fn listen(&mut self) {
        let mut said = [0; 64];
        while let Ok(n @ 1..) = self.own.read(&mut said) {
            for byte in &said[..n] {
                match *byte {
                    CANARY => self.canary = true,
                    ALONE => self.canary = false,
                    DROPPED => self.dropped = true,
                    _ => {}
                }
            }
        }
    }
}

static SUPERVISED: AtomicBool = AtomicBool::new(false);

/// For the child: from now on [`supervisor`] is its parent.
pub(super) fn tell_parent() {
    SUPERVISED.store(true, Ordering::Relaxed);
}

/// For the child: the socket to its supervisor. It is standard input, the one handle that a child is given
/// and a server does not use.
pub(super) fn supervisor() -> Option<UnixStream> {
    if !SUPERVISED.load(Ordering::Relaxed) {
        return None;
    }
    let line = UnixStream::from(std::io::stdin().as_fd().try_clone_to_owned().ok()?);
    // Blocking on a supervisor that does not read would stop the server. If it is not a socket, it is not
    // from a supervisor.
    let is_line = line.local_addr().is_ok() && line.set_nonblocking(true).is_ok();
    is_line.then_some(line)
}

struct SignalStreams {
    terminate: unix::Signal,
    interrupt: unix::Signal,
    hangup: unix::Signal,
}

impl SignalStreams {
    fn listen() -> std::io::Result<SignalStreams> {
        let terminate = signal(SignalKind::terminate())?;
        let interrupt = signal(SignalKind::interrupt())?;
        Ok(SignalStreams { terminate, interrupt, hangup: signal(SignalKind::hangup())? })
    }

    async fn stopped(&mut self) {
        while self.next().await == Signal::HUP {}
    }

    async fn next(&mut self) -> Signal {
        tokio::select! {
            _ = self.terminate.recv() => Signal::TERM,
            _ = self.interrupt.recv() => Signal::INT,
            _ = self.hangup.recv() => Signal::HUP,
        }
    }
}

/// For the child: it gets SIGTERM when its parent dies for any reason. Otherwise it would keep serving
/// unsupervised, and hold the port.
pub(super) fn end_with_parent() {
    if let Err(error) = set_parent_process_death_signal(Some(Signal::TERM)) {
        tracing::warn!(%error, "this server will outlive its supervisor");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn args(own: &[&str], alone: bool) -> Vec<String> {
        let own = own.iter().map(OsString::from);
        child_args(own, alone).into_iter().map(|arg| arg.into_string().unwrap()).collect()
    }

    #[test]
    fn a_child_gets_the_arguments_but_for_the_supervision() {
        let own = ["serve", "--supervise", "--canary", "v2"];
        assert_eq!(args(&own, false), ["serve", "--canary", "v2", "--supervised"]);
        let alone = ["serve", "--canary", "v2", "--supervised", "--no-canary"];
        assert_eq!(args(&own, true), alone);
        let asked = ["serve", "--no-canary", "--supervise"];
        assert_eq!(args(&asked, true), ["serve", "--no-canary", "--supervised"]);
    }

    #[test]
    fn the_line_says_what_was_last_in_force() {
        let (own, mut child) = UnixStream::pair().unwrap();
        let mut line = Line::over(own).unwrap();
        let mut after = |said: &[u8]| {
            std::io::Write::write_all(&mut child, said).unwrap();
            line.listen();
            (line.canary, line.dropped)
        };
        assert_eq!(after(&[]), (false, false));
        assert_eq!(after(&[CANARY]), (true, false));
        assert_eq!(after(&[ALONE, CANARY, ALONE]), (false, false));
        assert_eq!(after(&[DROPPED, b'?', CANARY]), (true, true));
    }

    #[test]
    fn ends_are_told_as_a_shell_would() {
        assert_eq!(end_of(ExitStatus::from_raw(75 << 8)), End::Code(75));
        let killed = end_of(ExitStatus::from_raw(9));
        assert_eq!((killed, killed.code()), (End::Signal(9), 137));
    }
}
