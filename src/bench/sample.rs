//! What was measured: one request, one block, one load point.
//!
//! Times are seconds. It does not know who measured them, or what they say about a version.

use super::plan::{Point, Version};
use serde::Serialize;

/// One answered request.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Sample {
    /// Seconds from its arrival to its first token (time to first token, TTFT).
    pub ttft: f64,
    /// Seconds from one token to the next (inter-token latency, ITL). Over HTTP from one event to the next: a server may
    /// send several tokens in one event.
    pub gaps: Vec<f32>,
    /// Seconds from its arrival to its last token.
    pub end_to_end: f64,
    /// Tokens of the prompt, context and template included.
    pub prompt_tokens: usize,
    /// Tokens of the prompt that were found in the prefix cache.
    pub cached_tokens: usize,
    /// Tokens of the reply, without the end-of-sequence token.
    pub output_tokens: usize,
}

impl Sample {
    /// Mean time per output token after the first (TPOT); `None` below two tokens.
    pub fn tpot(&self) -> Option<f64> {
        let gaps = self.output_tokens.checked_sub(1).filter(|gaps| *gaps > 0)?;
        Some((self.end_to_end - self.ttft) / gaps as f64)
    }
}

/// A block that was run.
#[derive(Debug, Clone, PartialEq)]
pub struct Measured {
    /// Who answered.
    pub version: Version,
    /// Number of the round, from 0.
    pub round: usize,
    /// Number of the pair within the point.
    pub pair: usize,
    /// When it began, in seconds from the start of the whole run.
    pub begun: f64,
    /// Seconds from its start to its last token.
    pub seconds: f64,
    /// By request, in the plan's order; an error says why there was no complete reply.
    pub samples: Vec<Result<Sample, String>>,
    /// Mean power draw in watts, if the device tells.
    pub watts: Option<f64>,
    /// Why the device ran slower than it could, if it said so during the block.
    pub throttled: Option<String>,
}

/// Memory of a model in bytes; `None` where it cannot be told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
pub struct Memory {
    /// Bytes that are live in its arena in main memory.
    pub arena_used: Option<u64>,
    /// Bytes taken from the system for its arena.
    pub arena_reserved: Option<u64>,
    /// Bytes that are live in its pool on a GPU.
    pub pool_used: Option<u64>,
    /// Bytes taken from the GPU for its pool.
    pub pool_reserved: Option<u64>,
}

/// A load point that was run.
#[derive(Debug, Clone, PartialEq)]
pub struct PointRun {
    /// Its setting.
    pub point: Point,
    /// All blocks, in the order in which they ran.
    pub blocks: Vec<Measured>,
}

/// What can be compared of a point: its blocks without those that say nothing.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Kept<'a> {
    /// Blocks with the number of their round among those that are left, from 0.
    pub blocks: Vec<(usize, &'a Measured)>,
    /// Rounds left.
    pub rounds: usize,
    /// Blocks during which the device was throttled.
    pub throttled: usize,
    /// Blocks left out: those that were throttled, and the other block of the same pair.
    pub dropped: usize,
    /// By version, requests without a complete reply.
    pub failed: [usize; 2],
}

impl PointRun {
    /// Leaves out pairs of blocks in which the device was throttled.
    pub fn kept(&self) -> Kept<'_> {
        let bad = |pair: usize| {
            self.blocks.iter().any(|block| block.pair == pair && block.throttled.is_some())
        };
        let mut kept = Kept::default();
        let mut last = None;
        for block in &self.blocks {
            kept.throttled += usize::from(block.throttled.is_some());
            if bad(block.pair) {
                kept.dropped += 1;
                continue;
            }
            if last.replace(block.round) != Some(block.round) {
                kept.rounds += 1;
            }
            kept.blocks.push((kept.rounds - 1, block));
            let failed = block.samples.iter().filter(|sample| sample.is_err()).count();
            kept.failed[block.version.index()] += failed;
        }
        kept
    }
}

impl<'a> Kept<'a> {
    /// Samples with round and version. A request that failed on either version counts for neither.
    pub fn samples(&self) -> Vec<(usize, usize, &'a Sample)> {
        let mut all = Vec::new();
        for (round, block) in &self.blocks {
            let other = self.blocks.iter().map(|(_, other)| *other);
            let other = other
                .filter(|other| other.pair == block.pair)
                .find(|other| other.version != block.version);
            for (at, sample) in block.samples.iter().enumerate() {
                let pair_failed = other.is_some_and(|other| {
                    other.samples.get(at).is_some_and(|sample| sample.is_err())
                });
                if let (Ok(sample), false) = (sample, pair_failed) {
                    all.push((*round, block.version.index(), sample));
                }
            }
        }
        all
    }

    /// The first error of a version.
    pub fn first_error(&self, version: Version) -> Option<&'a str> {
        let own = self.blocks.iter().filter(|(_, block)| block.version == version);
        own.flat_map(|(_, block)| &block.samples)
            .find_map(|sample| sample.as_ref().err().map(String::as_str))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::plan::Load;

    fn block(version: Version, round: usize, pair: usize, throttled: bool) -> Measured {
        Measured {
            version,
            round,
            pair,
            begun: 0.0,
            seconds: 1.0,
            samples: vec![Ok(Sample::default()), Ok(Sample::default())],
            watts: None,
            throttled: throttled.then(|| "temperature".to_owned()),
        }
    }

    fn run(blocks: Vec<Measured>) -> PointRun {
        let point = Point { load: Load::Concurrency(1), depth: 0, prefix_cache: false };
        PointRun { point, blocks }
    }

    #[test]
    fn a_throttled_block_takes_its_pair_with_it() {
        use Version::{A, B};
        let blocks = vec![
            block(A, 0, 0, true),
            block(B, 0, 0, false),
            block(B, 0, 1, true),
            block(A, 0, 1, true),
            block(B, 1, 2, false),
            block(A, 1, 2, false),
            block(A, 1, 3, true),
            block(B, 1, 3, false),
        ];
        let run = run(blocks);
        let kept = run.kept();
        assert_eq!((kept.throttled, kept.dropped, kept.rounds), (4, 6, 1));
        let left: Vec<_> = kept.blocks.iter().map(|(round, block)| (*round, block.pair)).collect();
        assert_eq!(left, [(0, 2), (0, 2)]);
    }

    #[test]
    fn a_request_that_failed_once_counts_for_neither_version() {
        let mut failed = block(Version::B, 0, 0, false);
        failed.samples[1] = Err("gone".to_owned());
        let run = run(vec![block(Version::A, 0, 0, false), failed]);
        let kept = run.kept();
        assert_eq!((kept.failed, kept.samples().len()), ([0, 1], 2));
        assert_eq!(
            (kept.first_error(Version::A), kept.first_error(Version::B)),
            (None, Some("gone"))
        );
    }

    #[test]
    fn time_per_token_needs_two_tokens() {
        let sample = |output_tokens| Sample {
            ttft: 1.0,
            end_to_end: 3.0,
            output_tokens,
            ..Sample::default()
        };
        assert_eq!([0, 1, 2, 5].map(|n| sample(n).tpot()), [None, None, Some(2.0), Some(0.5)]);
    }
}
