//! The device: where tensors live and what runs on them.
//!
//! The only home of `unsafe`, and the only room that knows one kind of hardware from another: a device
//! is chosen by file (`cpu`), never by `cfg` inside a function, and every device offers the same names.
//! Knows nothing of sequences, arms or requests.

pub mod arena;
pub mod attention;
pub mod batch;
pub mod cpu;
pub mod dense;
pub mod files;
pub mod kernels;
pub mod memory;
pub mod ops;
pub mod rope;

pub use arena::{Arena, ArenaError, ArenaUsage};
pub use attention::{AttentionSpec, HeadNorm};
pub use batch::{Batch, Row};
pub use cpu::{KvCache, KvShape, all_finite, attend};
pub use dense::with_f32;
pub use ops::Activation;
pub use rope::{Angles, LongRope, Rope};
