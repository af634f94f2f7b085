//! The connections of a listener: which are open, which one is closed to admit a new one, and the state of their
//! requests.
//!
//! [`super::pending`] makes the choice. This file applies it to the connections, under one lock that is held
//! only for a few map operations.

use super::super::body::SMALL;
use super::super::bulk::Bulky;
use super::Bounds;
use super::pending::{Client, Pending};
use axum::body::Bytes;
use hyper::body::{Body as HttpBody, Frame, Incoming, SizeHint};
use parking_lot::Mutex;
use std::collections::HashMap;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use tokio::sync::Notify;

/// Connections beyond the limit, for probes and for telling other clients to come back later.
pub(super) const EXTRA_CONNECTIONS: usize = 32;

pub(super) struct Room {
    pub bounds: Bounds,
    inside: Mutex<Inside>,
}

#[derive(Default)]
struct Inside {
    pending: Pending,
    open: HashMap<u64, Arc<Leave>>,
    next: u64,
}

/// Tells one connection to close.
#[derive(Default)]
struct Leave(Notify);

/// One connection's place; it becomes free when this is dropped.
pub(super) struct Place {
    id: u64,
    owner: Option<Client>,
    leave: Arc<Leave>,
    room: Arc<Room>,
    /// The headers of a request have arrived.
    begun: AtomicBool,
    /// Whether a large body is arriving.
    pub bulky: Arc<Bulky>,
    /// It is beyond the limit.
    pub spare: bool,
}

/// What a connection that was chosen for closing has to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum CloseOrder {
    Stay,
    Leave,
}

impl Room {
    /// Room for connections within these bounds, still empty.
    pub fn new(bounds: Bounds) -> Arc<Room> {
        Arc::new(Room { bounds, inside: Mutex::default() })
    }

    /// A place for a new connection; another one may be closed for it. `None` if all are serving requests.
    pub fn take(self: &Arc<Room>, address: IpAddr) -> Option<Arc<Place>> {
        let trusted = self.bounds.trusted.iter().any(|net| net.contains(&address.to_canonical()));
        let owner = (!trusted).then(|| Client::at(address));
        let mut inside = self.inside.lock();
        let full = inside.open.len() >= self.bounds.connections;
        let own =
            owner.and_then(|owner| inside.pending.beyond(owner, self.bounds.pending_per_client));
        if let Some(id) = own.or_else(|| inside.pending.first_to_go().filter(|_| full)) {
            inside.pending.remove(id);
            if let Some(leave) = inside.open.remove(&id) {
                leave.0.notify_one();
            }
        }
        if inside.open.len() >= self.bounds.connections + EXTRA_CONNECTIONS {
            return None;
        }
        let spare = inside.open.len() >= self.bounds.connections;
        let (id, leave) = (inside.next, Arc::new(Leave::default()));
        inside.next += 1;
        inside.open.insert(id, leave.clone());
        inside.pending.add(id, false, owner);
        let (begun, bulky) = (AtomicBool::new(false), Arc::default());
        Some(Arc::new(Place { id, owner, leave, room: self.clone(), begun, bulky, spare }))
    }
}

impl Place {
    /// Resolves when the connection was chosen for closing.
    pub async fn asked_to_leave(&self) {
        self.leave.0.notified().await;
    }

    /// Whether it still has to close: a request that was on its way may have arrived in the meantime.
    pub fn close_order(&self) -> CloseOrder {
        match self.room.inside.lock().open.contains_key(&self.id) {
            true => CloseOrder::Stay,
            false => CloseOrder::Leave,
        }
    }

    /// Whether the headers of any request have arrived.
    pub fn begun(&self) -> bool {
        self.begun.load(Ordering::Relaxed)
    }

    /// A request's headers have arrived; `whole`: there is no body to follow.
    pub fn begin(&self, whole: bool) {
        self.begun.store(true, Ordering::Relaxed);
        if whole {
            return self.complete();
        }
        let mut inside = self.room.inside.lock();
        if inside.open.contains_key(&self.id) {
            inside.pending.add(self.id, false, self.owner);
        }
    }

    /// This many bytes of a body have arrived, or have been announced.
    pub fn expect(&self, bytes: u64) {
        self.bulky.set(bytes > SMALL as u64);
    }

    /// The whole request has arrived. A connection that was chosen for closing stays open: a request is never
    /// cut off while it is served.
    fn complete(&self) {
        self.bulky.set(false);
        let mut inside = self.room.inside.lock();
        inside.open.insert(self.id, self.leave.clone());
        inside.pending.remove(self.id);
    }

    fn rest(&self) {
        let mut inside = self.room.inside.lock();
        if inside.open.contains_key(&self.id) {
            inside.pending.add(self.id, true, self.owner);
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut inside = self.room.inside.lock();
        inside.pending.remove(self.id);
        inside.open.remove(&self.id);
    }
}

/// A request's body; when it ends, the request is complete.
pub(super) struct Arriving {
    body: Incoming,
    place: Arc<Place>,
    arrived: u64,
}

impl Arriving {
    /// The body of a request on the connection with this place.
    pub fn new(body: Incoming, place: Arc<Place>) -> Arriving {
        place.expect(body.size_hint().lower());
        Arriving { body, place, arrived: 0 }
    }
}

impl HttpBody for Arriving {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let polled = Pin::new(&mut self.body).poll_frame(context);
        if let Poll::Ready(Some(Ok(frame))) = &polled {
            self.arrived += frame.data_ref().map_or(0, |data| data.len() as u64);
            self.place.expect(self.arrived + self.body.size_hint().lower());
        }
        if matches!(polled, Poll::Ready(None)) || self.body.is_end_stream() {
            self.place.complete();
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// Kept by a reply's body: when that is dropped, the connection waits for the next request.
pub(super) struct Answering(pub Arc<Place>);

impl Drop for Answering {
    fn drop(&mut self) {
        self.0.rest();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::Ipv4Addr;

    fn room(connections: usize, pending_per_client: usize) -> Arc<Room> {
        Room::new(Bounds { connections, pending_per_client, ..Bounds::default() })
    }

    fn at(n: u8) -> IpAddr {
        IpAddr::V4(Ipv4Addr::new(192, 0, 2, n))
    }

    #[test]
    fn a_request_that_came_in_time_stays() {
        let room = room(1, 8);
        let (first, second) = (room.take(at(1)).unwrap(), room.take(at(2)).unwrap());
        assert_eq!(
            (first.close_order(), second.close_order()),
            (CloseOrder::Leave, CloseOrder::Stay)
        );
        first.begin(false);
        assert_eq!(first.close_order(), CloseOrder::Leave, "headers alone are no request");
        first.begin(true);
        assert_eq!(first.close_order(), CloseOrder::Stay);
        assert!(
            room.take(at(3)).is_some_and(|third| third.spare),
            "one is at work, one over the bound"
        );
    }

    #[test]
    fn those_at_work_stay_and_spares_are_bounded() {
        let room = room(2, 8);
        let at_work: Vec<_> = (0..2).map(|n| room.take(at(n)).unwrap()).collect();
        at_work.iter().for_each(|place| place.begin(true));
        let spares: Vec<_> = (0..EXTRA_CONNECTIONS).map_while(|_| room.take(at(9))).collect();
        spares.iter().for_each(|place| place.begin(true));
        assert!(spares.len() == EXTRA_CONNECTIONS && spares.iter().all(|place| place.spare));
        assert!(room.take(at(10)).is_none());
        assert!(at_work.iter().all(|place| place.close_order() == CloseOrder::Stay));
        drop(spares);
        drop(at_work);
        assert!(room.take(at(10)).is_some_and(|place| !place.spare));
        assert!(room.inside.lock().open.is_empty());
    }

    #[test]
    fn many_silent_ones_of_one_client_leave_others_alone() {
        let room = room(64, 8);
        let honest = room.take(at(1)).unwrap();
        let silent: Vec<_> = (0..100).map(|_| room.take(at(2)).unwrap()).collect();
        assert_eq!(honest.close_order(), CloseOrder::Stay);
        assert_eq!(
            silent.iter().filter(|place| place.close_order() == CloseOrder::Stay).count(),
            8
        );
    }

    #[test]
    fn an_idle_connection_gives_way_last() {
        let room = room(2, 8);
        let idle = room.take(at(1)).unwrap();
        idle.begin(true);
        idle.rest();
        let silent = room.take(at(2)).unwrap();
        let _newcomer = room.take(at(3)).unwrap();
        assert_eq!(
            (idle.close_order(), silent.close_order()),
            (CloseOrder::Stay, CloseOrder::Leave)
        );
    }
}
