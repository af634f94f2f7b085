//! The alerts that one webhook still has to receive, and which of them comes next.
//!
//! Pure: times are `Duration`s since an origin of the caller's choice. Each alert has its own due time, so a
//! retry does not block the next alert. It is not a channel, because a full channel can refuse the newest item or
//! block, but cannot drop the oldest, and because a channel cannot hold items that are due later.

use super::Alert;
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

#[derive(Debug, Clone)]
pub(super) struct Item {
    pub(super) alert: Arc<Alert>,
    /// Number of alerts like it that were suppressed before.
    pub(super) repeats: u64,
    pub(super) tries: u32,
    /// Not to be tried before this time.
    pub(super) due: Duration,
}

#[derive(Debug)]
pub(super) enum Next {
    /// Send this one; it is no longer in the queue.
    Try(Item),
    /// Nothing is due before this time.
    Wait(Duration),
    Empty,
}

/// Waiting alerts, oldest first, at most `capacity` plus the one that is being sent.
#[derive(Debug)]
pub(super) struct Queue {
    capacity: usize,
    items: VecDeque<Item>,
    /// Nothing is sent before this time: the receiver asked for quiet.
    quiet_until: Duration,
}

impl Queue {
    /// An empty queue for `capacity` alerts, at least one.
    pub(super) fn new(capacity: usize) -> Queue {
        Queue { capacity: capacity.max(1), items: VecDeque::new(), quiet_until: Duration::ZERO }
    }

    /// Adds a new alert. When full, the oldest alert that was never tried is removed and returned; if all
    /// were tried, the one with the most attempts is.
    pub(super) fn push(&mut self, item: Item) -> Option<Item> {
        let full = self.items.len() >= self.capacity;
        let dropped = if full { self.items.remove(self.expendable()) } else { None };
        self.items.push_back(item);
        dropped
    }

    fn expendable(&self) -> usize {
        let untried = self.items.iter().position(|item| item.tries == 0);
        let tired = || {
            let by_tries = |(at, item): &(usize, &Item)| (item.tries, usize::MAX - at);
            self.items.iter().enumerate().max_by_key(by_tries).map_or(0, |(at, _)| at)
        };
        untried.unwrap_or_else(tired)
    }

    /// Puts back an alert whose attempt failed. It keeps its place, whatever has been added since.
    pub(super) fn put_back(&mut self, item: Item) {
        self.items.push_back(item);
    }

    /// Sends nothing before `until`.
    pub(super) fn quiet(&mut self, until: Duration) {
        self.quiet_until = self.quiet_until.max(until);
    }

    /// Makes all alerts due at once: there will be no later attempt.
    pub(super) fn hurry(&mut self) {
        self.quiet_until = Duration::ZERO;
        self.items.iter_mut().for_each(|item| item.due = Duration::ZERO);
    }

    /// Empties the queue and returns how many alerts were in it.
    pub(super) fn clear(&mut self) -> usize {
        let count = self.items.len();
        self.items.clear();
        count
    }

    /// The alert that has been due longest, or the time to wait until.
    pub(super) fn next(&mut self, now: Duration) -> Next {
        let first = self.items.iter().enumerate().min_by_key(|(_, item)| item.due);
        let Some((at, due)) = first.map(|(at, item)| (at, item.due)) else { return Next::Empty };
        let due = due.max(self.quiet_until);
        if due > now {
            return Next::Wait(due);
        }
        self.items.remove(at).map_or(Next::Empty, Next::Try)
    }
}

#[cfg(test)]
mod tests {
    use super::super::Kind;
    use super::super::testing::alert;
    use super::*;

    fn secs(n: u64) -> Duration {
        Duration::from_secs(n)
    }

    fn item(stage: u64, tries: u32, due: u64) -> Item {
        let alert = Arc::new(Alert { stage, ..alert(Kind::Fault) });
        Item { alert, repeats: 0, tries, due: secs(due) }
    }

    fn stages(queue: &Queue) -> Vec<u64> {
        queue.items.iter().map(|item| item.alert.stage).collect()
    }

    #[test]
    fn when_full_the_oldest_untried_makes_room() {
        let mut queue = Queue::new(3);
        queue.put_back(item(1, 2, 0));
        assert!(queue.push(item(2, 0, 0)).is_none());
        assert!(queue.push(item(3, 0, 0)).is_none());
        assert_eq!(queue.push(item(4, 0, 0)).unwrap().alert.stage, 2);
        assert_eq!(stages(&queue), [1, 3, 4]);
    }

    #[test]
    fn when_all_were_tried_the_one_that_failed_most_makes_room() {
        let mut queue = Queue::new(3);
        for (stage, tries) in [(1, 1), (2, 4), (3, 4)] {
            queue.put_back(item(stage, tries, 0));
        }
        assert_eq!(queue.push(item(4, 0, 0)).unwrap().alert.stage, 2);
        assert_eq!(stages(&queue), [1, 3, 4]);
    }

    #[test]
    fn a_retry_does_not_stand_in_the_way() {
        let mut queue = Queue::new(8);
        queue.put_back(item(1, 1, 60));
        queue.push(item(2, 0, 5));
        let Next::Try(first) = queue.next(secs(5)) else { panic!("one is due") };
        assert_eq!(first.alert.stage, 2);
        assert!(matches!(queue.next(secs(5)), Next::Wait(t) if t == secs(60)));
        assert!(matches!(queue.next(secs(60)), Next::Try(item) if item.alert.stage == 1));
        assert!(matches!(queue.next(secs(60)), Next::Empty));
    }

    #[test]
    fn equal_dues_keep_the_order_of_arrival() {
        let mut queue = Queue::new(8);
        for stage in 1..=3 {
            queue.push(item(stage, 0, 7));
        }
        for stage in 1..=3 {
            assert!(matches!(queue.next(secs(7)), Next::Try(item) if item.alert.stage == stage));
        }
    }

    #[test]
    fn quiet_holds_all_of_it_and_hurry_ends_it() {
        let mut queue = Queue::new(8);
        queue.push(item(1, 0, 5));
        queue.quiet(secs(90));
        queue.quiet(secs(30));
        assert!(matches!(queue.next(secs(6)), Next::Wait(t) if t == secs(90)));
        queue.put_back(item(2, 3, 600));
        queue.hurry();
        assert!(matches!(queue.next(secs(6)), Next::Try(item) if item.alert.stage == 1));
        assert!(matches!(queue.next(secs(6)), Next::Try(item) if item.alert.stage == 2));
    }
}
