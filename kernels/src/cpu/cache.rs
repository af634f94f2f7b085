//! The paged KV cache on the CPU: keys and values of all layers in fixed-size blocks.
//!
//! It knows shapes and slots, but not sequences. Within a block, each head's keys and values are contiguous, so that
//! one head is read as a stream. Keys are stored transposed in tiles of 16 tokens, `[head_dim][16]`: each vector lane
//! holds one token, so no dot product needs a sum across lanes. A block whose size is not a multiple of 16 is one
//! narrower tile, and is read through a copy. f16 halves the bytes that attention reads, which is what limits long
//! contexts; f32 is exact.

use super::isa::Isa;
use super::pool::Disjoint;
use super::simd::{Lanes, dispatch};
use crate::float16::f16_to_f32;

/// Tokens per tile of keys.
pub(crate) const KEY_TILE: usize = 16;

/// Shape of a KV cache.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KvShape {
    /// Layers, each with keys and values of its own.
    pub layers: usize,
    /// Blocks per layer.
    pub blocks: usize,
    /// Tokens per block.
    pub block_size: usize,
    /// Heads of keys, and as many of values, per token and layer.
    pub kv_heads: usize,
    /// Values per head.
    pub head_dim: usize,
}

/// How cached values are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KvKind {
    /// 32-bit floats, which lose nothing.
    F32,
    /// IEEE half precision, in half the memory.
    F16,
}

impl KvKind {
    /// Bytes of one value.
    pub fn bytes(self) -> usize {
        match self {
            KvKind::F32 => 4,
            KvKind::F16 => 2,
        }
    }
}

impl KvShape {
    /// Values that one token takes in one layer's keys (and as many in its values).
    pub fn row(&self) -> usize {
        self.kv_heads * self.head_dim
    }

    /// Bytes that one block takes over all layers, keys and values.
    pub fn block_bytes(&self, kind: KvKind) -> usize {
        self.layers * 2 * self.block_size * self.row() * kind.bytes()
    }

    /// Tokens per tile of keys: 16, or a whole block where that is no multiple of 16.
    fn tile(&self) -> usize {
        if self.block_size.is_multiple_of(KEY_TILE) { KEY_TILE } else { self.block_size }
    }

    /// Where one head's part of a block begins, in values.
    pub(crate) fn head_at(&self, block: usize, head: usize) -> usize {
        (block * self.kv_heads + head) * self.block_size * self.head_dim
    }

    /// Where in a head's part of a block the tile of keys begins that holds a token, and the token's lane.
    fn key_at(&self, offset: usize) -> (usize, usize) {
        let tile = self.tile();
        (offset / tile * tile * self.head_dim, offset % tile)
    }
}

/// Keys and values of all layers. Pages of blocks never used are never touched, so they cost address
/// space only.
pub struct KvCache {
    shape: KvShape,
    kind: KvKind,
    layers: Vec<KvLayer>,
}

pub(crate) struct KvLayer {
    pub keys: Values,
    pub values: Values,
}

pub(crate) enum Values {
    F32(Vec<f32>),
    F16(Vec<u16>),
}

impl KvCache {
    /// A cache in f32.
    pub fn new(shape: KvShape) -> KvCache {
        KvCache::with_kind(shape, KvKind::F32)
    }

    /// A cache of zeros whose values are stored as `kind`.
    pub fn with_kind(shape: KvShape, kind: KvKind) -> KvCache {
        let len = shape.blocks * shape.block_size * shape.row();
        let values = || match kind {
            KvKind::F32 => Values::F32(vec![0.0; len]),
            KvKind::F16 => Values::F16(vec![0; len]),
        };
        let layer = || KvLayer { keys: values(), values: values() };
        KvCache { shape, kind, layers: (0..shape.layers).map(|_| layer()).collect() }
    }

    /// The shape it was made with.
    pub fn shape(&self) -> KvShape {
        self.shape
    }

    /// How its values are stored.
    pub fn kind(&self) -> KvKind {
        self.kind
    }

    pub(crate) fn layer(&self, layer: usize) -> &KvLayer {
        &self.layers[layer]
    }

    /// For writing to a layer from several threads, each with heads of its own.
    pub(crate) fn writer(&mut self, layer: usize) -> KvWriter<'_> {
        let KvLayer { keys, values } = &mut self.layers[layer];
        KvWriter { shape: self.shape, keys: keys.parts(), values: values.parts() }
    }

    /// Writes the key of a head's token to `out`, one value every `stride`.
    pub(crate) fn read_key(
        &self,
        layer: usize,
        head: usize,
        slot: usize,
        stride: usize,
        out: &mut [f32],
    ) {
        let (block, offset) = (slot / self.shape.block_size, slot % self.shape.block_size);
        let (tile, lane) = self.shape.key_at(offset);
        let at = self.shape.head_at(block, head) + tile + lane;
        for d in 0..self.shape.head_dim {
            out[d * stride] = self.layers[layer].keys.get(at + d * self.shape.tile());
        }
    }

    /// Writes the value of a head's token to `out`, `[head_dim]`.
    pub(crate) fn read_value(&self, layer: usize, head: usize, slot: usize, out: &mut [f32]) {
        let (block, offset) = (slot / self.shape.block_size, slot % self.shape.block_size);
        let at = self.shape.head_at(block, head) + offset * self.shape.head_dim;
        for (d, out) in out.iter_mut().enumerate() {
            *out = self.layers[layer].values.get(at + d);
        }
    }
}

impl Values {
    fn parts(&mut self) -> Parts<'_> {
        match self {
            Values::F32(values) => Parts::F32(Disjoint::new(values)),
            Values::F16(values) => Parts::F16(Disjoint::new(values)),
        }
    }

    fn get(&self, at: usize) -> f32 {
        match self {
            Values::F32(from) => from[at],
            Values::F16(from) => f16_to_f32(from[at]),
        }
    }

    pub(crate) fn start(&self) -> *const u8 {
        match self {
            Values::F32(values) => values.as_ptr().cast(),
            Values::F16(values) => values.as_ptr().cast(),
        }
    }
}

enum Parts<'a> {
    F32(Disjoint<'a, f32>),
    F16(Disjoint<'a, u16>),
}

/// Writes tokens to one layer.
pub(crate) struct KvWriter<'a> {
    shape: KvShape,
    keys: Parts<'a>,
    values: Parts<'a>,
}

impl KvWriter<'_> {
    /// Writes a head's key and value, `[head_dim]` each, to a slot. Panics when there is no such slot.
    ///
    /// # Safety
    /// No other thread writes to this head meanwhile.
    pub unsafe fn write(&self, isa: Isa, head: usize, slot: usize, key: &[f32], value: &[f32]) {
        let shape = &self.shape;
        let (block, offset) = (slot / shape.block_size, slot % shape.block_size);
        let (tile, lane) = shape.key_at(offset);
        let at = shape.head_at(block, head);
        let len = (key.len() - 1) * shape.tile() + 1;
        // SAFETY: both parts lie in this head's piece of the block, which no other thread touches.
        unsafe {
            self.keys.put(isa, at + tile + lane, len, shape.tile(), key);
            self.values.put(isa, at + offset * shape.head_dim, value.len(), 1, value);
        }
    }
}

impl Parts<'_> {
    /// # Safety
    /// No other thread has any of the `len` values from `at` on.
    unsafe fn put(&self, isa: Isa, at: usize, len: usize, stride: usize, from: &[f32]) {
        match self {
            Parts::F32(to) => {
                // SAFETY: the caller's promise.
                let to = unsafe { to.part(at, len) };
                to.iter_mut().step_by(stride).zip(from).for_each(|(to, v)| *to = *v);
            }
            Parts::F16(to) => {
                // SAFETY: the caller's promise.
                let to = unsafe { to.part(at, len) };
                for (to, from) in to.chunks_mut(16 * stride).zip(from.chunks(16)) {
                    let mut wide = [0.0; 16];
                    let mut narrow = [0; 16];
                    wide[..from.len()].copy_from_slice(from);
                    // SAFETY: `isa` is one that this machine has.
                    unsafe { narrow_16(isa, &wide, &mut narrow) };
                    to.iter_mut().step_by(stride).zip(narrow).for_each(|(to, v)| *to = v);
                }
            }
        }
    }
}

dispatch!(narrow_16 = narrow_16_of(wide: &[f32; 16], narrow: &mut [u16; 16]));

#[inline(always)]
unsafe fn narrow_16_of<L: Lanes>(wide: &[f32; 16], narrow: &mut [u16; 16]) {
    // SAFETY: 16 items on both sides.
    unsafe { L::load(wide.as_ptr()).store_half(narrow.as_mut_ptr()) }
}
