//! Known answers of sampling, from a slow implementation that sorts everything.

use super::*;
use crate::cuda::buffer::{Buffer, Mapped};
use crate::cuda::check::{Bench, Check, Numbers, Size};

/// One row of a case: how to choose, and the tokens so far.
#[derive(Debug, Clone, Default)]
pub(super) struct RowSpec {
    pub params: RowParams,
    pub prompt: Vec<u32>,
    pub reply: Vec<u32>,
    /// By id, each id once.
    pub biases: Vec<(u32, f32)>,
    /// Whether each token may be drawn; ids beyond may not. `None`: all may.
    pub mask: Option<Vec<bool>>,
}

/// How far the reference's limits are moved, to see whether a pick hangs on rounding.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Penalty {
    uniform: f64,
    top_p: f64,
    min_p: f64,
}

/// Logits as weights are made from: soft cap, mask, biases and penalties done, in the host sampler's arithmetic.
fn adjusted(logits: &[f32], spec: &RowSpec, soft_cap: f32) -> Vec<f32> {
    let mut row = logits.to_vec();
    if soft_cap > 0.0 {
        row.iter_mut().for_each(|l| *l = soft_cap * (*l / soft_cap).tanh());
    }
    let p = &spec.params;
    for (id, logit) in row.iter_mut().enumerate() {
        if spec.mask.as_ref().is_some_and(|mask| !mask.get(id).is_some_and(|may| *may)) {
            *logit = f32::MIN;
        }
        let bias = spec.biases.iter().find(|(of, _)| *of as usize == id).map_or(0.0, |b| b.1);
        if bias == f32::NEG_INFINITY {
            *logit = f32::MIN;
            continue;
        }
        *logit += bias;
        let is = |other: &&u32| **other as usize == id;
        let count = spec.reply.iter().filter(is).count();
        if count > 0 || spec.prompt.iter().any(|other| is(&other)) {
            let scale = p.repetition_penalty;
            let scaled = if *logit > 0.0 { *logit / scale } else { *logit * scale };
            *logit = scaled.clamp(f32::MIN, f32::MAX);
        }
        if count > 0 {
            *logit -= p.frequency_penalty * count as f32 + p.presence_penalty;
        }
    }
    row
}

/// Sorts everything, applies each filter in turn, and walks by id.
pub(super) fn reference(logits: &[f32], spec: &RowSpec, soft_cap: f32, nudge: Penalty) -> u32 {
    if !logits.iter().all(|l| l.is_finite()) {
        return NON_FINITE;
    }
    let row = adjusted(logits, spec, soft_cap);
    let p = &spec.params;
    let most = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    if p.temperature <= 0.0 || p.top_k == 1 {
        return row.iter().position(|l| *l == most).unwrap() as u32;
    }
    let inverse = 1.0 / p.temperature;
    // Weights as the host has them, numbers of 32 bits, but with a better exponential function.
    let weight = |l: &f32| f64::from(f64::from((l - most) * inverse).exp() as f32);
    let mut kept: Vec<(usize, f64)> = row.iter().map(weight).enumerate().collect();
    kept.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
    if p.top_k > 0 {
        kept.truncate(p.top_k as usize);
    }
    if p.top_p < 1.0 {
        let total: f64 = kept.iter().map(|k| k.1).sum();
        let target = (f64::from(p.top_p) + nudge.top_p) * total;
        let mut mass = 0.0;
        let last = kept.iter().position(|k| {
            mass += k.1;
            mass >= target
        });
        kept.truncate(last.map_or(kept.len(), |last| last + 1));
    }
    let floor = f64::from(p.min_p) * (1.0 + nudge.min_p);
    let top = kept[0].0;
    kept.retain(|k| k.1 >= floor || k.0 == top);
    kept.sort_by_key(|k| k.0);
    let total: f64 = kept.iter().map(|k| k.1).sum();
    let point = (p.uniform as f64 / (1u64 << 53) as f64 + nudge.uniform) * total;
    let mut mass = 0.0;
    let found = kept.iter().find(|k| {
        mass += k.1;
        mass > point
    });
    found.unwrap_or(&kept[kept.len() - 1]).0 as u32
}

/// Whether `got` is the right pick once some limit moves by `slack` or less.
fn hangs_on_rounding(logits: &[f32], spec: &RowSpec, soft_cap: f32, got: u32, slack: f64) -> bool {
    let steps = [-slack, 0.0, slack];
    let nudges = steps.iter().flat_map(|uniform| {
        let rest = move |top_p: &f64| steps.map(|min_p| (*uniform, *top_p, min_p));
        steps.iter().flat_map(rest).collect::<Vec<_>>()
    });
    nudges
        .map(|(uniform, top_p, min_p)| Penalty { uniform, top_p, min_p })
        .any(|nudge| reference(logits, spec, soft_cap, nudge) == got)
}

/// Rows of one vocabulary, drawn together.
#[derive(Debug)]
pub(super) struct Case {
    pub name: String,
    pub vocab: usize,
    pub soft_cap: f32,
    pub logits: Vec<f32>,
    pub specs: Vec<RowSpec>,
}

impl Case {
    /// The card's ids, rows cut up as `split` says.
    pub(super) fn ids(&self, bench: &Bench, split: Split) -> Result<Vec<u32>, CardError> {
        let (n, vocab) = (self.specs.len(), self.vocab);
        let (mut params, mut list, mut masks) = (Vec::new(), Vec::new(), Vec::new());
        for spec in &self.specs {
            let entries = TokenEdit::list(&spec.prompt, &spec.reply, &spec.biases);
            let (first_edit, edits) = (list.len() as u32, entries.len() as u32);
            let mask = spec.mask.as_ref().map_or(NO_MASK, |_| masks.len() as u32);
            params.push(RowParams { first_edit, edits, mask, ..spec.params });
            list.extend(entries);
            masks.extend(spec.mask.iter().flat_map(|mask| words(mask, vocab)));
        }
        let (card, pool) = (&bench.card, bench.pool);
        let mut logits = Buffer::of(card, pool, &self.logits)?;
        let params = Buffer::of(card, pool, &params)?;
        let edits = Buffer::of(card, pool, &list)?;
        let masks = Buffer::of(card, pool, &masks)?;
        let mut scratch = Buffer::new(card, pool, scratch_len(n, vocab))?;
        let mut ids = Buffer::new(card, pool, n)?;
        let mut host_ids = Mapped::new(card, n)?;
        scratch.fill(0xff)?;
        ids.fill(0xaa)?;
        host_ids.write(0, &vec![0xaau32; n])?;
        let batch = SampleBatch {
            n,
            vocab,
            logits: logits.view_mut(),
            params: params.view(),
            edits: edits.view(),
            masks: masks.view(),
            soft_cap: self.soft_cap,
            scratch: scratch.view_mut(),
            ids: ids.view_mut(),
            host_ids: host_ids.view_mut(),
        };
        launch(&**card, batch, split)?;
        let (ids, mut read) = (ids.to_vec()?, vec![0; n]);
        host_ids.read(0, &mut read)?;
        match read == ids {
            true => Ok(ids),
            false => Err(CardError::Other(format!("the host reads {read:?} instead of {ids:?}"))),
        }
    }

    /// What it should be, and how many picks hang on rounding; those are taken as the card made them.
    pub(super) fn expected(&self, got: &[u32]) -> (Vec<u32>, usize) {
        let slack = if self.soft_cap > 0.0 { 1e-5 } else { 1e-6 };
        let rows = self.logits.chunks_exact(self.vocab).zip(&self.specs).zip(got);
        let mut moved = 0;
        let expected = rows.map(|((row, spec), got)| {
            let want = reference(row, spec, self.soft_cap, Penalty::default());
            let rounding = want != *got && hangs_on_rounding(row, spec, self.soft_cap, *got, slack);
            moved += usize::from(rounding);
            if rounding { *got } else { want }
        });
        (expected.collect(), moved)
    }

    pub(super) fn check(&self, bench: &Bench, split: Split) -> Result<Check, CardError> {
        let kernel = if split.parts == 1 { "sample_row" } else { "sample_weigh" };
        let case = format!("{}, {} tokens in {} parts", self.name, self.vocab, split.parts);
        let got = self.ids(bench, split)?;
        let (expected, moved) = self.expected(&got);
        if moved > 1 + got.len() / 50 {
            let case = format!("{case}: {moved} picks hang on rounding");
            return Ok(Check { kernel, case, error: f64::INFINITY, limit: 0.0 });
        }
        Ok(Check::equal(kernel, case, &got, &expected))
    }
}

/// A mask's words.
fn words(mask: &[bool], vocab: usize) -> Vec<u32> {
    let mut words = vec![0; vocab.div_ceil(32)];
    for (id, _) in mask.iter().enumerate().filter(|(_, may)| **may) {
        words[id / 32] |= 1 << (id % 32);
    }
    words
}

/// About normal, of variance 1.
pub(super) fn normal(numbers: &mut Numbers) -> f32 {
    (0..6).map(|_| numbers.number()).sum::<f32>() * std::f32::consts::FRAC_1_SQRT_2
}

/// How the logits of a row lie.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Row {
    /// As a model's: a wide bell with a few far above.
    Model,
    /// The same in steps of 1/16: many ties.
    Steps,
    Equal,
    /// Two values, hundreds of tokens each in one bucket of weights.
    Flat,
}

fn row(numbers: &mut Numbers, kind: Row, vocab: usize) -> Vec<f32> {
    let spread = 1.0 + 2.0 * numbers.number().abs();
    let mut row: Vec<f32> = (0..vocab)
        .map(|_| match kind {
            Row::Model | Row::Steps => normal(numbers) * spread,
            Row::Equal => -3.5,
            Row::Flat => 0.001 * numbers.number(),
        })
        .collect();
    if matches!(kind, Row::Model | Row::Steps) {
        for _ in 0..numbers.below(12) {
            row[numbers.below(vocab)] += 3.0 * spread;
        }
    }
    if kind == Row::Steps {
        row.iter_mut().for_each(|l| *l = (*l * 16.0).round() / 16.0);
    }
    row
}

/// All combinations of filters, by number.
fn spec(numbers: &mut Numbers, which: usize, vocab: usize) -> RowSpec {
    let one_of = |numbers: &mut Numbers, all: &[f32]| all[numbers.below(all.len())];
    let on = |bit: usize| which >> bit & 1 == 1;
    let params = RowParams {
        temperature: one_of(numbers, &[0.2, 0.7, 1.0, 1.5, 3.0]),
        top_k: if on(0) { one_of(numbers, &[1.0, 2.0, 7.0, 40.0, 300.0, 1e6]) as u32 } else { 0 },
        top_p: if on(1) { one_of(numbers, &[0.05, 0.5, 0.9, 0.99]) } else { 1.0 },
        min_p: if on(2) { one_of(numbers, &[0.01, 0.1, 0.8]) } else { 0.0 },
        ..RowParams::default()
    };
    let mut spec = RowSpec { params, ..RowSpec::default() };
    if on(3) {
        spec.params.repetition_penalty = one_of(numbers, &[1.3, 0.8]);
        spec.params.frequency_penalty = one_of(numbers, &[0.3, -0.3]);
        spec.params.presence_penalty = one_of(numbers, &[0.5, 0.0]);
        let token = |numbers: &mut Numbers| numbers.below(vocab + vocab / 8) as u32;
        spec.prompt = (0..numbers.below(200)).map(|_| token(numbers)).collect();
        spec.reply = (0..numbers.below(50)).map(|_| token(numbers) / 3).collect();
    }
    if which % 5 == 4 {
        let mut biases = std::collections::BTreeMap::new();
        for _ in 0..numbers.below(60) {
            let bias = one_of(numbers, &[f32::NEG_INFINITY, -100.0, -1.5, 0.25, 3.0, 100.0]);
            biases.insert(numbers.below(vocab + vocab / 8) as u32 / 2, bias);
        }
        spec.biases = biases.into_iter().collect();
    }
    if which % 3 == 2 {
        spec.mask = Some(mask(numbers, vocab));
    }
    if which % 19 == 18 {
        spec.params.temperature = 0.0;
    }
    spec.params.uniform = numbers.bits() >> 11;
    spec
}

/// Masks of all densities, of which runs of tokens are allowed as a whole or not at all; never empty.
fn mask(numbers: &mut Numbers, vocab: usize) -> Vec<bool> {
    let (few, many) = (numbers.below(20), numbers.below(20));
    let mut mask = vec![false; vocab];
    for run in mask.chunks_mut(100) {
        let share = [0, few, many, 20][numbers.below(4)];
        run.iter_mut().for_each(|may| *may = numbers.below(20) < share);
    }
    mask[numbers.below(vocab)] = true;
    mask
}

/// `n` rows of every combination in turn.
pub(super) fn mixed(seed: u64, n: usize, vocab: usize, kind: Row, soft_cap: f32) -> Case {
    let mut numbers = Numbers::new(seed);
    let mut logits = Vec::new();
    let mut specs = Vec::new();
    for which in (0..n).map(|i| i + 8 * seed as usize) {
        logits.extend(row(&mut numbers, kind, vocab));
        specs.push(spec(&mut numbers, which, vocab));
    }
    let capped = if soft_cap > 0.0 { ", capped" } else { "" };
    let name = format!("{n} rows, {kind:?}{capped}");
    Case { name, vocab, soft_cap, logits, specs }
}

/// Rows with a NaN or an infinity somewhere, every other one, greedy and drawn.
fn broken(vocab: usize, soft_cap: f32) -> Case {
    let mut case = mixed(5, 12, vocab, Row::Model, soft_cap);
    for (at, what) in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY].into_iter().enumerate() {
        let place = [0, vocab / 2, vocab - 1][at];
        case.logits[4 * at * vocab + place] = what;
        case.logits[(4 * at + 2) * vocab + (place + 1) % vocab] = what;
        case.specs[4 * at].params.temperature = 0.0;
    }
    case.name = format!("NaN and infinity, soft cap {soft_cap}");
    case
}

/// Known answers of every kernel.
pub(crate) fn checks(bench: &Bench, size: Size) -> Result<Vec<Check>, CardError> {
    let cases = match size {
        Size::Quick => vec![
            mixed(1, 8, 100, Row::Model, 0.0),
            mixed(2, 8, 9000, Row::Model, 0.0),
            broken(4100, 0.0),
        ],
        Size::Full => vec![
            mixed(1, 64, 32, Row::Model, 0.0),
            mixed(2, 32, 333, Row::Steps, 0.0),
            mixed(3, 16, 4096, Row::Model, 30.0),
            mixed(4, 16, 4097, Row::Model, 0.0),
            mixed(5, 8, 10007, Row::Steps, 30.0),
            mixed(6, 4, 9000, Row::Equal, 0.0),
            mixed(7, 8, 8193, Row::Flat, 0.0),
            mixed(8, 8, 32000, Row::Model, 0.0),
            mixed(9, 1, 151_936, Row::Model, 0.0),
            broken(33, 0.0),
            broken(4100, 20.0),
        ],
    };
    let mut checks = Vec::new();
    for case in &cases {
        let usual = split(case.specs.len(), case.vocab);
        checks.push(case.check(bench, usual)?);
        if usual.parts > 1 && size == Size::Full {
            checks.push(case.check(bench, cut_into(1, case.vocab))?);
        }
    }
    Ok(checks)
}
