//! One reply that follows a grammar.

use super::watchdog::{Watchdog, within_budget};
use crate::model::{Guide, GuideFailed, Taken, TokenMask};
use llguidance::Matcher;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

/// Longest search for one token: all replies wait for it.
const LONGEST: Duration = Duration::from_millis(100);

/// A reply between two tokens.
pub(super) struct GrammarGuide {
    matcher: Matcher,
    /// The model's tokens that end a reply.
    ends: Vec<u32>,
    /// Number of the model's token ids; the grammar's own end of a reply has this id.
    vocab: u32,
    /// The tokens that may come next, once they are known.
    mask: Option<Arc<TokenMask>>,
    watchdog: Arc<Watchdog>,
    /// The work for the reply so far, and its tokens.
    spent: Duration,
    tokens: u32,
}

impl fmt::Debug for GrammarGuide {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("GrammarGuide").field("vocab", &self.vocab).finish_non_exhaustive()
    }
}

impl GrammarGuide {
    pub(super) fn new(
        matcher: Matcher,
        ends: Vec<u32>,
        vocab: u32,
        watchdog: Arc<Watchdog>,
    ) -> GrammarGuide {
        let (matcher, mask) = (matcher.into_cancellable(), None);
        GrammarGuide { matcher, ends, vocab, mask, watchdog, spent: Duration::ZERO, tokens: 0 }
    }

    /// Does work on the grammar, unless the reply has used too much already.
    fn work<T>(
        &mut self,
        work: impl FnOnce(&mut Matcher) -> Result<T, GuideFailed>,
    ) -> Result<T, GuideFailed> {
        if !within_budget(self.spent, self.tokens) {
            return Err(GuideFailed("the reply needs too much work".to_owned()));
        }
        let handle = self.matcher.cancellation_handle();
        let (found, took) = self.watchdog.run(LONGEST, handle, || work(&mut self.matcher));
        self.spent += took;
        found
    }

    /// Takes a token if the grammar allows it.
    pub(super) fn follows(&mut self, id: u32) -> bool {
        self.mask = None;
        self.matcher.try_consume_tokens(&[id]).is_ok_and(|taken| taken == 1)
    }

    /// Whether the text is complete; more may follow.
    pub(super) fn is_complete(&mut self) -> bool {
        self.matcher.is_stopped() || self.matcher.is_accepting().unwrap_or(true)
    }

    /// The grammar's end of a reply stands for each of the model's.
    fn compute(&mut self) -> Result<TokenMask, GuideFailed> {
        let allowed = self.work(|matcher| matcher.compute_mask_or_eos().map_err(failed))?;
        let mut mask = TokenMask::of_words(allowed.as_slice().to_vec());
        if mask.has(self.vocab) {
            mask.remove(self.vocab);
            self.ends.iter().for_each(|id| mask.insert(*id));
        }
        match mask.is_empty(self.vocab as usize) {
            false => Ok(mask),
            true => Err(GuideFailed("no token of the model can go on".to_owned())),
        }
    }
}

impl Guide for GrammarGuide {
    fn mask(&mut self) -> Result<Option<Arc<TokenMask>>, GuideFailed> {
        if self.mask.is_none() {
            self.mask = Some(Arc::new(self.compute()?));
        }
        Ok(self.mask.clone())
    }

    fn take(&mut self, id: u32) -> Result<Taken, GuideFailed> {
        self.mask = None;
        if self.ends.contains(&id) && self.matcher.is_accepting().map_err(failed)? {
            return Ok(Taken::Ends);
        }
        self.tokens += 1;
        self.work(|matcher| matcher.consume_token(id).map_err(failed))?;
        Ok(if self.matcher.is_stopped() { Taken::Completes } else { Taken::GoesOn })
    }

    fn forced(&mut self) -> Vec<u32> {
        let forced = self.work(|matcher| Ok(matcher.compute_ff_tokens()));
        let mut forced = forced.unwrap_or_default();
        // The end of the reply is drawn, so that it is the model's own token.
        let end = forced.iter().position(|id| *id >= self.vocab || self.ends.contains(id));
        forced.truncate(end.unwrap_or(forced.len()));
        forced
    }
}

fn failed(error: impl fmt::Display) -> GuideFailed {
    let text = error.to_string();
    GuideFailed(text.lines().next().unwrap_or_default().to_owned())
}
