//! The compatibility lane: models that candle-transformers supports and serin's own decoder does not.
//!
//! They run on the CPU, in f32, behind the same `Runner` as every other model, so that the rest of the server needs no
//! changes. Each sequence has a slot: an instance of candle's model with its own cache and with weights that all slots
//! share. There is no prefix cache, and the sequences of a step are computed one after the other. This is slow; it is
//! meant for trying a model out.
//!
//! Reading order: `names`, `table` (what each architecture needs), `rules` (checks a config against its row), `opened`
//! (from a folder to a memory plan), `weights` (the tensors that candle asks for), `models` (one step of each of
//! candle's models), `threads`, `runner`, `load`. It does not know about sequences, text or arms. A build without the
//! feature `compat` has only the names and an error that says so (`absent`).

mod names;
mod plan;

#[cfg(feature = "compat")]
mod load;
#[cfg(feature = "compat")]
pub mod models;
#[cfg(feature = "compat")]
mod opened;
#[cfg(feature = "compat")]
mod rules;
#[cfg(feature = "compat")]
mod runner;
#[cfg(feature = "compat")]
pub mod table;
#[cfg(feature = "compat")]
mod threads;
#[cfg(feature = "compat")]
mod weights;

#[cfg(not(feature = "compat"))]
mod absent;

#[cfg(not(feature = "compat"))]
pub use absent::{Opened, load};
#[cfg(feature = "compat")]
pub use load::load;
pub use names::{NAMES, of_folder};
#[cfg(feature = "compat")]
pub use opened::Opened;
pub use plan::{Plan, SLOTS, SLOTS_MOST};
#[cfg(feature = "compat")]
pub use runner::{CompatRunner, Make};
#[cfg(feature = "compat")]
pub use threads::Threads;
