//! `serin serve --supervise`: this program once more as a child, started again when it dies.
//!
//! For containers without a supervisor. The parent holds no model, no port and no ledger; it passes signals
//! on and follows the rule in `restarts`. Why a process and not a thread: what a device's failure leaves
//! behind is gone with the process only.

use super::CliError;
use super::restarts::{End, Next, Restarts};
use rustix::process::{Pid, Signal, kill_process, set_parent_process_death_signal};
use std::ffi::OsString;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{ExitCode, ExitStatus};
use std::time::Instant;
use tokio::process::{Child, Command};
use tokio::signal::unix::{self, SignalKind, signal};

/// What turns this on.
pub(super) const FLAG: &str = "--supervise";
/// What the child gets in its place.
pub(super) const CHILD: &str = "--supervised";
pub(super) const NO_CANARY: &str = "--no-canary";

pub(super) async fn run() -> Result<ExitCode, CliError> {
    let program = std::env::current_exe().map_err(CliError::from_text)?;
    let mut told = Told::listen().map_err(CliError::from_text)?;
    let (mut restarts, mut alone) = (Restarts::default(), false);
    loop {
        let begun = Instant::now();
        let mut child = start(&program, alone)?;
        let (end, stop) = follow(&mut child, &mut told).await?;
        if stop {
            return Ok(ExitCode::from(end.code()));
        }
        match restarts.ended(end, begun.elapsed()) {
            Next::Stop(code) => {
                tracing::info!("the server ended ({end}) and is not started again");
                return Ok(ExitCode::from(code));
            }
            Next::Again { after, stable_only } => {
                tracing::error!(
                    stable_only,
                    "the server ended ({end}); it is started again in {after:?}"
                );
                alone = stable_only;
                tokio::select! {
                    () = tokio::time::sleep(after) => {}
                    _ = told.next() => return Ok(ExitCode::SUCCESS),
                }
            }
        }
    }
}

fn start(program: &Path, alone: bool) -> Result<Child, CliError> {
    let args = child_args(std::env::args_os().skip(1), alone);
    let child = Command::new(program).args(args).spawn();
    let child = child.map_err(|error| {
        CliError(format!("the server cannot be started ({}): {error}", program.display()))
    })?;
    tracing::info!(pid = child.id(), stable_only = alone, "the server is started");
    Ok(child)
}

/// The parent's arguments, for its child.
fn child_args(own: impl Iterator<Item = OsString>, alone: bool) -> Vec<OsString> {
    let mut args: Vec<OsString> = own.filter(|arg| arg != FLAG).collect();
    args.push(CHILD.into());
    if alone && !args.iter().any(|arg| arg == NO_CANARY) {
        args.push(NO_CANARY.into());
    }
    args
}

/// Waits for the child's end and passes signals on; also whether it was told to stop.
async fn follow(child: &mut Child, told: &mut Told) -> Result<(End, bool), CliError> {
    let mut stop = false;
    loop {
        tokio::select! {
            status = child.wait() => {
                return Ok((end_of(status.map_err(CliError::from_text)?), stop));
            }
            signal = told.next() => {
                stop = true;
                let pid = child.id().and_then(|id| Pid::from_raw(i32::try_from(id).ok()?));
                // One that is already gone is noticed by `wait`.
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

/// The signals that ask a server to stop.
struct Told {
    terminate: unix::Signal,
    interrupt: unix::Signal,
}

impl Told {
    fn listen() -> std::io::Result<Told> {
        let terminate = signal(SignalKind::terminate())?;
        Ok(Told { terminate, interrupt: signal(SignalKind::interrupt())? })
    }

    async fn next(&mut self) -> Signal {
        tokio::select! {
            _ = self.terminate.recv() => Signal::TERM,
            _ = self.interrupt.recv() => Signal::INT,
        }
    }
}

/// For the child: it is told to stop when its parent dies, whatever of. It would otherwise serve on,
/// unwatched, and hold the port.
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
    fn ends_are_told_as_a_shell_would() {
        assert_eq!(end_of(ExitStatus::from_raw(75 << 8)), End::Code(75));
        let killed = end_of(ExitStatus::from_raw(9));
        assert_eq!((killed, killed.code()), (End::Signal(9), 137));
    }
}
