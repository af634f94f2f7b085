//! The quality flags of a finished request: its reply is compared with what was requested.
//!
//! [`Collected`] keeps a bounded part of the first reply while it is sent; everything else happens once, at the end. It
//! does not know about arms, or what a flag leads to. The rules are those of [`crate::text::quality`].

use super::types::{Finish, GenerateRequest, Prompt};
use crate::rollout::{Class, Flag, Flags};
use crate::text::quality::{End, MAX_TEXT, Reply, Request, Signs, assess};
use crate::text::reply::Manner;
use crate::text::{Chat, Codec, Emit};

/// The first reply of a request as the client saw it.
#[derive(Debug, Default)]
pub(super) struct Collected {
    text: String,
    /// Whether there was more text than is kept.
    cut: bool,
    end: Option<End>,
}

impl Collected {
    /// A piece of text is being sent; `finish`: it is the last one.
    pub fn add(&mut self, emit: &Emit, finish: Option<Finish>) {
        self.cut |= self.text.len() + emit.text.len() > MAX_TEXT;
        if !self.cut {
            self.text.push_str(&emit.text);
        }
        self.end = match (emit.hit, finish) {
            (Some(_), _) | (None, Some(Finish::StopString(_))) => Some(End::StopString),
            (None, Some(Finish::Stop)) => Some(End::Token),
            (None, Some(Finish::Length)) => Some(End::Length),
            (None, None) => self.end,
        };
    }

    /// Why it ended; `None` before its end.
    pub fn finish(&self) -> Option<Finish> {
        self.end.map(|end| match end {
            End::StopString | End::Token => Finish::Stop,
            End::Length => Finish::Length,
        })
    }

    /// The flags of a reply that is complete: its token ids, the codec that spells them, and how its model writes.
    pub fn flags(
        &self,
        request: &GenerateRequest,
        ids: &[u32],
        codec: &Codec,
        manner: &Manner,
    ) -> Flags {
        let Some(end) = self.end else { return Flags::NONE };
        let spell = |ids: &[u32]| codec.decode(ids, true).unwrap_or_default();
        let reply = Reply { text: &self.text, whole: !self.cut, ids, end, manner, spell: &spell };
        flags_of(assess(&quality_request(request), &reply))
    }
}

/// The flags of a request without a complete reply; `started`: the client has seen its beginning.
pub(super) fn unanswered(class: Class, started: bool) -> Flags {
    match class {
        Class::ClientCancel => Flags::NONE.with(Flag::Cancelled),
        class if class.is_error() && !started => Flags::NONE.with(Flag::Rescued),
        _ => Flags::NONE,
    }
}

pub(super) fn quality_request(request: &GenerateRequest) -> Request<'_> {
    let max_tokens = request.max_tokens;
    let structure = request.constraint.as_ref().is_some_and(|(held, _)| held.is_structure());
    let checked = match &request.prompt {
        Prompt::Chat { messages, tools, ending, .. } => {
            let (tools, ending) = (tools.as_ref(), *ending);
            Request::chat(&Chat { messages, tools, ending, ..Chat::default() }, max_tokens)
        }
        Prompt::Text(text) => Request::text(text, max_tokens),
        Prompt::Tokens(ids) => Request::tokens(ids, max_tokens),
    };
    checked.structured(structure)
}

fn flags_of(signs: Signs) -> Flags {
    let Signs { empty, length, looping, structure, unknown_tool, script, refusal } = signs;
    let found = [
        (empty, Flag::Empty),
        (length, Flag::Length),
        (looping, Flag::Loop),
        (structure, Flag::Structure),
        (unknown_tool, Flag::UnknownTool),
        (script, Flag::Script),
        (refusal, Flag::Refusal),
    ];
    let found = found.into_iter().filter_map(|(set, flag)| set.then_some(flag));
    found.fold(Flags::NONE, Flags::with)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::text::{Ending, GgufVocabulary};
    use serde_json::json;
    use std::path::Path;

    fn codec() -> Codec {
        Codec::from_gguf(&GgufVocabulary::stand_in(Path::new("x"), 300), 300).unwrap()
    }

    fn request(prompt: Prompt) -> GenerateRequest {
        GenerateRequest::of("id", prompt)
    }

    fn chat(text: &str) -> GenerateRequest {
        request(Prompt::Chat {
            messages: vec![json!({"role": "user", "content": text})],
            tools: Some(json!([{"type": "function", "function": {"name": "f"}}])),
            template_kwargs: None,
            ending: Ending::Reply,
        })
    }

    fn collected(pieces: &[&str], hit: Option<usize>, finish: Finish) -> Collected {
        let mut collected = Collected::default();
        for piece in pieces {
            collected.add(&Emit { text: (*piece).to_owned(), hit: None }, None);
        }
        collected.add(&Emit { text: String::new(), hit }, Some(finish));
        collected
    }

    fn set(flags: &[Flag]) -> Flags {
        flags.iter().copied().fold(Flags::NONE, Flags::with)
    }

    #[test]
    fn every_sign_has_its_flag() {
        let loops = vec![7; 64];
        let text = request(Prompt::Text("Hi".to_owned()));
        let long = "Tell me all about finches, please.";
        let cases: [(GenerateRequest, Collected, &[u32], &[Flag]); 10] = [
            (chat("Hi"), collected(&["It ", "is."], None, Finish::Stop), &[1, 2], &[]),
            (chat("Hi"), collected(&[], None, Finish::Stop), &[], &[Flag::Empty]),
            (chat("Hi"), collected(&[], Some(0), Finish::Stop), &[1], &[]),
            (text.clone(), collected(&[], None, Finish::Stop), &[], &[]),
            (text, collected(&["a"], None, Finish::Length), &loops, &[Flag::Length, Flag::Loop]),
            (
                request(Prompt::Tokens(vec![7; 9])),
                collected(&["a"], None, Finish::Length),
                &loops,
                &[Flag::Length],
            ),
            (
                chat("JSON!"),
                collected(&["{\"a\"", ": "], None, Finish::Stop),
                &[1],
                &[Flag::Structure],
            ),
            (
                chat("Hi"),
                collected(&["<tool_call>{\"name\": \"g\"}</tool_call>"], None, Finish::Stop),
                &[1],
                &[Flag::UnknownTool],
            ),
            (
                chat(long),
                collected(&["Канареечный вьюрок ест ", "семена."], None, Finish::Stop),
                &[1],
                &[Flag::Script],
            ),
            (chat(long), collected(&["I can", "not."], None, Finish::Stop), &[1], &[Flag::Refusal]),
        ];
        let codec = codec();
        for (request, collected, ids, expected) in cases {
            let found = collected.flags(&request, ids, &codec, &Manner::default());
            assert_eq!(found, set(expected), "{:?} {:?}", request.prompt, collected.text);
        }
    }

    #[test]
    fn what_is_kept_of_a_reply_is_bounded() {
        let mut collected = Collected::default();
        let piece = Emit { text: "x".repeat(MAX_TEXT / 2), hit: None };
        collected.add(&piece, None);
        collected.add(&piece, None);
        assert!(!collected.cut);
        for _ in 0..3 {
            collected.add(&Emit { text: "y".to_owned(), hit: None }, None);
            assert_eq!((collected.text.len(), collected.cut), (MAX_TEXT, true));
        }
        let flags = |collected: &Collected, asked| {
            collected.flags(&chat(asked), &[], &codec(), &Manner::default())
        };
        assert_eq!(flags(&collected, "Hi"), Flags::NONE, "it has not ended");
        collected.add(&Emit::default(), Some(Finish::Stop));
        assert_eq!(flags(&collected, "JSON!"), Flags::NONE);
    }

    #[test]
    fn a_request_without_a_reply_was_cancelled_or_could_be_rescued() {
        let cases: [(Class, bool, &[Flag]); 9] = [
            (Class::ClientCancel, false, &[Flag::Cancelled]),
            (Class::ClientCancel, true, &[Flag::Cancelled]),
            (Class::ModelError, false, &[Flag::Rescued]),
            (Class::ModelError, true, &[]),
            (Class::Timeout, false, &[Flag::Rescued]),
            (Class::Timeout, true, &[]),
            (Class::Rejected, false, &[]),
            (Class::InvalidRequest, false, &[]),
            (Class::Ok, true, &[]),
        ];
        for (class, started, expected) in cases {
            assert_eq!(unanswered(class, started), set(expected), "{class:?} {started}");
        }
    }
}
