//! What clients say is data: none of it becomes a control token.
//!
//! A prompt is one text in which `<|im_end|>` ends a turn. If a user's words hold that text, a tokenizer reads
//! it as the end of the user's turn, and what follows may speak as the system. Only what the template itself
//! writes may do that. So before rendering, every place in the client's strings where a control token could
//! begin is parted by a mark, a run of digits that nobody can guess; no control token is found across it. The
//! rendered text is split at the control tokens that are still found - the template's - and what lies between
//! loses its marks and is encoded as the ordinary text that it is.
//!
//! Marks go where two neighbouring characters begin a control token, and not only where a whole one stands: a
//! template may drop a part out of the middle, and what is said in two strings may come to stand together. Tags
//! that are no control tokens, `<think>` and the like, stay whole, since templates look for them in content.
//! A string without such a place is left alone, so prompts without control tokens in their content are
//! what they would be without all this.
//!
//! Not held off: a template that builds a control token out of its own brackets and a client's bare word, as
//! `'<|' + role + '|>'` does; the word is then an ordinary one.

use super::template::Job;
use super::{TextError, encode};
use serde_json::{Map, Value};
use std::borrow::Cow;
use std::collections::{HashMap, HashSet};
use tokenizers::Tokenizer;
use tokenizers::tokenizer::pre_tokenizer::PreTokenizedString;
use tokenizers::tokenizer::{
    AddedVocabulary, Model, NormalizedString, Normalizer, OffsetReferential, OffsetType,
    PreTokenizer, Token, normalizer::Range,
};

/// What a control token's text in a client's words is encoded as.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum ContentTokens {
    /// As ordinary text.
    #[default]
    Text,
    /// As the control token, which lets clients write turns of their own.
    Control,
}

impl ContentTokens {
    /// `text` or `control`.
    pub fn parse(text: &str) -> Result<ContentTokens, String> {
        match text {
            "text" => Ok(ContentTokens::Text),
            "control" => Ok(ContentTokens::Control),
            other => Err(format!("\"{other}\" is neither \"text\" nor \"control\"")),
        }
    }
}

/// Keeps a tokenizer's control tokens out of content.
pub(super) struct Marks {
    mark: String,
    /// Control tokens of two characters and more.
    tokens: Vec<String>,
    /// Their first characters.
    firsts: HashSet<char>,
    /// Their first two.
    pairs: HashSet<(char, char)>,
    /// What may follow their first characters, by its own first two; the second is absent in one of one.
    tails: HashMap<(char, Option<char>), Vec<String>>,
    /// Texts that begin like a control token and are none, which stay whole.
    whole: Vec<String>,
    /// Texts that the template may take out of what it is given.
    cuts: Vec<String>,
    /// The added tokens without those that are control tokens.
    ordinary: AddedVocabulary,
}

impl Marks {
    /// For the control tokens of `tokenizer`; `template` is the source that will read the content.
    pub(super) fn new(tokenizer: &Tokenizer, template: &str) -> Marks {
        let added = tokenizer.get_added_vocabulary().get_added_tokens_decoder();
        let tokens: Vec<String> = added
            .values()
            .filter(|token| token.special && token.content.chars().count() > 1)
            .map(|token| token.content.clone())
            .collect();
        let two = |token: &String| {
            let mut chars = token.chars();
            Some((chars.next()?, chars.next()?))
        };
        let pairs: HashSet<(char, char)> = tokens.iter().filter_map(two).collect();
        let firsts: HashSet<char> = pairs.iter().map(|(first, _)| *first).collect();
        let mut tails: HashMap<(char, Option<char>), Vec<String>> = HashMap::new();
        for tail in tokens.iter().flat_map(|token| tails_of(token)) {
            let mut chars = tail.chars();
            let list = tails.entry((chars.next().unwrap_or_default(), chars.next())).or_default();
            if !list.iter().any(|known| known == tail) {
                list.push(tail.to_owned());
            }
        }
        let control = |text: &str| tokens.iter().any(|token| text.contains(token.as_str()));
        let others = added.values().filter(|token| !token.special);
        let others = others.map(|token| token.content.clone());
        let mut whole: Vec<String> = others.chain(literals(template)).collect();
        whole.retain(|text| {
            text.chars().count() > 2 && text.starts_with(|c| firsts.contains(&c)) && !control(text)
        });
        let cuts = literals(template).filter(|text| !text.is_empty()).collect();
        whole.sort_unstable();
        whole.dedup();
        let mut ordinary = tokenizer.get_added_vocabulary().clone();
        ordinary.set_encode_special_tokens(true);
        let mark = format!("{:020}{:020}", rand::random::<u64>(), rand::random::<u64>());
        Marks { mark, tokens, firsts, pairs, tails, whole, cuts, ordinary }
    }

    /// Marks everything that the client said.
    pub(super) fn apply(&self, job: &mut Job) {
        if self.tokens.is_empty() {
            return;
        }
        job.messages.iter_mut().chain(&mut job.tools).for_each(|value| self.value(value));
        self.map(&mut job.extra);
    }

    fn value(&self, value: &mut Value) {
        match value {
            Value::String(text) => {
                if let Cow::Owned(marked) = self.text(text) {
                    *text = marked;
                }
            }
            Value::Array(list) => list.iter_mut().for_each(|item| self.value(item)),
            Value::Object(map) => self.map(map),
            _ => {}
        }
    }

    fn map(&self, map: &mut Map<String, Value>) {
        if map.keys().any(|key| matches!(self.text(key), Cow::Owned(_))) {
            let renamed = std::mem::take(map).into_iter();
            *map = renamed.map(|(key, item)| (self.text(&key).into_owned(), item)).collect();
        }
        map.values_mut().for_each(|item| self.value(item));
    }

    /// `text` with marks where a control token could begin, or where it could end one that began before.
    fn text<'a>(&self, text: &'a str) -> Cow<'a, str> {
        let ends = self.ends_a_token(text);
        if !ends && !text.contains(|c| self.firsts.contains(&c)) {
            return Cow::Borrowed(text);
        }
        let mut out = String::with_capacity(text.len() + 2 * self.mark.len());
        if ends {
            out.push_str(&self.mark);
        }
        let mut rest = text;
        while let Some(at) = rest.find(|c| self.firsts.contains(&c)) {
            let (before, from) = rest.split_at(at);
            out.push_str(before);
            let mut chars = from.chars();
            let first = chars.next().unwrap_or_default();
            out.push(first);
            let begins = match chars.clone().next() {
                None => true,
                Some(next) => {
                    self.pairs.contains(&(first, next))
                        || self.firsts.contains(&next)
                        || self.cuts.iter().any(|cut| chars.as_str().starts_with(cut.as_str()))
                }
            };
            if begins && !self.whole.iter().any(|whole| from.starts_with(whole.as_str())) {
                out.push_str(&self.mark);
            }
            rest = chars.as_str();
        }
        out.push_str(rest);
        match out.len() == text.len() {
            true => Cow::Borrowed(text),
            false => Cow::Owned(out),
        }
    }

    /// Whether `text` could be what ends a control token, or begin with it; a bare word is a word.
    fn ends_a_token(&self, text: &str) -> bool {
        let mut chars = text.chars();
        let Some(first) = chars.next() else { return false };
        let second = chars.next();
        let agrees = |tail: &String| {
            let shorter = if tail.len() < text.len() { tail.as_str() } else { text };
            !is_word(shorter) && tail.starts_with(shorter) && text.starts_with(shorter)
        };
        let tails = |second| self.tails.get(&(first, second)).into_iter().flatten();
        match second {
            Some(_) => tails(second).chain(tails(None)).any(agrees),
            None => !is_word(text) && self.tails.keys().any(|(start, _)| *start == first),
        }
    }

    /// `text` without marks.
    pub(super) fn remove(&self, text: String) -> String {
        match text.contains(self.mark.as_str()) {
            true => text.replace(self.mark.as_str(), ""),
            false => text,
        }
    }

    /// Ids of a rendered text that may have marks.
    pub(super) fn encode(
        &self,
        tokenizer: &Tokenizer,
        text: &str,
        add_special_tokens: bool,
    ) -> Result<Vec<u32>, TextError> {
        if !text.contains(self.mark.as_str()) {
            return encode::encode(tokenizer, text, add_special_tokens);
        }
        let encoded = self.encode_marked(tokenizer, text, add_special_tokens);
        encoded.map_err(|e| TextError::Tokenizer { action: "encode", what: e.to_string() })
    }

    /// The tokenizer's own steps, with splits at control tokens that lie where no mark parts them.
    fn encode_marked(
        &self,
        tokenizer: &Tokenizer,
        text: &str,
        add_special_tokens: bool,
    ) -> tokenizers::Result<Vec<u32>> {
        let (plain, controls) = self.controls(tokenizer, text);
        let mut pieces = PreTokenizedString::from(plain.as_str());
        pieces.split(|_, whole| Ok(cut(&whole, &controls)))?;
        pieces.split(|_, piece| {
            let others = found(&self.ordinary, tokenizer, piece.get());
            Ok(cut(&piece, &others))
        })?;
        if let Some(normalizer) = tokenizer.get_normalizer() {
            pieces.normalize(|piece| normalizer.normalize(piece))?;
        }
        if let Some(splitter) = tokenizer.get_pre_tokenizer() {
            splitter.pre_tokenize(&mut pieces)?;
        }
        pieces.tokenize(|piece| tokenizer.get_model().tokenize(piece.get()))?;
        let encoding = pieces.into_encoding(None, 0, OffsetType::None)?;
        let encoding = tokenizer.post_process(encoding, None, add_special_tokens)?;
        Ok(encoding.get_ids().to_vec())
    }

    /// The text without marks, and the control tokens that no mark parts, as (start, end, id) in it.
    fn controls(&self, tokenizer: &Tokenizer, text: &str) -> (String, Vec<Span>) {
        let known = tokenizer.get_added_vocabulary();
        let marks: Vec<usize> = text.match_indices(&self.mark).map(|(at, _)| at).collect();
        let mark = self.mark.len();
        let without = |at: usize| at - mark * marks.partition_point(|start| *start < at);
        let special = known.get_added_tokens_decoder();
        let controls = found(known, tokenizer, text).into_iter();
        let controls = controls.filter(|(_, _, id)| special.get(id).is_some_and(|t| t.special));
        let controls = controls.map(|(start, end, id)| (without(start), without(end), id));
        (text.replace(&self.mark, ""), controls.collect())
    }
}

type Span = (usize, usize, u32);

/// Added tokens in `text`, as (start, end, id).
fn found(vocabulary: &AddedVocabulary, tokenizer: &Tokenizer, text: &str) -> Vec<Span> {
    let pieces = vocabulary.extract_and_normalize(tokenizer.get_normalizer(), text);
    let splits = pieces.get_splits(OffsetReferential::Original, OffsetType::Byte);
    let token = |(_, (start, end), tokens): (&str, (usize, usize), &Option<Vec<Token>>)| {
        Some((start, end, tokens.as_ref()?.first()?.id))
    };
    splits.into_iter().filter_map(token).collect()
}

/// `text` cut into the tokens at `spans` and what lies between.
fn cut(text: &NormalizedString, spans: &[Span]) -> Vec<(NormalizedString, Option<Vec<Token>>)> {
    let mut out = Vec::with_capacity(2 * spans.len() + 1);
    let mut between = |start: usize, end: usize, token: Option<u32>| {
        if let Some(piece) = text.slice(Range::Normalized(start..end)) {
            let value = piece.get().to_owned();
            out.push((piece, token.map(|id| vec![Token::new(id, value, (0, end - start))])));
        }
    };
    let mut at = 0;
    for &(start, end, id) in spans {
        if at < start {
            between(at, start, None);
        }
        between(start, end, Some(id));
        at = end;
    }
    if at < text.len() {
        between(at, text.len(), None);
    }
    out
}

/// A token without its first character, its first two, and so on.
fn tails_of(token: &str) -> impl Iterator<Item = &str> {
    token.char_indices().skip(1).map(|(at, _)| &token[at..])
}

fn is_word(text: &str) -> bool {
    text.chars().all(|c| c.is_alphanumeric() || c == '_')
}

/// Texts in quotes in a template's source.
fn literals(template: &str) -> impl Iterator<Item = String> + '_ {
    ['\'', '"'].into_iter().flat_map(move |quote| {
        let texts = template.split(quote).skip(1).filter(|text| text.len() < 64);
        texts.map(|text| text.replace("\\n", "\n"))
    })
}

#[cfg(test)]
mod tests;
