//! What the operating system says of this process's memory.
//!
//! Knows nothing of arenas: it is the independent witness that an unload's figures are held against.

/// Resident set size of this process in bytes (`/proc/self/statm`, field 2), or `None` where the system
/// does not tell.
pub fn resident_bytes() -> Option<u64> {
    let statm = std::fs::read_to_string("/proc/self/statm").ok()?;
    let pages: u64 = statm.split_ascii_whitespace().nth(1)?.parse().ok()?;
    Some(pages * page_size())
}

/// Bytes of memory that a new allocation could get without swapping (`MemAvailable`), or `None`.
pub fn available_bytes() -> Option<u64> {
    let info = std::fs::read_to_string("/proc/meminfo").ok()?;
    let line = info.lines().find(|l| l.starts_with("MemAvailable:"))?;
    let kib: u64 = line.split_ascii_whitespace().nth(1)?.parse().ok()?;
    Some(kib * 1024)
}

/// Hands free heap pages back to the system, so that the resident set tells what is really held.
pub fn trim_heap() {
    #[cfg(target_env = "gnu")]
    // SAFETY: malloc_trim takes no pointer and may be called at any time from any thread.
    unsafe {
        libc::malloc_trim(0);
    }
}

fn page_size() -> u64 {
    // SAFETY: sysconf with a constant name has no preconditions.
    let size = unsafe { libc::sysconf(libc::_SC_PAGESIZE) };
    u64::try_from(size).unwrap_or(4096)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_touched_buffer_shows_in_the_resident_set() {
        let before = resident_bytes().unwrap();
        let buffer = vec![1u8; 64 << 20];
        let after = resident_bytes().unwrap();
        assert!(buffer.iter().map(|&b| u64::from(b)).sum::<u64>() > 0);
        assert!(after >= before + (48 << 20), "{before} -> {after}");
    }
}
