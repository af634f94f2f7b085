//! Kernels for CUDA, and the card they run on.
//!
//! The kernels are the `.cu` files of this crate, one family each. Here, in reading order: `card` (what a card can
//! be asked: pools, memory, launches), `readings` (what it says of its state), `buffer` (its memory as values that
//! give themselves back), `timer`, `acts` (inputs of products), then one file per kernel family: a typed function that
//! checks shapes and launches. Beside each, `answers`: what its kernels should give (`check` runs them), for tests
//! and for the `self_test` of a card; a build without any card goes without them. `emulated` is a card made of this
//! machine's processor, which runs the very same sources; `paper` is for dry runs and only lists launches; `device` is
//! a real one; `open` has them by name.

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
pub use self_test::{SelfTestError, self_test};
pub use timer::Timer;
