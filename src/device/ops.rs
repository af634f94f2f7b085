//! The small steps of a decoder layer on plain slices: norms, gated activations, sums, soft caps.
//!
//! One clear loop each, the reference that faster or other devices' versions are tested against. Knows no
//! model family; a family's choices arrive as arguments.

/// What the gate of the feed-forward part goes through.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Activation {
    /// `x * sigmoid(x)` (SwiGLU, arXiv:2002.05202).
    Silu,
    /// GELU in its tanh form (arXiv:1606.08415).
    GeluTanh,
}

impl Activation {
    fn apply(self, x: f32) -> f32 {
        match self {
            Activation::Silu => x / (1.0 + (-x).exp()),
            Activation::GeluTanh => {
                let root = (2.0 / std::f32::consts::PI).sqrt();
                0.5 * x * (1.0 + (root * (x + 0.044_715 * x * x * x)).tanh())
            }
        }
    }
}

/// Root-mean-square norm (arXiv:1910.07467) of each row of `x`, `[n][weight.len()]`, in place.
pub fn rms_norm(x: &mut [f32], weight: &[f32], eps: f32) {
    for row in x.chunks_exact_mut(weight.len()) {
        let scale = 1.0 / (dot(row, row) / row.len() as f32 + eps).sqrt();
        for (value, weight) in row.iter_mut().zip(weight) {
            *value = *value * scale * weight;
        }
    }
}

/// Dot product in eight running sums, so that the compiler can keep them in one vector register.
pub fn dot(a: &[f32], b: &[f32]) -> f32 {
    let mut sums = [0.0f32; 8];
    let (a8, b8) = (a.chunks_exact(8), b.chunks_exact(8));
    let tail: f32 = a8.remainder().iter().zip(b8.remainder()).map(|(x, y)| x * y).sum();
    for (x, y) in a8.zip(b8) {
        for i in 0..8 {
            sums[i] += x[i] * y[i];
        }
    }
    sums.iter().sum::<f32>() + tail
}

/// `x += y`, element by element.
pub fn add(x: &mut [f32], y: &[f32]) {
    for (x, y) in x.iter_mut().zip(y) {
        *x += y;
    }
}

/// Adds `bias` to each row of `x`, `[n][bias.len()]`.
pub fn add_bias(x: &mut [f32], bias: &[f32]) {
    x.chunks_exact_mut(bias.len()).for_each(|row| add(row, bias));
}

/// `activation(gate) * up` for rows `[gate | up]` of `2 * width` values; returns `[n][width]`.
pub fn gate(gate_up: &[f32], width: usize, activation: Activation) -> Vec<f32> {
    let rows = gate_up.chunks_exact(2 * width).map(|row| row.split_at(width));
    rows.flat_map(|(gate, up)| gate.iter().zip(up).map(|(g, u)| activation.apply(*g) * u)).collect()
}

/// `cap * tanh(x / cap)`: bends values smoothly into `-cap..cap` (Gemma 2, arXiv:2408.00118).
pub fn soft_cap(x: &mut [f32], cap: f32) {
    for value in x {
        *value = (*value / cap).tanh() * cap;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_norm_makes_unit_rows_and_weighs_them() {
        let mut x = [3.0, -4.0, 30.0, -40.0];
        rms_norm(&mut x, &[1.0, 2.0], 0.0);
        let root = 12.5f32.sqrt();
        for (got, want) in x.iter().zip([3.0 / root, -8.0 / root, 3.0 / root, -8.0 / root]) {
            assert!((got - want).abs() < 1e-6, "{got} {want}");
        }
    }

    #[test]
    fn gates_open_for_positive_values() {
        let out = gate(&[20.0, -20.0, 2.0, 2.0], 2, Activation::Silu);
        assert!((out[0] - 40.0).abs() < 1e-3 && out[1].abs() < 1e-3, "{out:?}");
        let gelu = Activation::GeluTanh.apply(1.0);
        assert!((gelu - 0.841_192).abs() < 1e-5, "{gelu}");
    }

    #[test]
    fn soft_caps_bend_and_never_exceed() {
        let mut x = [0.01, 1000.0, -1000.0];
        soft_cap(&mut x, 5.0);
        assert!((x[0] - 0.01).abs() < 1e-6);
        assert_eq!(x[1..], [5.0, -5.0]);
    }
}
