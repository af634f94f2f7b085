//! What happened, as it happens: the same content for the log and for whoever listens.
//!
//! The last notes are kept for listeners that come back. Nothing here can fail or wait: a listener that
//! is too slow misses notes and is told how many.

use super::book::unix_ms;
use parking_lot::Mutex;
use serde_json::Value;
use std::collections::VecDeque;
use std::sync::Arc;
use tokio::sync::broadcast;

/// Notes kept for listeners that come back, and how far a slow one may fall behind.
const KEPT: usize = 256;

/// One thing that happened.
#[derive(Debug, Clone, PartialEq)]
pub struct Note {
    /// Rises by one from note to note, from 1 at the start of the process.
    pub id: u64,
    pub at_unix_ms: i64,
    /// From a bounded set: `decision`, `weight`, `order`, `loaded`, `unloaded`, `fault`, `alert`, ...
    pub kind: &'static str,
    pub body: Value,
}

/// Where notes go.
#[derive(Debug)]
pub(super) struct Notes {
    kept: Mutex<VecDeque<Arc<Note>>>,
    out: broadcast::Sender<Arc<Note>>,
}

/// What is still to be told to one listener.
#[derive(Debug)]
pub struct Listener {
    /// Kept notes after the one that the listener saw last.
    pub earlier: Vec<Arc<Note>>,
    pub later: broadcast::Receiver<Arc<Note>>,
}

impl Notes {
    pub fn new() -> Notes {
        Notes { kept: Mutex::default(), out: broadcast::channel(KEPT).0 }
    }

    /// Tells everybody, and the log.
    pub fn tell(&self, kind: &'static str, alert: bool, body: Value) {
        let mut kept = self.kept.lock();
        let id = kept.back().map_or(1, |last| last.id + 1);
        if alert {
            tracing::error!(alert, event = kind, id, %body);
        } else {
            tracing::info!(event = kind, id, %body);
        }
        let note = Arc::new(Note { id, at_unix_ms: unix_ms(), kind, body });
        if kept.len() == KEPT {
            kept.pop_front();
        }
        kept.push_back(note.clone());
        // Sent under the lock, so that no listener sees a note twice or misses one. Nobody may listen.
        let _ = self.out.send(note);
    }

    /// Everything after note `seen`, as far as it is kept, and all that follows.
    pub fn listen(&self, seen: u64) -> Listener {
        let kept = self.kept.lock();
        let earlier = kept.iter().filter(|note| note.id > seen).cloned().collect();
        Listener { earlier, later: self.out.subscribe() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_listener_that_comes_back_gets_what_it_missed_and_nothing_twice() {
        let notes = Notes::new();
        (1..=5).for_each(|n| notes.tell("decision", false, json!(n)));
        let mut listener = notes.listen(3);
        notes.tell("weight", false, json!(6));
        let ids: Vec<u64> = listener.earlier.iter().map(|note| note.id).collect();
        assert_eq!(ids, [4, 5]);
        assert_eq!(listener.later.try_recv().unwrap().id, 6);
        assert!(listener.later.try_recv().is_err());
    }

    #[test]
    fn memory_is_bounded() {
        let notes = Notes::new();
        (0..2 * KEPT).for_each(|n| notes.tell("decision", false, json!(n)));
        assert_eq!(notes.listen(0).earlier.len(), KEPT);
    }
}
