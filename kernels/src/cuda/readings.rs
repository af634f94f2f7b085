//! What a card says of its own state: memory, load, power, heat, clocks. Plain data; whatever a card or its
//! driver does not tell is absent.

/// A card's state at one moment.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Readings {
    pub memory: Option<MemoryReading>,
    /// Share of the last moments in which a kernel ran, in percent.
    pub utilisation: Option<u32>,
    pub power_watts: Option<f64>,
    pub temperature_celsius: Option<u32>,
    pub sm_clock_mhz: Option<u32>,
    pub memory_clock_mhz: Option<u32>,
    /// Why the card runs slower than it could, if it does: what is measured meanwhile is not comparable.
    pub throttled: Option<String>,
}

/// In bytes, all programs counted. What the driver keeps for itself is in neither figure.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct MemoryReading {
    pub used: u64,
    pub free: u64,
    pub total: u64,
}
