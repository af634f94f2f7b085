//! Request bodies: received within a size and a time, then read as JSON.

use super::AppState;
use super::wire::WireError;
use super::wire::fields::Fields;
use axum::body::{Body, HttpBody};
use http_body_util::BodyExt;
use serde::de::DeserializeOwned;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, timeout, timeout_at};

/// How long a body may take to arrive.
const PATIENCE: Duration = Duration::from_secs(60);
/// After this time a body has to have come at [`LEAST_RATE`].
const GRACE: Duration = Duration::from_secs(5);
/// Bytes per second.
const LEAST_RATE: u64 = 1024;
/// How long, and for how many bytes, a client may go on to write a body that is refused. It would otherwise
/// find its connection broken and never read why.
const LINGER: Duration = Duration::from_secs(5);
const LINGER_BYTES: u64 = 256 << 20;
/// Bytes of a body that are not counted against what all bodies may take, so that large ones do not keep small
/// ones waiting.
const FREE: usize = 64 << 10;
/// In what steps the rest is counted.
const STEP: usize = 64 << 10;
/// How long a body waits for its turn while others take all that there is.
const TURN: Duration = Duration::from_secs(10);

/// Memory for bodies that are being received, in all.
#[derive(Debug, Clone)]
pub struct Intake {
    room: Arc<Semaphore>,
    large: Arc<AtomicBool>,
}

impl Intake {
    /// Room for `bytes` of bodies beyond the first 64 KiB of each.
    pub fn new(bytes: usize) -> Intake {
        let steps = bytes.div_ceil(STEP).min(Semaphore::MAX_PERMITS);
        Intake { room: Arc::new(Semaphore::new(steps)), large: Arc::default() }
    }

    /// Room for a step more; `None` if others hold all of it for too long.
    async fn step(&self) -> Option<OwnedSemaphorePermit> {
        self.large.store(true, Ordering::Relaxed);
        timeout(TURN, self.room.clone().acquire_owned()).await.ok()?.ok()
    }

    /// Whether there was a large body since this was last asked: the allocator may hold on to what it took.
    pub fn had_large(&self) -> bool {
        self.large.swap(false, Ordering::Relaxed)
    }
}

/// What a step more of a body costs everybody else: its room comes back so much later. Without it, clients that send
/// megabytes and leave take the processors from those who wait for a token.
const PACE: Duration = Duration::from_micros(625);

/// The room that a body takes.
#[derive(Debug, Default)]
struct Room(Vec<OwnedSemaphorePermit>);

impl Drop for Room {
    fn drop(&mut self) {
        let steps = std::mem::take(&mut self.0);
        let late = PACE * u32::try_from(steps.len()).unwrap_or(u32::MAX);
        if let (false, Ok(runtime)) = (steps.is_empty(), tokio::runtime::Handle::try_current()) {
            runtime.spawn(async move {
                tokio::time::sleep(late).await;
                drop(steps);
            });
        }
    }
}

/// A body and the room that it takes until it is dropped.
pub struct Received {
    pub bytes: Vec<u8>,
    _room: Room,
}

/// Receives a body of at most `limit` bytes.
pub async fn receive(mut body: Body, limit: usize, intake: &Intake) -> Result<Received, WireError> {
    if body.size_hint().lower() > limit as u64 {
        return Err(refuse(body, limit).await);
    }
    let (mut begun, mut whole, mut room) = (Instant::now(), Vec::new(), Room::default());
    loop {
        let earned = Duration::from_millis(whole.len() as u64 * 1000 / LEAST_RATE);
        let left = PATIENCE.min(GRACE + earned);
        let frame = timeout_at(begun + left, body.frame()).await;
        match frame.map_err(|_| WireError::Slow { seconds: left.as_secs() })? {
            None => return Ok(Received { bytes: whole, _room: room }),
            Some(Err(_)) => return Err(WireError::Broken),
            Some(Ok(frame)) => {
                let data = frame.into_data().unwrap_or_default();
                if whole.len() + data.len() > limit {
                    return Err(refuse(body, limit).await);
                }
                let asked = Instant::now();
                while whole.len() + data.len() > FREE + room.0.len() * STEP {
                    room.0.push(intake.step().await.ok_or(WireError::Crowded)?);
                }
                // Waiting for others is not the client's slowness.
                begun += asked.elapsed();
                whole.extend_from_slice(&data);
            }
        }
    }
}

/// Takes the rest of a body that is too long, within bounds, and throws it away.
async fn refuse(mut body: Body, limit: usize) -> WireError {
    let rest = async {
        let mut taken = 0;
        while let Some(Ok(frame)) = body.frame().await {
            taken += frame.data_ref().map_or(0, |data| data.len() as u64);
            if taken > LINGER_BYTES {
                break;
            }
        }
    };
    let _ = tokio::time::timeout(LINGER, rest).await;
    WireError::TooLarge { limit }
}

impl Received {
    /// Reads a JSON object, to be taken apart field by field; one that takes long not on an async thread.
    pub async fn fields(self) -> Result<Fields, WireError> {
        if self.bytes.len() <= FREE {
            return Fields::parse(&self.bytes);
        }
        let parsed = tokio::task::spawn_blocking(move || {
            // With its room, which is free once the bytes are.
            let received = self;
            Fields::parse(&received.bytes)
        });
        parsed.await.unwrap_or(Err(WireError::Broken))
    }
}

/// Receives a JSON object, to be taken apart field by field.
pub async fn fields(state: &AppState, body: Body) -> Result<Fields, WireError> {
    receive(body, state.body_limit, &state.intake).await?.fields().await
}

/// Receives a JSON object of a known type; an empty body is an empty object.
pub async fn typed<T: DeserializeOwned>(body: Body, limit: usize) -> Result<T, WireError> {
    // An operator's word is short, and waits for nobody.
    let Received { bytes, .. } = receive(body, limit.min(FREE), &Intake::new(0)).await?;
    let bytes: &[u8] = if bytes.trim_ascii().is_empty() { b"{}" } else { &bytes };
    serde_json::from_slice(bytes).map_err(|error| WireError::Malformed { what: error.to_string() })
}
