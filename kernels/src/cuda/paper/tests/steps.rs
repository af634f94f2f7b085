//! The launches of whole steps: real models' shapes, in the order of the decoder.

use super::*;
use crate::cuda::acts::ActBuffer;
use crate::cuda::attention::{
    AttentionSpec, attend_decode, attend_prefill, partials_len, plan_splits, prepares,
};
use crate::cuda::rows::Activation;
use crate::cuda::sample::{SampleBatch, scratch_len};
use crate::cuda::{
    ActKind, Buffer, KvKind, KvLayer, KvShape, Matrix, Output, Rows, StepInputs, View, embed,
    multiply, multiply_all, multiply_gated, multiply_normed, norm, rope,
};
use crate::quant::Kind;
use std::collections::BTreeMap;

/// A model's sizes, as its config.json has them.
#[derive(Clone, Copy)]
struct Shape {
    name: &'static str,
    hidden: usize,
    layers: usize,
    heads: usize,
    kv_heads: usize,
    intermediate: usize,
    vocab: usize,
}

/// Qwen3 0.6B, Llama 3.1 8B and Qwen3 14B; and Qwen3 30B-A3B as if it had one expert and no router.
const SHAPES: [Shape; 4] = [
    Shape {
        name: "0.6B",
        hidden: 1024,
        layers: 28,
        heads: 16,
        kv_heads: 8,
        intermediate: 3072,
        vocab: 151_936,
    },
    Shape {
        name: "8B",
        hidden: 4096,
        layers: 32,
        heads: 32,
        kv_heads: 8,
        intermediate: 14_336,
        vocab: 128_256,
    },
    Shape {
        name: "14B",
        hidden: 5120,
        layers: 40,
        heads: 40,
        kv_heads: 8,
        intermediate: 17_408,
        vocab: 151_936,
    },
    Shape {
        name: "30B-A3B",
        hidden: 2048,
        layers: 48,
        heads: 32,
        kv_heads: 4,
        intermediate: 768,
        vocab: 151_936,
    },
];
const HEAD_DIM: usize = 128;
/// Tokens that the cache has room for: what a decoding step's shares are planned with.
const LONGEST: usize = 8192;
/// Rows of decoding steps, and tokens of a prompt.
const DECODED: [usize; 3] = [1, 8, 32];
const PROMPT: usize = 512;

/// How a model's weights are stored.
#[derive(Clone, Copy, PartialEq)]
enum Form {
    /// llama.cpp's mixture: Q6_K for the head, and in the finer layers for values and `down`; else Q4_K.
    Q4KM,
    Q8,
    BF16,
}

const FORMS: [(Form, &str); 3] = [(Form::Q4KM, "q4_k_m"), (Form::Q8, "q8_0"), (Form::BF16, "bf16")];

impl Form {
    fn plain(self) -> Kind {
        match self {
            Form::Q4KM => Kind::Q4K,
            Form::Q8 => Kind::Q8_0,
            Form::BF16 => Kind::BF16,
        }
    }

    fn fine(self) -> Kind {
        if self == Form::Q4KM { Kind::Q6K } else { self.plain() }
    }
}

/// Which layers llama.cpp's mixtures keep finer: as in `src/model/dummy/layout.rs`.
fn is_fine(layer: usize, layers: usize) -> bool {
    let eighth = layers / 8;
    layer < eighth || layer >= 7 * layers / 8 || (layer - eighth) % 3 == 2
}

/// A model's step on a card: `n` tokens, of one row each or of a single prompt.
struct Step {
    paper: Arc<DryRunCard>,
    card: Arc<dyn Card>,
    pool: Pool,
    shape: Shape,
    form: Form,
    n: usize,
    prompt: bool,
    lines: Vec<String>,
}

pub(super) fn write_layers(text: &mut String) {
    writeln!(text, "  \"layers\": {{").unwrap();
    for (at, (form, name)) in FORMS.into_iter().enumerate() {
        writeln!(text, "    \"{name}\": {{").unwrap();
        for n in DECODED {
            for (kind, fine) in [("plain", false), ("fine", true)] {
                let mut step = Step::new(&PRODUCTS[1], SHAPES[1], form, n, false);
                step.layer(fine);
                let names: Vec<String> = step
                    .lines
                    .iter()
                    .map(|line| line.split(' ').next().unwrap_or_default().to_owned())
                    .collect();
                let last = n == DECODED[DECODED.len() - 1] && fine;
                write_list(text, 6, &format!("{n} {kind}"), &names, last);
            }
        }
        writeln!(text, "    }}{}", if at + 1 < FORMS.len() { "," } else { "" }).unwrap();
    }
    writeln!(text, "  }},").unwrap();
}

pub(super) fn write_steps(text: &mut String) {
    writeln!(text, "  \"steps\": {{").unwrap();
    // All as mixtures; in the other forms those that have been measured.
    let of = |shape: Shape| {
        let measured = matches!(shape.name, "0.6B" | "8B");
        let kept = FORMS.into_iter().filter(move |(form, _)| measured || *form == Form::Q4KM);
        kept.map(move |(form, name)| (shape, form, name))
    };
    let models: Vec<(Shape, Form, &str)> = SHAPES.into_iter().flat_map(of).collect();
    for (at, (shape, form, name)) in models.iter().enumerate() {
        writeln!(text, "    \"{} {name}\": {{", shape.name).unwrap();
        for (i, product) in PRODUCTS.iter().enumerate() {
            writeln!(text, "      \"{}\": {{", product.name).unwrap();
            let decoded = DECODED.map(|n| (n, false));
            for (n, prompt) in decoded.into_iter().chain([(PROMPT, true)]) {
                let step = Step::new(product, *shape, *form, n, prompt).whole();
                let label = format!("{} {n}", if prompt { "prefill" } else { "decode" });
                write_list(text, 8, &label, &step, prompt);
            }
            writeln!(text, "      }}{}", if i + 1 < PRODUCTS.len() { "," } else { "" }).unwrap();
        }
        writeln!(text, "    }}{}", if at + 1 < models.len() { "," } else { "" }).unwrap();
    }
    writeln!(text, "  }}").unwrap();
}

impl Step {
    fn new(product: &Product, shape: Shape, form: Form, n: usize, prompt: bool) -> Step {
        let paper = product.card();
        let card: Arc<dyn Card> = paper.clone();
        let pool = card.create_pool().unwrap();
        Step { paper, card, pool, shape, form, n, prompt, lines: Vec::new() }
    }

    /// The whole step's launches, equal ones counted: `count kernel blocks threads what`.
    fn whole(mut self) -> Vec<String> {
        self.begin();
        for layer in 0..self.shape.layers {
            self.layer(is_fine(layer, self.shape.layers));
        }
        self.end();
        let mut counts = BTreeMap::<String, usize>::new();
        for line in self.lines {
            *counts.entry(line).or_default() += 1;
        }
        counts.into_iter().map(|(line, count)| format!("{count} {line}")).collect()
    }

    /// Notes what was launched: kernel, blocks, threads, and of products the matrices, each with its own launch or all
    /// with the same.
    fn note(&mut self, matrices: &[Matrix]) {
        let words = |matrix: &Matrix| {
            let kind = matrix.kind().to_string().to_lowercase();
            format!(" {kind} {}x{}", matrix.rows(), matrix.columns())
        };
        let words: Vec<String> = matrices.iter().map(words).collect();
        let noted = self.paper.take_noted();
        let multiplies =
            |noted: &Noted| noted.name() == "gemm" || noted.name().starts_with("product_");
        let alone = noted.iter().filter(|noted| multiplies(noted)).count() == words.len();
        let mut words = if alone { words } else { vec![words.concat()] }.into_iter();
        for noted in noted {
            let (name, grid) = match noted {
                Noted::Kernel(name, grid) => (name, grid),
                Noted::Gemm(_) => (noted.name(), Grid::line(1, 1)),
            };
            let ([x, y, z], threads) = (grid.blocks, grid.threads.iter().product::<u32>());
            let what = if multiplies(&noted) { words.next().unwrap() } else { String::new() };
            self.lines.push(format!("{name} {x}x{y}x{z} {threads}{what}"));
        }
    }

    fn floats(&self, len: usize) -> Buffer<f32> {
        Buffer::new(&self.card, self.pool, len).unwrap()
    }

    fn words(&self, len: usize) -> Buffer<u32> {
        Buffer::new(&self.card, self.pool, len).unwrap()
    }

    fn acts(&self, numbers: usize) -> ActBuffer {
        let forms = [ActKind::F32, ActKind::BF16, ActKind::Q8];
        ActBuffer::new(&self.card, self.pool, numbers, &forms, Stream::Load).unwrap()
    }

    fn matrix(&self, kind: Kind, rows: usize, columns: usize) -> Matrix {
        Matrix::new(&self.card, self.pool, kind, rows, columns).unwrap()
    }

    fn takes(&self, kind: Kind, rows: usize, columns: usize, n: usize) -> ActKind {
        self.matrix(kind, rows, columns).input_kind(&*self.card, n)
    }

    /// A product of `n` inputs.
    fn product(&mut self, kind: Kind, rows: usize, columns: usize, n: usize) {
        let (matrix, acts) = (self.matrix(kind, rows, columns), self.acts(n * columns));
        let x = acts.get(matrix.input_kind(&*self.card, n), n * columns);
        let mut out = self.floats(n * rows);
        multiply(&*self.card, &matrix, x, n, Output::of(out.view_mut(), rows), None).unwrap();
        self.note(&[matrix]);
    }

    /// Several matrices over the same inputs: those of one kind that follow each other are one.
    fn matrices(&self, parts: &[(Kind, usize)], columns: usize) -> Vec<Matrix> {
        let alike = parts.chunk_by(|a, b| a.0 == b.0);
        let rows = alike.map(|alike| (alike[0].0, alike.iter().map(|(_, rows)| rows).sum()));
        rows.map(|(kind, rows)| self.matrix(kind, rows, columns)).collect()
    }

    fn projection(&mut self, parts: &[(Kind, usize)], columns: usize) {
        let (n, matrices) = (self.n, self.matrices(parts, columns));
        let acts = self.acts(n * columns);
        let x = acts.get(matrices[0].input_kind(&*self.card, n), n * columns);
        let mut out = self.floats(n * matrices.iter().map(Matrix::rows).sum::<usize>());
        multiply_all(&*self.card, &matrices, x, n, out.view_mut(), None).unwrap();
        self.note(&matrices);
    }

    /// Gate and up, and their activation in the form that the product after takes.
    fn gated(&mut self, parts: &[(Kind, usize)], columns: usize, form: ActKind) {
        let (n, matrices) = (self.n, self.matrices(parts, columns));
        let rows = matrices.iter().map(Matrix::rows).sum::<usize>();
        let (acts, mut out) = (self.acts(n * columns), self.acts(n * rows / 2));
        let x = acts.get(matrices[0].input_kind(&*self.card, n), n * columns);
        let (mut wide, out) = (self.floats(n * rows), out.get_mut(form, n * rows / 2));
        let (card, wide) = (&*self.card, wide.view_mut());
        multiply_gated(card, &matrices, Activation::Silu, x, n, wide, out, None).unwrap();
        self.note(&matrices);
    }

    fn unscaled(&self) -> norm::UnscaledBuffer {
        let forms = [ActKind::F32, ActKind::BF16, ActKind::Q8];
        let hidden = self.shape.hidden;
        norm::UnscaledBuffer::new(&self.card, self.pool, hidden, &forms, Stream::Load).unwrap()
    }

    /// A product that joins the residual stream, and the norm after, for a product that takes rows in `form`.
    fn join(&mut self, kind: Kind, columns: usize, form: ActKind) {
        let (n, hidden) = (self.n, self.shape.hidden);
        if !norm::leaves_scale(form, n, hidden) {
            self.product(kind, hidden, columns, n);
            return self.add_norm(form);
        }
        let (parts, acts) = ([self.matrix(kind, hidden, columns)], self.acts(n * columns));
        let x = acts.get(parts[0].input_kind(&*self.card, n), n * columns);
        let (mut stream, mut branch, weight) =
            (self.floats(n * hidden), self.floats(n * hidden), self.floats(hidden));
        let mut unscaled = self.unscaled();
        let (stream, branch) = (stream.view_mut(), branch.view_mut());
        let out = Some(unscaled.get_mut(form, n, weight.view()));
        multiply_normed(&*self.card, &parts, x, n, None, stream, branch, out).unwrap();
        self.note(&parts);
    }

    fn add_norm(&mut self, form: ActKind) {
        let (n, hidden) = (self.n, self.shape.hidden);
        let (mut x, branch, weight) =
            (self.floats(n * hidden), self.floats(n * hidden), self.floats(hidden));
        let mut acts = self.acts(n * hidden);
        let by = norm::Norm { weight: weight.view(), eps: 1e-5 };
        let out = acts.get_mut(form, n * hidden);
        norm::add_rms_norm(&*self.card, x.view_mut(), branch.view(), None, n, by, out).unwrap();
        self.note(&[]);
    }

    /// The norm before the first layer, if it is not the embedding's.
    fn first_norm(&mut self, form: ActKind) {
        let (n, hidden) = (self.n, self.shape.hidden);
        if norm::leaves_scale(form, n, hidden) {
            return;
        }
        let (x, weight, mut acts) =
            (self.floats(n * hidden), self.floats(hidden), self.acts(n * hidden));
        let by = norm::Norm { weight: weight.view(), eps: 1e-5 };
        let out = acts.get_mut(form, n * hidden);
        norm::rms_norm(&*self.card, x.view(), None, n, by, out).unwrap();
        self.note(&[]);
    }

    fn begin(&mut self) {
        let Shape { hidden, vocab, .. } = self.shape;
        let n = self.n;
        let mut inputs = StepInputs::new(&self.card, self.pool, [64 * n, 64 * n, 64, 64]).unwrap();
        inputs.fetch(&*self.card, 0..3).unwrap();
        self.note(&[]);
        let (table, words) = (self.matrix(self.form.plain(), vocab, hidden), self.words(4 * n));
        let mut x = self.floats(n * hidden);
        let (drawn, weight, mut unscaled) = (View::none(), self.floats(hidden), self.unscaled());
        let form = self.takes(self.form.plain(), 128, hidden, n);
        let norm =
            norm::leaves_scale(form, n, hidden).then(|| unscaled.get_mut(form, n, weight.view()));
        let half = HEAD_DIM / 2;
        let (frequencies, mut cos, mut sin) =
            (self.floats(half), self.floats(n * half), self.floats(n * half));
        let turns = rope::Turns {
            positions: words.first(n),
            longs: words.first(n),
            frequencies: rope::Frequencies {
                inv_freq: frequencies.view(),
                long_inv_freq: None,
                factor: 1.0,
            },
            cos: cos.view_mut(),
            sin: sin.view_mut(),
        };
        let (tokens, x) = (words.first(n), x.view_mut());
        embed(&*self.card, &table, tokens, drawn, n, 1.0, x, norm, Some(turns)).unwrap();
        self.note(&[]);
        self.first_norm(form);
    }

    fn layer(&mut self, fine: bool) {
        let Shape { hidden, heads, kv_heads, intermediate, .. } = self.shape;
        let (plain, n) = (self.form.plain(), self.n);
        let finer = if fine { self.form.fine() } else { plain };
        let (queries, keys) = (heads * HEAD_DIM, kv_heads * HEAD_DIM);
        self.projection(&[(plain, queries), (plain, keys), (finer, keys)], hidden);
        self.attention();
        self.join(plain, queries, self.takes(plain, 128, hidden, n));
        let form = self.takes(finer, hidden, intermediate, n);
        self.gated(&[(plain, intermediate), (plain, intermediate)], hidden, form);
        self.join(finer, intermediate, self.takes(plain, 128, hidden, n));
    }

    /// Rotation and attention.
    fn attention(&mut self) {
        let (Shape { heads, kv_heads, .. }, n) = (self.shape, self.n);
        let rows = if self.prompt { 1 } else { n };
        let kv = KvShape { blocks: LONGEST / 16, block_size: 16, kv_heads, head_dim: HEAD_DIM };
        let mut layer = KvLayer::new(&self.card, self.pool, kv, KvKind::F16, Stream::Load).unwrap();
        let stride = (heads + 2 * kv_heads) * HEAD_DIM;
        let (mut qkv, words) = (self.floats(n * stride), self.words(4 * n));
        let angles = self.floats(n * HEAD_DIM);
        let turned = rope::Angles { half: HEAD_DIM / 2, cos: angles.view(), sin: angles.view() };
        let by =
            rope::Heads { count: heads, bias: None, norms: None, angles: turned, scaled: None };
        let decodes = if self.prompt { 0 } else { rows };
        let raw = prepares(heads, kv, KvKind::F16, (rows, decodes));
        if !raw {
            let slots = words.first(n);
            rope::prepare(&*self.card, &by, qkv.view_mut(), slots, layer.view_mut()).unwrap();
            self.note(&[]);
        }
        let spec = AttentionSpec { heads, scale: 0.1, window: None, soft_cap: None };
        let multiprocessors = self.card.properties().multiprocessors as usize;
        let splits = plan_splits(rows, kv_heads, LONGEST, multiprocessors);
        let mut partials = self.floats(partials_len(rows, heads, splits, HEAD_DIM));
        let kind = self.takes(self.form.plain(), self.shape.hidden, heads * HEAD_DIM, n);
        let mut acts = self.acts(n * heads * HEAD_DIM);
        let out = acts.get_mut(kind, n * heads * HEAD_DIM);
        let index = Rows { count: rows, rows: words.view(), tables: words.view() };
        let (card, qkv) = (&*self.card, qkv.view());
        match self.prompt {
            true => attend_prefill(card, &spec, qkv, layer.view(), index, n, n, out).unwrap(),
            false => {
                let (raw, view, partials) =
                    (raw.then_some(&by), layer.view_mut(), partials.view_mut());
                attend_decode(card, &spec, qkv, raw, view, index, splits, partials, out).unwrap();
            }
        }
        self.note(&[]);
    }

    /// From the last layer to the ids. A prompt wants those of its last token.
    fn end(&mut self) {
        let (Shape { hidden, vocab, .. }, pool) = (self.shape, self.pool);
        let n = if self.prompt { 1 } else { self.n };
        let form = self.takes(self.form.fine(), vocab, hidden, n);
        // The last layer of a decoding step has normed its rows.
        if self.prompt || !norm::leaves_scale(form, n, hidden) {
            let (x, weight, mut acts) =
                (self.floats(self.n * hidden), self.floats(hidden), self.acts(n * hidden));
            let words = self.words(n);
            let by = norm::Norm { weight: weight.view(), eps: 1e-5 };
            let out = acts.get_mut(form, n * hidden);
            norm::rms_norm(&*self.card, x.view(), Some(words.view()), n, by, out).unwrap();
            self.note(&[]);
        }
        self.product(self.form.fine(), vocab, hidden, n);
        let (mut logits, mut ids, mut host) =
            (self.floats(n * vocab), self.words(n), self.words(n));
        let params = Buffer::new(&self.card, pool, n).unwrap();
        let mut scratch = Buffer::new(&self.card, pool, scratch_len(n, vocab)).unwrap();
        let batch = SampleBatch {
            n,
            vocab,
            logits: logits.view_mut(),
            params: params.view(),
            edits: View::none(),
            masks: View::none(),
            soft_cap: 0.0,
            scratch: scratch.view_mut(),
            ids: ids.view_mut(),
            host_ids: host.view_mut(),
        };
        crate::cuda::sample::sample(&*self.card, batch).unwrap();
        self.note(&[]);
    }
}
