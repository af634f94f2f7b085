//! Dense products on the emulated GPU: plain loops.

use super::super::card::{Gemm, ScalarType};
use super::EmulationMode;

/// # Safety
/// The addresses hold what [`Gemm`] says.
pub(super) unsafe fn multiply(gemm: &Gemm, temper: EmulationMode) {
    let Gemm { scalar, rows, columns, n, weights, x, out, out_stride } = *gemm;
    let at = |address: u64, index: usize| -> f32 {
        // SAFETY: as the caller has promised.
        unsafe {
            match scalar {
                ScalarType::F32 => *(address as *const f32).add(index),
                ScalarType::F16 => (*(address as *const half::f16).add(index)).to_f32(),
                ScalarType::BF16 => (*(address as *const half::bf16).add(index)).to_f32(),
            }
        }
    };
    for i in 0..n {
        let input: Vec<f32> = (0..columns).map(|c| at(x, i * columns + c)).collect();
        for row in 0..rows {
            let products =
                input.iter().enumerate().map(|(c, x)| at(weights, row * columns + c) * x);
            let sum = match temper {
                EmulationMode::Prompt => products.sum(),
                EmulationMode::Pessimistic => in_parts(products.collect(), n),
            };
            // SAFETY: as above.
            unsafe { *(out as *mut f32).add(i * out_stride + row) = sum };
        }
    }
}

/// A sum in an order that depends on the number of inputs, as a library's does that picks another algorithm for
/// another shape: interleaved parts, the last one first.
fn in_parts(products: Vec<f32>, n: usize) -> f32 {
    let parts = 1 + n % 5;
    let part = |p: usize| products.iter().skip(p).step_by(parts).sum::<f32>();
    (0..parts).rev().map(part).sum()
}
