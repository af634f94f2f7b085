//! What the fuzz targets run, and what the main crate's tests replay the kept corpora through.
//!
//! Each entry takes raw bytes and returns how many bytes of memory it may take whatever its input
//! (compiled patterns, lists by a config's counts); beyond that, memory is bounded by the input.

#[path = "entries.rs"]
mod all;
pub mod meter;

pub use all::*;
