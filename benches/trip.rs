//! The time from the outcome that proves a regression until the weight is 0, and until the memory is freed.
//!
//! A whole server except HTTP, with scripted models and a ledger on this machine's disk. Each measurement
//! uses a new canary: `cargo bench --bench trip`.

use serin::control::{LoadOrder, Start};
use serin::ledger::{Ledger, Options, Stamp};
use serin::rollout::{Arm, Class, Outcome, Weight};
use serin::serving::testing::FakeServer;
use std::path::Path;
use std::time::{Duration, Instant};

const TRIPS: usize = 100;

fn outcome(arm: Arm, class: Class, stage: u64) -> Outcome {
    Outcome {
        ttft: Some(Duration::from_millis(40)),
        tpot: Some(Duration::from_millis(9)),
        e2e: Duration::from_millis(400),
        output_tokens: 40,
        matched: true,
        ..Outcome::new(arm, class, stage)
    }
}

fn spread(name: &str, mut times: Vec<Duration>) {
    times.sort_unstable();
    let at = |q: f64| times[((times.len() - 1) as f64 * q) as usize];
    println!("{name}: p50 {:.1?}, p99 {:.1?}, max {:.1?}", at(0.5), at(0.99), at(1.0));
}

#[tokio::main]
async fn main() {
    let dir = tempfile::tempdir().expect("a folder");
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("models/tiny-v1");
    let mut server = FakeServer::replying(&folder, 1024, "The canary sings.").expect("a server");
    let at = Stamp { unix_ms: 0, rollout: Duration::ZERO };
    let path = dir.path().join("ledger");
    let opened = Ledger::open(&path, Options::default(), at, "bench", "stable");
    let (ledger, resume) = opened.expect("a ledger");
    server.start = Start::from_ledger(ledger, resume, None).0;
    let gateway = server.start().await.expect("a started server");
    let control = gateway.control();
    let (mut to_zero, mut to_memory) = (Vec::new(), Vec::new());
    for trip in 0..TRIPS {
        let by = "a bench".to_owned();
        let asked = LoadOrder { retry: true, ..LoadOrder::of("canary", by) };
        control.load_canary(asked).await.expect("a canary");
        let stage = control.view().stage;
        for n in 0..2_000 {
            let arm = if n % 20 == 0 { Arm::Canary } else { Arm::Stable };
            control.record(outcome(arm, Class::Ok, stage));
        }
        while control.running() {
            let begun = Instant::now();
            control.record(outcome(Arm::Canary, Class::ModelError, stage));
            let routed = control.route(None, None, 0.0).expect("a route");
            let took = begun.elapsed();
            if !control.running() {
                assert_eq!(routed.arm, Arm::Stable, "the next request goes to stable");
                to_zero.push(took);
            }
        }
        assert_eq!(control.view().weight, Weight::ZERO);
        while control.status().unloads.len() <= trip.min(99) {
            tokio::time::sleep(Duration::from_micros(200)).await;
        }
        let unloads = control.status().unloads;
        to_memory.push(Duration::from_secs_f64(
            unloads.last().expect("an unload").since_decision_ms / 1e3,
        ));
    }
    spread("from the outcome that trips to weight 0 and the next request routed", to_zero);
    spread("from the decision to the memory being back", to_memory);
}
