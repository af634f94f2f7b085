//! Names and shapes of a model's matrices, derived from its family's layout and its config. Reads no files.

use super::config::ModelConfig;
use super::layout;

/// One weight matrix that a decoder needs: its name, and `[outputs, inputs]`.
pub type Wanted = (String, [usize; 2]);

/// Names and shapes of one layer's matrices.
#[derive(Clone, Copy)]
pub(super) struct Names<'a> {
    pub config: &'a ModelConfig,
    pub index: usize,
}

impl Names<'_> {
    /// The embedding: `[vocab, hidden]`.
    pub fn embedding(config: &ModelConfig) -> Wanted {
        (layout::EMBEDDING.to_owned(), [config.vocab, config.hidden])
    }

    /// The output head: `[vocab, hidden]`.
    pub fn head(config: &ModelConfig) -> Wanted {
        (layout::HEAD.to_owned(), [config.vocab, config.hidden])
    }

    /// All of the layer's matrices; those that share their input are grouped.
    pub fn projections(self) -> [Vec<Wanted>; 4] {
        [self.qkv(), self.out(), self.gate_up(), self.down()]
    }

    /// Queries, keys and values: three matrices, or one where the family stores them fused.
    pub fn qkv(self) -> Vec<Wanted> {
        let c = self.config;
        let (q, kv) = (c.heads * c.head_dim, c.kv_heads * c.head_dim);
        self.wanted(c.layout.qkv, &[q, kv, kv], c.hidden)
    }

    /// The projection of attention's output.
    pub fn out(self) -> Vec<Wanted> {
        let c = self.config;
        self.wanted(&[c.layout.out], &[c.hidden], c.heads * c.head_dim)
    }

    /// Gate and up of the feed-forward part: two matrices, or one where the family stores them fused.
    pub fn gate_up(self) -> Vec<Wanted> {
        let c = self.config;
        self.wanted(c.layout.mlp.gate_up, &[c.intermediate, c.intermediate], c.hidden)
    }

    /// The feed-forward part's last matrix.
    pub fn down(self) -> Vec<Wanted> {
        let c = self.config;
        self.wanted(&[c.layout.mlp.down], &[c.hidden], c.intermediate)
    }

    /// `names`: one per entry of `outputs`, or a single one that contains them all.
    fn wanted(self, names: &[&str], outputs: &[usize], inputs: usize) -> Vec<Wanted> {
        let all = [outputs.iter().sum()];
        let outputs = if names.len() == 1 { &all } else { outputs };
        let name = |name: &&str| layout::in_layer(self.index, &format!("{name}.weight"));
        names.iter().map(name).zip(outputs).map(|(name, n)| (name, [*n, inputs])).collect()
    }
}
