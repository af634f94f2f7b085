//! The pinned memory through which a stream's copies go: two pieces for uploads, so that one is filled while the other
//! is being copied, and a small one for downloads.
//!
//! The size of a piece is limited, so that the executor's small copies never wait behind gigabytes of a model load: at
//! most two pieces are ahead of them in the GPU's copy engine. The memory is allocated when it is first needed, and
//! kept, because pinning takes longer than a copy.

use super::driver::{Faults, Handle};
use crate::cuda::card::{CardError, HostMemory};
use cudarc::driver::{result, sys};
use std::ffi::c_void;

/// Bytes of a piece.
pub(super) const PIECE: usize = 4 << 20;

/// Downloads of up to so many bytes go through pinned memory.
pub(super) const SMALL: usize = 64 << 10;

/// A stream's pinned memory.
#[derive(Debug, Default)]
pub(super) struct Staging {
    pieces: Vec<Piece>,
    next: usize,
    small: Option<Handle<c_void>>,
}

#[derive(Debug)]
struct Piece {
    memory: Handle<c_void>,
    /// Comes once the piece has been copied to the card.
    free: Handle<sys::CUevent_st>,
    busy: bool,
}

impl Staging {
    /// Copies `from` to the address `to` on the card, and returns once `from` may be changed. The context is bound.
    /// Fails if no pinned memory can be had or the driver refuses the copy.
    pub fn upload(
        &mut self,
        to: u64,
        from: &[u8],
        stream: sys::CUstream,
        faults: &Faults,
    ) -> Result<(), CardError> {
        self.ready(faults)?;
        let mut to = to;
        for bytes in from.chunks(PIECE) {
            let place = self.next;
            self.next = (place + 1) % self.pieces.len();
            self.pieces[place].send(to, bytes, stream, faults)?;
            to += bytes.len() as u64;
        }
        Ok(())
    }

    fn ready(&mut self, faults: &Faults) -> Result<(), CardError> {
        while self.pieces.len() < 2 {
            let memory = pinned(PIECE, faults)?;
            let kind = sys::CUevent_flags::CU_EVENT_DISABLE_TIMING;
            match faults.check(result::event::create(kind), "an event for copies") {
                Ok(free) => self.pieces.push(Piece { memory, free: Handle(free), busy: false }),
                Err(error) => {
                    unpin(memory);
                    return Err(error);
                }
            }
        }
        Ok(())
    }

    /// [`SMALL`] bytes of pinned memory. Fails if the driver refuses it.
    pub fn small(&mut self, faults: &Faults) -> Result<Handle<c_void>, CardError> {
        match self.small {
            Some(memory) => Ok(memory),
            None => Ok(*self.small.insert(pinned(SMALL, faults)?)),
        }
    }

    /// Gives all back; the context is bound, and no copy is on its way.
    pub fn close(&mut self) {
        for piece in self.pieces.drain(..) {
            // SAFETY: created by `ready`, and gone from the list.
            let _ = unsafe { result::event::destroy(piece.free.0) };
            unpin(piece.memory);
        }
        if let Some(memory) = self.small.take() {
            unpin(memory);
        }
    }
}

impl Piece {
    fn send(
        &mut self,
        to: u64,
        bytes: &[u8],
        stream: sys::CUstream,
        faults: &Faults,
    ) -> Result<(), CardError> {
        if self.busy {
            // SAFETY: the event lives as long as the piece.
            let waited = unsafe { result::event::synchronize(self.free.0) };
            faults.check(waited, "waiting for a copy")?;
            self.busy = false;
        }
        assert!(bytes.len() <= PIECE);
        // SAFETY: the piece has room for the bytes, and nothing reads it any more.
        unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), self.memory.0.cast(), bytes.len()) };
        // SAFETY: the piece stays as it is until its event has come; the driver checks the card's address.
        let sent = unsafe {
            sys::cuMemcpyHtoDAsync_v2(to, self.memory.0.cast_const(), bytes.len(), stream)
        };
        faults.check(sent.result(), "a copy to the GPU")?;
        // SAFETY: event and stream live as long as the card.
        let recorded = unsafe { result::event::record(self.free.0, stream) };
        if recorded.is_err() {
            // Nothing would tell when the piece is free again.
            // SAFETY: as above.
            let _ = unsafe { result::stream::synchronize(stream) };
        }
        self.busy = recorded.is_ok();
        faults.check(recorded, "an event behind a copy")
    }
}

fn pinned(bytes: usize, faults: &Faults) -> Result<Handle<c_void>, CardError> {
    allocate(bytes, 0, faults)
}

fn allocate(bytes: usize, flags: u32, faults: &Faults) -> Result<Handle<c_void>, CardError> {
    // SAFETY: the context is bound; whoever gets the memory gives it back by `unpin`.
    let memory = unsafe { result::malloc_host(bytes, flags) };
    match memory {
        // Not the card's memory: no reason to fail a request over.
        Err(error) if error.0 == sys::CUresult::CUDA_ERROR_OUT_OF_MEMORY => {
            Err(CardError::Other(format!("this machine has no {bytes} bytes of memory to pin")))
        }
        memory => Ok(Handle(faults.check(memory, "pinning memory")?)),
    }
}

/// Pinned memory, zeroed, that kernels read over the bus.
pub(super) fn map(bytes: usize, faults: &Faults) -> Result<HostMemory, CardError> {
    let memory = allocate(bytes, sys::CU_MEMHOSTALLOC_DEVICEMAP, faults)?;
    // SAFETY: just allocated, so many bytes.
    unsafe { std::ptr::write_bytes(memory.0.cast::<u8>(), 0, bytes) };
    let mut card = 0;
    // SAFETY: memory that was allocated to be mapped.
    let code = unsafe { sys::cuMemHostGetDevicePointer_v2(&raw mut card, memory.0, 0) };
    match faults.check(code.result(), "mapping the host's memory") {
        Ok(()) => Ok(HostMemory { host: memory.0 as u64, card }),
        Err(error) => {
            unpin(memory);
            Err(error)
        }
    }
}

pub(super) fn unmap(memory: HostMemory, faults: &Faults) -> Result<(), CardError> {
    // SAFETY: from `map`, and used by nobody any more.
    let done = unsafe { result::free_host(memory.host as *mut c_void) };
    faults.check(done, "giving mapped memory back")
}

fn unpin(memory: Handle<c_void>) {
    // SAFETY: from `pinned`, and used by nobody any more. What goes wrong now has nobody to tell.
    let _ = unsafe { result::free_host(memory.0) };
}
