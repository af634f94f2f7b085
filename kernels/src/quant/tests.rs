//! Stored numbers mean what ggml means, and the table is in order.

use super::*;

/// Rows and values that ggml has quantised and turned back; see scripts/quant_golden.py.
const GOLDEN: &[u8] = include_bytes!("golden.bin");

#[test]
fn values_are_what_ggml_gives() {
    let (mut rest, count) = (GOLDEN, 2 * 512);
    for kind in &Kind::ALL[1..] {
        let (stored, after) = rest.split_at(2 * kind.row_bytes(512).unwrap());
        let (values, after) = after.split_at(count * 4);
        rest = after;
        let mut got = vec![0.0; count];
        dequantise_row(*kind, stored, &mut got);
        let values: Vec<f32> =
            values.as_chunks::<4>().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect();
        for (got, want) in got.iter().zip(&values) {
            assert!((got - want).abs() <= 1e-6 * want.abs(), "{kind:?}: {got} instead of {want}");
        }
    }
    assert!(rest.is_empty());
}

#[test]
fn each_kind_is_found_by_its_number_and_fills_its_planes() {
    for kind in Kind::ALL {
        assert_eq!(Kind::from_ggml(kind.ggml()), Ok(kind));
        let format = kind.format();
        assert_eq!(format.card.shares.iter().sum::<usize>(), format.bytes, "{kind}");
        assert_eq!(kind.is_quantised(), kind.blocks().is_some(), "{kind}");
        assert_eq!(kind.is_quantised(), format.card.kernels.tiles.is_some(), "{kind}");
        assert!(other_name(kind.ggml()).is_none(), "{kind} is read");
    }
}

#[test]
fn what_is_not_finite_is_found_in_any_scale() {
    for kind in Kind::ALL {
        let scales: &[(usize, f32)] = kind.blocks().map_or(&[(0, 0.0)], |blocks| blocks.scales);
        for (at, _) in scales {
            let mut bytes = vec![0; 3 * kind.block_bytes()];
            assert!(all_finite(kind, &bytes), "{kind}");
            // All bits set: not a number in any kind of float.
            bytes[kind.block_bytes() + at..][..kind.block_bytes().min(2)].fill(0xff);
            if kind == Kind::F32 {
                bytes.fill(0xff);
            }
            assert!(!all_finite(kind, &bytes), "{kind} at {at}");
        }
    }
}
