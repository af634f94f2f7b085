//! How the previous process ended, and what that means for the version on trial.
//!
//! A pure function: it takes how the process ended and returns one of three courses of action.
//!
//! One unexplained kill is forgiven: it may be an operator's `kill -9` or caused by another program. Two such kills in
//! a row with the same version on trial are no longer seen as an accident. A signal raised by the process itself is not
//! forgiven: only its own code can have caused it, and the new part of that code is the canary.

use serde::{Deserialize, Serialize};

/// How a process ended without an orderly shutdown.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum HowEnded {
    /// By a fatal signal of its own: an abort, or an invalid memory access.
    Signal(u8),
    /// The kernel killed a process of its memory cgroup because it ran out of memory.
    OutOfMemory,
    /// Killed, with no sign of by whom.
    Unexplained,
    /// The machine went down: it has been booted since.
    OtherBoot,
}

/// What to do about the version that was on trial.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CrashPolicy {
    /// Nothing: its rollout continues.
    GoOn,
    /// Its rollout continues, but the kill counts against it.
    Count,
    /// It is not loaded again: stable serves alone.
    Refuse,
}

/// The course of action after an end. `in_force`: a canary was being loaded or had a weight above 0.
/// `earlier`: the number of unexplained kills under this version since it was last healthy. `forgiving`: such
/// kills never count against it.
pub fn after_crash(how: HowEnded, in_force: bool, earlier: u32, forgiving: bool) -> CrashPolicy {
    match how {
        _ if !in_force => CrashPolicy::GoOn,
        HowEnded::Signal(_) | HowEnded::OutOfMemory => CrashPolicy::Refuse,
        HowEnded::OtherBoot => CrashPolicy::GoOn,
        HowEnded::Unexplained if forgiving => CrashPolicy::GoOn,
        HowEnded::Unexplained if earlier == 0 => CrashPolicy::Count,
        HowEnded::Unexplained => CrashPolicy::Refuse,
    }
}

impl std::fmt::Display for HowEnded {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let name = match self {
            HowEnded::Signal(4) => "SIGILL",
            HowEnded::Signal(6) => "SIGABRT",
            HowEnded::Signal(7) => "SIGBUS",
            HowEnded::Signal(8) => "SIGFPE",
            HowEnded::Signal(11) => "SIGSEGV",
            HowEnded::Signal(other) => return write!(f, "it died of signal {other}"),
            HowEnded::OutOfMemory => return f.write_str("the kernel's OOM killer ended it"),
            HowEnded::Unexplained => return f.write_str("it was killed for an unknown reason"),
            HowEnded::OtherBoot => return f.write_str("it ended with the machine"),
        };
        write!(f, "it died of {name}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_table() {
        use CrashPolicy::{Count, GoOn, Refuse};
        use HowEnded::{OtherBoot, OutOfMemory, Signal, Unexplained};
        // How it ended; the course without a canary; the course with one, after 0, 1 and 2 earlier
        // unexplained kills.
        let table = [
            (Signal(4), GoOn, [Refuse, Refuse, Refuse]),
            (Signal(6), GoOn, [Refuse, Refuse, Refuse]),
            (Signal(7), GoOn, [Refuse, Refuse, Refuse]),
            (Signal(8), GoOn, [Refuse, Refuse, Refuse]),
            (Signal(11), GoOn, [Refuse, Refuse, Refuse]),
            (OutOfMemory, GoOn, [Refuse, Refuse, Refuse]),
            (Unexplained, GoOn, [Count, Refuse, Refuse]),
            (OtherBoot, GoOn, [GoOn, GoOn, GoOn]),
        ];
        for (how, without, with) in table {
            for (earlier, with) in (0..).zip(with) {
                assert_eq!(after_crash(how, false, earlier, false), without, "{how:?} {earlier}");
                assert_eq!(after_crash(how, true, earlier, false), with, "{how:?} {earlier}");
            }
        }
    }

    fn any_end() -> impl Strategy<Value = HowEnded> {
        prop_oneof![
            prop::sample::select(vec![4u8, 6, 7, 8, 11]).prop_map(HowEnded::Signal),
            Just(HowEnded::OutOfMemory),
            Just(HowEnded::Unexplained),
            Just(HowEnded::OtherBoot),
        ]
    }

    proptest! {
        /// However the process ends, a version that never becomes healthy is refused at the second counted
        /// end at the latest. It is never refused if no end counts.
        #[test]
        fn a_version_survives_one_counted_end_at_most(ends in prop::collection::vec(any_end(), 0..12)) {
            let (mut earlier, mut counted, mut refused) = (0, 0, false);
            for how in &ends {
                counted += u32::from(*how != HowEnded::OtherBoot);
                match after_crash(*how, true, earlier, false) {
                    CrashPolicy::GoOn => {}
                    CrashPolicy::Count => earlier += 1,
                    CrashPolicy::Refuse => {
                        refused = true;
                        break;
                    }
                }
            }
            prop_assert!(refused || counted < 2);
            prop_assert!(!refused || counted > 0);
        }

        /// A version that was not in use is never blamed, and `forgiving` never makes the course harsher.
        #[test]
        fn nobody_is_blamed_without_need(how in any_end(), earlier in 0u32..9, forgiving: bool) {
            prop_assert_eq!(after_crash(how, false, earlier, forgiving), CrashPolicy::GoOn);
            let hard = after_crash(how, true, earlier, false);
            let soft = after_crash(how, true, earlier, true);
            prop_assert!(soft == hard || soft == CrashPolicy::GoOn);
        }
    }
}
