//! Why a server ended, and the exit code that says so.

/// Why a server that had begun does not run any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// By a signal.
    Told,
    ByItself,
    /// Nothing that is on the device runs again. The process must end without waiting for what is there.
    DeviceLost,
}

impl Ended {
    /// The exit code that says so; 1 is for what could not begin.
    pub fn code(self) -> u8 {
        match self {
            Ended::Told => 0,
            Ended::ByItself => 70,
            Ended::DeviceLost => 75,
        }
    }
}
