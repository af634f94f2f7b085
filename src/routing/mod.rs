//! Which model answers a request.
//!
//! `pick` is the pure choice by pin, key or random draw; `recent` tracks which keys make up a large part of the
//! traffic; `table` is what every request reads: the weight, and a [`Deployment`] for each arm. It does not know why
//! the weight is what it is, or how models are loaded.

mod deployment;
mod pick;
mod recent;
mod table;

pub use deployment::Deployment;
pub use pick::{NoCanary, Route, RouteInput, pick, session_hash};
pub use recent::{Recent, Share};
pub use table::{Assignment, NoRoute, Routes, Withdrawn};
