//! What one layer's attention is, as plain facts: every device's implementation takes this.
//!
//! Built once per layer by the decoder from the model's config. Knows no weights but those of the head
//! norms, which belong to the step between projection and rotation.

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
    /// Norms over each query and key head before the rotation.
    pub head_norm: Option<HeadNorm>,
}

/// RMS norms of query and key heads (arXiv:2302.05442 for their purpose).
#[derive(Debug, Clone, PartialEq)]
pub struct HeadNorm {
    /// `[head_dim]` each.
    pub query: Vec<f32>,
    /// The key heads' weights, likewise `[head_dim]`.
    pub key: Vec<f32>,
    /// Added to the mean square before the root is taken, in both norms.
    pub eps: f32,
}

impl AttentionSpec {
    /// The first position that a token at `position` sees.
    pub fn first_seen(&self, position: usize) -> usize {
        self.window.map_or(0, |window| (position + 1).saturating_sub(window))
    }
}
