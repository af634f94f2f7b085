//! Sockets: accepted within bounds, served with deadlines, closed with grace.
//!
//! The accept loop is our own because the usual one sets no deadline for request headers, so that
//! a client which sends a byte a minute would hold a connection for ever. Connections are bounded by
//! permits. Beyond the bound a few more are accepted, for those who
//! look after the server: probes, metrics and operators are answered, everybody else is told to come
//! back ([`Spare`]). Beyond those too, clients wait in the system's backlog. A client that stops
//! reading its reply is let go after a while. Handlers learn the peer's address from [`Peer`].

use axum::Router;
use axum::body::Body;
use axum::extract::Request;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinSet;
use tokio_io_timeout::TimeoutStream;
use tower::ServiceExt;

/// The address that a request came from; in every request's extensions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Peer(pub SocketAddr);

/// In the extensions of requests on a connection beyond the bound.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Spare;

/// Connections beyond the bound.
const SPARE: usize = 32;

/// Bounds on connections.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bounds {
    /// Most connections at a time.
    pub connections: usize,
    /// Longest time for the headers of a request, and between two requests of one connection.
    pub headers: Duration,
    /// Longest time that a client may leave a reply unread; then it counts as gone.
    pub unread: Duration,
    /// How long running requests may go on after shutdown was asked for.
    pub grace: Duration,
}

impl Default for Bounds {
    fn default() -> Bounds {
        Bounds {
            connections: 4096,
            headers: Duration::from_secs(10),
            unread: Duration::from_secs(60),
            grace: Duration::from_secs(30),
        }
    }
}

/// Pause after the system refused to accept, which it does when descriptors run out.
const RECOVERY: Duration = Duration::from_millis(100);

/// Serves `app` until `shutdown` resolves, then lets running requests finish within the grace.
pub async fn serve(
    listener: TcpListener,
    app: Router,
    bounds: Bounds,
    shutdown: impl Future<Output = ()>,
) {
    let permits = Permits::new(bounds.connections);
    let (graceful, mut connections) = (GracefulShutdown::new(), JoinSet::new());
    let mut shutdown = pin!(shutdown);
    loop {
        let (stream, peer, permit) = tokio::select! {
            accepted = accept(&listener, &permits) => match accepted {
                Ok(accepted) => accepted,
                Err(error) => {
                    recover(&error).await;
                    continue;
                }
            },
            () = &mut shutdown => break,
        };
        while connections.try_join_next().is_some() {}
        let spare = permit.spare.then_some(Spare);
        let connection = connection(stream, app.clone(), Peer(peer), spare, bounds);
        let connection = graceful.watch(connection);
        connections.spawn(async move {
            if let Err(error) = connection.await {
                tracing::debug!(%error, %peer, "a connection ended early");
            }
            drop(permit);
        });
    }
    drop(listener);
    if tokio::time::timeout(bounds.grace, graceful.shutdown()).await.is_err() {
        tracing::warn!(connections = connections.len(), "cut off after the grace period");
    }
    connections.shutdown().await;
}

/// Room for connections.
struct Permits {
    ordinary: Arc<Semaphore>,
    spare: Arc<Semaphore>,
}

/// Room for one connection, given back when it is dropped.
struct Permit {
    _room: OwnedSemaphorePermit,
    spare: bool,
}

impl Permits {
    fn new(connections: usize) -> Permits {
        let semaphore = |n: usize| Arc::new(Semaphore::new(n.min(Semaphore::MAX_PERMITS)));
        Permits { ordinary: semaphore(connections), spare: semaphore(SPARE) }
    }

    /// Ordinary room if there is any, else spare room, else whichever comes first.
    async fn take(&self) -> io::Result<Permit> {
        let permit = |room, spare| Permit { _room: room, spare };
        if let Ok(room) = self.ordinary.clone().try_acquire_owned() {
            return Ok(permit(room, false));
        }
        tracing::debug!("all connections are in use; new ones are told to come back");
        let (room, spare) = tokio::select! {
            biased;
            room = self.ordinary.clone().acquire_owned() => (room, false),
            room = self.spare.clone().acquire_owned() => (room, true),
        };
        Ok(permit(room.map_err(io::Error::other)?, spare))
    }
}

/// The next connection; it is held here while there is no room for it at all.
async fn accept(
    listener: &TcpListener,
    permits: &Permits,
) -> io::Result<(TcpStream, SocketAddr, Permit)> {
    let (stream, peer) = listener.accept().await?;
    let permit = permits.take().await?;
    stream.set_nodelay(true)?;
    Ok((stream, peer, permit))
}

/// A client that left before it was accepted is no reason to wait; anything else is.
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
    spare: Option<Spare>,
    bounds: Bounds,
) -> impl hyper_util::server::graceful::GracefulConnection<Error = hyper::Error> {
    let service = service_fn(move |request: hyper::Request<Incoming>| {
        let mut request: Request = request.map(Body::new);
        request.extensions_mut().insert(peer);
        if let Some(spare) = spare {
            request.extensions_mut().insert(spare);
        }
        app.clone().oneshot(request)
    });
    let mut stream = TimeoutStream::new(stream);
    stream.set_write_timeout(Some(bounds.unread));
    http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(bounds.headers)
        .serve_connection(TokioIo::new(Box::pin(stream)), service)
}
