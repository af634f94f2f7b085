//! A GPU timer that frees itself when dropped.

use super::card::{self, Card, CardError};
use std::sync::Arc;
use std::time::Duration;

/// Takes the card's own time of what was enqueued on [`card::Stream::Compute`] between two points.
#[derive(Debug)]
pub struct Timer {
    card: Arc<dyn Card>,
    timer: card::Timer,
}

impl Timer {
    /// A timer that has not been started. Fails if the card has failed or cannot create one.
    pub fn new(card: &Arc<dyn Card>) -> Result<Timer, CardError> {
        Ok(Timer { card: card.clone(), timer: card.create_timer()? })
    }

    /// Marks the beginning, behind everything that was enqueued before. Fails if the card has failed.
    pub fn start(&mut self) -> Result<(), CardError> {
        self.card.start_timer(self.timer)
    }

    /// Marks the end, behind everything that was enqueued before. Does not wait for it. Fails if the card has failed.
    pub fn stop(&mut self) -> Result<(), CardError> {
        self.card.stop_timer(self.timer)
    }

    /// Waits for the end, and returns the time since the beginning. Fails if it was not started and stopped, or if the
    /// card has failed.
    pub fn read(&self) -> Result<Duration, CardError> {
        self.card.read_timer(self.timer)
    }
}

impl Drop for Timer {
    fn drop(&mut self) {
        // A card that is dead has nothing to destroy.
        let _ = self.card.destroy_timer(self.timer);
    }
}
