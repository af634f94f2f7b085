//! The text side of one model: its tokenizer, its chat template and its special token ids, checked together once.
//!
//! Inconsistencies inside a model folder are found at load: an id for which the embedding has no row, an
//! end-of-sequence id that can never be sampled, a template that does not parse or cannot render one user
//! message. Each is an error at load, because the alternative is a device fault or an endless answer under
//! traffic.
//!
//! A chat is encoded in three steps: its canonical form, the rendered prompt, and the ids of that prompt. In
//! the last step only what the template wrote may become a control token (see `content`).
//!
//! Truncation and padding settings that a `tokenizer.json` keeps from training are switched off, because they
//! would silently shorten or lengthen prompts. Immutable after loading, and shared as `Arc<Codec>`.

use super::abilities::Abilities;
use super::apart::Cancellable;
use super::beyond;
use super::content::{ContentTokens, Marks};
use super::conversation::Chat;
use super::encode::{encode, failed};
use super::files::{FileRead, FolderReader};
use super::folder::Folder;
use super::gguf::{self, GgufVocabulary};
use super::renderer::{Renderer, Templates};
use super::reply::CallSyntax;
use super::reply::reasoning::{self, Opening};
use super::spelling::Spelling;
use super::{GenerationDefaults, TextError};
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use tokenizers::Tokenizer;

/// The file of the tokenizer itself.
const TOKENIZER: &str = "tokenizer.json";

/// How models' texts are handled; the same for every model.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct TextOptions {
    /// Whether clients can write control tokens.
    pub content_tokens: ContentTokens,
    /// Where chat templates run.
    pub templates: Templates,
}

/// How a model writes the parts of a reply, and the special tokens among their markers.
#[derive(Debug, Default)]
struct Marking {
    syntax: Arc<CallSyntax>,
    calls: Vec<u32>,
    reasoning: Vec<u32>,
}

/// One model's tokenizer, chat template and special ids.
pub struct Codec {
    pub(super) tokenizer: Tokenizer,
    template: Option<Renderer>,
    /// `None`: control tokens in content are control tokens.
    marks: Option<Marks>,
    eos: Vec<u32>,
    defaults: GenerationDefaults,
    spelling: Spelling,
    /// Ids whose text another id had before, and that one: they are never fed, and show the same if they are drawn.
    twins: BTreeMap<u32, u32>,
    /// By id: whether the token is shown when special tokens are skipped.
    visible: Vec<bool>,
    /// Special tokens that mark parts of a reply: tool calls, and reasoning.
    marking: Marking,
    /// Length of the longest token in bytes.
    longest: usize,
    /// The files that all of this was read from.
    files: Vec<FileRead>,
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
    /// Names the file that is missing, damaged or inconsistent with the model, and the remedy.
    pub fn load(dir: &Path, vocab_size: usize) -> Result<Self, TextError> {
        Self::load_with(dir, vocab_size, TextOptions::default(), None)
    }

    /// Like [`Codec::load`]; a `cancel` stops the trial of the template.
    ///
    /// # Errors
    /// As [`Codec::load`].
    pub fn load_with(
        dir: &Path,
        vocab_size: usize,
        options: TextOptions,
        cancel: Option<&Cancellable>,
    ) -> Result<Self, TextError> {
        let mut files = FolderReader::new(dir);
        let (tokenizer, bytes) = read_tokenizer(&mut files)?;
        let folder = Folder::read(&mut files)?;
        let path = files.path(TOKENIZER);
        let tokenizer = beyond::without(tokenizer, &bytes, vocab_size, &folder, &path)?;
        let tokenizer = plain(tokenizer, &path)?;
        let codec = Self::assemble(&path, tokenizer, folder, vocab_size, (options, cancel))?;
        Ok(Self { files: files.into_read(), ..codec })
    }

    /// The text side of a GGUF file whose embedding has `vocab_size` rows.
    ///
    /// # Errors
    /// As [`Codec::load`].
    pub fn from_gguf(vocabulary: &GgufVocabulary, vocab_size: usize) -> Result<Self, TextError> {
        Self::from_gguf_with(vocabulary, vocab_size, TextOptions::default(), None)
    }

    /// Like [`Codec::load_with`], for a GGUF file.
    ///
    /// # Errors
    /// As [`Codec::load`].
    pub fn from_gguf_with(
        vocabulary: &GgufVocabulary,
        vocab_size: usize,
        options: TextOptions,
        cancel: Option<&Cancellable>,
    ) -> Result<Self, TextError> {
        let folder = gguf::folder(vocabulary);
        let vocabulary = &gguf::without_beyond(vocabulary, vocab_size, &folder)?;
        let tokenizer = gguf::tokenizer(vocabulary)?;
        let path = &vocabulary.path;
        let codec = Self::assemble(path, tokenizer, folder, vocab_size, (options, cancel))?;
        Ok(codec.with_twins(vocabulary.twins()))
    }

    /// Checks the parts against each other; `path` is the source of the tokenizer.
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
        let calls = template.as_ref().map(|template| template.calls().clone()).unwrap_or_default();
        let (visible, files) = (Vec::new(), Vec::new());
        let mut codec = Self {
            visible,
            marking: Marking::default(),
            tokenizer,
            template,
            marks,
            eos,
            defaults,
            spelling,
            twins: BTreeMap::new(),
            longest,
            files,
        };
        codec.visible = (0..ids as u32).map(|id| codec.shows(id)).collect();
        codec.marking = codec.marking(calls);
        Ok(codec)
    }

    /// The files of the folder that it was read from, by name, as they were; empty for a GGUF file's own
    /// vocabulary. Everything in them may shape a reply.
    pub fn files(&self) -> &[FileRead] {
        &self.files
    }

    /// An upper bound for the bytes of text of any token, unless the tokenizer drops some of the text. It is
    /// only a bound, since a token's spelling may be longer than its text.
    pub fn longest_token(&self) -> usize {
        self.longest
    }

    /// Converts text to ids; `add_special_tokens` lets the tokenizer add its own at the ends. Fails if the tokenizer
    /// does.
    pub fn encode(&self, text: &str, add_special_tokens: bool) -> Result<Vec<u32>, TextError> {
        encode(&self.tokenizer, text, add_special_tokens)
    }

    /// Converts ids to text. Ids without a token give no text; broken UTF-8 gives U+FFFD. Fails if the tokenizer does.
    pub fn decode(&self, ids: &[u32], skip_special: bool) -> Result<String, TextError> {
        let decoded = match ids.iter().any(|id| self.twins.contains_key(id)) {
            false => self.tokenizer.decode(ids, skip_special),
            true => {
                let ids: Vec<u32> = ids.iter().map(|id| self.first(*id)).collect();
                self.tokenizer.decode(&ids, skip_special)
            }
        };
        decoded.map_err(|e| failed("decode", &*e))
    }

    fn with_twins(mut self, twins: BTreeMap<u32, u32>) -> Codec {
        self.twins = twins;
        let ids = self.twins.keys().next_back().map_or(0, |id| id + 1).max(self.tokens() as u32);
        self.visible = (0..ids).map(|id| self.shows(id)).collect();
        self
    }

    /// The first id with this id's text.
    fn first(&self, id: u32) -> u32 {
        self.twins.get(&id).copied().unwrap_or(id)
    }

    /// Renders a conversation with the model's chat template.
    ///
    /// # Errors
    /// [`TextError::is_client_fault`] says who caused a failure.
    pub fn render(&self, chat: &Chat<'_>) -> Result<String, TextError> {
        Ok(self.without_marks(self.render_marked(chat)?))
    }

    pub(super) fn without_marks(&self, text: String) -> String {
        match &self.marks {
            Some(marks) => marks.remove(text),
            None => text,
        }
    }

    pub(super) fn render_marked(&self, chat: &Chat<'_>) -> Result<String, TextError> {
        let template = self.template.as_ref().ok_or(TextError::NoChatTemplate)?;
        let mut job = template.canonical(chat)?;
        if let Some(marks) = &self.marks {
            marks.apply(&mut job);
        }
        template.render(chat, job)
    }

    /// Renders a conversation and encodes it. The template writes all special tokens itself, so the tokenizer
    /// should rarely `add_special_tokens` of its own. Also returns where the reply begins. Fails if there is no
    /// template, or if the template or the tokenizer fails on it.
    pub fn encode_chat(
        &self,
        chat: &Chat<'_>,
        add_special_tokens: bool,
    ) -> Result<(Vec<u32>, Opening), TextError> {
        let text = self.render_marked(chat)?;
        Ok((self.encode_marked(&text, add_special_tokens)?, Opening::after(&text)))
    }

    pub(super) fn encode_marked(
        &self,
        text: &str,
        add_special_tokens: bool,
    ) -> Result<Vec<u32>, TextError> {
        match &self.marks {
            Some(marks) => marks.encode(&self.tokenizer, text, add_special_tokens),
            None => self.encode(text, add_special_tokens),
        }
    }

    /// How this model writes tool calls.
    pub fn calls(&self) -> &Arc<CallSyntax> {
        &self.marking.syntax
    }

    /// Whether a special token marks a part of a reply: reasoning, or, with `tools`, a tool call.
    pub(super) fn is_marker(&self, id: u32, tools: bool) -> bool {
        self.marking.reasoning.contains(&id) || tools && self.marking.calls.contains(&id)
    }

    fn marking(&self, syntax: Arc<CallSyntax>) -> Marking {
        let special = |is: &dyn Fn(&str) -> bool| {
            let texts = self.special_tokens().into_iter().filter(|text| is(text));
            texts.filter_map(|text| self.token_id(&text)).collect()
        };
        let calls = special(&|text| syntax.holds(text));
        let reasoning = special(&reasoning::is_marker);
        Marking { syntax, calls, reasoning }
    }

    /// What the chat template supports; `None` without one.
    pub fn abilities(&self) -> Option<&Abilities> {
        self.template.as_ref().map(Renderer::abilities)
    }

    /// The ids that end a generation, sorted; empty if the folder has none.
    pub fn eos_ids(&self) -> &[u32] {
        &self.eos
    }

    /// Whether the model has a template for [`Codec::render`].
    pub fn has_chat_template(&self) -> bool {
        self.template.is_some()
    }

    /// Sampling settings recommended by the model's makers.
    pub fn generation_defaults(&self) -> GenerationDefaults {
        self.defaults.clone()
    }

    /// Number of ids that the tokenizer has, from 0.
    pub fn tokens(&self) -> usize {
        self.visible.len()
    }

    /// Texts of the special tokens, in the order of their ids.
    pub fn special_tokens(&self) -> Vec<String> {
        let added = self.tokenizer.get_added_vocabulary().get_added_tokens_decoder();
        let special = added.iter().filter(|(_, token)| token.special);
        let mut special: Vec<_> = special.map(|(id, token)| (*id, token.content.clone())).collect();
        special.sort_unstable();
        special.into_iter().map(|(_, text)| text).collect()
    }

    /// Whether this is the text of a special token.
    pub fn is_special(&self, token: &str) -> bool {
        self.tokenizer.get_added_vocabulary().is_special_token(token)
    }

    /// The id of the token with this exact text, such as `<|im_end|>`.
    pub fn token_id(&self, token: &str) -> Option<u32> {
        self.tokenizer.token_to_id(token)
    }

    /// A token's text as spelled in the vocabulary, which is not its decoded text.
    pub fn token(&self, id: u32) -> Option<String> {
        self.tokenizer.id_to_token(self.first(id))
    }

    /// Whether both have the same tokens under the same ids.
    pub fn has_tokens_of(&self, other: &Codec) -> bool {
        let ids = u32::try_from(self.tokens()).unwrap_or(u32::MAX);
        self.tokens() == other.tokens() && (0..ids).all(|id| self.token(id) == other.token(id))
    }

    /// The bytes of a token, which may not be whole characters; empty for an id without a token.
    pub fn spelling(&self, id: u32) -> Vec<u8> {
        let id = self.first(id);
        let Some(token) = self.tokenizer.id_to_token(id) else { return Vec::new() };
        match self.tokenizer.get_added_vocabulary().get_added_tokens_decoder().contains_key(&id) {
            true => token.into(),
            false => self.spelling.bytes(&token),
        }
    }

    /// Whether an id contributes to text without special tokens.
    pub(super) fn is_visible(&self, id: u32) -> bool {
        self.visible.get(id as usize).copied().unwrap_or(false)
    }

    fn shows(&self, id: u32) -> bool {
        let special =
            |token: String| self.tokenizer.get_added_vocabulary().is_special_token(&token);
        self.token(id).is_some_and(|token| !special(token))
    }
}

const REMEDY: &str = "Put the tokenizer.json of these weights into the model's folder";

/// The tokenizer, and the file's bytes.
fn read_tokenizer(files: &mut FolderReader) -> Result<(Tokenizer, Vec<u8>), TextError> {
    let remedy = REMEDY;
    let path = files.path(TOKENIZER);
    let bytes = files.bytes(TOKENIZER)?.ok_or_else(|| TextError::Unreadable {
        path: path.clone(),
        source: std::io::ErrorKind::NotFound.into(),
        remedy,
    })?;
    let invalid = |what: String| TextError::Invalid { path: path.clone(), what, remedy };
    let tokenizer =
        Tokenizer::from_bytes(&bytes).map_err(|e| invalid(format!("not a tokenizer ({e})")))?;
    Ok((tokenizer, bytes))
}

/// Without the padding and the truncation that some files ask for.
fn plain(mut tokenizer: Tokenizer, path: &Path) -> Result<Tokenizer, TextError> {
    tokenizer.with_padding(None);
    let cut = tokenizer.with_truncation(None).map(|_| ());
    cut.map_err(|e| TextError::Invalid { path: path.into(), what: e.to_string(), remedy: REMEDY })?;
    Ok(tokenizer)
}

fn check_vocabulary(
    path: &Path,
    vocabulary: &std::collections::HashMap<String, u32>,
    vocab_size: usize,
) -> Result<(), TextError> {
    let remedy = REMEDY;
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

/// The union of the ids in the configs and the tokenizer's own `eos_token`. Chat models often end turns with
/// one token and documents with another, each named in a different file.
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
