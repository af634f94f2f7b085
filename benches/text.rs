//! The cost of a reply's text: a token in the streaming detokenizer, and in the stop strings after it.
//!
//! Figures are in `benches/runs/hot-parts.md`.

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use serin::text::{Codec, GgufVocabulary, StopStrings, StreamDecoder};
use std::path::Path;
use std::sync::Arc;

const PROSE: &str = "The serin is a small finch. It sings from the top of a tree, a fast, high \
    twitter, and eats seeds of birch, alder and many weeds. ";
/// Characters that a byte-only tokenizer splits into several tokens.
const SIGNS: &str = "金丝雀是一种小鸟。Größe, naïve, 👍🏽 🐦 — 1234567890 ";

/// Ids of a text of a certain length.
fn ids(codec: &Codec, text: &str) -> Vec<u32> {
    codec.encode(&text.repeat(8), false).expect("text encodes")
}

fn detokenizer(c: &mut Criterion) {
    let mut group = c.benchmark_group("detokenizer, a token");
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("models/tiny-v1");
    let words = Arc::new(Codec::load(&folder, 1024).expect("the demo model's tokenizer"));
    let vocabulary = GgufVocabulary::stand_in(Path::new("stand-in"), 512);
    let bytes = Arc::new(Codec::from_gguf(&vocabulary, 512).expect("the stand-in's tokenizer"));
    let stops: Vec<String> = ["\n\n", "</tool_call>", "User:"].map(String::from).to_vec();
    for (name, codec, text) in [
        ("prose in words", &words, PROSE),
        ("prose in bytes", &bytes, PROSE),
        ("signs in bytes", &bytes, SIGNS),
    ] {
        let ids = ids(codec, text);
        group.throughput(Throughput::Elements(ids.len() as u64));
        let fresh = || StreamDecoder::new(Arc::clone(codec));
        group.bench_function(name, |b| {
            let push = |mut stream: StreamDecoder| {
                ids.iter().map(|id| stream.push(*id).map_or(0, |text| text.len())).sum::<usize>()
            };
            b.iter_batched(fresh, push, BatchSize::SmallInput);
        });
        group.bench_function(format!("{name}, with stop strings"), |b| {
            let fresh = || (fresh(), StopStrings::new(stops.clone()));
            let push = |(mut stream, mut stops): (StreamDecoder, StopStrings)| {
                let piece =
                    |id: &u32| stream.push(*id).map_or(0, |text| stops.push(&text).text.len());
                ids.iter().map(piece).sum::<usize>()
            };
            b.iter_batched(fresh, push, BatchSize::SmallInput);
        });
    }
}

criterion_group!(benches, detokenizer);
criterion_main!(benches);
