//! The result of both models reading one reply, and the choice of the replies to read.
//!
//! A model reads a reply by teacher forcing: one prefill of prompt and reply gives the probability of every token.
//! Plain data and one pure function. It does not know how replies are read, or what the results lead to.

use serde::{Deserialize, Serialize};

use super::{Arm, Origin};

named! {
    /// What kind of change the canary is, as the operator says.
    #[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
    #[serde(rename_all = "snake_case")]
    pub enum Expect {
        /// The same model: requantised, exported again, another setting of the engine.
        Same = "same",
        /// A fine-tune, or the next minor version.
        Similar = "similar",
        /// Another model.
        #[default]
        Different = "different",
    }
}

impl std::str::FromStr for Expect {
    type Err = String;

    fn from_str(text: &str) -> Result<Expect, String> {
        Expect::from_name(text)
            .ok_or_else(|| format!("must be same, similar or different, not {text:?}"))
    }
}

/// What one model made of a reply.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Read {
    /// Negative log-probability of the reply, in nats per byte of its text.
    pub nats: f32,
    /// Share of its tokens that the model gives a probability of less than 1e-3, 0 to 1.
    pub implausible: f32,
}

/// How far both models' distributions agree at the same places. Only of models with the same vocabulary.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Agreement {
    /// Mean KL divergence of the canary's distribution from stable's, in nats, over a sample of the places.
    pub kl: f32,
    /// Share of all places at which the most likely token differs, 0 to 1.
    pub differing: f32,
    /// By how much the canary's logits are further apart than stable's: ln of the ratio of their standard deviations,
    /// the mean over the sample. 0 if they are as far apart; ln 2 if all are doubled.
    pub sharper: f32,
    /// How much less likely the reply is to the model that did not write it, in nats per token. Its mean over replies
    /// that were sampled at temperature 1 is the KL divergence of the reader from the writer.
    pub excess: f32,
}

/// One reply as both models read it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Reading {
    /// The arm that wrote the reply.
    pub writer: Arm,
    /// The stage epoch when the request was routed.
    pub stage: u64,
    /// Of the request.
    pub origin: Origin,
    /// By reader: [`Arm::index`].
    pub read: [Read; 2],
    /// `None` if the vocabularies differ.
    pub agreement: Option<Agreement>,
    /// The two models were given different prompts, or would have sampled differently, for the same request.
    pub asked_otherwise: bool,
}

/// The shares of stable's and of the canary's replies that are read if `w` of the requests are routed to the canary, by
/// [`Arm::index`]: as many replies of one as of the other, and `share` of all replies.
pub fn chances(share: f64, w: f64) -> [f64; 2] {
    let half = share / 2.0;
    [1.0 - w, w].map(|of_all| if of_all > 0.0 { (half / of_all).min(1.0) } else { 0.0 })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn both_arms_are_read_alike_and_no_more_than_the_share(share in 0.0f64..=1.0, percent in 1u8..100) {
            let w = f64::from(percent) / 100.0;
            let [stable, canary] = chances(share, w);
            prop_assert!((0.0..=1.0).contains(&stable) && (0.0..=1.0).contains(&canary));
            prop_assert!(w * canary + (1.0 - w) * stable <= share + 1e-12);
            if stable < 1.0 && canary < 1.0 {
                prop_assert!((w * canary - (1.0 - w) * stable).abs() < 1e-12);
            }
        }
    }

    #[test]
    fn an_arm_without_traffic_is_not_read() {
        assert_eq!(chances(0.1, 1.0)[0], 0.0);
        assert_eq!(chances(0.1, 0.0)[1], 0.0);
    }
}
