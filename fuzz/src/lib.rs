//! The code that the fuzz targets run, and with which the main crate's tests replay the stored corpora.
//!
//! Each entry takes raw bytes and returns how many bytes of memory it may use regardless of its input
//! (compiled patterns, lists sized by a config); beyond that, memory must be bounded by the input.

#[path = "entries.rs"]
mod all;
pub mod meter;

pub use all::*;
