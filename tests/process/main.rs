//! The program as its users run it: a process with its port, files and signals. Most start a real `serin`; those of
//! `interleavings` and `resuming` start the server within the test.
//!
//! One binary, so that tests that wait leave the cores to others.

mod lives_support;
mod support;

mod bench;
mod card;
mod commands;
mod demo;
mod ends;
mod gpu_check;
mod interleavings;
mod keys;
mod lives;
mod restart;
mod resuming;
mod rollout;
mod serving;
mod shutdown;
mod supervise;
