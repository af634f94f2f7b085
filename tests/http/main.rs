//! The HTTP layer over scripted models, without a socket but for `socket`; `echo` and `token_rules` ask a real process.

#[path = "../process/support.rs"]
mod process_support;
mod support;

mod access;
mod admin;
mod api;
mod constrained;
mod echo;
mod messages;
mod page;
mod responses;
mod socket;
mod token_rules;
