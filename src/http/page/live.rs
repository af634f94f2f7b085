//! `GET /admin/live`: the status and the figures for plots, once a second, as server-sent events.
//!
//! The first event, `history`, has the points that are kept; a listener that reconnects with `Last-Event-ID` gets only
//! the later ones. Each later event, `sample`, has one point and the whole status. A listener that cannot keep up is
//! disconnected, and can reconnect. Nothing here can delay the server.

use super::super::{AppState, Lifecycle, Phase, sse};
use super::history::{History, Point, names, values};
use crate::control::Status;
use crate::serving::Gateway;
use axum::Extension;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::{HeaderMap, HeaderName};
use axum::response::Response;
use futures_util::StreamExt;
use futures_util::stream::once;
use parking_lot::Mutex;
use serde_json::json;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use tokio::sync::broadcast;
use tokio_stream::wrappers::BroadcastStream;

const LAST_EVENT_ID: HeaderName = HeaderName::from_static("last-event-id");
/// Time between two points.
const EVERY: Duration = Duration::from_secs(1);
/// Points that a listener may fall behind.
const BEHIND: usize = 16;

/// The figures of this process, and whoever listens to them. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Live {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    /// Tells this process's points from those of the one before.
    process: String,
    history: Mutex<History>,
    out: broadcast::Sender<Bytes>,
}

impl Default for Live {
    /// No point yet.
    fn default() -> Live {
        let (process, out) =
            (uuid::Uuid::new_v4().simple().to_string(), broadcast::channel(BEHIND).0);
        Live { shared: Arc::new(Shared { process, history: Mutex::default(), out }) }
    }
}

impl Live {
    /// Adds a point a second from now on, for as long as the process lives. Must be called within a tokio runtime.
    pub fn watch(&self, gateway: Gateway) {
        let live = self.clone();
        tokio::spawn(async move {
            let mut interval = tokio::time::interval(EVERY);
            interval.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Skip);
            let mut before: Option<(Status, Instant)> = None;
            loop {
                interval.tick().await;
                let (status, now) = (gateway.status(), Instant::now());
                let seconds = before.as_ref().map_or(0.0, |(_, at)| (now - *at).as_secs_f64());
                let earlier = before.as_ref().map(|(status, _)| status);
                live.add(unix_ms(), values(&status, earlier, seconds), &status);
                before = Some((status, now));
            }
        });
    }

    fn add(&self, at: u64, values: Vec<f32>, status: &Status) {
        let mut history = self.shared.history.lock();
        let point = history.push(at, values);
        if self.shared.out.receiver_count() > 0 {
            let event = self.sample(&point, status);
            // Sent under the lock, so that no listener sees a point twice or misses one.
            let _ = self.shared.out.send(event);
        }
    }

    fn sample(&self, point: &Point, status: &Status) -> Bytes {
        let data = json!({"point": point, "status": status});
        event(&self.id(point.number), "sample", &data.to_string())
    }

    /// The points after the one with this id, if it is of this process, or all; and what follows.
    fn listen(&self, seen: Option<&str>) -> (Bytes, broadcast::Receiver<Bytes>) {
        let seen = seen.and_then(|id| id.strip_prefix(&self.shared.process)?.strip_prefix('-'));
        let seen: Option<u64> = seen.and_then(|number| number.parse().ok());
        let history = self.shared.history.lock();
        let (coarse, fine) = history.since(seen.unwrap_or(0));
        let data = json!({
            "continues": seen.is_some(), "names": names(), "coarse": coarse, "fine": fine,
            "version": env!("CARGO_PKG_VERSION"), "every_ms": EVERY.as_millis() as u64,
        });
        let first = event(&self.id(history.count), "history", &data.to_string());
        (first, self.shared.out.subscribe())
    }

    fn id(&self, number: u64) -> String {
        format!("{}-{number}", self.shared.process)
    }
}

fn event(id: &str, kind: &str, data: &str) -> Bytes {
    format!("id: {id}\nevent: {kind}\ndata: {data}\n\n").into()
}

fn unix_ms() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(now.as_millis()).unwrap_or(u64::MAX)
}

pub(super) async fn stream(
    State(state): State<AppState>,
    lifecycle: Option<Extension<Lifecycle>>,
    headers: HeaderMap,
) -> Response {
    let seen = headers.get(LAST_EVENT_ID).and_then(|id| id.to_str().ok());
    let (first, later) = state.live.listen(seen);
    // One that fell behind ends here: the listener comes back for what it missed.
    let later = BroadcastStream::new(later).take_while(|next| std::future::ready(next.is_ok()));
    let later = later.filter_map(|next| std::future::ready(next.ok()));
    let events = once(std::future::ready(first)).chain(later).map(Ok::<Bytes, Infallible>);
    let lifecycle = lifecycle.map(|lifecycle| lifecycle.0).unwrap_or_default();
    let events = events.take_until(async move { lifecycle.reached(Phase::CutOff).await });
    sse::response(events)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::status_for_tests as status;

    fn add(live: &Live, at: u64) {
        live.add(at, vec![0.0; names().len()], &status(json!({})));
    }

    fn text(bytes: &Bytes) -> &str {
        std::str::from_utf8(bytes).unwrap()
    }

    #[test]
    fn a_listener_that_comes_back_gets_what_it_missed() {
        let live = Live::default();
        (1..=3).for_each(|at| add(&live, at));
        let (first, mut later) = live.listen(None);
        assert!(text(&first).contains(r#""continues":false"#) && text(&first).contains("[1,2,3]"));
        add(&live, 4);
        let sample = later.try_recv().unwrap();
        assert!(text(&sample).contains(r#""at":4"#) && text(&sample).contains("tiny-v2"));
        add(&live, 5);
        let id = text(&sample).strip_prefix("id: ").unwrap().split('\n').next().unwrap();
        let (again, _) = live.listen(Some(id));
        assert!(text(&again).contains(r#""continues":true"#), "{}", text(&again));
        assert!(text(&again).contains(r#""at":[5]"#), "{}", text(&again));
        for other in ["", "x-4", "4", "-4"] {
            let (first, _) = live.listen(Some(other));
            assert!(text(&first).contains(r#""continues":false"#), "{other}");
        }
    }
}
