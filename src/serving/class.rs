//! How the end of a request is classified for the rollout, and which error the client gets.
//!
//! Pure: one table maps every way in which a request can end to its [`Class`], another one to its [`GatewayError`]. It
//! does not know about arms or statistics.

use super::attempt::Ended;
use super::error::{GatewayError, invalid};
use crate::engine::{Fault, Refusal};
use crate::rollout::Class;
use crate::routing::NoRoute;

/// What the client is told when no model can take its request.
pub(super) fn no_route(why: NoRoute) -> GatewayError {
    match why {
        NoRoute::NoCanary => GatewayError::NoCanary,
        NoRoute::NotLoaded => GatewayError::Unavailable("it is still loading".into()),
    }
}

/// The outcome class of a request that could not begin.
pub(super) fn class_of_error(error: &GatewayError) -> Class {
    match error {
        GatewayError::Model(_) => Class::ModelError,
        GatewayError::Timeout { .. } => Class::Timeout,
        GatewayError::Invalid { .. }
        | GatewayError::Untaken(_)
        | GatewayError::ContextLength { .. } => Class::InvalidRequest,
        GatewayError::NoCanary | GatewayError::Unavailable(_) | GatewayError::Busy { .. } => {
            Class::Rejected
        }
    }
}

/// The outcome class of each ending, as the evidence counts it.
pub(super) fn class_of(ended: &Ended) -> Class {
    match ended {
        Ended::Complete => Class::Ok,
        Ended::ClientGone => Class::ClientCancel,
        Ended::Failed(Fault::Unloaded) => Class::Rejected,
        Ended::Failed(Fault::Guide(_)) => Class::InvalidRequest,
        Ended::Failed(_) | Ended::Undecodable(_) => Class::ModelError,
        Ended::TimedOut { .. } => Class::Timeout,
        Ended::Refused(why) => match why {
            Refusal::TooLong { .. } | Refusal::BadToken { .. } | Refusal::EmptyPrompt => {
                Class::InvalidRequest
            }
            _ => Class::Rejected,
        },
    }
}

/// What the client is told of an attempt that did not complete.
pub(super) fn error_of(ended: &Ended) -> GatewayError {
    match ended {
        Ended::Failed(Fault::Unloaded) => GatewayError::Unavailable("it was unloaded".into()),
        Ended::Failed(Fault::Guide(failed)) => {
            tracing::info!(%failed, "a constrained reply failed");
            let what = "the constraint on the reply needs more work for a token than is allowed; \
                        simplify it";
            GatewayError::Untaken(what.to_owned())
        }
        Ended::Failed(fault) => GatewayError::Model(public_text(fault).to_owned()),
        Ended::Undecodable(_) => GatewayError::Model("its output is not text".into()),
        Ended::TimedOut { what, limit } => GatewayError::Timeout { what, limit: *limit },
        Ended::Refused(Refusal::QueueFull { waiting }) => GatewayError::Busy { waiting: *waiting },
        Ended::Refused(why) => match class_of(ended) {
            Class::InvalidRequest => invalid("prompt", why.to_string()),
            _ => GatewayError::Unavailable(why.to_string()),
        },
        Ended::Complete | Ended::ClientGone => GatewayError::Unavailable("it has ended".into()),
    }
}

/// What a client may know of a fault; the details go to the log.
fn public_text(fault: &Fault) -> &'static str {
    tracing::warn!(%fault, "a sequence failed");
    match fault {
        Fault::NonFiniteLogits => "it produced NaN or infinite logits",
        Fault::OutOfMemory => "it ran out of memory",
        Fault::Step(_) => "a step failed",
        Fault::Panic(_) => "the engine panicked",
        Fault::DeviceLost(_) => "its device has failed",
        Fault::Guide(_) => "the constraint on its reply failed",
        Fault::Unloaded => "it was unloaded",
    }
}
