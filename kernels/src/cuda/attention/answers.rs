//! Known answers of attention: small caches with scrambled blocks, against a plain loop in f64.
//!
//! Everything that no query may see is poisoned: unused blocks, unused slots of blocks, blocks before a window (there
//! the table names a poisoned block), and the gaps between tables. Reading any of it gives NaN.

use super::{AttentionSpec, attend_decode, attend_exact, attend_prefill, partials_len};
use crate::cuda::acts::{ActBuffer, ActKind, Acts};
use crate::cuda::buffer::{Buffer, Plain, bytes_of};
use crate::cuda::card::{Card, CardError, Stream};
use crate::cuda::check::{Bench, Check, Numbers, Size};
use crate::cuda::e4m3;
use crate::cuda::kv::{KvKind, KvLayer, KvShape, Rows};
use crate::cuda::rope::Heads;
use half::{bf16, f16};
use std::fmt;

/// Which function answers.
#[derive(Debug, Clone, Copy)]
pub(super) enum Way {
    /// With so many shares.
    Decode(usize),
    Prefill,
    Exact,
}

#[derive(Debug, Clone, Copy)]
pub(super) struct Case {
    pub way: Way,
    pub kind: KvKind,
    out: ActKind,
    /// Query heads, key heads, numbers of a head.
    pub heads: (usize, usize, usize),
    pub block_size: usize,
    window: Option<usize>,
    soft_cap: Option<f32>,
    /// Query tokens and tokens in the cache of each row; none and none for padding.
    pub rows: &'static [(usize, usize)],
}

impl fmt::Display for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Case { way, kind, out, heads, block_size, window, soft_cap, rows } = self;
        write!(f, "{way:?} {kind:?} -> {out:?}, heads {heads:?}, blocks of {block_size}, ")?;
        write!(f, "window {window:?}, cap {soft_cap:?}, rows {rows:?}")
    }
}

pub(super) const fn case(
    way: Way,
    kind: KvKind,
    heads: (usize, usize, usize),
    block_size: usize,
    rows: &'static [(usize, usize)],
) -> Case {
    Case { way, kind, out: ActKind::F32, heads, block_size, window: None, soft_cap: None, rows }
}

impl Case {
    /// The same case with a sliding window of `tokens` tokens.
    pub const fn window(self, tokens: usize) -> Case {
        Case { window: Some(tokens), ..self }
    }

    /// The same case with scores capped at `cap` (`cap * tanh(score / cap)`).
    pub const fn cap(self, cap: f32) -> Case {
        Case { soft_cap: Some(cap), ..self }
    }

    /// The same case with outputs in this form.
    pub const fn out(self, out: ActKind) -> Case {
        Case { out, ..self }
    }
}

use ActKind::{BF16, Q8};
use KvKind::{E4M3, F16, F32, I8};
use Way::{Decode, Exact, Prefill};

/// Every kernel once.
const QUICK: &[Case] = &[
    case(Decode(1), F16, (4, 2, 64), 16, &[(1, 1), (1, 35)]),
    case(Decode(2), F16, (3, 1, 96), 16, &[(1, 70)]),
    case(Decode(3), F16, (8, 1, 128), 16, &[(1, 50), (0, 0)]).out(ActKind::F16),
    case(Decode(2), F16, (1, 1, 256), 32, &[(1, 33)]),
    case(Decode(1), I8, (2, 1, 64), 16, &[(1, 40)]).out(Q8),
    case(Decode(2), I8, (1, 1, 96), 16, &[(1, 20)]),
    case(Decode(2), I8, (7, 1, 128), 5, &[(1, 41)]).window(20),
    case(Decode(1), I8, (2, 1, 256), 16, &[(1, 17)]).cap(2.0),
    case(Decode(2), F16, (2, 1, 192), 16, &[(1, 30)]),
    case(Decode(1), I8, (1, 1, 192), 16, &[(1, 18)]).out(Q8),
    case(Decode(1), E4M3, (2, 1, 64), 16, &[(1, 40)]).out(Q8),
    case(Decode(2), E4M3, (1, 1, 96), 16, &[(1, 20)]),
    case(Decode(2), E4M3, (7, 1, 128), 5, &[(1, 41)]).window(20),
    case(Decode(1), E4M3, (2, 1, 192), 16, &[(1, 17)]),
    case(Decode(1), E4M3, (2, 1, 256), 16, &[(1, 17)]).cap(2.0),
    case(Prefill, F16, (4, 2, 64), 16, &[(20, 20), (1, 9)]),
    case(Prefill, F16, (2, 2, 96), 16, &[(5, 40)]),
    case(Prefill, F16, (4, 1, 128), 16, &[(18, 30)]).out(Q8),
    case(Prefill, F16, (1, 1, 256), 16, &[(9, 9)]),
    case(Prefill, I8, (2, 1, 64), 16, &[(10, 25)]),
    case(Prefill, I8, (1, 1, 96), 16, &[(3, 3)]),
    case(Prefill, I8, (2, 1, 128), 16, &[(8, 20)]).window(6),
    case(Prefill, I8, (1, 1, 256), 32, &[(6, 12)]).cap(2.0),
    case(Prefill, F16, (2, 1, 192), 16, &[(9, 12)]),
    case(Prefill, I8, (1, 1, 192), 16, &[(6, 9)]),
    case(Prefill, E4M3, (2, 1, 64), 16, &[(10, 25)]),
    case(Prefill, E4M3, (1, 1, 96), 16, &[(3, 3)]),
    case(Prefill, E4M3, (2, 1, 128), 16, &[(8, 20)]).window(6),
    case(Prefill, E4M3, (1, 1, 192), 16, &[(6, 9)]),
    case(Prefill, E4M3, (1, 1, 256), 32, &[(6, 12)]).cap(2.0),
    case(Decode(2), F32, (4, 2, 16), 16, &[(1, 10), (0, 0), (1, 3)]),
    case(Prefill, F32, (2, 1, 64), 16, &[(6, 12)]),
    case(Exact, F16, (2, 1, 128), 16, &[(2, 20)]),
    case(Exact, I8, (4, 2, 8), 16, &[(2, 20)]).out(Q8),
    case(Exact, E4M3, (4, 2, 8), 16, &[(2, 20)]).out(Q8),
];

/// Sizes, groups, blocks, windows, caps and forms that fit nothing evenly.
const FULL: &[Case] = &[
    // Groups and contexts; shares that are empty, shares of one tile, of several.
    case(Decode(1), F16, (1, 1, 128), 16, &[(1, 1), (1, 2), (1, 15), (1, 16), (1, 17), (1, 300)]),
    case(Decode(8), F16, (2, 1, 128), 16, &[(1, 3), (1, 129), (0, 0), (1, 128), (1, 257)]),
    case(Decode(5), F16, (3, 1, 64), 1, &[(1, 200), (1, 31), (1, 32), (1, 33)]),
    case(Decode(3), F16, (8, 2, 64), 5, &[(1, 130), (1, 64)]),
    case(Decode(1), F16, (14, 2, 64), 32, &[(1, 99), (0, 0)]),
    case(Decode(2), F16, (24, 2, 64), 16, &[(1, 77)]),
    case(Decode(70), F16, (2, 1, 64), 16, &[(1, 60), (1, 1200)]),
    case(Decode(300), I8, (9, 1, 64), 16, &[(1, 1500), (1, 17)]).out(Q8),
    case(Decode(7), I8, (8, 1, 128), 5, &[(1, 300), (1, 5)]),
    case(Decode(2), I8, (4, 2, 64), 1, &[(1, 150), (1, 12)]),
    case(Decode(4), I8, (3, 1, 96), 32, &[(1, 64), (1, 161)]),
    case(Decode(2), I8, (4, 1, 256), 16, &[(1, 100), (0, 0)]),
    case(Decode(2), F16, (4, 1, 256), 5, &[(1, 100), (1, 65)]),
    case(Decode(70), E4M3, (9, 1, 64), 16, &[(1, 600), (1, 17)]).out(Q8),
    case(Decode(7), E4M3, (8, 1, 128), 5, &[(1, 300), (1, 5)]),
    case(Decode(2), E4M3, (4, 2, 64), 1, &[(1, 150), (0, 0), (1, 12)]),
    case(Decode(4), E4M3, (3, 1, 96), 32, &[(1, 64), (1, 161)]),
    case(Decode(2), E4M3, (4, 1, 256), 16, &[(1, 100), (0, 0)]),
    case(Decode(3), F16, (9, 1, 192), 5, &[(1, 129), (1, 65)]),
    case(Decode(2), I8, (4, 2, 192), 16, &[(1, 100), (0, 0), (1, 63)]),
    case(Decode(3), E4M3, (6, 2, 192), 32, &[(1, 130), (1, 16)]),
    case(Decode(1), F16, (4, 2, 96), 16, &[(1, 140), (1, 16)]),
    // Windows and caps.
    case(Decode(3), F16, (4, 1, 128), 16, &[(1, 200), (1, 20), (1, 50)]).window(50),
    case(Decode(1), F16, (2, 1, 64), 5, &[(1, 100), (1, 1)]).window(1),
    case(Decode(2), I8, (2, 1, 128), 16, &[(1, 100), (1, 7)]).window(33).cap(1.5),
    case(Decode(2), F16, (2, 1, 64), 16, &[(1, 90)]).window(1000).cap(3.0),
    case(Decode(2), E4M3, (2, 1, 128), 16, &[(1, 100), (1, 7)]).window(33).cap(1.5),
    case(Decode(2), F16, (2, 1, 192), 16, &[(1, 90)]).window(40).cap(2.0),
    // Forms of the output, with one share and merged.
    case(Decode(1), F16, (4, 2, 64), 16, &[(1, 30), (0, 0)]).out(BF16),
    case(Decode(2), F16, (4, 2, 96), 16, &[(1, 40), (0, 0)]).out(Q8),
    case(Decode(1), F16, (2, 1, 96), 16, &[(1, 40), (0, 0)]).out(Q8),
    case(Decode(4), I8, (4, 2, 64), 16, &[(1, 70)]).out(ActKind::F16),
    // Chunks: alone, at a context's end, beside decoding rows and padding; tiles of several tokens.
    case(Prefill, F16, (1, 1, 64), 16, &[(1, 1), (64, 64), (65, 65)]),
    case(Prefill, F16, (2, 1, 64), 1, &[(33, 150), (1, 70), (0, 0), (7, 7)]),
    case(Prefill, F16, (3, 1, 128), 5, &[(45, 100), (1, 300)]),
    case(Prefill, F16, (8, 2, 128), 32, &[(20, 90)]),
    case(Prefill, F16, (7, 1, 96), 16, &[(19, 19), (2, 65)]),
    case(Prefill, F16, (8, 1, 256), 16, &[(10, 70)]),
    case(Prefill, F16, (2, 2, 256), 5, &[(65, 65)]),
    case(Prefill, I8, (4, 2, 64), 5, &[(40, 140), (1, 33)]),
    case(Prefill, I8, (2, 1, 128), 1, &[(66, 130)]),
    case(Prefill, I8, (3, 1, 96), 16, &[(50, 64)]),
    case(Prefill, I8, (4, 1, 256), 32, &[(20, 50)]),
    case(Prefill, E4M3, (4, 2, 64), 5, &[(40, 140), (1, 33), (0, 0)]),
    case(Prefill, E4M3, (2, 1, 128), 1, &[(66, 130)]),
    case(Prefill, E4M3, (3, 1, 96), 16, &[(50, 64)]),
    case(Prefill, E4M3, (4, 1, 256), 32, &[(20, 50)]),
    case(Prefill, F16, (3, 1, 192), 5, &[(30, 70), (1, 33)]),
    case(Prefill, I8, (2, 1, 192), 16, &[(65, 65)]).out(Q8),
    case(Prefill, E4M3, (8, 2, 192), 16, &[(20, 100), (0, 0), (1, 40)]),
    case(Prefill, F16, (1, 1, 128), 16, &[(130, 200)]).window(70),
    case(Prefill, F16, (2, 1, 64), 16, &[(100, 100)]).window(1),
    case(Prefill, F16, (4, 2, 96), 16, &[(40, 60)]).window(500).cap(2.0),
    case(Prefill, I8, (2, 1, 64), 5, &[(50, 150), (1, 90)]).window(17).cap(2.0),
    case(Prefill, E4M3, (2, 1, 64), 5, &[(50, 150), (1, 90)]).window(17).cap(2.0),
    case(Prefill, F16, (2, 2, 192), 16, &[(40, 90)]).window(35),
    case(Prefill, F16, (2, 1, 64), 16, &[(5, 9), (1, 4)]).out(BF16),
    case(Prefill, I8, (2, 1, 96), 16, &[(5, 9)]).out(ActKind::F16),
    case(Prefill, F16, (2, 2, 256), 16, &[(5, 9)]).out(Q8),
    // Heads that the tensor-core kernels do not take, and caches in f32.
    case(Decode(3), F16, (4, 2, 8), 5, &[(1, 40), (0, 0), (1, 150)]),
    case(Decode(2), I8, (6, 2, 10), 16, &[(1, 33)]).cap(2.0),
    case(Prefill, F16, (4, 1, 16), 16, &[(9, 30), (1, 5), (0, 0)]).window(8),
    case(Prefill, I8, (5, 5, 32), 1, &[(4, 7)]),
    case(Decode(2), E4M3, (6, 2, 10), 16, &[(1, 33), (0, 0)]).cap(2.0),
    case(Prefill, E4M3, (5, 5, 80), 1, &[(4, 7)]),
    case(Decode(2), F16, (2, 1, 512), 16, &[(1, 40), (0, 0)]),
    case(Decode(1), E4M3, (2, 2, 512), 16, &[(1, 20)]),
    case(Prefill, I8, (2, 1, 512), 5, &[(3, 35)]).window(20),
    case(Prefill, F32, (2, 1, 512), 16, &[(2, 9)]).out(Q8),
    case(Decode(1), F32, (4, 2, 8), 16, &[(0, 0), (1, 20)]).out(Q8),
    case(Prefill, F32, (16, 4, 10), 16, &[(3, 40)]).out(Q8),
    case(Prefill, F32, (4, 2, 16), 5, &[(7, 140), (1, 1)]).window(129),
    case(Decode(8), F32, (8, 1, 128), 16, &[(1, 65)]),
    case(Prefill, F32, (2, 1, 256), 32, &[(2, 33)]).cap(3.0),
    case(Prefill, F32, (3, 1, 2), 1, &[(5, 5)]),
];

pub(crate) fn checks(bench: &Bench, size: Size) -> Result<Vec<Check>, CardError> {
    let full = if size == Size::Full { FULL } else { &[] };
    let kept = |(_, case): &(usize, &Case)| case.kind.check(bench.card.properties()).is_ok();
    let cases = QUICK.iter().chain(full).enumerate().filter(kept);
    cases.map(|(i, case)| check(bench, case, i as u64)).collect()
}

/// What decoding gives in all of its cases, bit for bit.
#[cfg(all(test, feature = "emulator"))]
pub(super) fn decoded(bench: &Bench) -> Result<Vec<Vec<u32>>, CardError> {
    let decodes = |case: &&Case| matches!(case.way, Decode(_));
    let bits = |case| {
        let got = run(bench, case, &Data::new(case, 1))?;
        Ok(got.iter().map(|v| v.to_bits()).collect())
    };
    QUICK.iter().chain(FULL).filter(decodes).map(bits).collect()
}

/// What each way gives for a cache in E4M3 with a single token, whose value is all bytes in their order.
#[cfg(all(test, feature = "emulator"))]
pub(super) fn e4m3_bytes(bench: &Bench) -> Result<Vec<(String, Vec<f32>)>, CardError> {
    let outputs = |way| {
        let case = case(way, E4M3, (1, 1, 256), 1, &[(1, 1)]);
        let mut data = Data::new(&case, 1);
        let block = data.tables[data.rows[3] as usize] as usize;
        data.values.bytes[block * 256..][..256].copy_from_slice(&Vec::from_iter(0..=255));
        Ok((format!("{way:?}"), run(bench, &case, &data)?))
    };
    [Decode(1), Prefill, Exact].map(outputs).into_iter().collect()
}

fn check(bench: &Bench, case: &Case, seed: u64) -> Result<Check, CardError> {
    let data = Data::new(case, seed);
    let got = run(bench, case, &data)?;
    let (kernel, exact) = match (case.way, case.kind) {
        (Exact, _) | (_, F32) => ("attention_exact", true),
        (Decode(_), _) => ("attention_decode", true),
        (Prefill, _) => ("attention_prefill", !super::DIMS.contains(&case.heads.2)),
    };
    let limit = match (case.out, exact) {
        (BF16 | Q8, _) => 1e-2,
        (ActKind::F16, _) | (ActKind::F32, false) => 3e-3,
        (ActKind::F32, true) => 2e-5,
    };
    Ok(Check::compare(kernel, case.to_string(), &got, &expected(case, &data), limit))
}

/// One case's cache and step.
pub(super) struct Data {
    pub shape: KvShape,
    pub keys: Side,
    pub values: Side,
    pub qkv: Vec<f32>,
    pub rows: Vec<u32>,
    pub tables: Vec<u32>,
}

/// Keys or values: as cached, and what that means, `[row][token][kv_head][head_dim]`.
pub(super) struct Side {
    pub bytes: Vec<u8>,
    pub scales: Vec<f32>,
    meant: Vec<Vec<f64>>,
}

impl Data {
    /// Random rows, block tables and cache contents of a case. What must not be read is poisoned.
    pub fn new(case: &Case, seed: u64) -> Data {
        let mut numbers = Numbers::new(seed);
        let (heads, kv_heads, head_dim) = case.heads;
        let used: usize =
            case.rows.iter().map(|(_, context)| context.div_ceil(case.block_size)).sum();
        let blocks = used + 3;
        let shape = KvShape { blocks, block_size: case.block_size, kv_heads, head_dim };
        let mut order: Vec<u32> = (0..blocks as u32).collect();
        for i in (1..blocks).rev() {
            order.swap(i, numbers.below(i + 1));
        }
        // Rows take theirs from the end; this one stays.
        let poison = order[0];
        let (mut rows, mut tables, mut places) = (Vec::new(), vec![poison], Vec::new());
        let mut start = 0;
        for (len, context) in case.rows {
            let first = tables.len();
            let count = context.div_ceil(case.block_size);
            let own = order.split_off(order.len() - count);
            rows.extend([start, *len as u32, *context as u32, first as u32]);
            tables.extend(own.iter().enumerate().map(|(i, block)| {
                let seen = first_seen(case, context - len);
                if (i + 1) * case.block_size <= seen { poison } else { *block }
            }));
            tables.push(poison);
            places.push(own);
            // Decoding's padding has a token, which nothing may be made of.
            start += (*len).max(usize::from(matches!(case.way, Decode(_)))) as u32;
        }
        let keys = Side::new(case, &shape, &places, &mut numbers);
        let values = Side::new(case, &shape, &places, &mut numbers);
        let stride = (heads + 2 * kv_heads) * head_dim;
        let mut qkv: Vec<f32> =
            numbers.numbers(start as usize * stride).iter().map(|v| v * 4.0).collect();
        for (row, (len, _)) in rows.chunks(4).zip(case.rows) {
            if *len == 0 && matches!(case.way, Decode(_)) {
                qkv[row[0] as usize * stride..][..stride].fill(f32::NAN);
            }
        }
        Data { shape, keys, values, qkv, rows, tables }
    }

    /// Number of tokens in `qkv`, padding included.
    pub fn tokens(&self, case: &Case) -> usize {
        self.qkv.len() / ((case.heads.0 + 2 * case.heads.1) * case.heads.2)
    }
}

impl Side {
    /// Random numbers for all tokens of rows that hold `places`, and poison everywhere else.
    fn new(case: &Case, shape: &KvShape, places: &[Vec<u32>], numbers: &mut Numbers) -> Side {
        let dim = shape.head_dim;
        let mut bytes = vec![0xff; shape.heads() * dim * case.kind.bytes()];
        let mut scales = vec![f32::NAN; case.kind.scales(shape.heads())];
        let mut meant = Vec::new();
        for (own, (_, context)) in places.iter().zip(case.rows) {
            let mut row = Vec::new();
            for token in 0..*context {
                let block = own[token / shape.block_size] as usize;
                for head in 0..shape.kv_heads {
                    let slot = (block * shape.kv_heads + head) * shape.block_size
                        + token % shape.block_size;
                    let size = 0.5 + numbers.below(4) as f32;
                    let head: Vec<f32> = numbers.numbers(dim).iter().map(|v| v * size).collect();
                    let (cached, scale) = cache(case.kind, &head, &mut row);
                    bytes[slot * cached.len()..][..cached.len()].copy_from_slice(&cached);
                    if let Some(place) = scales.get_mut(slot) {
                        *place = scale;
                    }
                }
            }
            meant.push(row);
        }
        Side { bytes, scales, meant }
    }
}

/// A head as bytes of the cache, and its scale; what it means goes to `meant`.
fn cache(kind: KvKind, head: &[f32], meant: &mut Vec<f64>) -> (Vec<u8>, f32) {
    match kind {
        F32 => {
            meant.extend(head.iter().map(|v| f64::from(*v)));
            (bytes_of(head).to_vec(), 1.0)
        }
        F16 => {
            let halves: Vec<f16> = head.iter().map(|v| f16::from_f32(*v)).collect();
            meant.extend(halves.iter().map(|v| f64::from(*v)));
            (bytes_of(&halves).to_vec(), 1.0)
        }
        I8 => {
            let scale = head.iter().fold(0.0f32, |most, v| most.max(v.abs())) / 127.0;
            let whole: Vec<i8> = head.iter().map(|v| (v / scale).round() as i8).collect();
            meant.extend(whole.iter().map(|q| f64::from(*q) * f64::from(scale)));
            (bytes_of(&whole).to_vec(), scale)
        }
        E4M3 => {
            let bytes: Vec<u8> = head.iter().map(|v| e4m3::nearest(f64::from(*v))).collect();
            meant.extend(bytes.iter().map(|byte| e4m3::value(*byte)));
            (bytes, 1.0)
        }
    }
}

fn first_seen(case: &Case, position: usize) -> usize {
    case.window.map_or(0, |window| (position + 1).saturating_sub(window))
}

/// A case's cache and step on a card, the output poisoned.
pub(super) struct Given {
    pub layer: KvLayer,
    pub qkv: Buffer<f32>,
    rows: Buffer<u32>,
    tables: Buffer<u32>,
    out: ActBuffer,
    outputs: usize,
}

impl Given {
    /// Copies a case's data to the device; the outputs are poisoned. Fails if memory is used up or the device fails.
    pub fn new(bench: &Bench, case: &Case, data: &Data) -> Result<Given, CardError> {
        let Bench { card, pool } = bench;
        let (heads, _, dim) = case.heads;
        let mut layer = KvLayer::new(card, *pool, data.shape, case.kind, Stream::Compute)?;
        {
            let view = layer.view_mut();
            card.upload(view.keys.address(), &data.keys.bytes, Stream::Compute)?;
            card.upload(view.values.address(), &data.values.bytes, Stream::Compute)?;
            if !data.keys.scales.is_empty() {
                let scales = [&data.keys.scales[..], &data.values.scales].concat();
                card.upload(view.scales.address(), bytes_of(&scales), Stream::Compute)?;
            }
        }
        let outputs = data.tokens(case) * heads * dim;
        let out = ActBuffer::new(card, *pool, outputs, &[case.out], Stream::Compute)?;
        poison(card.as_ref(), &out.get(case.out, outputs))?;
        Ok(Given {
            layer,
            qkv: Buffer::of(card, *pool, &data.qkv)?,
            rows: Buffer::of(card, *pool, &data.rows)?,
            tables: Buffer::of(card, *pool, &data.tables)?,
            out,
            outputs,
        })
    }

    /// Runs the case's kernel and reads its outputs, `[tokens][heads * head_dim]`. `raw`: see [`attend_decode`]. Fails
    /// if the kernel refuses the shapes or the device fails.
    pub fn attend(
        &mut self,
        bench: &Bench,
        case: &Case,
        raw: Option<&Heads<'_>>,
    ) -> Result<Vec<f32>, CardError> {
        let (heads, _, dim) = case.heads;
        let (scale, window, soft_cap) = (1.0 / (dim as f32).sqrt(), case.window, case.soft_cap);
        let spec = AttentionSpec { heads, scale, window, soft_cap };
        let count = case.rows.len();
        let rows = Rows { count, rows: self.rows.view(), tables: self.tables.view() };
        let longest = case.rows.iter().map(|(len, _)| *len).max().unwrap_or(0);
        let tokens = self.outputs / (heads * dim);
        let (card, qkv) = (bench.card.as_ref(), self.qkv.view());
        let into = self.out.get_mut(case.out, self.outputs);
        match case.way {
            Decode(splits) => {
                let len = partials_len(count, heads, splits, dim);
                let mut partials = Buffer::of(&bench.card, bench.pool, &vec![f32::NAN; len])?;
                let (kv, partials) = (self.layer.view_mut(), partials.view_mut());
                attend_decode(card, &spec, qkv, raw, kv, rows, splits, partials, into)?;
            }
            Prefill => {
                let kv = self.layer.view();
                attend_prefill(card, &spec, qkv, kv, rows, longest, tokens, into)?;
            }
            Exact => {
                let kv = self.layer.view();
                attend_exact(card, &spec, qkv, kv, rows, longest, tokens, into)?;
            }
        }
        numbers_of(card, &self.out.get(case.out, self.outputs))
    }
}

fn run(bench: &Bench, case: &Case, data: &Data) -> Result<Vec<f32>, CardError> {
    Given::new(bench, case, data)?.attend(bench, case, None)
}

fn poison(card: &dyn Card, acts: &Acts<'_>) -> Result<(), CardError> {
    let fill = |address, bytes| card.fill(address, 0xff, bytes, Stream::Compute);
    match acts {
        Acts::F32(v) => fill(v.address(), v.len() * 4),
        Acts::F16(v) => fill(v.address(), v.len() * 2),
        Acts::BF16(v) => fill(v.address(), v.len() * 2),
        Acts::Q8 { values, scales } => {
            fill(values.address(), values.len())?;
            fill(scales.address(), scales.len() * 4)
        }
    }
}

/// Outputs as numbers again.
fn numbers_of(card: &dyn Card, acts: &Acts<'_>) -> Result<Vec<f32>, CardError> {
    Ok(match acts {
        Acts::F32(v) => download(card, v.address(), v.len())?,
        Acts::F16(v) => widen(&download::<f16>(card, v.address(), v.len())?),
        Acts::BF16(v) => widen(&download::<bf16>(card, v.address(), v.len())?),
        Acts::Q8 { values, scales } => {
            let whole: Vec<i8> = download(card, values.address(), values.len())?;
            let scales: Vec<f32> = download(card, scales.address(), scales.len())?;
            whole.iter().enumerate().map(|(i, q)| f32::from(*q) * scales[i / 32 * 2]).collect()
        }
    })
}

fn widen<T: Plain + Into<f32>>(values: &[T]) -> Vec<f32> {
    values.iter().map(|v| (*v).into()).collect()
}

pub(super) fn download<T: Plain>(
    card: &dyn Card,
    address: u64,
    len: usize,
) -> Result<Vec<T>, CardError> {
    let mut out = vec![T::default(); len];
    // SAFETY: `Plain` numbers may hold any bits.
    let bytes = unsafe {
        std::slice::from_raw_parts_mut(out.as_mut_ptr().cast::<u8>(), size_of_val(&out[..]))
    };
    card.download(address, bytes, Stream::Compute)?;
    Ok(out)
}

/// The plain loop.
fn expected(case: &Case, data: &Data) -> Vec<f64> {
    let (heads, kv_heads, dim) = case.heads;
    let stride = (heads + 2 * kv_heads) * dim;
    let mut out = vec![0.0; data.tokens(case) * heads * dim];
    for (r, (len, context)) in case.rows.iter().enumerate() {
        for i in 0..*len {
            let token = data.rows[4 * r] as usize + i;
            let position = context - len + i;
            let seen = first_seen(case, position)..position + 1;
            for head in 0..heads {
                let q = &data.qkv[token * stride + head * dim..][..dim];
                let at = |t: usize| (t * kv_heads + head / (heads / kv_heads)) * dim;
                let scores = seen.clone().map(|t| {
                    let key = &data.keys.meant[r][at(t)..][..dim];
                    let dot: f64 = q.iter().zip(key).map(|(q, k)| f64::from(*q) * k).sum();
                    let score = dot / (dim as f64).sqrt();
                    case.soft_cap
                        .map_or(score, |cap| f64::from(cap) * (score / f64::from(cap)).tanh())
                });
                let scores: Vec<f64> = scores.collect();
                let most = scores.iter().fold(f64::MIN, |most, s| most.max(*s));
                let sum: f64 = scores.iter().map(|s| (s - most).exp()).sum();
                let into = &mut out[(token * heads + head) * dim..][..dim];
                for (t, score) in seen.clone().zip(&scores) {
                    let weight = (score - most).exp() / sum;
                    let value = &data.values.meant[r][at(t)..][..dim];
                    into.iter_mut().zip(value).for_each(|(o, v)| *o += weight * v);
                }
            }
        }
    }
    out
}
