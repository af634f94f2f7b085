//! A GPU on paper: it accepts every call, computes nothing, and lists the launches.
//!
//! It is for tests that count a step's launches and check their grids at the sizes of real models and GPUs. Buffers are
//! addresses without memory behind them, so a matrix of any size costs nothing. All data that are read back are zero.

use super::card::{
    Arg, COUNTS, Card, CardError, DeviceProperties, Gemm, Graph, Grid, HostMemory, Memory, Pool,
    PoolUsage, Stream, Timer, Workspace, check_grid,
};
use parking_lot::Mutex;
use std::time::Duration;

const ALIGN: u64 = 256;
/// Numbers of the workspace, as many as a real card has.
const WORKSPACE: usize = 8 << 20;

/// A launch, or a product that the library computes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Noted {
    /// A kernel and its grid.
    Kernel(&'static str, Grid),
    /// [`Card::gemm`].
    Gemm(Gemm),
}

impl Noted {
    /// The kernel's name; `gemm` for the library's product.
    pub fn name(&self) -> &'static str {
        match self {
            Noted::Kernel(name, _) => name,
            Noted::Gemm(_) => "gemm",
        }
    }
}

/// The card.
#[derive(Debug)]
pub struct DryRunCard {
    properties: DeviceProperties,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    next: u64,
    noted: Vec<Noted>,
    /// The host's memory is real, since the host writes to it.
    host: Vec<(u64, Vec<u64>)>,
}

impl State {
    fn take(&mut self, bytes: u64) -> u64 {
        self.next += ALIGN;
        let address = self.next;
        self.next += bytes.next_multiple_of(ALIGN);
        address
    }
}

impl DryRunCard {
    /// A card of this compute capability, with so many multiprocessors and so much shared memory for a block.
    pub fn new(capability: (u32, u32), multiprocessors: u32, shared_per_block: u32) -> DryRunCard {
        let name = "a dry-run card".into();
        let properties = DeviceProperties {
            name,
            capability,
            multiprocessors,
            shared_per_block,
            bandwidth: 0,
            clock: 0,
            emulated: true,
        };
        DryRunCard { properties, state: Mutex::default() }
    }

    /// The same card with memory that transfers so many bytes a second, and so many cycles a second.
    #[must_use]
    pub fn with_rates(mut self, bandwidth: u64, clock: u64) -> DryRunCard {
        (self.properties.bandwidth, self.properties.clock) = (bandwidth, clock);
        self
    }

    /// What was launched since the last call, in order.
    pub fn take_noted(&self) -> Vec<Noted> {
        std::mem::take(&mut self.state.lock().noted)
    }

    fn id(&self) -> u64 {
        self.state.lock().take(0)
    }
}

impl Card for DryRunCard {
    fn properties(&self) -> &DeviceProperties {
        &self.properties
    }

    fn memory(&self) -> Result<Memory, CardError> {
        Ok(Memory { free: u64::MAX / 4, total: u64::MAX / 4 })
    }

    fn workspace(&self) -> Workspace {
        let mut state = self.state.lock();
        let floats = state.take((WORKSPACE * size_of::<f32>()) as u64);
        Workspace { floats, room: WORKSPACE, counts: state.take((COUNTS * 4) as u64) }
    }

    fn enter(&self) -> Result<(), CardError> {
        Ok(())
    }

    fn health(&self) -> Result<(), CardError> {
        Ok(())
    }

    fn create_pool(&self) -> Result<Pool, CardError> {
        Ok(Pool(self.id()))
    }

    fn pool_usage(&self, _: Pool) -> Result<PoolUsage, CardError> {
        Ok(PoolUsage::default())
    }

    fn trim_pool(&self, _: Pool) -> Result<(), CardError> {
        Ok(())
    }

    fn destroy_pool(&self, _: Pool) -> Result<(), CardError> {
        Ok(())
    }

    fn allocate(&self, _: Pool, bytes: usize, _: Stream) -> Result<u64, CardError> {
        Ok(self.state.lock().take(bytes as u64))
    }

    fn free(&self, _: u64, _: Stream) -> Result<(), CardError> {
        Ok(())
    }

    fn pool_of(&self, address: u64) -> Result<Pool, CardError> {
        Err(CardError::Other(format!("a dry-run card does not keep the pool of {address}")))
    }

    fn map_host(&self, bytes: usize) -> Result<HostMemory, CardError> {
        let mut state = self.state.lock();
        let mut memory = vec![0u64; bytes.div_ceil(8)];
        let host = memory.as_mut_ptr() as u64;
        let card = state.take(bytes as u64);
        state.host.push((card, memory));
        Ok(HostMemory { host, card })
    }

    fn unmap_host(&self, memory: HostMemory) -> Result<(), CardError> {
        self.state.lock().host.retain(|(card, _)| *card != memory.card);
        Ok(())
    }

    fn upload(&self, _: u64, _: &[u8], _: Stream) -> Result<(), CardError> {
        Ok(())
    }

    fn download(&self, _: u64, to: &mut [u8], _: Stream) -> Result<(), CardError> {
        to.fill(0);
        Ok(())
    }

    fn copy(&self, _: u64, _: u64, _: usize, _: Stream) -> Result<(), CardError> {
        Ok(())
    }

    fn fill(&self, _: u64, _: u8, _: usize, _: Stream) -> Result<(), CardError> {
        Ok(())
    }

    fn synchronise(&self, _: Stream) -> Result<(), CardError> {
        Ok(())
    }

    unsafe fn launch(
        &self,
        kernel: &'static str,
        grid: Grid,
        args: &[Arg],
    ) -> Result<(), CardError> {
        check_grid(kernel, grid, args.len(), &self.properties)?;
        self.state.lock().noted.push(Noted::Kernel(kernel, grid));
        Ok(())
    }

    unsafe fn gemm(&self, gemm: Gemm) -> Result<(), CardError> {
        self.state.lock().noted.push(Noted::Gemm(gemm));
        Ok(())
    }

    fn create_timer(&self) -> Result<Timer, CardError> {
        Ok(Timer(self.id()))
    }

    fn start_timer(&self, _: Timer) -> Result<(), CardError> {
        Ok(())
    }

    fn stop_timer(&self, _: Timer) -> Result<(), CardError> {
        Ok(())
    }

    fn read_timer(&self, _: Timer) -> Result<Duration, CardError> {
        Ok(Duration::ZERO)
    }

    fn destroy_timer(&self, _: Timer) -> Result<(), CardError> {
        Ok(())
    }

    /// What is captured counts as launched once; launching the graph counts nothing.
    fn begin_capture(&self) -> Result<(), CardError> {
        Ok(())
    }

    fn end_capture(&self) -> Result<Graph, CardError> {
        Ok(Graph(self.id()))
    }

    fn launch_graph(&self, _: Graph) -> Result<(), CardError> {
        Ok(())
    }

    fn destroy_graph(&self, _: Graph) -> Result<(), CardError> {
        Ok(())
    }
}

#[cfg(test)]
mod tests;
