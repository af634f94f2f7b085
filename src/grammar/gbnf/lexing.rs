//! Finds the lexemes whose end llguidance's lexer would miss.
//!
//! The lexer is greedy: it extends the current lexeme as long as any lexeme that is allowed at this point can be
//! extended. This is correct only if nothing that may follow the lexeme starts with a byte that could extend it.
//! Otherwise the lexeme has to be split; single characters are always correct.
//!
//! The analysis is conservative: a lexeme may be split without need.

use super::automaton::{Automaton, Meeting, PAIR_COST};
use super::charset::Bytes;
use super::lower::{Item, Known, Lowered, Symbol};
use super::parse::NodeId;
use std::collections::{BTreeSet, HashMap, HashSet};

/// Bits in the sets of all rules.
const MAX_BITS: usize = 200_000_000;

#[derive(Debug)]
pub(super) enum Finding {
    /// Every lexeme ends where it should.
    Right,
    /// These nodes have to be taken apart.
    Apart(BTreeSet<NodeId>),
    /// The grammar is too large to tell.
    TooLarge,
    /// This token can come where text or another token can: llguidance would take only one of the two.
    Unclear(NodeId),
}

/// Looks at all lexemes of a grammar. Takes steps off a budget.
pub(super) fn look(known: &Known, lowered: &Lowered, budget: &mut usize) -> Finding {
    let mut automata = Vec::with_capacity(lowered.lexemes.len());
    let mut large = HashSet::new();
    for (index, lexeme) in lowered.lexemes.iter().enumerate() {
        automata.push(Automaton::new(known, lexeme).unwrap_or_default());
        if automata[index].first_bytes == Bytes::default() {
            large.insert(index);
        }
        let Some(left) = budget.checked_sub(automata[index].cost()) else {
            return Finding::TooLarge;
        };
        *budget = left;
    }
    if !large.is_empty() {
        let items = lowered.rules.iter().flat_map(|rule| rule.choices.iter().flatten());
        let of_large =
            |item: &&Item| matches!(item.symbol, Symbol::Lexeme(index) if large.contains(&index));
        return Finding::Apart(items.filter(of_large).map(|item| item.node).collect());
    }
    let Some(order) = Order::new(lowered, budget) else { return Finding::TooLarge };
    let look = Look { known, automata, order };
    look.find(budget).unwrap_or(Finding::TooLarge)
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Bits(Vec<u64>);

impl Bits {
    fn new(len: usize) -> Self {
        Self(vec![0; len.div_ceil(64)])
    }

    fn insert(&mut self, bit: usize) {
        self.0[bit >> 6] |= 1 << (bit & 63);
    }

    fn add(&mut self, other: &Self) -> bool {
        let mut changed = false;
        for (mine, theirs) in self.0.iter_mut().zip(&other.0) {
            changed |= theirs & !*mine != 0;
            *mine |= theirs;
        }
        changed
    }

    fn iter(&self) -> impl Iterator<Item = usize> + '_ {
        let bits = |word: u64| (0..64).filter(move |bit| word >> bit & 1 == 1);
        self.0
            .iter()
            .enumerate()
            .flat_map(move |(i, word)| bits(*word).map(move |bit| 64 * i + bit))
    }
}

/// A place in the rules where a lexeme or a token stands.
struct Spot {
    symbol: Symbol,
    node: NodeId,
    /// The spots that can come next.
    next: Bits,
}

/// Which spots can follow which.
struct Order {
    spots: Vec<Spot>,
    /// The spots that a text can start with.
    start: Bits,
}

/// For every rule.
struct Sets {
    nullable: Vec<bool>,
    first: Vec<Bits>,
    follow: Vec<Bits>,
}

impl Order {
    fn new(lowered: &Lowered, budget: &mut usize) -> Option<Self> {
        let items = || lowered.rules.iter().flat_map(|rule| rule.choices.iter().flatten());
        let count = items().filter(|item| !matches!(item.symbol, Symbol::Rule(_))).count();
        if (lowered.rules.len() * 2 + count).saturating_mul(count) > MAX_BITS {
            return None;
        }
        let none = Bits::new(count);
        let spots = items().filter(|item| !matches!(item.symbol, Symbol::Rule(_)));
        let spots =
            spots.map(|item| Spot { symbol: item.symbol, node: item.node, next: none.clone() });
        let rules = lowered.rules.len();
        let mut order = Self { spots: spots.collect(), start: none.clone() };
        let mut sets = Sets {
            nullable: vec![false; rules],
            first: vec![none.clone(); rules],
            follow: vec![none.clone(); rules],
        };
        let cost = (items().count() + rules + 1) * (none.0.len() + 1);
        loop {
            *budget = budget.checked_sub(cost)?;
            if !order.round(lowered, &mut sets) {
                break;
            }
        }
        order.start = sets.first.swap_remove(0);
        Some(order)
    }

    /// Learns from every rule once, and tells whether anything was new.
    fn round(&mut self, lowered: &Lowered, sets: &mut Sets) -> bool {
        let mut changed = false;
        let mut spot = 0;
        for (rule, lowered) in lowered.rules.iter().enumerate() {
            for choice in &lowered.choices {
                let lexical = |item: &&Item| !matches!(item.symbol, Symbol::Rule(_));
                let mut at = spot + choice.iter().filter(lexical).count();
                spot = at;
                let mut next = sets.follow[rule].clone();
                let mut first = Bits::new(self.spots.len());
                let mut nullable = true;
                for item in choice.iter().rev() {
                    let (own, own_nullable) = match item.symbol {
                        Symbol::Rule(inner) => (sets.first[inner].clone(), sets.nullable[inner]),
                        _ => {
                            at -= 1;
                            let mut own = Bits::new(self.spots.len());
                            own.insert(at);
                            (own, false)
                        }
                    };
                    let mut after = next.clone();
                    if item.max.is_none_or(|max| max > 1) {
                        after.add(&own);
                    }
                    changed |= match item.symbol {
                        Symbol::Rule(inner) => sets.follow[inner].add(&after),
                        _ => self.spots[at].next.add(&after),
                    };
                    if own_nullable || item.min == 0 {
                        next.add(&own);
                        first.add(&own);
                    } else {
                        next = own.clone();
                        first = own;
                        nullable = false;
                    }
                }
                changed |= sets.first[rule].add(&first) || nullable && !sets.nullable[rule];
                sets.nullable[rule] |= nullable;
            }
        }
        changed
    }
}

struct Look<'a> {
    known: &'a Known,
    automata: Vec<Automaton<'a>>,
    order: Order,
}

/// Pairs of spots that may come at the same point of a text.
#[derive(Default)]
struct Pairs {
    seen: HashSet<(usize, usize)>,
    todo: Vec<(usize, usize)>,
    /// Pairs of sets whose spots were all paired.
    sets: HashSet<(usize, usize)>,
}

impl Pairs {
    fn add(&mut self, left: &Bits, right: &Bits, budget: &mut usize) -> Option<()> {
        for a in left.iter() {
            for b in right.iter() {
                let pair = (a.min(b), a.max(b));
                let new = self.seen.insert(pair);
                *budget = budget.checked_sub(if new { PAIR_COST } else { 1 })?;
                if new {
                    self.todo.push(pair);
                }
            }
        }
        Some(())
    }
}

impl Look<'_> {
    fn find(&self, budget: &mut usize) -> Option<Finding> {
        let spots = &self.order.spots;
        let mut ids: HashMap<&Bits, usize> = HashMap::new();
        let mut set_of = Vec::with_capacity(spots.len());
        let mut bytes_next = Vec::with_capacity(spots.len());
        for spot in spots {
            let id = ids.len();
            set_of.push(*ids.entry(&spot.next).or_insert(id));
            bytes_next.push(self.first_bytes(&spot.next));
        }
        let mut apart = BTreeSet::new();
        let mut meetings: HashMap<(usize, usize), Meeting> = HashMap::new();
        let mut pairs = Pairs::default();
        pairs.add(&self.order.start, &self.order.start, budget)?;
        while let Some((a, b)) = pairs.todo.pop() {
            let same = match (spots[a].symbol, spots[b].symbol) {
                (Symbol::Lexeme(left), Symbol::Lexeme(right)) => {
                    let meeting = match meetings.get(&(left, right)) {
                        Some(meeting) => *meeting,
                        None => self.automata[left].meet(&self.automata[right], budget)?,
                    };
                    meetings.insert((left, right), meeting);
                    // the one that goes on too far is to blame
                    if meeting.past_left.meets(bytes_next[a]) {
                        apart.insert(spots[b].node);
                    }
                    if meeting.past_right.meets(bytes_next[b]) {
                        apart.insert(spots[a].node);
                    }
                    meeting.same
                }
                _ => match self.tokens(a, b) {
                    Ok(same) => same,
                    Err(finding) => return Some(finding),
                },
            };
            if same && pairs.sets.insert((set_of[a], set_of[b])) {
                pairs.add(&spots[a].next, &spots[b].next, budget)?;
            }
        }
        Some(if apart.is_empty() { Finding::Right } else { Finding::Apart(apart) })
    }

    /// Whether two spots, one of them a token's, stand for the same, if that is clear.
    fn tokens(&self, a: usize, b: usize) -> Result<bool, Finding> {
        let spots = [&self.order.spots[a], &self.order.spots[b]];
        let tokens = spots.map(|spot| match spot.symbol {
            Symbol::Token(node) => self.known.token(node).map(|token| (node, token)),
            _ => None,
        });
        if let [Some((_, left)), Some((_, right))] = tokens {
            if left.text == right.text {
                return Ok(true);
            }
            if left.id.is_some() && left.id == right.id {
                // a token, and every other one
                return Ok(false);
            }
        }
        match tokens.into_iter().flatten().find(|(_, token)| token.negated) {
            Some((node, _)) => Err(Finding::Unclear(node)),
            None => Ok(false),
        }
    }

    /// The bytes that the spots can start with. A negated token can be any text.
    fn first_bytes(&self, spots: &Bits) -> Bytes {
        let mut bytes = Bytes::default();
        for spot in spots.iter() {
            match self.order.spots[spot].symbol {
                Symbol::Lexeme(lexeme) => bytes.add(self.automata[lexeme].first_bytes),
                Symbol::Token(node)
                    if self.known.token(node).is_some_and(|token| token.negated) =>
                {
                    bytes.add(Bytes::ALL);
                }
                _ => {}
            }
        }
        bytes
    }
}
