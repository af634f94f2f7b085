//! Tests the kernels on a GPU before it is used: the quick cases of every family, against their known answers.
//!
//! Without this, a build for another architecture could silently give wrong numbers.

use super::card::{Card, CardError};
use std::sync::Arc;

/// Why a card is not to be trusted.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum SelfTestError {
    /// Which kernel gave what.
    #[error("wrong answer: {0}")]
    Wrong(String),
    /// The card failed before all answers were there, or this build has none to compare with.
    #[error(transparent)]
    Card(#[from] CardError),
}

/// Every kernel family's cases.
#[cfg(any(test, feature = "known-answers"))]
pub const FAMILIES: &[(&str, super::check::Family)] = &[
    ("attention", super::attention::answers::checks),
    ("attention of raw heads", super::attention::raw_answers::checks),
    ("embedding", super::embed::answers::checks),
    ("fused products", super::product::fused_answers::checks),
    ("products with norms", super::product::normed_answers::checks),
    ("inputs of steps", super::inputs::answers::checks),
    ("log-probabilities", super::logprobs::answers::checks),
    ("norms", super::norm::answers::checks),
    ("products of floats", super::product::answers::dense_checks),
    ("products of quantised weights", super::product::answers::quantised_checks),
    ("rotations", super::rope::answers::checks),
    ("rows", super::rows::answers::checks),
    ("sampling", super::sample::answers::checks),
];

/// Runs every kernel against its known answers, and returns how many there were. Keeps no memory of the card. Fails if
/// an answer is wrong or the card fails.
#[cfg(any(test, feature = "known-answers"))]
pub fn self_test(card: &Arc<dyn Card>) -> Result<usize, SelfTestError> {
    use super::check::{Bench, Size};
    card.enter()?;
    let pool = card.create_pool()?;
    let bench = Bench { card: card.clone(), pool };
    let mut checks = 0;
    for (_, family) in FAMILIES {
        let answers = family(&bench, Size::Quick)?;
        checks += answers.len();
        if let Some(wrong) = answers.iter().find(|answer| !answer.holds()) {
            return Err(SelfTestError::Wrong(wrong.to_string()));
        }
    }
    card.trim_pool(pool).and_then(|()| card.destroy_pool(pool))?;
    Ok(checks)
}

/// Always fails: a build that has no card has no answers either.
#[cfg(not(any(test, feature = "known-answers")))]
pub fn self_test(_card: &Arc<dyn Card>) -> Result<usize, SelfTestError> {
    Err(CardError::Other("this build has no known answers".into()).into())
}
