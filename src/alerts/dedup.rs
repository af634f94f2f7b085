//! Suppresses repeated alerts: the same kind, rollout and stage within a window.
//!
//! Pure: the time is an argument, a `Duration` since an origin that the caller chooses. The first alert is
//! sent and later ones are counted, instead of one summary at the end of the window: a rollback must be known
//! now, and a summary would need its own clock. Sent means handed to the webhooks. If all deliveries of an
//! alert failed, repeats of it are suppressed as well, since those would fail too.

use super::{Alert, Kind};
use std::collections::VecDeque;
use std::time::Duration;

/// Number of remembered keys; the oldest is forgotten first.
const KEPT: usize = 256;

/// Whether to send an alert.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Admission {
    /// Send it; `repeats` alerts like it were suppressed since the last one that was sent.
    Send { repeats: u64 },
    /// Suppress it: one like it was sent within the window.
    Repeat,
}

/// The alerts that were sent recently.
#[derive(Debug)]
pub(super) struct Dedup {
    window: Duration,
    seen: VecDeque<Recent>,
}

#[derive(Debug)]
struct Recent {
    kind: Kind,
    rollout: Option<String>,
    stage: u64,
    sent: Duration,
    repeats: u64,
}

impl Dedup {
    pub(super) fn new(window: Duration) -> Dedup {
        Dedup { window, seen: VecDeque::new() }
    }

    /// Decides about one alert and remembers it.
    pub(super) fn admit(&mut self, alert: &Alert, now: Duration) -> Admission {
        let same = |seen: &Recent| {
            seen.kind == alert.kind && seen.stage == alert.stage && seen.rollout == alert.rollout
        };
        let found = self.seen.iter().position(same);
        if let Some(seen) = found.and_then(|at| self.seen.get_mut(at))
            && now.saturating_sub(seen.sent) < self.window
        {
            seen.repeats += 1;
            return Admission::Repeat;
        }
        let repeats = found.and_then(|at| self.seen.remove(at)).map_or(0, |seen| seen.repeats);
        if self.seen.len() >= KEPT {
            self.seen.pop_front();
        }
        let (rollout, stage) = (alert.rollout.clone(), alert.stage);
        self.seen.push_back(Recent { kind: alert.kind, rollout, stage, sent: now, repeats: 0 });
        Admission::Send { repeats }
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::alert;
    use super::*;

    const WINDOW: Duration = Duration::from_secs(600);

    fn at(secs: u64) -> Duration {
        Duration::from_secs(secs)
    }

    #[test]
    fn a_repeat_within_the_window_is_kept_back_and_counted() {
        let mut dedup = Dedup::new(WINDOW);
        let alert = alert(Kind::RolledBack);
        assert_eq!(dedup.admit(&alert, at(5)), Admission::Send { repeats: 0 });
        assert_eq!(dedup.admit(&alert, at(6)), Admission::Repeat);
        assert_eq!(dedup.admit(&alert, at(604)), Admission::Repeat);
        assert_eq!(dedup.admit(&alert, at(605)), Admission::Send { repeats: 2 });
        assert_eq!(dedup.admit(&alert, at(606)), Admission::Repeat, "a new window began");
        assert_eq!(dedup.admit(&alert, at(1205)), Admission::Send { repeats: 1 });
    }

    #[test]
    fn another_kind_rollout_or_stage_is_another_alert() {
        let mut dedup = Dedup::new(WINDOW);
        let first = alert(Kind::RolledBack);
        let others = [
            Alert { kind: Kind::Stalled, ..first.clone() },
            Alert { rollout: Some("other".to_owned()), ..first.clone() },
            Alert { rollout: None, ..first.clone() },
            Alert { stage: first.stage + 1, ..first.clone() },
        ];
        assert_eq!(dedup.admit(&first, at(0)), Admission::Send { repeats: 0 });
        for other in &others {
            assert_eq!(dedup.admit(other, at(0)), Admission::Send { repeats: 0 }, "{other:?}");
        }
        let reworded = Alert { why: "other words".to_owned(), ..first };
        assert_eq!(dedup.admit(&reworded, at(1)), Admission::Repeat);
    }

    #[test]
    fn memory_is_bounded_and_the_oldest_is_forgotten() {
        let mut dedup = Dedup::new(WINDOW);
        let nth = |stage: u64| Alert { stage, ..alert(Kind::Fault) };
        for stage in 0..=KEPT as u64 {
            dedup.admit(&nth(stage), at(0));
        }
        assert_eq!(dedup.seen.len(), KEPT);
        assert_eq!(dedup.admit(&nth(1), at(1)), Admission::Repeat);
        assert_eq!(dedup.admit(&nth(0), at(1)), Admission::Send { repeats: 0 });
        assert_eq!(dedup.seen.len(), KEPT);
    }

    #[test]
    fn a_window_of_zero_keeps_nothing_back() {
        let mut dedup = Dedup::new(Duration::ZERO);
        let alert = alert(Kind::Fault);
        assert_eq!(dedup.admit(&alert, at(3)), Admission::Send { repeats: 0 });
        assert_eq!(dedup.admit(&alert, at(3)), Admission::Send { repeats: 0 });
    }
}
