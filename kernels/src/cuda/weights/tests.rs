//! Planes are complete however a matrix is loaded in pieces, and no bit is lost.

use super::*;
use proptest::prelude::*;

#[test]
fn rows_that_are_no_whole_blocks_are_refused() {
    assert_eq!(PlaneLayout::new(Kind::Q4K, 3, 128), None);
    assert_eq!(PlaneLayout::new(Kind::Q8_0, 3, 33), None);
    assert_eq!(PlaneLayout::new(Kind::F32, usize::MAX, 8), None);
}

fn kinds() -> impl Strategy<Value = Kind> {
    prop::sample::select(Kind::on_cards().collect::<Vec<_>>())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn pieces_make_the_same_matrix_as_all_at_once(
        kind in kinds(), blocks in 1usize..4, counts in prop::collection::vec(1usize..5, 1..5), seed: u64,
    ) {
        let (rows, columns) = (counts.iter().sum(), blocks * kind.block());
        let row = kind.row_bytes(columns).unwrap();
        let mut numbers = crate::cuda::check::Numbers::new(seed);
        let stored: Vec<u8> = (0..rows * row).map(|_| numbers.bits() as u8).collect();
        let layout = PlaneLayout::new(kind, rows, columns).unwrap();
        prop_assert_eq!(layout.bytes(), stored.len());
        let mut whole = vec![0; layout.bytes()];
        planes(kind, rows, columns, &stored, &mut whole);
        let (mut pieced, mut written) = (vec![0; layout.bytes()], 0);
        let mut first = 0;
        for count in counts {
            let mut out = vec![0; count * row];
            planes(kind, count, columns, &stored[first * row..(first + count) * row], &mut out);
            for piece in layout.pieces(first, count) {
                written += piece.from.len();
                pieced[piece.at..piece.at + piece.from.len()].copy_from_slice(&out[piece.from]);
            }
            first += count;
        }
        prop_assert_eq!(written, whole.len());
        prop_assert_eq!(pieced, whole);
    }

    /// Each bit of a block is one bit of the planes: no two blocks look the same.
    #[test]
    fn a_bit_that_changes_changes_one_bit(kind in kinds(), seed: u64) {
        let size = kind.block_bytes();
        let mut numbers = crate::cuda::check::Numbers::new(seed);
        let mut stored: Vec<u8> = (0..size).map(|_| numbers.bits() as u8).collect();
        let bit = numbers.below(size * 8);
        let (mut before, mut after) = (vec![0; size], vec![0; size]);
        planes(kind, 1, kind.block(), &stored, &mut before);
        stored[bit / 8] ^= 1 << (bit % 8);
        planes(kind, 1, kind.block(), &stored, &mut after);
        let changed: u32 = before.iter().zip(&after).map(|(a, b)| (a ^ b).count_ones()).sum();
        prop_assert_eq!(changed, 1);
    }

    /// Loads are of the pieces of one block, or of two side by side where rows are whole pairs; no longer than 16 bytes.
    #[test]
    fn every_plane_starts_where_its_longest_load_may(
        kind in kinds(), rows in 1usize..300, blocks in 1usize..40,
    ) {
        let layout = PlaneLayout::new(kind, rows, blocks * kind.block().max(8)).unwrap();
        let shares = kind.card().unwrap().shares;
        for plane in (1..4).filter(|plane| shares[*plane] > 0) {
            let load = shares[plane] * if blocks % 2 == 0 { 2 } else { 1 };
            prop_assert!(layout.offset(plane).is_multiple_of(load.min(16)));
            let whole = shares[..plane].iter().all(|share| share % 16 == 0);
            prop_assert!(!whole || layout.offset(plane).is_multiple_of(16));
        }
    }
}
