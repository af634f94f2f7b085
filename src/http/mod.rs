//! The HTTP layer: an OpenAI-compatible API, probes, metrics and the operators' commands.
//!
//! [`client_app`] and [`operator_app`] (`routes`) build routers from [`AppState`], which tests call with `oneshot` and
//! [`serve()`] serves. Reading order: `wire` (request and response formats), `generate` with `replies`, `parts` and
//! `format` (from a request to its response), `completions` with `chunks` and `whole`, `responses`, `messages` (the
//! endpoints), `stable_for` (marked requests, which stable answers: a chat UI asking for a title, for example),
//! `recording` (prompts that clients agreed to have recorded), `missing` (routes of the public APIs that serin does not
//! have), `status_codes` (maps errors to statuses), `models`, `tokens`, `feedback`, `probes` with `gauges`; then
//! `caller` (who asks), `authorize` (which route needs which scope), `requests` (request ids and the log of requests),
//! `plain` (slashes in paths, content codings), `operators` (access check), `admin` with [`orders`] and `events`,
//! [`page`] (the operators' page and its figures), `cors` (web pages), `openapi` (the description of the routes),
//! `sockets` (and their limits) and `lifecycle` (the phases of shutdown).
//!
//! It uses only the public types of the gateway and of the control module. Wire types are used only here, and in no
//! inner layer.

mod admin;
mod authorize;
mod bodies;
mod body;
mod bulk;
mod caller;
mod chunks;
mod completions;
mod cors;
mod events;
mod feedback;
mod format;
mod gauges;
mod generate;
mod lifecycle;
mod messages;
mod missing;
mod models;
mod openapi;
mod operators;
pub mod orders;
pub mod page;
mod parts;
mod plain;
mod probes;
mod recording;
mod replies;
mod requests;
mod responses;
mod routes;
mod sockets;
mod sse;
mod stable_for;
mod status_codes;
mod tokens;
mod whole;
mod wire;

pub use authorize::{CLIENTS, LIMIT_HEADERS, Needs, OPERATORS};
pub use body::Intake;
pub use lifecycle::{Lifecycle, Phase};
pub use operators::Operators;
pub use page::Live;
pub use recording::Recorder;
pub use routes::{client_app, operator_app};
pub use sockets::{Bounds, OverLimit, Peer, serve};
pub use stable_for::StableFor;
pub use status_codes::{ErrorBody, ErrorDetail};

use crate::access::Access;
use crate::serving::{Gateway, GenerateRequest, Limits};
use metrics_exporter_prometheus::PrometheusHandle;
use status_codes::ApiError;
use std::time::{Instant, SystemTime, UNIX_EPOCH};
use wire::common::{Envelope, Rules};
use wire::fields::Fields;

/// What handlers share.
#[derive(Clone)]
pub struct AppState {
    /// Handles requests.
    pub gateway: Gateway,
    /// Renders the metrics, if they are recorded.
    pub metrics: Option<PrometheusHandle>,
    /// Maximum request body in bytes.
    pub body_limit: usize,
    /// Memory for bodies that are being received.
    pub intake: Intake,
    /// Who may use the operators' routes.
    pub operators: Operators,
    /// The figures that the operators' page plots.
    pub live: Live,
    /// The keys, if they are asked for.
    pub access: Access,
    /// Whether the log has a line for each request.
    pub log_requests: bool,
    /// Which requests stable answers because of how they are marked.
    pub stable_for: StableFor,
    /// Where prompts go whose clients agreed to it; `None`: nowhere.
    pub recorder: Option<Recorder>,
}

/// How a body would be parsed; for external checks without a server. Fails with the response that its client would get:
/// HTTP status and body.
#[doc(hidden)]
pub fn understand(
    chat: bool,
    body: &[u8],
    arrived: Instant,
) -> Result<Vec<GenerateRequest>, (u16, ErrorBody)> {
    let (session, variant, party, client, key) = (None, None, None, 0, None);
    let id = "chatcmpl-0".to_owned();
    let envelope = Envelope { id, arrived, session, variant, marked: false, party, client, key };
    let rules = Rules { served: "serin", limits: Limits { max_n: 8, max_stop: 4 } };
    let understood = Fields::parse(body).and_then(|mut fields| match chat {
        true => wire::chat::chat(&mut fields, envelope, rules),
        false => wire::completion::completion(&mut fields, envelope, rules),
    });
    understood.map(|parsed| parsed.requests).map_err(|error| {
        let error = ApiError::from(error);
        (error.status().as_u16(), error.body())
    })
}

/// Seconds since 1970.
fn unix_now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}
