//! Separates a model's reasoning from its answer, while both are being generated.
//!
//! Reasoning is at the beginning of a reply, between two markers. Some templates write the first marker themselves;
//! then the reply begins inside the reasoning. A marker later in a reply is text.

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

/// The first pair of markers, opening and closing, of which a vocabulary has both.
pub fn markers_in(has: impl Fn(&str) -> bool) -> Option<(&'static str, &'static str)> {
    MARKERS.into_iter().find(|(open, close)| has(open) && has(close))
}

/// Where a reply begins.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Opening {
    /// With the answer, or with reasoning if the model has markers for it.
    #[default]
    Free,
    /// Inside of reasoning, which the prompt has begun and this marker ends.
    Inside(&'static str),
    /// With the answer: the prompt has reasoning that is over, or is no conversation.
    Answer,
}

impl Opening {
    /// Where the reply to a conversation begins, by the prompt's end.
    pub fn after(prompt: &str) -> Opening {
        let prompt = prompt.trim_end();
        let open = MARKERS.iter().find(|(open, _)| prompt.ends_with(open));
        match open {
            Some((_, close)) => Opening::Inside(close),
            None if MARKERS.iter().any(|(_, close)| prompt.ends_with(close)) => Opening::Answer,
            None => Opening::Free,
        }
    }

    /// The marker that will end the reasoning, if the prompt ends inside of it.
    pub fn marker(self) -> Option<&'static str> {
        match self {
            Opening::Inside(close) => Some(close),
            Opening::Free | Opening::Answer => None,
        }
    }
}

#[derive(Debug)]
pub(super) struct Splitter {
    state: State,
}

#[derive(Debug)]
enum State {
    /// The beginning of a reply; what is held may be the first marker.
    Start(String),
    /// Inside; what is held may be the second marker, or be white space before it.
    Inside { close: &'static str, held: String, begun: bool },
    /// White space after the reasoning is left out.
    Between,
    /// Nothing is held any more.
    Answer,
}

/// Where a reply is, while it is being generated.
#[derive(Debug)]
pub struct Progress(Splitter);

impl Progress {
    /// At the beginning of a reply.
    pub fn new(opening: Opening) -> Progress {
        let begun = Splitter::new(opening.marker());
        Progress(match opening {
            Opening::Answer => Splitter { state: State::Answer },
            Opening::Free | Opening::Inside(_) => begun,
        })
    }

    /// Takes more text.
    pub fn push(&mut self, text: &str) {
        self.0.push(text);
    }

    /// Whether the reply is inside of reasoning.
    pub fn is_inside(&self) -> bool {
        matches!(self.0.state, State::Inside { .. })
    }
}

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
