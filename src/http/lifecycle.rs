//! The phases of a server's shutdown, as seen by listeners, probes and replies.

use std::sync::Arc;
use tokio::sync::watch;

/// The phase of the shutdown.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub enum Phase {
    /// Before any shutdown: requests are accepted.
    #[default]
    Serving,
    /// Not ready any more, so that load balancers choose other servers; requests are still accepted.
    Leaving,
    /// No new requests are accepted; running ones may finish.
    Draining,
    /// Replies that still run end with an error.
    CutOff,
}

/// The phase of one server; clones share it. It only advances.
#[derive(Debug, Clone, Default)]
pub struct Lifecycle(Arc<watch::Sender<Phase>>);

impl Lifecycle {
    /// A lifecycle that begins in [`Phase::Serving`].
    pub fn new() -> Lifecycle {
        Lifecycle::default()
    }

    /// The phase at this moment.
    pub fn phase(&self) -> Phase {
        *self.0.borrow()
    }

    /// Advances to `phase`; does nothing if that or a later one has been reached.
    pub fn enter(&self, phase: Phase) {
        self.0.send_if_modified(|now| {
            let advances = phase > *now;
            *now = phase.max(*now);
            advances
        });
    }

    /// Resolves once this phase has been reached.
    pub async fn reached(&self, phase: Phase) {
        let mut watched = self.0.subscribe();
        let _ = watched.wait_for(|now| *now >= phase).await;
    }
}
