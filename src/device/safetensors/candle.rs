//! Safetensors files as candle maps them.

use candle_core::safetensors::MmapedSafetensors;
use safetensors::tensor::TensorView;
use std::path::PathBuf;

/// The tensors of one or more mapped files.
pub struct Safetensors(MmapedSafetensors);

impl Safetensors {
    /// Maps the files and reads their headers. Fails if one cannot be read or its header is not valid; the error is
    /// text for the operator.
    pub fn open(paths: &[PathBuf]) -> Result<Safetensors, String> {
        // SAFETY: the mapping is read-only and is dropped when the load ends; see `files`.
        let mapped = unsafe { MmapedSafetensors::multi(paths) };
        mapped.map(Safetensors).map_err(|error| error.to_string())
    }

    /// The tensor of that name, if there is one.
    pub fn get(&self, name: &str) -> Option<TensorView<'_>> {
        self.0.get(name).ok()
    }

    /// All tensors.
    pub fn tensors(&self) -> Vec<(String, TensorView<'_>)> {
        self.0.tensors()
    }
}
