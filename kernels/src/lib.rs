//! serin's kernels: what a decoder step is made of, for the CPU (`cpu`) and for CUDA cards (`cuda`).
//!
//! What both take lies beside them: the kinds in which weights are stored (`quant`), a step's work (`batch`), what a
//! layer's attention is (`attention`), and the angles of rotary embeddings (`rope`). The two know nothing of each
//! other. Knows numbers, shapes and one step's index lists; no model, no sequence, no request.

// Some parts are there for vector kernels alone.
#![cfg_attr(not(target_arch = "x86_64"), allow(dead_code, unused_mut))]

pub mod attention;
pub mod batch;
pub mod cpu;
pub mod cuda;
mod float16;
pub mod quant;
pub mod rope;
