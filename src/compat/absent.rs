//! The compatibility lane in a build without the feature `compat`: it opens no model, and its error says why.

use super::names::of_folder;
use super::plan::Plan;
use crate::engine::Runner;
use crate::model::LoadError;
use std::path::Path;

/// No model can be opened.
pub enum Opened {}

impl Opened {
    /// Always fails; the error names the feature.
    pub fn open(dir: &Path) -> Result<Opened, LoadError> {
        let named = of_folder(dir).unwrap_or_default();
        let what = format!(
            "its architecture {named} runs on the compatibility lane, which this build has not got; \
             build with the feature `compat`"
        );
        Err(LoadError::Config { path: dir.join("config.json"), what })
    }

    /// The folder of the model.
    pub fn path(&self) -> &Path {
        match *self {}
    }

    /// The architecture that `config.json` names.
    pub fn architecture(&self) -> &'static str {
        match *self {}
    }

    /// Number of token ids.
    pub fn vocab(&self) -> usize {
        match *self {}
    }

    /// Number of layers.
    pub fn layers(&self) -> usize {
        match *self {}
    }

    /// Width of a token's state between layers.
    pub fn hidden(&self) -> usize {
        match *self {}
    }

    /// Identifies configuration and weights. Cannot fail: this build opens no such model.
    pub fn digest(&self) -> Result<String, LoadError> {
        match *self {}
    }

    /// Name and SHA-256 of the index of the weight files.
    pub fn index(&self) -> Option<(&'static str, [u8; 32])> {
        match *self {}
    }

    /// Bytes of the weights once loaded.
    pub fn weight_bytes(&self) -> u64 {
        match *self {}
    }

    /// Number of parameters.
    pub fn parameters(&self) -> u64 {
        match *self {}
    }

    /// The slots. Cannot fail, as [`Opened::digest`].
    pub fn plan(&self, _slots: usize, _kv_memory: u64) -> Result<Plan, LoadError> {
        match *self {}
    }
}

/// Loads an opened model. Cannot fail, as [`Opened::digest`].
pub fn load(opened: &Opened, _plan: Plan) -> Result<Box<dyn Runner>, LoadError> {
    match *opened {}
}
