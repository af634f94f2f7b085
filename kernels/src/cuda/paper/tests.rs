//! `kernels/launches.json`: the launch of every kernel, and the launches of whole steps of real models on real GPUs.
//!
//! `SERIN_WRITE_DOCS=1 cargo test -p serin-kernels --lib paper` writes it; `scripts/card_budget` and
//! `scripts/card_model` read it. The launches of a layer are in the decoder's order; `tests/card_launches.rs` compares
//! the decoder with the same file.

mod kernels;
mod steps;

use super::*;
use std::fmt::Write;
use std::path::Path;
use std::sync::Arc;

/// A card that the file has steps for.
struct Product {
    name: &'static str,
    capability: (u32, u32),
    multiprocessors: u32,
    /// Shared memory of a block, in KiB.
    shared: u32,
    /// GB/s and MHz, by the data sheet.
    rates: [u64; 2],
}

const PRODUCTS: [Product; 4] = [
    Product {
        name: "RTX 3060",
        capability: (8, 6),
        multiprocessors: 28,
        shared: 99,
        rates: [360, 1777],
    },
    Product {
        name: "RTX 4090",
        capability: (8, 9),
        multiprocessors: 128,
        shared: 99,
        rates: [1008, 2520],
    },
    Product {
        name: "RTX 5090",
        capability: (12, 0),
        multiprocessors: 170,
        shared: 99,
        rates: [1792, 2407],
    },
    Product {
        name: "H100",
        capability: (9, 0),
        multiprocessors: 132,
        shared: 227,
        rates: [3352, 1830],
    },
];

impl Product {
    fn card(&self) -> Arc<DryRunCard> {
        let [bandwidth, clock] = self.rates;
        let card = DryRunCard::new(self.capability, self.multiprocessors, self.shared << 10);
        Arc::new(card.with_rates(bandwidth * 1_000_000_000, clock * 1_000_000))
    }
}

#[test]
fn the_file_of_launches_is_up_to_date() {
    let mut text = String::from("{\n");
    kernels::write(&mut text);
    steps::write_layers(&mut text);
    steps::write_steps(&mut text);
    text.push_str("}\n");
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("launches.json");
    if std::env::var_os("SERIN_WRITE_DOCS").is_some() {
        std::fs::write(&path, &text).unwrap();
    }
    let kept = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(
        kept == text,
        "kernels/launches.json is out of date: \
         SERIN_WRITE_DOCS=1 cargo test -p serin-kernels --lib paper"
    );
}

/// Writes `"name": [items]`, an item a line.
fn write_list(text: &mut String, indent: usize, name: &str, items: &[String], last: bool) {
    let space = " ".repeat(indent);
    writeln!(text, "{space}\"{name}\": [").unwrap();
    for (i, item) in items.iter().enumerate() {
        let comma = if i + 1 < items.len() { "," } else { "" };
        writeln!(text, "{space}  \"{item}\"{comma}").unwrap();
    }
    writeln!(text, "{space}]{}", if last { "" } else { "," }).unwrap();
}
