//! What is known of one finished request.
//!
//! One request is one outcome, fixed at the END of its stream: a 200 header says nothing about a
//! reply that dies at token 40. Plain data; it knows neither HTTP statuses nor engine errors, the
//! edges translate those into a [`Class`]. Why six classes and not a boolean: a client that goes
//! away and a full queue are not the model's doing and must not move its error rate either way.

use std::time::Duration;

use super::Arm;

/// How a request ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Class {
    /// Finished by stop, length or tool call.
    Ok,
    /// NaN logits, device out of memory, engine panic, undecodable or invalid constrained output.
    ModelError,
    /// The server's own deadline for the first token, the next token or the whole request.
    Timeout,
    /// The client went away. Neither success nor error.
    ClientCancel,
    /// Queue full, draining or loading. Neither success nor error.
    Rejected,
    /// The request itself was at fault. Neither success nor error.
    InvalidRequest,
}

impl Class {
    /// The name used in labels and texts.
    pub const fn as_str(self) -> &'static str {
        match self {
            Class::Ok => "ok",
            Class::ModelError => "model_error",
            Class::Timeout => "timeout",
            Class::ClientCancel => "client_cancel",
            Class::Rejected => "rejected",
            Class::InvalidRequest => "invalid_request",
        }
    }

    /// Whether it is charged to the arm.
    pub const fn is_error(self) -> bool {
        matches!(self, Class::ModelError | Class::Timeout)
    }

    /// Whether it belongs to the error rate at all: a success or an error.
    pub const fn counts(self) -> bool {
        matches!(self, Class::Ok) || self.is_error()
    }
}

/// One finished request, as the executor saw it.
#[derive(Debug, Clone, PartialEq)]
pub struct Outcome {
    /// The arm that is charged with it.
    pub arm: Arm,
    /// How it ended.
    pub class: Class,
    /// The stage epoch in force when the request was ROUTED. Outcomes of another epoch stay out of
    /// the current stage's counts and latencies and are counted as such; those of an earlier stage
    /// of the same rollout still count as evidence of errors, with the weight of their stage.
    pub stage: u64,
    /// `false` for pinned and synthetic requests and for replays of rescued ones: no verdict.
    pub judged: bool,
    /// Hash of the session key. Errors are counted once per session and class inside
    /// [`Policy::dedup_window`](super::Policy::dedup_window).
    pub session: Option<u64>,
    /// Hash of the API key. No key may be more than
    /// [`Policy::max_key_share`](super::Policy::max_key_share) of a sample while others are active.
    pub key: Option<u64>,
    /// What its prompt cost the device up to the first token, free of queues and of other sequences; `None` when
    /// there was none.
    pub ttft: Option<Duration>,
    /// Time of a step that gave a token after the first, or their mean cost, likewise; `None` with fewer than two
    /// tokens.
    pub tpot: Option<Duration>,
    /// From arrival to the end.
    pub e2e: Duration,
    /// Tokens generated.
    pub output_tokens: u32,
    /// Whether `tpot` is of a step that was matched with one of the other arm's: of as many sequences, right beside
    /// it. Such replies are compared with their like only.
    pub matched: bool,
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
        for (class, counts, error) in all {
            assert_eq!(class.counts(), counts, "{}", class.as_str());
            assert_eq!(class.is_error(), error, "{}", class.as_str());
        }
    }
}
