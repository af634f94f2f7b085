//! The layer between the driver and the GPU object: the driver's handles, libraries and errors.

use crate::cuda::card::CardError;
use cudarc::driver::{result::DriverError, sys};
use std::sync::OnceLock;

/// A handle of the driver's.
#[derive(Debug)]
pub(super) struct Handle<T>(pub *mut T);

impl<T> Clone for Handle<T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> Copy for Handle<T> {}

// SAFETY: the driver's handles are good in every thread of the process, and its calls may be made from several
// at a time. Those handles whose use has an order (cuBLAS's, a pinned buffer's) lie behind a mutex.
unsafe impl<T> Send for Handle<T> {}
// SAFETY: as above.
unsafe impl<T> Sync for Handle<T> {}

/// Whether libcuda is there. A call into it without asking first would panic.
pub(super) fn has_driver() -> bool {
    static PRESENT: OnceLock<bool> = OnceLock::new();
    // SAFETY: opens NVIDIA's library as any program does that uses it.
    *PRESENT.get_or_init(|| unsafe { sys::is_culib_present() })
}

/// Whether cuBLAS is there. As [`has_driver`].
pub(super) fn has_cublas() -> bool {
    static PRESENT: OnceLock<bool> = OnceLock::new();
    // SAFETY: as above.
    *PRESENT.get_or_init(|| unsafe { cudarc::cublas::sys::is_culib_present() })
}

/// Translates the driver's errors, and remembers one that no later call survives: from then on every question
/// is answered with it.
#[derive(Debug, Default)]
pub(super) struct Faults(OnceLock<String>);

impl Faults {
    /// Fails with [`CardError::Dead`] once a call has returned an error that the context does not survive.
    pub fn alive(&self) -> Result<(), CardError> {
        match self.0.get() {
            Some(why) => Err(CardError::Dead(why.clone())),
            None => Ok(()),
        }
    }

    /// Translates a call's result. `doing` says in words what the call was for. Fails if the call has failed.
    pub fn check<T>(&self, result: Result<T, DriverError>, doing: &str) -> Result<T, CardError> {
        result.map_err(|error| self.translate(error, 0, doing))
    }

    /// As [`Faults::check`], for a call that asks for `bytes` bytes of memory. Fails if the call has failed.
    pub fn check_bytes<T>(
        &self,
        result: Result<T, DriverError>,
        bytes: usize,
        doing: &str,
    ) -> Result<T, CardError> {
        result.map_err(|error| self.translate(error, bytes, doing))
    }

    fn translate(&self, error: DriverError, bytes: usize, doing: &str) -> CardError {
        let code = error.0;
        if code == sys::CUresult::CUDA_ERROR_OUT_OF_MEMORY {
            return CardError::OutOfMemory { bytes };
        }
        if !is_final(code) {
            return CardError::Other(format!("{doing}: {code:?}"));
        }
        // The first one stays: those after it are its echoes.
        CardError::Dead(self.0.get_or_init(|| format!("{code:?}, noticed at: {doing}")).clone())
    }
}

/// Whether the context cannot be used any more after such an error.
fn is_final(code: sys::CUresult) -> bool {
    use sys::CUresult::*;
    matches!(
        code,
        CUDA_ERROR_ILLEGAL_ADDRESS
            | CUDA_ERROR_LAUNCH_TIMEOUT
            | CUDA_ERROR_ASSERT
            | CUDA_ERROR_HARDWARE_STACK_ERROR
            | CUDA_ERROR_ILLEGAL_INSTRUCTION
            | CUDA_ERROR_MISALIGNED_ADDRESS
            | CUDA_ERROR_INVALID_ADDRESS_SPACE
            | CUDA_ERROR_INVALID_PC
            | CUDA_ERROR_LAUNCH_FAILED
            | CUDA_ERROR_ECC_UNCORRECTABLE
            | CUDA_ERROR_NVLINK_UNCORRECTABLE
            | CUDA_ERROR_CONTAINED
            | CUDA_ERROR_TENSOR_MEMORY_LEAK
            | CUDA_ERROR_CONTEXT_IS_DESTROYED
            | CUDA_ERROR_MPS_CLIENT_TERMINATED
            | CUDA_ERROR_DEINITIALIZED
            | CUDA_ERROR_EXTERNAL_DEVICE
            | CUDA_ERROR_UNKNOWN
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(faults: &Faults, code: sys::CUresult) -> CardError {
        faults.check_bytes::<()>(Err(DriverError(code)), 7, "a copy").unwrap_err()
    }

    #[test]
    fn memory_that_is_not_there_and_wrong_calls_are_survived() {
        let faults = Faults::default();
        let memory = answer(&faults, sys::CUresult::CUDA_ERROR_OUT_OF_MEMORY);
        assert_eq!(memory, CardError::OutOfMemory { bytes: 7 });
        let value = answer(&faults, sys::CUresult::CUDA_ERROR_INVALID_VALUE);
        assert_eq!(value, CardError::Other("a copy: CUDA_ERROR_INVALID_VALUE".into()));
        assert_eq!(faults.alive(), Ok(()));
    }

    #[test]
    fn the_first_fault_that_nothing_survives_is_the_answer_from_then_on() {
        let faults = Faults::default();
        let first = answer(&faults, sys::CUresult::CUDA_ERROR_ILLEGAL_ADDRESS);
        let text = "CUDA_ERROR_ILLEGAL_ADDRESS, noticed at: a copy";
        assert_eq!(first, CardError::Dead(text.into()));
        assert_eq!(answer(&faults, sys::CUresult::CUDA_ERROR_LAUNCH_FAILED), first);
        assert_eq!(faults.alive(), Err(first));
    }
}
