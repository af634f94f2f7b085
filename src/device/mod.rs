//! The device: where tensors live and what runs on them.
//!
//! The only home of `unsafe`, and the only room that knows one kind of hardware from another: a device
//! is chosen by file (`cpu`; `card` over the crate in `kernels/`), never by `cfg` inside a function.
//! Knows nothing of sequences, arms or requests.

pub mod arena;
pub mod attention;
pub mod batch;
pub mod card;
pub mod choose;
pub mod cpu;
pub mod end;
pub mod exit;
pub mod files;
pub mod fit;
pub mod kind;
pub mod memory;
pub mod rope;

pub use arena::{Arena, ArenaError, ArenaUsage};
pub use attention::{AttentionSpec, HeadNorm};
pub use batch::{Batch, Row};
pub use card::{CardReport, CardUsage, ModelPool};
pub use choose::{Device, DeviceChoice, DeviceError};
pub use cpu::quant::QuantError;
pub use cpu::{
    Activation, Isa, KvCache, KvKind, KvShape, Pool, QMatrix, Scratch, WeightStore, Workbench,
    all_finite, attend, dequantise, matmul_many, ops,
};
pub use kind::{Kind, Stored};
pub use rope::{Angles, LongRope, Rope};
