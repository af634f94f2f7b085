//! Kernels for CUDA, and the GPU they run on. In code, a GPU is a "card".
//!
//! The kernels are the `.cu` files of this crate, one kernel family each. In reading order: `card` (the interface:
//! pools, memory, launches), `readings` (the state that a GPU reports), `buffer` (GPU memory as values that free
//! themselves), `timer`, `acts` (inputs of products), then one file per kernel family, with typed functions that check
//! shapes and launch. Next to each is `answers`, the expected results of its kernels (run by `check`), for tests and
//! for the `self_test` of a GPU; a build without any GPU leaves them out. `emulated` is a GPU emulated on the CPU,
//! which runs the same sources; `paper` is for dry runs and only lists launches; `device` is a real GPU; `open` opens one by name.

pub mod acts;
pub mod attention;
pub mod buffer;
pub mod card;
#[cfg(any(test, feature = "known-answers"))]
pub mod check;
#[cfg(feature = "cuda")]
pub mod device;
#[cfg(any(test, feature = "known-answers"))]
mod e4m3;
pub mod embed;
#[cfg(feature = "emulator")]
pub mod emulated;
pub mod inputs;
pub mod kv;
pub mod logprobs;
pub mod norm;
pub(crate) mod on_card;
pub mod open;
#[cfg(any(test, feature = "emulator"))]
pub mod paper;
pub mod product;
pub mod readings;
pub mod rope;
pub mod rows;
pub mod sample;
mod self_test;
pub mod timer;
pub mod weights;

pub use acts::{ActBuffer, ActKind, Acts, ActsMut, ProductInput, Scale};
pub use buffer::{Buffer, Mapped, View, ViewMut};
pub use card::{
    Arg, Card, CardError, DeviceProperties, Gemm, Graph, Grid, HostMemory, Memory, Pool, PoolUsage,
    ScalarType, Stream,
};
#[cfg(any(test, feature = "known-answers"))]
pub use check::{Check, Size};
pub use embed::embed;
pub use inputs::{PLACES, StepInputs};
pub use kv::{KvKind, KvLayer, KvShape, KvView, KvViewMut, Rows};
pub use open::{OpenError, open};
pub use product::{Matrix, Output, multiply, multiply_all, multiply_gated, multiply_normed};
pub use readings::{MemoryReading, Readings};
#[cfg(any(test, feature = "known-answers"))]
pub use self_test::FAMILIES;
pub use self_test::{SelfTestError, self_test};
pub use timer::Timer;
