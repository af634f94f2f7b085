//! The data of one finished request.
//!
//! One request is one outcome, determined at the END of its stream: a 200 header says nothing about a reply
//! that fails at token 40. This is plain data. It knows neither HTTP statuses nor engine errors; the modules
//! at the edges translate those into a [`Class`]. There are six classes and not a boolean because a client
//! that disconnects or a full queue are not the model's fault, and must not move its error rate in either
//! direction.

use std::time::Duration;

use super::quality::Flags;
use super::{Arm, Weight};

named! {
    /// How a request ended. The order is fixed: journals keep the position.
    #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
    pub enum Class {
        /// Finished by stop, length or tool call.
        Ok = "ok",
        /// NaN logits, device out of memory, engine panic, undecodable or invalid constrained output.
        ModelError = "model_error",
        /// The server's own deadline for the first token, the next token or the whole request was exceeded.
        Timeout = "timeout",
        /// The client disconnected. Neither success nor error.
        ClientCancel = "client_cancel",
        /// Queue full, draining or loading. Neither success nor error.
        Rejected = "rejected",
        /// The request itself was invalid. Neither success nor error.
        InvalidRequest = "invalid_request",
    }
}

impl Class {
    /// Whether it counts against the arm.
    pub const fn is_error(self) -> bool {
        matches!(self, Class::ModelError | Class::Timeout)
    }

    /// Whether it is part of the error rate: a success or an error.
    pub const fn counts(self) -> bool {
        matches!(self, Class::Ok) || self.is_error()
    }
}

/// Who sent a request, and how it was routed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Origin {
    /// Hash of what its sender cannot change at will: a verified API key, or else the prefix of the address.
    /// While others are active, no party decides a verdict.
    pub party: Option<u64>,
    /// Hash of the key that was routed as one: a session or a conversation. `None`: the request was drawn on
    /// its own.
    pub cluster: Option<u64>,
    /// The canary's share of the traffic when it was routed; `None`: the weight of its stage.
    pub routed: Option<Weight>,
}

/// One finished request, as the executor saw it.
#[derive(Debug, Clone, PartialEq)]
pub struct Outcome {
    /// The arm that the outcome is attributed to.
    pub arm: Arm,
    /// How it ended.
    pub class: Class,
    /// The stage epoch when the request was ROUTED. Outcomes of another epoch are not part of the current
    /// stage's counts and latencies; they are counted separately. Those of an earlier stage of the same
    /// rollout still count as evidence of errors, with the weight of their stage.
    pub stage: u64,
    /// `false` for pinned and synthetic requests, and for the second run of rescued ones: not part of any
    /// verdict.
    pub judged: bool,
    /// Who sent it. While others are active, no party may exceed
    /// [`Policy::max_key_share`](super::Policy::max_key_share) of a sample.
    pub origin: Origin,
    /// What the prompt cost the device up to the first token, without queueing and without other sequences;
    /// `None` if there was no first token.
    pub ttft: Option<Duration>,
    /// How much larger the steps of the prompt were than this request alone, in half powers of two. TTFTs are
    /// compared at like sizes.
    pub crowd: u8,
    /// There was no first token: the client left, and `ttft` is the time until then.
    pub censored: bool,
    /// Time of a step that produced a token after the first, or the mean cost of such tokens; again without
    /// queueing and other sequences. `None` with fewer than two tokens.
    pub tpot: Option<Duration>,
    /// From arrival to the end.
    pub e2e: Duration,
    /// Tokens of the prompt; 0 if it was not encoded.
    pub prompt_tokens: u32,
    /// Tokens of the prompt that were found in the prefix cache.
    pub cached_tokens: u32,
    /// Tokens generated.
    pub output_tokens: u32,
    /// What speaks against the reply's quality.
    pub flags: Flags,
    /// Whether `tpot` comes from a matched step: one with the same number of sequences as a step of the other
    /// arm right next to it. Such replies are compared only with each other.
    pub matched: bool,
}

impl Outcome {
    /// A judged outcome, in this stage epoch, of a request that was drawn on its own and never ran.
    pub fn new(arm: Arm, class: Class, stage: u64) -> Outcome {
        Outcome {
            arm,
            class,
            stage,
            judged: true,
            origin: Origin::default(),
            ttft: None,
            crowd: 0,
            censored: false,
            tpot: None,
            e2e: Duration::ZERO,
            prompt_tokens: 0,
            cached_tokens: 0,
            output_tokens: 0,
            flags: Flags::NONE,
            matched: false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Class;

    #[test]
    fn only_successes_and_errors_count() {
        let all = [
            (Class::Ok, true, false),
            (Class::ModelError, true, true),
            (Class::Timeout, true, true),
            (Class::ClientCancel, false, false),
            (Class::Rejected, false, false),
            (Class::InvalidRequest, false, false),
        ];
        assert_eq!(all.map(|(class, ..)| class), Class::ALL);
        for (class, counts, error) in all {
            assert_eq!(class.counts(), counts, "{}", class.as_str());
            assert_eq!(class.is_error(), error, "{}", class.as_str());
        }
    }
}
