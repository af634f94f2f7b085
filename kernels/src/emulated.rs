//! A card made of this machine's processor: the kernels' own sources, compiled for the host, over pools that
//! are counted as a real card's are.
//!
//! For tests: every launch, copy and free is done at once, in order. Fresh memory is poisoned (0xFF: floats
//! are NaN), every allocation lies between fences that are looked at when it is freed, memory that was freed is
//! refused, and products are plain loops. What it cannot show: time, races between blocks, the driver.

use super::card::{
    Arg, Card, CardError, Facts, Gemm, Graph, Grid, Memory, Number, Pool, PoolUsage, Queue,
};
use parking_lot::Mutex;
use std::collections::{BTreeMap, HashMap};
use std::ffi::{CString, c_char, c_void};
use std::sync::atomic::{AtomicU64, Ordering};

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
}

const FENCE: usize = 256;
const FENCE_BYTE: u8 = 0xa5;
const POISON: u8 = 0xff;

/// The emulated card.
#[derive(Debug)]
pub struct EmulatedCard {
    facts: Facts,
    total: u64,
    order: AtomicU64,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    pools: HashMap<Pool, PoolUsage>,
    /// By address of the first usable byte.
    blocks: BTreeMap<u64, Block>,
    graphs: HashMap<Graph, Vec<Work>>,
    recording: Option<Vec<Work>>,
    next: u64,
    dead: Option<String>,
    /// Allocations left until one fails, if a test asked for that.
    fail_after: Option<u64>,
}

#[derive(Debug)]
struct Block {
    pool: Pool,
    bytes: usize,
    /// With a fence before and behind.
    memory: Vec<u8>,
}

#[derive(Debug, Clone)]
enum Work {
    Launch(&'static str, Grid, Vec<Arg>),
    Product(Gemm),
}

impl EmulatedCard {
    /// A card with so many bytes of memory.
    pub fn start(total: u64) -> EmulatedCard {
        let facts = Facts {
            name: "emulated card".into(),
            capability: (8, 0),
            multiprocessors: 4,
            shared_per_block: 99 << 10,
            emulated: true,
        };
        let (order, state) = (AtomicU64::new(0), Mutex::default());
        EmulatedCard { facts, total, order, state }
    }

    /// The order in which a block's threads run: 0 by index, 1 backwards, else shuffled by that seed.
    pub fn set_order(&self, order: u64) {
        self.order.store(order, Ordering::Relaxed);
    }

    /// From now on the card answers as one does that has met a fault which no call survives.
    pub fn kill(&self, why: &str) {
        self.state.lock().dead = Some(why.to_owned());
    }

    /// Lets so many allocations succeed, and the one after them fail.
    pub fn fail_after(&self, allocations: Option<u64>) {
        self.state.lock().fail_after = allocations;
    }

    fn alive(&self) -> Result<parking_lot::MutexGuard<'_, State>, CardError> {
        let state = self.state.lock();
        match &state.dead {
            Some(why) => Err(CardError::Dead(why.clone())),
            None => Ok(state),
        }
    }

    fn run(&self, work: &Work) -> Result<(), CardError> {
        match work {
            Work::Launch(kernel, grid, args) => self.run_kernel(kernel, *grid, args),
            Work::Product(gemm) => {
                multiply(gemm);
                Ok(())
            }
        }
    }

    fn run_kernel(&self, kernel: &str, grid: Grid, args: &[Arg]) -> Result<(), CardError> {
        let mut values: Vec<u64> = args.iter().map(bits).collect();
        let mut places: Vec<*mut c_void> =
            values.iter_mut().map(|value| std::ptr::from_mut(value).cast()).collect();
        let name = CString::new(kernel).map_err(|e| CardError::Other(e.to_string()))?;
        let mut error = [0u8; 256];
        // SAFETY: the caller of `Card::launch` answers for the arguments; the arrays live through the call.
        let code = unsafe {
            serin_emulator_launch(
                name.as_ptr(),
                grid.blocks.as_ptr(),
                grid.threads.as_ptr(),
                grid.shared as usize,
                places.as_mut_ptr(),
                self.order.load(Ordering::Relaxed),
                error.as_mut_ptr().cast(),
                error.len(),
            )
        };
        if code == 0 {
            return Ok(());
        }
        let end = error.iter().position(|byte| *byte == 0).unwrap_or(error.len());
        Err(CardError::Other(format!("{kernel}: {}", String::from_utf8_lossy(&error[..end]))))
    }

    fn submit(&self, work: Work) -> Result<(), CardError> {
        let mut state = self.alive()?;
        if let Some(recorded) = &mut state.recording {
            recorded.push(work);
            return Ok(());
        }
        drop(state);
        self.run(&work)
    }

    /// Checks that `bytes` from `address` on lie in one live allocation.
    fn within(state: &State, address: u64, bytes: usize) -> Result<(), CardError> {
        let found = state.blocks.range(..=address).next_back();
        let fits = found
            .is_some_and(|(start, block)| address - start + bytes as u64 <= block.bytes as u64);
        match fits {
            true => Ok(()),
            false => {
                Err(CardError::Other(format!("{bytes} bytes at {address:#x} are not allocated")))
            }
        }
    }
}

/// An argument's bits, in the low bytes.
fn bits(arg: &Arg) -> u64 {
    match *arg {
        Arg::Address(v) | Arg::U64(v) => v,
        Arg::I32(v) => u64::from(v.cast_unsigned()),
        Arg::U32(v) => u64::from(v),
        Arg::F32(v) => u64::from(v.to_bits()),
    }
}

impl Card for EmulatedCard {
    fn facts(&self) -> &Facts {
        &self.facts
    }

    fn memory(&self) -> Result<Memory, CardError> {
        let state = self.alive()?;
        let taken: u64 = state.pools.values().map(|usage| usage.reserved).sum();
        Ok(Memory { free: self.total.saturating_sub(taken), total: self.total })
    }

    fn enter(&self) -> Result<(), CardError> {
        Ok(())
    }

    fn health(&self) -> Result<(), CardError> {
        self.alive().map(drop)
    }

    fn create_pool(&self) -> Result<Pool, CardError> {
        let mut state = self.alive()?;
        state.next += 1;
        let pool = Pool(state.next);
        state.pools.insert(pool, PoolUsage::default());
        Ok(pool)
    }

    fn pool_usage(&self, pool: Pool) -> Result<PoolUsage, CardError> {
        let state = self.alive()?;
        state
            .pools
            .get(&pool)
            .copied()
            .ok_or_else(|| CardError::Other("there is no such pool".into()))
    }

    fn trim_pool(&self, pool: Pool) -> Result<(), CardError> {
        let mut state = self.alive()?;
        if let Some(usage) = state.pools.get_mut(&pool) {
            usage.reserved = usage.used;
        }
        Ok(())
    }

    fn destroy_pool(&self, pool: Pool) -> Result<(), CardError> {
        let mut state = self.alive()?;
        match state.pools.remove(&pool) {
            Some(usage) if usage.used == 0 => Ok(()),
            Some(usage) => {
                state.pools.insert(pool, usage);
                Err(CardError::Other(format!("{} bytes of the pool are in use", usage.used)))
            }
            None => Err(CardError::Other("there is no such pool".into())),
        }
    }

    fn allocate(&self, pool: Pool, bytes: usize, _queue: Queue) -> Result<u64, CardError> {
        let free = self.memory()?.free;
        let mut state = self.alive()?;
        if state.recording.is_some() {
            return Err(CardError::Other("an allocation while a graph is recorded".into()));
        }
        let refused = match &mut state.fail_after {
            Some(0) => true,
            Some(left) => {
                *left -= 1;
                false
            }
            None => false,
        };
        let size = bytes.next_multiple_of(256) as u64;
        let usage = state.pools.get_mut(&pool);
        let usage = usage.ok_or_else(|| CardError::Other("there is no such pool".into()))?;
        let fresh = (usage.used + size).saturating_sub(usage.reserved);
        if refused || fresh > free {
            return Err(CardError::OutOfMemory { bytes });
        }
        usage.used += size;
        usage.reserved = usage.reserved.max(usage.used);
        let mut memory = vec![POISON; bytes + 2 * FENCE + 256];
        let base = memory.as_ptr() as usize;
        let start = (base + FENCE).next_multiple_of(256) - base;
        memory[..start].fill(FENCE_BYTE);
        memory[start + bytes..].fill(FENCE_BYTE);
        let address = (base + start) as u64;
        state.blocks.insert(address, Block { pool, bytes, memory });
        Ok(address)
    }

    fn free(&self, address: u64, _queue: Queue) -> Result<(), CardError> {
        let mut state = self.alive()?;
        let Some(block) = state.blocks.remove(&address) else {
            return Err(CardError::Other(format!("{address:#x} is not allocated")));
        };
        if let Some(usage) = state.pools.get_mut(&block.pool) {
            usage.used -= block.bytes.next_multiple_of(256) as u64;
        }
        let start = (address - block.memory.as_ptr() as u64) as usize;
        let (before, behind) = (&block.memory[..start], &block.memory[start + block.bytes..]);
        let whole = before.iter().chain(behind).all(|byte| *byte == FENCE_BYTE);
        assert!(whole, "a kernel wrote beyond an allocation of {} bytes", block.bytes);
        Ok(())
    }

    fn pool_of(&self, address: u64) -> Result<Pool, CardError> {
        let state = self.alive()?;
        EmulatedCard::within(&state, address, 1)?;
        let found = state.blocks.range(..=address).next_back();
        found.map(|(_, block)| block.pool).ok_or_else(|| CardError::Other("not allocated".into()))
    }

    fn upload(&self, to: u64, from: &[u8], _queue: Queue) -> Result<(), CardError> {
        EmulatedCard::within(&*self.alive()?, to, from.len())?;
        // SAFETY: the bytes are inside a live allocation.
        unsafe { std::ptr::copy_nonoverlapping(from.as_ptr(), to as *mut u8, from.len()) };
        Ok(())
    }

    fn download(&self, from: u64, to: &mut [u8], _queue: Queue) -> Result<(), CardError> {
        EmulatedCard::within(&*self.alive()?, from, to.len())?;
        // SAFETY: the bytes are inside a live allocation.
        unsafe { std::ptr::copy_nonoverlapping(from as *const u8, to.as_mut_ptr(), to.len()) };
        Ok(())
    }

    fn copy(&self, from: u64, to: u64, bytes: usize, _queue: Queue) -> Result<(), CardError> {
        let state = self.alive()?;
        EmulatedCard::within(&state, from, bytes)?;
        EmulatedCard::within(&state, to, bytes)?;
        // SAFETY: both ranges are inside live allocations.
        unsafe { std::ptr::copy(from as *const u8, to as *mut u8, bytes) };
        Ok(())
    }

    fn fill(&self, address: u64, byte: u8, bytes: usize, _queue: Queue) -> Result<(), CardError> {
        EmulatedCard::within(&*self.alive()?, address, bytes)?;
        // SAFETY: the bytes are inside a live allocation.
        unsafe { std::ptr::write_bytes(address as *mut u8, byte, bytes) };
        Ok(())
    }

    fn synchronise(&self, _queue: Queue) -> Result<(), CardError> {
        self.health()
    }

    unsafe fn launch(
        &self,
        kernel: &'static str,
        grid: Grid,
        args: &[Arg],
    ) -> Result<(), CardError> {
        self.submit(Work::Launch(kernel, grid, args.to_vec()))
    }

    unsafe fn gemm(&self, gemm: Gemm) -> Result<(), CardError> {
        self.submit(Work::Product(gemm))
    }

    fn begin_recording(&self) -> Result<(), CardError> {
        self.alive()?.recording = Some(Vec::new());
        Ok(())
    }

    fn end_recording(&self) -> Result<Graph, CardError> {
        let mut state = self.alive()?;
        let recorded = state.recording.take();
        let recorded = recorded.ok_or_else(|| CardError::Other("nothing is recorded".into()))?;
        state.next += 1;
        let graph = Graph(state.next);
        state.graphs.insert(graph, recorded);
        Ok(graph)
    }

    fn replay(&self, graph: Graph) -> Result<(), CardError> {
        let works = self.alive()?.graphs.get(&graph).cloned();
        let works = works.ok_or_else(|| CardError::Other("there is no such graph".into()))?;
        works.iter().try_for_each(|work| self.run(work))
    }

    fn forget(&self, graph: Graph) -> Result<(), CardError> {
        self.alive()?.graphs.remove(&graph);
        Ok(())
    }
}

fn multiply(gemm: &Gemm) {
    let Gemm { number, rows, columns, n, weights, x, out, out_stride } = *gemm;
    let at = |address: u64, index: usize| -> f32 {
        // SAFETY: the caller of `Card::gemm` answers for the addresses and shapes.
        unsafe {
            match number {
                Number::F32 => *(address as *const f32).add(index),
                Number::F16 => (*(address as *const half::f16).add(index)).to_f32(),
                Number::BF16 => (*(address as *const half::bf16).add(index)).to_f32(),
            }
        }
    };
    for i in 0..n {
        let input: Vec<f32> = (0..columns).map(|c| at(x, i * columns + c)).collect();
        for row in 0..rows {
            let products =
                input.iter().enumerate().map(|(c, x)| at(weights, row * columns + c) * x);
            // SAFETY: as above.
            unsafe { *(out as *mut f32).add(i * out_stride + row) = products.sum() };
        }
    }
}
