//! The kernels' machine code in this program, and its functions by name.

use super::driver::{Faults, Handle};
use crate::cuda::card::{CardError, DeviceProperties};
use cudarc::driver::{result, sys};
use parking_lot::Mutex;
use std::collections::HashMap;
use std::ffi::CString;

include!(concat!(env!("OUT_DIR"), "/modules.rs"));

/// An image, laid out as the driver likes it.
#[allow(dead_code, reason = "unused where there are no kernels")]
#[repr(C, align(16))]
struct Aligned<const N: usize>([u8; N]);

/// Dynamic shared memory that a function may have without being asked about it.
const SHARED_UNASKED: u32 = 48 << 10;

/// All kernels, on a card.
#[derive(Debug, Default)]
pub(super) struct Kernels {
    modules: Vec<Handle<sys::CUmod_st>>,
    functions: Mutex<HashMap<&'static str, Function>>,
}

#[derive(Debug, Clone, Copy)]
struct Function {
    handle: Handle<sys::CUfunc_st>,
    /// Most dynamic shared memory that it may be launched with.
    shared: u32,
}

impl Kernels {
    /// Loads every image; the card's context is bound. Fails if the driver rejects an image, most often because it is
    /// too old for it.
    pub fn load(
        &mut self,
        faults: &Faults,
        properties: &DeviceProperties,
    ) -> Result<(), CardError> {
        if !has_code_for(ARCHS, properties.capability) {
            tracing::warn!("{}", compiling(properties));
        }
        for (name, image) in IMAGES {
            // SAFETY: a whole fatbin, as nvcc has written it; the driver copies what it needs.
            let module = unsafe { result::module::load_data(image.as_ptr().cast()) };
            let module = match module {
                Err(error) if is_mismatch(error.0) => {
                    return Err(mismatch(name, error.0, properties));
                }
                module => faults.check(module, &format!("loading the kernels of {name}"))?,
            };
            self.modules.push(Handle(module));
        }
        Ok(())
    }

    /// The function of this name, ready for `shared` bytes of dynamic shared memory. Fails if no image has it, or if
    /// the device has less shared memory.
    pub fn function(
        &self,
        name: &'static str,
        shared: u32,
        faults: &Faults,
    ) -> Result<sys::CUfunction, CardError> {
        let mut functions = self.functions.lock();
        let function = match functions.get_mut(name) {
            Some(function) => function,
            None => {
                let handle = self.find(name, faults)?;
                functions.entry(name).or_insert(Function { handle, shared: SHARED_UNASKED })
            }
        };
        if shared > function.shared {
            let which = sys::CUfunction_attribute::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
            // SAFETY: a function of a loaded module.
            let done = unsafe {
                result::function::set_function_attribute(function.handle.0, which, shared as i32)
            };
            faults.check(done, &format!("{name}: {shared} bytes of shared memory"))?;
            function.shared = shared;
        }
        Ok(function.handle.0)
    }

    fn find(&self, name: &str, faults: &Faults) -> Result<Handle<sys::CUfunc_st>, CardError> {
        let text = CString::new(name).map_err(|e| CardError::Other(e.to_string()))?;
        for module in &self.modules {
            // SAFETY: a loaded module.
            let found = unsafe { result::module::get_function(module.0, text.clone()) };
            match found {
                Err(error) if error.0 == sys::CUresult::CUDA_ERROR_NOT_FOUND => {}
                found => return Ok(Handle(faults.check(found, &format!("finding {name}"))?)),
            }
        }
        Err(CardError::Other(format!("there is no kernel {name}")))
    }

    /// Unloads all; the card's context is bound, and nothing runs.
    pub fn close(&mut self) {
        self.functions.get_mut().clear();
        for module in self.modules.drain(..) {
            // SAFETY: loaded by `load`, and gone from the list. What goes wrong now has nobody to tell.
            let _ = unsafe { result::module::unload(module.0) };
        }
    }
}

/// Whether machine code for one of these architectures (`sm_80, sm_90`) runs on a card of this capability as it
/// is: code of the same major number and no later a minor one does. Jetson Orin, 8.7, takes none but its own.
fn has_code_for(archs: &str, (major, minor): (u32, u32)) -> bool {
    let numbers =
        archs.split(", ").filter_map(|arch| arch.strip_prefix("sm_")?.parse::<u32>().ok());
    let orin = (major, minor) == (8, 7);
    numbers.into_iter().any(|arch| {
        arch == 10 * major + minor || (arch / 10 == major && arch % 10 <= minor && !orin)
    })
}

fn compiling(properties: &DeviceProperties) -> String {
    format!(
        "this build has no machine code for {} (compute capability {}.{}; it has {ARCHS}): the driver compiles \
         the kernels for it now. That takes minutes, once: it keeps what it compiled. A build with \
         SERIN_CUDA_ARCHS={}{} starts at once",
        properties.name,
        properties.capability.0,
        properties.capability.1,
        properties.capability.0,
        properties.capability.1
    )
}

fn is_mismatch(code: sys::CUresult) -> bool {
    use sys::CUresult::*;
    matches!(
        code,
        CUDA_ERROR_NO_BINARY_FOR_GPU
            | CUDA_ERROR_INVALID_IMAGE
            | CUDA_ERROR_INVALID_PTX
            | CUDA_ERROR_UNSUPPORTED_PTX_VERSION
            | CUDA_ERROR_JIT_COMPILER_NOT_FOUND
    )
}

fn mismatch(kernels: &str, code: sys::CUresult, properties: &DeviceProperties) -> CardError {
    CardError::Other(format!(
        "this build has no kernels that {} can run ({kernels}: {code:?}): the GPU has compute capability \
         {}.{}, and the build was made with CUDA {}.{} for {ARCHS}",
        properties.name, properties.capability.0, properties.capability.1, TOOLKIT.0, TOOLKIT.1
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn images_are_fatbins_and_lie_as_the_driver_likes() {
        for (name, image) in IMAGES {
            assert_eq!(image.as_ptr() as usize % 16, 0, "{name}");
            assert_eq!(image[..4], 0xba55_ed50u32.to_le_bytes(), "{name}");
        }
    }

    #[test]
    fn every_kernel_file_is_in_the_program() {
        let files = std::fs::read_dir(env!("CARGO_MANIFEST_DIR")).unwrap().flatten();
        let names = files.filter_map(|file| file.file_name().into_string().ok());
        let mut sources: Vec<String> =
            names.filter_map(|name| Some(name.strip_suffix(".cu")?.to_owned())).collect();
        sources.sort_unstable();
        let images: Vec<&str> = IMAGES.iter().map(|(name, _)| *name).collect();
        assert_eq!(images, sources);
    }

    fn some_card(capability: (u32, u32)) -> DeviceProperties {
        DeviceProperties {
            name: "Some Card".into(),
            capability,
            multiprocessors: 1,
            shared_per_block: 0,
            bandwidth: 0,
            clock: 0,
            emulated: false,
        }
    }

    #[test]
    fn code_runs_on_later_cards_of_its_generation() {
        let all = "sm_80, sm_86, sm_89, sm_90, sm_120";
        for card in [(8, 0), (8, 6), (8, 9), (9, 0), (12, 0), (12, 1)] {
            assert!(has_code_for(all, card), "{card:?}");
        }
        for card in [(8, 7), (10, 0), (10, 3), (11, 0), (13, 0)] {
            assert!(!has_code_for(all, card), "{card:?}");
        }
        assert!(!has_code_for("sm_89", (8, 6)) && has_code_for("sm_87", (8, 7)));
    }

    #[test]
    fn a_card_that_code_has_to_be_compiled_for_is_told() {
        let said = compiling(&some_card((10, 3)));
        assert!(said.contains("Some Card") && said.contains("10.3") && said.contains("minutes"));
        assert!(said.contains("SERIN_CUDA_ARCHS=103 ") && !said.contains("  "), "{said}");
    }

    #[test]
    fn a_build_for_other_cards_names_both() {
        let properties = some_card((7, 5));
        let said =
            mismatch("norm", sys::CUresult::CUDA_ERROR_NO_BINARY_FOR_GPU, &properties).to_string();
        assert!(
            said.contains("Some Card") && said.contains("7.5") && said.contains(ARCHS),
            "{said}"
        );
    }
}
