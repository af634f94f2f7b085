//! serin: two versions of a language model in one process. Requests are split between them by weight, and a
//! rollout promotes or withdraws the new version, based on figures from the generation loop.
#[macro_use]
mod named;

pub mod access;
pub mod alerts;
pub mod bench;
pub mod cli;
pub mod compat;
pub mod config;
pub mod control;
pub mod device;
pub mod engine;
pub mod grammar;
pub mod http;
pub mod hub;
pub mod ledger;
pub mod metrics;
pub mod model;
mod outbound;
pub mod progress;
pub mod rollout;
pub mod routing;
pub mod sanitize;
pub mod serving;
pub mod text;
pub mod web;
