//! The device: which one models run on, where their memory comes from, and what fits.
//!
//! The kernels are a crate of their own, `serin-kernels`: for the CPU, and for CUDA GPUs with an emulated one.
//! Other rooms get from here what they use of it on the CPU. Knows nothing of sequences, arms or requests.

pub mod arena;
pub mod card;
pub mod choose;
pub mod fatal_signals;
pub mod files;
pub mod fit;
pub mod memory;
pub mod safetensors;
mod stored;
mod workbench;

pub use arena::{Arena, ArenaError, ArenaUsage};
pub use card::{CardReport, CardUsage, ModelPool};
pub use choose::{Device, DeviceChoice, DeviceError};
pub use serin_kernels::attention::{AttentionSpec, HeadNorm, QueryScale};
pub use serin_kernels::batch::{Batch, Row};
pub use serin_kernels::cpu::quant::QuantError;
pub use serin_kernels::cpu::{
    Activation, Isa, KvCache, KvKind, KvShape, Pool, QMatrix, Scratch, WeightStore, attend,
    matmul_many, ops,
};
pub use serin_kernels::quant::{Kind, all_finite, dequantise, stand_in};
pub use serin_kernels::rope::{Angles, LongRope, Rope};
pub use stored::Stored;
pub use workbench::{THREADS_VARIABLE, Workbench, shared_pool};
