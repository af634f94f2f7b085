//! Opens a GPU by name: `cuda`, `cuda:1`, `emulated`, `pessimistic` (also emulated).

use super::card::{Card, CardError};
use std::sync::Arc;

/// Why there is no such card to be had; each says what would help.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum OpenError {
    /// The name follows none of the known forms; contains the name.
    #[error("there is no device named {0}: the names are cuda, cuda:N, emulated and pessimistic")]
    Unknown(String),
    /// The card's kind was left out of this build.
    #[error("this build has no {feature}: build it with --features {feature}{how}")]
    NotBuilt {
        /// The Cargo feature that is missing: `cuda` or `emulator`.
        feature: &'static str,
        /// Rest of the message: how to set up that build, or empty.
        how: &'static str,
    },
    /// libcuda.so.1 cannot be loaded.
    #[error(
        "no NVIDIA driver: libcuda.so.1 is not found. Install the driver, or, in a container, start it with \
         the GPU passed in (--gpus all)"
    )]
    NoDriver,
    /// The driver refuses a call, or is only a toolkit's stub; contains its error.
    #[error("the NVIDIA driver cannot be initialised ({0}): nvidia-smi may show more")]
    Driver(String),
    /// The driver is older than the CUDA toolkit of this build.
    #[error(
        "the NVIDIA driver supports CUDA {has}, but this build needs {needs} or newer: update the driver{release}"
    )]
    OldDriver {
        /// Newest CUDA version of the driver, as `major.minor`.
        has: String,
        /// Oldest CUDA version that will do, as `major.0`.
        needs: String,
        /// Rest of the message: the driver's release with that version, or empty if unknown.
        release: &'static str,
    },
    /// The driver has no card of this ordinal.
    #[error(
        "there is no CUDA device {asked}: {}. nvidia-smi lists the GPUs, and CUDA_VISIBLE_DEVICES hides some",
        count_in_words(*.count)
    )]
    NoCard {
        /// The ordinal, from 0.
        asked: usize,
        /// Cards that the driver shows.
        count: usize,
    },
    /// The card's compute capability is too low for the kernels.
    #[error(
        "{card} cannot be used: it has compute capability {has}, but {needs} or newer is needed"
    )]
    OldCard {
        /// The card's name, by the driver.
        card: String,
        /// Its compute capability, as `major.minor`.
        has: String,
        /// The lowest that will do, as `major.minor`.
        needs: &'static str,
    },
    /// The card does not support stream-ordered memory pools.
    #[error(
        "{card} cannot be used: it does not support memory pools (it may be a virtual GPU, or its driver is in another mode)"
    )]
    NoPools {
        /// The card's name, by the driver.
        card: String,
    },
    /// cuBLAS cannot be loaded.
    #[error(
        "cuBLAS is not found: libcublas.so.{major} comes with the CUDA toolkit and with the Python package \
         nvidia-cublas. Install one, and name its folder in LD_LIBRARY_PATH"
    )]
    NoCublas {
        /// Major version of the CUDA toolkit of this build; in the library's name.
        major: i32,
    },
    /// The card was found, but setting it up failed.
    #[error(transparent)]
    Card(#[from] CardError),
}

impl OpenError {
    /// Whether this machine has no card, as opposed to one that cannot be used.
    pub fn is_absence(&self) -> bool {
        matches!(self, OpenError::NoDriver | OpenError::NoCard { count: 0, .. })
    }
}

fn count_in_words(count: usize) -> String {
    match count {
        0 => "the driver knows none".into(),
        1 => "the driver knows one, cuda:0".into(),
        count => format!("the driver knows {count}, cuda:0 to cuda:{}", count - 1),
    }
}

/// Opens the card of this name; `cuda` is the first of the driver's. Fails if the name is not known, there is no such
/// device, or it cannot be used.
pub fn open(name: &str) -> Result<Arc<dyn Card>, OpenError> {
    let unknown = || OpenError::Unknown(name.to_owned());
    match name.split_once(':') {
        None if name == "emulated" || name == "pessimistic" => emulated(name),
        None if name == "cuda" => cuda(0),
        Some(("cuda", ordinal)) => cuda(ordinal.parse().map_err(|_| unknown())?),
        _ => Err(unknown()),
    }
}

#[cfg(feature = "cuda")]
fn cuda(ordinal: usize) -> Result<Arc<dyn Card>, OpenError> {
    Ok(super::device::CudaCard::open(ordinal, super::device::Options::default())?)
}

#[cfg(not(feature = "cuda"))]
fn cuda(_ordinal: usize) -> Result<Arc<dyn Card>, OpenError> {
    let how = ", for which eval \"$(scripts/cuda_toolkit)\" sets up the compiler";
    Err(OpenError::NotBuilt { feature: "cuda", how })
}

#[cfg(feature = "emulator")]
const EMULATED_BYTES: u64 = 256 << 20;

#[cfg(feature = "emulator")]
fn emulated(name: &str) -> Result<Arc<dyn Card>, OpenError> {
    use crate::cuda::emulated::{EmulatedCard, Pace};
    Ok(Arc::new(match name {
        "pessimistic" => EmulatedCard::pessimistic(EMULATED_BYTES, Pace::default()),
        _ => EmulatedCard::start(EMULATED_BYTES),
    }))
}

#[cfg(not(feature = "emulator"))]
fn emulated(_name: &str) -> Result<Arc<dyn Card>, OpenError> {
    Err(OpenError::NotBuilt { feature: "emulator", how: "" })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_are_none_are_refused() {
        for name in ["", "gpu", "cuda:", "cuda:x", "cuda:-1", "emulated:0", "cpu"] {
            assert_eq!(open(name).unwrap_err(), OpenError::Unknown(name.into()));
        }
    }

    #[cfg(feature = "emulator")]
    #[test]
    fn emulated_cards_are_had_by_name() {
        for name in ["emulated", "pessimistic"] {
            let card = open(name).unwrap();
            assert!(card.properties().emulated);
            assert_eq!(card.memory().unwrap().total, 256 << 20);
            assert_eq!(card.readings(), None);
        }
    }

    #[cfg(not(feature = "cuda"))]
    #[test]
    fn a_build_without_cuda_says_how_to_get_it() {
        let said = open("cuda:1").unwrap_err().to_string();
        assert!(
            said.contains("--features cuda") && said.contains("scripts/cuda_toolkit"),
            "{said}"
        );
    }

    #[test]
    fn errors_are_one_line_and_say_what_helps() {
        let none = OpenError::NoCard { asked: 2, count: 0 };
        assert!(none.is_absence() && none.to_string().contains("the driver knows none"));
        let few = OpenError::NoCard { asked: 2, count: 2 };
        assert!(!few.is_absence() && few.to_string().contains("cuda:0 to cuda:1"));
        let cublas = OpenError::NoCublas { major: 13 }.to_string();
        assert!(cublas.contains("libcublas.so.13") && cublas.contains("LD_LIBRARY_PATH"));
        for said in [none.to_string(), few.to_string(), cublas, OpenError::NoDriver.to_string()] {
            assert!(!said.contains('\n') && !said.contains("  "), "{said}");
        }
    }
}
