//! Kernels for the CPU: the operations of a decoder step, on plain slices.
//!
//! Matrix products with weights as stored (`quant`), the paged KV cache and attention over it (`cache`, `attention`),
//! the small operations between them (`ops`), the threads they run on (`pool`), and the instruction set they use
//! (`isa`, `simd`). It does not know about model families; the caller passes shapes. It is also the reference that
//! other devices are tested against: every vector kernel has a scalar version here. `benches/runs/` compares its speed
//! with llama.cpp's.

pub mod attention;
pub mod cache;
pub mod isa;
pub mod ops;
pub mod pool;
pub mod quant;
mod simd;

pub use attention::{AttendScratch, attend};
pub use cache::{KvCache, KvKind, KvShape};
pub use isa::Isa;
pub use ops::Activation;
pub use pool::Pool;
pub use quant::{QMatrix, Scratch, WeightStore, matmul_many};
