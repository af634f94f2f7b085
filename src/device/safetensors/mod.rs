//! Mapped safetensors files: headers read and checked, tensors given as they lie in the mapping.
//!
//! candle maps them (`candle`); a build without that feature does it itself (`plain`). Both give the same tensors. The
//! header's offsets are checked against the file's size by the safetensors crate.

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
