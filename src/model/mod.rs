//! Models: from a checkpoint folder to logits, and from logits to a token.
//!
//! Reading order: `config` (what the folder says it is), `intake` (weights in, or a clear refusal),
//! `decoder` (the forward pass over a paged KV cache), `sampler` (one row of logits to one id). Knows the
//! device below it; knows no sequences, queues, text or arms above.

pub mod config;
pub mod decoder;
pub mod intake;
pub mod sampler;

pub use config::ModelConfig;
pub use decoder::Decoder;
pub use intake::{Checkpoint, LoadError};
pub use sampler::{Draw, SamplingParams};
