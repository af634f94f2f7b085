//! Tells systemd that the server is ready, or that it is stopping (`Type=notify`, see sd_notify(3)).
//!
//! It sends a datagram to the socket in `NOTIFY_SOCKET`; without that variable it does nothing. Errors are ignored: a
//! server must not fail because of its supervisor.

use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};

/// The models are loaded and requests are answered.
pub(super) fn ready() {
    send("READY=1");
}

/// No new requests are accepted; running ones may finish.
pub(super) fn stopping() {
    send("STOPPING=1");
}

fn send(state: &str) {
    if let Ok(place) = std::env::var("NOTIFY_SOCKET") {
        let _ = send_to(&place, state);
    }
}

/// `place`: a path, or a name in the abstract namespace if it begins with `@`.
fn send_to(place: &str, state: &str) -> std::io::Result<()> {
    let addr = match place.strip_prefix('@') {
        Some(name) => SocketAddr::from_abstract_name(name)?,
        None => SocketAddr::from_pathname(place)?,
    };
    UnixDatagram::unbound()?.send_to_addr(state.as_bytes(), &addr).map(|_| ())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn received(socket: &UnixDatagram) -> String {
        let mut bytes = [0; 32];
        let length = socket.recv(&mut bytes).unwrap();
        String::from_utf8_lossy(&bytes[..length]).into_owned()
    }

    #[test]
    fn a_path_and_an_abstract_name_are_reached() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("notify");
        let socket = UnixDatagram::bind(&path).unwrap();
        send_to(path.to_str().unwrap(), "READY=1").unwrap();
        assert_eq!(received(&socket), "READY=1");
        let name = format!("serin-test-{}", std::process::id());
        let socket =
            UnixDatagram::bind_addr(&SocketAddr::from_abstract_name(&name).unwrap()).unwrap();
        send_to(&format!("@{name}"), "STOPPING=1").unwrap();
        assert_eq!(received(&socket), "STOPPING=1");
        assert!(send_to("/nowhere/notify", "READY=1").is_err());
    }
}
