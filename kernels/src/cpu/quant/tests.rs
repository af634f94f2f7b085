//! Every kernel compared with dequantised rows in f64, on every instruction set of this machine; packing compared with
//! ggml's own dequantisation.

use super::*;
use crate::cpu::isa::Isa;
use crate::quant::dequantise_row;
use proptest::prelude::*;
use std::sync::Arc;

/// Random bytes that make a valid matrix: scales are set to small finite numbers.
fn stored(kind: Kind, rows: usize, cols: usize, seed: u64) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    let mut bytes: Vec<u8> =
        (0..kind.row_bytes(cols).unwrap() * rows).map(|_| (next() >> 32) as u8).collect();
    for block in bytes.chunks_exact_mut(kind.block_bytes()) {
        // f16 between 2^-7 and 2^-6, either sign.
        let mut half = || (0x2000 | (next() >> 40) as u16 & 0x83ff).to_le_bytes();
        match kind {
            Kind::F32 => {
                let value = f32::from(half()[0] as i8) / 77.0;
                block.copy_from_slice(&value.to_le_bytes());
            }
            Kind::F16 => block.copy_from_slice(&half()),
            Kind::BF16 => block[1] = block[1] & 0x80 | 0x3e,
            _ => {
                for (scale, _) in kind.blocks().unwrap().scales {
                    scale.put(block, crate::float16::f16_to_f32(u16::from_le_bytes(half())));
                }
            }
        }
    }
    bytes
}

fn inputs(len: usize, seed: u64) -> Vec<f32> {
    stored(Kind::F16, 1, len, seed ^ 0x5555)
        .chunks_exact(2)
        .map(|b| 300.0 * crate::float16::f16_to_f32(u16::from_le_bytes([b[0], b[1]])))
        .collect()
}

fn dense_rows(kind: Kind, rows: usize, cols: usize, bytes: &[u8]) -> Vec<f32> {
    let mut out = vec![0.0; rows * cols];
    let stored = bytes.chunks_exact(kind.row_bytes(cols).unwrap());
    for (out, row) in out.chunks_exact_mut(cols).zip(stored) {
        dequantise_row(kind, row, out);
    }
    out
}

/// The product in f64 and, per output, the sum of absolute products: the scale of rounding errors.
fn by_the_book(weights: &[f32], x: &[f32], cols: usize) -> Vec<(f64, f64)> {
    let one = |x: &[f32], w: &[f32]| {
        let terms = x.iter().zip(w).map(|(a, b)| f64::from(*a) * f64::from(*b));
        (terms.clone().sum::<f64>(), terms.map(f64::abs).sum::<f64>())
    };
    let vectors = x.chunks_exact(cols);
    vectors.flat_map(|x| weights.chunks_exact(cols).map(move |w| one(x, w))).collect()
}

fn scratch(isa: Isa, threads: usize) -> Scratch {
    Scratch::new(Arc::new(Pool::new(threads)), isa)
}

fn run(matrix: &QMatrix, x: &[f32], n: usize, isa: Isa, threads: usize) -> Vec<f32> {
    let mut out = vec![f32::NAN; n * matrix.rows()];
    matrix.matmul(x, n, &mut out, &mut scratch(isa, threads));
    out
}

fn check(kind: Kind, rows: usize, blocks: usize, n: usize, seed: u64) {
    let cols = blocks * kind.block();
    let bytes = stored(kind, rows, cols, seed);
    let matrix = QMatrix::new(kind, rows, cols, &bytes).unwrap();
    let weights = dense_rows(kind, rows, cols, &bytes);
    let x = inputs(n * cols, seed);
    let expected = by_the_book(&weights, &x, cols);
    // Rounding the input to 8 bits errs by at most 1/254 of the largest value of a block (here at most
    // 2.2 times any other) in every term, at random.
    let slack = if !kind.is_quantised() { 1e-5 } else { 0.012 };
    let twin = run(&matrix, &x, n, Isa::SCALAR, 1);
    for isa in Isa::available() {
        let got = run(&matrix, &x, n, isa, 3);
        for (i, (got, (value, size))) in got.iter().zip(&expected).enumerate() {
            let error = (f64::from(*got) - value).abs();
            assert!(error <= slack * size + 1e-6, "{kind:?} {isa:?} {i}: {got} against {value}");
            let error = (got - twin[i]).abs();
            assert!(f64::from(error) <= 2e-5 * size + 1e-7, "{kind:?} {isa:?} {i}: not its twin's");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]
    #[test]
    fn products_are_right_at_odd_sizes(
        kind in 0..Kind::ALL.len(), rows in 1usize..70, blocks in 1usize..5, n in 1usize..21, seed: u64,
    ) {
        check(Kind::ALL[kind], rows, blocks, n, seed);
    }
}

#[test]
fn every_kind_and_width() {
    for kind in Kind::ALL {
        for n in [1, 2, 3, 4, 5, 8, 9, 16, 27] {
            check(kind, 33, if !kind.is_quantised() { 67 } else { 3 }, n, 11);
        }
    }
}

/// The largest weights and inputs there are must not overflow 16-bit sums on the way.
#[test]
fn extremes_do_not_saturate() {
    for kind in Kind::ALL.into_iter().filter(|k| k.is_quantised()) {
        let ends =
            [0xff, 0x7f, 0x80, 0x00].into_iter().flat_map(|byte| [(byte, 1.0), (byte, -1.0)]);
        for (byte, sign) in ends {
            let mut bytes = vec![byte; kind.row_bytes(512).unwrap() * 16];
            for block in bytes.chunks_exact_mut(kind.block_bytes()) {
                for (scale, _) in kind.blocks().unwrap().scales {
                    scale.put(block, 0.0625);
                }
            }
            let matrix = QMatrix::new(kind, 16, 512, &bytes).unwrap();
            let x = vec![sign * 3.0; 512 * 5];
            let weights = dense_rows(kind, 16, 512, &bytes);
            let expected = by_the_book(&weights, &x, 512);
            for isa in Isa::available() {
                for (got, (value, size)) in run(&matrix, &x, 5, isa, 1).iter().zip(&expected) {
                    let error = (f64::from(*got) - value).abs();
                    assert!(error <= 1e-5 * size, "{kind:?} {isa:?}: {got} against {value}");
                }
            }
        }
    }
}

#[test]
fn rows_come_back_as_stored() {
    for kind in Kind::ALL {
        let (rows, cols) = (21, 2 * kind.block().max(5));
        let bytes = stored(kind, rows, cols, 3);
        let matrix = QMatrix::new(kind, rows, cols, &bytes).unwrap();
        let expected = dense_rows(kind, rows, cols, &bytes);
        let mut row = vec![0.0; cols];
        for (r, expected) in expected.chunks_exact(cols).enumerate() {
            matrix.row(r, &mut row);
            assert_eq!(row, expected, "{kind:?} row {r}");
        }
    }
}

#[test]
fn matrices_of_mixed_kinds_lie_side_by_side() {
    let kinds = [
        (Kind::Q4K, 20),
        (Kind::Q6K, 7),
        (Kind::Q8_0, 16),
        (Kind::BF16, 33),
        (Kind::IQ4XS, 5),
        (Kind::IQ2S, 17),
        (Kind::Q4_1, 3),
    ];
    let (cols, n) = (256, 11);
    let make = |&(kind, rows): &(Kind, usize)| {
        QMatrix::new(kind, rows, cols, &stored(kind, rows, cols, 5)).unwrap()
    };
    let matrices: Vec<QMatrix> = kinds.iter().map(make).collect();
    let x = inputs(n * cols, 8);
    let rows: usize = kinds.iter().map(|k| k.1).sum();
    for isa in Isa::available() {
        let mut out = vec![f32::NAN; n * rows];
        matmul_many(&matrices, &x, n, &mut out, &mut scratch(isa, 2));
        let mut from = 0;
        for matrix in &matrices {
            let alone = run(matrix, &x, n, isa, 1);
            for (i, alone) in alone.chunks_exact(matrix.rows()).enumerate() {
                assert_eq!(&out[i * rows + from..][..matrix.rows()], alone);
            }
            from += matrix.rows();
        }
    }
}

#[test]
fn a_value_that_is_not_finite_reaches_every_output_of_its_vector_only() {
    for kind in Kind::ALL {
        let bytes = stored(kind, 18, 512, 9);
        let matrix = QMatrix::new(kind, 18, 512, &bytes).unwrap();
        let mut x = inputs(3 * 512, 4);
        x[512 + 300] = f32::NAN;
        for isa in Isa::available() {
            let out = run(&matrix, &x, 3, isa, 1);
            let nan: Vec<bool> = out.iter().map(|v| v.is_nan()).collect();
            assert!(nan[18..36].iter().all(|&n| n), "{kind:?} {isa:?}");
            assert!(nan[..18].iter().chain(&nan[36..]).all(|&n| !n), "{kind:?} {isa:?}");
        }
    }
}

#[test]
fn bad_shapes_are_refused() {
    let columns = QMatrix::new(Kind::Q4K, 1, 255, &[0; 144]).err();
    assert_eq!(columns, Some(QuantError::Columns { kind: Kind::Q4K, cols: 255 }));
    let short = QMatrix::new(Kind::Q8_0, 2, 32, &[0; 67]).err();
    assert!(matches!(short, Some(QuantError::Bytes { expected: 68, found: 67, .. })));
    let huge = QMatrix::new(Kind::F32, usize::MAX / 8, 64, &[]).err();
    assert!(matches!(huge, Some(QuantError::TooLarge { .. })));
    let huge = QMatrix::new(Kind::F32, 1, usize::MAX - 3, &[]).err();
    assert!(matches!(huge, Some(QuantError::TooLarge { .. })));
    let mut store = WeightStore::new(100).unwrap();
    assert!(matches!(store.take(101), Err(QuantError::StoreFull { wanted: 101, left: 100 })));
}

/// ggml's quantisation, dequantised by the gguf package (scripts/quant_golden.py).
const GOLDEN: &[u8] = include_bytes!("../../quant/golden.bin");

#[test]
fn stored_rows_mean_what_ggml_means() {
    let (rows, cols) = (2, 512);
    let mut rest = GOLDEN;
    for kind in Kind::ALL.into_iter().filter(|k| *k != Kind::F32) {
        let (stored, after) = rest.split_at(kind.row_bytes(cols).unwrap() * rows);
        let (values, after) = after.split_at(rows * cols * 4);
        rest = after;
        let word = |b: &[u8]| f32::from_le_bytes(b.try_into().unwrap());
        let expected: Vec<f32> = values.chunks_exact(4).map(word).collect();
        assert_eq!(dense_rows(kind, rows, cols, stored), expected, "{kind:?}");
        let matrix = QMatrix::new(kind, rows, cols, stored).unwrap();
        let mut row = vec![0.0; cols];
        matrix.row(1, &mut row);
        assert_eq!(row, expected[cols..], "{kind:?}");
    }
    assert!(rest.is_empty(), "the file holds nothing else");
}

/// Memory is what these kinds are chosen for.
#[test]
fn packed_weights_take_about_as_much_as_stored_ones() {
    for kind in Kind::ALL {
        let (rows, cols) = (64, 1024);
        let stored = rows * kind.row_bytes(cols).unwrap();
        let packed = QMatrix::packed_bytes(kind, rows, cols).unwrap();
        assert!(packed >= stored && packed * 100 <= stored * 106, "{kind}: {packed} for {stored}");
    }
}
