//! A model's compiled grammars, and limits on compiling one.
//!
//! Compiling is limited by the grammar's size. The search for its first token, which fills the lexer's tables, is
//! limited by time. The most recently used grammars are kept, together with their lexers' tables, because clients send
//! the same schema again and again. It does not know about requests.

use super::Constraint;
use super::call_guide::CallGuide;
use super::guide::GrammarGuide;
use super::lark;
use super::terms::{Context, json_rule};
use super::vocabulary::vocabulary;
use super::watchdog::Watchdog;
use crate::model::{Guide, SharedGuide};
use crate::text::Codec;
use crate::text::reply::reasoning::Opening;
use llguidance::api::{ParserLimits, TopLevelGrammar};
use llguidance::toktrie::InferenceCapabilities;
use llguidance::{Matcher, ParserFactory};
use parking_lot::Mutex;
use serde_json::Value;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Duration;

/// Grammars that are kept.
const KEPT: usize = 24;
const NOTHING: &str = "no text can fulfil the schema, pattern or grammar";
/// The stack of a thread that compiles; memory is taken as it is used.
const STACK: usize = 256 << 20;
/// How long the search for the first token may take; it fills the lexer's tables.
const LONGEST_FIRST: Duration = Duration::from_millis(500);

/// Why a constraint cannot be enforced, in words for who asked for it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct GrammarError(pub String);

/// The grammars of one model.
pub struct Grammars {
    factory: ParserFactory,
    pub(super) codec: Arc<Codec>,
    /// The model's tokens that end a reply.
    ends: Vec<u32>,
    vocab: u32,
    watchdog: Arc<Watchdog>,
    /// Those used last, the latest first, by what they were made from.
    kept: Mutex<Vec<(String, Arc<Mutex<Matcher>>)>>,
}

impl std::fmt::Debug for Grammars {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Grammars").field("kept", &self.kept.lock().len()).finish_non_exhaustive()
    }
}

/// A compiled constraint: the source of a guide for each reply.
#[derive(Clone)]
pub struct Guided {
    pub(super) matcher: Arc<Mutex<Matcher>>,
    ends: Vec<u32>,
    vocab: u32,
    /// Only calls in the reply are constrained.
    watched: Option<Watched>,
    watchdog: Arc<Watchdog>,
}

/// How calls are recognised in a reply.
#[derive(Clone)]
struct Watched {
    opener: String,
    opening: Opening,
    codec: Arc<Codec>,
}

impl std::fmt::Debug for Guided {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Guided").finish_non_exhaustive()
    }
}

impl Guided {
    /// A guide at the beginning of a reply.
    pub fn guide(&self) -> SharedGuide {
        SharedGuide::new(self.unshared())
    }

    pub(super) fn unshared(&self) -> Box<dyn Guide> {
        let (source, ends, vocab) = (self.matcher.clone(), self.ends.clone(), self.vocab);
        let watchdog = self.watchdog.clone();
        let begun =
            move || GrammarGuide::new(source.lock().clone(), ends.clone(), vocab, watchdog.clone());
        match self.watched.clone() {
            None => Box::new(begun()),
            Some(Watched { opener, opening, codec }) => {
                Box::new(CallGuide::new(Box::new(begun), opener, opening, codec))
            }
        }
    }
}

/// Parts of the vocabulary that are allowed or not as a whole where a grammar is in the midst of a text: white space, and
/// tokens of up to so many characters that need no escape. Where the text may have only some more characters, the tokens
/// between the last length that fits and the next are looked at one by one, which took 1.1 ms with lengths of 10 and 30
/// alone (`benches/runs/constrained.md`).
const SLICES: [&str; 6] = [
    r"[\x20\x0A\x0D\x09]+",
    r#"[^"\\\x00-\x1F\x7F]{1,10}"#,
    r#"[^"\\\x00-\x1F\x7F]{1,15}"#,
    r#"[^"\\\x00-\x1F\x7F]{1,20}"#,
    r#"[^"\\\x00-\x1F\x7F]{1,30}"#,
    r#"[^"\\\x00-\x1F\x7F]+"#,
];

fn limits() -> ParserLimits {
    ParserLimits {
        initial_lexer_fuel: 1_000_000,
        max_grammar_size: 100_000,
        max_lexer_states: 20_000,
        verbose_errors: false,
        ..ParserLimits::default()
    }
}

impl Grammars {
    /// For a model with this tokenizer and so many token ids. Takes some tenths of a second for 150,000 tokens.
    ///
    /// # Errors
    /// If the tokenizer's tokens cannot be used; the text is for the log.
    pub fn new(codec: Arc<Codec>, vocab: usize) -> Result<Grammars, String> {
        let ends = codec.eos_ids().to_vec();
        let built = catch_unwind(AssertUnwindSafe(|| {
            let tokens = vocabulary(codec.clone(), vocab);
            let slices = SLICES.map(str::to_owned);
            ParserFactory::new(&tokens, InferenceCapabilities::default(), &slices)
        }));
        let built = built.map_err(|_| "its tokens make no vocabulary".to_owned())?;
        let mut factory = built.map_err(|error| error.to_string())?;
        factory.quiet();
        *factory.limits_mut() = limits();
        let vocab = u32::try_from(vocab).unwrap_or(u32::MAX);
        let watchdog = Arc::new(Watchdog::start());
        Ok(Grammars { factory, codec, ends, vocab, watchdog, kept: Mutex::new(Vec::new()) })
    }

    /// Compiles a constraint, or finds it among those kept. `opening` says where the reply begins. May take some hundred
    /// milliseconds. `None`: calls may come, but nothing marks them, so that they cannot be told from text.
    ///
    /// # Errors
    /// Says what of the constraint is wrong, not supported, or too large.
    pub fn compile(
        &self,
        constraint: &Constraint,
        opening: Opening,
    ) -> Result<Option<Guided>, GrammarError> {
        let all = Context { codec: &self.codec, can_compile: &|_| true };
        self.compile_in(constraint, opening, &all).or_else(|error| {
            // Then without the schemas that need not be enforced.
            let can_compile = |schema: &Value| self.compiled(json_rule("start", schema)).is_ok();
            let some = Context { codec: &self.codec, can_compile: &can_compile };
            match constraint {
                Constraint::Calls(calls)
                | Constraint::Either(calls, _)
                | Constraint::Auto(calls)
                    if calls.functions.iter().any(|function| !function.strict) =>
                {
                    self.compile_in(constraint, opening, &some)
                }
                _ => Err(error),
            }
        })
    }

    fn compile_in(
        &self,
        constraint: &Constraint,
        opening: Opening,
        context: &Context<'_>,
    ) -> Result<Option<Guided>, GrammarError> {
        let guided = |matcher, watched| Guided {
            matcher,
            ends: self.ends.clone(),
            vocab: self.vocab,
            watched,
            watchdog: self.watchdog.clone(),
        };
        let Constraint::Auto(calls) = constraint else {
            let made = || lark::grammar(constraint, opening, context);
            let matcher = match constraint {
                // To translate it takes longer than to find it.
                Constraint::Gbnf(grammar) => {
                    self.matcher(format!("{opening:?} {grammar}"), made)?
                }
                _ => self.own_matcher(made()?)?,
            };
            return Ok(Some(guided(matcher, None)));
        };
        let Some(opener) = self.codec.calls().opener().map(str::to_owned) else { return Ok(None) };
        let matcher = self.own_matcher(lark::calls_after(&opener, calls, context)?)?;
        Ok(Some(guided(matcher, Some(Watched { opener, opening, codec: self.codec.clone() }))))
    }

    /// The grammar that is kept under `key`, or the one that is made.
    fn matcher(
        &self,
        key: String,
        make: impl FnOnce() -> Result<String, GrammarError>,
    ) -> Result<Arc<Mutex<Matcher>>, GrammarError> {
        match self.find(&key) {
            Some(matcher) => Ok(matcher),
            None => Ok(self.keep(key, self.compiled(make()?)?)),
        }
    }

    /// The same for a grammar that is its own key.
    fn own_matcher(&self, text: String) -> Result<Arc<Mutex<Matcher>>, GrammarError> {
        self.matcher(text.clone(), || Ok(text))
    }

    #[cfg(test)]
    pub(super) fn vocab(&self) -> usize {
        self.vocab as usize
    }

    fn find(&self, text: &str) -> Option<Arc<Mutex<Matcher>>> {
        let mut kept = self.kept.lock();
        let at = kept.iter().position(|(of, _)| of == text)?;
        let found = kept.remove(at);
        let matcher = found.1.clone();
        kept.insert(0, found);
        Some(matcher)
    }

    fn keep(&self, text: String, matcher: Matcher) -> Arc<Mutex<Matcher>> {
        let matcher = Arc::new(Mutex::new(matcher));
        let mut kept = self.kept.lock();
        kept.insert(0, (text, matcher.clone()));
        kept.truncate(KEPT);
        matcher
    }

    /// Compiles on a thread of its own: its stack is deep enough for any chain of names that a text can have.
    fn compiled(&self, text: String) -> Result<Matcher, GrammarError> {
        let failed = || GrammarError("it cannot be compiled to a grammar".to_owned());
        let work = AssertUnwindSafe(|| self.compile_here(text));
        std::thread::scope(|scope| {
            let thread = std::thread::Builder::new().stack_size(STACK);
            let running = thread.spawn_scoped(scope, || catch_unwind(work));
            let done = running.map_err(|_| failed())?.join().map_err(|_| failed())?;
            done.map_err(|_| failed())?
        })
    }

    /// Compiles, and finds the first tokens: what takes too long for that would stop everybody's replies later.
    fn compile_here(&self, text: String) -> Result<Matcher, GrammarError> {
        let parser = self.factory.create_parser(TopLevelGrammar::from_lark(text));
        let matcher = Matcher::new(parser);
        if let Some(error) = matcher.get_error() {
            return Err(GrammarError(explained(&error)));
        }
        let mut first = matcher.clone().into_cancellable();
        let handle = first.cancellation_handle();
        let (mask, _) = self.watchdog.run(LONGEST_FIRST, handle, || first.compute_mask());
        match mask {
            Ok(mask) if mask.is_zero() => Err(GrammarError(NOTHING.to_owned())),
            Ok(_) => Ok(matcher),
            Err(error) if first.is_cancelled() => {
                tracing::info!(%error, "a grammar was too much work");
                Err(GrammarError("it needs more work for a token than is allowed".to_owned()))
            }
            Err(error) => {
                tracing::info!(%error, "nothing fulfils a constraint");
                Err(GrammarError(NOTHING.to_owned()))
            }
        }
    }
}

/// What an error says to who wrote the schema or the grammar.
fn explained(error: &str) -> String {
    let first = error.lines().next().unwrap_or_default().trim();
    // The grammar around a schema is ours, and its places mean nothing to others.
    let own = first.split_once("failed to compile JSON schema: ").map_or(first, |(_, what)| what);
    let own = own.strip_suffix(':').unwrap_or(own);
    let detail = error.lines().rev().find_map(|line| line.trim().strip_prefix("error: "));
    let text = match (detail, own.contains("regex parse error")) {
        (Some(detail), true) => format!("pattern: {detail}"),
        _ if own.starts_with("oneOf constraints are not supported") => {
            "oneOf is supported only if a value shows which one it is; use anyOf".to_owned()
        }
        _ if own.contains(" in regex /") => format!("pattern: {own}"),
        _ => match place(own) {
            Some((line, column, what)) => format!("grammar, line {line}, column {column}: {what}"),
            None => own.to_owned(),
        },
    };
    text.chars().take(400).collect()
}

/// The place that an error begins with, `LINE(COLUMN): `, and the rest.
fn place(error: &str) -> Option<(u32, u32, &str)> {
    let (place, what) = error.strip_prefix("at ").unwrap_or(error).split_once("): ")?;
    let (line, column) = place.split_once('(')?;
    Some((line.parse().ok()?, column.parse().ok()?, what))
}
