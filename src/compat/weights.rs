//! Weights as candle asks for them: each tensor is checked, widened to f32 and held once, so that all instances of a
//! model share it. Tensors that candle does not ask for (the vision or audio parts of a checkpoint) are not read.
//!
//! It records the first error with the tensor's name, because candle's own errors are less clear.

use super::opened::Opened;
use super::table::HEAD;
use crate::device::{all_finite, dequantise};
use crate::model::{Folder, LoadError};
use crate::progress::Progress;
use candle_core::{DType, Device, Error, Result, Shape, Tensor};
use candle_nn::Init;
use candle_nn::var_builder::SimpleBackend;
use parking_lot::Mutex;
use serde_json::Value;
use std::collections::HashMap;
use std::path::PathBuf;

/// The tensors that were asked for, by candle's names.
pub(super) type Held = HashMap<String, Tensor>;

/// A folder's tensors, for one load.
pub(super) struct Reader<'a> {
    pub opened: &'a Opened,
    pub held: &'a Mutex<Held>,
    pub failed: &'a Mutex<Option<LoadError>>,
    pub progress: &'a Progress,
}

impl Reader<'_> {
    fn folder(&self) -> &Folder {
        &self.opened.folder
    }

    /// The name in the file of the tensor that candle calls `name`.
    fn stored_as<'n>(&self, name: &'n str) -> &'n str {
        let tied = || {
            let settings = &self.opened.settings;
            settings.get("tie_word_embeddings").and_then(Value::as_bool) == Some(true)
        };
        let other = self.opened.row.names.iter().find(|(own, _)| *own == name);
        match other {
            Some((own, other)) if !self.folder().has(name) && (*own != HEAD || tied()) => other,
            _ => name,
        }
    }

    fn tensor(&self, name: &str, shape: Option<&Shape>) -> std::result::Result<Tensor, LoadError> {
        let stored_as = self.stored_as(name);
        let stored = self.folder().stored(stored_as)?;
        let at = || (PathBuf::from(self.folder().dir()), stored_as.to_owned());
        if let Some(shape) = shape.filter(|shape| shape.dims() != stored.shape) {
            let ((dir, tensor), expected) = (at(), shape.dims().to_vec());
            return Err(LoadError::Shape { dir, tensor, found: stored.shape, expected });
        }
        if !all_finite(stored.kind, &stored.bytes) {
            let (dir, tensor) = at();
            return Err(LoadError::NonFinite { dir, tensor });
        }
        let held = self.held.lock().get(stored_as).cloned();
        if let Some(tensor) = held {
            return Ok(tensor);
        }
        let mut values = vec![0.0f32; stored.shape.iter().product()];
        dequantise(stored.kind, &stored.bytes, &mut values);
        self.progress.add(values.len() as u64 * 4);
        let made = Tensor::from_vec(values, stored.shape, &Device::Cpu).map_err(|error| {
            let (dir, tensor) = at();
            LoadError::Unfit { dir, tensor, what: said(&error) }
        });
        self.folder().release(stored_as);
        made
    }

    fn take(&self, name: &str, shape: Option<&Shape>) -> Result<Tensor> {
        let held = self.held.lock().get(name).cloned();
        if let Some(tensor) = held.filter(|tensor| shape.is_none_or(|s| s == tensor.shape())) {
            return Ok(tensor);
        }
        match self.tensor(name, shape) {
            Ok(tensor) => {
                self.held.lock().insert(name.to_owned(), tensor.clone());
                Ok(tensor)
            }
            Err(error) => {
                let text = error.to_string();
                self.failed.lock().get_or_insert(error);
                Err(Error::Msg(text))
            }
        }
    }
}

impl SimpleBackend for Reader<'_> {
    fn get(&self, shape: Shape, name: &str, _: Init, _: DType, _: &Device) -> Result<Tensor> {
        self.take(name, Some(&shape))
    }

    fn get_unchecked(&self, name: &str, _: DType, _: &Device) -> Result<Tensor> {
        self.take(name, None)
    }

    fn contains_tensor(&self, name: &str) -> bool {
        self.folder().has(self.stored_as(name))
    }
}

/// What an error of candle says, in one line and without its backtrace.
pub(super) fn said(error: &Error) -> String {
    match error {
        Error::WithBacktrace { inner, .. }
        | Error::WithPath { inner, .. }
        | Error::Context { inner, .. } => said(inner),
        other => other.to_string().lines().next().unwrap_or_default().to_owned(),
    }
}
