//! One request's life, without wire formats: route, encode, submit, decode, rescue, record.
//!
//! In the order of a request: `types` is what a front end (HTTP) exchanges with [`Gateway`] (`gateway`); `admission`
//! bounds what is done for a request before a model has it; `prepare` turns it into token ids for the arm it was routed
//! to, with `token_rules` for single tokens and the `echo` of the prompt; `error` says why a request has no reply;
//! `attempt` follows that arm's reply; `logprobs` holds log-probabilities back until their text is sent; `rescue` lets
//! stable take over requests that the canary failed; `class` classifies how a request ended, `quality` finds the flags
//! of a reply, and `record` records both; `traffic` and `in_flight` report to the status and the page. While the device
//! is idle (`idle`), `shadow` and `paired` send copies of requests to the canary, and `cross_read` lets both models
//! read replies (`both`, `reading`). `compare` does the latter without traffic. It does not know about HTTP or
//! statistics.

mod admission;
mod attempt;
mod both;
mod class;
pub mod compare;
mod conversation;
mod cross_read;
mod echo;
mod error;
mod gateway;
mod idle;
mod in_flight;
mod logprobs;
mod paired;
mod prepare;
mod quality;
pub mod reading;
mod record;
mod rescue;
mod shadow;
#[cfg(any(test, debug_assertions, feature = "testing"))]
pub mod testing;
mod token_rules;
mod traffic;
mod types;

pub use error::GatewayError;
pub use gateway::Gateway;
pub use types::{
    Finish, GenerateRequest, Generation, LikelyToken, Limits, MOST_TOP_LOGPROBS, Meter, Piece,
    Prompt, PromptToken, SamplingPatch, Served, Timeouts, TokenConstraints, TokenLogprob,
    TokenName, Usage,
};
