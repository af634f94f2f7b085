//! Stored numbers have the same values as in ggml, and the table is consistent.

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
        assert_eq!(kind.is_quantised(), kind.blocks().is_some(), "{kind}");
        if let Some(card) = kind.card() {
            assert_eq!(card.shares.iter().sum::<usize>(), format.bytes, "{kind}");
            assert_eq!(kind.is_quantised(), card.kernels.tiles.is_some(), "{kind}");
            assert_eq!(kind.is_quantised(), card.sort.is_some(), "{kind}");
        }
        assert!(other_name(kind.ggml()).is_none(), "{kind} is read");
    }
}

#[test]
fn what_is_not_finite_is_found_in_any_scale() {
    for kind in Kind::ALL {
        let mut bytes = vec![0; 3 * kind.block_bytes()];
        assert!(all_finite(kind, &bytes), "{kind}");
        let Some(blocks) = kind.blocks() else {
            // All bits set: not a number in any kind of float.
            bytes[kind.block_bytes()..2 * kind.block_bytes()].fill(0xff);
            assert!(!all_finite(kind, &bytes), "{kind}");
            continue;
        };
        for (scale, _) in blocks.scales {
            let mut bytes = vec![0; 3 * kind.block_bytes()];
            scale.put(&mut bytes[kind.block_bytes()..2 * kind.block_bytes()], f32::NAN);
            assert!(!all_finite(kind, &bytes), "{kind} at {scale:?}");
        }
    }
}

#[test]
fn scales_come_back_as_they_are_put() {
    let halves = [0.0, 1.0, -0.5, f32::from_bits(0x3380_0000), 65504.0];
    for value in halves {
        for scale in [Scale::F16(3), Scale::Spread16(2)] {
            let mut block = [0x5a; 12];
            scale.put(&mut block, value);
            assert_eq!(scale.get(&block), value, "{scale:?}");
        }
    }
    let mut block = [0x5a; 12];
    Scale::Spread16(2).put(&mut block, -1.5);
    assert!([3, 5, 7, 9].iter().all(|at| block[*at] & 15 == 0xa), "what else the words hold stays");
    for exponent in 0..=254 {
        let (scale, mut block) = (Scale::Exponent(1), [0, exponent]);
        let value = scale.get(&block);
        assert_eq!(f64::from(value), 2f64.powi(i32::from(exponent) - 128));
        for near in [0.75 * value, value, 1.4 * value] {
            if exponent > 1 {
                scale.put(&mut block, near);
                assert_eq!(scale.get(&block), value, "{near}");
            }
        }
    }
}

/// Random weights have about the spread that is asked for, and the mean 0.
#[test]
fn random_blocks_have_the_spread_that_is_asked_for() {
    for kind in Kind::ALL.into_iter().filter(|kind| kind.is_quantised()) {
        let blocks = 60_000 / kind.block();
        let mut state = 7u64;
        let mut random = || {
            state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            (state >> 40) as u8
        };
        let mut bytes: Vec<u8> = (0..blocks * kind.block_bytes()).map(|_| random()).collect();
        bytes.chunks_exact_mut(kind.block_bytes()).for_each(|block| kind.spread(block, 0.02));
        let mut values = vec![0.0; blocks * kind.block()];
        dequantise(kind, &bytes, &mut values);
        let count = values.len() as f64;
        let mean = values.iter().map(|v| f64::from(*v)).sum::<f64>() / count;
        let square = values.iter().map(|v| f64::from(*v).powi(2)).sum::<f64>() / count;
        assert!(mean.abs() < 0.0015, "{kind}: mean {mean}");
        let ratio = square.sqrt() / 0.02;
        assert!((0.95..1.05).contains(&ratio), "{kind}: {ratio} times the spread");
    }
}
