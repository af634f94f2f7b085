//! Why a server ended, and the exit code that says so.

/// Why a server that had started no longer runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// By a signal.
    BySignal,
    /// The HTTP server stopped without a signal.
    ByItself,
    /// Nothing on the device can run again. The process must exit without waiting for the device.
    DeviceLost,
}

impl Ended {
    /// The exit code; 1 is for a server that could not start.
    pub fn code(self) -> u8 {
        match self {
            Ended::BySignal => 0,
            Ended::ByItself => 70,
            Ended::DeviceLost => 75,
        }
    }
}
