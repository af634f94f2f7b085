//! Opening a GPU, and closing it.
//!
//! If opening fails, everything done so far is undone. When the GPU object is dropped, on whichever thread, it frees
//! all that it held and releases the context. The context is never reset, because others may use it too.

use super::driver::{Faults, Handle, has_cublas};
use super::nvml::Watch;
use super::products::Products;
use super::{CudaCard, images, start};
use crate::cuda::card::{COUNTS, Card, CardError, Stream};
use crate::cuda::open::OpenError;
use cudarc::driver::result;
use parking_lot::Mutex;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// What a card keeps for itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Options {
    /// Bytes for cuBLAS and kernels to work in.
    pub workspace: usize,
    /// Let launches begin while the ones before them still run, on cards that can do so.
    pub overlap: bool,
}

impl Default for Options {
    /// The workspace is what cuBLAS's manual advises for its largest cards. `SERIN_CUDA_OVERLAP=0` in the
    /// environment does without overlapping launches.
    fn default() -> Options {
        let overlap = std::env::var_os("SERIN_CUDA_OVERLAP").is_none_or(|value| value != "0");
        Options { workspace: 32 << 20, overlap }
    }
}

impl CudaCard {
    /// Opens the driver's card of this ordinal, and loads all kernels. Fails if there is no such device, no driver or
    /// no cuBLAS, or if the driver rejects the kernels.
    pub fn open(ordinal: usize, options: Options) -> Result<Arc<CudaCard>, OpenError> {
        let found = start::find(ordinal)?;
        if !has_cublas() {
            return Err(OpenError::NoCublas { major: images::TOOLKIT.0 });
        }
        let mut card = CudaCard::retain(found, options)?;
        card.set_up(options)?;
        Ok(Arc::new(card))
    }

    fn retain(found: start::Found, options: Options) -> Result<CudaCard, CardError> {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        let faults = Faults::default();
        // SAFETY: the device is one that the driver has given.
        let context = unsafe { result::primary_ctx::retain(found.device) };
        let context = Handle(faults.check(context, "opening the GPU")?);
        Ok(CudaCard {
            overlaps: found.properties.capability.0 >= 9 && options.overlap,
            properties: found.properties,
            device: found.device,
            context,
            number: NEXT.fetch_add(1, Ordering::Relaxed),
            faults,
            streams: [Handle(std::ptr::null_mut()); 2],
            pools: Mutex::default(),
            staging: Default::default(),
            kernels: images::Kernels::default(),
            products: Mutex::default(),
            capture: Mutex::default(),
            graphs: Mutex::default(),
            timers: Mutex::default(),
            scratch: None,
            workspace: (0, 0),
            counts: 0,
            watch: found.bus.and_then(|bus| Watch::open(&bus).ok()),
        })
    }

    /// What was done of it is undone by `drop` if it fails.
    fn set_up(&mut self, options: Options) -> Result<(), CardError> {
        self.ready()?;
        let (least, greatest) = self
            .faults
            .check(result::stream::get_priority_range(), "asking for the streams' priorities")?;
        for (stream, priority) in [(Stream::Compute, greatest), (Stream::Load, least)] {
            let kind = result::stream::StreamKind::NonBlocking;
            let created = result::stream::create_with_priority(kind, priority);
            self.streams[stream as usize] =
                Handle(self.faults.check(created, "creating a stream")?);
        }
        self.kernels.load(&self.faults, &self.properties)?;
        let scratch = self.create_pool()?;
        self.scratch = Some(scratch);
        let bytes = options.workspace;
        let workspace = self.allocate(scratch, bytes, Stream::Compute)?;
        self.workspace = (workspace, bytes);
        self.counts = self.allocate(scratch, COUNTS * size_of::<u32>(), Stream::Compute)?;
        self.fill(self.counts, 0, COUNTS * size_of::<u32>(), Stream::Compute)?;
        let stream = self.raw_stream(Stream::Compute);
        let started = Products::start(stream, workspace, bytes);
        *self.products.get_mut() = Some(started?);
        self.synchronise(Stream::Compute)
    }

    /// Gives back all that the card holds; the context is bound. What goes wrong now has nobody to tell.
    fn close(&mut self) {
        let streams = self.streams.map(|stream| stream.0).into_iter();
        let streams: Vec<_> = streams.filter(|stream| !stream.is_null()).collect();
        // SAFETY: for all of these: created by this card, taken out of its lists, used by nobody any more, since
        // nobody holds the card.
        unsafe {
            if self.capture.get_mut().on
                && let Ok(graph) = result::stream::end_capture(self.raw_stream(Stream::Compute))
            {
                let _ = result::graph::destroy(graph);
            }
            for stream in &streams {
                let _ = result::stream::synchronize(*stream);
            }
            for (_, exec) in self.graphs.get_mut().handles.drain() {
                let _ = result::graph::exec_destroy(exec.0);
            }
            self.timers.get_mut().close();
            if let Some(mut products) = self.products.get_mut().take() {
                products.close();
            }
            let freed = std::mem::take(&mut self.capture.get_mut().freed);
            let own = [self.workspace.0, self.counts].into_iter().filter(|at| *at != 0);
            for address in freed.into_iter().chain(own) {
                let _ = self.free_now(address, Stream::Compute);
            }
            for stream in streams {
                let _ = result::stream::synchronize(stream);
                let _ = result::stream::destroy(stream);
            }
            self.staging.iter_mut().for_each(|staging| staging.get_mut().close());
            self.kernels.close();
            for (_, pool) in self.pools.get_mut().handles.drain() {
                let _ = result::mem_pool::destroy(pool.0);
            }
        }
    }
}

impl Drop for CudaCard {
    fn drop(&mut self) {
        // A card that has failed answers nothing, and its process ends.
        if self.ready().is_err() {
            return;
        }
        self.close();
        super::BOUND.set(0);
        // SAFETY: no context is always one; the other is the counterpart of `retain`.
        unsafe {
            let _ = result::ctx::set_current(std::ptr::null_mut());
            let _ = result::primary_ctx::release(self.device);
        }
    }
}
