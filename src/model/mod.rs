//! Models: from a checkpoint folder to logits, and from logits to a token.
//!
//! Reading order: `families` (the supported families and their tensor names), `config` (a model's properties),
//! `intake` (reads safetensors, or gives a clear error), `gguf` (the same for GGUF files), `dummy` (random
//! weights), `weights` (chooses one of these by path), `linear` (weights as matrix products), `decoder` (the
//! forward pass over a paged KV cache), `card` (the same on a GPU), `sampler` (from one row of logits to one token id)
//! with `token_rules`, `token_mask`, `guide`, `logprobs`. It uses `device` and does not know about sequences, queues,
//! text or arms.

mod beside;
pub mod card;
pub mod config;
pub mod decoder;
pub mod dummy;
mod error;
pub mod families;
pub mod gguf;
pub mod guide;
pub mod intake;
pub mod layout;
pub mod linear;
pub mod logprobs;
mod names;
mod rows;
pub mod sampler;
pub mod token_mask;
pub mod token_rules;
pub mod weights;

pub use beside::or_beside;
pub use card::{CardDecoder, CardPlan};
pub use config::ModelConfig;
pub use decoder::{Decoder, KvChoice, KvPlan};
pub use error::LoadError;
pub use gguf::Gguf;
pub use guide::{Guide, GuideFailed, SharedGuide, Taken};
pub use intake::{Checkpoint, Folder};
pub use logprobs::{Logprobs, Score};
pub use sampler::{Draw, SampleError, SamplingParams};
pub use token_mask::TokenMask;
pub use token_rules::TokenRules;
pub use weights::{LoadFormat, Weights};
