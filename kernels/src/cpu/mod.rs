//! Kernels for the CPU: what a decoder step is made of, on plain slices.
//!
//! Products of weights as stored (`quant`), the paged KV cache and attention over it (`cache`,
//! `attention`), the small operations between them (`ops`), the threads they run on (`pool`) and the
//! instruction set they use (`isa`, `simd`). Knows no model family; the caller passes shapes. Also the
//! reference that other devices are tested against: every vector kernel has a scalar twin here. Its speed
//! against llama.cpp is in `benches/runs/`.

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
