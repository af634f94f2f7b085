//! Dummy weights: a model's real shape with seeded random numbers, for measuring speed without a checkpoint.
//!
//! Blocks of quantised types are generated directly, not by quantising: random digits with constant scales,
//! chosen so that weights have the spread of a freshly initialised model and logits stay finite. Each tensor
//! is a function of seed and name only. Tensors are generated in parallel, directly into the memory where
//! they are needed.
//!
//! It knows the tensors of every family by their Hugging Face names (`layout`), and reads no file except
//! `config.json`.

mod blocks;
mod layout;

use super::config::ModelConfig;
use super::error::LoadError;
use crate::device::{Kind, Stored};
use layout::Role;
use std::borrow::Cow;
use std::collections::HashMap;
use std::path::{Path, PathBuf};

/// The format of the weights: one type, or one of llama.cpp's mixtures.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scheme {
    /// All matrices in one type; norms and biases are F32.
    Plain(Kind),
    /// Mostly the first type, and the more important matrices in Q6_K.
    Mix(Kind),
}

impl Scheme {
    const NAMES: [(&'static str, Scheme); 23] = [
        ("f32", Scheme::Plain(Kind::F32)),
        ("f16", Scheme::Plain(Kind::F16)),
        ("bf16", Scheme::Plain(Kind::BF16)),
        ("q8_0", Scheme::Plain(Kind::Q8_0)),
        ("q4_0", Scheme::Plain(Kind::Q4_0)),
        ("q4_1", Scheme::Plain(Kind::Q4_1)),
        ("q5_0", Scheme::Plain(Kind::Q5_0)),
        ("q5_1", Scheme::Plain(Kind::Q5_1)),
        ("q2_k", Scheme::Plain(Kind::Q2K)),
        ("q3_k", Scheme::Plain(Kind::Q3K)),
        ("q6_k", Scheme::Plain(Kind::Q6K)),
        ("iq4_nl", Scheme::Plain(Kind::IQ4NL)),
        ("iq4_xs", Scheme::Plain(Kind::IQ4XS)),
        ("mxfp4", Scheme::Plain(Kind::MXFP4)),
        ("iq3_xxs", Scheme::Plain(Kind::IQ3XXS)),
        ("iq3_s", Scheme::Plain(Kind::IQ3S)),
        ("iq2_xxs", Scheme::Plain(Kind::IQ2XXS)),
        ("iq2_xs", Scheme::Plain(Kind::IQ2XS)),
        ("iq2_s", Scheme::Plain(Kind::IQ2S)),
        ("iq1_s", Scheme::Plain(Kind::IQ1S)),
        ("iq1_m", Scheme::Plain(Kind::IQ1M)),
        ("q4_k_m", Scheme::Mix(Kind::Q4K)),
        ("q5_k_m", Scheme::Mix(Kind::Q5K)),
    ];

    /// The format with this name, in upper or lower case. Fails if there is none; the error lists the known names.
    pub fn parse(name: &str) -> Result<Scheme, String> {
        let found = Scheme::NAMES.iter().find(|(known, _)| known.eq_ignore_ascii_case(name));
        found.map(|(_, scheme)| *scheme).ok_or_else(|| {
            let known = Scheme::NAMES.map(|(name, _)| name).join(", ");
            format!("`{name}` is not a format of dummy weights; known: {known}")
        })
    }

    /// The name that [`Scheme::parse`] knows it by; empty if there is none.
    pub fn name(self) -> &'static str {
        Scheme::NAMES.iter().find(|(_, scheme)| *scheme == self).map_or("", |(name, _)| name)
    }

    /// The type of one matrix, as llama.cpp would choose it.
    fn kind(self, role: Role, columns: usize, tied: bool) -> Kind {
        let wanted = match (self, role) {
            (_, Role::Norm | Role::Bias) => return Kind::F32,
            (Scheme::Plain(kind), _) => kind,
            (Scheme::Mix(_), Role::Head | Role::Important) => Kind::Q6K,
            (Scheme::Mix(_), Role::Embedding) if tied => Kind::Q6K,
            (Scheme::Mix(kind), _) => kind,
        };
        let fallbacks = [wanted, Kind::Q8_0, Kind::F16];
        fallbacks.into_iter().find(|kind| columns.is_multiple_of(kind.block())).unwrap_or(Kind::F16)
    }
}

/// A model without a checkpoint.
pub struct Dummy {
    dir: PathBuf,
    config: ModelConfig,
    scheme: Scheme,
    seed: u64,
    /// Digest of `config.json`.
    shape: String,
    tensors: HashMap<String, Made>,
}

struct Made {
    kind: Kind,
    shape: Vec<usize>,
    role: Role,
}

impl Dummy {
    /// The model that `dir/config.json` describes. Reads nothing else. Fails if that file cannot be read or its model
    /// is not supported.
    pub fn open(dir: &Path, scheme: Scheme, seed: u64) -> Result<Dummy, LoadError> {
        let config = ModelConfig::read(dir)?;
        let path = dir.join("config.json");
        let text =
            std::fs::read_to_string(&path).map_err(|source| LoadError::Read { path, source })?;
        let listed = layout::tensors(&config);
        let tied = !listed.iter().any(|(_, _, role)| *role == Role::Head);
        let made = listed.into_iter().map(|(name, shape, role)| {
            let columns = shape.last().copied().unwrap_or(1);
            (name, Made { kind: scheme.kind(role, columns, tied), shape, role })
        });
        let shape = super::intake::digest_of([text.as_bytes()]);
        Ok(Dummy { dir: dir.to_owned(), config, scheme, seed, shape, tensors: made.collect() })
    }

    /// The content of `config.json`.
    pub fn config(&self) -> &ModelConfig {
        &self.config
    }

    /// The folder of `config.json`.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Says that it is a dummy, so that it is not mistaken for a real model.
    pub fn digest(&self) -> String {
        format!("dummy-{}-{}-{}", self.scheme.name(), self.seed, self.shape)
    }

    /// Whether the model has a tensor of this Hugging Face name.
    pub fn has(&self, name: &str) -> bool {
        self.tensors.contains_key(name)
    }

    /// Names, types and shapes of all tensors.
    pub fn tensors(&self) -> impl Iterator<Item = (&str, Kind, &[usize])> {
        self.tensors.iter().map(|(name, made)| (name.as_str(), made.kind, made.shape.as_slice()))
    }

    /// Type and shape of one tensor, to allocate memory for it. Fails if the model has no such tensor.
    pub fn plan(&self, name: &str) -> Result<(Kind, Vec<usize>), LoadError> {
        self.made(name).map(|made| (made.kind, made.shape.clone()))
    }

    /// Writes a tensor's blocks to `out`, which must have exactly their length. Fails if the model has no such tensor.
    pub fn fill(&self, name: &str, out: &mut [u8]) -> Result<(), LoadError> {
        let made = self.made(name)?;
        match made.role {
            Role::Norm => blocks::constant(1.0 - self.config.norm.offset, out),
            Role::Bias => blocks::constant(0.0, out),
            _ => blocks::random(made.kind, blocks::seed(self.seed, name), out),
        }
        Ok(())
    }

    /// Generates one tensor into new memory. Fails if the model has none of this name.
    pub fn stored(&self, name: &str) -> Result<Stored<'static>, LoadError> {
        let Made { kind, shape, .. } = self.made(name)?;
        let mut bytes = vec![0; bytes_of(*kind, shape)];
        self.fill(name, &mut bytes)?;
        Ok(Stored { kind: *kind, shape: shape.clone(), bytes: Cow::Owned(bytes) })
    }

    fn made(&self, name: &str) -> Result<&Made, LoadError> {
        let missing = || LoadError::Missing { dir: self.dir.clone(), tensor: name.to_owned() };
        self.tensors.get(name).ok_or_else(missing)
    }
}

/// Bytes of a tensor whose rows are whole blocks.
fn bytes_of(kind: Kind, shape: &[usize]) -> usize {
    shape.iter().product::<usize>() / kind.block() * kind.block_bytes()
}

#[cfg(test)]
mod tests;
