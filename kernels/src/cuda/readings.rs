//! The state that a GPU reports: memory, utilisation, power, temperature, clocks. Plain data; what a GPU or its driver
//! does not report is absent.

/// A card's state at one moment.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Readings {
    /// The card's memory; `None` if the driver does not tell.
    pub memory: Option<MemoryReading>,
    /// Share of the last moments in which a kernel ran, in percent.
    pub utilisation: Option<u32>,
    /// Power draw in watts; `None` if the driver does not tell.
    pub power_watts: Option<f64>,
    /// Temperature of the GPU in degrees Celsius; `None` if the driver does not tell.
    pub temperature_celsius: Option<u32>,
    /// Current clock of the multiprocessors in MHz; `None` if the driver does not tell.
    pub sm_clock_mhz: Option<u32>,
    /// Current clock of the memory in MHz; `None` if the driver does not tell.
    pub memory_clock_mhz: Option<u32>,
    /// Why the card runs slower than it could, if it does: what is measured meanwhile is not comparable.
    pub throttled: Option<String>,
}

/// In bytes, all programs counted. What the driver keeps for itself is in neither figure.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct MemoryReading {
    /// Allocated, by whichever program.
    pub used: u64,
    /// Not allocated.
    pub free: u64,
    /// All of the card's memory, including what the driver keeps.
    pub total: u64,
}
