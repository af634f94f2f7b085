//! Computes RoPE frequencies from a config.
//!
//! Both spellings are supported: `rope_theta` and `rope_scaling` at the top level (transformers 4), and
//! `rope_parameters` with everything inside (transformers 5). Scaling methods: none, linear (position
//! interpolation, arXiv:2306.15595), llama3 (arXiv:2407.21783), YaRN (arXiv:2309.00071) and LongRoPE
//! (arXiv:2402.13753). Frequencies are computed in f32, as in the reference: at position 100,000 the last bit
//! of a frequency matters.

use super::{Fields, ModelConfig};
use crate::device::{LongRope, Rope};

/// The inputs of the scaling methods.
struct ScalingInputs<'a> {
    /// The object that describes the scaling, if there is one.
    params: Option<Fields<'a>>,
    theta: f64,
    /// Number of values of a head that are rotated.
    dim: usize,
    max_len: usize,
    /// Number of positions in pretraining.
    original: usize,
}

/// The object with RoPE parameters, in either spelling. Fails if it is no object.
pub fn params<'a>(fields: &Fields<'a>) -> Result<Option<Fields<'a>>, String> {
    match fields.object("rope_scaling")? {
        Some(scaling) => Ok(Some(scaling)),
        None => fields.object("rope_parameters"),
    }
}

/// The rotary embedding of the layers without a window, then that of the windowed ones; `thetas` are their default
/// bases. `rope_scaling` applies to the former only. Fails if one of them is not valid or not supported.
pub fn full_and_sliding(
    fields: &Fields<'_>,
    config: &ModelConfig,
    thetas: [f64; 2],
) -> Result<Vec<Rope>, String> {
    let nested = fields.object("rope_parameters")?;
    let of = |kind: &str| nested.map_or(Ok(None), |nested| nested.object(kind));
    let full = match fields.object("rope_scaling")? {
        Some(scaling) => Some(scaling),
        None => of("full_attention")?,
    };
    Ok(vec![
        read(fields, config, full, thetas[0])?,
        read(fields, config, of("sliding_attention")?, thetas[1])?,
    ])
}

/// The rotary embedding that `params` describe; `theta` is the default base. Fails if they are not valid or not
/// supported.
pub fn read(
    fields: &Fields<'_>,
    config: &ModelConfig,
    params: Option<Fields<'_>>,
    theta: f64,
) -> Result<Rope, String> {
    read_partial(fields, config, params, theta, 1.0)
}

/// As [`read`], for families that turn the share `partial` of each head if the config does not say how much. Fails as
/// it does.
pub fn read_partial(
    fields: &Fields<'_>,
    config: &ModelConfig,
    params: Option<Fields<'_>>,
    theta: f64,
    partial: f64,
) -> Result<Rope, String> {
    let number = |key: &str| params.map_or(Ok(None), |params| params.number(key));
    let theta = number("rope_theta")?.unwrap_or(theta);
    let partial = match number("partial_rotary_factor")? {
        Some(partial) => partial,
        None => fields.number("partial_rotary_factor")?.unwrap_or(partial),
    };
    if !(theta > 0.0 && partial > 0.0 && partial <= 1.0) {
        return Err(format!(
            "`rope_theta` {theta} or `partial_rotary_factor` {partial} is out of range"
        ));
    }
    let given = match fields.size("original_max_position_embeddings")? {
        Some(original) => Some(original),
        None => match params {
            Some(params) => params.size("original_max_position_embeddings")?,
            None => None,
        },
    };
    let inputs = ScalingInputs {
        params,
        theta,
        dim: (config.head_dim as f64 * partial) as usize,
        max_len: config.max_len,
        original: given.unwrap_or(config.max_len),
    };
    inputs.rope()
}

/// The top-level `rope_theta`, or transformers' default. Fails if it is no number.
pub fn theta(fields: &Fields<'_>) -> Result<f64, String> {
    Ok(fields.number("rope_theta")?.unwrap_or(10_000.0))
}

impl ScalingInputs<'_> {
    fn rope(&self) -> Result<Rope, String> {
        let kind = self.params.and_then(|p| p.text("rope_type").or_else(|| p.text("type")));
        match kind.unwrap_or("default") {
            "default" => Ok(plain(self.plain())),
            "linear" => {
                let factor = self.need("factor")? as f32;
                Ok(plain(self.plain().into_iter().map(|f| f / factor).collect()))
            }
            "llama3" => self.llama3(),
            "yarn" => self.yarn(),
            // Phi-3's first checkpoints call it "su".
            "longrope" | "su" => self.longrope(),
            other => Err(format!(
                "rope type `{other}` is not supported; supported: default, linear, llama3, yarn, longrope"
            )),
        }
    }

    fn plain(&self) -> Vec<f32> {
        self.powers().map(|power| 1.0 / power).collect()
    }

    /// `theta^(i / dim)` for even `i`.
    fn powers(&self) -> impl Iterator<Item = f32> {
        let (theta, dim) = (self.theta as f32, self.dim as f32);
        (0..self.dim).step_by(2).map(move |i| theta.powf(i as f32 / dim))
    }

    fn number(&self, key: &str) -> Result<Option<f64>, String> {
        self.params.map_or(Ok(None), |params| params.number(key))
    }

    fn need(&self, key: &str) -> Result<f64, String> {
        let number = self.number(key)?.filter(|n| n.is_finite() && *n > 0.0);
        number.ok_or_else(|| format!("the rope parameters have no `{key}` above 0"))
    }

    /// Divides the frequencies of long wavelengths, keeps short ones, and blends in between.
    fn llama3(&self) -> Result<Rope, String> {
        let (factor, low, high) = (
            self.need("factor")? as f32,
            self.need("low_freq_factor")? as f32,
            self.need("high_freq_factor")? as f32,
        );
        let original = self.original as f32;
        let scaled = |freq: f32| {
            let wavelength = 2.0 * std::f32::consts::PI / freq;
            if wavelength < original / high {
                freq
            } else if wavelength > original / low {
                freq / factor
            } else {
                let smooth = (original / wavelength - low) / (high - low);
                (1.0 - smooth) * freq / factor + smooth * freq
            }
        };
        Ok(plain(self.plain().into_iter().map(scaled).collect()))
    }

    /// Interpolates slow pairs, keeps fast ones, and ramps in between; also sharpens attention a little.
    fn yarn(&self) -> Result<Rope, String> {
        let factor = self.need("factor")?;
        let turns = |key: &str, default: f64| Ok(self.number(key)?.unwrap_or(default));
        let (fast, slow): (f64, f64) = match (turns("beta_fast", 32.0), turns("beta_slow", 1.0)) {
            (Ok(fast), Ok(slow)) => (fast, slow),
            (Err(e), _) | (_, Err(e)) => return Err(e),
        };
        let dim = self.dim as f64;
        // The pair that makes this number of turns within the original context.
        let pair = |turns: f64| {
            let length = self.original as f64 / (turns * 2.0 * std::f64::consts::PI);
            dim * length.ln() / (2.0 * self.theta.ln())
        };
        let truncate = self.params.map_or(Ok(None), |p| p.flag("truncate"))?.unwrap_or(true);
        let round = |pair: f64, to: fn(f64) -> f64| if truncate { to(pair) } else { pair };
        let low = round(pair(fast), f64::floor).max(0.0) as f32;
        let mut high = round(pair(slow), f64::ceil).min(dim - 1.0) as f32;
        if low == high {
            high += 0.001;
        }
        let blend = |(i, power): (usize, f32)| {
            let ramp = ((i as f32 - low) / (high - low)).clamp(0.0, 1.0);
            let (kept, stretched) = (1.0 / power, 1.0 / (factor as f32 * power));
            stretched * ramp + kept * (1.0 - ramp)
        };
        let inv_freq = self.powers().enumerate().map(blend).collect();
        Ok(Rope { factor: self.yarn_factor(factor)? as f32, ..plain(inv_freq) })
    }

    fn yarn_factor(&self, factor: f64) -> Result<f64, String> {
        if let Some(given) = self.number("attention_factor")? {
            return Ok(given);
        }
        let scale = |m: f64| if factor <= 1.0 { 1.0 } else { 0.1 * m * factor.ln() + 1.0 };
        Ok(match (self.number("mscale")?, self.number("mscale_all_dim")?) {
            (Some(one), Some(all)) if one != 0.0 && all != 0.0 => scale(one) / scale(all),
            _ => scale(1.0),
        })
    }

    /// Two sets of divisors, one per pair: for sequences within the original context and beyond it.
    fn longrope(&self) -> Result<Rope, String> {
        let original = self.original as f64;
        let list = |key: &str| -> Result<Vec<f32>, String> {
            let list = self.params.map_or(Ok(None), |params| params.numbers(key))?;
            let list = list.ok_or_else(|| format!("the rope parameters have no `{key}`"))?;
            if list.len() != self.dim.div_ceil(2) {
                let pairs = self.dim.div_ceil(2);
                return Err(format!("`{key}` has {} entries for {pairs} pairs", list.len()));
            }
            Ok(list
                .iter()
                .zip(self.powers())
                .map(|(factor, power)| 1.0 / (factor * power))
                .collect())
        };
        let stretch = self.number("factor")?.unwrap_or(self.max_len as f64 / original);
        let factor = match self.number("attention_factor")? {
            Some(given) => given,
            None if stretch <= 1.0 => 1.0,
            None => (1.0 + stretch.ln() / original.ln()).sqrt(),
        };
        let long = LongRope { beyond: self.original, inv_freq: list("long_factor")? };
        Ok(Rope { inv_freq: list("short_factor")?, factor: factor as f32, long: Some(long) })
    }
}

fn plain(inv_freq: Vec<f32>) -> Rope {
    Rope { inv_freq, factor: 1.0, long: None }
}
