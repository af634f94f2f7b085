//! Ratios of two versions' figures, with intervals that hold for all figures at once.
//!
//! Exchangeability: in a round (`plan`), a fair coin chose the order of the versions, and both ran the same prompts
//! close together. Suppose B's times are A's times multiplied by `r`. After dividing B's times by `r`, swapping the two
//! versions in any round gives data that were just as likely. This gives a randomisation test of `r`: the figures are
//! recomputed for many random swaps, and `r` is rejected if the real difference is among the largest.
//!
//! Simultaneity: each figure's log-ratio has a p-value, which is its rank among its own swaps. The smallest p-value of
//! all figures is compared with its own distribution (minP; Westfall and Young 1993). So the probability that any
//! figure of two equal versions is called different is at most `level`, exactly and not only asymptotically.
//!
//! The interval of a figure contains every `r` that is not rejected. It is widened by an allowance for the speed
//! difference between two copies of one model at different memory addresses. Decision: docs/decisions/053.
//!
//! Pure. It does not know what a figure means.

use super::random::Random;

/// Fewest rounds for an interval: with fewer, no two-sided test at 5 % can refuse anything.
pub const LEAST_ROUNDS: usize = 6;
/// Most values of a figure that are used for its interval; of more, every second, third, ... is.
const MOST_VALUES: usize = 10_000;
/// Where the search for a bound ends: a ratio of e^5, or 148.
const FARTHEST: f64 = 5.0;
/// Halvings of the distance within which a bound lies.
const HALVINGS: usize = 7;

/// One measured value, such as a request's TTFT.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Value {
    /// In any unit; above 0 to have an interval.
    pub value: f64,
    /// Number of its round, from 0.
    pub round: usize,
    /// 0 for A, 1 for B.
    pub version: usize,
}

/// What a figure is computed from.
#[derive(Debug, Clone, PartialEq)]
pub enum Data {
    /// A sum over a sum, by version and round: a mean, or a rate.
    Sums {
        /// Numerators.
        over: [Vec<f64>; 2],
        /// Denominators.
        under: [Vec<f64>; 2],
    },
    /// A quantile of values.
    Quantile {
        /// 0 to 1.
        share: f64,
        /// Of both versions, in any order.
        values: Vec<Value>,
    },
}

/// Figures that were measured in the same rounds.
#[derive(Debug, Clone, PartialEq)]
pub struct Group {
    /// Rounds, at least one.
    pub rounds: usize,
    /// Their data.
    pub figures: Vec<Data>,
}

/// B's figure over A's.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Interval {
    /// The ratio of the two figures as shown.
    pub ratio: f64,
    /// Lower bound of the ratio; all intervals of one analysis hold at once with probability 1 - `level`.
    pub low: f64,
    /// Upper bound of the ratio.
    pub high: f64,
    /// Whether the two differ by more than noise; `false`: 1 is in the interval.
    pub differs: bool,
}

/// Why there is no interval.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NoInterval {
    /// Too few rounds for this many figures.
    #[error("too few rounds")]
    FewRounds,
    /// A figure is 0, or there are no values.
    #[error("no ratio")]
    NoRatio,
}

/// How intervals are computed.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Method {
    /// Probability that any interval of two equal versions misses 1.
    pub level: f64,
    /// Random swaps.
    pub swaps: usize,
    /// Of the swaps.
    pub seed: u64,
    /// Share by which two loaded copies of one model may differ: each interval is widened by it.
    pub allowance: f64,
}

/// The share by which copies of the demo models were seen to differ, rounded up (benches/runs/bench.md).
pub const ALLOWANCE: f64 = 0.02;

impl Default for Method {
    fn default() -> Method {
        Method { level: 0.05, swaps: 999, seed: 1, allowance: ALLOWANCE }
    }
}

/// The intervals of all figures, in order; they hold simultaneously over all groups.
pub fn intervals(groups: &[Group], method: &Method) -> Vec<Vec<Result<Interval, NoInterval>>> {
    let swaps: Vec<Vec<Vec<bool>>> =
        groups.iter().enumerate().map(|(number, group)| group.swaps(number, method)).collect();
    let tested = groups.iter().zip(&swaps).map(|(group, swaps)| group.tested(swaps));
    let tested: Vec<Vec<Result<Tested<'_>, NoInterval>>> = tested.collect();
    let all = || tested.iter().flatten().flatten();
    let at_one = threshold(all().map(|tested| &tested.at_one), method);
    let at_estimate = threshold(all().map(|tested| &tested.at_estimate), method);
    let interval = |tested: &Result<Tested<'_>, NoInterval>| {
        let ranks = (at_one, at_estimate);
        let tested = tested.as_ref().map_err(|no| *no);
        tested.and_then(|tested| tested.interval(ranks, method.allowance))
    };
    tested.iter().map(|group| group.iter().map(interval).collect()).collect()
}

/// The absolute log-ratios of a figure over the swaps; the first is the real one.
struct Swapped {
    sizes: Vec<f64>,
    /// In descending order.
    sorted: Vec<f64>,
}

/// Sizes that are as large as another up to rounding errors count as large.
fn least(size: f64) -> f64 {
    size * (1.0 - 1e-9) - 1e-12
}

impl Swapped {
    fn new(sizes: Vec<f64>) -> Swapped {
        let mut sorted = sizes.clone();
        sorted.sort_by(|a, b| b.total_cmp(a));
        Swapped { sizes, sorted }
    }

    /// How many swaps give a log-ratio at least as large as this swap does.
    fn rank(&self, swap: usize) -> usize {
        let least = least(self.sizes[swap]);
        self.sorted.partition_point(|size| *size >= least)
    }
}

struct Tested<'a> {
    /// ln of the ratio of the figure as shown.
    estimate: f64,
    /// ln of the ratio from the values that are used.
    centre: f64,
    sources: Sources,
    swaps: &'a [Vec<bool>],
    /// For equal versions.
    at_one: Swapped,
    /// With B's values divided by the ratio.
    at_estimate: Swapped,
}

impl Group {
    /// Which rounds are swapped, many times; at first none.
    fn swaps(&self, number: usize, method: &Method) -> Vec<Vec<bool>> {
        let mut random = Random::new(method.seed, number as u64);
        let unswapped = std::iter::once(vec![false; self.rounds]);
        let random = (0..method.swaps).map(|_| (0..self.rounds).map(|_| random.coin()).collect());
        unswapped.chain(random).collect()
    }

    fn tested<'a>(&self, swaps: &'a [Vec<bool>]) -> Vec<Result<Tested<'a>, NoInterval>> {
        self.figures.iter().map(|data| Tested::new(data, self.rounds, swaps)).collect()
    }
}

impl<'a> Tested<'a> {
    fn new(data: &Data, rounds: usize, swaps: &'a [Vec<bool>]) -> Result<Tested<'a>, NoInterval> {
        if rounds < LEAST_ROUNDS {
            return Err(NoInterval::FewRounds);
        }
        let ratio = data.of(1).zip(data.of(0)).map(|(b, a)| b / a);
        let finite = |ln: &f64| ln.is_finite();
        let estimate = ratio.map(f64::ln).filter(finite).ok_or(NoInterval::NoRatio)?;
        let sources = data.sources(rounds);
        let centre = sources.scaled(0.0).log_ratio(&swaps[0]);
        let centre = Some(centre).filter(finite).ok_or(NoInterval::NoRatio)?;
        let at = |shift: f64| {
            let scaled = sources.scaled(shift);
            Swapped::new(swaps.iter().map(|swap| scaled.size(swap)).collect())
        };
        let (at_one, at_estimate) = (at(0.0), at(centre));
        Ok(Tested { estimate, centre, sources, swaps, at_one, at_estimate })
    }

    /// `at_one`, `at_estimate`: ranks that refuse.
    fn interval(
        &self,
        (at_one, at_estimate): (usize, usize),
        allowance: f64,
    ) -> Result<Interval, NoInterval> {
        let rank = at_one.min(at_estimate);
        let bound = |side: f64| self.bound(side, rank).ok_or(NoInterval::FewRounds);
        let (mut low, mut high) = (self.estimate - bound(-1.0)?, self.estimate + bound(1.0)?);
        if self.at_one.rank(0) > at_one {
            (low, high) = (low.min(0.0), high.max(0.0));
        }
        (low, high) = (low - allowance.ln_1p(), high + allowance.ln_1p());
        let differs = low > 0.0 || high < 0.0;
        let [ratio, low, high] = [self.estimate, low, high].map(f64::exp);
        Ok(Interval { ratio, low, high, differs })
    }

    /// How far from the estimate the test begins to refuse, on one side; `None` if it never does.
    fn bound(&self, side: f64, rank: usize) -> Option<f64> {
        let squares = self.at_estimate.sizes.iter().filter(|size| size.is_finite());
        let scale = squares.clone().map(|x| x * x).sum::<f64>() / squares.count().max(1) as f64;
        let mut outside = scale.sqrt().max(1e-6);
        let mut inside = 0.0;
        while !self.refused(self.centre + side * outside, rank) {
            if outside > FARTHEST {
                return None;
            }
            (inside, outside) = (outside, 2.0 * outside);
        }
        for _ in 0..HALVINGS {
            let middle = 0.5 * (inside + outside);
            match self.refused(self.centre + side * middle, rank) {
                true => outside = middle,
                false => inside = middle,
            }
        }
        Some(outside)
    }

    /// Whether the real log-ratio is among the `rank` largest if B's values are A's times e^`shift`.
    fn refused(&self, shift: f64, rank: usize) -> bool {
        let scaled = self.sources.scaled(shift);
        let least = least(scaled.size(&self.swaps[0]));
        let large = self.swaps.iter().filter(|swap| scaled.size(swap) >= least);
        large.take(rank + 1).count() <= rank
    }
}

/// The largest rank such that in at most a share `level` of the swaps any figure has it or a smaller one; 0 if there is none.
fn threshold<'a>(figures: impl Iterator<Item = &'a Swapped>, method: &Method) -> usize {
    let swaps = method.swaps + 1;
    let mut smallest = vec![swaps; swaps];
    for figure in figures {
        for (swap, smallest) in smallest.iter_mut().enumerate() {
            *smallest = (*smallest).min(figure.rank(swap));
        }
    }
    smallest.sort_unstable();
    // Ranks up to `t` are refused if no more than `allowed` swaps have one.
    let allowed = (method.level * swaps as f64).floor() as usize;
    smallest[allowed].saturating_sub(1).min(allowed)
}

/// Data in a form that is quick to scale and to swap.
enum Sources {
    /// As in [`Data::Sums`].
    Sums { over: [Vec<f64>; 2], under: [Vec<f64>; 2] },
    /// By version, values in ascending order with their round; and the number of values by round and version.
    Quantile { share: f64, sorted: [Vec<(f64, u32)>; 2], counts: Vec<[usize; 2]> },
}

/// Data with B's values divided by a ratio, ready to be swapped many times.
enum Scaled<'a> {
    /// B's sums are still to be divided by e^`shift`.
    Sums { over: [&'a [f64]; 2], under: [&'a [f64]; 2], shift: f64 },
    /// Values in ascending order with twice their round, plus 1 for B.
    Quantile { share: f64, sorted: Vec<(f64, u32)>, counts: &'a [[usize; 2]] },
}

impl Data {
    /// The figure of a version, 0 or 1; `None` without values.
    pub fn of(&self, version: usize) -> Option<f64> {
        match self {
            Data::Sums { over, under } => {
                let [over, under] = [over, under].map(|both| both[version].iter().sum::<f64>());
                (under > 0.0).then(|| over / under)
            }
            Data::Quantile { share, values } => {
                let own = values.iter().filter(|value| value.version == version);
                let mut own: Vec<f64> = own.map(|value| value.value).collect();
                own.sort_by(f64::total_cmp);
                quantile(&own, *share)
            }
        }
    }

    /// With no more values than are needed.
    fn sources(&self, rounds: usize) -> Sources {
        let (share, values) = match self {
            Data::Sums { over, under } => {
                return Sources::Sums { over: over.clone(), under: under.clone() };
            }
            Data::Quantile { share, values } => (*share, values),
        };
        let step = values.len().div_ceil(MOST_VALUES).max(1);
        let (mut sorted, mut counts) = ([Vec::new(), Vec::new()], vec![[0; 2]; rounds]);
        for value in values.iter().step_by(step) {
            counts[value.round][value.version] += 1;
            sorted[value.version].push((value.value, value.round as u32));
        }
        sorted.iter_mut().for_each(|all| all.sort_by(|a, b| a.0.total_cmp(&b.0)));
        Sources::Quantile { share, sorted, counts }
    }
}

impl Sources {
    /// With B's values divided by e^`shift`.
    fn scaled(&self, shift: f64) -> Scaled<'_> {
        match self {
            Sources::Sums { over, under } => {
                let ([a, b], [c, d]) = (over, under);
                Scaled::Sums { over: [a, b], under: [c, d], shift }
            }
            Sources::Quantile { share, sorted: [a, b], counts } => {
                let factor = (-shift).exp();
                let mut merged = Vec::with_capacity(a.len() + b.len());
                let mut rest =
                    b.iter().map(|(value, round)| (factor * value, 2 * round + 1)).peekable();
                for (value, round) in a {
                    while let Some(of_b) = rest.next_if(|of_b| of_b.0 < *value) {
                        merged.push(of_b);
                    }
                    merged.push((*value, 2 * round));
                }
                merged.extend(rest);
                Scaled::Quantile { share: *share, sorted: merged, counts }
            }
        }
    }
}

impl Scaled<'_> {
    /// ln of B's figure over A's, with the versions of some rounds swapped; not a number if there is none.
    fn log_ratio(&self, swapped: &[bool]) -> f64 {
        let [a, b] = match self {
            Scaled::Sums { over, under, shift } => {
                let factor = [1.0, (-shift).exp()];
                let (mut over_sums, mut under_sums) = ([0.0; 2], [0.0; 2]);
                for (round, swap) in swapped.iter().enumerate() {
                    for version in 0..2 {
                        let shown = version ^ usize::from(*swap);
                        over_sums[shown] += factor[version] * over[version][round];
                        under_sums[shown] += under[version][round];
                    }
                }
                [over_sums[0] / under_sums[0], over_sums[1] / under_sums[1]]
            }
            Scaled::Quantile { share, sorted, counts } => {
                quantiles(sorted, counts, *share, swapped)
            }
        };
        (b / a).ln()
    }

    /// The absolute log-ratio; where there is none, it counts as large.
    fn size(&self, swapped: &[bool]) -> f64 {
        let size = self.log_ratio(swapped).abs();
        if size.is_nan() { f64::INFINITY } else { size }
    }
}

/// The quantile of both versions' values, with the versions of some rounds swapped, in one pass.
fn quantiles(
    sorted: &[(f64, u32)],
    counts: &[[usize; 2]],
    share: f64,
    swapped: &[bool],
) -> [f64; 2] {
    let mut total = [0usize; 2];
    for (count, swap) in counts.iter().zip(swapped) {
        (0..2).for_each(|version| total[version ^ usize::from(*swap)] += count[version]);
    }
    if total.contains(&0) {
        return [f64::NAN; 2];
    }
    // The quantile lies `part` of the way from the value at `rank` to the one at `last`.
    let place = total.map(|total| share * (total - 1) as f64);
    let (rank, part) = (place.map(|place| place as usize), place.map(f64::fract));
    let last = [0, 1].map(|version| rank[version] + usize::from(part[version] > 0.0));
    let (mut seen, mut found, mut before) = ([0usize; 2], [f64::NAN; 2], [0.0; 2]);
    let mut open = 2;
    for &(value, tag) in sorted {
        let version = (tag & 1) as usize ^ usize::from(swapped[(tag >> 1) as usize]);
        let at = seen[version];
        seen[version] = at + 1;
        if at == rank[version] {
            before[version] = value;
        }
        if at == last[version] {
            found[version] = before[version] + part[version] * (value - before[version]);
            open -= 1;
            if open == 0 {
                break;
            }
        }
    }
    found
}

/// The quantile of sorted values, interpolated linearly between the two next to it; `None` without values.
pub fn quantile(sorted: &[f64], share: f64) -> Option<f64> {
    let last = sorted.len().checked_sub(1)?;
    let place = share * last as f64;
    let below = sorted[place.floor() as usize];
    let above = sorted[(place.floor() as usize + 1).min(last)];
    Some(below + place.fract() * (above - below))
}

/// Probability that of `a + b` fair coins the rarer side is at most as rare: McNemar's exact test of how often a reply
/// turned from right to wrong (`a`) and from wrong to right (`b`).
pub fn sign_test(a: u64, b: u64) -> f64 {
    let (n, k) = (a + b, a.min(b));
    let (mut term, mut sum) = (-(n as f64) * std::f64::consts::LN_2, 0.0);
    for i in 0..=k {
        sum += term.exp();
        term += ((n - i) as f64 / (i + 1) as f64).ln();
    }
    (2.0 * sum).min(1.0)
}

#[cfg(test)]
mod simulated_tests;
#[cfg(test)]
mod tests;
