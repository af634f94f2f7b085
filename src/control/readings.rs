//! The state that the device reports, read periodically.
//!
//! It is used for gauges, the status, and the rollout: figures measured while heat or a power limit slows the device
//! down are less meaningful, and the rollout's decisions say so. It is read on a separate thread, because a device that
//! hangs may never answer. It decides nothing.

use super::Control;
use crate::rollout::Event;
use serin_kernels::cuda::Readings;
use std::sync::{Arc, Weak};
use std::time::Duration;

/// Asks the device; it may take milliseconds.
pub type ReadDevice = Box<dyn Fn() -> Option<Readings> + Send>;

const EVERY: Duration = Duration::from_secs(5);

/// The last answer, and when it came on the rollout's clock.
#[derive(Debug, Default)]
pub(super) struct DeviceMonitor {
    latest: Option<Readings>,
    at: Duration,
}

impl DeviceMonitor {
    /// Takes an answer in. A device that is slowed down is taken to have been so since the answer before:
    /// for how long. One that used to tell and does not any more is shown as telling nothing.
    fn take(&mut self, readings: Option<Readings>, now: Duration) -> Option<Duration> {
        let before = std::mem::replace(&mut self.at, now);
        let first = self.latest.is_none();
        if first && readings.is_none() {
            return None;
        }
        let readings = readings.unwrap_or_default();
        let throttled = readings.throttled.is_some();
        self.latest = Some(readings);
        let since = now.saturating_sub(before).min(2 * EVERY);
        (throttled && !first && !since.is_zero()).then_some(since)
    }
}

impl Control {
    /// Asks the device from now on, as long as there is anybody to tell. Fails if the system refuses a thread.
    pub fn watch_device(self: &Arc<Self>, read: ReadDevice) -> std::io::Result<()> {
        let control = Arc::downgrade(self);
        let thread = std::thread::Builder::new().name("serin-readings".to_owned());
        thread.spawn(move || watch(&control, &read)).map(drop)
    }

    /// Takes in what the device says of its state.
    pub fn note_readings(&self, readings: Option<Readings>) {
        let throttled = self.watched.lock().take(readings, self.now());
        if let Some(time) = throttled
            && self.running()
        {
            self.feed(Event::Throttled { time });
        }
    }

    /// What the device last said of itself; `None` if it never did.
    pub fn readings(&self) -> Option<Readings> {
        self.watched.lock().latest.clone()
    }
}

fn watch(control: &Weak<Control>, read: &ReadDevice) {
    loop {
        let readings = read();
        match control.upgrade() {
            Some(control) => control.note_readings(readings),
            None => return,
        }
        std::thread::sleep(EVERY);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    fn readings(throttled: Option<&str>) -> Option<Readings> {
        Some(Readings { throttled: throttled.map(str::to_owned), ..Readings::default() })
    }

    #[test]
    fn a_throttled_device_has_been_so_since_the_last_look() {
        let mut watched = DeviceMonitor::default();
        let hot = || readings(Some("temperature"));
        assert_eq!(watched.take(hot(), at(100)), None, "nobody looked before");
        assert_eq!(watched.take(hot(), at(105)), Some(at(5)));
        assert_eq!(watched.take(readings(None), at(110)), None);
        assert_eq!(watched.take(hot(), at(115)), Some(at(5)));
        assert_eq!(watched.take(hot(), at(500)), Some(2 * EVERY), "nobody looked for long");
        assert_eq!(watched.take(hot(), at(400)), None, "a clock that went back");
    }

    #[test]
    fn a_device_that_tells_nothing_is_not_shown_and_one_that_stops_telling_is_shown_empty() {
        let mut watched = DeviceMonitor::default();
        assert_eq!((watched.take(None, at(1)), watched.latest.clone()), (None, None));
        watched.take(readings(Some("power limit")), at(6));
        assert_eq!(watched.take(None, at(11)), None);
        assert_eq!(watched.latest, Some(Readings::default()));
    }
}
