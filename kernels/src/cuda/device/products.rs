//! Dense products, by cuBLAS.
//!
//! There is one handle, on the executor's stream, with a workspace in the GPU's scratch pool. So cuBLAS makes no hidden
//! allocations, and products can be captured in a graph. Sums are in f32 throughout. Products of f32 use full f32
//! precision (no TF32), because greedy tokens are compared with those of the CPU.

use super::driver::Handle;
use crate::cuda::card::{CardError, Gemm, ScalarType};
use cudarc::cublas::{result, result::CublasError, sys};
use cudarc::driver::sys::{CUdeviceptr, CUstream};
use std::ffi::c_int;

#[derive(Debug)]
pub(super) struct Products(Handle<sys::cublasContext>);

/// A product in cuBLAS's words, by columns: `c[m][n] = a[k][m]^T * b[k][n]`. A matrix stored by rows is its
/// transpose stored by columns, so a: weights, b: inputs, c: outputs, each as it lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Plan {
    m: c_int,
    n: c_int,
    k: c_int,
    ldc: c_int,
}

impl Products {
    /// Products on this stream, with `bytes` bytes at `workspace` to work in; the context is bound. Fails if cuBLAS
    /// cannot be started.
    pub fn start(
        stream: CUstream,
        workspace: CUdeviceptr,
        bytes: usize,
    ) -> Result<Products, CardError> {
        let handle = result::create_handle().map_err(|e| refused(e, "starting cuBLAS"))?;
        let mut products = Products(Handle(handle));
        let done = products.set_up(stream, workspace, bytes);
        if done.is_err() {
            products.close();
        }
        done.map(|()| products)
    }

    fn set_up(
        &self,
        stream: CUstream,
        workspace: CUdeviceptr,
        bytes: usize,
    ) -> Result<(), CardError> {
        let handle = self.0.0;
        // SAFETY: a fresh handle, and a stream that outlives it. Before the workspace, which it would reset.
        unsafe { result::set_stream(handle, stream.cast()) }
            .map_err(|e| refused(e, "giving cuBLAS its stream"))?;
        // SAFETY: memory of the card's that is nobody else's and outlives the handle.
        unsafe { sys::cublasSetWorkspace_v2(handle, workspace as *mut _, bytes) }
            .result()
            .map_err(|e| refused(e, "giving cuBLAS its workspace"))?;
        let mode = sys::cublasMath_t::CUBLAS_MATH_DISALLOW_REDUCED_PRECISION_REDUCTION;
        // SAFETY: a fresh handle.
        unsafe { sys::cublasSetMathMode(handle, mode) }
            .result()
            .map_err(|e| refused(e, "setting cuBLAS's arithmetic"))
    }

    /// Enqueues a product. Fails if the sizes are too large for cuBLAS or it refuses the product.
    ///
    /// # Safety
    /// The addresses hold what [`Gemm`] says.
    pub unsafe fn enqueue(&self, gemm: &Gemm) -> Result<(), CardError> {
        let Some(Plan { m, n, k, ldc }) = plan(gemm)? else {
            return Ok(());
        };
        let (kind, sums) = match gemm.scalar {
            ScalarType::F32 => (
                sys::cudaDataType::CUDA_R_32F,
                sys::cublasComputeType_t::CUBLAS_COMPUTE_32F_PEDANTIC,
            ),
            ScalarType::F16 => {
                (sys::cudaDataType::CUDA_R_16F, sys::cublasComputeType_t::CUBLAS_COMPUTE_32F)
            }
            ScalarType::BF16 => {
                (sys::cudaDataType::CUDA_R_16BF, sys::cublasComputeType_t::CUBLAS_COMPUTE_32F)
            }
        };
        let (one, zero) = (1.0f32, 0.0f32);
        // SAFETY: the caller answers for the addresses; the two numbers are read before the call returns.
        let done = unsafe {
            result::gemm_ex(
                self.0.0,
                sys::cublasOperation_t::CUBLAS_OP_T,
                sys::cublasOperation_t::CUBLAS_OP_N,
                m,
                n,
                k,
                (&raw const one).cast(),
                gemm.weights as *const _,
                kind,
                k,
                gemm.x as *const _,
                kind,
                k,
                (&raw const zero).cast(),
                gemm.out as *mut _,
                sys::cudaDataType::CUDA_R_32F,
                ldc,
                sums,
                sys::cublasGemmAlgo_t::CUBLAS_GEMM_DEFAULT,
            )
        };
        done.map_err(|e| refused(e, &format!("a product of [{n}][{k}] and [{m}][{k}]")))
    }

    /// Ends cuBLAS; the context is bound, and nothing runs.
    pub fn close(&mut self) {
        // SAFETY: a handle that nobody uses after this. What goes wrong now has nobody to tell.
        let _ = unsafe { result::destroy_handle(self.0.0) };
    }
}

/// The product's numbers; nothing where there is nothing to compute.
fn plan(gemm: &Gemm) -> Result<Option<Plan>, CardError> {
    let Gemm { rows, columns, n, out_stride, .. } = *gemm;
    if n == 0 || rows == 0 {
        return Ok(None);
    }
    let whole = |value: usize| c_int::try_from(value).ok();
    let numbers = (whole(rows), whole(n), whole(columns), whole(out_stride));
    match numbers {
        (Some(m), Some(n), Some(k), Some(ldc)) if k > 0 && ldc >= m => {
            Ok(Some(Plan { m, n, k, ldc }))
        }
        _ => Err(CardError::Shape(format!(
            "there is no product of [{n}][{columns}] and [{rows}][{columns}] in rows of {out_stride}"
        ))),
    }
}

fn refused(error: CublasError, doing: &str) -> CardError {
    match error.0 {
        sys::cublasStatus_t::CUBLAS_STATUS_ALLOC_FAILED => CardError::OutOfMemory { bytes: 0 },
        status => CardError::Other(format!("{doing}: {status:?}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gemm(rows: usize, columns: usize, n: usize, out_stride: usize) -> Gemm {
        Gemm { scalar: ScalarType::F32, rows, columns, n, weights: 0, x: 0, out: 0, out_stride }
    }

    #[test]
    fn a_product_by_rows_is_one_by_columns() {
        let planned = plan(&gemm(5, 7, 3, 6));
        assert_eq!(planned, Ok(Some(Plan { m: 5, n: 3, k: 7, ldc: 6 })));
        assert_eq!(plan(&gemm(0, 7, 3, 6)), Ok(None));
        assert_eq!(plan(&gemm(5, 7, 0, 6)), Ok(None));
    }

    #[test]
    fn products_that_are_none_are_refused() {
        for wrong in [gemm(5, 0, 3, 5), gemm(5, 7, 3, 4), gemm(5, 1 << 31, 3, 5)] {
            assert!(matches!(plan(&wrong), Err(CardError::Shape(_))), "{wrong:?}");
        }
    }
}
