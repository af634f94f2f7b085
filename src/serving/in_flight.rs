//! The requests that are being answered at the moment, for the status and the page.
//!
//! An entry exists from the submission of an attempt to its end, however it ends. It contains no text.

use crate::control::InFlightStatus;
use crate::rollout::Arm;
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

/// All of them, in the order of their beginnings. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub(super) struct InFlight {
    all: Arc<Mutex<Entries>>,
}

#[derive(Debug, Default)]
struct Entries {
    next: u64,
    by_number: BTreeMap<u64, Entry>,
}

#[derive(Debug)]
struct Entry {
    id: String,
    arm: Arm,
    arrived: Instant,
    prompt_tokens: usize,
    output_tokens: Arc<AtomicU64>,
}

/// One entry; it goes when this is dropped.
#[derive(Debug)]
pub(super) struct Seat {
    number: u64,
    output_tokens: Arc<AtomicU64>,
    of: InFlight,
}

impl InFlight {
    /// A request begins on an arm, with a prompt of `prompt_tokens` tokens.
    pub fn enter(&self, id: &str, arm: Arm, arrived: Instant, prompt_tokens: usize) -> Seat {
        let output_tokens = Arc::<AtomicU64>::default();
        let counted = output_tokens.clone();
        let entry = Entry { id: id.to_owned(), arm, arrived, prompt_tokens, output_tokens };
        let mut all = self.all.lock();
        let number = all.next;
        all.next += 1;
        all.by_number.insert(number, entry);
        Seat { number, output_tokens: counted, of: self.clone() }
    }

    /// The `most` oldest requests.
    pub fn status(&self, now: Instant, most: usize) -> Vec<InFlightStatus> {
        let all = self.all.lock();
        let status = |entry: &Entry| InFlightStatus {
            id: entry.id.clone(),
            arm: entry.arm.as_str().to_owned(),
            seconds: now.saturating_duration_since(entry.arrived).as_secs_f64(),
            prompt_tokens: entry.prompt_tokens as u64,
            output_tokens: entry.output_tokens.load(Ordering::Relaxed),
        };
        all.by_number.values().take(most).map(status).collect()
    }
}

impl Seat {
    /// A token was generated.
    pub fn token(&self) {
        self.output_tokens.fetch_add(1, Ordering::Relaxed);
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.of.all.lock().by_number.remove(&self.number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn a_request_is_there_until_its_seat_is_dropped() {
        let (all, now) = (InFlight::default(), Instant::now());
        let first = all.enter("a", Arm::Stable, now, 12);
        let second = all.enter("b", Arm::Canary, now, 3);
        (0..5).for_each(|_| second.token());
        let status = all.status(now + Duration::from_secs(2), 8);
        let shown: Vec<_> = status.iter().map(|one| (&*one.id, &*one.arm)).collect();
        assert_eq!(shown, [("a", "stable"), ("b", "canary")]);
        assert_eq!((status[1].prompt_tokens, status[1].output_tokens), (3, 5));
        assert_eq!(status[0].seconds, 2.0);
        assert_eq!(all.status(now, 1).len(), 1, "the oldest");
        drop(first);
        assert_eq!(all.status(now, 8).len(), 1);
        drop(second);
        assert!(all.status(now, 8).is_empty());
    }
}
