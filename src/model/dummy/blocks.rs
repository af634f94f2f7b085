//! Random blocks of every weight type, with mean about 0 and standard deviation about [`SPREAD`].
//!
//! The digits are random and the scales constant: any digits with a finite scale are a valid block. Each
//! chunk of blocks has its own generator, seeded by its position, so the result does not depend on threads.
//! The scales are defined in each kind's file.

use crate::device::Kind;
use half::{bf16, f16};
use rayon::prelude::*;

/// The standard deviation in a freshly initialised model.
const SPREAD: f32 = 0.02;
/// Blocks (or values) per generator.
const CHUNK: usize = 1024;

pub(super) fn seed(seed: u64, name: &str) -> u64 {
    xxhash_rust::xxh3::xxh3_64_with_seed(name.as_bytes(), seed)
}

/// The same value everywhere, in f32.
pub(super) fn constant(value: f32, out: &mut [u8]) {
    out.chunks_exact_mut(4).for_each(|x| x.copy_from_slice(&value.to_le_bytes()));
}

pub(super) fn random(kind: Kind, seed: u64, out: &mut [u8]) {
    let chunks = out.par_chunks_mut(CHUNK * kind.block_bytes()).enumerate();
    chunks.for_each(|(i, chunk)| {
        let mut random = SplitMix(seed ^ (i as u64).wrapping_mul(0x9E37_79B9_7F4A_7C15));
        match kind {
            Kind::F32 => numbers(&mut random, chunk, |x| x.to_le_bytes()),
            Kind::F16 => numbers(&mut random, chunk, |x| f16::from_f32(x).to_le_bytes()),
            Kind::BF16 => numbers(&mut random, chunk, |x| bf16::from_f32(x).to_le_bytes()),
            _ => {
                random.fill(chunk);
                chunk
                    .chunks_exact_mut(kind.block_bytes())
                    .for_each(|block| kind.spread(block, SPREAD));
            }
        }
    });
}

fn numbers<const N: usize>(
    random: &mut SplitMix,
    out: &mut [u8],
    as_bytes: impl Fn(f32) -> [u8; N],
) {
    // Values uniform between -1 and 1 have the standard deviation 1/sqrt(3).
    let reach = SPREAD * 3f32.sqrt();
    for x in out.chunks_exact_mut(N) {
        let unit = (random.next() >> 40) as f32 / (1u64 << 23) as f32 - 1.0;
        x.copy_from_slice(&as_bytes(unit * reach));
    }
}

/// Sebastiano Vigna's splitmix64: eight good random bytes in a few instructions.
struct SplitMix(u64);

impl SplitMix {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    fn fill(&mut self, out: &mut [u8]) {
        for word in out.chunks_mut(8) {
            word.copy_from_slice(&self.next().to_le_bytes()[..word.len()]);
        }
    }
}
