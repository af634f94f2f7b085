//! The interface of a GPU ("card" in code): memory pools, copies, launches, matrix products, graphs.
//!
//! It is one trait, so that the same model code runs on a real GPU and on the emulated one. Every operation is ordered
//! by its [`Stream`]. It does not know what a kernel computes.

use super::readings::Readings;
use std::fmt;
use std::time::Duration;

/// Why the card could not do as asked.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CardError {
    /// This allocation failed (0 where the driver does not tell how much it wanted); the card goes on.
    #[error("the GPU has no {} left", amount(*bytes))]
    OutOfMemory {
        /// Bytes asked for; 0 where the driver does not tell.
        bytes: usize,
    },
    /// A fault that no later call on this process's context survives (an illegal address, a device assert).
    #[error("the GPU has failed and cannot be used by this process any more: {0}")]
    Dead(String),
    /// A launch or copy whose shapes do not fit; nothing was done.
    #[error("{0}")]
    Shape(String),
    /// Any other refusal or failure, in words.
    #[error("{0}")]
    Other(String),
}

fn amount(bytes: usize) -> String {
    match bytes {
        0 => "memory".into(),
        bytes => format!("{bytes} bytes"),
    }
}

/// A memory pool of the card's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Pool(pub u64);

/// What a pool holds, in bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct PoolUsage {
    /// In live allocations.
    pub used: u64,
    /// Taken from the card and not yet given back.
    pub reserved: u64,
}

/// The card's memory, in bytes, all programs counted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Memory {
    /// Bytes that no program has taken.
    pub free: u64,
    /// Bytes that the card has.
    pub total: u64,
}

/// What a card is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeviceProperties {
    /// Name of the card, for people to read.
    pub name: String,
    /// Compute capability, major and minor.
    pub capability: (u32, u32),
    /// Multiprocessors that blocks are spread over.
    pub multiprocessors: u32,
    /// Most dynamic shared memory of one block, in bytes.
    pub shared_per_block: u32,
    /// Bytes that its memory transfers in a second; 0 if that is not known.
    pub bandwidth: u64,
    /// Cycles of a multiprocessor in a second; 0 if that is not known.
    pub clock: u64,
    /// Whether it is this machine's processor in disguise.
    pub emulated: bool,
}

impl DeviceProperties {
    /// Whether its tensor cores multiply halves at half the rate of 8-bit numbers, and not at a quarter as GeForce's
    /// do, and blocks may have the shared memory that this takes: A100, H100, B200.
    pub(crate) fn fast_halves(&self) -> bool {
        let fast = matches!(self.capability, (8, 0) | (9 | 10, _));
        fast && self.shared_per_block >= 113 << 10
    }
}

/// Memory that launches on [`Stream::Compute`] use one after the other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Workspace {
    /// Address of numbers whose content nobody relies on, and how many.
    pub floats: u64,
    /// How many f32 there is room for at `floats`.
    pub room: usize,
    /// Address of [`COUNTS`] counts in 32 bits, which are zero between launches.
    pub counts: u64,
}

/// Counts of a [`Workspace`].
pub const COUNTS: usize = 4096;

/// In what order things happen: all on one stream one after the other, two streams side by side. Memory that one
/// stream has allocated, filled or used is used, or given back, on the other only once the first has been waited
/// for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Stream {
    /// The executor's steps.
    Compute,
    /// A loader's copies. A model's memory is allocated and given back here, so that neither waits for a step nor
    /// gets into a graph that is being captured.
    Load,
}

/// Blocks, threads of a block, and dynamic shared memory of a block in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Grid {
    /// Blocks along x, y and z; none of them 0.
    pub blocks: [u32; 3],
    /// Threads of a block along x, y and z; 1 to 1024 in all.
    pub threads: [u32; 3],
    /// Dynamic shared memory of one block, in bytes.
    pub shared: u32,
}

impl Grid {
    /// `blocks` blocks of `threads` threads.
    pub fn line(blocks: usize, threads: u32) -> Grid {
        Grid::of([blocks as u32, 1, 1], threads)
    }

    /// Blocks in three dimensions, of `threads` threads.
    pub fn of(blocks: [u32; 3], threads: u32) -> Grid {
        Grid { blocks, threads: [threads, 1, 1], shared: 0 }
    }

    /// The same grid with `bytes` bytes of dynamic shared memory per block.
    pub fn shared(self, bytes: usize) -> Grid {
        Grid { shared: bytes as u32, ..self }
    }
}

/// One argument of a kernel, by value. Pointers are addresses on the card; 0 is a null pointer.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Arg {
    /// A pointer: an address on the card, or 0.
    Address(u64),
    /// A signed 32-bit number.
    I32(i32),
    /// An unsigned 32-bit number.
    U32(u32),
    /// An unsigned 64-bit number.
    U64(u64),
    /// A 32-bit float.
    F32(f32),
}

#[cfg(any(test, feature = "cuda", feature = "emulator"))]
impl Arg {
    /// Its bits, in the low bytes.
    pub(crate) fn bits(self) -> u64 {
        match self {
            Arg::Address(value) | Arg::U64(value) => value,
            Arg::I32(value) => u64::from(value.cast_unsigned()),
            Arg::U32(value) => u64::from(value),
            Arg::F32(value) => u64::from(value.to_bits()),
        }
    }
}

/// The type of the numbers of a dense product.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ScalarType {
    /// 32-bit floats, multiplied as such (no TF32).
    F32,
    /// 16-bit IEEE floats.
    F16,
    /// bfloat16: the exponent of f32 and 8 bits of precision.
    BF16,
}

impl ScalarType {
    /// Size of one value in bytes.
    pub fn bytes(self) -> usize {
        match self {
            ScalarType::F32 => 4,
            ScalarType::F16 | ScalarType::BF16 => 2,
        }
    }
}

/// A dense product: `out[n][rows] = x[n][columns] * weights[rows][columns]^T`, row-major, in and weights of
/// one type, sums and `out` in f32.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Gemm {
    /// The type of `x` and of the weights.
    pub scalar: ScalarType,
    /// Rows of the weights: numbers in a row of `out`.
    pub rows: usize,
    /// Columns of the weights: numbers in a row of `x`.
    pub columns: usize,
    /// Rows of `x` and of `out`.
    pub n: usize,
    /// Addresses of `[rows][columns]`, `[n][columns]`, and `[n][out_stride]` of f32.
    pub weights: u64,
    /// Address of the input, `[n][columns]` without gaps.
    pub x: u64,
    /// Address of the output in f32, `n` rows that begin `out_stride` numbers apart.
    pub out: u64,
    /// Numbers from one row of `out` to the next, at least `rows`.
    pub out_stride: usize,
}

/// A captured list of launches (a CUDA graph).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Graph(pub u64);

/// Two marks on [`Stream::Compute`], and the card's own time between them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Timer(pub u64);

/// Memory of the host that kernels read and write over the bus.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HostMemory {
    /// Where the host finds it, on 256 bytes.
    pub host: u64,
    /// Where kernels do.
    pub card: u64,
}

/// A card. Calls come from the executor's thread ([`Stream::Compute`]) or from one loader thread
/// ([`Stream::Load`]); each binds itself with [`Card::enter`] first.
///
/// Whatever is enqueued may be done long after the call has returned: only [`Card::synchronise`],
/// [`Card::download`] and [`Card::read_timer`] wait, and a fault shows there at the earliest. [`Card::read_timer`] waits
/// for nothing that was enqueued after its mark.
pub trait Card: Send + Sync + fmt::Debug {
    /// What the card is; it never changes.
    fn properties(&self) -> &DeviceProperties;
    /// The card's memory at this moment. Fails on a dead card.
    fn memory(&self) -> Result<Memory, CardError>;
    /// What launches have to work in.
    fn workspace(&self) -> Workspace;
    /// Makes the card usable from this thread.
    fn enter(&self) -> Result<(), CardError>;
    /// `Err(Dead)` once a fault has made the card unusable.
    fn health(&self) -> Result<(), CardError>;
    /// What the card says of its state, if it says anything. It may take milliseconds.
    fn readings(&self) -> Option<Readings> {
        None
    }

    /// A new pool that holds nothing yet. Memory given back to it is kept for reuse until it is trimmed.
    fn create_pool(&self) -> Result<Pool, CardError>;
    /// What the pool holds at this moment; memory counts as used until its stream has given it back.
    /// Fails if there is no such pool.
    fn pool_usage(&self, pool: Pool) -> Result<PoolUsage, CardError>;
    /// Gives back what the pool keeps for reuse, once the streams have done what they have to do. While a graph is
    /// captured [`Stream::Load`] alone is waited for: memory given back there is trimmed all the same.
    fn trim_pool(&self, pool: Pool) -> Result<(), CardError>;
    /// Waits as [`Card::trim_pool`]; refused while anything of the pool is in use.
    fn destroy_pool(&self, pool: Pool) -> Result<(), CardError>;

    /// Memory with undefined content, on 256 bytes.
    fn allocate(&self, pool: Pool, bytes: usize, stream: Stream) -> Result<u64, CardError>;
    /// Gives memory back after everything that the stream has to do.
    fn free(&self, address: u64, stream: Stream) -> Result<(), CardError>;
    /// The pool that an address belongs to.
    fn pool_of(&self, address: u64) -> Result<Pool, CardError>;

    /// Pinned memory of the host, filled with zeros, that kernels read and write where it lies: it needs no copy, and
    /// so never waits behind a loader's. Of the machine's memory, not the card's.
    fn map_host(&self, bytes: usize) -> Result<HostMemory, CardError>;
    /// Gives it back; no kernel reads it any more.
    fn unmap_host(&self, memory: HostMemory) -> Result<(), CardError>;

    /// Copies to the card; `from` may be changed once this returns. Large ones go through pinned staging.
    fn upload(&self, to: u64, from: &[u8], stream: Stream) -> Result<(), CardError>;
    /// Copies from the card, and waits for it.
    fn download(&self, from: u64, to: &mut [u8], stream: Stream) -> Result<(), CardError>;
    /// Copies on the card itself; the ranges do not overlap.
    fn copy(&self, from: u64, to: u64, bytes: usize, stream: Stream) -> Result<(), CardError>;
    /// Sets `bytes` bytes from `address` on to `byte`, in the order of `stream`.
    fn fill(&self, address: u64, byte: u8, bytes: usize, stream: Stream) -> Result<(), CardError>;
    /// Waits until the stream has done everything, and reports what went wrong meanwhile.
    fn synchronise(&self, stream: Stream) -> Result<(), CardError>;

    /// Runs a kernel on [`Stream::Compute`].
    ///
    /// # Safety
    /// The arguments are those that the kernel of this name takes, and every address in them is good for what
    /// the kernel does with it.
    unsafe fn launch(
        &self,
        kernel: &'static str,
        grid: Grid,
        args: &[Arg],
    ) -> Result<(), CardError>;

    /// A dense product on [`Stream::Compute`].
    ///
    /// # Safety
    /// The addresses hold what [`Gemm`] says.
    unsafe fn gemm(&self, gemm: Gemm) -> Result<(), CardError>;

    /// A new timer without marks.
    fn create_timer(&self) -> Result<Timer, CardError>;
    /// Marks the beginning: once everything that was enqueued on [`Stream::Compute`] before is done.
    fn start_timer(&self, timer: Timer) -> Result<(), CardError>;
    /// Marks the end: once everything that was enqueued on [`Stream::Compute`] before is done.
    fn stop_timer(&self, timer: Timer) -> Result<(), CardError>;
    /// Waits for the end that was marked last; the time since the beginning.
    fn read_timer(&self, timer: Timer) -> Result<Duration, CardError>;
    /// Destroys the timer; one that is not known is ignored.
    fn destroy_timer(&self, timer: Timer) -> Result<(), CardError>;

    /// From here on, launches and products are captured instead of run. Meanwhile everything else on
    /// [`Stream::Compute`] is refused, from whichever thread it comes (what is given back there waits);
    /// [`Stream::Load`] goes on.
    fn begin_capture(&self) -> Result<(), CardError>;
    /// Ends the capture and returns it, ready to be launched. Fails if nothing was being captured.
    fn end_capture(&self) -> Result<Graph, CardError>;
    /// Launches a captured graph, with the addresses and numbers of then.
    fn launch_graph(&self, graph: Graph) -> Result<(), CardError>;
    /// Waits for [`Stream::Compute`] and destroys the graph; one that is not known is ignored. Refused during
    /// a capture.
    fn destroy_graph(&self, graph: Graph) -> Result<(), CardError>;
}

/// Arguments that a kernel may have.
#[cfg(any(test, feature = "cuda", feature = "emulator"))]
pub(crate) const MOST_ARGS: usize = 40;

/// What every card refuses, before it is asked.
#[cfg(any(test, feature = "cuda", feature = "emulator"))]
pub(crate) fn check_grid(
    kernel: &str,
    grid: Grid,
    args: usize,
    properties: &DeviceProperties,
) -> Result<(), CardError> {
    let Grid { blocks, threads, shared, .. } = grid;
    let count: u64 = threads.iter().map(|side| u64::from(*side)).product();
    let what = if blocks.contains(&0) || count == 0 {
        "nothing to do"
    } else if count > 1024 || threads[2] > 64 {
        "too many threads"
    } else if blocks[0] > i32::MAX as u32 || blocks[1] > 65535 || blocks[2] > 65535 {
        "too many blocks"
    } else if shared > properties.shared_per_block {
        "more shared memory than the GPU has"
    } else if args > MOST_ARGS {
        "too many arguments"
    } else {
        return Ok(());
    };
    Err(CardError::Shape(format!("{kernel}: {what}: {grid:?}")))
}
