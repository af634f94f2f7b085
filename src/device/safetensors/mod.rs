//! Mapped safetensors files: headers are read and checked, and tensors are returned as stored in the mapping.
//!
//! With the feature `candle`, candle maps the files (`candle`); without it, serin does (`plain`). Both give the same
//! tensors. The header's offsets are checked against the file's size by the safetensors crate.

#[cfg(feature = "candle")]
mod candle;
#[cfg(any(test, not(feature = "candle")))]
mod plain;

#[cfg(feature = "candle")]
pub use candle::Safetensors;
#[cfg(not(feature = "candle"))]
pub use plain::Safetensors;

#[cfg(all(test, feature = "candle"))]
mod tests;
