//! The prompts: from a file, or random words of a given length.
//!
//! It is pure, and does not know about tokenizers: the target finds out how many words give a number of tokens.

use super::random::Random;
use serde_json::{Value, json};

/// One prompt of a file.
#[derive(Debug, Clone, PartialEq)]
pub struct Entry {
    /// A conversation as the chat API has it.
    pub messages: Vec<Value>,
    /// The right answer, if the file has one.
    pub expected: Option<String>,
    /// Most tokens of the reply, if the file says.
    pub max_tokens: Option<usize>,
}

/// Where prompts come from.
#[derive(Debug, Clone, PartialEq)]
pub enum Source {
    /// Random words, so many tokens each.
    Synthetic {
        /// Tokens of a prompt, at least 1.
        tokens: usize,
    },
    /// A file's prompts, in turn; at least one.
    File(Vec<Entry>),
}

/// Number of the prompt that warms a model up: no other request has it.
pub const WARM_UP: usize = usize::MAX;
/// Stream of the words of a context.
const CONTEXT: u64 = 1 << 62;

/// Short English words, which most tokenizers have as one token.
const WORDS: &str = "the of and to in is it that was for on are with as be at one have this from or had by hot but \
some what there we can out other were all your when up use word how said an each she which do their time if will way \
about many then them would write like so these her long make thing see him two has look more day could go come did my \
sound no most number who over know water than call first people may down side been now find any new work part take get \
place made live where after back little only round man year came show every good me give our under name very through \
just form much great think say help low line before turn cause same mean differ move right boy old too does tell \
sentence set three want air well also play small end put home read hand port large spell add even land here must big \
high such follow act why ask men change went light kind off need house picture try us again animal point mother world \
near build self earth father head stand own page should country found answer school grow study still learn plant cover \
food sun four thought let keep eye never last door between city tree cross since hard start might story saw far sea \
draw left late run while press close night real life few stop";

impl Entry {
    /// A conversation of one message of a user.
    pub fn user(text: &str) -> Entry {
        let messages = vec![json!({"role": "user", "content": text})];
        Entry { messages, expected: None, max_tokens: None }
    }

    /// The conversation with `context` before the first message that has a text.
    pub fn after(&self, context: &str) -> Vec<Value> {
        let mut messages = self.messages.clone();
        let text = messages.iter_mut().find_map(|message| match message.get_mut("content") {
            Some(Value::String(text)) => Some(text),
            _ => None,
        });
        if let (Some(text), false) = (text, context.is_empty()) {
            *text = format!("{context}\n\n{text}");
        }
        messages
    }
}

impl Source {
    /// The entry with this number; `None` if prompts are synthetic, or it is the warm-up.
    pub fn entry(&self, number: usize) -> Option<&Entry> {
        match self {
            Source::Synthetic { .. } => None,
            Source::File(_) if number == WARM_UP => None,
            Source::File(entries) => entries.get(number % entries.len()),
        }
    }

    /// Tokens of a synthetic prompt; of the warm-up where prompts are from a file.
    pub fn tokens(&self) -> usize {
        match self {
            Source::Synthetic { tokens } => *tokens,
            Source::File(_) => 16,
        }
    }
}

/// `count` random words, for the prompt with the number `prompt`.
pub fn words(seed: u64, prompt: usize, count: usize) -> String {
    drawn(seed, prompt as u64, count)
}

/// `count` random words of the context that all prompts share.
pub fn context(seed: u64, count: usize) -> String {
    drawn(seed, CONTEXT, count)
}

fn drawn(seed: u64, stream: u64, count: usize) -> String {
    let words: Vec<&str> = WORDS.split_whitespace().collect();
    let mut random = Random::new(seed, stream);
    let drawn: Vec<&str> = (0..count).map(|_| words[random.below(words.len())]).collect();
    drawn.join(" ")
}

/// Whether a reply has the right answer in it: as whole words, whatever the case and the white space.
pub fn is_right(reply: &str, expected: &str) -> bool {
    let [reply, expected] = [reply, expected].map(|text| {
        let words: Vec<String> = text.split_whitespace().map(str::to_lowercase).collect();
        words.join(" ")
    });
    let word = |c: char| c.is_alphanumeric();
    reply.match_indices(&expected).any(|(at, found)| {
        let before = reply[..at].chars().next_back().filter(|c| word(*c));
        let after = reply[at + found.len()..].chars().next().filter(|c| word(*c));
        let starts = expected.chars().next().is_some_and(word);
        let ends = expected.chars().next_back().is_some_and(word);
        !(starts && before.is_some() || ends && after.is_some())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_reproducible_and_differ_by_prompt() {
        assert_eq!(words(1, 2, 50), words(1, 2, 50));
        assert!(words(1, 2, 50) != words(1, 3, 50) && words(1, 2, 50) != words(2, 2, 50));
        assert_eq!(words(1, 2, 50).split(' ').count(), 50);
        assert!(
            words(1, 2, 50).starts_with(&words(1, 2, 10)),
            "a longer prompt continues a shorter one"
        );
    }

    #[test]
    fn a_context_goes_before_the_first_text() {
        let entry = Entry::user("Why?");
        assert_eq!(entry.after("c")[0]["content"], "c\n\nWhy?");
        assert_eq!(entry.after(""), entry.messages);
    }

    #[test]
    fn a_files_prompts_are_taken_in_turn() {
        let source = Source::File(vec![Entry::user("a"), Entry::user("b")]);
        assert_eq!(source.entry(3), Some(&Entry::user("b")));
        assert_eq!(source.entry(WARM_UP), None);
        assert_eq!(Source::Synthetic { tokens: 5 }.entry(0), None);
    }

    #[test]
    fn answers_are_found_as_whole_words() {
        for (reply, expected, right) in [
            ("In order: leaf, moon, rose.", "In order: leaf, moon, rose.", true),
            ("The answer is\n 12.", "12", true),
            ("The answer is 112.", "12", false),
            ("the  PUFFIN nests", "The puffin", true),
            ("", "12", false),
        ] {
            assert_eq!(is_right(reply, expected), right, "{reply:?} {expected:?}");
        }
    }
}
