//! How many sequences a model of the compatibility lane runs at a time, and how long they may be.

/// Slots of a model unless the config says otherwise.
pub const SLOTS: usize = 4;
/// The most slots that the config may ask for.
pub const SLOTS_MOST: usize = 16;

/// What a model's slots are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Plan {
    /// Sequences at a time.
    pub slots: usize,
    /// Longest sequence in tokens, prompt and reply together.
    pub max_len: usize,
    /// Bytes of a slot that is full.
    pub slot_bytes: u64,
}

impl Plan {
    /// Bytes of all slots.
    pub fn bytes(&self) -> u64 {
        self.slots as u64 * self.slot_bytes
    }
}
