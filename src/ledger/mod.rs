//! The ledger: a durable, tamper-evident record of what happened.
//!
//! It is one append-only table in SQLite. Its rows are **entries** (decisions with all figures, orders,
//! loads, faults) and the **journal** (every event that the rollout processed, with its time). Since the
//! rollout is a pure state machine, the journal reproduces its exact counts and evidence: a restart and a
//! what-if are both a replay. It does not know about sockets, engines, when to raise a weight, or what a gate
//! is. Time is passed in.
//!
//! Why a journal and not a snapshot of the machine: docs/decisions/014. Why a hash chain: nobody should be able to
//! edit decisions about what users were served without leaving a trace.
//!
//! Reading order: [`entry`](Entry) and `opening` (the entries), `state` and `fold` (the resulting state), `codec`
//! (how events are encoded), `chain` (the hash chain), `connection` and `store` (the file), `queue` and `writer`
//! (access from other threads), `ends` (what an unclean shutdown means), [`resume`](Resume) and `replay` (uses of the
//! journal), `read`, `summary` (entries in plain words), `verify`, `prune`, `export`.
//!
//! The rule for its users: commit before raising, after lowering. The weight in effect must never be above
//! the one in the ledger; lowering the weight must not wait for a disk.

mod chain;
pub mod codec;
mod connection;
mod ends;
mod entry;
mod error;
mod export;
mod fold;
mod opening;
mod prune;
mod queue;
mod read;
mod replay;
mod resume;
mod state;
mod store;
mod summary;
mod verify;
mod writer;

#[cfg(test)]
mod crash;
#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;

pub use chain::{Hash, Head, from_hex, to_hex};
pub use ends::{CrashPolicy, HowEnded, after_crash};
pub use entry::{Entry, Gap, Pruned, Stamp};
pub use error::LedgerError;
pub use export::{Bodies, export};
pub use opening::{Model, Opening};
pub use prune::Retention;
pub use read::{Journal, Kept, Reader, Recorded};
pub use replay::{Comparison, Difference, Replayed, compare, rejudge, replay};
pub use resume::{CannotContinue, Continued, Interrupted, Resume};
pub use state::{KillCount, MAX_REJECTED, Rejection, Running, State};
pub use summary::EntrySummary;
pub use verify::{Problem, Verification};
pub use writer::{Health, Ledger, Options, Ticket};
