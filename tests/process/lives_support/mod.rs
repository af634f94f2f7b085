//! Random lives of a server with one ledger: the orders given, how each life ends, and what must hold in the
//! next. `rule` says what must hold, and is pure; `plan` generates the lives; `drive` runs them with real
//! processes.

#![allow(dead_code, reason = "each test binary uses a part")]

pub mod drive;
pub mod plan;
pub mod rule;
