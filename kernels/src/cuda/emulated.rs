//! A GPU emulated on this machine's CPU: the kernels' own sources, compiled for the host, with memory pools that are
//! accounted for like those of a real GPU.
//!
//! It is for tests. New memory is poisoned (0xFF: floats are NaN). Every allocation lies between guard bytes that are
//! checked when it is freed. Kernels and copies may not touch memory that is not allocated. Matrix products are plain
//! loops. There are two modes ([`EmulationMode`]): one does everything immediately, the other does everything as late
//! as a driver may. Times come from a simple cost model (`emulated/clock.rs`), so that tests of speed and fairness give
//! the same figures everywhere. It cannot test the driver, and finds races only with the feature `races`.

mod clock;
mod product;
mod queues;
#[cfg(feature = "races")]
pub mod requests;

use super::card::{
    Arg, COUNTS, Card, CardError, DeviceProperties, Gemm, Graph, Grid, HostMemory, Memory, Pool,
    PoolUsage, Stream, Timer, Workspace, check_grid,
};
pub use clock::Pace;
use clock::{Clock, Marks};
use parking_lot::{Mutex, MutexGuard};
use queues::{Queues, Work};
use std::collections::{BTreeMap, HashMap};
use std::ffi::{CString, c_char, c_void};
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::ThreadId;
use std::time::Duration;

unsafe extern "C" {
    fn serin_emulator_launch(
        name: *const c_char,
        blocks: *const u32,
        threads: *const u32,
        shared: usize,
        args: *mut *mut c_void,
        order: u64,
        error: *mut c_char,
        room: usize,
    ) -> i32;
    fn serin_emulator_knows(name: *const c_char) -> i32;
    fn serin_emulator_memory(what: i32, address: u64, bytes: usize);
}

/// What is reported of memory to the checker of races; in the order of the emulator's `Memory`.
#[derive(Debug, Clone, Copy)]
enum MemoryEvent {
    Fresh,
    Written,
    Freed,
}

/// Reports to the checker of races, if there is one, what the host does to memory.
fn report_memory(event: MemoryEvent, address: u64, bytes: usize) {
    // SAFETY: the address is only remembered.
    unsafe { serin_emulator_memory(event as i32, address, bytes) };
}

/// Where allocations begin. The checker of races wants pages of their own.
const ALIGNMENT: usize = if cfg!(feature = "races") { 4096 } else { 256 };
const FENCE: usize = 256;
const FENCE_BYTE: u8 = 0xa5;
const POISON: u8 = 0xff;
/// Numbers of the workspace: as many as 4 multiprocessors have a use for, and more.
const WORKSPACE: usize = 1 << 18;
/// In a launch's order of threads: sums of tensor cores are truncated.
const TRUNCATE: u64 = 1 << 63;
/// In a launch's order of threads: blocks run from the last to the first.
pub const BACKWARDS: u64 = 1 << 62;

/// How helpful the card is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EmulationMode {
    /// Everything is done before the call returns, products are summed in one order, and tensor cores round.
    Prompt,
    /// Everything is done as late as the contract of [`Card`] allows, when somebody waits for it; the order of
    /// sums of a product depends on its number of rows; tensor cores truncate, as real ones do (Fasi et al.,
    /// "Numerical behavior of NVIDIA tensor cores", PeerJ CS 2021).
    Pessimistic,
}

/// The emulated card.
#[derive(Debug)]
pub struct EmulatedCard {
    properties: DeviceProperties,
    workspace: Workspace,
    total: u64,
    temper: EmulationMode,
    order: AtomicU64,
    state: Mutex<State>,
    /// Held by whoever does a stream's work, so that it is done in order.
    turns: [Mutex<()>; 2],
}

#[derive(Debug, Default)]
struct State {
    pools: HashMap<Pool, PoolUsage>,
    /// By address of the first usable byte.
    blocks: BTreeMap<u64, Block>,
    graphs: HashMap<Graph, Vec<Work>>,
    capture: Option<Capture>,
    queues: Queues,
    clock: Clock,
    timers: HashMap<Timer, Marks>,
    next: u64,
    graph_launches: u64,
    dead: Option<String>,
    /// Allocations left until one fails, if a test asked for that.
    fail_after: Option<u64>,
}

#[derive(Debug)]
struct Capture {
    works: Vec<Work>,
    by: ThreadId,
    freed: Vec<u64>,
}

#[derive(Debug)]
struct Block {
    /// `None`: the host's memory.
    pool: Option<Pool>,
    bytes: usize,
    /// With a fence before and behind.
    memory: Vec<u8>,
    /// The stream on which it was allocated, until that has been waited for: until then the other may not use it.
    pending: Option<Stream>,
}

impl EmulatedCard {
    /// A prompt card with so many bytes of memory.
    pub fn start(total: u64) -> EmulatedCard {
        EmulatedCard::with(total, EmulationMode::Prompt, Pace::default())
    }

    /// A prompt card that takes itself for one of a data centre's: larger blocks, and tensor cores that are fast with
    /// halves.
    pub fn large(total: u64) -> EmulatedCard {
        let mut card = EmulatedCard::start(total);
        card.properties.capability = (9, 0);
        card.properties.shared_per_block = 227 << 10;
        card
    }

    /// A pessimistic card with so many bytes of memory, at this pace.
    pub fn pessimistic(total: u64, pace: Pace) -> EmulatedCard {
        EmulatedCard::with(total, EmulationMode::Pessimistic, pace)
    }

    fn with(total: u64, temper: EmulationMode, pace: Pace) -> EmulatedCard {
        let name = match temper {
            EmulationMode::Prompt => "emulated card",
            EmulationMode::Pessimistic => "emulated card, pessimistic",
        };
        let properties = DeviceProperties {
            name: name.into(),
            capability: (8, 9),
            multiprocessors: 4,
            shared_per_block: 99 << 10,
            bandwidth: 0,
            clock: 0,
            emulated: true,
        };
        let mut state = State::default();
        state.clock = Clock::new(pace);
        let bytes = WORKSPACE * size_of::<f32>();
        let workspace = Workspace {
            floats: state.add(None, bytes, POISON, None),
            room: WORKSPACE,
            counts: state.add(None, COUNTS * size_of::<u32>(), 0, None),
        };
        EmulatedCard {
            properties,
            workspace,
            total,
            temper,
            order: AtomicU64::new(0),
            state: Mutex::new(state),
            turns: Default::default(),
        }
    }

    /// The order in which a block's threads run: 0 by index, 1 backwards, else shuffled by that seed. With [`BACKWARDS`]
    /// blocks run backwards too, as they do on a pessimistic card.
    pub fn set_order(&self, order: u64) {
        self.order.store(order & !TRUNCATE, Ordering::Relaxed);
    }

    /// From now on the card answers as one does that has met a fault which no call survives.
    pub fn kill(&self, why: &str) {
        self.state.lock().dead = Some(why.to_owned());
    }

    /// Lets so many allocations succeed, and the one after them fail.
    pub fn fail_after(&self, allocations: Option<u64>) {
        self.state.lock().fail_after = allocations;
    }

    /// How much of the card's time has passed for a host that only ever waited for it.
    pub fn now(&self) -> Duration {
        self.state.lock().clock.now()
    }

    /// Number of graph launches.
    pub fn graph_launches(&self) -> u64 {
        self.state.lock().graph_launches
    }

    /// What a pessimistic card has been given on a stream and not yet done, in order; kernels by their names.
    pub fn waiting(&self, stream: Stream) -> Vec<&'static str> {
        self.state.lock().queues.names(stream)
    }

    fn alive(&self) -> Result<MutexGuard<'_, State>, CardError> {
        let state = self.state.lock();
        match &state.dead {
            Some(why) => Err(CardError::Dead(why.clone())),
            None => Ok(state),
        }
    }

    /// As [`EmulatedCard::alive`], for anything on a stream but launches.
    fn turn(&self, stream: Stream, what: &str) -> Result<MutexGuard<'_, State>, CardError> {
        let state = self.alive()?;
        match stream == Stream::Compute && state.capture.is_some() {
            true => Err(other(format!("{what} while a graph is captured"))),
            false => Ok(state),
        }
    }

    /// Puts work at the stream's end; a prompt card does it at once.
    fn enqueue(
        &self,
        mut state: MutexGuard<'_, State>,
        stream: Stream,
        work: Work,
    ) -> Result<(), CardError> {
        let at = state.clock.now();
        state.queues.push(stream, work, at);
        drop(state);
        match self.temper {
            EmulationMode::Prompt => self.drain(stream),
            EmulationMode::Pessimistic => Ok(()),
        }
    }

    /// Does all of a stream's work. A kernel that fails is a fault that no later call survives, unless the card
    /// is prompt, which can tell whose it was.
    fn drain(&self, stream: Stream) -> Result<(), CardError> {
        self.drain_to(stream, usize::MAX)
    }

    /// Does the first `most` pieces of a stream's work.
    fn drain_to(&self, stream: Stream, most: usize) -> Result<(), CardError> {
        let _turn = self.turns[stream as usize].lock();
        for _ in 0..most {
            let mut state = self.alive()?;
            let Some((work, at)) = state.queues.pop(stream) else {
                state.settle(stream);
                return Ok(());
            };
            let (begun, cost) = state.clock.begin(stream, at, &work);
            let done = match work.is_long() {
                true => {
                    let usable = state.usable(&work);
                    drop(state);
                    let done = usable.and_then(|()| self.run(&work));
                    state = self.alive()?;
                    done
                }
                false => state.apply(&work, begun),
            };
            state.clock.end(stream, begun + cost, &work);
            if let Err(error) = done {
                if self.temper == EmulationMode::Pessimistic {
                    state.dead = Some(error.to_string());
                }
                return Err(error);
            }
        }
        Ok(())
    }

    /// Waits for a stream: the host's time goes on to its end.
    fn wait(&self, stream: Stream) -> Result<MutexGuard<'_, State>, CardError> {
        self.drain(stream)?;
        let mut state = self.alive()?;
        state.clock.wait(stream);
        Ok(state)
    }

    fn run(&self, work: &Work) -> Result<(), CardError> {
        match work {
            Work::Launch(kernel, grid, args) => self.run_kernel(kernel, *grid, args),
            Work::Product(gemm) => {
                // SAFETY: the caller of `Card::gemm` answers for the addresses and shapes.
                unsafe { product::multiply(gemm, self.temper) };
                for row in 0..gemm.n {
                    let first = gemm.out + (row * gemm.out_stride * size_of::<f32>()) as u64;
                    report_memory(MemoryEvent::Written, first, gemm.rows * size_of::<f32>());
                }
                Ok(())
            }
            _ => Ok(()),
        }
    }

    fn run_kernel(&self, kernel: &str, grid: Grid, args: &[Arg]) -> Result<(), CardError> {
        let mut values: Vec<u64> = args.iter().map(|arg| arg.bits()).collect();
        let mut places: Vec<*mut c_void> =
            values.iter_mut().map(|value| std::ptr::from_mut(value).cast()).collect();
        let name = CString::new(kernel).map_err(|e| other(e.to_string()))?;
        let mut error = [0u8; 256];
        let pessimistic = self.temper == EmulationMode::Pessimistic;
        let temper = if pessimistic { TRUNCATE | BACKWARDS } else { 0 };
        // SAFETY: the caller of `Card::launch` answers for the arguments; the arrays live through the call.
        let code = unsafe {
            serin_emulator_launch(
                name.as_ptr(),
                grid.blocks.as_ptr(),
                grid.threads.as_ptr(),
                grid.shared as usize,
                places.as_mut_ptr(),
                self.order.load(Ordering::Relaxed) | temper,
                error.as_mut_ptr().cast(),
                error.len(),
            )
        };
        if code == 0 {
            return Ok(());
        }
        let end = error.iter().position(|byte| *byte == 0).unwrap_or(error.len());
        Err(other(format!("{kernel}: {}", String::from_utf8_lossy(&error[..end]))))
    }

    fn launch_or_capture(&self, work: Work) -> Result<(), CardError> {
        let mut state = self.alive()?;
        match &mut state.capture {
            None => self.enqueue(state, Stream::Compute, work),
            Some(capture) if capture.by == std::thread::current().id() => {
                capture.works.push(work);
                Ok(())
            }
            Some(_) => Err(other("another thread captures a graph".into())),
        }
    }
}

impl Drop for State {
    fn drop(&mut self) {
        self.blocks
            .iter()
            .for_each(|(address, block)| report_memory(MemoryEvent::Freed, *address, block.bytes));
    }
}

impl State {
    /// Work that only moves bytes and marks, done while the state is held.
    fn apply(&mut self, work: &Work, at: Duration) -> Result<(), CardError> {
        match work {
            Work::Upload(to, bytes) => {
                self.within(*to, bytes.len())?;
                // SAFETY: the bytes are inside a live allocation.
                unsafe {
                    std::ptr::copy_nonoverlapping(bytes.as_ptr(), *to as *mut u8, bytes.len())
                };
                report_memory(MemoryEvent::Written, *to, bytes.len());
            }
            Work::Copy { from, to, bytes } => {
                self.within(*from, *bytes)?;
                self.within(*to, *bytes)?;
                // SAFETY: both ranges are inside live allocations.
                unsafe { std::ptr::copy(*from as *const u8, *to as *mut u8, *bytes) };
                report_memory(MemoryEvent::Written, *to, *bytes);
            }
            Work::Fill { address, byte, bytes } => {
                self.within(*address, *bytes)?;
                // SAFETY: the bytes are inside a live allocation.
                unsafe { std::ptr::write_bytes(*address as *mut u8, *byte, *bytes) };
                report_memory(MemoryEvent::Written, *address, *bytes);
            }
            Work::Free(address) => self.release(*address)?,
            Work::Mark { timer, end } => {
                if let Some(marks) = self.timers.get_mut(timer) {
                    marks.set(*end, at);
                }
            }
            Work::Launch(..) | Work::Product(_) => {}
        }
        Ok(())
    }

    /// Checks that all memory that a kernel or product is given is allocated, and may be used on its stream.
    fn usable(&self, work: &Work) -> Result<(), CardError> {
        for address in work.addresses() {
            let block = self.block(address);
            let what = match block {
                None => "is not allocated",
                Some(block) if block.pending == Some(Stream::Load) => {
                    "was allocated on the loader's stream, which nobody has waited for"
                }
                Some(_) => continue,
            };
            return Err(other(format!("{}: memory at {address:#x} {what}", work.name())));
        }
        Ok(())
    }

    fn block(&self, address: u64) -> Option<&Block> {
        let (start, block) = self.blocks.range(..=address).next_back()?;
        // One past the end is a place for nothing.
        (address - start <= block.bytes as u64).then_some(block)
    }

    /// Checks that `bytes` from `address` on lie in one live allocation.
    fn within(&self, address: u64, bytes: usize) -> Result<(), CardError> {
        let found = self.blocks.range(..=address).next_back();
        let fits = found
            .is_some_and(|(start, block)| address - start + bytes as u64 <= block.bytes as u64);
        match fits {
            true => Ok(()),
            false => Err(other(format!("{bytes} bytes at {address:#x} are not allocated"))),
        }
    }

    fn release(&mut self, address: u64) -> Result<(), CardError> {
        let Some(block) = self.blocks.remove(&address) else {
            return Err(other(format!("{address:#x} is not allocated")));
        };
        if let Some(usage) = block.pool.and_then(|pool| self.pools.get_mut(&pool)) {
            usage.used -= block.bytes.next_multiple_of(256) as u64;
        }
        report_memory(MemoryEvent::Freed, address, block.bytes);
        let start = (address - block.memory.as_ptr() as u64) as usize;
        let (before, behind) = (&block.memory[..start], &block.memory[start + block.bytes..]);
        let whole = before.iter().chain(behind).all(|byte| *byte == FENCE_BYTE);
        assert!(whole, "a kernel wrote beyond an allocation of {} bytes", block.bytes);
        Ok(())
    }

    /// What was allocated on a stream may be used everywhere once that has been waited for.
    fn settle(&mut self, stream: Stream) {
        for block in self.blocks.values_mut().filter(|block| block.pending == Some(stream)) {
            block.pending = None;
        }
    }

    /// A fresh block of poison between fences; its address.
    fn add(&mut self, pool: Option<Pool>, bytes: usize, fill: u8, pending: Option<Stream>) -> u64 {
        let mut memory = vec![fill; bytes.next_multiple_of(ALIGNMENT) + 2 * FENCE + ALIGNMENT];
        let base = memory.as_ptr() as usize;
        let start = (base + FENCE).next_multiple_of(ALIGNMENT) - base;
        memory[..start].fill(FENCE_BYTE);
        memory[start + bytes..].fill(FENCE_BYTE);
        let address = (base + start) as u64;
        self.blocks.insert(address, Block { pool, bytes, memory, pending });
        report_memory(MemoryEvent::Fresh, address, bytes);
        if fill != POISON {
            report_memory(MemoryEvent::Written, address, bytes);
        }
        address
    }

    fn fails_now(&mut self) -> bool {
        match &mut self.fail_after {
            Some(0) => true,
            Some(left) => {
                *left -= 1;
                false
            }
            None => false,
        }
    }

    fn fresh(&mut self) -> u64 {
        self.next += 1;
        self.next
    }
}

fn other(what: String) -> CardError {
    CardError::Other(what)
}

impl Card for EmulatedCard {
    fn properties(&self) -> &DeviceProperties {
        &self.properties
    }

    fn workspace(&self) -> Workspace {
        self.workspace
    }

    fn memory(&self) -> Result<Memory, CardError> {
        let state = self.alive()?;
        let taken: u64 = state.pools.values().map(|usage| usage.reserved).sum();
        Ok(Memory { free: self.total.saturating_sub(taken), total: self.total })
    }

    fn enter(&self) -> Result<(), CardError> {
        self.health()
    }

    fn health(&self) -> Result<(), CardError> {
        self.alive().map(drop)
    }

    fn create_pool(&self) -> Result<Pool, CardError> {
        let mut state = self.alive()?;
        let pool = Pool(state.fresh());
        state.pools.insert(pool, PoolUsage::default());
        Ok(pool)
    }

    fn pool_usage(&self, pool: Pool) -> Result<PoolUsage, CardError> {
        let state = self.alive()?;
        state.pools.get(&pool).copied().ok_or_else(|| other("there is no such pool".into()))
    }

    fn trim_pool(&self, pool: Pool) -> Result<(), CardError> {
        self.wait_for_all()?;
        let mut state = self.alive()?;
        if let Some(usage) = state.pools.get_mut(&pool) {
            usage.reserved = usage.used;
        }
        Ok(())
    }

    fn destroy_pool(&self, pool: Pool) -> Result<(), CardError> {
        self.wait_for_all()?;
        let mut state = self.alive()?;
        match state.pools.remove(&pool) {
            Some(usage) if usage.used == 0 => Ok(()),
            Some(usage) => {
                state.pools.insert(pool, usage);
                Err(other(format!("{} bytes of the pool are in use", usage.used)))
            }
            None => Err(other("there is no such pool".into())),
        }
    }

    fn allocate(&self, pool: Pool, bytes: usize, stream: Stream) -> Result<u64, CardError> {
        let free = self.memory()?.free;
        let mut state = self.turn(stream, "an allocation")?;
        let refused = state.fails_now();
        let size = bytes.next_multiple_of(256) as u64;
        let usage = state.pools.get_mut(&pool);
        let usage = usage.ok_or_else(|| other("there is no such pool".into()))?;
        let fresh = (usage.used + size).saturating_sub(usage.reserved);
        if refused || fresh > free {
            return Err(CardError::OutOfMemory { bytes });
        }
        usage.used += size;
        usage.reserved = usage.reserved.max(usage.used);
        let pending = (self.temper == EmulationMode::Pessimistic).then_some(stream);
        Ok(state.add(Some(pool), bytes, POISON, pending))
    }

    fn free(&self, address: u64, stream: Stream) -> Result<(), CardError> {
        let mut state = self.alive()?;
        if stream == Stream::Compute
            && let Some(capture) = &mut state.capture
        {
            capture.freed.push(address);
            return Ok(());
        }
        self.enqueue(state, stream, Work::Free(address))
    }

    fn pool_of(&self, address: u64) -> Result<Pool, CardError> {
        let state = self.alive()?;
        state.within(address, 1)?;
        let found = state.block(address).and_then(|block| block.pool);
        found.ok_or_else(|| other("not allocated".into()))
    }

    fn map_host(&self, bytes: usize) -> Result<HostMemory, CardError> {
        let mut state = self.alive()?;
        if state.fails_now() {
            return Err(other(format!("this machine has no {bytes} bytes of memory to pin")));
        }
        let address = state.add(None, bytes, 0, None);
        Ok(HostMemory { host: address, card: address })
    }

    fn unmap_host(&self, memory: HostMemory) -> Result<(), CardError> {
        self.alive()?.release(memory.host)
    }

    fn upload(&self, to: u64, from: &[u8], stream: Stream) -> Result<(), CardError> {
        let state = self.turn(stream, "a copy to the GPU")?;
        state.within(to, from.len())?;
        self.enqueue(state, stream, Work::Upload(to, from.to_vec()))
    }

    fn download(&self, from: u64, to: &mut [u8], stream: Stream) -> Result<(), CardError> {
        drop(self.turn(stream, "a copy from the GPU")?);
        let mut state = self.wait(stream)?;
        state.within(from, to.len())?;
        // SAFETY: the bytes are inside a live allocation.
        unsafe { std::ptr::copy_nonoverlapping(from as *const u8, to.as_mut_ptr(), to.len()) };
        state.clock.copied(to.len());
        Ok(())
    }

    fn copy(&self, from: u64, to: u64, bytes: usize, stream: Stream) -> Result<(), CardError> {
        let state = self.turn(stream, "copying")?;
        state.within(from, bytes)?;
        state.within(to, bytes)?;
        self.enqueue(state, stream, Work::Copy { from, to, bytes })
    }

    fn fill(&self, address: u64, byte: u8, bytes: usize, stream: Stream) -> Result<(), CardError> {
        let state = self.turn(stream, "filling memory")?;
        state.within(address, bytes)?;
        self.enqueue(state, stream, Work::Fill { address, byte, bytes })
    }

    fn synchronise(&self, stream: Stream) -> Result<(), CardError> {
        drop(self.turn(stream, "waiting")?);
        self.wait(stream).map(drop)
    }

    unsafe fn launch(
        &self,
        kernel: &'static str,
        grid: Grid,
        args: &[Arg],
    ) -> Result<(), CardError> {
        check_grid(kernel, grid, args.len(), &self.properties)?;
        let name = CString::new(kernel).map_err(|e| other(e.to_string()))?;
        // SAFETY: a name that ends.
        if unsafe { serin_emulator_knows(name.as_ptr()) } == 0 {
            return Err(other(format!("there is no kernel {kernel}")));
        }
        self.launch_or_capture(Work::Launch(kernel, grid, args.to_vec()))
    }

    unsafe fn gemm(&self, gemm: Gemm) -> Result<(), CardError> {
        self.launch_or_capture(Work::Product(gemm))
    }

    fn create_timer(&self) -> Result<Timer, CardError> {
        let mut state = self.alive()?;
        let timer = Timer(state.fresh());
        state.timers.insert(timer, Marks::default());
        Ok(timer)
    }

    fn start_timer(&self, timer: Timer) -> Result<(), CardError> {
        let state = self.turn(Stream::Compute, "starting a timer")?;
        self.enqueue(state, Stream::Compute, Work::Mark { timer, end: false })
    }

    fn stop_timer(&self, timer: Timer) -> Result<(), CardError> {
        let state = self.turn(Stream::Compute, "stopping a timer")?;
        self.enqueue(state, Stream::Compute, Work::Mark { timer, end: true })
    }

    fn read_timer(&self, timer: Timer) -> Result<Duration, CardError> {
        let before = self.turn(Stream::Compute, "reading a timer")?.queues.up_to_end(timer);
        self.drain_to(Stream::Compute, before)?;
        let mut state = self.alive()?;
        let marks = state.timers.get(&timer).and_then(Marks::ended);
        let (end, between) =
            marks.ok_or_else(|| other("the timer was not started and stopped".into()))?;
        state.clock.wait_until(end);
        Ok(between)
    }

    fn destroy_timer(&self, timer: Timer) -> Result<(), CardError> {
        self.alive()?.timers.remove(&timer);
        Ok(())
    }

    fn begin_capture(&self) -> Result<(), CardError> {
        let mut state = self.turn(Stream::Compute, "a second capture")?;
        let by = std::thread::current().id();
        state.capture = Some(Capture { works: Vec::new(), by, freed: Vec::new() });
        Ok(())
    }

    fn end_capture(&self) -> Result<Graph, CardError> {
        let mut state = self.alive()?;
        let ended = state.capture.take();
        let Capture { works, freed, .. } =
            ended.ok_or_else(|| other("nothing is being captured".into()))?;
        let graph = Graph(state.fresh());
        state.graphs.insert(graph, works);
        drop(state);
        freed.into_iter().try_for_each(|address| self.free(address, Stream::Compute))?;
        Ok(graph)
    }

    fn launch_graph(&self, graph: Graph) -> Result<(), CardError> {
        let works = self.turn(Stream::Compute, "a graph launch")?.graphs.get(&graph).cloned();
        let works = works.ok_or_else(|| other("there is no such graph".into()))?;
        self.alive()?.graph_launches += 1;
        for work in works {
            self.enqueue(self.alive()?, Stream::Compute, work)?;
        }
        Ok(())
    }

    fn destroy_graph(&self, graph: Graph) -> Result<(), CardError> {
        self.synchronise(Stream::Compute)?;
        self.alive()?.graphs.remove(&graph);
        Ok(())
    }
}

impl EmulatedCard {
    /// Both streams, but for the executor's while it is captured.
    fn wait_for_all(&self) -> Result<(), CardError> {
        drop(self.wait(Stream::Load)?);
        let capturing = self.alive()?.capture.is_some();
        if capturing { Ok(()) } else { self.wait(Stream::Compute).map(drop) }
    }
}

#[cfg(all(test, feature = "races"))]
mod races;
#[cfg(test)]
mod tests;
