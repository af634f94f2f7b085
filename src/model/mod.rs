//! Models: from a checkpoint folder to logits, and from logits to a token.
//!
//! Reading order: `families` (what can be run, and what its tensors are called), `config` (what a model
//! says it is), `intake` (safetensors in, or a clear refusal), `gguf` (the same for GGUF files), `dummy`
//! (weights from nowhere), `weights` (whichever of them a path means), `linear` (weights as matrix
//! products), `decoder` (the forward pass over a paged KV cache), `card` (the same on a card), `sampler` (one row of logits to one id),
//! `logprobs`. Knows the device below it; knows no sequences, queues, text or arms above.

pub mod card;
pub mod config;
pub mod decoder;
pub mod dummy;
mod error;
pub mod families;
pub mod gguf;
pub mod intake;
pub mod layout;
pub mod linear;
pub mod logprobs;
mod names;
pub mod sampler;
pub mod weights;

pub use card::{CardDecoder, CardPlan};
pub use config::ModelConfig;
pub use decoder::{Decoder, KvChoice, KvPlan};
pub use error::LoadError;
pub use gguf::Gguf;
pub use intake::Checkpoint;
pub use logprobs::Logprobs;
pub use sampler::{Draw, SamplingParams};
pub use weights::{LoadFormat, Weights};
