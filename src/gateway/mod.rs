//! One request's life, free of wire formats: route, encode, submit, decode, rescue, judge.
//!
//! `types` is what a front end (HTTP) exchanges with [`Gateway`]; `admission` bounds what is done for a request
//! before any model has it; `prepare` turns a request into token ids
//! for the arm it was routed to; `attempt` follows one arm's reply; `drive` does so on a task of its own, with
//! rescue and outcome, whether or not the client stays; `likely` keeps log-probabilities until their text is
//! sent; `shadow` and `paired` put copies of requests to
//! the canary when nobody else wants the device. Knows no HTTP, and no statistics.

mod admission;
mod attempt;
mod drive;
mod likely;
mod paired;
mod prepare;
mod shadow;
pub mod testing;
mod types;

pub use drive::Gateway;
pub use paired::Differences;
pub use shadow::ShadowReport;
pub use types::{
    Finish, GatewayError, GenerateRequest, Generation, LikelyToken, Limits, MOST_TOP_LOGPROBS,
    Piece, Prompt, SamplingPatch, Served, Timeouts, TokenLogprob, Usage,
};
