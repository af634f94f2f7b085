//! One model's text side: its tokenizer, its chat template, its special ids, checked together once.
//!
//! Loading is where disagreement inside a model folder is found: an id that the embedding has no row
//! for, an end-of-sequence id that can never be sampled, a template that does not parse or cannot
//! render one user message. Each of them is refused by name at load, because the alternative is a
//! device fault or an endless answer under traffic.
//!
//! A chat is encoded in three steps: its canonical form, its rendering, and the ids of that, in which only what
//! the template wrote may be a control token (see `content`).
//!
//! Truncation and padding that a `tokenizer.json` carries from training are switched off: they would
//! silently shorten or lengthen prompts. Immutable after loading, shared as `Arc<Codec>`.

use super::abilities::Abilities;
use super::apart::Cancellable;
use super::content::{ContentTokens, Marks};
use super::conversation::Chat;
use super::encode::{encode, failed};
use super::folder::{self, Folder};
use super::gguf::{self, GgufVocabulary};
use super::renderer::{Renderer, Templates};
use super::spelling::Spelling;
use super::{GenerationDefaults, TextError};
use std::path::Path;
use tokenizers::Tokenizer;

/// How models' texts are handled, whichever model it is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct TextOptions {
    /// Whether clients can write control tokens.
    pub content_tokens: ContentTokens,
    /// Where chat templates run.
    pub templates: Templates,
}

/// One model's tokenizer, chat template and special ids.
pub struct Codec {
    tokenizer: Tokenizer,
    template: Option<Renderer>,
    /// `None`: control tokens in content are control tokens.
    marks: Option<Marks>,
    eos: Vec<u32>,
    defaults: GenerationDefaults,
    spelling: Spelling,
    /// By id: whether the token shows when special tokens are skipped.
    visible: Vec<bool>,
    /// Bytes of the longest token's spelling.
    longest: usize,
}

impl std::fmt::Debug for Codec {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Codec")
            .field("tokens", &self.visible.len())
            .field("eos", &self.eos)
            .finish_non_exhaustive()
    }
}

impl Codec {
    /// Loads the text side of the model in `dir`, whose embedding has `vocab_size` rows.
    ///
    /// # Errors
    /// Names the file that is missing, damaged or at odds with the model, and what to do about it.
    pub fn load(dir: &Path, vocab_size: usize) -> Result<Self, TextError> {
        Self::load_with(dir, vocab_size, TextOptions::default(), None)
    }

    /// As [`Codec::load`]; a `cancel` ends the trial of the template.
    ///
    /// # Errors
    /// As [`Codec::load`].
    pub fn load_with(
        dir: &Path,
        vocab_size: usize,
        options: TextOptions,
        cancel: Option<&Cancellable>,
    ) -> Result<Self, TextError> {
        let path = dir.join("tokenizer.json");
        let (tokenizer, folder) = (read_tokenizer(&path)?, Folder::read(dir)?);
        Self::assemble(&path, tokenizer, folder, vocab_size, (options, cancel))
    }

    /// The text side of a GGUF file whose embedding has `vocab_size` rows.
    ///
    /// # Errors
    /// As [`Codec::load`].
    pub fn from_gguf(vocabulary: &GgufVocabulary, vocab_size: usize) -> Result<Self, TextError> {
        Self::from_gguf_with(vocabulary, vocab_size, TextOptions::default(), None)
    }

    /// As [`Codec::load_with`], of a GGUF file.
    ///
    /// # Errors
    /// As [`Codec::load`].
    pub fn from_gguf_with(
        vocabulary: &GgufVocabulary,
        vocab_size: usize,
        options: TextOptions,
        cancel: Option<&Cancellable>,
    ) -> Result<Self, TextError> {
        let (tokenizer, folder) = (gguf::tokenizer(vocabulary)?, gguf::folder(vocabulary));
        Self::assemble(&vocabulary.path, tokenizer, folder, vocab_size, (options, cancel))
    }

    /// Checks the parts against each other; `path` is where the tokenizer came from.
    fn assemble(
        path: &Path,
        tokenizer: Tokenizer,
        folder: Folder,
        vocab_size: usize,
        (options, cancel): (TextOptions, Option<&Cancellable>),
    ) -> Result<Self, TextError> {
        let vocabulary = tokenizer.get_vocab(true);
        check_vocabulary(path, &vocabulary, vocab_size)?;
        let eos = eos_ids(&tokenizer, &folder, vocab_size)?;
        let longest = vocabulary.keys().map(String::len).max().unwrap_or(1);
        let ids = vocabulary.values().max().map_or(0, |&id| id as usize + 1);
        let marks = match (options.content_tokens, &folder.template) {
            (ContentTokens::Text, Some(source)) => Some(Marks::new(&tokenizer, &source.text)),
            _ => None,
        };
        let template = folder
            .template
            .map(|source| Renderer::new(source, &folder.special, options.templates, cancel));
        let template = template.transpose()?;
        let (spelling, defaults) = (Spelling::of(&tokenizer), folder.defaults);
        let visible = Vec::new();
        let mut codec =
            Self { visible, tokenizer, template, marks, eos, defaults, spelling, longest };
        codec.visible = (0..ids as u32).map(|id| codec.shows(id)).collect();
        Ok(codec)
    }

    /// No token stands for more bytes of text, unless the tokenizer drops some of it: a bound from above, since a
    /// spelling may be longer than what it stands for.
    pub fn longest_token(&self) -> usize {
        self.longest
    }

    /// Turns text into ids; `add_special_tokens` lets the tokenizer add its own at the ends.
    pub fn encode(&self, text: &str, add_special_tokens: bool) -> Result<Vec<u32>, TextError> {
        encode(&self.tokenizer, text, add_special_tokens)
    }

    /// Turns ids into text. Ids without a token give no text; broken UTF-8 gives U+FFFD.
    pub fn decode(&self, ids: &[u32], skip_special: bool) -> Result<String, TextError> {
        self.tokenizer.decode(ids, skip_special).map_err(|e| failed("decode", &*e))
    }

    /// Renders a conversation with the model's chat template.
    ///
    /// # Errors
    /// See [`TextError::is_client_fault`] for whose doing a failure is.
    pub fn render(&self, chat: &Chat<'_>) -> Result<String, TextError> {
        let text = self.render_marked(chat)?;
        Ok(match &self.marks {
            Some(marks) => marks.remove(text),
            None => text,
        })
    }

    fn render_marked(&self, chat: &Chat<'_>) -> Result<String, TextError> {
        let template = self.template.as_ref().ok_or(TextError::NoChatTemplate)?;
        let mut job = template.canonical(chat)?;
        if let Some(marks) = &self.marks {
            marks.apply(&mut job);
        }
        template.render(chat, job)
    }

    /// Renders a conversation and encodes it. The template writes all special tokens itself, so the
    /// tokenizer should rarely `add_special_tokens` of its own.
    pub fn encode_chat(
        &self,
        chat: &Chat<'_>,
        add_special_tokens: bool,
    ) -> Result<Vec<u32>, TextError> {
        let text = self.render_marked(chat)?;
        match &self.marks {
            Some(marks) => marks.encode(&self.tokenizer, &text, add_special_tokens),
            None => self.encode(&text, add_special_tokens),
        }
    }

    /// What the chat template can take; `None` without one.
    pub fn abilities(&self) -> Option<&Abilities> {
        self.template.as_ref().map(Renderer::abilities)
    }

    /// The ids that end a generation, sorted; empty when the folder names none.
    pub fn eos_ids(&self) -> &[u32] {
        &self.eos
    }

    /// Whether [`Codec::render`] can work at all.
    pub fn has_chat_template(&self) -> bool {
        self.template.is_some()
    }

    /// Sampling settings that the model's makers recommend.
    pub fn generation_defaults(&self) -> GenerationDefaults {
        self.defaults.clone()
    }

    /// The id of a token given by its exact text, such as `<|im_end|>`.
    pub fn token_id(&self, token: &str) -> Option<u32> {
        self.tokenizer.token_to_id(token)
    }

    /// A token's text as its vocabulary spells it, which is not what it decodes to.
    pub fn token(&self, id: u32) -> Option<String> {
        self.tokenizer.id_to_token(id)
    }

    /// The bytes that a token stands for, which by themselves may be no whole character; none without a
    /// token.
    pub fn spelling(&self, id: u32) -> Vec<u8> {
        let Some(token) = self.tokenizer.id_to_token(id) else { return Vec::new() };
        match self.tokenizer.get_added_vocabulary().get_added_tokens_decoder().contains_key(&id) {
            true => token.into(),
            false => self.spelling.bytes(&token),
        }
    }

    #[cfg(test)]
    pub(super) fn tokenizer_for_tests(&self) -> &Tokenizer {
        &self.tokenizer
    }

    /// Whether an id contributes to text that skips special tokens.
    pub(super) fn is_visible(&self, id: u32) -> bool {
        self.visible.get(id as usize).copied().unwrap_or(false)
    }

    fn shows(&self, id: u32) -> bool {
        let special =
            |token: String| self.tokenizer.get_added_vocabulary().is_special_token(&token);
        self.tokenizer.id_to_token(id).is_some_and(|token| !special(token))
    }
}

fn read_tokenizer(path: &Path) -> Result<Tokenizer, TextError> {
    let remedy = "Put the tokenizer.json of these weights into the model's folder";
    let bytes = folder::bytes(path)?.ok_or_else(|| TextError::Unreadable {
        path: path.into(),
        source: std::io::ErrorKind::NotFound.into(),
        remedy,
    })?;
    let invalid = |what: String| TextError::Invalid { path: path.into(), what, remedy };
    let mut tokenizer =
        Tokenizer::from_bytes(&bytes).map_err(|e| invalid(format!("not a tokenizer ({e})")))?;
    tokenizer.with_padding(None);
    tokenizer.with_truncation(None).map_err(|e| invalid(e.to_string()))?;
    Ok(tokenizer)
}

fn check_vocabulary(
    path: &Path,
    vocabulary: &std::collections::HashMap<String, u32>,
    vocab_size: usize,
) -> Result<(), TextError> {
    let remedy = "Put the tokenizer.json of these weights into the model's folder";
    let Some((token, &max_id)) = vocabulary.iter().max_by_key(|&(_, &id)| id) else {
        return Err(TextError::Invalid {
            path: path.into(),
            what: "its vocabulary is empty".into(),
            remedy,
        });
    };
    if (max_id as usize) < vocab_size {
        return Ok(());
    }
    Err(TextError::TokenizerMismatch {
        path: path.into(),
        max_id,
        vocab_size,
        token: token.clone(),
    })
}

/// The union of what the configs name and the tokenizer's own `eos_token`: chat models often end
/// turns with one token and documents with another, each named in a different file.
fn eos_ids(
    tokenizer: &Tokenizer,
    folder: &Folder,
    vocab_size: usize,
) -> Result<Vec<u32>, TextError> {
    let mut ids = Vec::new();
    if let Some((path, named)) = &folder.eos {
        if let Some(id) = named.iter().find(|&&id| id as usize >= vocab_size) {
            return Err(TextError::Invalid {
                path: path.clone(),
                what: format!(
                    "eos_token_id {id} can never be generated, the model has {vocab_size} tokens"
                ),
                remedy: "Use the config files that came with these weights",
            });
        }
        ids.extend(named);
    }
    let token = folder.special.iter().find(|(name, _)| name == "eos_token");
    ids.extend(token.and_then(|(_, token)| tokenizer.token_to_id(token)));
    ids.sort_unstable();
    ids.dedup();
    if ids.is_empty() {
        tracing::warn!(
            "the model folder names no end-of-sequence token: only length limits end a generation"
        );
    }
    Ok(ids)
}

#[cfg(test)]
mod tests;
