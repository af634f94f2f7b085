//! The memory accesses of kernels, as counted by the emulator with race checking. Cost models use them.
//!
//! Addresses are those of the emulated GPU. How a GPU compiler splits or merges accesses is not visible here.

use std::ffi::c_char;

unsafe extern "C" {
    fn serin_emulator_count(on: i32);
    fn serin_emulator_counts(out: *mut c_char, room: usize) -> usize;
}

/// What the warps of a kernel asked for at one place in its code.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Requests {
    /// The kernel's name.
    pub kernel: String,
    /// The place, from the program's start: `addr2line` knows the line.
    pub place: u64,
    /// Of shared memory, or of global.
    pub shared: bool,
    /// How many times a warp asked.
    pub requests: u64,
    /// Bytes of all lanes together.
    pub bytes: u64,
    /// Sectors of 32 bytes, or passes over the banks of shared memory.
    pub units: u64,
    /// The same, if the bytes of each request lay side by side.
    pub least: u64,
}

/// From here on, launches of this thread on prompt cards count, from nothing; or no longer do.
pub fn count(on: bool) {
    // SAFETY: it takes a number.
    unsafe { serin_emulator_count(i32::from(on)) };
}

/// What was counted in this thread, by kernel and place.
pub fn counted() -> Vec<Requests> {
    // SAFETY: nothing is written where there is no room.
    let len = unsafe { serin_emulator_counts(std::ptr::null_mut(), 0) };
    let mut text = vec![0u8; len];
    // SAFETY: the room is there.
    unsafe { serin_emulator_counts(text.as_mut_ptr().cast(), len) };
    String::from_utf8_lossy(&text).lines().filter_map(read).collect()
}

fn read(line: &str) -> Option<Requests> {
    let mut words = line.split(' ');
    let kernel = words.next()?.to_owned();
    let place = words.next()?.parse().ok()?;
    let shared = words.next()? == "shared";
    let mut number = || words.next()?.parse().ok();
    let (requests, bytes, units, least) = (number()?, number()?, number()?, number()?);
    Some(Requests { kernel, place, shared, requests, bytes, units, least })
}
