//! Known answers on the emulated GPU, and shapes that are refused.

use super::*;
use crate::cuda::acts::ActBuffer;
use crate::cuda::buffer::Buffer;
use crate::cuda::card::{COUNTS, Card, Pool, Stream};
use crate::cuda::check::{Bench, Size, refused};
use crate::cuda::e4m3;
use crate::cuda::emulated::{BACKWARDS, EmulatedCard};
use crate::cuda::kv::{KvLayer, KvShape};
use crate::cuda::paper::{DryRunCard, Noted};
use crate::cuda::rope::{Angles, Heads};
use std::sync::Arc;

#[test]
fn answers_are_known() {
    crate::cuda::check::prove(super::answers::checks);
}

#[test]
fn answers_with_raw_heads_are_known() {
    crate::cuda::check::prove(super::raw_answers::checks);
}

/// The emulated card rounds every operation by itself: a launch less changes no bit of cache or output.
#[test]
fn raw_heads_change_no_bit() {
    let bench = Bench::emulated(64 << 20);
    for check in super::raw_answers::checks(&bench, Size::Full).unwrap() {
        assert!(check.error == 0.0, "{check}");
    }
}

/// Shares are put together in their order, by whichever block is last, and a launch leaves the counts at zero.
#[test]
fn the_last_block_changes_no_bit() {
    let answers = [0, BACKWARDS].map(|order| {
        let emulated = EmulatedCard::start(64 << 20);
        emulated.set_order(order);
        let card: Arc<dyn Card> = Arc::new(emulated);
        let pool = card.create_pool().unwrap();
        let bench = Bench { card: card.clone(), pool };
        let [first, second] = [(); 2].map(|()| super::answers::decoded(&bench).unwrap());
        assert_eq!(first, second, "again");
        let mut counts = [1; 4 * COUNTS];
        card.download(card.workspace().counts, &mut counts, Stream::Compute).unwrap();
        assert!(counts.iter().all(|count| *count == 0));
        first
    });
    assert_eq!(answers[0], answers[1]);
}

/// More rows than there are counts are not cut.
#[test]
fn more_groups_than_counts_are_one_share_each() {
    let paper = Arc::new(DryRunCard::new((8, 9), 128, 99 << 10));
    let card: Arc<dyn Card> = paper.clone();
    let pool = card.create_pool().unwrap();
    let shape = KvShape { blocks: 2, block_size: 16, kv_heads: 2, head_dim: 64 };
    let mut layer = KvLayer::new(&card, pool, shape, KvKind::F16, Stream::Compute).unwrap();
    let spec = AttentionSpec { window: None, ..USUAL.spec };
    for (count, shares) in [(COUNTS / 2, 3), (COUNTS / 2 + 1, 1)] {
        let qkv = Buffer::new(&card, pool, count * 8 * 64).unwrap();
        let words = Buffer::new(&card, pool, 4 * count).unwrap();
        let rows = Rows { count, rows: words.view(), tables: words.view() };
        let len = partials_len(count, spec.heads, 3, 64);
        let mut partials = Buffer::new(&card, pool, len).unwrap();
        let numbers = count * spec.heads * 64;
        let mut out =
            ActBuffer::new(&card, pool, numbers, &[ActKind::F32], Stream::Compute).unwrap();
        let (qkv, kv, to) = (qkv.view(), layer.view_mut(), out.get_mut(ActKind::F32, numbers));
        attend_decode(&*card, &spec, qkv, None, kv, rows, 3, partials.view_mut(), to).unwrap();
        let [Noted::Kernel(_, grid)] = paper.take_noted()[..] else { panic!("one launch") };
        assert_eq!(grid.blocks, [shares, 2, count as u32]);
    }
}

/// What a call is made of; every field of the usual one fits.
#[derive(Debug, Clone, Copy)]
struct Call {
    spec: AttentionSpec,
    shape: KvShape,
    kind: KvKind,
    projections: usize,
    rows: usize,
    splits: usize,
    partials: usize,
    longest: usize,
    out: ActKind,
    outputs: usize,
}

const USUAL: Call = Call {
    spec: AttentionSpec { heads: 4, scale: 0.1, window: Some(3), soft_cap: Some(2.0) },
    shape: KvShape { blocks: 2, block_size: 16, kv_heads: 2, head_dim: 64 },
    kind: KvKind::F16,
    projections: 2 * 8 * 64,
    rows: 2,
    splits: 2,
    partials: 2 * 4 * 2 * 66,
    longest: 1,
    out: ActKind::F32,
    outputs: 2 * 4 * 64,
};

impl Call {
    /// Two rows of padding, so that whatever is not refused does nothing.
    fn tried(&self, decode: bool) -> Result<(), CardError> {
        let card: Arc<dyn Card> = Arc::new(EmulatedCard::start(64 << 20));
        let pool: Pool = card.create_pool()?;
        let mut layer = KvLayer::new(&card, pool, self.shape, self.kind, Stream::Compute)?;
        let qkv = Buffer::of(&card, pool, &vec![0.0f32; self.projections])?;
        let padding: Vec<u32> = (0..self.rows as u32).flat_map(|row| [row, 0, 0, 0]).collect();
        let rows = Buffer::of(&card, pool, &padding)?;
        let tables = Buffer::of(&card, pool, &[0u32])?;
        let rows = Rows { count: 2, rows: rows.view(), tables: tables.view() };
        let mut partials = Buffer::new(&card, pool, self.partials)?;
        let mut out = ActBuffer::new(&card, pool, self.outputs, &[self.out], Stream::Compute)?;
        let (spec, out) = (&self.spec, out.get_mut(self.out, self.outputs));
        let (card, qkv) = (card.as_ref(), qkv.view());
        if decode {
            let (kv, partials) = (layer.view_mut(), partials.view_mut());
            attend_decode(card, spec, qkv, None, kv, rows, self.splits, partials, out)
        } else {
            attend_prefill(card, spec, qkv, layer.view(), rows, self.longest, 2, out)
        }
    }

    fn refused(&self) -> bool {
        [true, false].iter().all(|way| matches!(self.tried(*way), Err(CardError::Shape(_))))
    }
}

#[test]
fn what_fits_runs() {
    for kind in KvKind::ALL {
        Call { kind, ..USUAL }.tried(true).unwrap();
        Call { kind, ..USUAL }.tried(false).unwrap();
    }
}

/// A single cached token is the output, so that each of the 256 bytes of E4M3 shows what the kernels read it as.
#[test]
fn every_byte_of_e4m3_is_read_as_its_number() {
    let bench = Bench::emulated(64 << 20);
    let outputs = super::answers::e4m3_bytes(&bench).unwrap();
    assert_eq!(outputs.len(), 3);
    for (way, got) in outputs {
        for (byte, got) in (0..=255).zip(got) {
            let number = e4m3::value(byte) as f32;
            let same = got == number || (got.is_nan() && number.is_nan());
            assert!(same, "{way}: {byte:02x} is {got}, not {number}");
        }
    }
}

#[test]
fn raw_heads_that_do_not_fit_are_refused() {
    let bench = Bench::emulated(64 << 20);
    let (pool, spec) = (bench.pool, USUAL.spec);
    let floats = |len: usize| Buffer::of(&bench.card, pool, &vec![0.0f32; len]).unwrap();
    let (qkv, other) = (floats(2 * 24 * 64), floats(24 * 64));
    let padding = Buffer::of(&bench.card, pool, &[0u32, 0, 0, 0, 1, 0, 0, 0]).unwrap();
    let (half, cos, sin) = (4, other.first(8), other.first(8));
    let fine = Heads { angles: Angles { half, cos, sin }, ..Heads::ready(4) };
    let ask = |heads: usize, raw: Heads<'_>, kind| {
        let mut layer =
            KvLayer::new(&bench.card, pool, USUAL.shape, kind, Stream::Compute).unwrap();
        let rows = Rows { count: 2, rows: padding.view(), tables: padding.view() };
        let (mut partials, numbers) = (floats(0), 2 * heads * 64);
        let mut out =
            ActBuffer::new(&bench.card, pool, numbers, &[ActKind::F32], Stream::Compute).unwrap();
        let (kv, partials) = (layer.view_mut(), partials.view_mut());
        let (spec, to) = (AttentionSpec { heads, ..spec }, out.get_mut(ActKind::F32, numbers));
        attend_decode(&*bench.card, &spec, qkv.view(), Some(&raw), kv, rows, 1, partials, to)
    };
    ask(4, fine, KvKind::F16).unwrap();
    refused(ask(4, fine, KvKind::F32), "4 raw heads");
    refused(ask(4, Heads { count: 2, ..fine }, KvKind::F16), "2 raw heads");
    refused(ask(18, Heads { count: 18, ..fine }, KvKind::F16), "18 raw heads");
    let bias = Some(other.view().part(1, 8 * 64));
    refused(ask(4, Heads { bias, ..fine }, KvKind::F16), "16 bytes");
    let angles = Angles { half, cos, sin: other.first(7) };
    refused(ask(4, Heads { angles, ..fine }, KvKind::F16), "sines");
}

#[test]
fn wrong_models_are_refused() {
    let spec = USUAL.spec;
    let shape = USUAL.shape;
    let of = |spec| Call { spec, ..USUAL };
    assert!(of(AttentionSpec { heads: 3, ..spec }).refused());
    assert!(of(AttentionSpec { heads: 0, ..spec }).refused());
    assert!(of(AttentionSpec { window: Some(0), ..spec }).refused());
    assert!(of(AttentionSpec { soft_cap: Some(0.0), ..spec }).refused());
    assert!(of(AttentionSpec { soft_cap: Some(f32::NAN), ..spec }).refused());
    let of = |shape| Call { shape, ..USUAL };
    assert!(of(KvShape { head_dim: 63, ..shape }).refused());
    assert!(of(KvShape { head_dim: 514, ..shape }).refused());
    assert!(of(KvShape { head_dim: 0, ..shape }).refused());
    assert!(of(KvShape { block_size: 0, ..shape }).refused());
    assert!(of(KvShape { kv_heads: 0, ..shape }).refused());
}

#[test]
fn short_buffers_are_refused() {
    assert!(Call { projections: USUAL.projections - 1, ..USUAL }.refused());
    assert!(Call { rows: 1, ..USUAL }.refused());
    assert!(Call { outputs: USUAL.outputs - 1, ..USUAL }.refused());
    let odd = Call { out: ActKind::Q8, spec: AttentionSpec { heads: 1, ..USUAL.spec }, ..USUAL };
    let shape = KvShape { kv_heads: 1, head_dim: 16, ..USUAL.shape };
    assert!(Call { shape, ..odd }.refused());
    assert!(matches!(
        Call { partials: USUAL.partials - 1, ..USUAL }.tried(true),
        Err(CardError::Shape(_))
    ));
    assert!(matches!(Call { splits: 0, ..USUAL }.tried(true), Err(CardError::Shape(_))));
    assert!(matches!(Call { longest: 3, ..USUAL }.tried(false), Err(CardError::Shape(_))));
}

#[test]
fn a_cache_smaller_than_its_shape_is_refused() {
    let card: Arc<dyn Card> = Arc::new(EmulatedCard::start(64 << 20));
    let pool = card.create_pool().unwrap();
    let layer = KvLayer::new(&card, pool, USUAL.shape, KvKind::I8, Stream::Compute).unwrap();
    check_cache(&layer.view()).unwrap();
    let more = KvShape { blocks: 3, ..USUAL.shape };
    assert!(check_cache(&KvView { shape: more, ..layer.view() }).is_err());
    assert!(check_cache(&KvView { key_scales: View::none(), ..layer.view() }).is_err());
}
