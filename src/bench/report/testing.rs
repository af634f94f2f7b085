//! A report for the tests of its forms.

use super::*;
use crate::bench::figures::{Slo, figures};
use crate::bench::plan::{Load, Size, blocks};
use crate::bench::replies::{Answered, Place, Reply, changes};
use crate::bench::sample::{Measured, Sample};
use crate::bench::statistics::Method;

/// A run of so many versions and points, in which B's times are `factor` times A's.
pub fn report(versions: usize, points: usize, factor: f64) -> Report {
    let size = Size { rounds: 8, requests: 2, versions, seed: 1 };
    let run = |number: usize| {
        let load = Load::Concurrency(number + 1);
        let point = Point { load, depth: 0, prefix_cache: false };
        let measured = |(at, block): (usize, crate::bench::plan::Block)| {
            let slow = if block.version == Version::B { factor } else { 1.0 };
            let slow = slow * (1.0 + 0.001 * (at % 3) as f64);
            let sample = Sample {
                ttft: 0.012 * slow,
                gaps: vec![0.002 * slow as f32; 31],
                end_to_end: 0.074 * slow,
                prompt_tokens: 128,
                cached_tokens: 0,
                output_tokens: 32,
            };
            let samples = vec![Ok(sample); block.requests.len()];
            let seconds = 0.074 * slow * samples.len() as f64;
            let (version, round, pair) = (block.version, block.round, block.pair);
            let begun = at as f64;
            Measured { version, round, pair, begun, seconds, samples, watts: None, throttled: None }
        };
        let blocks = blocks(number, load, &size).into_iter().enumerate().map(measured).collect();
        PointRun { point, blocks }
    };
    let runs: Vec<PointRun> = (0..points).map(run).collect();
    let all = figures(&runs, &Slo { ttft: Some(1.0), ..Slo::default() }, &Method::default());
    let points = runs.into_iter().zip(all).map(|(run, figures)| PointReport { run, figures });
    let model = |name: &str| Model {
        name: name.to_owned(),
        architecture: "llama".to_owned(),
        size: Some(1 << 20),
        params: Some(820_000),
        memory: Memory {
            arena_used: Some(2 << 20),
            arena_reserved: Some(3 << 20),
            ..Memory::default()
        },
    };
    let reply = |text: &str| Reply { text: text.to_owned(), length: 3, ..Reply::default() };
    let place = Place { logprob: Some([-0.5, -0.6]), same_top: true, kld: Some(0.01) };
    let replies = ["x", "x <b>"][..versions].iter().map(|text| reply(text)).collect();
    Report {
        models: ["one <1>", "two"][..versions].iter().map(|name| model(name)).collect(),
        setup: Setup {
            backend: "CPU".to_owned(),
            threads: Some(2),
            n_ubatch: Some(512),
            prompts: "synthetic, 128 tokens".to_owned(),
            prompt_tokens: Some(128),
            output_tokens: 32,
            seed: 1,
            noise_threshold: 2.0,
            resident: Some(50 << 20),
        },
        points: points.collect(),
        changes: Some(changes(&[Answered { replies, places: vec![place] }], false)),
        limits: Vec::new(),
    }
}
