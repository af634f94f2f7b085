//! From the configured path or reference to an opened model: its weights, tokenizer and template, and digest.
//!
//! Only this file knows where to find the tokenizer for each weight format, and that a reference has to be downloaded
//! first. It loads nothing onto the device.

use super::identity;
use super::source::Source;
use crate::engine::EngineError;
use crate::hub::{self, Hub, HubError, Reference};
use crate::model::gguf::header::Fault;
use crate::model::{Gguf, LoadError, LoadFormat};
use crate::text::apart::Cancellable;
use crate::text::{Codec, FileRead, GgufVocabulary, TextError, TextOptions};
use std::path::{Path, PathBuf};

/// Why a deployment could not be made. One line, naming file and remedy.
#[derive(Debug, thiserror::Error)]
pub enum DeployError {
    /// The model could not be opened, or the engine could not load it.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// The tokenizer or the chat template cannot be used.
    #[error(transparent)]
    Text(#[from] TextError),
    /// The model could not be downloaded or found in the download cache.
    #[error(transparent)]
    Hub(#[from] HubError),
    /// The path is not a reference, and nothing exists there.
    #[error("{} does not exist; give a model folder, a GGUF file, or hf:ORGANISATION/REPOSITORY", path.display())]
    NoModel {
        /// The path as given.
        path: PathBuf,
    },
    /// The task that opens the model panicked or was cancelled; holds the reason.
    #[error("loading was interrupted: {0}")]
    Interrupted(String),
    /// The opened model was checked before loading, and refused.
    #[error("{}: {why}", path.display())]
    NotAllowed {
        /// The resolved folder or file.
        path: PathBuf,
        /// Why it must not be loaded.
        why: Objection,
    },
}

/// Why an opened model must not be loaded.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Objection {
    /// Its content was rejected before: when, and what to do.
    #[error("{0}")]
    Rejected(String),
    /// It can do less than stable: what, one line each.
    #[error("it can do less than stable: {}", .0.join("; "))]
    Less(Vec<String>),
}

impl DeployError {
    /// Whether the device was found to have failed for good.
    pub fn is_device_lost(&self) -> bool {
        matches!(self, DeployError::Engine(EngineError::Load(LoadError::DeviceLost(_))))
    }
}

/// An opened model.
pub struct OpenedModel {
    /// The weights as stored; nothing is on the device yet.
    pub weights: Source,
    /// Tokenizer and chat template, checked against the vocabulary's size.
    pub codec: Codec,
    /// Identifies the version: covers every file that was read.
    pub digest: String,
}

/// The folder or file that was meant, downloaded if it is a reference. Fails if nothing is there, or if it cannot be
/// downloaded.
pub async fn resolve(path: &Path) -> Result<PathBuf, DeployError> {
    if hub::is_reference(path) {
        let reference = Reference::parse(&path.to_string_lossy())?;
        return Ok(Hub::from_env()?.fetch(&reference).await?);
    }
    let none = || DeployError::NoModel { path: path.to_owned() };
    // A file in a download cache is a link to one without a name: only its folder is made real.
    let (folder, file) = match path.is_file() {
        true => (path.parent().unwrap_or(Path::new(".")), path.file_name()),
        false => (path, None),
    };
    let folder = if folder.as_os_str().is_empty() { Path::new(".") } else { folder };
    let real = std::fs::canonicalize(folder).map_err(|_| none())?;
    Ok(file.map_or_else(|| real.clone(), |file| real.join(file)))
}

/// Opens weights and tokenizer and checks them against each other. Reads all of the weights once, for
/// their digest; blocking. A `cancel` ends the trial of the chat template. Fails if a file cannot be read or is
/// damaged, or if the model, the tokenizer or the template is not supported.
pub fn open(
    path: &Path,
    format: LoadFormat,
    text: TextOptions,
    cancel: Option<&Cancellable>,
) -> Result<OpenedModel, DeployError> {
    let (weights, codec) = look_with(path, format, text, cancel)?;
    let of_weights = weights.digest().map_err(EngineError::Load)?;
    let digest = identity::digest(&of_weights, &side_files(&weights, &codec));
    Ok(OpenedModel { weights, codec, digest })
}

/// What was read besides configuration and weights.
fn side_files(weights: &Source, codec: &Codec) -> Vec<FileRead> {
    let index = weights.index().map(|(name, sha256)| FileRead { name: name.to_owned(), sha256 });
    codec.files().iter().cloned().chain(index).collect()
}

/// As [`open`], without reading the weights. Fails as it does.
pub fn look(path: &Path, format: LoadFormat) -> Result<(Source, Codec), DeployError> {
    look_with(path, format, TextOptions::default(), None)
}

/// As [`look`], with texts handled as `text` says. Fails as [`open`] does.
pub fn look_with(
    path: &Path,
    format: LoadFormat,
    text: TextOptions,
    cancel: Option<&Cancellable>,
) -> Result<(Source, Codec), DeployError> {
    let weights = Source::open(path, format).map_err(EngineError::Load)?;
    let vocab = weights.vocab();
    let folder = if path.is_dir() { path } else { path.parent().unwrap_or(path) };
    let beside = folder.join("tokenizer.json").is_file();
    let codec = match weights.gguf() {
        // In a folder of its own, a GGUF may come with the original tokenizer, which is better than its copy.
        Some(gguf) if !(beside && path.is_dir()) => {
            let vocabulary =
                vocabulary(gguf).map_err(|fault| EngineError::Load(gguf.fault(fault)))?;
            Codec::from_gguf_with(&vocabulary, vocab, text, cancel)?
        }
        None if weights.is_dummy() && !beside => {
            let vocabulary = GgufVocabulary::stand_in(folder, vocab);
            Codec::from_gguf_with(&vocabulary, vocab, text, cancel)?
        }
        _ => Codec::load_with(folder, vocab, text, cancel)?,
    };
    Ok((weights, codec))
}

/// What a model is called: its file, its folder, or the repository that it came from.
pub(super) fn name(path: &Path) -> String {
    let own = || {
        let name = if path.is_file() { path.file_stem() } else { path.file_name() };
        name.map(|name| name.to_string_lossy().into_owned())
    };
    hub::name_of(path).or_else(own).unwrap_or_else(|| "model".to_owned())
}

fn vocabulary(gguf: &Gguf) -> Result<GgufVocabulary, Fault> {
    let meta = gguf.metadata();
    let text = |key: &str| Ok::<_, Fault>(meta.text(key)?.map(str::to_owned));
    let texts = |key: &str| -> Result<Vec<String>, Fault> {
        Ok(meta.texts(key)?.unwrap_or_default().into_iter().map(str::to_owned).collect())
    };
    let numbers = |key: &str| Ok::<_, Fault>(meta.numbers(key)?.unwrap_or_default());
    let mut special = Vec::new();
    let names = [
        ("bos", "bos_token_id"),
        ("eos", "eos_token_id"),
        ("eot", "eot_token_id"),
        ("eom", "eom_token_id"),
        ("unk", "unknown_token_id"),
        ("pad", "padding_token_id"),
    ];
    for (name, key) in names {
        if let Some(id) = meta.count(&format!("tokenizer.ggml.{key}"))? {
            special.push((name, u32::try_from(id).unwrap_or(u32::MAX)));
        }
    }
    Ok(GgufVocabulary {
        path: gguf.path().to_owned(),
        model: text("tokenizer.ggml.model")?.unwrap_or_default(),
        pre: text("tokenizer.ggml.pre")?,
        tokens: texts("tokenizer.ggml.tokens")?,
        scores: numbers("tokenizer.ggml.scores")?.into_iter().map(|x| x as f32).collect(),
        types: numbers("tokenizer.ggml.token_type")?.into_iter().map(|x| x as u8).collect(),
        merges: texts("tokenizer.ggml.merges")?,
        special,
        add_bos: meta.flag("tokenizer.ggml.add_bos_token")?,
        add_eos: meta.flag("tokenizer.ggml.add_eos_token")?,
        add_space_prefix: meta.flag("tokenizer.ggml.add_space_prefix")?,
        chat_template: text("tokenizer.chat_template")?,
        tool_template: text("tokenizer.chat_template.tool_use")?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fixture(name: &str) -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/gguf").join(name)
    }

    #[test]
    fn a_gguf_brings_its_own_vocabulary() {
        let gguf = Gguf::open(&fixture("llama.gguf")).unwrap();
        let vocabulary = vocabulary(&gguf).unwrap();
        assert_eq!((vocabulary.model.as_str(), vocabulary.tokens.len()), ("gpt2", 96));
        assert_eq!(
            (vocabulary.pre.as_deref(), vocabulary.special.as_slice()),
            (Some("gpt-2"), &[("eos", 2)][..])
        );
    }

    #[test]
    fn dummy_weights_need_nothing_but_a_configuration() {
        let dir = tempfile::tempdir().unwrap();
        let config = serde_json::json!({
            "architectures": ["LlamaForCausalLM"], "hidden_size": 64, "intermediate_size": 128,
            "vocab_size": 1000, "num_hidden_layers": 2, "num_attention_heads": 4,
            "num_key_value_heads": 2, "rms_norm_eps": 1e-5, "max_position_embeddings": 256,
        });
        std::fs::write(dir.path().join("config.json"), config.to_string()).unwrap();
        let format = LoadFormat::parse("dummy:q8_0").unwrap();
        let opened = open(dir.path(), format, TextOptions::default(), None).unwrap();
        assert!(opened.digest.contains(":dummy-q8_0-"), "{}", opened.digest);
        let ids = opened.codec.encode("Grüße, 世界!", false).unwrap();
        assert_eq!(opened.codec.decode(&ids, true).unwrap(), "Grüße, 世界!");
        assert!(opened.codec.token(999).is_some() && opened.codec.has_chat_template());
        std::fs::write(dir.path().join("chat_template.jinja"), "not read").unwrap();
        let again = open(dir.path(), format, TextOptions::default(), None).unwrap();
        assert!(again.codec.files().is_empty() && again.digest == opened.digest);
        assert!(
            open(dir.path(), LoadFormat::Auto, TextOptions::default(), None).is_err(),
            "there are no weights"
        );
    }

    fn opened(dir: &Path) -> Result<OpenedModel, DeployError> {
        let format = LoadFormat::parse("dummy:q8_0").unwrap();
        open(dir, format, TextOptions::default(), None)
    }

    /// A folder with every file that a text side can be read from, and some that none is read from.
    fn whole_folder() -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        let from = Path::new(env!("CARGO_MANIFEST_DIR")).join("models/tiny-v1");
        for name in ["config.json", "generation_config.json", "tokenizer.json"] {
            std::fs::copy(from.join(name), dir.path().join(name)).unwrap();
        }
        std::fs::create_dir(dir.path().join("additional_chat_templates")).unwrap();
        let template = "{% for m in messages %}{{ m.content }}{% endfor %}";
        let processor = serde_json::json!({ "chat_template": template }).to_string();
        for (name, content) in [
            ("tokenizer_config.json", "{\"eos_token\": \"<|im_end|>\"}"),
            ("chat_template.jinja", template),
            ("additional_chat_templates/tool_use.jinja", template),
            ("chat_template.json", &processor),
            ("special_tokens_map.json", "{}"),
            ("added_tokens.json", "{}"),
            ("tokenizer.model", "x"),
            ("README.md", "x"),
        ] {
            std::fs::write(dir.path().join(name), content).unwrap();
        }
        dir
    }

    /// Appends a byte to a file, and then flips single bits of it: what can still be opened is another version.
    fn another_version_with_any_other_byte(dir: &Path, name: &str) {
        let path = dir.join(name);
        let (content, before) = (std::fs::read(&path).unwrap(), opened(dir).unwrap().digest);
        let longer = [&content[..], b" "].concat();
        let flipped = (0..content.len()).step_by(content.len().div_ceil(16)).map(|at| {
            let mut bytes = content.clone();
            bytes[at] ^= 1;
            bytes
        });
        let mut seen = vec![before.clone()];
        for bytes in std::iter::once(longer).chain(flipped) {
            std::fs::write(&path, &bytes).unwrap();
            let Ok(opened) = opened(dir) else { continue };
            assert!(!seen.contains(&opened.digest), "{name}");
            seen.push(opened.digest);
        }
        assert!(seen.len() > 1, "{name} could be opened with another content");
        std::fs::write(&path, content).unwrap();
        assert_eq!(opened(dir).unwrap().digest, before, "{name}");
    }

    fn same_version_without(dir: &Path, name: &str) {
        let before = opened(dir).unwrap().digest;
        std::fs::write(dir.join(name), "changed").unwrap();
        assert_eq!(opened(dir).unwrap().digest, before, "{name}");
        std::fs::remove_file(dir.join(name)).unwrap();
        assert_eq!(opened(dir).unwrap().digest, before, "{name}");
    }

    #[test]
    fn every_file_that_is_read_is_in_the_digest_and_no_other() {
        let dir = whole_folder();
        for name in [
            "config.json",
            "generation_config.json",
            "tokenizer.json",
            "tokenizer_config.json",
            "chat_template.jinja",
            "additional_chat_templates/tool_use.jinja",
        ] {
            another_version_with_any_other_byte(dir.path(), name);
        }
        for name in ["special_tokens_map.json", "added_tokens.json", "tokenizer.model", "README.md"]
        {
            same_version_without(dir.path(), name);
        }
        // The template of older processors is read where there is no other.
        let first = opened(dir.path()).unwrap().digest;
        std::fs::remove_file(dir.path().join("chat_template.jinja")).unwrap();
        assert_ne!(opened(dir.path()).unwrap().digest, first);
        another_version_with_any_other_byte(dir.path(), "chat_template.json");
        same_version_without(dir.path(), "additional_chat_templates/tool_use.jinja");
    }

    #[test]
    fn a_gguf_with_a_tokenizer_beside_it_is_a_version_together_with_that() {
        let dir = whole_folder();
        let path = dir.path().join("m.gguf");
        std::fs::copy(fixture("oracle/tiny-v1-q8_0.gguf"), &path).unwrap();
        let digest = || {
            let opened = open(dir.path(), LoadFormat::Auto, TextOptions::default(), None).unwrap();
            assert!(opened.digest.ends_with(&opened.weights.digest().unwrap()));
            opened.digest
        };
        let first = digest();
        std::fs::write(dir.path().join("chat_template.jinja"), "another").unwrap();
        let second = digest();
        assert_ne!(second, first);
        let mut bytes = std::fs::read(&path).unwrap();
        *bytes.last_mut().unwrap() ^= 1;
        std::fs::write(&path, bytes).unwrap();
        assert_ne!(digest(), second);
        std::fs::write(dir.path().join("chat_template.jinja"), "a third").unwrap();
        assert_ne!(digest(), second);
    }

    #[test]
    fn models_are_called_by_file_folder_or_repository() {
        assert_eq!(name(&fixture("llama.gguf")), "llama");
        assert_eq!(name(Path::new("/models/tiny-v1")), "tiny-v1");
        let cached = "/c/models--org--repo/snapshots/0123456789abcdef0123456789abcdef01234567";
        assert_eq!(name(Path::new(cached)), "repo-01234567");
        assert_eq!(name(&Path::new(cached).join("m-Q8_0.gguf")), "m-Q8_0-01234567");
    }
}
