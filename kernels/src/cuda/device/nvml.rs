//! The state of a GPU, as reported by NVIDIA's management library (NVML).
//!
//! The library comes with the driver and is found at run time. Readings are absent without it, or if the GPU does not
//! report them (many GPUs report only some). It needs no CUDA context, so it can be read from any thread, while the GPU
//! is busy, and after the GPU has failed.

use crate::cuda::readings::{MemoryReading, Readings};
use nvml_wrapper::Nvml;
use nvml_wrapper::bitmasks::device::ThrottleReasons;
use nvml_wrapper::enum_wrappers::device::{Clock, TemperatureSensor};

/// Reasons that slow a card down under load, in words. Idling, a clock that somebody asked for, and the
/// display's are not among them.
const REASONS: [(ThrottleReasons, &str); 6] = [
    (ThrottleReasons::SW_POWER_CAP, "power limit"),
    (ThrottleReasons::HW_SLOWDOWN, "hardware slowdown"),
    (ThrottleReasons::SW_THERMAL_SLOWDOWN, "temperature (driver)"),
    (ThrottleReasons::HW_THERMAL_SLOWDOWN, "temperature (hardware)"),
    (ThrottleReasons::HW_POWER_BRAKE_SLOWDOWN, "power brake"),
    (ThrottleReasons::SYNC_BOOST, "another GPU's clock"),
];

/// Watches one card.
#[derive(Debug)]
pub struct Watch {
    nvml: Nvml,
    bus: String,
}

impl Watch {
    /// The card at this place of the PCI bus, as `0000:3b:00.0`. Fails, and says why, if NVML is not there or does not
    /// know the card.
    pub fn open(bus: &str) -> Result<Watch, String> {
        let nvml = Nvml::init().map_err(|e| e.to_string())?;
        nvml.device_by_pci_bus_id(bus).map_err(|e| format!("GPU {bus}: {e}"))?;
        Ok(Watch { nvml, bus: bus.to_owned() })
    }

    /// What the card's sensors show now; a value that cannot be read is `None`.
    pub fn read(&self) -> Readings {
        let Ok(card) = self.nvml.device_by_pci_bus_id(self.bus.as_str()) else {
            return Readings::default();
        };
        let memory = card.memory_info().ok();
        let memory = memory.map(|m| MemoryReading { used: m.used, free: m.free, total: m.total });
        Readings {
            memory,
            utilisation: card.utilization_rates().ok().map(|rates| rates.gpu),
            power_watts: card.power_usage().ok().map(|milliwatts| f64::from(milliwatts) / 1e3),
            temperature_celsius: card.temperature(TemperatureSensor::Gpu).ok(),
            sm_clock_mhz: card.clock_info(Clock::SM).ok(),
            memory_clock_mhz: card.clock_info(Clock::Memory).ok(),
            throttled: card.current_throttle_reasons().ok().and_then(in_words),
        }
    }
}

fn in_words(reasons: ThrottleReasons) -> Option<String> {
    let known = REASONS.iter().filter(|(reason, _)| reasons.contains(*reason));
    let words: Vec<&str> = known.map(|(_, words)| *words).collect();
    (!words.is_empty()).then(|| words.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_card_that_idles_is_not_throttled() {
        assert_eq!(in_words(ThrottleReasons::NONE), None);
        assert_eq!(
            in_words(ThrottleReasons::GPU_IDLE | ThrottleReasons::DISPLAY_CLOCK_SETTING),
            None
        );
    }

    #[test]
    fn every_reason_is_named() {
        let reasons = ThrottleReasons::SW_POWER_CAP | ThrottleReasons::GPU_IDLE;
        assert_eq!(in_words(reasons).as_deref(), Some("power limit"));
        let reasons = reasons | ThrottleReasons::HW_THERMAL_SLOWDOWN;
        assert_eq!(in_words(reasons).as_deref(), Some("power limit, temperature (hardware)"));
    }

    #[test]
    fn a_card_that_is_not_there_is_an_error() {
        assert!(Watch::open("ffff:ff:1f.7").is_err());
    }
}
