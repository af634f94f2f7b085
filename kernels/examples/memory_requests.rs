//! What the known answers of every kernel ask of memory, counted on the emulated card: a line for each kernel and
//! kind of memory, or with `--places` for each place in its code.
//!
//! `cargo run -p serin-kernels --release --features races --example memory_requests -- [--places] [KERNEL ...]`
//!
//! Columns: requests of warps; bytes of a request; sectors (global) or passes over the banks (shared) of a request; and
//! how many times as many those are as the same bytes side by side would take.

use serin_kernels::cuda::FAMILIES;
use serin_kernels::cuda::check::{Bench, Size};
use serin_kernels::cuda::emulated::{EmulatedCard, requests};
use std::collections::BTreeMap;
use std::sync::Arc;

fn main() {
    let (options, wanted): (Vec<String>, Vec<String>) =
        std::env::args().skip(1).partition(|arg| arg.starts_with("--"));
    let places = options.iter().any(|option| option == "--places");
    requests::count(true);
    for (family, checks) in FAMILIES {
        let card: Arc<EmulatedCard> = Arc::new(EmulatedCard::start(256 << 20));
        let pool = serin_kernels::cuda::Card::create_pool(&*card).expect("a pool");
        checks(&Bench { card, pool }, Size::Quick).unwrap_or_else(|e| panic!("{family}: {e}"));
    }
    let mut lines = BTreeMap::<(String, bool, u64), [u64; 4]>::new();
    for found in requests::counted() {
        if !wanted.is_empty() && !wanted.contains(&found.kernel) {
            continue;
        }
        let place = if places { found.place } else { 0 };
        let sum = lines.entry((found.kernel, found.shared, place)).or_default();
        let more = [found.requests, found.bytes, found.units, found.least];
        sum.iter_mut().zip(more).for_each(|(sum, more)| *sum += more);
    }
    println!(
        "{:<28} {:>8} {:>10} {:>9} {:>8} {:>8} {:>7}",
        "kernel", "place", "memory", "requests", "bytes", "units", "ratio"
    );
    for ((kernel, shared, place), [requests, bytes, units, least]) in lines {
        let each = |sum: u64| sum as f64 / requests as f64;
        let place = if places { format!("{place:#x}") } else { "-".into() };
        let memory = if shared { "shared" } else { "global" };
        let ratio = units as f64 / least as f64;
        println!(
            "{kernel:<28} {place:>8} {memory:>10} {requests:>9} {:>8.1} {:>8.2} {ratio:>7.2}",
            each(bytes),
            each(units)
        );
    }
}
