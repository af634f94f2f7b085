//! The server's two listeners: one for clients, one for operators on this machine.

use super::{CliError, signals};
use crate::config::{Config, OperatorListen};
use crate::http::{Bounds, Lifecycle, Phase, serve};
use axum::Router;
use std::io::ErrorKind;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

/// File descriptors not available for clients' connections: files, operators, connections that are being
/// closed.
const DESCRIPTORS_ASIDE: usize = 768;
/// Maximum connections of the operators' listener.
const OPERATORS: usize = 64;
/// The operators' default address.
pub(super) const USUAL: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 8081);

/// Bound, but not served yet.
pub(super) struct Listeners {
    clients: TcpListener,
    pub addr: SocketAddr,
    operator: Option<TcpListener>,
    pub operators: Option<SocketAddr>,
}

impl Listeners {
    /// Binds the addresses for clients and for operators. Fails if one of them cannot be bound.
    pub async fn bind(config: &Config) -> Result<Listeners, CliError> {
        let clients = bind(config.listen, "--listen").await?;
        let addr = clients.local_addr().map_err(CliError::from_text)?;
        let operator = match config.operator {
            OperatorListen::Off => None,
            OperatorListen::At(at) => Some(bind(at, "operator.listen").await?),
            OperatorListen::Default => Some(bind_beside(config.listen).await?),
        };
        let operators = operator.as_ref().and_then(|listener| listener.local_addr().ok());
        tracing::info!(clients = %addr, operators = operators.map(tracing::field::display), "listening");
        Ok(Listeners { clients, addr, operator, operators })
    }

    /// Serves the clients' and the operators' routes from now on.
    pub fn serve(
        self,
        config: &Config,
        (clients, operators): (Router, Router),
        lifecycle: &Lifecycle,
    ) -> (JoinHandle<()>, Option<JoinHandle<()>>) {
        let bounds = bounds(config);
        // Open until the very end, so that the shutdown can be observed.
        let few = Bounds { connections: OPERATORS, until: Phase::CutOff, ..bounds.clone() };
        let operator = self
            .operator
            .map(|listener| tokio::spawn(serve(listener, operators, few, lifecycle.clone())));
        (tokio::spawn(serve(self.clients, clients, bounds, lifecycle.clone())), operator)
    }
}

/// Limits on clients' connections.
fn bounds(config: &Config) -> Bounds {
    let room = signals::raise_descriptors().saturating_sub(DESCRIPTORS_ASIDE).max(16);
    if room < config.max_connections {
        tracing::warn!(room, "the limit on file descriptors reduces max_connections (ulimit -n)");
    }
    let sockets = &config.sockets;
    Bounds {
        connections: config.max_connections.min(room),
        pending_per_client: sockets.max_pending_per_client,
        trusted: sockets.trusted_proxies.clone(),
        keep_alive: sockets.keep_alive,
        ..Bounds::default()
    }
}

async fn bind(addr: SocketAddr, option: &str) -> Result<TcpListener, CliError> {
    TcpListener::bind(addr).await.map_err(|error| match error.kind() {
        ErrorKind::AddrInUse => CliError(format!(
            "port {} is in use on {}; stop the other program or choose another with {option}",
            addr.port(),
            addr.ip()
        )),
        _ => CliError(format!("cannot listen on {addr}: {error}; choose another with {option}")),
    })
}

/// The operators' listener if none is configured: on the port after the clients', or on any port if that is
/// taken.
async fn bind_beside(clients: SocketAddr) -> Result<TcpListener, CliError> {
    let port = if clients.port() == 0 { 0 } else { clients.port().checked_add(1).unwrap_or(0) };
    let at = SocketAddr::new(USUAL.ip(), port);
    match TcpListener::bind(at).await {
        Ok(listener) => Ok(listener),
        Err(error) => {
            tracing::warn!(%error, "operators cannot be served at {at}; the system chooses another port");
            bind(SocketAddr::new(at.ip(), 0), "operator.listen").await
        }
    }
}
