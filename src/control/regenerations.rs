//! Which arm answered which conversation, to notice when a reply is regenerated.
//!
//! A client that regenerates a reply sends the same conversation again, which counts against the earlier reply. Clients
//! need no changes for this. Bounded: the oldest conversation is forgotten first. Time is an argument. Conversations
//! are known only by a hash.

use super::feedback::Author;
use std::collections::{HashMap, VecDeque};
use std::time::Duration;

/// Conversations remembered.
const KEPT: usize = 20_000;

#[derive(Debug, Clone, Copy)]
struct Answer {
    author: Author,
    at: Duration,
}

#[derive(Debug, Default)]
pub(super) struct Retries {
    answers: HashMap<u64, Answer>,
    order: VecDeque<(u64, Duration)>,
}

impl Retries {
    /// A conversation (its hash) got an answer, at `now` since the start.
    pub fn answered(&mut self, conversation: u64, author: Author, now: Duration) {
        self.answers.insert(conversation, Answer { author, at: now });
        self.order.push_back((conversation, now));
        while self.order.len() > KEPT
            && let Some((oldest, at)) = self.order.pop_front()
        {
            // A later answer to the same conversation has its own place in the order.
            if self.answers.get(&oldest).is_some_and(|answer| answer.at == at) {
                self.answers.remove(&oldest);
            }
        }
    }

    /// A conversation is asked: who answered it within `window`, if anybody did. Each answer is charged
    /// once.
    pub fn regenerated(
        &mut self,
        conversation: u64,
        window: Duration,
        now: Duration,
    ) -> Option<Author> {
        let answer = self.answers.remove(&conversation)?;
        (now.saturating_sub(answer.at) <= window).then_some(answer.author)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rollout::{Arm, Origin};

    const ORIGIN: Origin = Origin { party: None, cluster: None, routed: None };
    const CANARY: Author = Author { arm: Arm::Canary, stage: 3, judged: true, origin: ORIGIN };
    const STABLE: Author = Author { arm: Arm::Stable, ..CANARY };
    const WINDOW: Duration = Duration::from_secs(60);

    fn at(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn a_regenerated_conversation_is_charged_once_to_who_answered_last() {
        let mut retries = Retries::default();
        assert_eq!(retries.regenerated(7, WINDOW, at(0)), None);
        retries.answered(7, STABLE, at(1));
        retries.answered(7, CANARY, at(2));
        assert_eq!(retries.regenerated(8, WINDOW, at(3)), None);
        assert_eq!(retries.regenerated(7, WINDOW, at(3)), Some(CANARY));
        assert_eq!(retries.regenerated(7, WINDOW, at(4)), None);
    }

    #[test]
    fn long_after_it_is_a_new_question() {
        let mut retries = Retries::default();
        retries.answered(7, CANARY, at(0));
        assert_eq!(retries.regenerated(7, WINDOW, at(61)), None);
    }

    #[test]
    fn the_oldest_are_forgotten_and_memory_stays_bounded() {
        let mut retries = Retries::default();
        for n in 0..KEPT as u64 + 10 {
            retries.answered(n, CANARY, at(n));
            retries.answered(KEPT as u64 * 2, STABLE, at(n));
        }
        assert!(retries.order.len() <= KEPT && retries.answers.len() <= KEPT);
        assert_eq!(retries.regenerated(9, at(1_000_000), at(0)), None);
        assert_eq!(retries.regenerated(KEPT as u64 * 2, WINDOW, at(KEPT as u64 + 9)), Some(STABLE));
    }
}
