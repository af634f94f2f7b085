//! Finds stop strings in text that arrives in pieces.
//!
//! Text may be sent only if no stop string can begin in it. So the longest suffix that is the beginning of a
//! stop string is held back, and no more. The result does not depend on how the text was split: the stop
//! string that is complete first wins; if several are complete at the same character, the longest wins. The
//! search is a plain `find` over a piece and the held suffix. Requests have only a few short stop strings,
//! and an automaton would have to be built for each request.
//!
//! It does not know about tokens: its input is valid UTF-8, and it splits at characters.

/// The result of one piece of text.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Emit {
    /// Text that is safe to send.
    pub text: String,
    /// Which stop string was found, as an index in the list given to [`StopStrings::new`]; the text ends
    /// right before it, or after it if it is part of the text.
    pub hit: Option<usize>,
}

/// Watches one generation for stop strings.
#[derive(Debug, Clone)]
pub struct StopStrings {
    stops: Vec<String>,
    /// Whether a stop string is part of the text.
    include: bool,
    held: String,
    hit: Option<usize>,
}

impl StopStrings {
    /// Watches for `stops`; empty ones never match.
    pub fn new(stops: Vec<String>) -> Self {
        Self::including(stops, false)
    }

    /// [`StopStrings::new`]; if `include`, the text ends right after the stop string.
    pub fn including(stops: Vec<String>, include: bool) -> Self {
        Self { stops, include, held: String::new(), hit: None }
    }

    /// Processes the next piece of text. After a hit, everything is discarded.
    pub fn push(&mut self, text: &str) -> Emit {
        if self.hit.is_some() {
            return Emit { text: String::new(), hit: self.hit };
        }
        if self.stops.is_empty() {
            return Emit { text: text.to_owned(), hit: None };
        }
        let mut text = std::mem::take(&mut self.held) + text;
        if let Some((start, index)) = self.first_match(&text) {
            let end = if self.include { start + self.stops[index].len() } else { start };
            text.truncate(end);
            self.hit = Some(index);
        } else {
            let beginnings = self.stops.iter().map(|stop| beginning_at_end(&text, stop));
            let hold = beginnings.max().unwrap_or(0);
            self.held = text.split_off(text.len() - hold);
        }
        Emit { text, hit: self.hit }
    }

    /// Ends the generation and returns what was held back; nothing after a hit.
    pub fn finish(&mut self) -> String {
        std::mem::take(&mut self.held)
    }

    /// The index of the stop string that was found, if any.
    pub fn hit(&self) -> Option<usize> {
        self.hit
    }

    /// Where the winning stop string starts in `text`, and which it is.
    fn first_match(&self, text: &str) -> Option<(usize, usize)> {
        let stops = self.stops.iter().enumerate().filter(|(_, stop)| !stop.is_empty());
        let found = stops
            .filter_map(|(i, stop)| text.find(stop.as_str()).map(|at| (at + stop.len(), at, i)));
        found.min().map(|(_, start, index)| (start, index))
    }
}

/// The length of the longest suffix of `text` that is a proper prefix of `pattern`.
pub(super) fn beginning_at_end(text: &str, pattern: &str) -> usize {
    let longest = text.len().min(pattern.len().saturating_sub(1));
    let fits = |&len: &usize| {
        pattern.is_char_boundary(len) && text.as_bytes().ends_with(&pattern.as_bytes()[..len])
    };
    (1..=longest).rev().find(fits).unwrap_or(0)
}

#[cfg(test)]
mod tests;
