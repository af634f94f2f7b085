//! Aborts a token search that takes too long, because it delays a step of the engine and thus all replies.
//!
//! One thread periodically checks the running searches. It ends when it is no longer used.

use llguidance::CancellationHandle;
use parking_lot::Mutex;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

/// How often the searches under way are looked at.
const EVERY: Duration = Duration::from_millis(25);
/// Work that a reply may always use, and more for each of its tokens.
const BUDGET: Duration = Duration::from_millis(1500);
const BUDGET_PER_TOKEN: Duration = Duration::from_millis(5);

/// The searches under way: their numbers, until when each may last, and how to end it.
type Searches = Mutex<Vec<(u64, Instant, CancellationHandle)>>;

#[derive(Debug, Default)]
pub(super) struct Watchdog {
    searches: Arc<Searches>,
    next: Mutex<u64>,
}

impl Watchdog {
    /// Begins to watch. Without a thread, searches are only bounded by their own limits.
    pub(super) fn start() -> Watchdog {
        let watchdog = Watchdog::default();
        let searches = Arc::downgrade(&watchdog.searches);
        let thread = std::thread::Builder::new().name("grammar-watchdog".to_owned());
        if let Err(error) = thread.spawn(move || watch(&searches)) {
            tracing::warn!(%error, "nothing watches how long constrained replies take");
        }
        watchdog
    }

    /// Runs a search that `handle` can end, and ends it if it lasts longer than `most`; returns how long it took.
    pub(super) fn run<T>(
        &self,
        most: Duration,
        handle: Option<CancellationHandle>,
        search: impl FnOnce() -> T,
    ) -> (T, Duration) {
        let (begun, id) = (Instant::now(), self.id());
        if let Some(handle) = handle {
            self.searches.lock().push((id, begun + most, handle));
        }
        let found = search();
        self.searches.lock().retain(|(other, _, _)| *other != id);
        (found, begun.elapsed())
    }

    fn id(&self) -> u64 {
        let mut next = self.next.lock();
        *next += 1;
        *next
    }
}

fn watch(searches: &Weak<Searches>) {
    while let Some(searches) = searches.upgrade() {
        let now = Instant::now();
        searches.lock().iter().filter(|(_, until, _)| *until < now).for_each(|(_, _, handle)| {
            handle.cancel();
        });
        drop(searches);
        std::thread::sleep(EVERY);
    }
}

/// Whether a reply of so many tokens may have taken so much work.
pub(super) fn within_budget(spent: Duration, tokens: u32) -> bool {
    spent <= BUDGET + BUDGET_PER_TOKEN * tokens
}
