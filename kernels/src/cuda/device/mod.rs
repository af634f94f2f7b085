//! A real GPU, through the CUDA driver API.
//!
//! The driver and cuBLAS are found at run time, so a machine without them gets an error that says what to
//! install. Every allocation names its pool: no device-wide "current pool" is ever set, so a loader can allocate while
//! the executor runs. The context is the process's primary context. It is bound to the calling thread, so memory may be
//! freed from any thread. It is retained and released, never reset.
//!
//! There are two streams: the executor's has the highest priority, the loader's the lowest.
//! Memory that was allocated or filled on one may be used or freed on the other only after waiting for the first. This
//! also holds for a loader that fails.
//!
//! While a CUDA graph is being captured, the executor's stream accepts only launches and products. Memory that is freed
//! on it meanwhile is freed after the capture, and copies to or from it are refused. The loader continues. A step must
//! be run once before it is captured, because the driver loads a kernel at its first launch. A failed capture ends when
//! [`Card::end_capture`] returns the error; the same launches can then be run without a graph.
//!
//! An error after which no further call can succeed is remembered, and returned by every later call. It does not know
//! about kernels.

mod driver;
mod images;
mod life;
mod nvml;
mod products;
mod staging;
mod start;
mod timers;

use crate::cuda::card::{
    Arg, Card, CardError, DeviceProperties, Gemm, Graph, Grid, HostMemory, MOST_ARGS, Memory, Pool,
    PoolUsage, Stream, Timer, Workspace, check_grid,
};
use crate::cuda::readings::Readings;
use cudarc::driver::{result, sys};
use driver::{Faults, Handle};
pub use life::Options;
use nvml::Watch;
use parking_lot::{Mutex, MutexGuard};
use products::Products;
use staging::Staging;
use std::cell::Cell;
use std::collections::HashMap;
use std::ffi::c_void;
use std::time::Duration;
use timers::Timers;

/// A card.
#[derive(Debug)]
pub struct CudaCard {
    properties: DeviceProperties,
    /// Whether a launch may begin while the one before it still runs.
    overlaps: bool,
    device: sys::CUdevice,
    context: Handle<sys::CUctx_st>,
    /// Tells this card from others that the process opens, for [`CudaCard::bind`].
    number: u64,
    faults: Faults,
    /// By stream; null until they are there.
    streams: [Handle<sys::CUstream_st>; 2],
    pools: Mutex<Pools>,
    staging: [Mutex<Staging>; 2],
    kernels: images::Kernels,
    /// Used in order, by the executor.
    products: Mutex<Option<Products>>,
    capture: Mutex<Capture>,
    graphs: Mutex<Graphs>,
    timers: Mutex<Timers>,
    scratch: Option<Pool>,
    /// cuBLAS's and the kernels', in the scratch pool: its address, 0 until it is there, and its bytes; and counts.
    workspace: (u64, usize),
    counts: u64,
    watch: Option<Watch>,
}

#[derive(Debug, Default)]
struct Pools {
    handles: HashMap<Pool, Handle<sys::CUmemPoolHandle_st>>,
    next: u64,
}

/// The state of the executor's stream. Whoever enqueues there anything but launches holds it meanwhile.
#[derive(Debug, Default)]
struct Capture {
    on: bool,
    freed: Vec<u64>,
}

#[derive(Debug, Default)]
struct Graphs {
    handles: HashMap<Graph, Handle<sys::CUgraphExec_st>>,
    next: u64,
}

thread_local! {
    /// Number of the card whose context this thread has.
    static BOUND: Cell<u64> = const { Cell::new(0) };
}

impl CudaCard {
    /// The pool of what all models share.
    pub fn scratch(&self) -> Option<Pool> {
        self.scratch
    }

    /// Whether the card can be used, from this thread: every call's beginning.
    fn ready(&self) -> Result<(), CardError> {
        self.faults.alive()?;
        self.bind()
    }

    fn bind(&self) -> Result<(), CardError> {
        if BOUND.get() == self.number {
            return Ok(());
        }
        // SAFETY: retained until `drop`.
        let done = unsafe { result::ctx::set_current(self.context.0) };
        self.faults.check(done, "binding the GPU to a thread")?;
        BOUND.set(self.number);
        Ok(())
    }

    fn raw_stream(&self, stream: Stream) -> sys::CUstream {
        self.streams[stream as usize].0
    }

    fn staging(&self, stream: Stream) -> MutexGuard<'_, Staging> {
        self.staging[stream as usize].lock()
    }

    fn handle(&self, pool: Pool) -> Result<sys::CUmemoryPool, CardError> {
        let handle = self.pools.lock().handles.get(&pool).copied();
        handle.map(|handle| handle.0).ok_or_else(|| other("there is no such pool"))
    }

    /// A stream's next place, for anything but launches: held until it is enqueued, so that nothing of the kind
    /// gets into a capture.
    fn turn(
        &self,
        stream: Stream,
        what: &str,
    ) -> Result<Option<MutexGuard<'_, Capture>>, CardError> {
        self.ready()?;
        if stream == Stream::Load {
            return Ok(None);
        }
        let capture = self.capture.lock();
        match capture.on {
            true => Err(CardError::Other(format!("{what} while a graph is captured"))),
            false => Ok(Some(capture)),
        }
    }

    /// Waits for what was given back: until then it counts as used. A capture has the executor's stream for
    /// itself; what a loader gives back is on the other one.
    fn settle(&self) -> Result<(), CardError> {
        self.synchronise(Stream::Load)?;
        let capture = self.capture.lock();
        match capture.on {
            true => Ok(()),
            false => self.wait_for(Stream::Compute),
        }
    }

    fn wait_for(&self, stream: Stream) -> Result<(), CardError> {
        self.ready()?;
        // SAFETY: the stream lives as long as the card.
        let done = unsafe { result::stream::synchronize(self.raw_stream(stream)) };
        self.faults.check(done, "waiting for the GPU")
    }

    fn free_now(&self, address: u64, stream: Stream) -> Result<(), CardError> {
        // SAFETY: the driver refuses what it has not given; buffers give back once what they gave out is gone.
        let done = unsafe { result::free_async(address, self.raw_stream(stream)) };
        self.faults.check(done, "giving memory back")
    }

    fn pool_number(
        &self,
        pool: sys::CUmemoryPool,
        which: sys::CUmemPool_attribute,
    ) -> Result<u64, CardError> {
        let mut value = 0u64;
        // SAFETY: a live pool, and a place for the 64 bits that these attributes have.
        let done = unsafe { result::mem_pool::get_attribute(pool, which, (&raw mut value).cast()) };
        self.faults.check(done, "asking for a pool's bytes")?;
        Ok(value)
    }

    /// After cuBLAS has failed: whether that was the card's end.
    fn after(&self, error: CardError) -> CardError {
        match self.health() {
            Err(dead @ CardError::Dead(_)) => dead,
            _ => error,
        }
    }

    /// Puts a launch on the executor's stream. Where the card can do so, it may begin before the one ahead of it is
    /// over: kernels wait for that themselves (`wait_for_previous` in common.cuh).
    ///
    /// # Safety
    /// As [`Card::launch`].
    unsafe fn enqueue(
        &self,
        function: sys::CUfunction,
        grid: Grid,
        args: &mut [*mut c_void],
    ) -> Result<(), result::DriverError> {
        let ([x, y, z], [tx, ty, tz]) = (grid.blocks, grid.threads);
        let stream = self.raw_stream(Stream::Compute);
        if !self.overlaps {
            // SAFETY: the caller's.
            return unsafe {
                result::launch_kernel(function, (x, y, z), (tx, ty, tz), grid.shared, stream, args)
            };
        }
        // SAFETY: numbers alone; zero is the default of each.
        let mut early: sys::CUlaunchAttribute = unsafe { std::mem::zeroed() };
        early.id = sys::CUlaunchAttributeID::CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION;
        early.value.programmaticStreamSerializationAllowed = 1;
        let config = sys::CUlaunchConfig {
            gridDimX: x,
            gridDimY: y,
            gridDimZ: z,
            blockDimX: tx,
            blockDimY: ty,
            blockDimZ: tz,
            sharedMemBytes: grid.shared,
            hStream: stream,
            attrs: &raw mut early,
            numAttrs: 1,
        };
        let none = std::ptr::null_mut();
        // SAFETY: the caller's; the driver copies the configuration before it returns.
        unsafe { sys::cuLaunchKernelEx(&raw const config, function, args.as_mut_ptr(), none) }
            .result()
    }

    fn instantiate(&self, graph: sys::CUgraph) -> Result<Graph, CardError> {
        let flags = sys::CUgraphInstantiate_flags(0);
        // SAFETY: a graph that `end_capture` has just got.
        let exec = unsafe { result::graph::instantiate(graph, flags) };
        let exec = Handle(self.faults.check(exec, "instantiating a graph")?);
        let mut graphs = self.graphs.lock();
        graphs.next += 1;
        let graph = Graph(graphs.next);
        graphs.handles.insert(graph, exec);
        Ok(graph)
    }
}

impl Card for CudaCard {
    fn properties(&self) -> &DeviceProperties {
        &self.properties
    }

    fn memory(&self) -> Result<Memory, CardError> {
        self.ready()?;
        let (free, total) = self.faults.check(result::mem_get_info(), "asking for free memory")?;
        Ok(Memory { free: free as u64, total: total as u64 })
    }

    fn workspace(&self) -> Workspace {
        let (floats, bytes) = self.workspace;
        Workspace { floats, room: bytes / size_of::<f32>(), counts: self.counts }
    }

    fn enter(&self) -> Result<(), CardError> {
        self.faults.alive()?;
        BOUND.set(0);
        self.bind()
    }

    /// Asks the loader's stream, which may be asked while the executor's is captured: a failed context answers
    /// every question with its failure.
    fn health(&self) -> Result<(), CardError> {
        self.ready()?;
        // SAFETY: the stream lives as long as the card.
        let code = unsafe { sys::cuStreamQuery(self.raw_stream(Stream::Load)) };
        match code {
            sys::CUresult::CUDA_ERROR_NOT_READY => Ok(()),
            code => self.faults.check(code.result(), "checking the GPU's health"),
        }
    }

    fn readings(&self) -> Option<Readings> {
        self.watch.as_ref().map(Watch::read)
    }

    fn create_pool(&self) -> Result<Pool, CardError> {
        self.ready()?;
        // SAFETY: numbers and null pointers; zero is the default of each.
        let mut wanted: sys::CUmemPoolProps = unsafe { std::mem::zeroed() };
        wanted.allocType = sys::CUmemAllocationType::CU_MEM_ALLOCATION_TYPE_PINNED;
        wanted.location.type_ = sys::CUmemLocationType::CU_MEM_LOCATION_TYPE_DEVICE;
        wanted.location.id = self.device;
        // SAFETY: the structs are complete.
        let created = unsafe { result::mem_pool::create(&raw const wanted) };
        let handle = self.faults.check(created, "creating a pool")?;
        // Without this, every synchronisation would hand free memory back to the driver.
        let mut keep = u64::MAX;
        let which = sys::CUmemPool_attribute::CU_MEMPOOL_ATTR_RELEASE_THRESHOLD;
        // SAFETY: a live pool, and the 64 bits that this attribute has.
        let set = unsafe { result::mem_pool::set_attribute(handle, which, (&raw mut keep).cast()) };
        if let Err(error) = self.faults.check(set, "setting up a pool") {
            // SAFETY: created above and known to nobody.
            let _ = unsafe { result::mem_pool::destroy(handle) };
            return Err(error);
        }
        let mut pools = self.pools.lock();
        pools.next += 1;
        let pool = Pool(pools.next);
        pools.handles.insert(pool, Handle(handle));
        Ok(pool)
    }

    fn pool_usage(&self, pool: Pool) -> Result<PoolUsage, CardError> {
        use sys::CUmemPool_attribute::*;
        let handle = self.handle(pool)?;
        self.ready()?;
        Ok(PoolUsage {
            used: self.pool_number(handle, CU_MEMPOOL_ATTR_USED_MEM_CURRENT)?,
            reserved: self.pool_number(handle, CU_MEMPOOL_ATTR_RESERVED_MEM_CURRENT)?,
        })
    }

    fn trim_pool(&self, pool: Pool) -> Result<(), CardError> {
        let handle = self.handle(pool)?;
        self.settle()?;
        // SAFETY: a live pool.
        self.faults.check(unsafe { result::mem_pool::trim_to(handle, 0) }, "trimming a pool")
    }

    fn destroy_pool(&self, pool: Pool) -> Result<(), CardError> {
        self.settle()?;
        let used = self.pool_usage(pool)?.used;
        if used != 0 {
            return Err(CardError::Other(format!("{used} bytes of the pool are in use")));
        }
        let removed = self.pools.lock().handles.remove(&pool);
        let handle = removed.ok_or_else(|| other("there is no such pool"))?;
        // SAFETY: nothing of it is in use, and nobody finds it any more.
        self.faults.check(unsafe { result::mem_pool::destroy(handle.0) }, "destroying a pool")
    }

    fn allocate(&self, pool: Pool, bytes: usize, stream: Stream) -> Result<u64, CardError> {
        if bytes == 0 {
            return Err(CardError::Shape("an allocation of no bytes".into()));
        }
        let handle = self.handle(pool)?;
        let _turn = self.turn(stream, "an allocation")?;
        // SAFETY: a live pool and stream; the memory is undefined, as the trait says.
        let got = unsafe { result::mem_pool::alloc_async(handle, bytes, self.raw_stream(stream)) };
        let address = self.faults.check_bytes(got, bytes, "an allocation")?;
        if address % 256 == 0 {
            return Ok(address);
        }
        self.free_now(address, stream)?;
        Err(CardError::Other(format!("the driver gave memory at {address:#x}, not on 256 bytes")))
    }

    fn free(&self, address: u64, stream: Stream) -> Result<(), CardError> {
        self.ready()?;
        if stream == Stream::Load {
            return self.free_now(address, stream);
        }
        let mut capture = self.capture.lock();
        if capture.on {
            capture.freed.push(address);
            return Ok(());
        }
        self.free_now(address, stream)
    }

    fn pool_of(&self, address: u64) -> Result<Pool, CardError> {
        self.ready()?;
        let mut handle: sys::CUmemoryPool = std::ptr::null_mut();
        let which = sys::CUpointer_attribute::CU_POINTER_ATTRIBUTE_MEMPOOL_HANDLE;
        // SAFETY: a place for the handle that this attribute is; the driver checks the address.
        let code = unsafe { sys::cuPointerGetAttribute((&raw mut handle).cast(), which, address) };
        self.faults.check(code.result(), "asking for an address's pool")?;
        let pools = self.pools.lock();
        let found = pools.handles.iter().find(|(_, known)| known.0 == handle);
        found.map(|(pool, _)| *pool).ok_or_else(|| other("the address is in no pool of this GPU"))
    }

    fn map_host(&self, bytes: usize) -> Result<HostMemory, CardError> {
        self.ready()?;
        staging::map(bytes, &self.faults)
    }

    fn unmap_host(&self, memory: HostMemory) -> Result<(), CardError> {
        self.ready()?;
        staging::unmap(memory, &self.faults)
    }

    fn upload(&self, to: u64, from: &[u8], stream: Stream) -> Result<(), CardError> {
        let _turn = self.turn(stream, "a copy to the GPU")?;
        let raw = self.raw_stream(stream);
        if from.is_empty() {
            return Ok(());
        }
        self.staging(stream).upload(to, from, raw, &self.faults)
    }

    fn download(&self, from: u64, to: &mut [u8], stream: Stream) -> Result<(), CardError> {
        let turn = self.turn(stream, "a copy from the GPU")?;
        if to.is_empty() {
            return Ok(());
        }
        let mut staging = self.staging(stream);
        let small = match to.len() <= staging::SMALL {
            true => Some(staging.small(&self.faults)?.0),
            false => None,
        };
        let place: *mut c_void = small.unwrap_or(to.as_mut_ptr().cast());
        // SAFETY: the place has room for so many bytes, and is kept until the copy is there.
        let sent =
            unsafe { sys::cuMemcpyDtoHAsync_v2(place, from, to.len(), self.raw_stream(stream)) };
        drop(turn);
        self.faults.check(sent.result(), "a copy from the GPU")?;
        // SAFETY: the stream lives as long as the card.
        let done = unsafe { result::stream::synchronize(self.raw_stream(stream)) };
        self.faults.check(done, "waiting for a copy from the GPU")?;
        if let Some(pinned) = small {
            // SAFETY: the copy is there, and `staging` is held.
            unsafe { std::ptr::copy_nonoverlapping(pinned.cast(), to.as_mut_ptr(), to.len()) };
        }
        Ok(())
    }

    fn copy(&self, from: u64, to: u64, bytes: usize, stream: Stream) -> Result<(), CardError> {
        let _turn = self.turn(stream, "copying")?;
        // SAFETY: the driver checks the addresses.
        let done = unsafe { result::memcpy_dtod_async(to, from, bytes, self.raw_stream(stream)) };
        self.faults.check(done, "copying")
    }

    fn fill(&self, address: u64, byte: u8, bytes: usize, stream: Stream) -> Result<(), CardError> {
        let _turn = self.turn(stream, "filling memory")?;
        // SAFETY: the driver checks the address.
        let done =
            unsafe { result::memset_d8_async(address, byte, bytes, self.raw_stream(stream)) };
        self.faults.check(done, "filling memory")
    }

    fn synchronise(&self, stream: Stream) -> Result<(), CardError> {
        drop(self.turn(stream, "waiting")?);
        self.wait_for(stream)
    }

    unsafe fn launch(
        &self,
        kernel: &'static str,
        grid: Grid,
        args: &[Arg],
    ) -> Result<(), CardError> {
        self.ready()?;
        check_grid(kernel, grid, args.len(), &self.properties)?;
        let function = self.kernels.function(kernel, grid.shared, &self.faults)?;
        let mut values = [0u64; MOST_ARGS];
        let mut places = [std::ptr::null_mut::<c_void>(); MOST_ARGS];
        for ((value, place), arg) in values.iter_mut().zip(&mut places).zip(args) {
            *value = arg.bits();
            *place = std::ptr::from_mut(value).cast();
        }
        // SAFETY: the caller answers for the arguments, which the driver copies before it returns.
        let launched = unsafe { self.enqueue(function, grid, &mut places[..args.len()]) };
        launched.map_err(|error| {
            let doing = format!("launching {kernel} with {grid:?}");
            self.faults.check::<()>(Err(error), &doing).unwrap_err()
        })
    }

    unsafe fn gemm(&self, gemm: Gemm) -> Result<(), CardError> {
        self.ready()?;
        let products = self.products.lock();
        let started = products.as_ref().ok_or_else(|| other("cuBLAS is not started"))?;
        // SAFETY: the caller answers for the addresses.
        unsafe { started.enqueue(&gemm) }.map_err(|error| self.after(error))
    }

    fn create_timer(&self) -> Result<Timer, CardError> {
        self.ready()?;
        self.timers.lock().create(&self.faults)
    }

    fn start_timer(&self, timer: Timer) -> Result<(), CardError> {
        let _turn = self.turn(Stream::Compute, "starting a timer")?;
        self.timers.lock().mark(
            timer,
            timers::START,
            self.raw_stream(Stream::Compute),
            &self.faults,
        )
    }

    fn stop_timer(&self, timer: Timer) -> Result<(), CardError> {
        let _turn = self.turn(Stream::Compute, "stopping a timer")?;
        self.timers.lock().mark(timer, timers::STOP, self.raw_stream(Stream::Compute), &self.faults)
    }

    fn read_timer(&self, timer: Timer) -> Result<Duration, CardError> {
        drop(self.turn(Stream::Compute, "reading a timer")?);
        let events = self.timers.lock().get(timer)?;
        timers::read(events, &self.faults)
    }

    fn destroy_timer(&self, timer: Timer) -> Result<(), CardError> {
        self.ready()?;
        self.timers.lock().destroy(timer);
        Ok(())
    }

    /// Other threads' calls do not end the capture: it is relaxed, and this file sees to it that nothing gets
    /// in that may not be there.
    fn begin_capture(&self) -> Result<(), CardError> {
        let turn = self.turn(Stream::Compute, "a second capture")?;
        let mode = sys::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_RELAXED;
        // SAFETY: the stream lives as long as the card.
        let begun =
            unsafe { result::stream::begin_capture(self.raw_stream(Stream::Compute), mode) };
        self.faults.check(begun, "beginning a capture")?;
        if let Some(mut capture) = turn {
            capture.on = true;
        }
        Ok(())
    }

    fn end_capture(&self) -> Result<Graph, CardError> {
        self.ready()?;
        let mut capture = self.capture.lock();
        if !capture.on {
            return Err(other("nothing is being captured"));
        }
        // SAFETY: the stream lives as long as the card. It captures no more after this, whatever comes of it.
        let ended = unsafe { result::stream::end_capture(self.raw_stream(Stream::Compute)) };
        capture.on = false;
        let freed = std::mem::take(&mut capture.freed);
        let given_back = freed.into_iter().map(|address| self.free_now(address, Stream::Compute));
        let given_back = given_back.fold(Ok(()), Result::and);
        drop(capture);
        let graph = self.faults.check(ended, "ending a capture")?;
        if graph.is_null() {
            return Err(other("the capture gave no graph"));
        }
        let instantiated = given_back.and_then(|()| self.instantiate(graph));
        // SAFETY: ours, and what was made of it stands by itself.
        let _ = unsafe { result::graph::destroy(graph) };
        instantiated
    }

    fn launch_graph(&self, graph: Graph) -> Result<(), CardError> {
        let _turn = self.turn(Stream::Compute, "a graph launch")?;
        let graphs = self.graphs.lock();
        let exec = graphs.handles.get(&graph).ok_or_else(|| other("there is no such graph"))?;
        // SAFETY: instantiated, and not destroyed while the list is held.
        let done = unsafe { result::graph::launch(exec.0, self.raw_stream(Stream::Compute)) };
        self.faults.check(done, "a graph launch")
    }

    /// Waits for the executor's stream first, where it may be running.
    fn destroy_graph(&self, graph: Graph) -> Result<(), CardError> {
        self.synchronise(Stream::Compute)?;
        let removed = self.graphs.lock().handles.remove(&graph);
        let Some(exec) = removed else { return Ok(()) };
        // SAFETY: taken out of the list, and not running.
        let destroyed = unsafe { result::graph::exec_destroy(exec.0) };
        self.faults.check(destroyed, "destroying a graph")
    }
}

fn other(what: &str) -> CardError {
    CardError::Other(what.into())
}
