//! The texts of a lexeme as an automaton over characters, and the intersection of two automata.
//!
//! Large bounded repetitions count as unbounded here. This makes the language larger, never smaller. So it may report a
//! conflict that does not exist, but never overlooks one.

use super::charset::{Bytes, CharSet};
use super::lower::{Known, Lexeme};
use super::parse::{Node, NodeId};
use std::collections::{HashMap, HashSet};

/// More transitions make a lexeme too large to judge.
const MAX_EDGES: usize = 200_000;
/// A repetition that comes to more positions counts as unbounded.
const MAX_EXACT: usize = 64;

/// Steps for remembering a pair.
pub(super) const PAIR_COST: usize = 20;

/// One state for every place where a character can be read, and no empty transitions.
#[derive(Debug, Default)]
pub(super) struct Automaton<'a> {
    places: Vec<&'a CharSet>,
    after: Vec<Vec<usize>>,
    /// The bytes that a text can go on with after a place.
    bytes_after: Vec<Bytes>,
    first: Vec<usize>,
    is_last: Vec<bool>,
    /// The bytes that its texts start with.
    pub(super) first_bytes: Bytes,
    edges: usize,
}

struct Part {
    first: Vec<usize>,
    last: Vec<usize>,
    nullable: bool,
}

impl Part {
    fn empty() -> Self {
        Self { first: Vec::new(), last: Vec::new(), nullable: true }
    }
}

/// What texts of two lexemes have in common.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Meeting {
    /// Both have a text in common.
    pub(super) same: bool,
    /// Where a text of the left one ends, the right one can go on with these bytes.
    pub(super) past_left: Bytes,
    /// The same with the sides exchanged.
    pub(super) past_right: Bytes,
}

impl<'a> Automaton<'a> {
    /// The automaton of a lexeme, unless it is too large.
    pub(super) fn new(known: &'a Known, lexeme: &Lexeme) -> Option<Self> {
        let mut made = Self::default();
        let part = match known.grammar.nodes[lexeme.node] {
            Node::Repeat { of, max, .. } if lexeme.nonempty => made.repeat(known, of, 1, max)?,
            _ => made.part(known, lexeme.node)?,
        };
        made.is_last = vec![false; made.places.len()];
        part.last.iter().for_each(|place| made.is_last[*place] = true);
        for after in &mut made.after {
            after.sort_unstable();
            after.dedup();
        }
        let bytes = |places: &[usize]| {
            let mut bytes = Bytes::default();
            places.iter().for_each(|place| bytes.add(made.places[*place].first_bytes));
            bytes
        };
        made.first_bytes = bytes(&part.first);
        made.bytes_after = made.after.iter().map(|after| bytes(after)).collect();
        made.first = part.first;
        Some(made)
    }

    /// Steps for having made it.
    pub(super) fn cost(&self) -> usize {
        10 * (1 + self.places.len() + self.edges)
    }

    fn link(&mut self, from: &[usize], to: &[usize]) -> Option<()> {
        self.edges += from.len() * to.len();
        if self.edges > MAX_EDGES {
            return None;
        }
        from.iter().for_each(|place| self.after[*place].extend(to));
        Some(())
    }

    fn part(&mut self, known: &'a Known, node: NodeId) -> Option<Part> {
        match &known.grammar.nodes[node] {
            Node::Chars(set) => {
                let place = self.place(set);
                Some(Part { first: vec![place], last: vec![place], nullable: false })
            }
            // no lexeme has a token in it
            Node::Token(_) => None,
            Node::Rule(rule) => self.part(known, known.grammar.rules[*rule].body),
            Node::Seq(parts) => {
                let mut all = Part::empty();
                for part in parts {
                    let part = self.part(known, *part)?;
                    all = self.join(all, part)?;
                }
                Some(all)
            }
            Node::Alt(parts) => self.choice(known, parts),
            Node::Repeat { of, min, max } => self.repeat(known, *of, *min, *max),
        }
    }

    fn place(&mut self, set: &'a CharSet) -> usize {
        self.places.push(set);
        self.after.push(Vec::new());
        self.places.len() - 1
    }

    /// Words share the places of their beginnings: lists of words are common, and can be long.
    fn choice(&mut self, known: &'a Known, parts: &[NodeId]) -> Option<Part> {
        let mut all = Part { nullable: false, ..Part::empty() };
        let mut shared: HashMap<(Option<usize>, &CharSet), usize> = HashMap::new();
        for &part in parts {
            let Some(word) = word(known, part) else {
                let part = self.part(known, part)?;
                all.first.extend(part.first);
                all.last.extend(part.last);
                all.nullable |= part.nullable;
                continue;
            };
            let mut before = None;
            for set in word {
                let place = match shared.get(&(before, set)) {
                    Some(place) => *place,
                    None => {
                        let place = self.place(set);
                        match before {
                            Some(before) => self.link(&[before], &[place])?,
                            None => all.first.push(place),
                        }
                        shared.insert((before, set), place);
                        place
                    }
                };
                before = Some(place);
            }
            all.last.extend(before);
        }
        Some(all)
    }

    fn join(&mut self, mut left: Part, right: Part) -> Option<Part> {
        self.link(&left.last, &right.first)?;
        if left.nullable {
            left.first.extend(&right.first);
        }
        let mut last = right.last;
        if right.nullable {
            last.extend(left.last);
        }
        Some(Part { first: left.first, last, nullable: left.nullable && right.nullable })
    }

    fn repeat(&mut self, known: &'a Known, of: NodeId, min: u32, max: Option<u32>) -> Option<Part> {
        if max == Some(0) {
            return Some(Part::empty());
        }
        let before = self.places.len();
        let mut all = self.part(known, of)?;
        let places = self.places.len() - before;
        let times = max.map_or(usize::MAX, |max| max as usize);
        // What has no character repeats to nothing more, however often.
        if places == 0 || places.saturating_mul(times) > MAX_EXACT {
            self.link(&all.last.clone(), &all.first.clone())?;
            all.nullable |= min == 0;
            return Some(all);
        }
        all.nullable |= min == 0;
        for time in 1..times {
            let mut part = self.part(known, of)?;
            part.nullable |= time >= min as usize;
            all = self.join(all, part)?;
        }
        Some(all)
    }

    /// What it has in common with another one. Takes steps off a budget, and gives nothing once it is spent.
    pub(super) fn meet(&self, other: &Self, budget: &mut usize) -> Option<Meeting> {
        let mut meeting = Meeting::default();
        let mut seen = HashSet::new();
        let mut todo = Vec::new();
        self.step(&self.first, other, &other.first, &mut seen, &mut todo, budget)?;
        while let Some((left, right)) = todo.pop() {
            if self.is_last[left] {
                meeting.past_left.add(other.bytes_after[right]);
                meeting.same |= other.is_last[right];
            }
            if other.is_last[right] {
                meeting.past_right.add(self.bytes_after[left]);
            }
            let after = (&self.after[left], &other.after[right]);
            self.step(after.0, other, after.1, &mut seen, &mut todo, budget)?;
        }
        Some(meeting)
    }

    /// The pairs of places that one character can lead to.
    fn step(
        &self,
        mine: &[usize],
        other: &Self,
        theirs: &[usize],
        seen: &mut HashSet<(usize, usize)>,
        todo: &mut Vec<(usize, usize)>,
        budget: &mut usize,
    ) -> Option<()> {
        let mut before = seen.len();
        for &left in mine {
            for &right in theirs {
                let both = self.places[left].meets(other.places[right]);
                if both && seen.insert((left, right)) {
                    todo.push((left, right));
                }
            }
            let cost = theirs.len() + PAIR_COST * (seen.len() - before);
            before = seen.len();
            *budget = budget.checked_sub(cost)?;
        }
        Some(())
    }
}

/// The characters of a part that is one word.
fn word(known: &Known, node: NodeId) -> Option<Vec<&CharSet>> {
    match &known.grammar.nodes[node] {
        Node::Chars(set) => Some(vec![set]),
        Node::Seq(parts) if !parts.is_empty() => {
            parts.iter().map(|part| known.chars(*part)).collect()
        }
        _ => None,
    }
}
