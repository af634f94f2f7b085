//! The restart rule of `serve --supervise`: whether a server that has ended is started again, and when.
//!
//! Pure: its input is how the server ended and how long it lived; its output is what to do. There is a limit
//! on quick failures instead of endless restarts, so that whatever started the supervisor (a container
//! runtime, for example) sees the failure and can apply its own back-off. Deaths by a signal while a canary is loaded
//! are counted separately: a canary that killed the server is loaded again at most once, and the supervisor must not
//! give up on stable because of a canary.

use super::ended::Ended;
use std::time::Duration;

/// The pause after the first quick failure; it doubles with each further one.
const FIRST_PAUSE: Duration = Duration::from_millis(500);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);
/// A server that lived this long was healthy.
const WELL_AFTER: Duration = Duration::from_secs(60);
/// After this many quick failures in a row, the supervisor gives up.
const MOST_QUICK: u32 = 10;
/// Exit code of a server that could not start: an invalid configuration, a port in use, a missing model.
const COULD_NOT_BEGIN: u8 = 1;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    Code(u8),
    Signal(u8),
}

impl End {
    /// The exit code that a shell would report.
    pub fn code(self) -> u8 {
        match self {
            End::Code(code) => code,
            End::Signal(signal) => 128u8.saturating_add(signal),
        }
    }
}

impl std::fmt::Display for End {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            End::Code(code) => write!(f, "exit code {code}"),
            End::Signal(signal) => write!(f, "signal {signal}"),
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Next {
    /// Exit as well, with this code.
    Stop(u8),
    Again {
        after: Duration,
        /// Without a canary, because one of them may have caused the device failure.
        stable_only: bool,
    },
}

#[derive(Debug, Default)]
pub(super) struct Restarts {
    /// At least one server has ended.
    any: bool,
    /// Consecutive failures of servers that had not become healthy.
    quick: u32,
    /// Consecutive deaths by a signal with a canary.
    canaries: u32,
    stable_only: bool,
}

impl Restarts {
    /// A server dropped the canary that had killed earlier ones; the next server runs without it.
    pub fn dropped(&mut self) {
        (self.quick, self.canaries) = (0, 0);
    }

    /// A server has ended after living for `lived`; `canary`: a canary was loaded or being loaded. If the
    /// first server could not start, it is not tried again. Later ones are, because their predecessor may
    /// still hold what they need.
    pub fn ended(&mut self, end: End, lived: Duration, canary: bool) -> Next {
        let first = !std::mem::replace(&mut self.any, true);
        let code = end.code();
        if code == Ended::BySignal.code() || (first && end == End::Code(COULD_NOT_BEGIN)) {
            return Next::Stop(code);
        }
        if lived >= WELL_AFTER {
            (self.quick, self.canaries) = (0, 0);
        }
        let count = match end {
            End::Signal(_) if canary => &mut self.canaries,
            _ => &mut self.quick,
        };
        *count += 1;
        let count = *count;
        if count >= MOST_QUICK {
            return Next::Stop(code);
        }
        self.stable_only |= end == End::Code(Ended::DeviceLost.code());
        let doubled = FIRST_PAUSE.saturating_mul(1 << (count - 1));
        Next::Again { after: doubled.min(LONGEST_PAUSE), stable_only: self.stable_only }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KILLED: End = End::Signal(9);
    const QUICK: Duration = Duration::from_secs(3);

    fn again(millis: u64, stable_only: bool) -> Next {
        Next::Again { after: Duration::from_millis(millis), stable_only }
    }

    #[test]
    fn the_pause_doubles_up_to_a_bound_and_at_last_it_is_given_up() {
        let mut restarts = Restarts::default();
        for pause in [500, 1000, 2000, 4000, 8000, 16_000, 30_000, 30_000, 30_000] {
            assert_eq!(restarts.ended(KILLED, QUICK, false), again(pause, false));
        }
        assert_eq!(restarts.ended(KILLED, QUICK, false), Next::Stop(137));
    }

    #[test]
    fn a_server_that_was_well_for_a_while_starts_the_count_anew() {
        let mut restarts = Restarts::default();
        for _ in 0..100 {
            assert_eq!(restarts.ended(KILLED, WELL_AFTER, false), again(500, false));
            assert_eq!(restarts.ended(End::Code(101), QUICK, false), again(1000, false));
            assert_eq!(restarts.ended(End::Code(70), QUICK, false), again(2000, false));
        }
    }

    #[test]
    fn one_that_was_told_to_stop_stays_stopped() {
        let mut restarts = Restarts::default();
        assert_eq!(restarts.ended(End::Code(0), QUICK, false), Next::Stop(0));
        let mut restarts = Restarts::default();
        restarts.ended(KILLED, QUICK, false);
        assert_eq!(restarts.ended(End::Code(0), QUICK, false), Next::Stop(0));
    }

    #[test]
    fn a_wrong_configuration_is_not_tried_again_but_a_port_that_is_still_held_is() {
        let mut restarts = Restarts::default();
        assert_eq!(restarts.ended(End::Code(1), QUICK, false), Next::Stop(1));
        let mut restarts = Restarts::default();
        restarts.ended(KILLED, WELL_AFTER, false);
        assert_eq!(restarts.ended(End::Code(1), QUICK, false), again(1000, false));
    }

    #[test]
    fn after_the_device_was_lost_no_canary_is_loaded_again() {
        let mut restarts = Restarts::default();
        assert_eq!(restarts.ended(KILLED, QUICK, false), again(500, false));
        let lost = End::Code(Ended::DeviceLost.code());
        assert_eq!(restarts.ended(lost, WELL_AFTER, false), again(500, true));
        assert_eq!(restarts.ended(KILLED, WELL_AFTER, false), again(500, true));
    }

    #[test]
    fn what_canaries_bring_down_does_not_count_against_stable() {
        let mut restarts = Restarts::default();
        for pause in [500, 1000, 2000, 4000] {
            assert_eq!(restarts.ended(KILLED, QUICK, false), again(pause, false));
        }
        for _ in 0..20 {
            assert_eq!(restarts.ended(End::Signal(6), QUICK, true), again(500, false));
            assert_eq!(restarts.ended(KILLED, QUICK, true), again(1000, false));
            restarts.dropped();
            assert_eq!(restarts.ended(KILLED, QUICK, false), again(500, false), "it starts anew");
        }
        // Without intervention, even that has an end.
        let ends: Vec<Next> = (0..10).map(|_| restarts.ended(KILLED, QUICK, true)).collect();
        assert_eq!(ends[9], Next::Stop(137));
    }

    #[test]
    fn a_server_that_gave_up_by_itself_is_not_its_canarys() {
        let mut restarts = Restarts::default();
        assert_eq!(restarts.ended(End::Code(70), QUICK, true), again(500, false));
        assert_eq!(restarts.ended(End::Code(70), QUICK, true), again(1000, false));
        assert_eq!(restarts.ended(KILLED, QUICK, true), again(500, false));
    }
}
