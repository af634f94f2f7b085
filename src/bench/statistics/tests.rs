//! Properties of the intervals that hold for any data.

use super::*;
use proptest::prelude::*;

fn sums(a: &[f64], b: &[f64]) -> Data {
    let ones = vec![1.0; a.len()];
    Data::Sums { over: [a.to_vec(), b.to_vec()], under: [ones.clone(), ones] }
}

fn one(data: Data, rounds: usize) -> Result<Interval, NoInterval> {
    let method = Method { swaps: 499, allowance: 0.0, ..Method::default() };
    intervals(&[Group { rounds, figures: vec![data] }], &method)[0][0]
}

fn values(a: &[f64], b: &[f64], rounds: usize) -> Vec<Value> {
    let of = |version, values: &[f64]| {
        let value =
            move |(at, value): (usize, &f64)| Value { value: *value, round: at % rounds, version };
        values.iter().enumerate().map(value).collect::<Vec<_>>()
    };
    [of(0, a), of(1, b)].concat()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn one_pass_finds_the_quantile_of_either_version(
        a in prop::collection::vec(0.1f64..9.0, 1..80),
        b in prop::collection::vec(0.1f64..9.0, 1..80),
        share in 0.0f64..=1.0,
        swapped in prop::collection::vec(any::<bool>(), 7),
    ) {
        let data = Data::Quantile { share, values: values(&a, &b, 7) };
        let sources = data.sources(7);
        let Scaled::Quantile { sorted, counts, .. } = sources.scaled(0.0) else { unreachable!() };
        let found = quantiles(&sorted, counts, share, &swapped);
        let mut expected = [Vec::new(), Vec::new()];
        for value in values(&a, &b, 7) {
            expected[value.version ^ usize::from(swapped[value.round])].push(value.value);
        }
        if expected.iter().any(Vec::is_empty) {
            prop_assert!(found.iter().all(|x| x.is_nan()));
        } else {
            for (found, mut expected) in found.into_iter().zip(expected) {
                expected.sort_by(f64::total_cmp);
                let expected = quantile(&expected, share).unwrap();
                prop_assert!((found - expected).abs() < 1e-9, "{} {}", found, expected);
            }
        }
    }

    /// Exchanging the versions turns the interval upside down.
    #[test]
    fn the_interval_does_not_depend_on_which_version_is_called_a(
        a in prop::collection::vec(0.5f64..2.0, 12), b in prop::collection::vec(0.5f64..2.0, 12),
    ) {
        let (one_way, other) = (one(sums(&a, &b), 12).unwrap(), one(sums(&b, &a), 12).unwrap());
        prop_assert!((one_way.ratio * other.ratio - 1.0).abs() < 1e-9);
        prop_assert!((one_way.low * other.high - 1.0).abs() < 1e-9);
        prop_assert_eq!(one_way.differs, other.differs);
    }

    #[test]
    fn the_ratio_lies_in_its_interval_and_one_too_unless_they_differ(
        a in prop::collection::vec(0.1f64..9.0, 12), b in prop::collection::vec(0.1f64..9.0, 12),
        factor in 0.5f64..2.0,
    ) {
        let b: Vec<f64> = b.iter().map(|x| x * factor).collect();
        let found = one(sums(&a, &b), 12).unwrap();
        prop_assert!(found.low <= found.ratio && found.ratio <= found.high);
        prop_assert_eq!(found.differs, !(found.low..=found.high).contains(&1.0));
        let alone = found;
        let method = Method { swaps: 499, allowance: 0.0, ..Method::default() };
        let more = [sums(&a, &b), sums(&b, &a), sums(&[1.0; 12], &a)];
        let both = intervals(&[Group { rounds: 12, figures: more.to_vec() }], &method)[0][0];
        if let Ok(both) = both {
            prop_assert!(both.low <= alone.low + 1e-9 && both.high >= alone.high - 1e-9);
        }
    }
}

#[test]
fn a_constant_factor_is_found_exactly() {
    let a: Vec<f64> = (0..16).map(|x| 1.0 + 0.1 * f64::from(x)).collect();
    let b: Vec<f64> = a.iter().map(|x| 1.25 * x).collect();
    let found = one(sums(&a, &b), 16).unwrap();
    assert!(found.differs && (found.ratio - 1.25).abs() < 1e-12, "{found:?}");
    assert!((found.low - 1.25).abs() < 1e-6 && (found.high - 1.25).abs() < 1e-6, "{found:?}");
    let same = one(sums(&a, &a), 16).unwrap();
    assert!(same.ratio == 1.0 && !same.differs, "{same:?}");
    assert!(same.low > 1.0 - 1e-6 && same.high < 1.0 + 1e-6, "{same:?}");
}

#[test]
fn the_allowance_widens_every_interval() {
    let a: Vec<f64> = (0..16).map(|x| 1.0 + 0.1 * f64::from(x)).collect();
    let of = |factor: f64| {
        let b: Vec<f64> = a.iter().map(|x| factor * x).collect();
        let method = Method { allowance: 0.02, ..Method::default() };
        intervals(&[Group { rounds: 16, figures: vec![sums(&a, &b)] }], &method)[0][0].unwrap()
    };
    let found = of(1.25);
    assert!((found.high / found.low - 1.02f64.powi(2)).abs() < 1e-4 && found.differs, "{found:?}");
    assert!(!of(1.019).differs && of(1.021).differs && of(0.97).differs);
}

#[test]
fn without_rounds_or_with_zeros_there_is_no_interval() {
    assert_eq!(one(sums(&[1.0; 5], &[1.0; 5]), 5), Err(NoInterval::FewRounds));
    assert_eq!(one(sums(&[0.0; 9], &[1.0; 9]), 9), Err(NoInterval::NoRatio));
    let none = Data::Quantile { share: 0.5, values: vec![] };
    assert_eq!(one(none, 9), Err(NoInterval::NoRatio));
    // Swapped, one version would have no good request at all.
    let rare: Vec<f64> = (0..9).map(|x| if x == 0 { 1.0 } else { 0.0 }).collect();
    assert!(!one(sums(&rare, &[1.0; 9]), 9).is_ok_and(|found| found.differs));
}

#[test]
fn quantiles_are_interpolated() {
    assert_eq!(quantile(&[], 0.5), None);
    assert_eq!(quantile(&[3.0], 0.99), Some(3.0));
    assert_eq!(quantile(&[1.0, 2.0, 3.0, 4.0], 0.5), Some(2.5));
    assert_eq!(quantile(&[1.0, 2.0], 1.0), Some(2.0));
}

#[test]
fn the_sign_test_at_known_points() {
    for (a, b, expected) in [(0, 0, 1.0), (5, 0, 0.0625), (1, 9, 0.021_484), (4, 4, 1.0)] {
        assert!((sign_test(a, b) - expected).abs() < 1e-5, "{a} {b}: {}", sign_test(a, b));
    }
}
