//! The flat description of one step, as kernels read it: the sequences follow each other without padding.
//!
//! Built by the scheduler, read by the model and the device. It does not know the past or the owner of a sequence.
//! Block tables and slots follow PagedAttention (Kwon et al., SOSP 2023, arXiv:2309.06180).

/// One step's work. All vectors are reused from step to step.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Batch {
    /// Token ids, `[tokens]`, each below the vocabulary size; 0 for one that only the device knows ([`Row::drawn`]).
    pub tokens: Vec<u32>,
    /// Position of each token in its sequence, `[tokens]`.
    pub positions: Vec<u32>,
    /// KV slot each token is written to, `[tokens]`: `block * block_size + offset`.
    pub slots: Vec<u32>,
    /// One entry per sequence in this step.
    pub rows: Vec<Row>,
    /// The rows' block tables, end to end.
    pub tables: Vec<u32>,
}

/// One sequence's share of a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Row {
    /// First token in `Batch::tokens`.
    pub start: usize,
    /// Tokens computed in this step (1 when decoding, a chunk when prefilling).
    pub len: usize,
    /// Tokens in the KV cache once this step is done.
    pub context: usize,
    /// Tokens of the whole sequence so far, those of later steps included.
    pub total: usize,
    /// First entry in `Batch::tables`.
    pub table: usize,
    /// Entries in `Batch::tables`.
    pub table_len: usize,
    /// Whether the last token's logits are wanted, to sample the next token.
    pub sample: bool,
    /// Tokens whose logits are wanted to score the known token after each: those before the sampling
    /// one, or the last ones when nothing is sampled. 0 in ordinary steps.
    pub scored: usize,
    /// Set if the row's only token is not known here yet: it is the id that the step before draws for its row with
    /// this number.
    pub drawn: Option<usize>,
}

impl Row {
    /// Tokens at the end of the row whose logits are wanted.
    pub fn wanted(&self) -> usize {
        self.scored + usize::from(self.sample)
    }
}

impl Batch {
    /// Empties all vectors; their memory is kept for the next step.
    pub fn clear(&mut self) {
        self.tokens.clear();
        self.positions.clear();
        self.slots.clear();
        self.rows.clear();
        self.tables.clear();
    }

    /// Whether no sequence is in this step.
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// Rows at the beginning that have one token each, in the order of the tokens.
    pub fn decodes(&self) -> usize {
        let decodes = |(i, row): &(usize, &Row)| row.len == 1 && row.start == *i;
        self.rows.iter().enumerate().take_while(decodes).count()
    }

    /// Whether each row has exactly one token.
    pub fn is_decode(&self) -> bool {
        self.decodes() == self.rows.len()
    }

    /// A row's block table.
    pub fn table(&self, row: &Row) -> &[u32] {
        &self.tables[row.table..row.table + row.table_len]
    }

    /// Indices into `tokens` of the tokens whose logits are wanted, in order.
    pub fn wanted_tokens(&self) -> impl Iterator<Item = usize> + '_ {
        self.rows.iter().flat_map(|r| r.start + r.len - r.wanted()..r.start + r.len)
    }
}
