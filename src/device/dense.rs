//! Dense f32 tensors as slices.
//!
//! Weights and products live in candle's tensors, activations in plain vectors; this is the door between.

use candle_core::{Result, Storage, Tensor};

/// Calls `f` with the numbers of a contiguous f32 CPU tensor, without copying them.
pub fn with_f32<T>(tensor: &Tensor, f: impl FnOnce(&[f32]) -> T) -> Result<T> {
    let (storage, layout) = tensor.storage_and_layout();
    let Some((from, to)) = layout.contiguous_offsets() else {
        candle_core::bail!("a contiguous tensor was expected")
    };
    match &*storage {
        Storage::Cpu(cpu) => Ok(f(&cpu.as_slice::<f32>()?[from..to])),
        _ => candle_core::bail!("a CPU tensor was expected"),
    }
}
