//! The ledger: what happened, kept so that it survives a crash and can be held against anybody's word.
//!
//! What it is: one append-only table in SQLite. Its rows are **entries** (decisions with all figures,
//! orders, loads, faults) and the **journal** (every event that the rollout took in, with its time).
//! Since the rollout is a pure machine, the journal gives back its exact counts and evidence: a
//! restart and a what-if are both a replay. What it does not know: sockets, engines, when to raise a
//! weight, what a gate is. Time is handed in.
//!
//! Why a journal and not a snapshot of the machine: a snapshot would have to follow every change of
//! the machine's insides, and could not be judged again. Why a hash chain: decisions about what users
//! were served should not be editable in silence.
//!
//! Reading order: [`entry`](Entry) and `opening` (what is said), `state` and `fold` (where that leads), `codec` (how events are
//! written), `chain` (how rows hold together), `connection` and `store` (the file), `queue` and `writer` (how others reach
//! it), `ends` (what an unclean end means), [`resume`](Resume) and `replay` (what it is good for), `read`,
//! `verify`, `prune`, `export`.
//!
//! The rule for its users: commit before raising, after lowering. A weight that the ledger does not
//! have yet must not be served above the one it has; a weight that goes down must not wait for a disk.

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
mod verify;
mod writer;

#[cfg(test)]
mod crash;
#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;

pub use chain::{Hash, Head, from_hex, to_hex};
pub use ends::{Course, HowEnded, course};
pub use entry::{Entry, Gap, Pruned, Stamp};
pub use error::LedgerError;
pub use export::{Bodies, export};
pub use opening::{Model, Opening};
pub use prune::Retention;
pub use read::{Journal, Kept, Reader, Recorded};
pub use replay::{Comparison, Difference, Replayed, compare, rejudge, replay};
pub use resume::{CannotContinue, Continued, Interrupted, Resume};
pub use state::{MAX_REJECTED, Rejection, Running, State, Suspect};
pub use verify::{Problem, Verification};
pub use writer::{Health, Ledger, Options, Ticket};
