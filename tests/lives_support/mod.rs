//! Random lives of a server over one ledger: what is ordered in them, how they end, and what must be true in the
//! next. `rule` says what must be true, pure; `plan` draws the lives; `drive` lives them with real processes.

#![allow(dead_code, reason = "each test binary uses a part")]

pub mod drive;
pub mod plan;
pub mod rule;
