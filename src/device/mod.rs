//! The device: which one the models run on, where their memory comes from, and what fits.
//!
//! The kernels are in a separate crate, `serin-kernels`: for the CPU, for CUDA GPUs, and for an emulated GPU. This
//! module re-exports the CPU kernels that other modules use. It does not know about sequences, arms or requests.

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
