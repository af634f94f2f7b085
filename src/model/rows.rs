//! The order of a projection's rows, for families whose rotary embedding rotates neighbouring values of a head.
//!
//! The kernels rotate value i with value i + half, so the rows are reordered to match this when they are read. It does
//! not know names of tensors.

/// Sorts the first `turned` rows of each head from pairs (0, 1), (2, 3), .. to halves: 0, 2, .., 1, 3, .. `bytes` are
/// whole rows of `row` bytes. `None` if they are not `heads` heads of as many rows, or `turned` is odd or too large.
pub fn halves(bytes: &[u8], row: usize, heads: usize, turned: Option<usize>) -> Option<Vec<u8>> {
    let rows = bytes.len() / row.max(1);
    if row == 0 || heads == 0 || !bytes.len().is_multiple_of(row) || !rows.is_multiple_of(heads) {
        return None;
    }
    let size = rows / heads;
    let turned = turned.unwrap_or(size);
    if !turned.is_multiple_of(2) || turned > size {
        return None;
    }
    let mut out = Vec::with_capacity(bytes.len());
    for head in bytes.chunks_exact((size * row).max(1)) {
        for first in 0..2 {
            (first..turned).step_by(2).for_each(|j| out.extend_from_slice(&head[j * row..][..row]));
        }
        out.extend_from_slice(&head[turned * row..]);
    }
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pairs_become_halves_head_by_head_and_the_rest_stays() {
        let sorted = |rows: &[u8], heads, turned| halves(rows, 1, heads, turned);
        assert_eq!(sorted(&[0, 1, 2, 3], 1, None), Some(vec![0, 2, 1, 3]));
        let heads = [0, 1, 2, 3, 4, 5, 10, 11, 12, 13, 14, 15];
        assert_eq!(
            sorted(&heads, 2, Some(4)),
            Some(vec![0, 2, 1, 3, 4, 5, 10, 12, 11, 13, 14, 15])
        );
        assert_eq!(
            halves(&[0, 0, 1, 1, 2, 2, 3, 3], 2, 1, None),
            Some(vec![0, 0, 2, 2, 1, 1, 3, 3])
        );
        assert_eq!(sorted(&[], 3, None), Some(vec![]));
        for (rows, heads, turned) in
            [(5, 2, None), (3, 1, None), (4, 1, Some(6)), (4, 1, Some(3)), (4, 0, None)]
        {
            assert_eq!(sorted(&vec![0; rows], heads, turned), None, "{rows} {heads} {turned:?}");
        }
        assert_eq!(halves(&[0; 5], 2, 1, None), None);
    }
}
