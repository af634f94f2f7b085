//! The phases of a server's end, seen by listeners, probes and replies alike.

use std::sync::Arc;
use tokio::sync::watch;

/// How far the end has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Phase {
    Serving,
    /// Not ready any more, so that balancers look elsewhere; requests are still taken.
    Leaving,
    /// Nothing new is taken; what runs may finish.
    Draining,
    /// What still runs ends with an error.
    CutOff,
}

/// The phase of one server; clones share it. It only ever advances.
#[derive(Debug, Clone)]
pub struct Lifecycle(Arc<watch::Sender<Phase>>);

impl Default for Lifecycle {
    fn default() -> Lifecycle {
        Lifecycle::new()
    }
}

impl Lifecycle {
    pub fn new() -> Lifecycle {
        Lifecycle(Arc::new(watch::channel(Phase::Serving).0))
    }

    pub fn phase(&self) -> Phase {
        *self.0.borrow()
    }

    pub fn enter(&self, phase: Phase) {
        self.0.send_if_modified(|now| {
            let advances = phase > *now;
            *now = phase.max(*now);
            advances
        });
    }

    /// Resolves once the end has come that far.
    pub async fn reached(&self, phase: Phase) {
        let mut watched = self.0.subscribe();
        let _ = watched.wait_for(|now| *now >= phase).await;
    }
}
