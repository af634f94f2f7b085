//! The sender of a request: address, verified key, and the tokens used so far.
//!
//! The checks around the routes attach this to the request, and handlers read it. It decides nothing.

use super::Peer;
use crate::access::Key;
use crate::serving::Meter;
use axum::extract::FromRequestParts;
use axum::http::request::Parts;
use parking_lot::Mutex;
use std::convert::Infallible;
use std::sync::Arc;

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
