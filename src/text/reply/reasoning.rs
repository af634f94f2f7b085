//! Tells a model's reasoning from its answer, while both are being generated.
//!
//! Reasoning stands at the beginning of a reply, between two markers; some templates write the first one
//! themselves, and then the reply begins inside. A marker later in a reply is text.

/// The markers that models use.
const MARKERS: [(&str, &str); 4] = [
    ("<think>", "</think>"),
    ("[THINK]", "[/THINK]"),
    ("<seed:think>", "</seed:think>"),
    ("<reasoning>", "</reasoning>"),
];

/// Whether a special token is such a marker, and so must not be left out of a reply.
pub fn is_marker(token: &str) -> bool {
    MARKERS.iter().any(|(open, close)| token == *open || token == *close)
}

/// The marker that will end the reasoning, if a prompt ends inside of it.
pub fn opened_by(prompt: &str) -> Option<&'static str> {
    let prompt = prompt.trim_end();
    MARKERS.iter().find(|(open, _)| prompt.ends_with(open)).map(|(_, close)| *close)
}

/// Splits a reply.
#[derive(Debug)]
pub(super) struct Splitter {
    state: State,
}

#[derive(Debug)]
enum State {
    /// The beginning of a reply; what is held may be the first marker.
    Start(String),
    /// Inside; what is held may be the second marker, or be white space before it.
    Inside {
        close: &'static str,
        held: String,
        begun: bool,
    },
    /// White space after the reasoning is left out.
    Between,
    Answer,
}

/// What a piece of text is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Part {
    Reasoning(String),
    Answer(String),
}

impl Splitter {
    /// `close`: the reply begins inside of reasoning, which this marker ends.
    pub(super) fn new(close: Option<&'static str>) -> Splitter {
        let start = State::Start(String::new());
        let inside = |close| State::Inside { close, held: String::new(), begun: false };
        Splitter { state: close.map_or(start, inside) }
    }

    /// Takes more text.
    pub(super) fn push(&mut self, text: &str) -> Vec<Part> {
        let mut parts = Vec::new();
        let mut text = text.to_owned();
        loop {
            let state = std::mem::replace(&mut self.state, State::Answer);
            let (state, rest) = step(state, text, &mut parts);
            self.state = state;
            match rest {
                Some(rest) => text = rest,
                None => return parts,
            }
        }
    }

    /// How many characters are held that may be the answer's.
    pub(super) fn held(&self) -> usize {
        match &self.state {
            State::Start(held) => held.chars().count(),
            State::Inside { .. } | State::Between | State::Answer => 0,
        }
    }

    /// Ends the reply, and returns what was held.
    pub(super) fn finish(&mut self) -> Option<Part> {
        match std::mem::replace(&mut self.state, State::Answer) {
            State::Start(held) if !held.is_empty() => Some(Part::Answer(held)),
            State::Inside { held, .. } if !held.trim().is_empty() => Some(Part::Reasoning(held)),
            _ => None,
        }
    }
}

/// The next state, and text that is still to be taken.
fn step(state: State, text: String, parts: &mut Vec<Part>) -> (State, Option<String>) {
    match state {
        State::Start(held) => start(held + &text),
        State::Inside { close, held, begun } => inside(close, held + &text, begun, parts),
        State::Between => match text.trim_start() {
            "" => (State::Between, None),
            rest => (State::Answer, Some(rest.to_owned())),
        },
        State::Answer => {
            if !text.is_empty() {
                parts.push(Part::Answer(text));
            }
            (State::Answer, None)
        }
    }
}

fn start(held: String) -> (State, Option<String>) {
    let word = held.trim_start();
    for (open, close) in MARKERS {
        if let Some(rest) = word.strip_prefix(open) {
            let inside = State::Inside { close, held: String::new(), begun: false };
            return (inside, Some(rest.to_owned()));
        }
    }
    match MARKERS.iter().any(|(open, _)| open.starts_with(word)) {
        true => (State::Start(held), None),
        false => (State::Answer, Some(held)),
    }
}

fn inside(
    close: &'static str,
    mut held: String,
    mut begun: bool,
    parts: &mut Vec<Part>,
) -> (State, Option<String>) {
    if !begun {
        held = held.trim_start().to_owned();
    }
    let (certain, rest) = match held.find(close) {
        Some(at) => (held[..at].trim_end().len(), Some(held[at + close.len()..].to_owned())),
        None => {
            let marker = crate::text::stop::beginning_at_end(&held, close);
            (held[..held.len() - marker].trim_end().len(), None)
        }
    };
    if certain > 0 {
        parts.push(Part::Reasoning(held[..certain].to_owned()));
        begun = true;
    }
    match rest {
        Some(rest) => (State::Between, Some(rest)),
        None => (State::Inside { close, held: held.split_off(certain), begun }, None),
    }
}
