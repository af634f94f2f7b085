//! A request's rules for single tokens: biases, forbidden tokens, and a list of allowed tokens.
//!
//! The rules change a row of logits before the penalties (the order of vLLM). A forbidden token gets [`BARRED`], the
//! lowest possible logit, so its probability is 0. Pure; it does not know where the ids come from.

use super::token_mask::{BARRED, TokenMask};
use std::sync::Arc;

/// The rules of one request. Token ids beyond the vocabulary are ignored.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct TokenRules {
    /// Added to the logits of these tokens; of -infinity: never drawn. Sorted by id, each id once.
    pub bias: Vec<(u32, f32)>,
    /// No others may be drawn. `None`: all may.
    pub allowed: Option<Arc<TokenMask>>,
    /// Sequences of tokens that a reply may not contain: the last of one is barred after all others of it.
    pub bad_words: Vec<Vec<u32>>,
    /// None of `ends` is drawn before the reply has this many tokens.
    pub min_tokens: usize,
    /// Tokens that end a reply.
    pub ends: Vec<u32>,
}

impl TokenRules {
    /// Whether there is nothing to do, at any length of the reply.
    pub fn is_empty(&self) -> bool {
        let TokenRules { bias, allowed, bad_words, min_tokens, .. } = self;
        bias.is_empty() && allowed.is_none() && bad_words.is_empty() && *min_tokens == 0
    }

    /// What changes single tokens' logits after this reply: what is added to each, by id; -infinity bars it.
    pub fn biases(&self, reply: &[u32]) -> Vec<(u32, f32)> {
        let bar = |id: u32| (id, f32::NEG_INFINITY);
        let mut all = self.bias.clone();
        if reply.len() < self.min_tokens {
            all.extend(self.ends.iter().copied().map(bar));
        }
        let completes =
            |word: &&Vec<u32>| word.split_last().is_some_and(|(_, others)| reply.ends_with(others));
        all.extend(
            self.bad_words
                .iter()
                .filter(completes)
                .filter_map(|word| word.last())
                .copied()
                .map(bar),
        );
        all.sort_by(|a, b| a.0.cmp(&b.0).then(a.1.total_cmp(&b.1)));
        all.dedup_by_key(|(id, _)| *id);
        all
    }

    /// Changes the logits of the token after this reply, `[vocab]`, of which only those in `mask` may be drawn. If the
    /// rules leave none of them, only the mask counts: a draw has to return something.
    pub fn apply(&self, logits: &mut [f32], reply: &[u32], mask: Option<&TokenMask>) {
        let biases = self.biases(reply);
        if let Some(mask) = mask {
            mask.apply(logits);
        }
        if leave_none(&biases, mask, logits.len()) {
            return;
        }
        for (id, bias) in biases {
            if let Some(logit) = logits.get_mut(id as usize) {
                *logit = (*logit + bias).max(BARRED);
            }
        }
    }
}

/// Whether these biases bar all tokens that the mask allows.
pub fn leave_none(biases: &[(u32, f32)], mask: Option<&TokenMask>, vocab: usize) -> bool {
    let barred = |id: u32| {
        let at = biases.binary_search_by_key(&id, |(id, _)| *id);
        at.is_ok_and(|at| biases[at].1 == f32::NEG_INFINITY)
    };
    match mask {
        Some(mask) => mask.ids(vocab).all(barred),
        None => biases.len() >= vocab && (0..vocab as u32).all(barred),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn rules() -> impl Strategy<Value = TokenRules> {
        let ids = || {
            proptest::collection::btree_set(0u32..12, 1..6)
                .prop_map(|ids| ids.into_iter().collect::<Vec<_>>())
        };
        let bias = proptest::collection::btree_map(
            0u32..12,
            prop_oneof![-100f32..100.0, Just(f32::NEG_INFINITY)],
            0..4,
        );
        let words = proptest::collection::vec(proptest::collection::vec(0u32..12, 1..4), 0..3);
        (bias, proptest::option::of(ids()), words, 0usize..6, ids()).prop_map(
            |(bias, allowed, bad_words, min_tokens, ends)| TokenRules {
                bias: bias.into_iter().collect(),
                allowed: allowed.map(|ids| Arc::new(TokenMask::of_ids(&ids))),
                bad_words,
                min_tokens,
                ends,
            },
        )
    }

    proptest! {
        /// Each token is barred or changed for one of the reasons that the fields state, and by no other.
        #[test]
        fn a_token_changes_only_for_a_stated_reason(
            rules in rules(),
            reply in proptest::collection::vec(0u32..12, 0..8),
            logits in proptest::collection::vec(-50f32..50.0, 10),
        ) {
            let mut after = logits.clone();
            rules.apply(&mut after, &reply, rules.allowed.as_deref());
            let banned = |id: u32| {
                let word = |word: &Vec<u32>| {
                    let mut whole = reply.clone();
                    whole.push(id);
                    whole.ends_with(word)
                };
                (reply.len() < rules.min_tokens && rules.ends.contains(&id))
                    || rules.bad_words.iter().any(word)
                    || rules.bias.contains(&(id, f32::NEG_INFINITY))
            };
            let listed = |id: u32| rules.allowed.as_ref().is_none_or(|allowed| allowed.has(id));
            let none_left = (0..10).filter(|id| listed(*id)).all(banned);
            for (id, (before, after)) in (0u32..).zip(logits.into_iter().zip(after)) {
                let bias = rules.bias.iter().find(|(of, _)| *of == id).map_or(0.0, |(_, bias)| *bias);
                let wanted = match (listed(id), none_left) {
                    (false, _) => BARRED,
                    (true, true) => before,
                    (true, false) if banned(id) => BARRED,
                    (true, false) => before + bias,
                };
                prop_assert_eq!(after, wanted, "{}", id);
            }
        }
    }

    #[test]
    fn rules_that_say_nothing_are_empty() {
        assert!(TokenRules { ends: vec![1], ..TokenRules::default() }.is_empty());
        assert!(!TokenRules { allowed: Some(Arc::default()), ..TokenRules::default() }.is_empty());
        assert!(!TokenRules { min_tokens: 1, ..TokenRules::default() }.is_empty());
    }
}
