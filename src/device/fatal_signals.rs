//! Records the signal when a process is ended by its own code (a crash). Also ends a process whose device no longer
//! answers.
//!
//! It is `unsafe` because signal handlers and `_exit` belong to the C library. A handler may call almost nothing. So it
//! only writes two digits into a file that was opened beforehand, and lets the signal proceed. Rust's own handler for
//! stack overflows runs after it; that one prints what happened and aborts. A process that is killed from outside runs
//! no handler, so the file then has no digits, which shows the difference.

use std::fs::File;
use std::io;
use std::os::fd::IntoRawFd;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicI32, Ordering};

/// The signals by which a process's own code ends it.
pub const FATAL: [i32; 5] =
    [libc::SIGABRT, libc::SIGSEGV, libc::SIGILL, libc::SIGBUS, libc::SIGFPE];
/// Where in the file the two digits go.
pub const NUMBER_AT: i64 = 0;

/// The file's descriptor; -1: none yet.
static NOTE: AtomicI32 = AtomicI32::new(-1);
/// A signal was written down: what follows it on the way out, as the abort after an overflown stack, says less.
static WRITTEN: AtomicBool = AtomicBool::new(false);
/// What handled each of [`FATAL`] before.
static BEFORE: [OnceLock<libc::sigaction>; FATAL.len()] = [const { OnceLock::new() }; FATAL.len()];

/// Ends the process with this code, and runs nothing on the way: neither what is dropped, nor what a driver
/// has registered for an orderly exit, either of which may wait for the device for ever.
pub fn exit_now(code: u8) -> ! {
    // SAFETY: takes a number and does not return.
    unsafe { libc::_exit(i32::from(code)) }
}

/// From now on the number of a fatal signal is written into `note`, which stays open for the life of the
/// process. Once: a later file takes the place of the one before. Fails if the system refuses a handler.
pub fn note_into(note: File) -> io::Result<()> {
    // The one before stays open: a handler on another thread may be about to write into it.
    NOTE.store(note.into_raw_fd(), Ordering::Release);
    for (signal, before) in FATAL.into_iter().zip(&BEFORE) {
        if before.get().is_some() {
            continue;
        }
        let found = current(signal)?;
        if before.set(found).is_ok() {
            install(signal)?;
        }
    }
    Ok(())
}

fn current(signal: i32) -> io::Result<libc::sigaction> {
    let mut found = std::mem::MaybeUninit::<libc::sigaction>::zeroed();
    // SAFETY: `found` has room for one; no action is set.
    let done = unsafe { libc::sigaction(signal, std::ptr::null(), found.as_mut_ptr()) };
    if done != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the call succeeded and has written it.
    Ok(unsafe { found.assume_init() })
}

fn install(signal: i32) -> io::Result<()> {
    // SAFETY: a plain struct of integers and an optional pointer, for which zeroes are valid.
    let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
    let handler: extern "C" fn(i32, *mut libc::siginfo_t, *mut libc::c_void) = on_signal;
    action.sa_sigaction = handler as usize;
    // On the stack that Rust keeps for this: the ordinary one may be what has overflown.
    action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK;
    // SAFETY: `action` is whole, and `on_signal` calls only what a handler may call.
    match unsafe { libc::sigaction(signal, &action, std::ptr::null_mut()) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

extern "C" fn on_signal(signal: i32, info: *mut libc::siginfo_t, context: *mut libc::c_void) {
    let digits = [b'0' + (signal / 10) as u8, b'0' + (signal % 10) as u8];
    let note = NOTE.load(Ordering::Acquire);
    if !WRITTEN.swap(true, Ordering::AcqRel) {
        // SAFETY: `pwrite` may be called in a handler; `digits` is two bytes long. A descriptor that is bad is an
        // error, and nothing could be done about one here.
        unsafe { libc::pwrite(note, digits.as_ptr().cast(), digits.len(), NUMBER_AT) };
    }
    let place = FATAL.iter().position(|one| *one == signal);
    let before = place.and_then(|place| BEFORE[place].get());
    // SAFETY: the kernel hands in a valid `info`. Above zero: a fault, not a signal that somebody sent.
    let fault = !info.is_null() && unsafe { (*info).si_code } > 0;
    if let Some(before) = before.filter(|_| fault) {
        chain(before, signal, info, context);
    }
    // SAFETY: both may be called in a handler. The signal is blocked until the handler returns, and is then
    // delivered with the default action, which ends the process.
    unsafe {
        libc::signal(signal, libc::SIG_DFL);
        libc::raise(signal);
    }
}

/// Calls the handler before, if it is one that takes what this one was given. Rust's returns unless the stack
/// has overflown.
fn chain(
    before: &libc::sigaction,
    signal: i32,
    info: *mut libc::siginfo_t,
    context: *mut libc::c_void,
) {
    let handler = before.sa_sigaction;
    let handles = handler != libc::SIG_DFL && handler != libc::SIG_IGN;
    if !handles || before.sa_flags & libc::SA_SIGINFO == 0 {
        return;
    }
    // SAFETY: neither of the two special values, and SA_SIGINFO says that it is a function of this type.
    let handler: extern "C" fn(i32, *mut libc::siginfo_t, *mut libc::c_void) =
        unsafe { std::mem::transmute(handler) };
    handler(signal, info, context);
}
