//! Turns the nodes of a grammar into rules over lexemes: flat alternatives of items, each a lexeme, a token or
//! another rule.
//!
//! Any part that is not recursive could be one lexeme. `lexing` decides which parts have to be split; this file gets
//! that decision as an input.

use super::charset::CharSet;
use super::parse::{Grammar, Node, NodeId, Token};
use std::collections::{BTreeSet, HashMap, VecDeque};

/// The most characters, repetitions counted, in one lexeme.
const MAX_LEXEME: u64 = 100_000;
/// The deepest nesting in one lexeme, references to rules included.
const MAX_HEIGHT: u32 = 100;
/// The most text in all regular expressions.
const MAX_TEXT: usize = 4 << 20;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Symbol {
    Lexeme(usize),
    Token(NodeId),
    Rule(usize),
}

/// A symbol and how often it may come in a row.
#[derive(Debug, Clone, Copy)]
pub(super) struct Item {
    pub(super) symbol: Symbol,
    pub(super) min: u32,
    pub(super) max: Option<u32>,
    pub(super) node: NodeId,
}

#[derive(Debug, Default)]
pub(super) struct LoweredRule {
    pub(super) choices: Vec<Vec<Item>>,
    /// The rule of the grammar that it is, or is a part of.
    pub(super) of: usize,
}

#[derive(Debug)]
pub(super) struct Lexeme {
    pub(super) regex: String,
    /// A node with this language, apart from the empty text if `nonempty`.
    pub(super) node: NodeId,
    /// The node is a repetition, here of at least one.
    pub(super) nonempty: bool,
}

/// The first rule is the start.
#[derive(Debug, Default)]
pub(super) struct Lowered {
    pub(super) rules: Vec<LoweredRule>,
    pub(super) lexemes: Vec<Lexeme>,
}

/// Which nodes are taken apart.
#[derive(Debug, Default)]
pub(super) struct Apart {
    pub(super) nodes: BTreeSet<NodeId>,
    /// All but single characters.
    pub(super) all: bool,
}

#[derive(Debug, Clone, Copy)]
struct Properties {
    /// Recursion or a token is in it.
    irregular: bool,
    nullable: bool,
    /// Some text is in its language.
    productive: bool,
    size: u64,
    height: u32,
}

/// A grammar with what is known of its nodes.
#[derive(Debug)]
pub(super) struct Known {
    pub(super) grammar: Grammar,
    properties: Vec<Properties>,
}

impl Known {
    pub(super) fn new(grammar: Grammar) -> Self {
        let irregular =
            Properties { irregular: true, nullable: false, productive: false, size: 0, height: 0 };
        let properties = vec![irregular; grammar.nodes.len()];
        let mut known = Self { grammar, properties };
        // The nodes of a rule, and the nodes that refer to it.
        let mut own: Vec<Vec<NodeId>> = Vec::with_capacity(known.grammar.rules.len());
        let mut owner = vec![0; known.grammar.nodes.len()];
        let mut users: Vec<BTreeSet<usize>> = vec![BTreeSet::new(); known.grammar.rules.len()];
        for (rule, node) in known.grammar.rules.iter().map(|rule| rule.body).enumerate() {
            let nodes = known.below(node);
            nodes.iter().for_each(|node| owner[*node] = rule);
            own.push(nodes);
        }
        for (node, kind) in known.grammar.nodes.iter().enumerate() {
            if let Node::Rule(rule) = kind {
                users[*rule].insert(owner[node]);
            }
        }
        known.find_regular(&own, &users);
        known.find_least(&own, &users);
        known
    }

    /// A node and all in it, parts first.
    fn below(&self, node: NodeId) -> Vec<NodeId> {
        let mut found = vec![node];
        let mut next = 0;
        while let Some(&node) = found.get(next) {
            next += 1;
            match &self.grammar.nodes[node] {
                Node::Seq(parts) | Node::Alt(parts) => found.extend(parts),
                Node::Repeat { of, .. } => found.push(*of),
                Node::Chars(_) | Node::Token(_) | Node::Rule(_) => {}
            }
        }
        found.sort_unstable();
        found
    }

    /// A rule is regular once all rules that it names are: what is left at the end is recursive.
    fn find_regular(&mut self, own: &[Vec<NodeId>], users: &[BTreeSet<usize>]) {
        let mut waits = vec![0_usize; own.len()];
        users.iter().flatten().for_each(|user| waits[*user] += 1);
        let mut ready: VecDeque<usize> = (0..own.len()).filter(|rule| waits[*rule] == 0).collect();
        while let Some(rule) = ready.pop_front() {
            for &node in &own[rule] {
                self.properties[node] = self.properties_of(node);
            }
            for &user in &users[rule] {
                waits[user] -= 1;
                if waits[user] == 0 {
                    ready.push_back(user);
                }
            }
        }
        for rule in (0..own.len()).filter(|rule| waits[*rule] > 0) {
            // the regular parts of a recursive rule
            for &node in &own[rule] {
                self.properties[node] = self.properties_of(node);
            }
        }
    }

    /// What recursive rules can have only through others: until nothing changes.
    fn find_least(&mut self, own: &[Vec<NodeId>], users: &[BTreeSet<usize>]) {
        let mut changed: VecDeque<usize> = (0..own.len()).collect();
        while let Some(rule) = changed.pop_front() {
            let body = self.grammar.rules[rule].body;
            let before = self.properties[body];
            for &node in &own[rule] {
                let Properties { nullable, productive, .. } = self.properties_of(node);
                self.properties[node] =
                    Properties { nullable, productive, ..self.properties[node] };
            }
            let after = self.properties[body];
            if (after.nullable, after.productive) != (before.nullable, before.productive) {
                changed.extend(&users[rule]);
            }
        }
    }

    /// The properties of a node from those of its parts.
    fn properties_of(&self, node: NodeId) -> Properties {
        let one =
            Properties { irregular: false, nullable: false, productive: true, size: 1, height: 1 };
        let over = |parts: &[NodeId], all: bool| {
            let parts = || parts.iter().map(|part| self.properties[*part]);
            let hold = |fact: fn(Properties) -> bool| {
                if all { parts().all(fact) } else { parts().any(fact) }
            };
            Properties {
                irregular: parts().any(|part| part.irregular),
                nullable: hold(|part| part.nullable),
                productive: hold(|part| part.productive),
                size: parts().fold(0, |sum, part| part.size.saturating_add(sum)),
                height: 1 + parts().map(|part| part.height).max().unwrap_or(0),
            }
        };
        match &self.grammar.nodes[node] {
            Node::Chars(_) => one,
            Node::Token(_) => Properties { irregular: true, ..one },
            Node::Rule(rule) => {
                let body = self.properties[self.grammar.rules[*rule].body];
                Properties { height: 1 + body.height, ..body }
            }
            Node::Seq(parts) => over(parts, true),
            Node::Alt(parts) => over(parts, false),
            Node::Repeat { of, min, max } => {
                let inner = self.properties[*of];
                Properties {
                    irregular: inner.irregular,
                    nullable: inner.nullable || *min == 0,
                    productive: inner.productive || *min == 0,
                    size: inner.size.saturating_mul(u64::from(max.unwrap_or(*min).max(1))),
                    height: 1 + inner.height,
                }
            }
        }
    }

    pub(super) fn chars(&self, node: NodeId) -> Option<&CharSet> {
        match &self.grammar.nodes[node] {
            Node::Chars(set) => Some(set),
            _ => None,
        }
    }

    pub(super) fn token(&self, node: NodeId) -> Option<&Token> {
        match &self.grammar.nodes[node] {
            Node::Token(token) => Some(token),
            _ => None,
        }
    }

    /// Whether any text is in the grammar's language.
    pub(super) fn is_productive(&self) -> bool {
        self.properties[self.grammar.rules[self.grammar.root].body].productive
    }

    pub(super) fn has_negated_tokens(&self) -> bool {
        self.grammar.nodes.iter().any(|node| matches!(node, Node::Token(token) if token.negated))
    }

    /// The node itself, or the body of the rule that it names.
    fn behind(&self, mut node: NodeId) -> NodeId {
        // a regular rule's references end
        while let Node::Rule(rule) = self.grammar.nodes[node] {
            node = self.grammar.rules[rule].body;
        }
        node
    }

    fn write_regex(&self, node: NodeId, out: &mut String) {
        match &self.grammar.nodes[node] {
            Node::Chars(set) => set.write_regex(out),
            Node::Token(_) => {}
            Node::Rule(rule) => self.write_regex(self.grammar.rules[*rule].body, out),
            Node::Seq(parts) => {
                for part in parts {
                    self.write_regex(*part, out);
                }
            }
            Node::Alt(parts) => {
                out.push_str("(?:");
                for (i, part) in parts.iter().enumerate() {
                    out.push_str(if i > 0 { "|" } else { "" });
                    self.write_regex(*part, out);
                }
                out.push(')');
            }
            Node::Repeat { of, min, max } => self.write_repeat(*of, *min, *max, out),
        }
    }

    fn write_repeat(&self, of: NodeId, min: u32, max: Option<u32>, out: &mut String) {
        if max == Some(0) {
            out.push_str("(?:)");
            return;
        }
        out.push_str("(?:");
        self.write_regex(of, out);
        out.push(')');
        match (min, max) {
            (0, None) => out.push('*'),
            (1, None) => out.push('+'),
            (0, Some(1)) => out.push('?'),
            (1, Some(1)) => {}
            (min, None) => out.push_str(&format!("{{{min},}}")),
            (min, Some(max)) => out.push_str(&format!("{{{min},{max}}}")),
        }
    }
}

struct Lowering<'a> {
    known: &'a Known,
    apart: &'a Apart,
    out: Lowered,
    /// What the lowered rules are of: nodes that are groups, and bodies of rules.
    rules: HashMap<NodeId, usize>,
    todo: VecDeque<(usize, NodeId)>,
    lexemes: HashMap<(NodeId, bool), usize>,
    by_regex: HashMap<String, usize>,
    text: usize,
}

/// The rules for a grammar, or nothing if their regular expressions are too long.
pub(super) fn lower(known: &Known, apart: &Apart) -> Option<Lowered> {
    let mut lowering = Lowering {
        known,
        apart,
        out: Lowered::default(),
        rules: HashMap::new(),
        todo: VecDeque::new(),
        lexemes: HashMap::new(),
        by_regex: HashMap::new(),
        text: 0,
    };
    let root = known.grammar.root;
    lowering.rule(root, known.grammar.rules[root].body);
    while let Some((rule, node)) = lowering.todo.pop_front() {
        let of = lowering.out.rules[rule].of;
        let choices = lowering.choices(of, node);
        lowering.out.rules[rule].choices = choices;
        if lowering.text > MAX_TEXT {
            return None;
        }
    }
    Some(lowering.out)
}

impl Lowering<'_> {
    /// The lowered rule for a node.
    fn rule(&mut self, of: usize, node: NodeId) -> usize {
        if let Some(&rule) = self.rules.get(&node) {
            return rule;
        }
        let rule = self.out.rules.len();
        self.out.rules.push(LoweredRule { choices: Vec::new(), of });
        self.rules.insert(node, rule);
        self.todo.push_back((rule, node));
        rule
    }

    fn choices(&mut self, of: usize, node: NodeId) -> Vec<Vec<Item>> {
        match &self.known.grammar.nodes[node] {
            Node::Alt(parts) if !self.is_lexeme(node) => {
                parts.iter().map(|part| self.sequence(of, *part)).collect()
            }
            _ => vec![self.sequence(of, node)],
        }
    }

    fn sequence(&mut self, of: usize, node: NodeId) -> Vec<Item> {
        match &self.known.grammar.nodes[node] {
            Node::Seq(parts) if !self.is_lexeme(node) => {
                parts.iter().filter_map(|part| self.item(of, *part)).collect()
            }
            _ => self.item(of, node).into_iter().collect(),
        }
    }

    /// Whether a node becomes one lexeme. The empty text is none: llguidance would need care with it.
    fn is_lexeme(&self, node: NodeId) -> bool {
        !self.known.properties[node].nullable && self.could_be(node)
    }

    fn could_be(&self, node: NodeId) -> bool {
        let properties = self.known.properties[node];
        let kept = self.known.chars(node).is_some()
            || !self.apart.all && !self.apart.nodes.contains(&node);
        kept && !properties.irregular
            && properties.size <= MAX_LEXEME
            && properties.height <= MAX_HEIGHT
    }

    /// The item for a node, or nothing for the empty text.
    fn item(&mut self, of: usize, node: NodeId) -> Option<Item> {
        let once = |symbol| Some(Item { symbol, min: 1, max: Some(1), node });
        if self.is_lexeme(node) {
            return once(Symbol::Lexeme(self.lexeme(node, false)));
        }
        match self.known.grammar.nodes[node] {
            Node::Chars(_) => once(Symbol::Lexeme(self.lexeme(node, false))),
            Node::Token(_) => once(Symbol::Token(node)),
            Node::Rule(rule) => {
                let body = self.known.grammar.rules[rule].body;
                once(Symbol::Rule(self.rule(rule, body)))
            }
            Node::Seq(ref parts) if parts.is_empty() => None,
            Node::Seq(_) | Node::Alt(_) => once(Symbol::Rule(self.rule(of, node))),
            Node::Repeat { max: Some(0), .. } => None,
            Node::Repeat { of: inner, min: 0, .. }
                if self.could_be(node) && !self.known.properties[inner].nullable =>
            {
                let lexeme = self.lexeme(node, true);
                Some(Item { symbol: Symbol::Lexeme(lexeme), min: 0, max: Some(1), node })
            }
            Node::Repeat { of: inner, min, max } => {
                let item = self.item(of, inner)?;
                if (item.min, item.max) == (1, Some(1)) {
                    return Some(Item { min, max, ..item });
                }
                let symbol = Symbol::Rule(self.rule(of, inner));
                Some(Item { symbol, min, max, node: inner })
            }
        }
    }

    fn lexeme(&mut self, node: NodeId, nonempty: bool) -> usize {
        let node = self.known.behind(node);
        if let Some(&lexeme) = self.lexemes.get(&(node, nonempty)) {
            return lexeme;
        }
        if self.text > MAX_TEXT {
            // the result is not used
            return 0;
        }
        let mut regex = String::new();
        match self.known.grammar.nodes[node] {
            Node::Repeat { of, max, .. } if nonempty => {
                self.known.write_repeat(of, 1, max, &mut regex);
            }
            _ => self.known.write_regex(node, &mut regex),
        }
        self.text = self.text.saturating_add(regex.len());
        let lexeme = *self.by_regex.entry(regex.clone()).or_insert_with(|| {
            self.out.lexemes.push(Lexeme { regex, node, nonempty });
            self.out.lexemes.len() - 1
        });
        self.lexemes.insert((node, nonempty), lexeme);
        lexeme
    }
}
