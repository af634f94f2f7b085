//! Kinds that have no GPU kernels: GPUs store them as another kind, their stand-in.
//!
//! The stand-in has the same numbers. For MXFP4 and Q3_K they are exact (as long as an f16 can hold the scale). For the
//! other kinds with one scale per 32 numbers they are exact except for the rounding of that scale to f16. Kinds with
//! minima, or with scales for fewer numbers, become f16. A stand-in takes more memory than the file. It does not use a
//! GPU.

use super::{Content, Kind, iq4_nl, q6_k};
use half::f16;

impl Kind {
    /// The kind that a card keeps these weights in: its own if there are kernels for it.
    pub fn on_card(self) -> Kind {
        match self {
            kind if kind.is_on_cards() => kind,
            Kind::IQ4XS => Kind::IQ4NL,
            Kind::MXFP4 | Kind::IQ3XXS | Kind::IQ3S | Kind::IQ2XXS => Kind::Q8_0,
            Kind::Q3K => Kind::Q6K,
            _ => Kind::F16,
        }
    }
}

/// Whole stored blocks of `kind` as those of its stand-in; `None` if that is [`Kind::F16`].
pub fn stand_in(kind: Kind, bytes: &[u8]) -> Option<Vec<u8>> {
    let Content::Blocks(blocks) = &kind.format().content else { return None };
    let mut out = Vec::with_capacity(bytes.len() * 2);
    for stored in bytes.chunks_exact(kind.block_bytes()) {
        let to = kind.on_card();
        let block = if to == Kind::IQ4NL { (blocks.parse)(stored) } else { blocks.open(stored) };
        if to == Kind::Q6K {
            q6_k::store(&block, &mut out);
            continue;
        }
        let groups = block.q[..kind.block()].as_chunks::<32>().0.iter();
        for (q, scale) in groups.zip(block.scale.as_chunks::<2>().0) {
            let d = block.d * f32::from(scale[0]);
            match to {
                Kind::IQ4NL => iq4_nl::store(q, d, &mut out),
                Kind::Q8_0 => {
                    out.extend_from_slice(&f16::from_f32(d).to_le_bytes());
                    out.extend(q.iter().map(|q| q.wrapping_sub(block.zero)));
                }
                _ => return None,
            }
        }
    }
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::quant::dequantise_row;

    /// Random blocks with scales as models have them.
    fn random(kind: Kind) -> Vec<u8> {
        let mut state = 0x9e37_79b9_7f4a_7c15u64;
        let mut bytes: Vec<u8> = (0..64 * kind.block_bytes())
            .map(|_| {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                (state >> 56) as u8
            })
            .collect();
        bytes.chunks_exact_mut(kind.block_bytes()).for_each(|block| kind.spread(block, 0.02));
        bytes
    }

    #[test]
    fn a_stand_in_has_the_same_numbers() {
        for kind in Kind::ALL.into_iter().filter(|kind| !kind.is_on_cards()) {
            let (to, bytes) = (kind.on_card(), random(kind));
            assert!(to.is_on_cards(), "{kind}");
            let Some(stored) = stand_in(kind, &bytes) else {
                assert_eq!(to, Kind::F16, "{kind}");
                continue;
            };
            let (mut wanted, mut got) =
                (vec![0.0; 64 * kind.block()], vec![0.0; 64 * kind.block()]);
            assert_eq!(stored.len(), to.row_bytes(got.len()).unwrap(), "{kind}");
            dequantise_row(kind, &bytes, &mut wanted);
            dequantise_row(to, &stored, &mut got);
            let exact = matches!(kind, Kind::MXFP4 | Kind::Q3K);
            // A scale's last bit, and half a step of f16's smallest numbers times the largest number.
            let [part, least] =
                if exact { [0.0; 2] } else { [2f32.powi(-11), 127.0 * 2f32.powi(-25)] };
            for (got, want) in got.iter().zip(&wanted) {
                let limit = part * want.abs() + least;
                assert!((got - want).abs() <= limit, "{kind}: {got} for {want}");
            }
            assert!(wanted.iter().filter(|v| **v != 0.0).count() > wanted.len() / 2, "{kind}");
        }
    }

    #[test]
    fn kinds_with_kernels_stay_what_they_are() {
        for kind in Kind::on_cards() {
            assert_eq!(kind.on_card(), kind);
        }
    }
}
