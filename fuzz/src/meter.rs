//! Measures an entry's peak memory with the sanitizer's heap hooks.
//!
//! The program already has its own allocator (`serin::device`), so a counting one cannot replace it; the
//! sanitizer sees every block. Only for the fuzz targets: without the sanitizer these hooks do not exist.

use std::ffi::{c_int, c_void};
use std::sync::Once;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering::Relaxed};

unsafe extern "C" {
    fn __sanitizer_install_malloc_and_free_hooks(
        malloc: extern "C" fn(*const c_void, usize),
        free: extern "C" fn(*const c_void),
    ) -> c_int;
    fn __sanitizer_get_allocated_size(block: *const c_void) -> usize;
}

/// Bytes of memory that an entry may use for each byte of its input.
const FACTOR: i64 = 100;

static ON: AtomicBool = AtomicBool::new(false);
static HELD: AtomicI64 = AtomicI64::new(0);
static PEAK: AtomicI64 = AtomicI64::new(0);

extern "C" fn taken(_: *const c_void, bytes: usize) {
    if ON.load(Relaxed) {
        let held = HELD.fetch_add(bytes as i64, Relaxed) + bytes as i64;
        PEAK.fetch_max(held, Relaxed);
    }
}

extern "C" fn given_back(block: *const c_void) {
    if ON.load(Relaxed) && !block.is_null() {
        // SAFETY: the sanitizer asks about a block that it is about to free, so it knows it.
        let bytes = unsafe { __sanitizer_get_allocated_size(block) };
        HELD.fetch_sub(bytes as i64, Relaxed);
    }
}

/// Runs `entry` and compares its peak memory with the input's length and its declared fixed need.
pub fn within(input: usize, entry: impl FnOnce() -> usize) {
    static HOOKS: Once = Once::new();
    // SAFETY: both functions live as long as the program and allocate nothing.
    HOOKS.call_once(|| unsafe {
        assert!(__sanitizer_install_malloc_and_free_hooks(taken, given_back) > 0, "no hooks");
    });
    HELD.store(0, Relaxed);
    PEAK.store(0, Relaxed);
    ON.store(true, Relaxed);
    let fixed = entry();
    ON.store(false, Relaxed);
    let (peak, most) = (PEAK.load(Relaxed), FACTOR * input as i64 + fixed as i64);
    assert!(peak <= most, "{peak} bytes of memory for {input} of input, more than {most}");
}
