//! A set of allowed token ids, as a bitmask.

/// The logit of a token that may not be drawn.
pub const BARRED: f32 = f32::MIN;

/// Bits in a word of a mask.
const BITS: usize = 32;

/// A set of token ids. Ids beyond its last word are not in it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TokenMask {
    words: Vec<u32>,
}

impl TokenMask {
    /// The set that words of 32 ids each describe; the lowest bit of a word is its first id.
    pub fn of_words(words: Vec<u32>) -> TokenMask {
        TokenMask { words }
    }

    /// The set of these ids.
    pub fn of_ids(ids: &[u32]) -> TokenMask {
        let mut mask = TokenMask::default();
        ids.iter().for_each(|id| mask.insert(*id));
        mask
    }

    /// Adds an id.
    pub fn insert(&mut self, id: u32) {
        let at = id as usize / BITS;
        if at >= self.words.len() {
            self.words.resize(at + 1, 0);
        }
        self.words[at] |= 1 << (id as usize % BITS);
    }

    /// Takes an id out.
    pub fn remove(&mut self, id: u32) {
        if let Some(word) = self.words.get_mut(id as usize / BITS) {
            *word &= !(1 << (id as usize % BITS));
        }
    }

    /// Whether an id is in the set.
    pub fn has(&self, id: u32) -> bool {
        let word = self.words.get(id as usize / BITS);
        word.is_some_and(|word| word >> (id as usize % BITS) & 1 == 1)
    }

    /// The words, 32 ids each; the lowest bit of a word is its first id.
    pub fn words(&self) -> &[u32] {
        &self.words
    }

    /// Whether no id below `vocab` is in the set.
    pub fn is_empty(&self, vocab: usize) -> bool {
        self.ids(vocab).next().is_none()
    }

    /// The ids below `vocab`, in order.
    pub fn ids(&self, vocab: usize) -> impl Iterator<Item = u32> {
        let words = (0u32..).zip(&self.words);
        let set = |word: u32| (0..BITS as u32).filter(move |bit| word >> bit & 1 == 1);
        let ids = words.flat_map(move |(at, word)| set(*word).map(move |bit| at * 32 + bit));
        ids.take_while(move |id| (*id as usize) < vocab)
    }

    /// The ids that are in both sets.
    pub fn and(&self, other: &TokenMask) -> TokenMask {
        let both = self.words.iter().zip(&other.words);
        TokenMask { words: both.map(|(a, b)| a & b).collect() }
    }

    /// Bars all other tokens; `logits`: `[vocab]`.
    pub fn apply(&self, logits: &mut [f32]) {
        for (at, run) in logits.chunks_mut(BITS).enumerate() {
            match self.words.get(at).copied().unwrap_or(0) {
                u32::MAX => {}
                0 => run.fill(BARRED),
                word => {
                    for (bit, logit) in run.iter_mut().enumerate() {
                        *logit = if word >> bit & 1 == 1 { *logit } else { BARRED };
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    proptest! {
        #[test]
        fn a_mask_is_the_set_of_its_ids(
            a in proptest::collection::btree_set(0u32..200, 0..40),
            b in proptest::collection::btree_set(0u32..200, 0..40),
            gone in 0u32..200,
            vocab in 1usize..220,
        ) {
            let ids = |set: &BTreeSet<u32>| set.iter().copied().collect::<Vec<_>>();
            let mut mask = TokenMask::of_ids(&ids(&a));
            let below = |set: &BTreeSet<u32>| set.iter().copied().filter(|id| (*id as usize) < vocab).collect::<Vec<_>>();
            prop_assert_eq!(mask.ids(vocab).collect::<Vec<_>>(), below(&a));
            prop_assert_eq!(mask.is_empty(vocab), below(&a).is_empty());
            let both = mask.and(&TokenMask::of_ids(&ids(&b)));
            prop_assert_eq!(both.ids(vocab).collect::<Vec<_>>(), below(&a.intersection(&b).copied().collect()));
            mask.remove(gone);
            let mut logits: Vec<f32> = (0..vocab).map(|id| id as f32).collect();
            mask.apply(&mut logits);
            for (id, logit) in (0u32..).zip(logits) {
                let has = a.contains(&id) && id != gone;
                prop_assert_eq!(mask.has(id), has);
                prop_assert_eq!(logit, if has { id as f32 } else { BARRED });
            }
        }
    }
}
