//! Sockets: accepted within limits, served with deadlines, closed gracefully.
//!
//! serin has its own accept loop, because the usual one has no deadline for request headers: a client that sends one
//! byte per minute could hold a connection forever. When all connections are in use, one without a complete request is
//! closed ([`room`]). If all of them are serving requests, a few more are accepted for probes, and all other requests
//! on these get a 503 ([`OverLimit`]). If a client stops reading its reply, its connection is closed after a timeout.
//! Handlers get the client's address from [`Peer`] and the server's phase from [`Lifecycle`].

mod pending;
mod room;

use super::bodies::until_sent;
use super::bulk;
use super::lifecycle::{Lifecycle, Phase};
use crate::metrics;
use axum::Router;
use axum::body::Body;
use axum::extract::Request;
use hyper::body::{Body as _, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::{GracefulConnection, GracefulShutdown};
use ipnet::IpNet;
use room::{Answering, Arriving, CloseOrder, Place, Room};
use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio_io_timeout::TimeoutStream;
use tower::ServiceExt;

/// The address of a request's sender; absent if no socket is involved.
#[derive(Debug, Clone, Copy)]
pub struct Peer(pub SocketAddr);

/// Marks a request on one of the connections beyond the limit.
#[derive(Debug, Clone, Copy)]
pub struct OverLimit;

/// Limits on connections.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bounds {
    /// Maximum number of connections.
    pub connections: usize,
    /// Maximum number of connections per client without a complete request.
    pub pending_per_client: usize,
    /// Addresses that forward for many clients, to which the limit per client does not apply.
    pub trusted: Vec<IpNet>,
    /// Maximum time for the headers of a connection's first request.
    pub headers: Duration,
    /// Maximum time from the end of one request to the headers of the next.
    pub keep_alive: Duration,
    /// Maximum time that a client may not read its reply; then it counts as disconnected.
    pub unread: Duration,
    /// The phase of the shutdown in which the listener closes.
    pub until: Phase,
}

impl Default for Bounds {
    fn default() -> Bounds {
        Bounds {
            connections: 4096,
            pending_per_client: 256,
            trusted: Vec::new(),
            headers: Duration::from_secs(10),
            keep_alive: Duration::from_secs(75),
            unread: Duration::from_secs(60),
            until: Phase::Draining,
        }
    }
}

/// Pause after an accept error, which occurs when file descriptors run out.
const RECOVERY: Duration = Duration::from_millis(100);
/// How long replies that were cut off may take to reach their clients.
const LAST_WORDS: Duration = Duration::from_secs(1);
/// How long a connection that is to be closed has to show that a request was on its way.
const LAST_CHANCE: Duration = Duration::from_millis(100);
/// Maximum number of connections in that state at a time. Each needs a file descriptor.
const LAST_CHANCES: usize = 256;
/// Maximum number of bytes read from a connection before a handler reads them; at most a request's headers.
const READ_AHEAD: usize = 64 << 10;
/// Sent to connections for which there is not even a spare place.
const FULL: &[u8] =
    b"HTTP/1.1 503 Service Unavailable\r\nconnection: close\r\nretry-after: 1\r\ncontent-length: 0\r\n\r\n";

/// Serves `app` until the shutdown reaches the phase in the limits, then lets running requests finish until
/// they are cut off.
pub async fn serve(listener: TcpListener, app: Router, bounds: Bounds, lifecycle: Lifecycle) {
    let room = Room::new(bounds);
    let chances = Arc::new(Semaphore::new(LAST_CHANCES));
    let (graceful, mut connections) = (GracefulShutdown::new(), JoinSet::new());
    let mut closing = pin!(lifecycle.reached(room.bounds.until));
    loop {
        let (stream, peer) = tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok(accepted) => accepted,
                Err(error) => {
                    recover(&error).await;
                    continue;
                }
            },
            () = &mut closing => break,
        };
        while connections.try_join_next().is_some() {}
        let Some(place) = room.take(peer.ip()) else {
            metrics::connection_closed("full");
            // As much as the socket accepts without waiting.
            let _ = stream.try_write(FULL);
            continue;
        };
        let connection = connection(stream, app.clone(), Peer(peer), &place, &room, &lifecycle);
        let (connection, bulky) = (graceful.watch(connection), place.bulky.clone());
        let connection = follow(connection, place, room.clone(), chances.clone());
        connections.spawn(bulk::drive(connection, bulky));
    }
    drop(listener);
    let mut finished = pin!(graceful.shutdown());
    tokio::select! {
        () = &mut finished => {}
        () = lifecycle.reached(Phase::CutOff) => {
            let _ = tokio::time::timeout(LAST_WORDS, finished).await;
        }
    }
    connections.shutdown().await;
}

/// Serves one connection to its end, or until it has to close for another.
async fn follow(
    connection: impl Future<Output = Result<(), hyper::Error>>,
    place: Arc<Place>,
    room: Arc<Room>,
    chances: Arc<Semaphore>,
) {
    let mut connection = pin!(connection);
    let mut late = pin!(tokio::time::sleep(room.bounds.headers));
    let mut first = true;
    loop {
        tokio::select! {
            // Polled first: a request that has arrived is read before the connection is closed.
            biased;
            ended = &mut connection => return note(ended),
            () = place.asked_to_leave() => {
                if let Ok(_chance) = chances.try_acquire()
                    && let Ok(ended) = tokio::time::timeout(LAST_CHANCE, &mut connection).await
                {
                    return note(ended);
                }
                if place.close_order() == CloseOrder::Leave {
                    return metrics::connection_closed("silent");
                }
            }
            () = &mut late, if first => {
                first = false;
                if !place.begun() {
                    return metrics::connection_closed("late");
                }
            }
        }
    }
}

fn note(ended: Result<(), hyper::Error>) {
    if let Err(error) = ended {
        tracing::debug!(%error, "a connection ended early");
    }
}

/// A client that disconnected before it was accepted is no reason to wait; any other error is.
async fn recover(error: &io::Error) {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset, InvalidInput};
    let theirs = [ConnectionAborted, ConnectionRefused, ConnectionReset, InvalidInput];
    if !theirs.contains(&error.kind()) {
        tracing::error!(%error, "accepting a connection failed");
        tokio::time::sleep(RECOVERY).await;
    }
}

fn connection(
    stream: TcpStream,
    app: Router,
    peer: Peer,
    place: &Arc<Place>,
    room: &Arc<Room>,
    lifecycle: &Lifecycle,
) -> impl GracefulConnection<Error = hyper::Error> + use<> {
    let _ = stream.set_nodelay(true);
    let (place, lifecycle) = (place.clone(), lifecycle.clone());
    let service = service_fn(move |request: hyper::Request<Incoming>| {
        place.begin(request.body().is_end_stream());
        let (arriving, answering) = (place.clone(), place.clone());
        let mut request: Request = request.map(|body| Body::new(Arriving::new(body, arriving)));
        request.extensions_mut().insert(peer);
        request.extensions_mut().insert(lifecycle.clone());
        if place.spare {
            request.extensions_mut().insert(OverLimit);
        }
        let answered = app.clone().oneshot(request);
        async move {
            let answer = answered.await?;
            Ok::<_, std::convert::Infallible>(until_sent(answer, Answering(answering)))
        }
    });
    let mut stream = TimeoutStream::new(stream);
    stream.set_write_timeout(Some(room.bounds.unread));
    http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(room.bounds.keep_alive)
        .max_buf_size(READ_AHEAD)
        .serve_connection(TokioIo::new(Box::pin(stream)), service)
}
