//! Threads and dynamic shared memory of every kernel: the largest values that any launch requests, on a GPU with 99 KiB
//! of shared memory per block and on one with 227 KiB.

use super::*;
use crate::cuda::acts::ActBuffer;
use crate::cuda::attention::{AttentionSpec, attend_decode, attend_prefill, partials_len};
use crate::cuda::logprobs::{LogprobsBatch, after_sampling, before_sampling, parts_len};
use crate::cuda::product::names::Tile;
use crate::cuda::product::{Way, multiply_by};
use crate::cuda::rows::Activation;
use crate::cuda::sample::{SampleBatch, scratch_len};
use crate::cuda::{
    ActKind, Buffer, KvKind, KvLayer, KvShape, Matrix, Output, Rows, StepInputs, View, embed,
    multiply_all, multiply_gated, multiply_normed, norm, rope, rows,
};
use crate::quant::Kind;
use std::collections::BTreeMap;

/// A card, and its pool.
struct Sweep {
    paper: Arc<DryRunCard>,
    card: Arc<dyn Card>,
    pool: Pool,
}

const COLUMNS: usize = 4096;
const ROWS: usize = 256;
const FORMS: [ActKind; 4] = [ActKind::F32, ActKind::F16, ActKind::BF16, ActKind::Q8];

pub(super) fn write(text: &mut String) {
    let (small, large) = (most((8, 9), 99), most((9, 0), 227));
    writeln!(text, "  \"kernels\": {{").unwrap();
    // Some are launched on one of the cards alone.
    let all: BTreeMap<_, _> = small.iter().chain(&large).collect();
    for (i, (name, (threads, _))) in all.iter().enumerate() {
        let comma = if i + 1 < all.len() { "," } else { "" };
        let [less, more] = [[&small, &large], [&large, &small]]
            .map(|[of, other]| of.get(*name).or(other.get(*name)).map_or(0, |(_, shared)| *shared));
        writeln!(text, "    \"{name}\": [{threads}, {less}, {more}]{comma}").unwrap();
    }
    writeln!(text, "  }},").unwrap();
}

/// Threads and shared memory of every kernel on a card whose blocks may have so many KiB.
fn most(capability: (u32, u32), shared: u32) -> BTreeMap<&'static str, (u32, u32)> {
    let paper = Arc::new(DryRunCard::new(capability, 132, shared << 10));
    let card: Arc<dyn Card> = paper.clone();
    let pool = card.create_pool().unwrap();
    let sweep = Sweep { paper, card, pool };
    sweep.products();
    sweep.together();
    sweep.attention();
    sweep.rows();
    sweep.rest();
    let mut most = BTreeMap::<&str, (u32, u32)>::new();
    for noted in sweep.paper.take_noted() {
        let Noted::Kernel(name, Grid { threads, shared, .. }) = noted else { continue };
        let entry = most.entry(name).or_default();
        *entry = (entry.0.max(threads.iter().product()), entry.1.max(shared));
    }
    most
}

impl Sweep {
    fn floats(&self, len: usize) -> Buffer<f32> {
        Buffer::new(&self.card, self.pool, len).unwrap()
    }

    fn acts(&self, numbers: usize) -> ActBuffer {
        ActBuffer::new(&self.card, self.pool, numbers, &FORMS, Stream::Load).unwrap()
    }

    /// In every way that a kind of weights is multiplied.
    fn products(&self) {
        let few = (1..=8).map(|n| (n, None));
        let many = Tile::ALL.into_iter().map(|tile| (ROWS, Some(tile)));
        let ways: Vec<(usize, Option<Tile>)> = few.chain(many).collect();
        for kind in Kind::on_cards() {
            let matrix = Matrix::new(&self.card, self.pool, kind, ROWS, COLUMNS).unwrap();
            let most = self.card.properties().shared_per_block as usize;
            let fits = |tile: &Option<Tile>| {
                tile.is_none_or(|tile| tile.shape(kind).shared_bytes(2) <= most)
            };
            for (n, tile) in ways.iter().filter(|(_, tile)| fits(tile)) {
                let way = match (tile, kind.is_quantised()) {
                    (None, true) => Way::Vectors { split: 1 },
                    (None, false) => Way::Dense { split: 1 },
                    (Some(tile), true) => Way::Tiles(*tile),
                    (Some(_), false) => Way::Library,
                };
                self.product(way, &matrix, *n);
            }
            let tokens = Buffer::<u32>::new(&self.card, self.pool, 1).unwrap();
            let mut out = self.floats(COLUMNS);
            let tokens = tokens.view();
            embed(&*self.card, &matrix, tokens, View::none(), 1, 1.0, out.view_mut(), None, None)
                .unwrap();
        }
    }

    /// What a product may be together with: another matrix, or with up to 8 inputs the activation of gate and up, or a norm.
    fn together(&self) {
        let matrix = |kind| Matrix::new(&self.card, self.pool, kind, ROWS, COLUMNS).unwrap();
        for n in (1..=8).chain([16, 32, 64]) {
            let (acts, mut wide) = (self.acts(n * COLUMNS), self.floats(2 * n * ROWS));
            for first in [Kind::Q4K, Kind::Q5K] {
                let parts = [first, Kind::Q6K].map(matrix);
                let x = acts.get(parts[0].input_kind(&*self.card, n), n * COLUMNS);
                multiply_all(&*self.card, &parts, x, n, wide.view_mut(), None).unwrap();
            }
        }
        for n in (1..=8).chain([16, 32, 64]) {
            let (acts, mut wide) = (self.acts(n * COLUMNS), self.floats(2 * n * ROWS));
            for kind in Kind::on_cards() {
                let (card, parts, wide) = (&*self.card, [matrix(kind)], wide.view_mut());
                let (form, mut out) = (kind.input_kind(), self.acts(n * ROWS));
                let x = acts.get(parts[0].input_kind(card, n), n * COLUMNS);
                let out = out.get_mut(form, n * ROWS / 2);
                multiply_gated(card, &parts, Activation::Silu, x, n, wide, out, None).unwrap();
                // Floats of more than 8 inputs are a library's.
                if n <= 8 || kind.is_quantised() {
                    self.normed(&parts, n);
                }
            }
        }
    }

    /// Joining the residual stream, and the norm after, as that of another product too.
    fn normed(&self, parts: &[Matrix], n: usize) {
        let (card, form) = (&*self.card, parts[0].kind().input_kind());
        let (acts, weight) = (self.acts(n * COLUMNS), self.floats(ROWS));
        let [mut stream, mut branch] = [(); 2].map(|()| self.floats(n * ROWS));
        let mut room =
            norm::UnscaledBuffer::new(&self.card, self.pool, ROWS, &FORMS, Stream::Load).unwrap();
        let unscaled = norm::leaves_scale(form, n, ROWS);
        let out = unscaled.then(|| room.get_mut(form, n, weight.view()));
        let x = acts.get(parts[0].input_kind(card, n), n * COLUMNS);
        let (to, by) = (stream.view_mut(), branch.view_mut());
        multiply_normed(card, parts, x, n, None, to, by, out).unwrap();
        if unscaled {
            let out = room.get_mut(form, n, weight.view());
            norm::rms_pieces(card, stream.view_mut(), branch.view(), n, out).unwrap();
        }
    }

    fn product(&self, way: Way, matrix: &Matrix, n: usize) {
        let acts = self.acts(n * COLUMNS);
        let form = match way {
            Way::Tiles(tile) if !tile.eights() => ActKind::BF16,
            _ => matrix.kind().input_kind(),
        };
        let (mut out, bias) = (self.floats(n * ROWS), self.floats(ROWS));
        let out = Output::of(out.view_mut(), ROWS);
        let x = acts.get(form, n * COLUMNS);
        multiply_by(way, &*self.card, matrix, x.into(), n, out, Some(bias.view())).unwrap();
    }

    /// Heads of 80 and 512 go to the exact kernels.
    fn attention(&self) {
        for kind in KvKind::ALL {
            for head_dim in [64, 80, 96, 128, 192, 256, 512] {
                let shape = KvShape { blocks: 64, block_size: 16, kv_heads: 8, head_dim };
                let mut layer =
                    KvLayer::new(&self.card, self.pool, shape, kind, Stream::Compute).unwrap();
                let spec = AttentionSpec { heads: 32, scale: 0.1, window: None, soft_cap: None };
                let numbers = spec.heads * head_dim;
                let qkv = self.floats(numbers + 16 * head_dim);
                let words = Buffer::<u32>::new(&self.card, self.pool, 64).unwrap();
                let rows = Rows { count: 1, rows: words.view(), tables: words.view() };
                let mut partials = self.floats(partials_len(1, spec.heads, 8, head_dim));
                let mut acts = self.acts(numbers);
                let (card, qkv, kv) = (&*self.card, qkv.view(), layer.view_mut());
                let (partials, out) = (partials.view_mut(), acts.get_mut(ActKind::F32, numbers));
                attend_decode(card, &spec, qkv, None, kv, rows, 8, partials, out).unwrap();
                let (kv, out) = (layer.view(), acts.get_mut(ActKind::F32, numbers));
                attend_prefill(card, &spec, qkv, kv, rows, 1, 1, out).unwrap();
            }
        }
    }

    /// Norms, and what is done number by number, in each form.
    fn rows(&self) {
        let card = &*self.card;
        for form in FORMS {
            for width in [COLUMNS, 2 * 16_384] {
                let (x, weight, mut acts) =
                    (self.floats(width), self.floats(width), self.acts(width));
                let by = norm::Norm { weight: weight.view(), eps: 1e-5 };
                let out = acts.get_mut(form, width);
                norm::rms_norm(card, x.view(), None, 1, by, out).unwrap();
            }
            let (wide, mut acts) = (self.floats(2 * COLUMNS), self.acts(COLUMNS));
            let out = acts.get_mut(form, COLUMNS);
            rows::convert(card, wide.view(), 1, COLUMNS, out).unwrap();
            let out = acts.get_mut(form, COLUMNS);
            rows::gated(card, Activation::Silu, wide.view(), 1, COLUMNS, out).unwrap();
        }
        let mut x = self.floats(COLUMNS);
        let bias = self.floats(COLUMNS);
        rows::add_bias(card, x.view_mut(), 1, bias.view()).unwrap();
        rows::soft_cap(card, x.view_mut(), 30.0).unwrap();
    }

    /// Rotation, with heads as long as they may be, sampling, and the inputs of a step.
    fn rest(&self) {
        let (card, head_dim, vocab) = (&*self.card, rope::LONGEST_HEAD, 128 << 10);
        let words = Buffer::<u32>::new(&self.card, self.pool, 64).unwrap();
        let angles = self.floats(head_dim / 2);
        for kind in KvKind::ALL {
            let shape = KvShape { blocks: 4, block_size: 16, kv_heads: 2, head_dim };
            let mut layer =
                KvLayer::new(&self.card, self.pool, shape, kind, Stream::Compute).unwrap();
            let mut qkv = self.floats(8 * head_dim);
            let turned = rope::Angles { half: 0, cos: angles.view(), sin: angles.view() };
            let heads =
                rope::Heads { count: 4, bias: None, norms: None, angles: turned, scaled: None };
            let slots = words.first(1);
            rope::prepare(card, &heads, qkv.view_mut(), slots, layer.view_mut()).unwrap();
        }
        let (mut qkv, weight) = (self.floats(2 * COLUMNS), self.floats(COLUMNS));
        let norms = rope::HeadNorms { query: weight.view(), key: weight.view(), eps: 1e-5 };
        rope::norm_tokens(card, &norms, qkv.view_mut(), 1, 2 * COLUMNS).unwrap();
        let (mut cos, mut sin) = (self.floats(64), self.floats(64));
        let frequencies =
            rope::Frequencies { inv_freq: angles.first(64), long_inv_freq: None, factor: 1.0 };
        let (positions, longs) = (words.first(1), words.first(1));
        let (cos, sin) = (cos.view_mut(), sin.view_mut());
        rope::angles(card, rope::Turns { positions, longs, frequencies, cos, sin }).unwrap();
        // In parts, and as a whole.
        for vocab in [vocab, 1024] {
            self.sample(vocab);
        }
        let mut inputs = StepInputs::new(&self.card, self.pool, [64, 4, 4, 4]).unwrap();
        inputs.fetch(card, 0..4).unwrap();
    }

    fn sample(&self, vocab: usize) {
        let (mut logits, pool) = (self.floats(vocab), self.pool);
        let params = Buffer::new(&self.card, pool, 1).unwrap();
        let mut scratch = Buffer::new(&self.card, pool, scratch_len(1, vocab)).unwrap();
        let [mut ids, mut host_ids] = [(); 2].map(|()| Buffer::new(&self.card, pool, 1).unwrap());
        let batch = SampleBatch {
            n: 1,
            vocab,
            logits: logits.view_mut(),
            params: params.view(),
            edits: View::none(),
            masks: View::none(),
            soft_cap: 0.0,
            scratch: scratch.view_mut(),
            ids: ids.view_mut(),
            host_ids: host_ids.view_mut(),
        };
        crate::cuda::sample::sample(&*self.card, batch).unwrap();
        let mut kept = self.floats(0);
        let mut parts = Buffer::new(&self.card, pool, parts_len(1)).unwrap();
        let mut out = Buffer::new(&self.card, pool, 1).unwrap();
        let batch = LogprobsBatch {
            n: 1,
            vocab,
            logits: logits.view(),
            params: params.view(),
            edits: View::none(),
            kept: kept.view_mut(),
            parts: parts.view_mut(),
        };
        before_sampling(&*self.card, &batch).unwrap();
        after_sampling(&*self.card, &batch, ids.view(), out.view_mut()).unwrap();
    }
}
