//! Known answers on the emulated card, and shapes that do not fit.

use super::*;
use crate::cuda::acts::ActBuffer;
use crate::cuda::buffer::Buffer;
use crate::cuda::card::{Card, Pool, Queue};
use crate::cuda::emulated::EmulatedCard;
use crate::cuda::kv::{KvLayer, KvShape};
use std::sync::Arc;

#[test]
fn answers_are_known() {
    crate::cuda::check::prove(super::answers::checks);
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
        let layer = KvLayer::new(&card, pool, self.shape, self.kind, Queue::Compute)?;
        let qkv = Buffer::of(&card, pool, &vec![0.0f32; self.projections])?;
        let padding: Vec<u32> = (0..self.rows as u32).flat_map(|row| [row, 0, 0, 0]).collect();
        let rows = Buffer::of(&card, pool, &padding)?;
        let tables = Buffer::of(&card, pool, &[0u32])?;
        let rows = Rows { count: 2, rows: rows.view(), tables: tables.view() };
        let mut partials = Buffer::new(&card, pool, self.partials)?;
        let mut out = ActBuffer::new(&card, pool, self.outputs, &[self.out], Queue::Compute)?;
        let (spec, kv, out) = (&self.spec, layer.view(), out.get_mut(self.out, self.outputs));
        let (card, qkv) = (card.as_ref(), qkv.view());
        if decode {
            let partials = partials.view_mut();
            attend_decode(card, spec, qkv, kv, rows, self.splits, partials, out)
        } else {
            attend_prefill(card, spec, qkv, kv, rows, self.longest, 2, out)
        }
    }

    fn refused(&self) -> bool {
        [true, false].iter().all(|way| matches!(self.tried(*way), Err(CardError::Shape(_))))
    }
}

#[test]
fn what_fits_runs() {
    USUAL.tried(true).unwrap();
    USUAL.tried(false).unwrap();
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
    assert!(of(KvShape { head_dim: 258, ..shape }).refused());
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
    let layer = KvLayer::new(&card, pool, USUAL.shape, KvKind::I8, Queue::Compute).unwrap();
    check_cache(&layer.view()).unwrap();
    let more = KvShape { blocks: 3, ..USUAL.shape };
    assert!(check_cache(&KvView { shape: more, ..layer.view() }).is_err());
    assert!(check_cache(&KvView { key_scales: View::none(), ..layer.view() }).is_err());
}
