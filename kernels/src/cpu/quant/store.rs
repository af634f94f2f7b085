//! Memory for packed weights: one allocation for a whole model, handed out piece by piece at load time.
//!
//! It is one allocation because pieces of a megabyte each would be on 4 KiB pages, and a decode step, which reads every
//! weight once, would be slowed down by TLB misses. One range can be backed by huge pages (requested here; the system
//! may grant them). It also gives one figure to count. It does not know about formats.

use super::QuantError;
use std::alloc::{Layout, alloc, dealloc};
use std::ptr::NonNull;
use std::sync::Arc;

/// Alignment of every piece, bytes.
const ALIGN: usize = 64;

/// One allocation, filled from the front.
pub struct WeightStore {
    memory: Arc<Memory>,
    used: usize,
}

struct Memory {
    start: NonNull<u8>,
    layout: Layout,
}

// SAFETY: plain bytes. A piece is written by its one `PieceMut` before it is shared, and only read after.
unsafe impl Send for Memory {}
// SAFETY: as above.
unsafe impl Sync for Memory {}

/// A piece while it is written.
pub struct PieceMut {
    piece: Piece,
}

/// A finished piece; keeps the whole store alive.
#[derive(Clone)]
pub struct Piece {
    memory: Arc<Memory>,
    at: usize,
    len: usize,
}

impl WeightStore {
    /// Takes `bytes` (the sum of `QMatrix::packed_bytes` of all matrices to come) from the system. Fails if the system
    /// refuses.
    pub fn new(bytes: usize) -> Result<WeightStore, QuantError> {
        let refused = || QuantError::Memory { bytes };
        let layout = Layout::from_size_align(bytes.max(ALIGN), ALIGN).map_err(|_| refused())?;
        // SAFETY: the layout's size is not zero.
        let start = NonNull::new(unsafe { alloc(layout) }).ok_or_else(refused)?;
        advise_huge(start, layout.size());
        Ok(WeightStore { memory: Arc::new(Memory { start, layout }), used: 0 })
    }

    /// Bytes of the whole allocation.
    pub fn capacity(&self) -> usize {
        self.memory.layout.size()
    }

    /// Bytes handed out.
    pub fn used(&self) -> usize {
        self.used
    }

    /// The next `len` bytes, zeroed. Fails if the store has fewer left.
    pub fn take(&mut self, len: usize) -> Result<PieceMut, QuantError> {
        let room = self.capacity() - self.used;
        let size = len.checked_next_multiple_of(ALIGN).unwrap_or(usize::MAX);
        if size > room && len > room {
            return Err(QuantError::StoreFull { wanted: len, left: room });
        }
        let piece = Piece { memory: self.memory.clone(), at: self.used, len };
        self.used += size.min(room);
        // SAFETY: the range is inside the allocation and nobody else has it.
        unsafe { self.memory.start.as_ptr().add(piece.at).write_bytes(0, len) };
        Ok(PieceMut { piece })
    }
}

impl PieceMut {
    /// The bytes to write, zeros at first; aligned to 64 bytes.
    pub fn bytes(&mut self) -> &mut [u8] {
        let Piece { memory, at, len } = &self.piece;
        // SAFETY: in the allocation, initialised by `take`, and this is the only holder.
        unsafe { std::slice::from_raw_parts_mut(memory.start.as_ptr().add(*at), *len) }
    }

    /// Ends the writing; the piece can be read and shared from now on.
    pub fn finish(self) -> Piece {
        self.piece
    }
}

impl Piece {
    /// The bytes as they were written; aligned to 64 bytes.
    pub fn bytes(&self) -> &[u8] {
        // SAFETY: in the allocation, initialised by `take`, and no longer written.
        unsafe { std::slice::from_raw_parts(self.memory.start.as_ptr().add(self.at), self.len) }
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        // SAFETY: from `alloc` with this layout, and nobody holds a piece any more.
        unsafe { dealloc(self.start.as_ptr(), self.layout) };
    }
}

/// Asks for huge pages where they fit; without them everything still works.
fn advise_huge(start: NonNull<u8>, len: usize) {
    #[cfg(target_os = "linux")]
    {
        const HUGE: usize = 2 << 20;
        let skip = start.as_ptr().align_offset(HUGE);
        if skip < len && len - skip >= HUGE {
            let whole = (len - skip) / HUGE * HUGE;
            // SAFETY: the range is inside the allocation; advice changes no content.
            unsafe {
                libc::madvise(start.as_ptr().add(skip).cast(), whole, libc::MADV_HUGEPAGE);
            }
        }
    }
    #[cfg(not(target_os = "linux"))]
    let _ = (start, len);
}
