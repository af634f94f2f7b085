//! Measuring one version of a model, or comparing two: latency, throughput, memory, energy, and what changed in the
//! replies.
//!
//! In reading order: `plan` (blocks, rounds and arrivals), `prompts`, `target` (a model in this process, or a server),
//! `drive` (runs the plan), `sample` (what was measured), `statistics` (ratios with intervals), `figures`, `replies`,
//! `limits` (for CI), `report` (as a table, Markdown, HTML or JSON). Only `drive` and `target` do I/O and read clocks;
//! the rest is pure. It does not know about rollouts, the weights of arms, or the command line.

pub mod drive;
pub mod figures;
pub mod limits;
pub mod plan;
pub mod prompts;
mod random;
pub mod replies;
pub mod report;
pub mod sample;
pub mod statistics;
pub mod target;
