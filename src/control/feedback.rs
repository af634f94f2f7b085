//! Which arm wrote which reply, so that later votes can be attributed.
//!
//! Bounded: the oldest reply is forgotten first. A second vote on the same reply is not counted again.

use crate::rollout::{Arm, Origin};
use std::collections::{HashMap, VecDeque};

/// Replies remembered.
const KEPT: usize = 20_000;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Author {
    pub arm: Arm,
    pub stage: u64,
    /// False for pinned and rescued requests: their votes are taken but not judged.
    pub judged: bool,
    pub origin: Origin,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Vote {
    Counted(Author),
    /// A second vote, or no opinion.
    Uncounted,
    Unknown,
}

#[derive(Debug, Default)]
pub(super) struct Authors {
    by_id: HashMap<String, (Author, bool)>,
    order: VecDeque<String>,
}

impl Authors {
    /// Notes who wrote the reply with this id. The oldest is forgotten when there are too many.
    pub fn remember(&mut self, id: String, author: Author) {
        if self.by_id.insert(id.clone(), (author, false)).is_none() {
            self.order.push_back(id);
        }
        if self.order.len() > KEPT
            && let Some(oldest) = self.order.pop_front()
        {
            self.by_id.remove(&oldest);
        }
    }

    /// A reply was read and not judged; the vote stays open.
    pub fn abstain(&self, id: &str) -> Vote {
        if self.by_id.contains_key(id) { Vote::Uncounted } else { Vote::Unknown }
    }

    /// Uses up the vote on the reply with this id; the first one counts.
    pub fn vote(&mut self, id: &str) -> Vote {
        match self.by_id.get_mut(id) {
            None => Vote::Unknown,
            Some((_, true)) => Vote::Uncounted,
            Some((author, voted)) => {
                *voted = true;
                Vote::Counted(*author)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ORIGIN: Origin = Origin { party: None, cluster: None, routed: None };
    const AUTHOR: Author = Author { arm: Arm::Canary, stage: 3, judged: true, origin: ORIGIN };

    #[test]
    fn a_vote_counts_once_and_for_its_author() {
        let mut authors = Authors::default();
        authors.remember("a".into(), AUTHOR);
        assert_eq!(authors.vote("a"), Vote::Counted(AUTHOR));
        assert_eq!(authors.vote("a"), Vote::Uncounted);
        assert_eq!(authors.vote("b"), Vote::Unknown);
    }

    #[test]
    fn no_opinion_counts_nothing_and_leaves_the_vote_open() {
        let mut authors = Authors::default();
        authors.remember("a".into(), AUTHOR);
        assert_eq!(authors.abstain("a"), Vote::Uncounted);
        assert_eq!(authors.abstain("b"), Vote::Unknown);
        assert_eq!(authors.vote("a"), Vote::Counted(AUTHOR));
    }

    #[test]
    fn the_oldest_are_forgotten_and_memory_stays_bounded() {
        let mut authors = Authors::default();
        for i in 0..KEPT + 10 {
            authors.remember(i.to_string(), AUTHOR);
        }
        assert_eq!((authors.by_id.len(), authors.order.len()), (KEPT, KEPT));
        assert_eq!(authors.vote("9"), Vote::Unknown);
        assert_eq!(authors.vote("10"), Vote::Counted(AUTHOR));
    }
}
