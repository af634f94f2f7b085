//! Checkpoint files as mapped memory.
//!
//! It is in this module because mapping is `unsafe`: the file must not be truncated while it is mapped. Weights are
//! copied out of the mapping during the load, so truncating the file is dangerous only during the load.

use safetensors::tensor::TensorView;
use std::path::Path;

/// Maps a file for reading from front to back (to hash it, say). Fails if it cannot be opened or mapped.
pub fn map_bytes(path: &Path) -> std::io::Result<memmap2::Mmap> {
    let file = std::fs::File::open(path)?;
    // SAFETY: the mapping is read-only and is dropped when the load ends; see the module's note.
    unsafe { memmap2::Mmap::map(&file) }
}

/// Gives the memory of whole pages inside `range` back; the mapping stays, and reads them again from the
/// file if it must. For parts of a file that were consumed. Does nothing where the system cannot.
pub fn release(map: &memmap2::Mmap, range: std::ops::Range<usize>) {
    const PAGE: usize = 4096;
    let (from, to) = (range.start.next_multiple_of(PAGE), range.end.min(map.len()) / PAGE * PAGE);
    if from >= to {
        return;
    }
    // SAFETY: the mapping is of a file, shared and never written to: dropping its pages loses nothing.
    #[cfg(unix)]
    unsafe {
        // Advice: whether it is taken changes nothing but memory.
        let _ = map.unchecked_advise_range(memmap2::UncheckedAdvice::DontNeed, from, to - from);
    }
}

/// As [`release`], for a tensor of a mapped file.
pub fn release_tensor(view: &TensorView<'_>) {
    const PAGE: usize = 4096;
    let bytes = view.data().as_ptr_range();
    let (from, to) =
        ((bytes.start as usize).next_multiple_of(PAGE), bytes.end as usize / PAGE * PAGE);
    if from >= to {
        return;
    }
    // SAFETY: whole pages inside a mapping of a file, which is never written to (see above).
    #[cfg(unix)]
    unsafe {
        libc::madvise(from as *mut libc::c_void, to - from, libc::MADV_DONTNEED);
    }
}
