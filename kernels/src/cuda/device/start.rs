//! Finds a GPU and its properties, or returns a one-line error that says why it cannot be used.

use super::driver::has_driver;
use super::images;
use crate::cuda::card::DeviceProperties;
use crate::cuda::open::OpenError;
use cudarc::driver::{result, result::DriverError, sys};
use std::ffi::{CStr, c_char, c_int};

/// The kernels copy asynchronously and multiply bf16, which cards before this do not.
const OLDEST_CARD: (u32, u32) = (8, 0);

pub(super) struct Found {
    pub device: sys::CUdevice,
    pub properties: DeviceProperties,
    /// As `0000:3b:00.0`.
    pub bus: Option<String>,
}

pub(super) fn find(ordinal: usize) -> Result<Found, OpenError> {
    if !has_driver() {
        return Err(OpenError::NoDriver);
    }
    let count = count_cards()?;
    check_driver(driver_version()?, images::TOOLKIT)?;
    if ordinal >= count {
        return Err(OpenError::NoCard { asked: ordinal, count });
    }
    let device = result::device::get(ordinal as c_int).map_err(refused)?;
    let properties = properties_of(device)?;
    if properties.capability < OLDEST_CARD {
        let has = format!("{}.{}", properties.capability.0, properties.capability.1);
        return Err(OpenError::OldCard { card: properties.name, has, needs: "8.0" });
    }
    if attribute(device, sys::CUdevice_attribute::CU_DEVICE_ATTRIBUTE_MEMORY_POOLS_SUPPORTED)? == 0
    {
        return Err(OpenError::NoPools { card: properties.name });
    }
    Ok(Found { device, properties, bus: bus(device) })
}

/// Starts the driver. A machine without a card is no error here.
fn count_cards() -> Result<usize, OpenError> {
    let count = result::init().and_then(|()| result::device::get_count());
    match count {
        Ok(count) => Ok(usize::try_from(count).unwrap_or(0)),
        Err(DriverError(sys::CUresult::CUDA_ERROR_NO_DEVICE)) => Ok(0),
        Err(DriverError(sys::CUresult::CUDA_ERROR_STUB_LIBRARY)) => {
            let what = "the libcuda that was found is a toolkit's stub: take its folder out of LD_LIBRARY_PATH";
            Err(OpenError::Driver(what.into()))
        }
        Err(error) => Err(refused(error)),
    }
}

/// As 1000 * major + 10 * minor.
fn driver_version() -> Result<c_int, OpenError> {
    let mut version = 0;
    // SAFETY: the place is good for one number.
    unsafe { sys::cuDriverGetVersion(&raw mut version) }.result().map_err(refused)?;
    Ok(version)
}

/// A driver runs what toolkits up to its own major release have made.
fn check_driver(version: c_int, toolkit: (i32, i32)) -> Result<(), OpenError> {
    let (major, minor) = (version / 1000, version % 1000 / 10);
    if major >= toolkit.0 {
        return Ok(());
    }
    let release = match toolkit.0 {
        12 => " (release 525 or newer)",
        13 => " (release 580 or newer)",
        _ => "",
    };
    let (has, needs) = (format!("{major}.{minor}"), format!("{}.0", toolkit.0));
    Err(OpenError::OldDriver { has, needs, release })
}

fn properties_of(device: sys::CUdevice) -> Result<DeviceProperties, OpenError> {
    use sys::CUdevice_attribute::*;
    let number = |which| attribute(device, which);
    // In kHz and bits. Plans do without where the driver does not say. A bus transfers twice a cycle.
    let rate = |which| number(which).map_or(0, u64::from);
    let bus = rate(CU_DEVICE_ATTRIBUTE_GLOBAL_MEMORY_BUS_WIDTH) / 8 * 2;
    let capability = (
        number(CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR)?,
        number(CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR)?,
    );
    Ok(DeviceProperties {
        name: result::device::get_name(device).map_err(refused)?,
        capability,
        multiprocessors: number(CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT)?,
        shared_per_block: number(CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN)?,
        bandwidth: bus * rate(CU_DEVICE_ATTRIBUTE_MEMORY_CLOCK_RATE) * 1000,
        clock: rate(CU_DEVICE_ATTRIBUTE_CLOCK_RATE) * 1000,
        emulated: false,
    })
}

fn attribute(device: sys::CUdevice, which: sys::CUdevice_attribute) -> Result<u32, OpenError> {
    // SAFETY: the device is one that the driver has given.
    let value = unsafe { result::device::get_attribute(device, which) }.map_err(refused)?;
    Ok(u32::try_from(value).unwrap_or(0))
}

fn bus(device: sys::CUdevice) -> Option<String> {
    let mut text: [c_char; 32] = [0; 32];
    // SAFETY: the place is good for so many characters, the last of which stays 0.
    let code =
        unsafe { sys::cuDeviceGetPCIBusId(text.as_mut_ptr(), text.len() as c_int - 1, device) };
    code.result().ok()?;
    // SAFETY: ends in 0, as above.
    let text = unsafe { CStr::from_ptr(text.as_ptr()) };
    Some(text.to_str().ok()?.to_owned())
}

fn refused(error: DriverError) -> OpenError {
    OpenError::Driver(format!("{:?}", error.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_driver_runs_what_its_own_release_or_an_older_made() {
        assert_eq!(check_driver(13000, (13, 0)), Ok(()));
        assert_eq!(check_driver(13010, (12, 8)), Ok(()));
        assert_eq!(check_driver(13000, (13, 1)), Ok(()));
        let said = check_driver(12040, (13, 0)).unwrap_err().to_string();
        assert!(
            said.contains("CUDA 12.4") && said.contains("13.0 or newer") && said.contains("580"),
            "{said}"
        );
    }
}
