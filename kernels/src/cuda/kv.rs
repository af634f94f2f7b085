//! The paged KV cache on a card: one layer's keys and values in fixed-size blocks, as kernels find them.
//!
//! Keys and values lie `[blocks][kv_heads][block_size][head_dim]` each, so that one head's part of a block is
//! one stream. In 8 bits every head of a token has a scale of its own, `[blocks][kv_heads][block_size]`:
//! value = scale * q, q in -127..127. Which block holds which token of a sequence, block tables say
//! (PagedAttention, arXiv:2309.06180). Knows no sequence.

use super::buffer::{Buffer, View, ViewMut};
use super::card::{Card, CardError, Pool, Queue};
use std::sync::Arc;

/// How cached numbers are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum KvKind {
    /// 4 bytes a number.
    F32,
    /// 2 bytes a number.
    F16,
    /// 1 byte a number, and an f32 scale for every head of a token.
    I8,
}

impl KvKind {
    /// Bytes of one number, scales aside.
    pub fn bytes(self) -> usize {
        match self {
            KvKind::F32 => 4,
            KvKind::F16 => 2,
            KvKind::I8 => 1,
        }
    }

    /// What kernels' names end in.
    pub fn suffix(self) -> &'static str {
        match self {
            KvKind::F32 => "f32",
            KvKind::F16 => "f16",
            KvKind::I8 => "i8",
        }
    }
}

/// Shape of one layer's cache.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KvShape {
    /// Blocks in the layer's cache.
    pub blocks: usize,
    /// Tokens per block.
    pub block_size: usize,
    /// Heads of keys, and as many of values.
    pub kv_heads: usize,
    /// Numbers in one head of a token.
    pub head_dim: usize,
}

impl KvShape {
    /// Heads of tokens: keys, and as many values.
    pub fn heads(&self) -> usize {
        self.blocks * self.block_size * self.kv_heads
    }

    /// Bytes of one layer, keys and values and scales.
    pub fn layer_bytes(&self, kind: KvKind) -> usize {
        let scales = if kind == KvKind::I8 { 4 } else { 0 };
        2 * self.heads() * (self.head_dim * kind.bytes() + scales)
    }
}

/// One layer's keys and values.
#[derive(Debug)]
pub struct KvLayer {
    shape: KvShape,
    kind: KvKind,
    keys: Buffer<u8>,
    values: Buffer<u8>,
    /// Of keys, then of values; empty unless in 8 bits.
    scales: Buffer<f32>,
}

/// One layer to be read by a kernel.
#[derive(Debug, Clone, Copy)]
pub struct KvView<'a> {
    /// The layer's dimensions.
    pub shape: KvShape,
    /// How `keys` and `values` are kept.
    pub kind: KvKind,
    /// Bytes of `[blocks][kv_heads][block_size][head_dim]` numbers.
    pub keys: View<'a, u8>,
    /// Laid out as `keys`.
    pub values: View<'a, u8>,
    /// `[heads]` each; null unless in 8 bits.
    pub key_scales: View<'a, f32>,
    /// Of `values`, like `key_scales`.
    pub value_scales: View<'a, f32>,
}

/// One layer to be written by a kernel.
#[derive(Debug)]
pub struct KvViewMut<'a> {
    /// The layer's dimensions.
    pub shape: KvShape,
    /// How `keys` and `values` are to be kept.
    pub kind: KvKind,
    /// Bytes of `[blocks][kv_heads][block_size][head_dim]` numbers.
    pub keys: ViewMut<'a, u8>,
    /// Laid out as `keys`.
    pub values: ViewMut<'a, u8>,
    /// Of keys, then of values, `[2][heads]`; empty unless in 8 bits.
    pub scales: ViewMut<'a, f32>,
}

impl KvLayer {
    /// Takes a layer's memory, in the order of `queue`; what it holds is undefined.
    pub fn new(
        card: &Arc<dyn Card>,
        pool: Pool,
        shape: KvShape,
        kind: KvKind,
        queue: Queue,
    ) -> Result<KvLayer, CardError> {
        let bytes = shape.heads() * shape.head_dim * kind.bytes();
        let scales = if kind == KvKind::I8 { 2 * shape.heads() } else { 0 };
        Ok(KvLayer {
            shape,
            kind,
            keys: Buffer::on(card, pool, bytes, queue)?,
            values: Buffer::on(card, pool, bytes, queue)?,
            scales: Buffer::on(card, pool, scales, queue)?,
        })
    }

    /// The dimensions that it was made with.
    pub fn shape(&self) -> KvShape {
        self.shape
    }

    /// The layer for kernels that read it; scales are null unless in 8 bits.
    pub fn view(&self) -> KvView<'_> {
        let (key_scales, value_scales) = match self.scales.len() / 2 {
            0 => (View::none(), View::none()),
            half => (self.scales.first(half), self.scales.view().part(half, half)),
        };
        KvView {
            shape: self.shape,
            kind: self.kind,
            keys: self.keys.view(),
            values: self.values.view(),
            key_scales,
            value_scales,
        }
    }

    /// The layer for a kernel that writes it.
    pub fn view_mut(&mut self) -> KvViewMut<'_> {
        KvViewMut {
            shape: self.shape,
            kind: self.kind,
            keys: self.keys.view_mut(),
            values: self.values.view_mut(),
            scales: self.scales.view_mut(),
        }
    }
}

/// A step's sequences as kernels find them.
#[derive(Debug, Clone, Copy)]
pub struct Rows<'a> {
    /// How many; padding included.
    pub count: usize,
    /// `[count][4]`: first token in the step, tokens in the step, tokens in the cache once the step is done,
    /// first entry in `tables`. A row of padding has no tokens and no context.
    pub rows: View<'a, u32>,
    /// Block tables, end to end.
    pub tables: View<'a, u32>,
}
