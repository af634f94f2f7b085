//! Whether a sequence of tokens ends in a loop.
//!
//! A loop is a run at the very end in which every token equals the one a fixed number of tokens before it. It does not
//! know what the tokens mean, or whether the repetition was requested.

/// Longest period that is looked for, in tokens.
const LONGEST: usize = 64;
/// A run holds its period at least so many times.
const TIMES: usize = 4;
/// Shortest run, in tokens.
const SHORTEST: usize = 32;
/// Fewest tokens of a run that are looked for elsewhere.
const SAMPLE: usize = 8;

/// The shortest period with which the sequence ends. Takes at most [`LONGEST`] comparisons of a tail of
/// [`TIMES`] times as many tokens.
pub(super) fn period(ids: &[u32]) -> Option<usize> {
    (1..=LONGEST).find(|&period| {
        let run = (TIMES * period).max(SHORTEST);
        let Some(start) = ids.len().checked_sub(run) else { return false };
        ids[start + period..] == ids[start..ids.len() - period]
    })
}

/// The end of a run with this period: the period twice, or more where that would be very short.
pub(super) fn sample(ids: &[u32], period: usize) -> &[u32] {
    let length = (2 * period).max(SAMPLE);
    &ids[ids.len().saturating_sub(length)..]
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Different tokens, then `times` times a period of `period` different tokens, then `more` of the next.
    fn sequence(period: u32, times: u32, more: u32) -> Vec<u32> {
        let before = 1000..1100;
        before.chain((0..period * times + more).map(|at| at % period)).collect()
    }

    #[test]
    fn runs_are_found_from_four_periods_and_32_tokens() {
        let cases = [
            (sequence(1, 31, 0), None),
            (sequence(1, 32, 0), Some(1)),
            (sequence(1, 500, 0), Some(1)),
            (sequence(3, 10, 1), None),
            (sequence(3, 10, 2), Some(3)),
            (sequence(8, 3, 7), None),
            (sequence(8, 4, 0), Some(8)),
            (sequence(9, 3, 8), None),
            (sequence(9, 4, 0), Some(9)),
            (sequence(9, 4, 5), Some(9)),
            (sequence(64, 3, 63), None),
            (sequence(64, 4, 0), Some(64)),
            (sequence(65, 9, 0), None),
            (Vec::new(), None),
            (vec![7; 31], None),
            (vec![7; 32], Some(1)),
            ((0..2000).collect(), None),
        ];
        for (ids, expected) in cases {
            assert_eq!(period(&ids), expected, "{} tokens: {ids:?}", ids.len());
        }
    }

    #[test]
    fn a_run_counts_only_at_the_end() {
        let mut ids = vec![7; 400];
        ids.push(8);
        assert_eq!(period(&ids), None);
        ids.extend([7; 31]);
        assert_eq!(period(&ids), None);
        ids.push(7);
        assert_eq!(period(&ids), Some(1));
    }

    #[test]
    fn a_sample_is_two_periods_or_eight_tokens() {
        let ids: Vec<u32> = (0..100).collect();
        for (period, length) in [(1, 8), (4, 8), (5, 10), (50, 100), (64, 100)] {
            assert_eq!(sample(&ids, period), &ids[100 - length..], "{period}");
        }
        assert!(sample(&[], 1).is_empty());
    }

    proptest! {
        #[test]
        fn a_random_period_is_found_wherever_it_is_cut(
            before in prop::collection::vec(any::<u32>(), 0..100),
            unit in prop::collection::vec(any::<u32>(), 1..=64),
            times in 4..8usize,
            more in 0..64usize,
        ) {
            let length = (unit.len() * times).max(32) + more;
            let run = unit.iter().copied().cycle().take(length);
            let ids: Vec<u32> = before.into_iter().chain(run).collect();
            let found = period(&ids);
            prop_assert!(found.is_some_and(|found| found <= unit.len()), "{:?}", found);
        }

        #[test]
        fn random_tokens_do_not_loop(ids in prop::collection::vec(any::<u32>(), 0..600)) {
            prop_assert_eq!(period(&ids), None);
        }
    }
}
