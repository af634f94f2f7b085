//! The definition of a generation endpoint: how its body is parsed, and how its response is written.
//!
//! All endpoints share one path from a request to its response (`generate`). Each has its own [`Endpoint`], whose
//! parser returns a [`Format`]. A format holds everything from the request that the response has to repeat.

use super::status_codes::{ApiError, Names};
use super::wire::WireError;
use super::wire::common::{Envelope, Rules};
use super::wire::fields::Fields;
use crate::serving::{GenerateRequest, Piece, Served};

/// Keeps a connection alive while there is nothing to send. A comment, which every client ignores.
pub const KEEP_ALIVE: &str = ": keep-alive\n\n";

/// A generation endpoint.
#[derive(Debug)]
pub struct Endpoint {
    /// The prefix of its answers' ids.
    pub id_prefix: &'static str,
    /// The field that holds the prompt.
    pub prompt: &'static str,
    /// Parses a body; the last argument is the time of the answer in seconds since 1970.
    pub read: fn(&mut Fields, Envelope, Rules<'_>, u64) -> Result<PreparedRequest, WireError>,
}

/// A request of any endpoint, ready to be generated for.
pub struct PreparedRequest {
    /// One per prompt.
    pub requests: Vec<GenerateRequest>,
    /// Replies per prompt.
    pub n: u32,
    /// Whether the answer is a stream of events.
    pub streamed: bool,
    /// Whether the client agreed to have its prompts recorded.
    pub store: bool,
    /// How the answer is written.
    pub format: Box<dyn Format>,
}

/// How one request's answer is written.
pub trait Format: Send {
    /// What the request calls the things that an error may be about.
    fn names(&self) -> Names;
    /// Begins a stream; `routed` says who is expected to answer.
    fn stream(self: Box<Self>, routed: &Served) -> Box<dyn Streamed>;
    /// Begins a whole answer.
    fn whole(self: Box<Self>, routed: Served) -> Box<dyn Gathered>;
}

/// A stream of events in one format.
pub trait Streamed: Send {
    /// The events that follow from a piece; possibly none.
    fn events(&mut self, piece: Piece) -> String;
    /// The event that ends the stream with an error.
    fn error(&mut self, error: &ApiError) -> String;
    /// What is sent while there is nothing to say.
    fn keep_alive(&self) -> &'static str {
        KEEP_ALIVE
    }
}

/// A whole answer in one format, while it is collected.
pub trait Gathered: Send {
    /// Processes the next piece, which is no failure.
    fn take(&mut self, piece: Piece);
    /// Who answers, as far as is known.
    fn served(&self) -> &Served;
    /// The answer, as JSON text.
    fn json(self: Box<Self>) -> Result<String, serde_json::Error>;
}
