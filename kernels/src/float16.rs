//! Conversions between f32 and the two 16-bit floats, one value at a time.
//!
//! The scalar version of the hardware conversions in the kernels. It is written out because widening must be exact, and
//! narrowing must round to nearest even, as the hardware does. It does not know about layouts.

/// IEEE half precision to f32; exact.
pub fn f16_to_f32(bits: u16) -> f32 {
    let sign = u32::from(bits & 0x8000) << 16;
    let (exponent, fraction) = (u32::from(bits >> 10) & 31, u32::from(bits) & 0x3ff);
    let magnitude = match exponent {
        0 => return f32::from_bits(sign | (fraction as f32 * 2f32.powi(-24)).to_bits()),
        31 => 0x7f80_0000 | fraction << 13,
        _ => (exponent + 112) << 23 | fraction << 13,
    };
    f32::from_bits(sign | magnitude)
}

/// f32 to IEEE half precision, to nearest even; too large becomes infinity, NaN stays NaN.
pub fn f32_to_f16(value: f32) -> u16 {
    let bits = value.to_bits();
    let (sign, magnitude) = ((bits >> 16) as u16 & 0x8000, bits & 0x7fff_ffff);
    let half = match magnitude {
        0x7f80_0001.. => 0x7e00 | (magnitude >> 13) as u16 & 0x3ff,
        // From 65520 on the nearest half is infinity.
        0x477f_f000.. => 0x7c00,
        // Normal halves: round the 13 bits that go.
        0x3880_0000.. => {
            let rounded = magnitude + 0xfff + (magnitude >> 13 & 1);
            ((rounded - (112 << 23)) >> 13) as u16
        }
        // Subnormal: adding 0.5 leaves the multiple of 2^-24 in the low bits, rounded by the addition.
        _ => ((f32::from_bits(magnitude) + 0.5).to_bits() - 0.5f32.to_bits()) as u16,
    };
    sign | half
}

/// bfloat16 to f32; exact.
pub fn bf16_to_f32(bits: u16) -> f32 {
    f32::from_bits(u32::from(bits) << 16)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_half_survives_the_round_trip() {
        for bits in 0..=u16::MAX {
            let wide = f16_to_f32(bits);
            match wide.is_nan() {
                true => assert!(f16_to_f32(f32_to_f16(wide)).is_nan()),
                false => assert_eq!(f32_to_f16(wide), bits, "{wide}"),
            }
        }
    }

    #[test]
    fn known_values_and_rounding() {
        assert_eq!(f16_to_f32(0x3c00), 1.0);
        assert_eq!(f16_to_f32(0xc001), -2.001_953_1);
        assert_eq!(f16_to_f32(1), 2f32.powi(-24));
        assert_eq!(f32_to_f16(65519.9), 0x7bff);
        assert_eq!(f32_to_f16(65520.0), 0x7c00);
        // Ties go to even: 1 + 2^-11 down, 1 + 3 * 2^-11 up.
        assert_eq!(f32_to_f16(1.0 + 2f32.powi(-11)), 0x3c00);
        assert_eq!(f32_to_f16(1.0 + 3.0 * 2f32.powi(-11)), 0x3c02);
        assert_eq!(f32_to_f16(f32::NEG_INFINITY), 0xfc00);
        assert_eq!(bf16_to_f32(0x3fc0), 1.5);
    }
}
