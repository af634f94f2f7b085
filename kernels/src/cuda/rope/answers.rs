//! Known answers of the operations on heads, from plain loops in f64.

use super::*;
use crate::cuda::buffer::Buffer;
use crate::cuda::card::Stream;
use crate::cuda::check::{Bench, Check, Numbers, Size};
use crate::cuda::e4m3;
use crate::cuda::kv::KvLayer;
use crate::cuda::rows::answers::Input;

pub(crate) fn checks(bench: &Bench, size: Size) -> Result<Vec<Check>, CardError> {
    let mut all = Vec::new();
    for (seed, half) in [1, 3, 64].into_iter().enumerate() {
        for long in [false, true] {
            all.extend(check_angles(bench, half, long, &mut Numbers::new(seed as u64))?);
        }
    }
    let shapes: &[(usize, usize, usize)] = match size {
        Size::Quick => &[(2, 96, 32)],
        Size::Full => &[(1, 4096, 4096), (3, 30, 10), (2, 2052, 4), (4, 64, 7)],
    };
    for (seed, shape) in shapes.iter().enumerate() {
        all.push(check_token_norms(bench, *shape, &mut Numbers::new(seed as u64))?);
    }
    let cases: &[Case] = if size == Size::Quick { QUICK } else { FULL };
    let kept = |kind: &KvKind| kind.check(bench.card.properties()).is_ok();
    for (seed, case) in cases.iter().enumerate() {
        for kind in KvKind::ALL.into_iter().filter(kept) {
            all.extend(case.check(bench, kind, &mut Numbers::new(seed as u64))?);
        }
    }
    Ok(all)
}

/// Positions from the first to the longest contexts that anyone promises, and frequencies down from 1.
fn check_angles(
    bench: &Bench,
    half: usize,
    long: bool,
    numbers: &mut Numbers,
) -> Result<[Check; 2], CardError> {
    let mut positions = vec![0, 1, 77, 4095, 131_071, 999_999, 1 << 20, (1 << 24) - 1];
    positions.extend((0..20).map(|_| numbers.below(1 << 20) as u32));
    let tokens = positions.len();
    let longs: Vec<u32> = (0..tokens).map(|_| numbers.below(3) as u32).collect();
    let frequency = |i: usize| 10_000f32.powf(-(i as f32) / half as f32);
    let short: Vec<f32> = (0..half).map(frequency).collect();
    let stretched: Vec<f32> = (0..half).map(|i| frequency(i) / (1.0 + i as f32)).collect();
    let on_card = |values: &[u32]| Buffer::of(&bench.card, bench.pool, values);
    let (at, marks) = (on_card(&positions)?, on_card(&longs)?);
    let (inv, long_inv) = (Input::new(bench, 0, &short)?, Input::new(bench, 0, &stretched)?);
    let poison = vec![f32::NAN; tokens * half];
    let (mut cos, mut sin) = (Input::new(bench, 0, &poison)?, Input::new(bench, 0, &poison)?);
    let long_inv_freq = long.then(|| long_inv.view());
    let frequencies = Frequencies { inv_freq: inv.view(), long_inv_freq, factor: 1.25 };
    let turns = Turns {
        positions: at.view(),
        longs: marks.view(),
        frequencies,
        cos: cos.view_mut(),
        sin: sin.view_mut(),
    };
    angles(&*bench.card, turns)?;
    let (mut cosines, mut sines) = (Vec::new(), Vec::new());
    for (position, mark) in positions.iter().zip(longs) {
        let used = if long && mark != 0 { &stretched } else { &short };
        for frequency in used {
            let angle = f64::from(*position as f32 * frequency);
            cosines.push(1.25 * angle.cos());
            sines.push(1.25 * angle.sin());
        }
    }
    let case = format!("{half} frequencies, {}", if long { "some long" } else { "none long" });
    Ok([
        Check::compare("angles", format!("cosines, {case}"), &cos.to_vec()?, &cosines, 1e-6),
        Check::compare("angles", format!("sines, {case}"), &sin.to_vec()?, &sines, 1e-6),
    ])
}

/// All queries of a token as one row, all its keys as another; the values beside them stay.
fn check_token_norms(
    bench: &Bench,
    (tokens, queries, keys): (usize, usize, usize),
    numbers: &mut Numbers,
) -> Result<Check, CardError> {
    let stride = queries + 2 * keys;
    let given = numbers.numbers(tokens * stride);
    let (query, key) = (numbers.numbers(queries), numbers.numbers(keys));
    let mut qkv = Input::new(bench, 0, &given)?;
    let (on_query, on_key) = (Input::new(bench, 0, &query)?, Input::new(bench, 0, &key)?);
    let norms = HeadNorms { query: on_query.view(), key: on_key.view(), eps: EPS };
    norm_tokens(&*bench.card, &norms, qkv.view_mut(), tokens, stride)?;
    let mut wanted: Vec<f64> = given.iter().map(|v| f64::from(*v)).collect();
    for token in wanted.chunks_exact_mut(stride) {
        let (first, rest) = token.split_at_mut(queries);
        for (row, weight) in [(first, &query), (&mut rest[..keys], &key)] {
            let mean = row.iter().map(|v| v * v).sum::<f64>() / row.len() as f64;
            let rms = (mean + f64::from(EPS)).sqrt();
            row.iter_mut().zip(weight).for_each(|(v, w)| *v *= f64::from(*w) / rms);
        }
    }
    let case = format!("{tokens} tokens of {queries} + 2 * {keys}");
    Ok(Check::compare("norm_tokens", case, &qkv.to_vec()?, &wanted, 1e-5))
}

/// A step's tokens through one layer.
#[derive(Debug, Clone, Copy)]
struct Case {
    tokens: usize,
    heads: usize,
    kv_heads: usize,
    head_dim: usize,
    half: usize,
    bias: bool,
    norms: bool,
    scaled: bool,
    block_size: usize,
    /// By how many numbers qkv is off 16 bytes.
    off: usize,
}

const PLAIN: Case = Case {
    tokens: 3,
    heads: 4,
    kv_heads: 2,
    head_dim: 128,
    half: 64,
    bias: true,
    norms: true,
    scaled: false,
    block_size: 16,
    off: 0,
};

const QUICK: &[Case] = &[PLAIN];
const FULL: &[Case] = &[
    PLAIN,
    Case { bias: false, ..PLAIN },
    Case { norms: false, ..PLAIN },
    Case { bias: false, norms: false, heads: 1, kv_heads: 1, tokens: 1, ..PLAIN },
    Case { heads: 14, kv_heads: 2, head_dim: 64, half: 32, ..PLAIN },
    Case { heads: 3, kv_heads: 3, head_dim: 80, half: 16, block_size: 5, ..PLAIN },
    Case { heads: 2, kv_heads: 1, head_dim: 96, half: 48, ..PLAIN },
    Case { heads: 4, kv_heads: 1, head_dim: 256, half: 128, ..PLAIN },
    Case { heads: 3, kv_heads: 1, head_dim: 192, half: 96, ..PLAIN },
    Case { heads: 2, kv_heads: 2, head_dim: 512, half: 100, ..PLAIN },
    Case { heads: 4, kv_heads: 2, head_dim: 8, half: 4, tokens: 21, ..PLAIN },
    Case { heads: 2, kv_heads: 1, head_dim: 6, half: 2, ..PLAIN },
    Case { heads: 2, kv_heads: 1, head_dim: 2, half: 1, norms: false, ..PLAIN },
    Case { half: 0, ..PLAIN },
    Case { scaled: true, tokens: 9, ..PLAIN },
    Case { scaled: true, norms: false, head_dim: 6, half: 2, ..PLAIN },
    Case { off: 1, half: 33, ..PLAIN },
];

const EPS: f32 = 1e-3;
const SCALE: QueryScale = QueryScale { beta: 0.1, period: 16_384 };

/// What a case starts from.
struct Given {
    qkv: Vec<f32>,
    bias: Vec<f32>,
    query: Vec<f32>,
    key: Vec<f32>,
    cos: Vec<f32>,
    sin: Vec<f32>,
    positions: Vec<u32>,
    slots: Vec<u32>,
}

/// Heads as they should come out, with their places in the cache: queries by token, then keys and values.
struct Expected {
    qkv: Vec<f64>,
    keys: Vec<(usize, Vec<f64>)>,
    values: Vec<(usize, Vec<f64>)>,
}

impl Case {
    fn all(&self) -> usize {
        self.heads + 2 * self.kv_heads
    }

    fn shape(&self) -> KvShape {
        let (block_size, kv_heads, head_dim) = (self.block_size, self.kv_heads, self.head_dim);
        // Twice the room that is needed, so that much has to stay untouched.
        let blocks = (2 * self.tokens).div_ceil(block_size) + 1;
        KvShape { blocks, block_size, kv_heads, head_dim }
    }

    fn given(&self, numbers: &mut Numbers) -> Given {
        let row = self.all() * self.head_dim;
        let slots = self.shape().blocks * self.block_size;
        // Backwards from a random place; of several tokens one is padding, one has a slot beyond the cache.
        let first = numbers.below(slots - self.tokens);
        let mut slots: Vec<u32> =
            (0..self.tokens).map(|t| (slots - 1 - first - t) as u32).collect();
        if self.tokens > 2 {
            slots[1] = NO_SLOT;
        }
        if self.tokens > 4 {
            slots[3] = (self.shape().blocks * self.block_size) as u32;
        }
        let mut qkv = numbers.numbers(self.tokens * row);
        // The last value is nothing at all: its scale is 0.
        if !self.bias {
            qkv[self.tokens * row - self.head_dim..].fill(0.0);
        }
        Given {
            qkv,
            bias: numbers.numbers(row),
            query: numbers.numbers(self.head_dim),
            key: numbers.numbers(self.head_dim),
            // Not of one angle: nothing may depend on that.
            cos: numbers.numbers(self.tokens * self.half),
            sin: numbers.numbers(self.tokens * self.half),
            positions: (0..self.tokens).map(|_| numbers.below(300_000) as u32).collect(),
            slots,
        }
    }

    fn expected(&self, given: &Given) -> Expected {
        let (dim, shape) = (self.head_dim, self.shape());
        let mut qkv: Vec<f64> = given.qkv.iter().map(|v| f64::from(*v)).collect();
        let (mut keys, mut values) = (Vec::new(), Vec::new());
        for (t, &slot) in given.slots.iter().enumerate() {
            let slot = slot as usize;
            if slot >= shape.blocks * shape.block_size {
                continue;
            }
            for h in 0..self.all() {
                let at = (t * self.all() + h) * dim;
                let head = self.head(given, t, h);
                if h < self.heads {
                    qkv[at..at + dim].copy_from_slice(&head);
                    continue;
                }
                let kv_head = (h - self.heads) % self.kv_heads;
                let (block, offset) = (slot / shape.block_size, slot % shape.block_size);
                let cell = (block * self.kv_heads + kv_head) * shape.block_size + offset;
                let side = if h < self.heads + self.kv_heads { &mut keys } else { &mut values };
                side.push((cell, head));
            }
        }
        Expected { qkv, keys, values }
    }

    fn head(&self, given: &Given, t: usize, h: usize) -> Vec<f64> {
        let (dim, half) = (self.head_dim, self.half);
        let at = (t * self.all() + h) * dim;
        let mut head: Vec<f64> = given.qkv[at..at + dim].iter().map(|v| f64::from(*v)).collect();
        if self.bias {
            head.iter_mut().zip(&given.bias[h * dim..]).for_each(|(v, b)| *v += f64::from(*b));
        }
        if h >= self.heads + self.kv_heads {
            return head;
        }
        if self.norms {
            let weight = if h < self.heads { &given.query } else { &given.key };
            let mean = head.iter().map(|v| v * v).sum::<f64>() / dim as f64;
            let rms = (mean + f64::from(EPS)).sqrt();
            head.iter_mut().zip(weight).for_each(|(v, w)| *v *= f64::from(*w) / rms);
        }
        for i in 0..half {
            let (cos, sin) = (given.cos[t * half + i], given.sin[t * half + i]);
            let (cos, sin) = (f64::from(cos), f64::from(sin));
            let (a, b) = (head[i], head[i + half]);
            head[i] = a * cos - b * sin;
            head[i + half] = b * cos + a * sin;
        }
        if self.scaled && h < self.heads {
            let periods = (given.positions[t] / SCALE.period) as f64;
            let factor = 1.0 + f64::from(SCALE.beta) * (1.0 + periods).ln();
            head.iter_mut().for_each(|v| *v *= factor);
        }
        head
    }

    fn check(
        &self,
        bench: &Bench,
        kind: KvKind,
        numbers: &mut Numbers,
    ) -> Result<Vec<Check>, CardError> {
        let given = self.given(numbers);
        let mut layer = KvLayer::new(&bench.card, bench.pool, self.shape(), kind, Stream::Compute)?;
        poison(bench, layer.view_mut())?;
        let mut qkv = Input::new(bench, self.off, &given.qkv)?;
        let input = |values: &[f32]| Input::new(bench, 0, values);
        let (bias, query, key) = (input(&given.bias)?, input(&given.query)?, input(&given.key)?);
        let (cos, sin) = (input(&given.cos)?, input(&given.sin)?);
        let slots = Buffer::of(&bench.card, bench.pool, &given.slots)?;
        let positions = Buffer::of(&bench.card, bench.pool, &given.positions)?;
        let heads = Heads {
            count: self.heads,
            bias: self.bias.then(|| bias.view()),
            norms: self.norms.then(|| HeadNorms { query: query.view(), key: key.view(), eps: EPS }),
            angles: Angles { half: self.half, cos: cos.view(), sin: sin.view() },
            scaled: self.scaled.then(|| Scaled { positions: positions.view(), by: SCALE }),
        };
        prepare(&*bench.card, &heads, qkv.view_mut(), slots.view(), layer.view_mut())?;
        let expected = self.expected(&given);
        let mut checks = vec![Check::compare(
            "prepare",
            self.name(kind, "qkv"),
            &qkv.to_vec()?,
            &expected.qkv,
            1e-5,
        )];
        checks.extend(self.check_cache(bench, &layer, kind, &expected)?);
        Ok(checks)
    }

    fn name(&self, kind: KvKind, part: &str) -> String {
        let Case { tokens, heads, kv_heads, head_dim, half, bias, norms, scaled, block_size, off } =
            self;
        format!(
            "{part}: {kind:?}, {tokens} tokens of {heads} + 2 * {kv_heads} heads of {head_dim}, {half} turned, \
             bias {bias}, norms {norms}, scaled {scaled}, blocks of {block_size}, + {off}"
        )
    }

    /// The cells that were written, and that all others still hold the poison.
    fn check_cache(
        &self,
        bench: &Bench,
        layer: &KvLayer,
        kind: KvKind,
        expected: &Expected,
    ) -> Result<Vec<Check>, CardError> {
        let view = layer.view();
        let sides = [
            ("keys", view.keys, view.key_scales, &expected.keys),
            ("values", view.values, view.value_scales, &expected.values),
        ];
        let mut checks = Vec::new();
        for (part, bytes, scales, expected) in sides {
            let mut cells = read(bench, bytes)?;
            let mut scales = read(bench, scales)?;
            let (mut got, mut wanted) = (Vec::new(), Vec::new());
            let mut scale_checks = (Vec::new(), Vec::new());
            let cell_bytes = self.head_dim * kind.bytes();
            for (cell, head) in expected {
                let bytes = &mut cells[cell * cell_bytes..][..cell_bytes];
                let scale = scales.get_mut(cell * 4..cell * 4 + 4);
                let most = head.iter().fold(0.0f64, |most, v| most.max(v.abs()));
                let step = most / 127.0;
                got.extend(match kind {
                    KvKind::E4M3 => rounded_rightly(bytes, head, 1e-5 * most),
                    _ => numbers_of(kind, bytes, step),
                });
                wanted.extend(head);
                bytes.fill(0xff);
                if let Some(scale) = scale {
                    scale_checks
                        .0
                        .push(f32::from_le_bytes([scale[0], scale[1], scale[2], scale[3]]));
                    scale_checks.1.push(step);
                    scale.fill(0xff);
                }
            }
            let limit = match kind {
                KvKind::F32 => 1e-5,
                KvKind::F16 => 6e-4,
                KvKind::I8 => 4.1e-3,
                KvKind::E4M3 => 1e-7,
            };
            checks.push(Check::compare("prepare", self.name(kind, part), &got, &wanted, limit));
            let (got, wanted) = scale_checks;
            checks.push(Check::compare("prepare", self.name(kind, "scales"), &got, &wanted, 1e-5));
            let stayed = cells.iter().chain(&scales).all(|byte| *byte == 0xff);
            checks.push(Check::equal("prepare", self.name(kind, "the rest"), &[stayed], &[true]));
        }
        Ok(checks)
    }
}

fn numbers_of(kind: KvKind, bytes: &[u8], step: f64) -> Vec<f32> {
    match kind {
        KvKind::F32 => bytes.as_chunks().0.iter().map(|b| f32::from_le_bytes(*b)).collect(),
        KvKind::F16 => {
            let halves = bytes.as_chunks().0.iter().map(|b| half::f16::from_le_bytes(*b));
            halves.map(half::f16::to_f32).collect()
        }
        KvKind::I8 => bytes.iter().map(|b| (f64::from(b.cast_signed()) * step) as f32).collect(),
        KvKind::E4M3 => bytes.iter().map(|b| e4m3::value(*b) as f32).collect(),
    }
}

/// Of numbers in E4M3, those that were wanted where a number within `slack` of them rounds to the byte, else what the
/// byte means. Rounding is coarse: a bound of its size would hide a number that is rounded wrongly.
fn rounded_rightly(bytes: &[u8], wanted: &[f64], slack: f64) -> Vec<f32> {
    let one = |(byte, wanted): (&u8, &f64)| {
        let near = [wanted - slack, wanted + slack].map(|v| e4m3::value(e4m3::nearest(v)));
        let got = e4m3::value(*byte);
        (if near.contains(&got) { *wanted } else { got }) as f32
    };
    bytes.iter().zip(wanted).map(one).collect()
}

fn poison(bench: &Bench, kv: KvViewMut) -> Result<(), CardError> {
    for (address, bytes) in [
        (kv.keys.address(), kv.keys.len()),
        (kv.values.address(), kv.values.len()),
        (kv.scales.address(), kv.scales.len() * 4),
    ] {
        if bytes > 0 {
            bench.card.fill(address, 0xff, bytes, Stream::Compute)?;
        }
    }
    Ok(())
}

fn read<T: crate::cuda::buffer::Plain>(bench: &Bench, view: View<T>) -> Result<Vec<u8>, CardError> {
    let mut bytes = vec![0; view.len() * size_of::<T>()];
    if !bytes.is_empty() {
        bench.card.download(view.address(), &mut bytes, Stream::Compute)?;
    }
    Ok(bytes)
}
