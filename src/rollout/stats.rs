//! The few exact bounds that the gates rely on: order statistics and the Confidence Sequence Method.
//!
//! Numbers in, numbers out; it does not know about arms, weights or histograms. It uses exact binomial sums
//! and not normal approximations because the counts that matter are small (three of sixty replies above a
//! line), where an approximation is poor. Where the sums would cost too much (some 60,000 samples for a tail
//! of 1 %), the approximation is accurate to a rank or two.

/// Whether the binomial can be summed from its first term without underflow.
fn summable(n: u64, p: f64) -> bool {
    -(n as f64) * (-p).ln_1p() < 650.0
}

/// ln(n!), exact to about 1e-10: Stirling's series, shifted up for small n.
pub(crate) fn ln_factorial(n: u64) -> f64 {
    let mut x = n as f64 + 1.0;
    let mut shift = 0.0;
    while x < 10.0 {
        shift += x.ln();
        x += 1.0;
    }
    let inverse = 1.0 / x;
    let square = inverse * inverse;
    let series = inverse * (1.0 / 12.0 - square * (1.0 / 360.0 - square / 1260.0));
    (x - 0.5) * x.ln() - x + 0.918_938_533_204_672_7 + series - shift
}

/// Whether `s` of `n` contradict a share of `p` at level `alpha`, valid at any time: (n + 1) C(n, s) p^s (1 -
/// p)^(n - s) < alpha (Ding, Gandy and Hahn, arXiv:1611.01675).
///
/// It says that the share is not `p`. The caller sees from s / n on which side it is.
pub(crate) fn csm_rejects(n: u64, s: u64, p: f64, alpha: f64) -> bool {
    if n == 0 {
        return false;
    }
    let s = s.min(n);
    let choose = ln_factorial(n) - ln_factorial(s) - ln_factorial(n - s);
    let mass = choose + s as f64 * p.ln() + (n - s) as f64 * (-p).ln_1p();
    ((n + 1) as f64).ln() + mass < alpha.ln()
}

/// The smallest count of `n` that contradicts a share of at most `p`; `None` if not even n does.
pub(crate) fn csm_least(n: u64, p: f64, alpha: f64) -> Option<u64> {
    let mut low = (n as f64 * p).ceil() as u64;
    let mut high = n;
    if n == 0 || !csm_rejects(n, high, p, alpha) {
        return None;
    }
    while low < high {
        let middle = low + (high - low) / 2;
        if csm_rejects(n, middle, p, alpha) { high = middle } else { low = middle + 1 }
    }
    Some(low)
}

/// How many of `n` samples may be above the order statistic that bounds the quantile with tail share `p` from
/// above with probability 1 - `delta`. `None` if not even the largest sample does (for p = 1 % and 5 %, below
/// n = 299).
///
/// The order statistic with m samples above it is below the quantile iff at most m samples are above the
/// quantile. So m is the largest with P(Bin(n, p) <= m) <= delta.
pub(crate) fn tail_above(n: u64, p: f64, delta: f64) -> Option<u64> {
    if !summable(n, p) {
        return Some(normal_below(n, p));
    }
    let mut term = (n as f64 * (-p).ln_1p()).exp();
    let mut sum = term;
    if sum > delta {
        return None;
    }
    let mut m = 0;
    loop {
        term *= (n - m) as f64 / (m + 1) as f64 * p / (1.0 - p);
        sum += term;
        if sum > delta {
            return Some(m);
        }
        m += 1;
    }
}

/// How many of `n` samples may be above the order statistic that bounds the same quantile from below: the
/// smallest m with P(Bin(n, p) >= m + 1) <= delta, at most n - 1.
pub(crate) fn tail_below(n: u64, p: f64, delta: f64) -> u64 {
    if !summable(n, p) {
        let mean = n as f64 * p;
        return (2.0 * mean - normal_below(n, p) as f64).ceil() as u64;
    }
    let mut term = (n as f64 * (-p).ln_1p()).exp();
    let mut sum = term;
    let mut m = 0;
    while 1.0 - sum > delta && m + 1 < n {
        term *= (n - m) as f64 / (m + 1) as f64 * p / (1.0 - p);
        sum += term;
        m += 1;
    }
    m
}

/// The 5 % point of Bin(n, p) for large n, rounded away from the mean.
fn normal_below(n: u64, p: f64) -> u64 {
    let mean = n as f64 * p;
    (mean - 1.645 * (mean * (1.0 - p)).sqrt() - 1.0).max(0.0) as u64
}

/// The ranks, from 1, of the order statistics that enclose the median with 95 % confidence (normal
/// approximation, rounded outwards; below six samples the extremes, with less confidence).
pub(crate) fn median_ranks(n: u64) -> (u64, u64) {
    let half = 0.98 * (n as f64).sqrt();
    let low = ((n as f64 / 2.0 - half).floor() as u64).max(1);
    (low.min(n), (n + 1).saturating_sub(low).max(1))
}

/// An upper bound of a share, given that `k` of `n` were observed; wrong with probability at most `delta`. It
/// is the u with n KL(k/n, u) = ln(1/delta) (Chernoff's bound). 1 without samples.
pub(crate) fn share_upper(k: u64, n: u64, delta: f64) -> f64 {
    if n == 0 {
        return 1.0;
    }
    let seen = k as f64 / n as f64;
    let limit = -delta.ln() / n as f64;
    let part = |a: f64, b: f64| if a > 0.0 { a * (a / b).ln() } else { 0.0 };
    let (mut low, mut high) = (seen, 1.0);
    for _ in 0..50 {
        let middle = 0.5 * (low + high);
        let far = part(seen, middle) + part(1.0 - seen, 1.0 - middle) > limit;
        if far { high = middle } else { low = middle }
    }
    high
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn factorials() {
        let mut exact = 0.0;
        for n in 1..400u64 {
            exact += (n as f64).ln();
            assert!((ln_factorial(n) - exact).abs() < 1e-9 * (1.0 + exact), "{n}");
        }
        assert!(ln_factorial(0).abs() < 1e-9);
    }

    #[test]
    fn the_confidence_sequence_method_at_known_points() {
        // 61 C(60, 4) 0.01^4 0.99^56 = 0.169; with five: 0.0192.
        assert!(!csm_rejects(60, 4, 0.01, 0.05));
        assert!(csm_rejects(60, 5, 0.01, 0.05));
        assert_eq!(csm_least(60, 0.01, 0.05), Some(5));
        assert_eq!(csm_least(0, 0.01, 0.05), None);
        // From below: none of n, (n + 1) 0.99^n < 0.05 from n = 984 on.
        assert!(!csm_rejects(983, 0, 0.01, 0.05));
        assert!(csm_rejects(984, 0, 0.01, 0.05));
    }

    #[test]
    fn no_upper_bound_of_a_p99_below_299_samples() {
        assert_eq!(tail_above(298, 0.01, 0.05), None);
        assert_eq!(tail_above(299, 0.01, 0.05), Some(0));
        assert_eq!(tail_above(473, 0.01, 0.05), Some(1), "the textbook's second step");
        assert_eq!(tail_above(472, 0.01, 0.05), Some(0));
    }

    #[test]
    fn exact_and_approximate_ranks_meet() {
        for (n, p) in [(64_674, 0.01), (32_173, 0.02)] {
            assert!(summable(n, p) && !summable(n + 1, p));
            let (below, above) = (tail_above(n, p, 0.05), tail_above(n + 1, p, 0.05));
            let (exact, near) = (below.expect("many"), above.expect("many"));
            assert!(near <= exact && exact - near <= 3, "{exact} {near}");
            let (exact, near) = (tail_below(n, p, 0.05), tail_below(n + 1, p, 0.05));
            assert!(near >= exact && near - exact <= 4, "{exact} {near}");
        }
        assert!(tail_below(1000, 0.01, 0.05) > 10 && tail_below(1000, 0.01, 0.05) < 20);
        assert_eq!(tail_below(1, 0.01, 0.05), 0);
    }

    #[test]
    fn the_median_lies_between_its_ranks() {
        assert_eq!(median_ranks(100), (40, 61));
        assert_eq!(median_ranks(1), (1, 1));
        let (low, high) = median_ranks(10_000);
        assert_eq!((low, high), (4902, 5099));
    }

    #[test]
    fn a_share_is_bounded_from_above() {
        // None of 300 at 1 %: 1 - 0.01^(1/300).
        let none = share_upper(0, 300, 0.01);
        assert!((none - 0.015_234).abs() < 1e-5, "{none}");
        let some = share_upper(30, 3000, 0.01);
        assert!(some > 0.0140 && some < 0.0180, "{some}");
        assert_eq!(share_upper(0, 0, 0.01), 1.0);
    }
}
