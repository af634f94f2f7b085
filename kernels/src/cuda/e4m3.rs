//! The values of FP8 numbers (E4M3), and rounding to them, for known answers. Values follow the definition in the OCP
//! 8-bit floating point specification; rounding is done by search. It shares no code with the kernels.

/// The largest number.
pub(crate) const LARGEST: f64 = 448.0;

/// What a byte means: a sign, four bits of exponent with a bias of 7, three of mantissa.
pub(crate) fn value(byte: u8) -> f64 {
    let (exponent, mantissa) = (i32::from(byte >> 3 & 15), f64::from(byte & 7));
    let magnitude = match (exponent, byte & 7) {
        (15, 7) => f64::NAN,
        (0, _) => mantissa / 8.0 * 2f64.powi(-6),
        _ => (1.0 + mantissa / 8.0) * 2f64.powi(exponent - 7),
    };
    if byte < 128 { magnitude } else { -magnitude }
}

/// The byte that means the number next to `v`; of two as near the one with an even mantissa. Numbers beyond the largest
/// become that.
pub(crate) fn nearest(v: f64) -> u8 {
    if v.is_nan() {
        return 0x7f;
    }
    let (sign, magnitude) = (if v.is_sign_negative() { 0x80 } else { 0 }, v.abs().min(LARGEST));
    let off = |byte: u8| ((value(byte) - magnitude).abs(), byte & 1);
    let best = (0..0x7f).min_by(|a, b| off(*a).partial_cmp(&off(*b)).expect("finite"));
    sign | best.expect("not empty")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_specifications_examples_hold() {
        let examples = [
            (0x00, 0.0),
            (0x01, 2f64.powi(-9)),
            (0x07, 0.875 * 2f64.powi(-6)),
            (0x08, 2f64.powi(-6)),
            (0x38, 1.0),
            (0x7e, LARGEST),
            (0xfe, -LARGEST),
        ];
        for (byte, number) in examples {
            assert_eq!(value(byte), number, "{byte:02x}");
            assert_eq!(nearest(number), byte, "{number}");
        }
        assert!(value(0x7f).is_nan() && value(0xff).is_nan());
    }

    #[test]
    fn ties_go_to_the_even_mantissa_and_large_numbers_to_the_largest() {
        assert_eq!([1.0625, 1.1875].map(nearest), [0x38, 0x3a]);
        assert_eq!([2f64.powi(-10), 3.0 * 2f64.powi(-10)].map(nearest), [0x00, 0x02]);
        assert_eq!([449.0, 1e9, f64::INFINITY, -464.1].map(nearest), [0x7e, 0x7e, 0x7e, 0xfe]);
    }
}
