//! Loads weights to a GPU: plans the memory for weights, KV cache and steps, and copies the weights.
//!
//! It runs on a loader thread and on the GPU's loading stream, in pieces of a few MiB, so that a serving
//! model hardly notices. Matrices that share their input are multiplied together, so they need the input in the same
//! format. If the types of such a group need different formats, the whole group is kept as f16.

use super::super::config::{LayerKind, ModelConfig};
use super::super::decoder::DROWNING;
use super::super::error::LoadError;
use super::super::layout::{self, HeadNorms};
use super::super::names::{Names, Wanted};
use super::super::weights::Weights;
use super::index::{self, Index};
use super::layer::{HeadNorm, Layer, NormWeight, Projection};
use super::plan::CardPlan;
use super::room::{Room, Sizes};
use super::{CapturedGraphs, CardDecoder, Frequencies, Model};
use crate::device::{Kind, ModelPool, Rope, dequantise, stand_in};
use serin_kernels::cuda::attention::AttentionSpec;
use serin_kernels::cuda::attention::WIDEST_HEAD;
use serin_kernels::cuda::product::Matrix;
use serin_kernels::cuda::weights::PlaneLayout;
use serin_kernels::cuda::{ActKind, Buffer, CardError, KvLayer, Mapped, Stream, Timer, norm};
use std::collections::HashMap;
use std::sync::Arc;

/// Bytes of a matrix that are rearranged and copied at a time.
const PIECE: usize = 4 << 20;

impl CardPlan {
    /// Bytes of all that a step needs beside weights and cache.
    pub fn scratch_bytes(&self, config: &ModelConfig) -> u64 {
        let halves: usize = config.ropes.iter().map(|rope| 4 * rope.inv_freq.len()).sum();
        let angles = halves * (self.tokens + 1) * 4;
        Sizes::of(config, self).bytes(self) + (angles + index::bytes(config, self)) as u64
    }
}

/// Bytes of a model's weights on a GPU. Fails if a tensor is missing or is of a kind that no GPU has kernels for.
pub fn weight_bytes(source: &Weights) -> Result<u64, LoadError> {
    let config = source.config();
    let mut total = 0;
    let mut projections: Vec<Vec<Wanted>> = vec![vec![Names::embedding(config)]];
    if !source.is_tied()? {
        projections.push(vec![Names::head(config)]);
    }
    projections.extend((0..config.layers).flat_map(|index| Names { config, index }.projections()));
    for wanted in projections {
        let kinds = forms(source, &wanted)?;
        for ((name, [rows, columns]), kind) in wanted.iter().zip(kinds) {
            let layout = PlaneLayout::new(kind, *rows, *columns);
            total += layout.ok_or_else(|| unfit(source, name, kind, *columns))?.bytes() as u64;
        }
    }
    let norms = (2 + 4 * config.layers) * config.hidden * 4 + head_norm_bytes(config);
    Ok(total + norms as u64)
}

impl CardDecoder {
    /// Copies the weights from `source` to `pool`. Fails if a tensor is missing, has another shape or a kind that no GPU
    /// has kernels for, if memory is used up, or if the device fails; nothing is left behind then.
    pub fn load(
        source: &Weights,
        plan: CardPlan,
        pool: ModelPool,
    ) -> Result<CardDecoder, LoadError> {
        refuse_what_does_not_fit(source)?;
        let model = Loader { source, plan: &plan, pool: &pool }.model()?;
        pool.card().synchronise(Stream::Load)?;
        let usage = pool.usage();
        Ok(CardDecoder { model, pool, usage })
    }
}

/// Refuses shapes that no kernel supports, by name and before minutes of loading.
fn refuse_what_does_not_fit(source: &Weights) -> Result<(), LoadError> {
    let config = source.config();
    let refuse = |what: String| {
        Err(LoadError::Config { path: source.path().to_owned(), what: format!("{what} on a GPU") })
    };
    if config.head_dim > WIDEST_HEAD {
        return refuse(format!(
            "its heads of {} are wider than the {WIDEST_HEAD} supported",
            config.head_dim
        ));
    }
    if config.hidden > norm::WIDEST {
        return refuse(format!(
            "its rows of {} are wider than the {} supported",
            config.hidden,
            norm::WIDEST
        ));
    }
    Ok(())
}

fn head_norm_bytes(config: &ModelConfig) -> usize {
    let values = config.layout.head_norms.map(|norms| config.normed_at_once(norms.over));
    values.map_or(0, |[queries, keys]| config.layers * (queries + keys) * 4)
}

fn unfit(source: &Weights, name: &str, kind: Kind, columns: usize) -> LoadError {
    LoadError::Unfit {
        dir: source.path().to_owned(),
        tensor: name.to_owned(),
        what: format!("rows of {columns} are not whole blocks of {kind}"),
    }
}

/// The types of matrices that share their input: as stored, or what stands in for a type without kernels (see
/// [`Kind::on_card`]), unless they need the input in different formats.
fn forms(source: &Weights, wanted: &[Wanted]) -> Result<Vec<Kind>, LoadError> {
    let on_card = |(name, _): &Wanted| source.kind(name).map(Kind::on_card);
    let own: Vec<Kind> = wanted.iter().map(on_card).collect::<Result<_, _>>()?;
    let inputs = |kind: &Kind| kind.input_kind();
    let agree = own.iter().all(|kind| inputs(kind) == inputs(&own[0]));
    Ok(if agree { own } else { vec![Kind::F16; wanted.len()] })
}

struct Loader<'a> {
    source: &'a Weights,
    plan: &'a CardPlan,
    pool: &'a ModelPool,
}

impl Loader<'_> {
    fn model(&self) -> Result<Model, LoadError> {
        let config = self.source.config();
        let embedding = Arc::new(self.alone(Names::embedding(config))?);
        let layer = |(index, kind): (usize, &LayerKind)| self.layer(index, *kind);
        let layers: Vec<Layer> =
            config.kinds.iter().enumerate().map(layer).collect::<Result<_, _>>()?;
        let head = match self.source.is_tied()? {
            true => embedding.clone(),
            false => Arc::new(self.alone(Names::head(config))?),
        };
        let (card, of) = (self.pool.card(), self.pool.pool());
        let shape = self.plan.kv_shape(config);
        let layer_cache = |_| KvLayer::new(card, of, shape, self.plan.kv, Stream::Load);
        let cache = (0..config.layers).map(layer_cache);
        let kinds = input_kinds(&layers, &head);
        Ok(Model {
            card: card.clone(),
            timers: [Timer::new(card)?, Timer::new(card)?],
            host_logprobs: [
                Mapped::new(card, self.plan.head_rows)?,
                Mapped::new(card, self.plan.head_rows)?,
            ],
            host_ids: [
                Mapped::new(card, self.plan.head_rows)?,
                Mapped::new(card, self.plan.head_rows)?,
            ],
            place: 0,
            norm: self.last_norm()?,
            cache: cache.collect::<Result<_, CardError>>()?,
            ropes: config.ropes.iter().map(|r| self.rope(r)).collect::<Result<_, _>>()?,
            index: Index::new(config, self.plan, self.pool)?,
            room: Room::new(config, self.plan, &kinds, self.pool)?,
            graphs: match self.plan.capture {
                true => CapturedGraphs::Graphs(HashMap::new()),
                false => CapturedGraphs::Off,
            },
            stepped: false,
            config: config.clone(),
            plan: *self.plan,
            embedding,
            head,
            layers,
        })
    }

    fn layer(&self, index: usize, kind: LayerKind) -> Result<Layer, LoadError> {
        let config = self.source.config();
        let (layout, names) = (config.layout, Names { config, index });
        let norm = |name: &str, len: usize| {
            self.norm(&layout::in_layer(index, &format!("{name}.weight")), len)
        };
        let post = |name: Option<&str>| name.map(|name| norm(name, config.hidden)).transpose();
        let pre = |name: Option<&str>| match name {
            Some(name) => norm(name, config.hidden),
            None => self.no_norm(config.hidden),
        };
        let heads = layout.head_norms.map(|HeadNorms { names: [query, key], over }| {
            let [queries, keys] = config.normed_at_once(over);
            let (query, key) = (norm(query, queries)?, norm(key, keys)?);
            Ok::<_, LoadError>(HeadNorm { query, key, over })
        });
        Ok(Layer {
            attention_norm: pre(layout.attention_norm)?,
            qkv: self.projection(&names.qkv(), config.bias.qkv)?,
            spec: AttentionSpec {
                heads: config.heads,
                scale: config.scale,
                window: kind.window,
                soft_cap: config.score_cap,
            },
            head_norm: heads.transpose()?,
            query_scale: config.query_scale,
            rope: kind.rope,
            out: self.projection(&names.out(), config.bias.out)?,
            attention_post_norm: post(layout.attention_post_norm)?,
            mlp_norm: pre(layout.mlp_norm)?,
            gate_up: self.projection(&names.gate_up(), config.bias.mlp)?,
            activation: config.activation,
            down: self.projection(&names.down(), config.bias.mlp)?,
            mlp_post_norm: post(layout.mlp_post_norm)?,
        })
    }

    /// A projection of `wanted`, whose names end in `.weight`, and their biases. Neighbours of the same type
    /// become one matrix, so that one launch multiplies all of them.
    fn projection(&self, wanted: &[Wanted], bias: bool) -> Result<Projection, LoadError> {
        let kinds = self.forms(wanted)?;
        let (mut parts, mut first) = (Vec::with_capacity(wanted.len()), 0);
        for alike in kinds.chunk_by(PartialEq::eq) {
            parts.push(self.matrix(&wanted[first..first + alike.len()], alike[0])?);
            first += alike.len();
        }
        let mut biases = Vec::new();
        for (name, [outputs, _]) in wanted.iter().filter(|_| bias) {
            let name = name.strip_suffix("weight").unwrap_or(name);
            biases.extend(self.source.values(&format!("{name}bias"), &[*outputs])?);
        }
        let bias = if bias { Some(self.vector(&biases)?) } else { None };
        Ok(Projection { parts, bias })
    }

    fn alone(&self, wanted: Wanted) -> Result<Matrix, LoadError> {
        let wanted = std::slice::from_ref(&wanted);
        self.matrix(wanted, self.forms(wanted)?[0])
    }

    fn forms(&self, wanted: &[Wanted]) -> Result<Vec<Kind>, LoadError> {
        match self.plan.exact {
            true => Ok(vec![Kind::F32; wanted.len()]),
            false => forms(self.source, wanted),
        }
    }

    /// The matrices of `wanted`, whose rows have the same length, one below the other; stored as `kind`,
    /// which is their own type or a wider one.
    fn matrix(&self, wanted: &[Wanted], kind: Kind) -> Result<Matrix, LoadError> {
        let rows = wanted.iter().map(|(_, [rows, _])| rows).sum();
        let columns = wanted.first().map_or(0, |(_, [_, columns])| *columns);
        let mut matrix = Matrix::new(self.pool.card(), self.pool.pool(), kind, rows, columns)?;
        let mut first = 0;
        for (name, shape) in wanted {
            self.copy_rows(&mut matrix, first, (name, *shape))?;
            first += shape[0];
        }
        Ok(matrix)
    }

    /// Copies a weight to the rows from `to` on, piece by piece, converted to the matrix's type.
    fn copy_rows(
        &self,
        matrix: &mut Matrix,
        to: usize,
        (name, shape): (&str, [usize; 2]),
    ) -> Result<(), LoadError> {
        let ([rows, columns], kind) = (shape, matrix.kind());
        let stored = self.source.stored(name, &shape)?;
        let row_bytes = stored.kind.row_bytes(columns);
        let row_bytes = row_bytes.ok_or_else(|| unfit(self.source, name, kind, columns))?;
        let at_once = (PIECE / row_bytes.max(1)).max(1);
        for first in (0..rows).step_by(at_once) {
            let count = at_once.min(rows - first);
            let bytes = &stored.bytes[first * row_bytes..(first + count) * row_bytes];
            if kind == stored.kind {
                matrix.write_rows(to + first, bytes, Stream::Load)?;
                continue;
            }
            let standing_in = (kind == stored.kind.on_card()).then(|| stand_in(stored.kind, bytes));
            let other = standing_in.flatten();
            let other = other.unwrap_or_else(|| widened(stored.kind, bytes, count * columns, kind));
            matrix.write_rows(to + first, &other, Stream::Load)?;
        }
        self.source.consumed(name, (rows * row_bytes) as u64);
        Ok(())
    }

    fn norm(&self, name: &str, len: usize) -> Result<NormWeight, LoadError> {
        self.norm_times(name, len, 1.0)
    }

    /// The norm after the last layer, with the scale of the logits.
    fn last_norm(&self) -> Result<NormWeight, LoadError> {
        let config = self.source.config();
        self.norm_times(layout::NORM, config.hidden, config.logit_scale.unwrap_or(1.0))
    }

    fn norm_times(&self, name: &str, len: usize, scale: f32) -> Result<NormWeight, LoadError> {
        let norm = self.source.config().norm;
        let mut weight = self.source.values(name, &[len])?;
        weight.iter_mut().for_each(|w| *w = (*w + norm.offset) * scale);
        Ok(NormWeight { weight: self.vector(&weight)?, eps: norm.eps })
    }

    /// No norm, as one that changes nothing; see [`DROWNING`].
    fn no_norm(&self, len: usize) -> Result<NormWeight, LoadError> {
        let weight = self.vector(&vec![DROWNING; len])?;
        Ok(NormWeight { weight, eps: DROWNING * DROWNING })
    }

    fn rope(&self, rope: &Rope) -> Result<Frequencies, LoadError> {
        let (card, of) = (self.pool.card(), self.pool.pool());
        let numbers = self.plan.tokens * rope.inv_freq.len();
        let long = rope.long.as_ref().map(|long| self.vector(&long.inv_freq)).transpose()?;
        Ok(Frequencies {
            inv_freq: self.vector(&rope.inv_freq)?,
            long,
            factor: rope.factor,
            cos: Buffer::on(card, of, numbers, Stream::Load)?,
            sin: Buffer::on(card, of, numbers, Stream::Load)?,
        })
    }

    fn vector(&self, values: &[f32]) -> Result<Buffer<f32>, LoadError> {
        let (card, of) = (self.pool.card(), self.pool.pool());
        let mut buffer = Buffer::on(card, of, values.len(), Stream::Load)?;
        buffer.write_on(0, values, Stream::Load)?;
        Ok(buffer)
    }
}

/// All formats in which the model's matrix products take their inputs, for few or many inputs.
fn input_kinds(layers: &[Layer], head: &Matrix) -> Vec<ActKind> {
    let of = |layer: &Layer| {
        let parts = [&layer.qkv, &layer.out, &layer.gate_up, &layer.down];
        parts.map(|projection| projection.parts.iter().map(Matrix::kind).collect::<Vec<_>>())
    };
    let kinds = layers.iter().flat_map(of).flatten().chain([head.kind()]);
    let mut forms: Vec<ActKind> = kinds.map(Kind::input_kind).collect();
    if forms.contains(&ActKind::Q8) {
        forms.push(ActKind::BF16);
    }
    forms
}

/// Values as f32, or otherwise as f16.
fn widened(kind: Kind, bytes: &[u8], count: usize, to: Kind) -> Vec<u8> {
    let mut values = vec![0.0; count];
    dequantise(kind, bytes, &mut values);
    match to {
        Kind::F32 => values.iter().flat_map(|v| v.to_le_bytes()).collect(),
        _ => values.iter().flat_map(|v| half::f16::from_f32(*v).to_le_bytes()).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::LoadFormat;
    use std::path::Path;

    #[test]
    fn a_kind_without_kernels_takes_the_memory_of_what_stands_in() {
        let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("models/tiny-v1");
        let bytes = |scheme: &str| {
            let format = LoadFormat::parse(&format!("dummy:{scheme}")).unwrap();
            weight_bytes(&Weights::open(&dir, format).unwrap()).unwrap()
        };
        assert_eq!(bytes("mxfp4"), bytes("q8_0"));
    }
}
