//! One request's life, without wire formats: route, encode, submit, decode, rescue, record.
//!
//! In the order of a request: `types` is what a front end (HTTP) exchanges with [`Gateway`] (`gateway`); `admission`
//! bounds what is done for a request before a model has it; `prepare` turns it into token ids for the arm it was
//! routed to, with `token_rules` for single tokens and the `echo` of the prompt; `refusal` says why it cannot;
//! `attempt` follows that arm's reply; `logprobs` holds log-probabilities back until their text is sent; `rescue` has
//! stable take over what a canary failed; `class` says what an ending counts as, `quality` what a reply shows of
//! itself, and `record` keeps both; `traffic` and `in_flight` show it to those who watch. While the device is idle
//! (`idle`), `shadow` and `paired` put copies of requests to the canary, and `cross_read` has both models read replies
//! (`both`, `reading`). `compare` does that without traffic. It knows no HTTP and no statistics.

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
