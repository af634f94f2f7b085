//! Text from clients is data: none of it becomes a control token.
//!
//! Only the template itself may write control tokens. So before rendering, a mark is inserted in the client's
//! strings wherever a control token could begin. A mark is an unguessable run of digits, and no control token is
//! recognised across it. The rendered text is split at the control tokens that are still recognised, which
//! are the template's. The text in between loses its marks and is encoded as ordinary text (docs/decisions/024).
//!
//! Marks are inserted wherever two neighbouring characters begin a control token, and not only at whole
//! control tokens: a template may remove part of a string, and two strings may end up next to each other.
//! Tags that are not control tokens, such as `<think>`, stay whole, since templates look for them in content.
//! A string without such a place is unchanged, so prompts without control tokens in their content are not
//! affected.
//!
//! Not prevented: a template that builds a control token from its own brackets and a word of the client's, as
//! `'<|' + role + '|>'` does; the word itself is an ordinary one.

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

/// How the text of a control token in a client's message is encoded.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum ContentTokens {
    /// As ordinary text.
    #[default]
    Text,
    /// As the control token, which lets clients write turns of their own.
    Control,
}

impl ContentTokens {
    /// Parses `text` or `control`; fails for anything else.
    pub fn parse(text: &str) -> Result<ContentTokens, String> {
        match text {
            "text" => Ok(ContentTokens::Text),
            "control" => Ok(ContentTokens::Control),
            other => Err(format!("\"{other}\" is neither \"text\" nor \"control\"")),
        }
    }
}

/// Prevents control tokens of a tokenizer in content.
pub(super) struct Marks {
    mark: String,
    /// Control tokens of two or more characters.
    tokens: Vec<String>,
    firsts: HashSet<char>,
    /// Their first two characters.
    pairs: HashSet<(char, char)>,
    /// The rest of each token after its first character, by the first two characters of that rest; the second
    /// is absent if the rest has only one.
    tails: HashMap<(char, Option<char>), Vec<String>>,
    /// Texts that begin like a control token but are none; these stay whole.
    whole: Vec<String>,
    /// Texts that the template may remove from its input.
    cuts: Vec<String>,
    /// The added tokens that are not control tokens.
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

    /// Inserts marks into everything that the client sent.
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

    /// `text` with marks wherever a control token could begin, or could end one that began before.
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

    /// Whether `text` could end a control token, or begin with the end of one; a plain word does not count.
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

    pub(super) fn remove(&self, text: String) -> String {
        match text.contains(self.mark.as_str()) {
            true => text.replace(self.mark.as_str(), ""),
            false => text,
        }
    }

    /// The ids of a rendered text that may contain marks.
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

    /// The tokenizer's own steps, but split only at control tokens that contain no mark.
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

    /// The text without marks, and the control tokens without marks inside, as (start, end, id) in it.
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

/// `text` split into the tokens at `spans` and the parts in between.
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

/// A token without its first character, without its first two, and so on.
fn tails_of(token: &str) -> impl Iterator<Item = &str> {
    token.char_indices().skip(1).map(|(at, _)| &token[at..])
}

fn is_word(text: &str) -> bool {
    text.chars().all(|c| c.is_alphanumeric() || c == '_')
}

/// Quoted texts in a template's source.
fn literals(template: &str) -> impl Iterator<Item = String> + '_ {
    ['\'', '"'].into_iter().flat_map(move |quote| {
        let texts = template.split(quote).skip(1).filter(|text| text.len() < 64);
        texts.map(|text| text.replace("\\n", "\n"))
    })
}

#[cfg(test)]
mod injection_tests;
#[cfg(test)]
mod tests;
