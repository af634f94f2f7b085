//! Notifications of events as they happen, with the same content for the log and for listeners.
//!
//! The latest notes are kept for listeners that reconnect. Nothing here can fail or block: a listener that is too slow
//! misses notes, and is told how many.

use super::ledger_handle::unix_ms;
use parking_lot::Mutex;
use serde_json::Value;
use std::collections::VecDeque;
use std::sync::Arc;
use tokio::sync::broadcast;

/// Notes kept for listeners that come back, and how far a slow one may fall behind.
const KEPT: usize = 256;

/// Kinds that hold what users wrote. Operators may read that; the log may not have it.
const OF_USERS: [&str; 1] = ["feedback"];

/// One thing that happened.
#[derive(Debug, Clone, PartialEq)]
pub struct Note {
    /// Rises by one from note to note, from 1 at the start of the process.
    pub id: u64,
    /// When it happened by the wall clock, in milliseconds since 1970.
    pub at_unix_ms: i64,
    /// From a bounded set: `decision`, `weight`, `order`, `loaded`, `unloaded`, `fault`, `alert`, ...
    pub kind: &'static str,
    /// What happened, as JSON on one line; its form depends on `kind`. Text takes a quarter of a tree's memory.
    pub body: Box<str>,
}

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
    /// Notes that come from now on; a listener that is too slow misses the oldest.
    pub later: broadcast::Receiver<Arc<Note>>,
}

impl Notes {
    /// Nothing kept, and nobody listening.
    pub fn new() -> Notes {
        Notes { kept: Mutex::default(), out: broadcast::channel(KEPT).0 }
    }

    /// Tells everybody, and the log.
    pub fn publish(&self, kind: &'static str, alert: bool, body: Value) {
        let note = self.keep(kind, body.to_string().into_boxed_str());
        let Note { id, body, .. } = &*note;
        let shown = (!OF_USERS.contains(&kind)).then_some(body);
        let body = shown.map(tracing::field::display);
        match alert {
            true => tracing::error!(alert, event = kind, id, body),
            false => tracing::info!(event = kind, id, body),
        }
    }

    /// Tells those who listen, and keeps it for those who come back.
    fn keep(&self, kind: &'static str, body: Box<str>) -> Arc<Note> {
        let mut kept = self.kept.lock();
        let id = kept.back().map_or(1, |last| last.id + 1);
        let note = Arc::new(Note { id, at_unix_ms: unix_ms(), kind, body });
        if kept.len() == KEPT {
            kept.pop_front();
        }
        kept.push_back(note.clone());
        // Sent under the lock, so that no listener sees a note twice or misses one. Nobody may listen.
        let _ = self.out.send(note.clone());
        note
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
        (1..=5).for_each(|n| notes.publish("decision", false, json!(n)));
        let mut listener = notes.listen(3);
        notes.publish("weight", false, json!(6));
        let ids: Vec<u64> = listener.earlier.iter().map(|note| note.id).collect();
        assert_eq!(ids, [4, 5]);
        assert_eq!(listener.later.try_recv().unwrap().id, 6);
        assert!(listener.later.try_recv().is_err());
    }

    #[derive(Clone, Default)]
    struct Log(Arc<Mutex<Vec<u8>>>);

    impl std::io::Write for Log {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn what_users_wrote_reaches_listeners_and_not_the_log() {
        let (log, notes) = (Log::default(), Notes::new());
        let writer = log.clone();
        let lines = tracing_subscriber::fmt().with_writer(move || writer.clone()).finish();
        tracing::subscriber::with_default(lines, || {
            notes.publish("feedback", false, json!({"comment": "my doctor said"}));
            notes.publish("weight", false, json!({"percent": 25}));
        });
        let text = String::from_utf8(log.0.lock().clone()).unwrap();
        assert!(!text.contains("doctor") && text.contains("feedback"), "{text}");
        assert!(text.contains("percent"), "{text}");
        assert_eq!(&*notes.listen(0).earlier[0].body, r#"{"comment":"my doctor said"}"#);
    }

    #[test]
    fn memory_is_bounded() {
        let notes = Notes::new();
        (0..2 * KEPT).for_each(|n| notes.publish("decision", false, json!(n)));
        assert_eq!(notes.listen(0).earlier.len(), KEPT);
    }
}
