//! Known answers of decoding attention that takes its heads directly from their projection. The expected values are
//! computed on the same GPU, with a separate launch for the preparation and then attention. These two have known
//! answers of their own.
//!
//! The cache slots of the rows' own tokens are poisoned at first, like everything that no query may see.

use super::answers::{Case, Data, Given, Way, case, download};
use super::decode::prepares;
use crate::attention::QueryScale;
use crate::cuda::buffer::Buffer;
use crate::cuda::card::CardError;
use crate::cuda::check::{Bench, Check, Numbers, Size};
use crate::cuda::e4m3;
use crate::cuda::kv::KvKind::{self, E4M3, F16, I8};
use crate::cuda::rope::{Angles, HeadNorms, Heads, NO_SLOT, Scaled, prepare};
use half::f16;

/// A decoding step, and what is done to its heads.
#[derive(Debug, Clone, Copy)]
struct Raw {
    attention: Case,
    /// Numbers of a head that turn are twice as many.
    half: usize,
    bias: bool,
    norms: bool,
    scaled: bool,
}

/// With a bias, norms, and whole heads turned.
const fn raw(
    splits: usize,
    kind: KvKind,
    heads: (usize, usize, usize),
    block_size: usize,
    rows: &'static [(usize, usize)],
) -> Raw {
    let attention = case(Way::Decode(splits), kind, heads, block_size, rows);
    Raw { attention, half: heads.2 / 2, bias: true, norms: true, scaled: false }
}

impl Raw {
    const fn window(self, tokens: usize) -> Raw {
        Raw { attention: self.attention.window(tokens), ..self }
    }

    /// Of the rules, only these.
    const fn only(self, half: usize, bias: bool, norms: bool) -> Raw {
        Raw { half, bias, norms, ..self }
    }

    const fn scaled(self) -> Raw {
        Raw { scaled: true, ..self }
    }
}

/// Every kernel once.
const QUICK: &[Raw] = &[
    raw(1, F16, (4, 2, 64), 16, &[(1, 1), (1, 35)]),
    raw(2, F16, (3, 1, 96), 16, &[(1, 70)]),
    raw(3, F16, (8, 2, 128), 16, &[(1, 50), (0, 0)]).scaled(),
    raw(2, F16, (2, 1, 192), 16, &[(1, 30)]),
    raw(2, F16, (1, 1, 256), 32, &[(1, 33)]),
    raw(1, I8, (2, 1, 64), 16, &[(1, 40)]),
    raw(2, I8, (1, 1, 96), 16, &[(1, 20)]),
    raw(2, I8, (7, 1, 128), 5, &[(1, 41)]).window(20),
    raw(1, I8, (1, 1, 192), 16, &[(1, 18)]),
    raw(1, I8, (2, 1, 256), 16, &[(1, 17)]),
    raw(1, E4M3, (2, 1, 64), 16, &[(1, 40)]),
    raw(2, E4M3, (1, 1, 96), 16, &[(1, 20)]),
    raw(2, E4M3, (7, 1, 128), 5, &[(1, 41)]).window(20),
    raw(1, E4M3, (2, 1, 192), 16, &[(1, 17)]),
    raw(1, E4M3, (2, 1, 256), 16, &[(1, 17)]),
];

/// Groups, blocks, shares, windows and rules that fit nothing evenly.
const FULL: &[Raw] = &[
    // The new token alone, alone in its share, the last and the first of a tile and of a block; shares without tokens.
    raw(1, F16, (1, 1, 128), 16, &[(1, 1), (1, 2), (1, 15), (1, 16), (1, 17), (1, 130)]),
    raw(2, F16, (8, 1, 128), 16, &[(1, 17), (1, 33), (1, 16), (1, 1)]),
    raw(8, F16, (2, 1, 128), 5, &[(1, 3), (1, 129), (0, 0), (1, 128)]),
    raw(70, F16, (4, 2, 64), 1, &[(1, 33), (1, 300)]),
    raw(8, I8, (8, 1, 128), 5, &[(1, 97), (1, 5), (1, 96)]),
    raw(3, I8, (8, 4, 64), 1, &[(1, 49), (0, 0), (1, 12)]),
    raw(7, E4M3, (8, 1, 128), 16, &[(1, 113), (1, 112)]),
    raw(4, E4M3, (6, 2, 192), 32, &[(1, 65), (1, 16)]),
    raw(3, E4M3, (8, 1, 256), 16, &[(1, 33), (0, 0)]),
    raw(3, I8, (8, 1, 256), 16, &[(1, 50), (1, 48)]),
    raw(2, F16, (8, 1, 256), 5, &[(1, 33)]),
    // Windows that begin within a share, of one token, and wider than a context.
    raw(3, F16, (4, 1, 128), 16, &[(1, 200), (1, 20), (1, 50)]).window(50),
    raw(2, I8, (2, 1, 64), 5, &[(1, 100), (1, 1)]).window(1),
    raw(2, E4M3, (2, 1, 96), 16, &[(1, 40)]).window(1000),
    // Heads that turn in part or not at all, with and without each rule.
    raw(2, F16, (2, 1, 128), 16, &[(1, 20), (1, 33)]).only(16, true, false),
    raw(2, I8, (2, 1, 128), 16, &[(1, 20), (1, 33)]).only(33, false, true),
    raw(1, E4M3, (2, 1, 96), 16, &[(1, 20)]).only(0, true, false),
    raw(1, F16, (4, 2, 64), 16, &[(1, 9), (1, 20)]).only(0, false, false),
    raw(2, I8, (4, 2, 64), 16, &[(1, 9), (1, 20)]).only(1, false, false).scaled(),
    raw(2, E4M3, (4, 2, 192), 16, &[(1, 20), (0, 0)]).only(40, false, true).scaled(),
    raw(2, F16, (2, 1, 256), 16, &[(0, 0), (1, 30)]).only(128, false, false).scaled(),
];

const EPS: f32 = 1e-3;
/// Short, so that small contexts differ by it.
const SCALE: QueryScale = QueryScale { beta: 0.1, period: 8 };

pub(crate) fn checks(bench: &Bench, size: Size) -> Result<Vec<Check>, CardError> {
    let full = if size == Size::Full { FULL } else { &[] };
    let kept = |(_, raw): &(usize, &Raw)| raw.attention.kind.check(bench.card.properties()).is_ok();
    let cases = QUICK.iter().chain(full).enumerate().filter(kept);
    let mut checks = Vec::new();
    for (seed, raw) in cases {
        checks.extend(raw.check(bench, seed as u64)?);
    }
    Ok(checks)
}

impl Raw {
    fn check(&self, bench: &Bench, seed: u64) -> Result<Vec<Check>, CardError> {
        let Raw { attention, half, .. } = self;
        let (count, kv_heads, dim) = attention.heads;
        let (mut data, mut numbers) = (Data::new(attention, seed), Numbers::new(seed + 1000));
        let slots = forget_last(attention, &mut data);
        let tokens = data.tokens(attention);
        let put = |values: Vec<f32>| Buffer::of(&bench.card, bench.pool, &values);
        let biases = put(numbers.numbers((count + 2 * kv_heads) * dim))?;
        let (query, key) = (put(numbers.numbers(dim))?, put(numbers.numbers(dim))?);
        // Not of one angle: nothing may depend on that.
        let (cos, sin) =
            (put(numbers.numbers(tokens * half))?, put(numbers.numbers(tokens * half))?);
        let positions = attention.rows.iter().map(|(_, context)| context.saturating_sub(1) as u32);
        let positions = Buffer::of(&bench.card, bench.pool, &Vec::from_iter(positions))?;
        let norms = HeadNorms { query: query.view(), key: key.view(), eps: EPS };
        let heads = Heads {
            count,
            bias: self.bias.then(|| biases.view()),
            norms: self.norms.then_some(norms),
            angles: Angles { half: *half, cos: cos.view(), sin: sin.view() },
            scaled: self.scaled.then(|| Scaled { positions: positions.view(), by: SCALE }),
        };
        assert!(prepares(count, data.shape, attention.kind, (1, 1)), "{self:?}");
        let (mut apart, mut fused) =
            (Given::new(bench, attention, &data)?, Given::new(bench, attention, &data)?);
        let slots = Buffer::of(&bench.card, bench.pool, &slots)?;
        let (qkv, layer) = (apart.qkv.view_mut(), apart.layer.view_mut());
        prepare(&*bench.card, &heads, qkv, slots.view(), layer)?;
        let wanted = apart.attend(bench, attention, None)?;
        let got = fused.attend(bench, attention, Some(&heads))?;
        self.compare(bench, (&fused, &got), (&apart, &wanted))
    }

    /// Compares outputs and caches. On a card two kernels may be compiled to differently rounded operations, and a
    /// cached number may then be the one beside.
    fn compare(
        &self,
        bench: &Bench,
        (fused, got): (&Given, &[f32]),
        (apart, wanted): (&Given, &[f32]),
    ) -> Result<Vec<Check>, CardError> {
        let beside = match self.attention.kind {
            KvKind::F32 => 1e-6,
            F16 => 1e-3,
            I8 => 1e-2,
            E4M3 => 7e-2,
        };
        let check = |part: &str, got: &[f32], wanted: &[f32], limit| {
            let wanted: Vec<f64> = wanted.iter().map(|v| f64::from(*v)).collect();
            Check::compare("attention_decode", format!("{part}: {self:?}"), got, &wanted, limit)
        };
        let mut checks = vec![check("raw heads", got, wanted, beside)];
        for (part, got, wanted) in [
            ("keys", self.cached(bench, fused, true)?, self.cached(bench, apart, true)?),
            ("values", self.cached(bench, fused, false)?, self.cached(bench, apart, false)?),
        ] {
            checks.push(check(part, &got, &wanted, beside));
        }
        Ok(checks)
    }

    /// The whole cache, places of poison as 0: keys or values, and their scales.
    fn cached(&self, bench: &Bench, given: &Given, keys: bool) -> Result<Vec<f32>, CardError> {
        let view = given.layer.view();
        let (numbers, scales) = match keys {
            true => (view.keys, view.key_scales),
            false => (view.values, view.value_scales),
        };
        let bytes: Vec<u8> = download(&*bench.card, numbers.address(), numbers.len())?;
        let scales: Vec<f32> = match scales.len() {
            0 => Vec::new(),
            len => download(&*bench.card, scales.address(), len)?,
        };
        let numbers: Vec<f32> = match self.attention.kind {
            F16 => bytes.as_chunks().0.iter().map(|b| f16::from_le_bytes(*b).to_f32()).collect(),
            E4M3 => bytes.iter().map(|byte| e4m3::value(*byte) as f32).collect(),
            _ => bytes.iter().map(|byte| f32::from(byte.cast_signed())).collect(),
        };
        let poison = |v: f32| if v.is_nan() { 0.0 } else { v };
        Ok(numbers.into_iter().chain(scales).map(poison).collect())
    }
}

/// Poisons the cells of the rows' last tokens; the tokens' slots.
fn forget_last(case: &Case, data: &mut Data) -> Vec<u32> {
    let (_, kv_heads, dim) = case.heads;
    let (block_size, cell_bytes) = (case.block_size, dim * case.kind.bytes());
    let slot = |(row, (_, context)): (usize, &(usize, usize))| {
        let Some(last) = context.checked_sub(1) else { return NO_SLOT };
        let block = data.tables[data.rows[4 * row + 3] as usize + last / block_size] as usize;
        for head in 0..kv_heads {
            let cell = (block * kv_heads + head) * block_size + last % block_size;
            for side in [&mut data.keys, &mut data.values] {
                side.bytes[cell * cell_bytes..][..cell_bytes].fill(0xff);
                if let Some(scale) = side.scales.get_mut(cell) {
                    *scale = f32::NAN;
                }
            }
        }
        (block * block_size + last % block_size) as u32
    };
    case.rows.iter().enumerate().map(slot).collect()
}
