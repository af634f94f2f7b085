//! The paged KV cache on a GPU: one layer's keys and values in fixed-size blocks, in the kernels' layout.
//!
//! Keys and values are each stored as `[blocks][kv_heads][block_size][head_dim]`, so that one head's part of a block is
//! contiguous. With 8-bit integers, every head of a token has its own scale, `[blocks][kv_heads][block_size]`: value =
//! scale * q, with q in -127..127. FP8 numbers (E4M3) have no scale, because a scale would only shift the range of a
//! floating-point format, 2^-9 to 448 (docs/decisions/061). Block tables say which block holds which token of a
//! sequence (PagedAttention, arXiv:2309.06180). It does not know about sequences.

use super::buffer::{Buffer, View, ViewMut};
use super::card::{Card, CardError, DeviceProperties, Pool, Stream};
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
    /// 1 byte a number, FP8 of the OCP specification: three bits of mantissa, numbers beyond 448 become that.
    E4M3,
}

/// Compute capability from which on devices convert FP8 by an instruction.
const FP8_SINCE: (u32, u32) = (8, 9);

impl KvKind {
    /// All of them.
    pub const ALL: [KvKind; 4] = [KvKind::F32, KvKind::F16, KvKind::I8, KvKind::E4M3];

    /// Bytes of one number, scales aside.
    pub fn bytes(self) -> usize {
        match self {
            KvKind::F32 => 4,
            KvKind::F16 => 2,
            KvKind::I8 | KvKind::E4M3 => 1,
        }
    }

    /// How many scales `heads` heads of keys have, and as many those of values.
    pub fn scales(self, heads: usize) -> usize {
        if self == KvKind::I8 { heads } else { 0 }
    }

    /// Whether a device can keep a cache in this form. Fails if not; the error says what it can do instead.
    pub fn check(self, device: &DeviceProperties) -> Result<(), CardError> {
        if self != KvKind::E4M3 || device.capability >= FP8_SINCE {
            return Ok(());
        }
        let (DeviceProperties { name, capability: (major, minor), .. }, since) =
            (device, FP8_SINCE);
        Err(CardError::Other(format!(
            "{name} has compute capability {major}.{minor}, and a KV cache in fp8 needs {}.{} or newer; i8 is as \
             small and works there",
            since.0, since.1
        )))
    }

    /// What kernels' names end in.
    pub fn suffix(self) -> &'static str {
        match self {
            KvKind::F32 => "f32",
            KvKind::F16 => "f16",
            KvKind::I8 => "i8",
            KvKind::E4M3 => "e4m3",
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
        let heads = self.heads();
        2 * (heads * self.head_dim * kind.bytes() + 4 * kind.scales(heads))
    }
}

/// One layer's keys and values.
#[derive(Debug)]
pub struct KvLayer {
    shape: KvShape,
    kind: KvKind,
    keys: Buffer<u8>,
    values: Buffer<u8>,
    /// Of keys, then of values; empty unless the kind has scales.
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
    /// `[heads]` each; null unless the kind has scales.
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
    /// Of keys, then of values, `[2][heads]`; empty unless the kind has scales.
    pub scales: ViewMut<'a, f32>,
}

impl KvLayer {
    /// Takes a layer's memory, in the order of `stream`; what it holds is undefined. Refuses a kind that the device
    /// cannot keep.
    pub fn new(
        card: &Arc<dyn Card>,
        pool: Pool,
        shape: KvShape,
        kind: KvKind,
        stream: Stream,
    ) -> Result<KvLayer, CardError> {
        kind.check(card.properties())?;
        let bytes = shape.heads() * shape.head_dim * kind.bytes();
        let scales = 2 * kind.scales(shape.heads());
        Ok(KvLayer {
            shape,
            kind,
            keys: Buffer::on(card, pool, bytes, stream)?,
            values: Buffer::on(card, pool, bytes, stream)?,
            scales: Buffer::on(card, pool, scales, stream)?,
        })
    }

    /// The dimensions that it was made with.
    pub fn shape(&self) -> KvShape {
        self.shape
    }

    /// How its numbers are kept.
    pub fn kind(&self) -> KvKind {
        self.kind
    }

    /// The layer for kernels that read it; scales are null unless the kind has them.
    pub fn view(&self) -> KvView<'_> {
        let (keys, values) = (self.keys.view(), self.values.view());
        KvView::of(self.shape, self.kind, keys, values, self.scales.view())
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

impl KvViewMut<'_> {
    /// The same layer, to be read.
    pub fn as_view(&self) -> KvView<'_> {
        let (keys, values) = (self.keys.as_view(), self.values.as_view());
        KvView::of(self.shape, self.kind, keys, values, self.scales.as_view())
    }
}

impl<'a> KvView<'a> {
    /// `scales`: of keys, then of values.
    fn of(
        shape: KvShape,
        kind: KvKind,
        keys: View<'a, u8>,
        values: View<'a, u8>,
        scales: View<'a, f32>,
    ) -> KvView<'a> {
        let (key_scales, value_scales) = match scales.len() / 2 {
            0 => (View::none(), View::none()),
            half => (scales.part(0, half), scales.part(half, half)),
        };
        KvView { shape, kind, keys, values, key_scales, value_scales }
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

#[cfg(test)]
mod tests {
    use super::super::paper::DryRunCard;
    use super::*;

    const SHAPE: KvShape = KvShape { blocks: 3, block_size: 16, kv_heads: 2, head_dim: 128 };

    #[test]
    fn a_layer_takes_the_bytes_that_were_planned() {
        let card: Arc<dyn Card> = Arc::new(DryRunCard::new((8, 9), 128, 99 << 10));
        let pool = card.create_pool().unwrap();
        let heads = 2 * 3 * 16 * 2;
        let bytes = [512, 256, 128 + 4, 128].map(|head| heads * head);
        for (kind, bytes) in KvKind::ALL.into_iter().zip(bytes) {
            let layer = KvLayer::new(&card, pool, SHAPE, kind, Stream::Load).unwrap();
            let taken = layer.keys.len() + layer.values.len() + 4 * layer.scales.len();
            assert_eq!((SHAPE.layer_bytes(kind), taken), (bytes, bytes), "{kind:?}");
        }
    }

    #[test]
    fn older_devices_keep_no_fp8_and_say_what_they_keep() {
        for capability in [(8, 0), (8, 6), (8, 9), (9, 0), (12, 0)] {
            let card: Arc<dyn Card> = Arc::new(DryRunCard::new(capability, 28, 99 << 10));
            let pool = card.create_pool().unwrap();
            for kind in KvKind::ALL {
                let made = KvLayer::new(&card, pool, SHAPE, kind, Stream::Load).map(|_| ());
                let refused = kind == KvKind::E4M3 && capability < (8, 9);
                assert_eq!(made.is_err(), refused, "{kind:?} on {capability:?}");
                if let Err(why) = made {
                    let (why, has) =
                        (why.to_string(), format!("{}.{}", capability.0, capability.1));
                    assert!(
                        why.contains(&has) && why.contains("8.9") && why.contains("i8"),
                        "{why}"
                    );
                }
            }
        }
    }
}
