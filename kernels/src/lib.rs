//! serin's kernels: the operations of a decoder step, for the CPU (`cpu`) and for CUDA GPUs (`cuda`).
//!
//! Next to them are the types that both use: the kinds of stored weights (`quant`), a step's work (`batch`), the
//! parameters of a layer's attention (`attention`), and the angles of rotary embeddings (`rope`). `cpu` and `cuda` do
//! not depend on each other. The crate knows numbers, shapes and one step's index lists, but not models, sequences or
//! requests.

// Some parts are there for vector kernels alone.
#![cfg_attr(not(target_arch = "x86_64"), allow(dead_code, unused_mut))]

pub mod attention;
pub mod batch;
pub mod cpu;
pub mod cuda;
mod float16;
pub mod quant;
pub mod rope;
