//! A model's weights from any source: a Hugging Face folder, a GGUF file, or random numbers.
//!
//! It finds out what a path is, and presents it in one form: the shape in `config.json` and Hugging Face's
//! tensor names. It shows the progress of long loads, and releases file pages that have been read, so that a
//! load needs little more memory than its result.

use super::beside::or_beside;
use super::config::ModelConfig;
use super::dummy::{Dummy, Scheme};
use super::error::LoadError;
use super::gguf::{Gguf, first_part};
use super::intake::{Checkpoint, Folder, digest_files};
use super::layout;
use super::rows;
use crate::device::{Kind, QMatrix, QuantError, Rope, Stored, all_finite, dequantise};
use crate::progress::Progress;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

/// Seed of dummy weights: arbitrary but fixed.
const SEED: u64 = 1;

/// The source of the weights.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum LoadFormat {
    /// The files at the path.
    #[default]
    Auto,
    /// Random weights with the shape in `config.json`.
    Dummy(Scheme),
}

impl LoadFormat {
    /// Parses `auto`, `dummy`, or `dummy:` and a format such as `q4_k_m`; fails for anything else.
    pub fn parse(text: &str) -> Result<LoadFormat, String> {
        match text.split_once(':') {
            None if text == "auto" => Ok(LoadFormat::Auto),
            None if text == "dummy" => Ok(LoadFormat::Dummy(Scheme::Plain(Kind::BF16))),
            Some(("dummy", form)) => Scheme::parse(form).map(LoadFormat::Dummy),
            _ => Err(format!("`{text}` is neither `auto` nor `dummy` nor `dummy:FORM`")),
        }
    }
}

/// Opened weights; nothing is copied yet.
pub struct Weights {
    form: Form,
    config: ModelConfig,
    progress: OnceLock<Progress>,
    /// Whether a head beside tied embeddings is the same, once it is known.
    tied: OnceLock<bool>,
}

enum Form {
    Folder(Box<Folder>),
    Gguf(Box<Gguf>),
    Dummy(Box<Dummy>),
}

impl Weights {
    /// Opens a folder, a GGUF file, or a folder that holds exactly one. Fails if a file cannot be read or is damaged,
    /// or if the model is not supported; the error names what would load instead.
    pub fn open(path: &Path, format: LoadFormat) -> Result<Weights, LoadError> {
        Self::open_this(path, format).map_err(|error| or_beside(path, error))
    }

    fn open_this(path: &Path, format: LoadFormat) -> Result<Weights, LoadError> {
        let (form, config) = match (format, gguf_at(path)?) {
            (LoadFormat::Dummy(scheme), _) => {
                let named = path.file_name().is_some_and(|name| name == "config.json");
                let dir = path.parent().filter(|_| named).unwrap_or(path);
                let dummy = Dummy::open(dir, scheme, SEED)?;
                let config = dummy.config().clone();
                (Form::Dummy(Box::new(dummy)), config)
            }
            (LoadFormat::Auto, Some(file)) => {
                let gguf = Gguf::open(&file)?;
                let config = ModelConfig::from_json(gguf.config())
                    .map_err(|what| LoadError::Config { path: gguf.path().to_owned(), what })?;
                (Form::Gguf(Box::new(gguf)), config)
            }
            (LoadFormat::Auto, None) => {
                let (config, folder) = Checkpoint::open(path)?.into_parts();
                (Form::Folder(Box::new(folder)), config)
            }
        };
        Ok(Weights { form, config, progress: OnceLock::new(), tied: OnceLock::new() })
    }

    /// Their source: a folder or a file.
    pub fn path(&self) -> &Path {
        match &self.form {
            Form::Folder(folder) => folder.dir(),
            Form::Gguf(gguf) => gguf.path(),
            Form::Dummy(dummy) => dummy.dir(),
        }
    }

    /// The GGUF file, if it is one: it contains its own tokenizer.
    pub fn gguf(&self) -> Option<&Gguf> {
        match &self.form {
            Form::Gguf(gguf) => Some(gguf),
            _ => None,
        }
    }

    /// Whether they are random instead of read from files.
    pub fn is_dummy(&self) -> bool {
        matches!(self.form, Form::Dummy(_))
    }

    /// Identifies configuration and weights: SHA-256 over their files, or a note that it is a dummy. Fails if a file
    /// cannot be read.
    pub fn digest(&self) -> Result<String, LoadError> {
        match &self.form {
            Form::Folder(folder) => folder.digest(),
            Form::Gguf(gguf) => digest_files(&gguf.paths()),
            Form::Dummy(dummy) => Ok(dummy.digest()),
        }
    }

    /// Name and SHA-256 of the index that lists the weight files, if there is one.
    pub fn index(&self) -> Option<(&'static str, [u8; 32])> {
        match &self.form {
            Form::Folder(folder) => folder.index(),
            Form::Gguf(_) | Form::Dummy(_) => None,
        }
    }

    /// Bytes of the weights once loaded.
    pub fn weight_bytes(&self) -> u64 {
        let bytes = |kind: Kind, shape: &[usize]| match shape {
            [rows, cols] => QMatrix::packed_bytes(kind, *rows, *cols).unwrap_or(0) as u64,
            _ => shape.iter().product::<usize>() as u64 * 4,
        };
        match &self.form {
            Form::Folder(folder) => {
                folder.tensors().iter().map(|(kind, shape)| bytes(*kind, shape)).sum()
            }
            Form::Gguf(gguf) => gguf.tensors().map(|(_, kind, shape)| bytes(kind, shape)).sum(),
            Form::Dummy(dummy) => dummy.tensors().map(|(_, kind, shape)| bytes(kind, shape)).sum(),
        }
    }

    /// Number of parameters: the elements of all tensors.
    pub fn parameters(&self) -> u64 {
        let elements = |shape: &[usize]| shape.iter().map(|n| *n as u64).product::<u64>();
        match &self.form {
            Form::Folder(folder) => folder.tensors().iter().map(|(_, shape)| elements(shape)).sum(),
            Form::Gguf(gguf) => gguf.tensors().map(|(_, _, shape)| elements(shape)).sum(),
            Form::Dummy(dummy) => dummy.tensors().map(|(_, _, shape)| elements(shape)).sum(),
        }
    }

    /// The model's shape and settings, as read when it was opened.
    pub fn config(&self) -> &ModelConfig {
        &self.config
    }

    /// Whether there is a tensor with this name, as Hugging Face checkpoints name it.
    pub fn has(&self, name: &str) -> bool {
        match &self.form {
            Form::Folder(folder) => folder.has(name),
            Form::Gguf(gguf) => gguf.has(name),
            Form::Dummy(dummy) => dummy.has(name),
        }
    }

    /// The type of a tensor as stored. Fails if there is no such tensor, or if its type is not supported.
    pub fn kind(&self, name: &str) -> Result<Kind, LoadError> {
        match &self.form {
            Form::Folder(folder) => folder.plan(name).map(|(kind, _)| kind),
            Form::Gguf(gguf) => gguf.plan(name).map(|(kind, _)| kind),
            Form::Dummy(dummy) => dummy.plan(name).map(|(kind, _)| kind),
        }
    }

    /// A tensor as stored. The caller must call [`Weights::consumed`] after copying it. Fails if it is missing, has
    /// another shape, or holds NaN or infinity.
    pub fn stored(&self, name: &str, shape: &[usize]) -> Result<Stored<'_>, LoadError> {
        let stored = match &self.form {
            Form::Folder(folder) => folder.stored(name),
            Form::Gguf(gguf) => gguf.stored(name),
            Form::Dummy(dummy) => dummy.stored(name),
        }?;
        let (dir, tensor) = (self.path().to_owned(), name.to_owned());
        if stored.shape != shape {
            let (found, expected) = (stored.shape, shape.to_vec());
            return Err(LoadError::Shape { dir, tensor, found, expected });
        }
        match all_finite(stored.kind, &stored.bytes) {
            true => self.sorted(name, stored),
            false => Err(LoadError::NonFinite { dir, tensor }),
        }
    }

    /// The rows of queries and keys in halves, where the checkpoint has the values side by side that turn together.
    fn sorted<'a>(&self, name: &str, stored: Stored<'a>) -> Result<Stored<'a>, LoadError> {
        let config = &self.config;
        let heads = match () {
            () if !config.neighbours_turn => None,
            () if name.contains(".self_attn.q_proj.") => Some(config.heads),
            () if name.contains(".self_attn.k_proj.") => Some(config.kv_heads),
            () => None,
        };
        let Some(heads) = heads else { return Ok(stored) };
        let row = stored.bytes.len() / stored.shape.first().copied().unwrap_or(1).max(1);
        let turned = config.ropes.first().map(Rope::rotary_dim);
        let sorted = rows::halves(&stored.bytes, row, heads, turned);
        let bytes = sorted.ok_or_else(|| LoadError::Unfit {
            dir: self.path().to_owned(),
            tensor: name.to_owned(),
            what: format!("its rows are not {heads} heads of pairs"),
        })?;
        Ok(Stored { bytes: bytes.into(), ..stored })
    }

    /// Whether the embedding is also the output head: there is no other, or the config says so and the other is the
    /// same. A head that differs although it is said to be tied is used: it is what was trained. Fails as
    /// [`Weights::stored`] does for these two.
    pub fn is_tied(&self) -> Result<bool, LoadError> {
        if !self.has(layout::HEAD) {
            return Ok(true);
        }
        if !self.config.tied_embeddings {
            return Ok(false);
        }
        if let Some(tied) = self.tied.get() {
            return Ok(*tied);
        }
        let shape = [self.config.vocab, self.config.hidden];
        let (one, other) =
            (self.stored(layout::EMBEDDING, &shape)?, self.stored(layout::HEAD, &shape)?);
        let same = one.kind == other.kind && one.bytes == other.bytes;
        if self.tied.set(same).is_ok() && !same {
            tracing::warn!(
                model = %self.path().display(),
                "its config says that the output head is the embedding, but the files have another head, which is used"
            );
        }
        Ok(same)
    }

    /// A tensor in f32; meant for small ones. Fails as [`Weights::stored`] does.
    pub fn values(&self, name: &str, shape: &[usize]) -> Result<Vec<f32>, LoadError> {
        let stored = self.stored(name, shape)?;
        let mut out = vec![0.0; shape.iter().product()];
        dequantise(stored.kind, &stored.bytes, &mut out);
        self.consumed(name, out.len() as u64 * 4);
        Ok(out)
    }

    /// A tensor of this many bytes has been copied: its pages in the file are no longer needed.
    pub fn consumed(&self, name: &str, bytes: u64) {
        match &self.form {
            Form::Folder(folder) => folder.release(name),
            Form::Gguf(gguf) => gguf.release(name),
            Form::Dummy(_) => {}
        }
        let start =
            || Progress::start(format!("loading {}", self.path().display()), self.weight_bytes());
        self.progress.get_or_init(start).add(bytes);
    }

    /// Why a tensor cannot be used in a matrix product.
    pub(super) fn unfit(&self, tensor: &str, error: &QuantError) -> LoadError {
        let (dir, tensor) = (self.path().to_owned(), tensor.to_owned());
        LoadError::Unfit { dir, tensor, what: error.to_string() }
    }
}

/// The GGUF file that a path refers to; `None` for a folder without one, or with safetensors.
fn gguf_at(path: &Path) -> Result<Option<PathBuf>, LoadError> {
    let is_gguf = |path: &Path| path.extension().is_some_and(|e| e.eq_ignore_ascii_case("gguf"));
    if path.is_file() {
        return match is_gguf(path) || starts_as_gguf(path) {
            true => Ok(Some(path.to_owned())),
            false if path.file_name().is_some_and(|name| name == "config.json") => Ok(None),
            false => Err(LoadError::Config {
                path: path.to_owned(),
                what: "it is neither a folder nor a GGUF file".into(),
            }),
        };
    }
    if ["model.safetensors", "model.safetensors.index.json"].iter().any(|n| path.join(n).is_file())
    {
        return Ok(None);
    }
    let entries = std::fs::read_dir(path)
        .map_err(|source| LoadError::Read { path: path.to_owned(), source })?;
    let mut found: Vec<PathBuf> =
        entries.flatten().map(|entry| entry.path()).filter(|path| is_gguf(path)).collect();
    found.sort_unstable();
    match found.as_slice() {
        [] => Ok(None),
        [one] => Ok(Some(one.clone())),
        many if first_part(many).is_some() => Ok(first_part(many).cloned()),
        many => Err(LoadError::Config {
            path: path.to_owned(),
            what: format!("it holds {} GGUF files; name one of them", many.len()),
        }),
    }
}

/// Files in download caches may have no extension.
fn starts_as_gguf(path: &Path) -> bool {
    use std::io::Read;
    let mut magic = [0; 4];
    let read = std::fs::File::open(path).and_then(|mut file| file.read_exact(&mut magic));
    read.is_ok() && &magic == b"GGUF"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_path_is_is_found_out() {
        let fixture = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/gguf/llama.gguf");
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        assert!(gguf_at(dir.path()).unwrap().is_none());
        std::fs::copy(&fixture, at("one.gguf")).unwrap();
        assert_eq!(gguf_at(dir.path()).unwrap(), Some(at("one.gguf")));
        assert_eq!(gguf_at(&at("one.gguf")).unwrap(), Some(at("one.gguf")));
        std::fs::copy(&fixture, at("0123abcd")).unwrap();
        assert_eq!(gguf_at(&at("0123abcd")).unwrap(), Some(at("0123abcd")));
        std::fs::copy(&fixture, at("two.GGUF")).unwrap();
        let error = gguf_at(dir.path()).unwrap_err().to_string();
        assert!(error.contains("2 GGUF files"), "{error}");
        let parts = tempfile::tempdir().unwrap();
        let part = |number: usize| parts.path().join(format!("m-0000{number}-of-00002.gguf"));
        [1, 2].iter().for_each(|number| std::fs::write(part(*number), "").unwrap());
        assert_eq!(gguf_at(parts.path()).unwrap(), Some(part(1)), "the parts of one model");
        std::fs::write(parts.path().join("n.gguf"), "").unwrap();
        assert!(gguf_at(parts.path()).unwrap_err().to_string().contains("3 GGUF files"));
        std::fs::write(at("model.safetensors"), "").unwrap();
        assert!(gguf_at(dir.path()).unwrap().is_none(), "safetensors come first");
        let error = gguf_at(&at("model.safetensors")).unwrap_err().to_string();
        assert!(error.contains("neither a folder nor a GGUF"), "{error}");
        assert!(gguf_at(&at("nothing")).is_err());
    }

    #[test]
    fn a_refusal_names_what_would_load_instead() {
        let fixture = |name: &str| {
            Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/gguf").join(name)
        };
        let refused = |path: &Path| {
            let opened = Weights::open(path, LoadFormat::Auto);
            opened.err().map_or_else(|| panic!("{} loads", path.display()), |e| e.to_string())
        };
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        // Its architecture is not known.
        std::fs::copy(fixture("kinds.gguf"), at("kinds.gguf")).unwrap();
        assert!(!refused(&at("kinds.gguf")).contains("would load"));
        std::fs::copy(fixture("llama.gguf"), at("model-q8_0.gguf")).unwrap();
        let error = refused(&at("kinds.gguf"));
        assert!(error.ends_with("in the same folder, this would load: model-q8_0.gguf"), "{error}");
        // Safetensors that are quantised, beside the same file.
        let config = r#"{"architectures": ["LlamaForCausalLM"], "quantization_config": {"quant_method": "fp8"}}"#;
        std::fs::write(at("config.json"), config).unwrap();
        std::fs::write(at("model.safetensors"), "").unwrap();
        let error = refused(dir.path());
        assert!(error.contains("(fp8)") && error.ends_with("model-q8_0.gguf"), "{error}");
    }

    #[test]
    fn adapters_are_refused_by_name() {
        let dir = tempfile::tempdir().unwrap();
        let config = r#"{"peft_type": "LORA", "base_model_name_or_path": "org/base-7b"}"#;
        std::fs::write(dir.path().join("adapter_config.json"), config).unwrap();
        std::fs::write(dir.path().join("adapter_model.safetensors"), "").unwrap();
        let error = Weights::open(dir.path(), LoadFormat::Auto).err().unwrap().to_string();
        assert!(
            error.contains("adapter (LoRA) for org/base-7b") && error.contains("merge"),
            "{error}"
        );
    }

    #[test]
    fn forms_are_parsed() {
        assert_eq!(LoadFormat::parse("auto"), Ok(LoadFormat::Auto));
        assert_eq!(
            LoadFormat::parse("dummy:q4_k_m"),
            Ok(LoadFormat::Dummy(Scheme::Mix(Kind::Q4K)))
        );
        for bad in ["", "gguf", "dummy:", "dummy:q9"] {
            assert!(LoadFormat::parse(bad).is_err(), "{bad}");
        }
    }
}
