//! The path of a generation, the same for every endpoint: from a request body to a response, streamed or not.
//!
//! The first piece determines the status of a response: a failure before the first token gets its own error status. But
//! a client must not wait for headers forever. After [`PATIENCE`] the headers are sent anyway, and a later failure is
//! reported inside the stream. Dropping the handler's future or the response's body cancels the generation, so nothing
//! here outlives its client.

use super::caller::Caller;
use super::format::{Endpoint, Format, KEEP_ALIVE, PreparedRequest, Streamed};
use super::replies::Replies;
use super::status_codes::ApiError;
use super::wire::WireError;
use super::wire::common::{Envelope, Rules, arm_named};
use super::{AppState, Lifecycle, Phase, authorize, body, sse, unix_now};
use crate::rollout::Arm;
use crate::serving::{Piece, Prompt, Served};
use axum::Extension;
use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::http::{HeaderMap, HeaderName, HeaderValue, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{MethodRouter, post};
use futures_util::FutureExt;
use std::convert::Infallible;
use std::net::IpAddr;
use std::pin::Pin;
use std::time::{Duration, Instant};
use tokio::time::{Instant as Deadline, Sleep, sleep_until, timeout};
use xxhash_rust::xxh3::{xxh3_64, xxh3_64_with_seed};

/// How long a client waits for headers, and how long a stream may be silent.
const PATIENCE: Duration = Duration::from_secs(5);

const SESSION: HeaderName = HeaderName::from_static("x-serin-session");
const VARIANT: HeaderName = HeaderName::from_static("x-serin-variant");
pub(super) const ARM: HeaderName = HeaderName::from_static("x-serin-arm");
pub(super) const VERSION: HeaderName = HeaderName::from_static("x-serin-version");
pub(super) const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
const ACCEL_BUFFERING: HeaderName = HeaderName::from_static("x-accel-buffering");

/// The handler of an endpoint.
pub fn route(endpoint: &'static Endpoint) -> MethodRouter<AppState> {
    post(
        async move |State(state): State<AppState>,
                    caller: Caller,
                    lifecycle: Option<Extension<Lifecycle>>,
                    headers: HeaderMap,
                    body: Body| {
            answer(&state, endpoint, &caller, lifecycle, &headers, body).await
        },
    )
}

async fn answer(
    state: &AppState,
    endpoint: &Endpoint,
    caller: &Caller,
    lifecycle: Option<Extension<Lifecycle>>,
    headers: &HeaderMap,
    body: Body,
) -> Response {
    let arrived = Instant::now();
    let lifecycle = lifecycle.map(|lifecycle| lifecycle.0).unwrap_or_default();
    let id = format!("{}{}", endpoint.id_prefix, uuid::Uuid::new_v4().simple());
    let request_id = id.clone();
    let answered = async {
        let received = body::receive(body, state.body_limit, &state.intake).await?;
        let room = state.gateway.check_room();
        room.map_err(|error| ApiError::gateway(&error, endpoint.prompt))?;
        let mut fields = received.fields().await?;
        let mut envelope = envelope(headers, caller, id.clone(), arrived)?;
        envelope.marked = state.stable_for.covers(headers, fields.peek("metadata"));
        let models = state.gateway.control().models();
        let rules = Rules { served: &models.name, limits: state.gateway.limits() };
        let mut prepared = (endpoint.read)(&mut fields, envelope, rules, unix_now())?;
        prepared.requests.iter_mut().for_each(|request| request.meter = Some(caller.spent.meter()));
        record(state, &prepared);
        generate(state, prepared, lifecycle).await
    };
    let mut response = answered.await.unwrap_or_else(ApiError::into_response);
    put(&mut response, REQUEST_ID, &request_id);
    response
}

/// Records the conversation, if the operator records any and the client has agreed.
fn record(state: &AppState, prepared: &PreparedRequest) {
    let Some(recorder) = state.recorder.as_ref().filter(|_| prepared.store) else { return };
    for request in &prepared.requests {
        if let Prompt::Chat { messages, .. } = &request.prompt {
            recorder.record(messages, request.max_tokens);
        }
    }
}

async fn generate(
    state: &AppState,
    prepared: PreparedRequest,
    lifecycle: Lifecycle,
) -> Result<Response, ApiError> {
    let PreparedRequest { requests, n, streamed: as_stream, format, .. } = prepared;
    let names = format.names();
    let sequences = n as usize * requests.len();
    let fits = state.gateway.check_sequences(sequences);
    fits.map_err(|error| ApiError::named(&error, &names))?;
    let replies = Replies::start(requests, n, |request| state.gateway.generate(request)).await;
    let replies = replies.map_err(|error| ApiError::named(&error, &names))?;
    Ok(match as_stream {
        true => streamed(format, replies, PATIENCE, lifecycle).await,
        false => whole(format, replies).await,
    })
}

/// Waits for the first piece, for a limited time, and answers with a stream of events.
async fn streamed(
    format: Box<dyn Format>,
    mut replies: Replies,
    patience: Duration,
    lifecycle: Lifecycle,
) -> Response {
    let first = timeout(patience, replies.next()).await.ok().flatten();
    let served = match &first {
        Some(Piece::Failed(error)) => {
            let error = ApiError::named(error, &format.names());
            return named(error.into_response(), &replies.routed);
        }
        Some(Piece::Start(served, _)) => served.clone(),
        _ => replies.routed.clone(),
    };
    let mut stream = format.stream(&served);
    let opening = match first {
        Some(piece) => stream.events(piece),
        None => KEEP_ALIVE.to_owned(),
    };
    let feed = Feed::new(replies, stream, opening, patience, lifecycle);
    let events = futures_util::stream::unfold(feed, async |mut feed| {
        let bytes = feed.next().await?;
        Some((Ok::<Bytes, Infallible>(bytes), feed))
    });
    let mut response = sse::response(events);
    response.headers_mut().insert(ACCEL_BUFFERING, HeaderValue::from_static("no"));
    named(response, &served)
}

/// Collects the answer and sends it as one response.
async fn whole(format: Box<dyn Format>, mut replies: Replies) -> Response {
    let names = format.names();
    let mut whole = format.whole(replies.routed.clone());
    while let Some(piece) = replies.next().await {
        if let Piece::Failed(error) = piece {
            return named(ApiError::named(&error, &names).into_response(), whole.served());
        }
        whole.take(piece);
    }
    let served = whole.served().clone();
    let kind = [(header::CONTENT_TYPE, HeaderValue::from_static("application/json"))];
    let json = whole.json().map_err(|error| ApiError::internal(&error));
    let response = json.map_or_else(ApiError::into_response, |json| (kind, json).into_response());
    named(response, &served)
}

/// A stream of events in progress. Its timer and its watch over the server's shutdown last as long as the stream: made anew
/// for each token, they would be registered and removed with each.
struct Feed {
    replies: Replies,
    stream: Box<dyn Streamed>,
    opening: Option<String>,
    patience: Duration,
    sent: Deadline,
    /// Fires when the stream may have been silent for too long.
    silence: Pin<Box<Sleep>>,
    /// Resolves when the server's shutdown cuts replies off.
    cut_off: Pin<Box<dyn Future<Output = ()> + Send>>,
    /// It has cut this one off.
    over: bool,
}

impl Feed {
    fn new(
        replies: Replies,
        stream: Box<dyn Streamed>,
        opening: String,
        patience: Duration,
        lifecycle: Lifecycle,
    ) -> Feed {
        let sent = Deadline::now();
        Feed {
            replies,
            stream,
            opening: Some(opening),
            patience,
            sent,
            silence: Box::pin(sleep_until(sent + patience)),
            cut_off: Box::pin(async move { lifecycle.reached(Phase::CutOff).await }),
            over: false,
        }
    }

    /// The next bytes to write: events, or a comment after a while without events.
    async fn next(&mut self) -> Option<Bytes> {
        if let Some(opening) = self.opening.take().filter(|opening| !opening.is_empty()) {
            return Some(opening.into());
        }
        if self.over {
            return None;
        }
        loop {
            let silent_until = self.sent + self.patience;
            tokio::select! {
                biased;
                () = &mut self.cut_off => {
                    self.over = true;
                    // A reply that had already finished is not reported as failed.
                    let finished = matches!(self.replies.next().now_or_never(), Some(None));
                    return (!finished).then(|| self.stream.error(&ApiError::stopping()).into());
                }
                piece = self.replies.next() => {
                    let events = self.stream.events(piece?);
                    if !events.is_empty() {
                        self.sent = Deadline::now();
                        return Some(events.into());
                    }
                    // Pieces without an event (a tool call in progress) must not keep the stream silent.
                    if Deadline::now() >= silent_until {
                        return Some(self.keep_alive());
                    }
                }
                () = &mut self.silence => {
                    if Deadline::now() >= silent_until {
                        return Some(self.keep_alive());
                    }
                    self.silence.as_mut().reset(silent_until);
                }
            }
        }
    }

    fn keep_alive(&mut self) -> Bytes {
        self.sent = Deadline::now();
        self.silence.as_mut().reset(self.sent + self.patience);
        Bytes::from_static(self.stream.keep_alive().as_bytes())
    }
}

fn envelope(
    headers: &HeaderMap,
    caller: &Caller,
    id: String,
    arrived: Instant,
) -> Result<Envelope, WireError> {
    let session = text(headers, &SESSION)?.map(str::to_owned);
    let variant = text(headers, &VARIANT)?.map(variant).transpose()?;
    let peer = caller.peer.map(|peer| peer.0.ip());
    let key = caller.key.as_ref().map(|key| key.id.clone());
    let (party, client) = match &key {
        // A verified key is one party wherever it comes from.
        Some(key) => (Some(xxh3_64(key.as_bytes())), xxh3_64(key.as_bytes())),
        None => {
            let shown = authorize::shown(headers).fold(0, |seed, key| xxh3_64_with_seed(key, seed));
            let from = peer.map(|ip| ip.to_string()).unwrap_or_default();
            (peer.map(party), xxh3_64_with_seed(from.as_bytes(), shown))
        }
    };
    Ok(Envelope { id, arrived, session, variant, marked: false, party, client, key })
}

/// Hash of what a sender without a verified key cannot change at will. What it shows as a key does not count; within
/// its /64 network, a sender has any number of IPv6 addresses.
fn party(address: IpAddr) -> u64 {
    match address.to_canonical() {
        IpAddr::V4(ip) => xxh3_64(&ip.octets()),
        IpAddr::V6(ip) => xxh3_64(&ip.octets()[..8]),
    }
}

fn variant(name: &str) -> Result<Arm, WireError> {
    let what = || format!("'{name}' is neither stable nor canary");
    arm_named(name).ok_or_else(|| WireError::bad(VARIANT.as_str(), what()))
}

/// A header's text; an empty one counts as missing.
fn text<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Result<Option<&'a str>, WireError> {
    let Some(value) = headers.get(name) else { return Ok(None) };
    let bad = |_| WireError::bad(name.as_str(), "it must be plain ASCII text");
    value.to_str().map(|text| Some(text.trim()).filter(|text| !text.is_empty())).map_err(bad)
}

/// Adds the answering arm and version to the headers.
fn named(mut response: Response, served: &Served) -> Response {
    put(&mut response, ARM, served.arm.as_str());
    put(&mut response, VERSION, &served.version);
    response
}

fn put(response: &mut Response, name: HeaderName, value: &str) {
    // If a folder's name contains characters that a header cannot, the header is left out.
    if let Ok(value) = HeaderValue::from_bytes(value.as_bytes()) {
        response.headers_mut().insert(name, value);
    }
}

#[cfg(test)]
mod tests;
