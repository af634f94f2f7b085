//! Request bodies: received within limits on size and time, then parsed as JSON.

use super::bodies::discard;
use super::wire::WireError;
use super::wire::fields::Fields;
use super::{AppState, bulk};
use axum::body::{Body, HttpBody};
use http_body_util::BodyExt;
use serde::de::DeserializeOwned;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, timeout, timeout_at};

/// Maximum time for a body to arrive.
const PATIENCE: Duration = Duration::from_secs(60);
/// After this time, a body must have arrived at its minimum rate.
const GRACE: Duration = Duration::from_secs(5);
/// Minimum rate in bytes per second: of a small body, and of a large one, which others may have to wait for.
const LEAST_RATE: u64 = 1 << 10;
const LEAST_RATE_LARGE: u64 = 64 << 10;
/// For how many bytes a client may continue to send a body that is too long.
const LINGER_BYTES: u64 = 256 << 20;
/// A body up to this length is small and does not wait for others.
pub(super) const SMALL: usize = 64 << 10;
/// Granularity of the memory for large bodies.
const STEP: usize = 64 << 10;
/// How long a large body waits for its turn while others use all the memory.
const TURN: Duration = Duration::from_secs(10);
/// After a large body, its memory stays reserved for this long per step. Otherwise, clients that send
/// megabytes and leave would take processor time from requests that wait for tokens.
const PACE: Duration = Duration::from_micros(2500);

/// The memory for all large bodies that are being received. Bodies take turns, and each reserves memory for
/// its whole length. If memory were given out piece by piece, many bodies could hold some and none could
/// finish.
#[derive(Debug, Clone)]
pub struct Intake {
    room: Arc<Semaphore>,
    steps: usize,
    large: Arc<AtomicBool>,
}

impl Intake {
    /// Memory of `bytes` for large bodies.
    pub fn new(bytes: usize) -> Intake {
        let steps = bytes.div_ceil(STEP).clamp(1, u32::MAX as usize);
        let room = Arc::new(Semaphore::new(steps));
        Intake { room, steps, large: Arc::default() }
    }

    /// Reserves memory for a body of this length; a body larger than the total reserves all of it.
    async fn take(&self, bytes: usize) -> Result<Room, WireError> {
        self.large.store(true, Ordering::Relaxed);
        let steps = bytes.div_ceil(STEP).min(self.steps) as u32;
        let room = timeout(TURN, self.room.clone().acquire_many_owned(steps)).await;
        let room = room.ok().and_then(Result::ok).ok_or(WireError::Crowded)?;
        Ok(Room { late: PACE * steps, room: Some(room) })
    }

    /// Whether there was a large body since the last call. If so, the allocator may hold on to memory.
    pub fn had_large(&self) -> bool {
        self.large.swap(false, Ordering::Relaxed)
    }
}

#[derive(Debug)]
struct Room {
    room: Option<OwnedSemaphorePermit>,
    late: Duration,
}

impl Drop for Room {
    fn drop(&mut self) {
        let (room, late) = (self.room.take(), self.late);
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn(async move {
                tokio::time::sleep(late).await;
                drop(room);
            });
        }
    }
}

/// A body, with its reserved memory until it is dropped.
#[derive(Debug)]
pub struct Received {
    pub bytes: Vec<u8>,
    _room: Option<Room>,
}

/// Receives a body of at most `limit` bytes. Fails if it is longer, comes too slowly, breaks off, or if too many large
/// ones are arriving.
pub async fn receive(mut body: Body, limit: usize, intake: &Intake) -> Result<Received, WireError> {
    let announced = usize::try_from(body.size_hint().lower()).unwrap_or(usize::MAX);
    if announced > limit {
        return Err(refuse(body, limit).await);
    }
    let (mut bytes, mut room) = (Vec::new(), None);
    if announced > SMALL {
        room = Some(intake.take(announced).await?);
        bytes.reserve_exact(announced);
    }
    let mut begun = Instant::now();
    loop {
        let rate = if room.is_some() { LEAST_RATE_LARGE } else { LEAST_RATE };
        let left = PATIENCE.min(GRACE + Duration::from_millis(bytes.len() as u64 * 1000 / rate));
        let frame = timeout_at(begun + left, body.frame()).await;
        match frame.map_err(|_| WireError::Slow { seconds: left.as_secs() })? {
            None => return Ok(Received { bytes, _room: room }),
            Some(Err(_)) => return Err(WireError::Broken),
            Some(Ok(frame)) => {
                let data = frame.into_data().unwrap_or_default();
                let length = bytes.len() + data.len();
                if length > limit {
                    return Err(refuse(body, limit).await);
                }
                if room.is_none() && length > SMALL {
                    // Of unknown length. The time spent waiting for other bodies does not count against the
                    // client.
                    let asked = Instant::now();
                    room = Some(intake.take(limit).await?);
                    begun += asked.elapsed();
                }
                bytes.extend_from_slice(&data);
            }
        }
    }
}

/// Discards the rest of a body that is too long.
async fn refuse(body: Body, limit: usize) -> WireError {
    discard(body, LINGER_BYTES).await;
    WireError::TooLarge { limit }
}

impl Received {
    /// Parses a JSON object, to be read field by field; a large one is parsed at low priority. Fails if it is not a
    /// JSON object.
    pub async fn fields(self) -> Result<Fields, WireError> {
        if self.bytes.len() <= SMALL {
            return Fields::parse(&self.bytes);
        }
        // If the client has disconnected in the meantime, this is noticed when the connection is polled next.
        tokio::task::yield_now().await;
        bulk::compute(move || Fields::parse(&self.bytes)).await.unwrap_or(Err(WireError::Broken))
    }
}

/// Receives a JSON object, to be read field by field. Fails as [`receive`] and [`Received::fields`] do.
pub async fn fields(state: &AppState, body: Body) -> Result<Fields, WireError> {
    receive(body, state.body_limit, &state.intake).await?.fields().await
}

/// Receives a JSON object of a known type; an empty body is an empty object. Fails as [`receive`] does, and if the body
/// is not of that type.
pub async fn typed<T: DeserializeOwned>(body: Body, limit: usize) -> Result<T, WireError> {
    // Operators' orders are short and wait for nothing.
    let Received { bytes, .. } = receive(body, limit.min(SMALL), &Intake::new(0)).await?;
    let bytes: &[u8] = if bytes.trim_ascii().is_empty() { b"{}" } else { &bytes };
    serde_json::from_slice(bytes).map_err(|error| WireError::Malformed { what: error.to_string() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::stream;
    use std::io;

    const LIMIT: usize = 4 * STEP;
    const SOON: Duration = Duration::from_millis(50);

    fn of_known_length(bytes: usize) -> Body {
        Body::from(vec![b' '; bytes])
    }

    fn of_unknown_length(bytes: usize) -> Body {
        let pieces =
            (0..bytes).step_by(1 << 10).map(move |at| vec![b' '; (bytes - at).min(1 << 10)]);
        Body::from_stream(stream::iter(pieces.map(Ok::<_, io::Error>)))
    }

    #[tokio::test]
    async fn bodies_are_received_up_to_the_limit_and_not_beyond() {
        let intake = Intake::new(LIMIT);
        for bytes in [0, 1, SMALL, SMALL + 1, LIMIT] {
            for body in [of_known_length(bytes), of_unknown_length(bytes)] {
                assert_eq!(receive(body, LIMIT, &intake).await.unwrap().bytes.len(), bytes);
            }
        }
        for body in [of_known_length(LIMIT + 1), of_unknown_length(LIMIT + 1)] {
            let error = receive(body, LIMIT, &intake).await.unwrap_err();
            assert_eq!(error, WireError::TooLarge { limit: LIMIT });
        }
    }

    #[tokio::test]
    async fn large_bodies_wait_for_each_other_and_small_ones_for_nobody() {
        for large in [of_known_length, of_unknown_length] {
            let intake = Intake::new(LIMIT);
            let first = receive(large(LIMIT), LIMIT, &intake).await.unwrap();
            let second = receive(large(LIMIT), LIMIT, &intake);
            let mut second = std::pin::pin!(second);
            assert!(timeout(SOON, &mut second).await.is_err(), "there is no room for it yet");
            receive(of_known_length(SMALL), LIMIT, &intake).await.unwrap();
            drop(first);
            assert_eq!(second.await.unwrap().bytes.len(), LIMIT);
        }
    }

    #[tokio::test]
    async fn who_leaves_while_it_waits_takes_no_room() {
        let intake = Intake::new(LIMIT);
        let first = receive(of_known_length(LIMIT), LIMIT, &intake).await.unwrap();
        for _ in 0..20 {
            let left = receive(of_known_length(LIMIT), LIMIT, &intake);
            assert!(timeout(Duration::from_millis(1), left).await.is_err());
        }
        drop(first);
        receive(of_known_length(LIMIT), LIMIT, &intake).await.unwrap();
    }

    #[tokio::test]
    async fn a_body_larger_than_all_the_room_is_received_by_itself() {
        let intake = Intake::new(STEP);
        for large in [of_known_length, of_unknown_length] {
            assert_eq!(receive(large(LIMIT), LIMIT, &intake).await.unwrap().bytes.len(), LIMIT);
        }
    }
}
