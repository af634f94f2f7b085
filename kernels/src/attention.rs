//! The parameters of one layer's attention, as plain data: the input of every device's implementation.
//!
//! Built once per layer by the decoder from the model's config. It holds no weights except those of the head norms,
//! which are applied between projection and rotation.

/// One layer's attention.
#[derive(Debug, Clone, PartialEq)]
pub struct AttentionSpec {
    /// Query heads; the cache's shape says how many key heads they share and how wide a head is.
    pub heads: usize,
    /// Multiplies each score.
    pub scale: f32,
    /// Positions that a token sees, its own included; `None` sees all before it.
    pub window: Option<usize>,
    /// Scores are bent into `-cap..cap` before the softmax.
    pub soft_cap: Option<f32>,
    /// Norms of queries and keys before the rotation.
    pub head_norm: Option<HeadNorm>,
    /// Multiplies queries after the rotation, by their position.
    pub query_scale: Option<QueryScale>,
}

/// RMS norms of queries and keys (arXiv:2302.05442 for their purpose).
#[derive(Debug, Clone, PartialEq)]
pub struct HeadNorm {
    /// `[head_dim]`: each query head is normed by itself; or `[heads * head_dim]`: all heads of a token are one row.
    pub query: Vec<f32>,
    /// The same for key heads: `[head_dim]` or `[kv_heads * head_dim]`.
    pub key: Vec<f32>,
    /// Added to the mean square before the root is taken, in both norms.
    pub eps: f32,
}

/// A factor of queries that grows with the position, so that attention stays sharp over long contexts (Llama 4,
/// Ministral 3): `1 + beta * ln(1 + floor(position / period))`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct QueryScale {
    /// How fast the factor grows.
    pub beta: f32,
    /// Positions over which it stays the same.
    pub period: u32,
}

impl QueryScale {
    /// The factor at a position.
    pub fn at(self, position: u32) -> f32 {
        1.0 + self.beta * ((position / self.period.max(1)) as f32).ln_1p()
    }
}

impl AttentionSpec {
    /// The first position that a token at `position` sees.
    pub fn first_seen(&self, position: usize) -> usize {
        self.window.map_or(0, |window| (position + 1).saturating_sub(window))
    }
}
