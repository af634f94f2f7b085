//! A set of characters, for the character classes of a grammar: how it is written in a regular expression, and with
//! which bytes its characters start.
//!
//! It does not know about grammars.

use std::fmt::Write;

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub(super) struct Bytes([u64; 4]);

impl Bytes {
    pub(super) const ALL: Self = Self([u64::MAX; 4]);

    pub(super) fn add(&mut self, other: Self) {
        for (mine, theirs) in self.0.iter_mut().zip(other.0) {
            *mine |= theirs;
        }
    }

    pub(super) fn meets(self, other: Self) -> bool {
        self.0.iter().zip(other.0).any(|(mine, theirs)| mine & theirs != 0)
    }

    fn add_range(&mut self, from: u8, to: u8) {
        for byte in from..=to {
            self.0[usize::from(byte >> 6)] |= 1 << (byte & 63);
        }
    }
}

const LAST: u32 = 0x10_FFFF;
const SURROGATES: (u32, u32) = (0xD800, 0xDFFF);

/// Inclusive ranges of code points, in order, with gaps between them, without surrogates.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct CharSet {
    ranges: Vec<(u32, u32)>,
    /// The bytes that the characters of the set start with in UTF-8.
    pub(super) first_bytes: Bytes,
}

impl CharSet {
    pub(super) fn new(ranges: &[(u32, u32)]) -> Self {
        let mut parts = Vec::with_capacity(ranges.len() + 1);
        for &(from, to) in ranges {
            // the two sides of the surrogates
            parts.push((from, to.min(SURROGATES.0 - 1)));
            parts.push((from.max(SURROGATES.1 + 1), to.min(LAST)));
        }
        parts.retain(|(from, to)| from <= to);
        parts.sort_unstable();
        let mut joined: Vec<(u32, u32)> = Vec::with_capacity(parts.len());
        for (from, to) in parts {
            match joined.last_mut() {
                Some(last) if from <= last.1 + 1 => last.1 = last.1.max(to),
                _ => joined.push((from, to)),
            }
        }
        let mut first_bytes = Bytes::default();
        for &(from, to) in &joined {
            first_bytes.add_range(first_byte(from), first_byte(to));
        }
        Self { ranges: joined, first_bytes }
    }

    pub(super) fn any() -> Self {
        Self::new(&[(0, LAST)])
    }

    pub(super) fn one(c: char) -> Self {
        Self::new(&[(u32::from(c), u32::from(c))])
    }

    /// Every character that is not in the set.
    pub(super) fn negated(&self) -> Self {
        let mut gaps = Vec::with_capacity(self.ranges.len() + 1);
        let mut from = 0;
        for &(start, end) in &self.ranges {
            if from < start {
                gaps.push((from, start - 1));
            }
            from = end + 1;
        }
        gaps.push((from, LAST));
        gaps.retain(|(from, to)| from <= to);
        Self::new(&gaps)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.ranges.is_empty()
    }

    pub(super) fn meets(&self, other: &Self) -> bool {
        if !self.first_bytes.meets(other.first_bytes) {
            return false;
        }
        let (mut i, mut j) = (0, 0);
        while let (Some(a), Some(b)) = (self.ranges.get(i), other.ranges.get(j)) {
            if a.0 <= b.1 && b.0 <= a.1 {
                return true;
            }
            if a.1 < b.1 {
                i += 1;
            } else {
                j += 1;
            }
        }
        false
    }

    /// Writes a regular expression for one character of the set.
    pub(super) fn write_regex(&self, out: &mut String) {
        let outside = self.negated();
        if outside.is_empty() {
            out.push_str("(?s:.)");
            return;
        }
        if let [(from, to)] = self.ranges[..]
            && from == to
        {
            write_char(from, out);
            return;
        }
        let (sign, shown) =
            if outside.ranges.len() < self.ranges.len() { ("^", &outside) } else { ("", self) };
        out.push('[');
        out.push_str(sign);
        for &(from, to) in &shown.ranges {
            write_char(from, out);
            if to > from {
                if to > from + 1 {
                    out.push('-');
                }
                write_char(to, out);
            }
        }
        out.push(']');
    }
}

/// The first byte of a code point in UTF-8.
fn first_byte(code: u32) -> u8 {
    let byte = match code {
        0..=0x7F => code,
        0x80..=0x7FF => 0xC0 | code >> 6,
        0x800..=0xFFFF => 0xE0 | code >> 12,
        _ => 0xF0 | code >> 18,
    };
    byte as u8
}

/// Everything but letters, digits and a few harmless marks is written as a number: nothing else needs to be
/// known of the places where a regular expression gives characters a meaning.
fn write_char(code: u32, out: &mut String) {
    match char::from_u32(code) {
        Some(c) if c.is_ascii_alphanumeric() || " _\"',:;=<>".contains(c) => out.push(c),
        _ => {
            // a String takes every write
            let _ = write!(out, "\\x{{{code:X}}}");
        }
    }
}
