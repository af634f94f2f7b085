//! The order of eviction: cached blocks that no sequence references, the least recently used one first.
//!
//! The pool decides when blocks enter and leave (`blocks.rs`). The order is a doubly linked ring in one array that is
//! allocated once. So nothing is allocated while steps run, and any block can be removed in constant time. It knows
//! only block numbers.

#[derive(Debug, Clone, Copy)]
struct Link {
    before: u32,
    after: u32,
}

/// Holds numbers below its capacity, each at most once.
#[derive(Debug)]
pub(super) struct Lru {
    /// One link per number, and the ring's anchor at the end. A number that is not in the ring links to
    /// itself.
    links: Vec<Link>,
    len: usize,
}

impl Lru {
    /// An empty order for the numbers below `capacity`.
    pub fn new(capacity: usize) -> Lru {
        let alone = |n| Link { before: n, after: n };
        Lru { links: (0..=capacity as u32).map(alone).collect(), len: 0 }
    }

    /// How many numbers are in the order.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Inserts a number as the newest.
    pub fn push(&mut self, number: u32) {
        debug_assert!(!self.contains(number), "{number} is in already");
        let anchor = self.anchor();
        let newest = self.links[anchor as usize].before;
        self.links[number as usize] = Link { before: newest, after: anchor };
        self.links[newest as usize].after = number;
        self.links[anchor as usize].before = number;
        self.len += 1;
    }

    /// Removes and returns the oldest number.
    pub fn pop(&mut self) -> Option<u32> {
        let oldest = self.links[self.anchor() as usize].after;
        let found = oldest != self.anchor();
        found.then(|| {
            self.remove(oldest);
            oldest
        })
    }

    /// Removes a number, wherever it is.
    pub fn remove(&mut self, number: u32) {
        debug_assert!(self.contains(number), "{number} is not in");
        let Link { before, after } = self.links[number as usize];
        self.links[before as usize].after = after;
        self.links[after as usize].before = before;
        self.links[number as usize] = Link { before: number, after: number };
        self.len -= 1;
    }

    fn contains(&self, number: u32) -> bool {
        self.links[number as usize].after != number
    }

    fn anchor(&self) -> u32 {
        (self.links.len() - 1) as u32
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    impl Lru {
        /// From the oldest to the newest.
        pub fn order(&self) -> Vec<u32> {
            let next = |n: u32| self.links[n as usize].after;
            let inside = |n: &u32| *n != self.anchor();
            std::iter::successors(Some(next(self.anchor())).filter(inside), |n| {
                Some(next(*n)).filter(inside)
            })
            .collect()
        }
    }

    proptest! {
        #[test]
        fn it_is_a_queue_from_which_anything_can_be_taken(
            moves in proptest::collection::vec((0u32..12, any::<bool>()), 0..200),
        ) {
            let (mut lru, mut model) = (Lru::new(12), Vec::new());
            for (number, pop) in moves {
                if pop {
                    let oldest = (!model.is_empty()).then(|| model.remove(0));
                    prop_assert_eq!(lru.pop(), oldest);
                } else if let Some(at) = model.iter().position(|n| *n == number) {
                    model.remove(at);
                    lru.remove(number);
                } else {
                    model.push(number);
                    lru.push(number);
                }
                prop_assert_eq!((lru.order(), lru.len()), (model.clone(), model.len()));
            }
        }
    }
}
