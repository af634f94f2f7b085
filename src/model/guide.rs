//! The interface of a constraint on a sequence (such as a grammar), as the sampler and the engine use it.
//!
//! The engine passes each token of the reply to the guide, and asks it which tokens are allowed next. It does not know
//! what the guide enforces; the guide does not know about logits.

use super::token_mask::TokenMask;
use crate::device::arena;
use parking_lot::Mutex;
use std::fmt::Debug;
use std::sync::Arc;

/// A guide cannot go on: the grammar needs more work for one token than is allowed, or the reply has left it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the constraint on the reply failed: {0}")]
pub struct GuideFailed(pub String);

/// What a token means for a guided reply.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Taken {
    /// The reply goes on after it.
    GoesOn,
    /// It completes the reply.
    Completes,
    /// It ends the reply and is no part of it.
    Ends,
}

/// Restricts one reply. It is told every token of it, in order.
pub trait Guide: Send + Debug {
    /// The tokens that may come next, at least one; `None`: all.
    fn mask(&mut self) -> Result<Option<Arc<TokenMask>>, GuideFailed>;

    /// Takes the next token of the reply.
    fn take(&mut self, id: u32) -> Result<Taken, GuideFailed>;

    /// The tokens that must come next, in the model's own spelling, because no other text may. None of them has been
    /// taken.
    fn forced(&mut self) -> Vec<u32>;
}

/// A guide that the sampler and the engine share on one thread. A mask may take a millisecond; so it is made when it is
/// needed, which is while a GPU computes the step. What a guide allocates is not its model's memory.
#[derive(Debug)]
pub struct SharedGuide(Mutex<Box<dyn Guide>>);

impl SharedGuide {
    /// Shares a guide.
    pub fn new(guide: Box<dyn Guide>) -> SharedGuide {
        SharedGuide(Mutex::new(guide))
    }

    /// The tokens that may come next, as [`Guide::mask`] says. Fails if the guide cannot go on.
    pub fn mask(&self) -> Result<Option<Arc<TokenMask>>, GuideFailed> {
        arena::outside(|| self.0.lock().mask())
    }

    /// Takes the next token of the reply, as [`Guide::take`] does. Fails if the guide cannot go on.
    pub fn take(&self, id: u32) -> Result<Taken, GuideFailed> {
        arena::outside(|| self.0.lock().take(id))
    }

    /// The tokens that must come next, as [`Guide::forced`] says.
    pub fn forced(&self) -> Vec<u32> {
        arena::outside(|| self.0.lock().forced())
    }
}
