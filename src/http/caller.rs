//! Who sends a request: address, verified key, and what the request has used so far.
//!
//! The checks around the routes put this into the request; handlers read it. It decides nothing.

use super::Peer;
use crate::access::Key;
use crate::serving::Meter;
use axum::body::{Body, Bytes, HttpBody};
use axum::extract::FromRequestParts;
use axum::http::request::Parts;
use axum::response::Response;
use http_body_util::BodyExt;
use hyper::body::{Frame, SizeHint};
use parking_lot::Mutex;
use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

/// The sender of a request.
#[derive(Debug, Clone, Default)]
pub struct Caller {
    /// Its address, if a socket is involved.
    pub peer: Option<Peer>,
    /// Its key, if it has shown a valid one.
    pub key: Option<Arc<Key>>,
    /// What the request uses.
    pub spent: Spent,
}

/// A verified key.
#[derive(Debug, Clone)]
pub struct Verified(pub Arc<Key>);

impl<S: Sync> FromRequestParts<S> for Caller {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Caller, Infallible> {
        let found = &parts.extensions;
        Ok(Caller {
            peer: found.get::<Peer>().copied(),
            key: found.get::<Verified>().map(|verified| verified.0.clone()),
            spent: found.get::<Spent>().cloned().unwrap_or_default(),
        })
    }
}

/// What one request has used so far, while and after it runs. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Spent {
    meters: Arc<Mutex<Vec<Arc<Meter>>>>,
}

impl Spent {
    /// The meter of one more generation.
    pub fn meter(&self) -> Arc<Meter> {
        let meter = Arc::new(Meter::default());
        self.meters.lock().push(meter.clone());
        meter
    }

    /// Tokens of prompts and of replies; `None` if nothing was to be generated.
    pub fn tokens(&self) -> Option<(u64, u64)> {
        let meters = self.meters.lock();
        let sum = |of: fn(&Meter) -> u64| meters.iter().map(|meter| of(meter)).sum::<u64>();
        (!meters.is_empty()).then(|| (sum(Meter::prompt), sum(Meter::completion)))
    }
}

/// Keeps `kept` until the response has been sent to its end, or is dropped.
pub fn until_sent<T: Send + Unpin + 'static>(response: Response, kept: T) -> Response {
    response.map(|body| Body::new(Holding { body, _kept: kept }))
}

struct Holding<T> {
    body: Body,
    _kept: T,
}

impl<T: Unpin> HttpBody for Holding<T> {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut self.body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// Reads and discards a body of at most `most` bytes, so that its sender gets to read a refusal.
pub async fn discard(mut body: Body, most: u64) {
    let mut taken = 0;
    while let Some(Ok(frame)) = body.frame().await {
        taken += frame.data_ref().map_or(0, |data| data.len() as u64);
        if taken > most {
            return;
        }
    }
}
