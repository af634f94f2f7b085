//! Ratios of two versions' figures, with intervals that hold for all figures at once.
//!
//! What is exchangeable: in a round (`plan`) the order of the versions was drawn by a fair coin, and both ran the same
//! prompts next to each other. If B's times are A's times `r`, then dividing B's by `r` and swapping the two versions of
//! any rounds gives data that were just as likely, whatever drifts, bursts or correlations in time there were. That is
//! a randomisation test of `r`: the figures are computed again for many random swaps, and `r` is refused if the real
//! difference is among the largest. Requests within a block are never treated as independent.
//!
//! Simultaneous: each figure's log-ratio is divided by its root mean square over the swaps, and the largest of all figures
//! is compared with its own distribution (max-|t|; Romano and Wolf 2005; Westfall and Young 1993). So the probability
//! that any figure of two equal versions is called different is at most `level`, exactly and not asymptotically.
//! The interval of a figure holds the `r` that are not refused. Their bounds are computed from the swaps at the estimate:
//! for a mean over n rounds the scale at `r` is s^2 + k (log-ratio - log r)^2, with k = 1/n if all rounds weigh the same.
//! That is as wide as Student's t for few rounds. Decision: docs/decisions/053.
//!
//! Pure. It does not know what a figure means.

use super::random::Random;

/// Fewest rounds for an interval: with fewer, no two-sided test at 5 % can refuse anything.
pub const LEAST_ROUNDS: usize = 6;
/// Most values of a figure that are used for its interval; of more, every second, third, ... is.
const MOST_VALUES: usize = 60_000;

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
    /// Bounds of the ratio; all intervals of one analysis hold at once with probability 1 - `level`.
    pub low: f64,
    /// See `low`.
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
}

impl Default for Method {
    fn default() -> Method {
        Method { level: 0.05, swaps: 1999, seed: 1 }
    }
}

/// The intervals of all figures, in order; they hold simultaneously over all groups.
pub fn intervals(groups: &[Group], method: &Method) -> Vec<Vec<Result<Interval, NoInterval>>> {
    let tested: Vec<Vec<Result<Tested, NoInterval>>> =
        groups.iter().enumerate().map(|(number, group)| group.test(number, method)).collect();
    let all = || tested.iter().flatten().flatten();
    let at_one = critical(all().map(|tested| &tested.at_one), method);
    let at_estimate = critical(all().map(|tested| &tested.at_estimate), method);
    let interval = |tested: &Result<Tested, NoInterval>| {
        tested.as_ref().map_err(|no| *no).and_then(|tested| tested.interval(at_one, at_estimate))
    };
    tested.iter().map(|group| group.iter().map(interval).collect()).collect()
}

/// The log-ratios of a figure over the swaps; the first is the real one.
struct Swapped {
    log_ratios: Vec<f64>,
    /// Their root mean square. It does not depend on which of them is the real one.
    scale: f64,
}

struct Tested {
    /// ln of the ratio.
    estimate: f64,
    /// For equal versions.
    at_one: Swapped,
    /// With B's values divided by the ratio.
    at_estimate: Swapped,
    /// Sum of the squares of the rounds' weights: 1/n if all weigh the same.
    concentration: f64,
}

impl Group {
    fn test(&self, number: usize, method: &Method) -> Vec<Result<Tested, NoInterval>> {
        let mut random = Random::new(method.seed, number as u64);
        let unswapped = std::iter::once(vec![false; self.rounds]);
        let random = (0..method.swaps).map(|_| (0..self.rounds).map(|_| random.coin()).collect());
        let swaps: Vec<Vec<bool>> = unswapped.chain(random).collect();
        self.figures.iter().map(|data| self.tested(data, &swaps)).collect()
    }

    fn tested(&self, data: &Data, swaps: &[Vec<bool>]) -> Result<Tested, NoInterval> {
        if self.rounds < LEAST_ROUNDS {
            return Err(NoInterval::FewRounds);
        }
        let ratio = data.of(1).zip(data.of(0)).map(|(b, a)| b / a);
        let estimate = ratio.map(f64::ln).filter(|ln| ln.is_finite()).ok_or(NoInterval::NoRatio)?;
        let thinned = data.thinned();
        let at = |shift: f64| {
            let scaled = thinned.scaled((-shift).exp(), self.rounds);
            let log_ratios = swaps.iter().map(|swap| scaled.log_ratio(swap)).collect::<Vec<f64>>();
            let squares = log_ratios.iter().map(|x| x * x).sum::<f64>();
            let scale = (squares / log_ratios.len() as f64).sqrt();
            scale.is_finite().then_some(Swapped { log_ratios, scale }).ok_or(NoInterval::NoRatio)
        };
        let (at_one, at_estimate) = (at(0.0)?, at(estimate)?);
        let concentration = data.concentration(self.rounds);
        Ok(Tested { estimate, at_one, at_estimate, concentration })
    }
}

impl Tested {
    fn interval(&self, at_one: f64, at_estimate: f64) -> Result<Interval, NoInterval> {
        let critical = at_one.max(at_estimate);
        let rest = 1.0 - self.concentration * critical * critical;
        if rest <= 0.0 {
            return Err(NoInterval::FewRounds);
        }
        let half = critical * self.at_estimate.scale / rest.sqrt();
        let (mut low, mut high) = (self.estimate - half, self.estimate + half);
        let refused = self.at_one.scale > 0.0
            && self.at_one.log_ratios[0].abs() / self.at_one.scale > at_one + 1e-9;
        if !refused {
            (low, high) = (low.min(0.0), high.max(0.0));
        }
        let differs = refused && (low > 0.0 || high < 0.0);
        let [ratio, low, high] = [self.estimate, low, high].map(f64::exp);
        Ok(Interval { ratio, low, high, differs })
    }
}

/// The value that the largest scaled log-ratio of all figures exceeds in at most a share `level` of the swaps.
fn critical<'a>(figures: impl Iterator<Item = &'a Swapped>, method: &Method) -> f64 {
    let mut largest = vec![0.0f64; method.swaps + 1];
    for figure in figures.filter(|figure| figure.scale > 0.0) {
        for (largest, log_ratio) in largest.iter_mut().zip(&figure.log_ratios) {
            *largest = largest.max(log_ratio.abs() / figure.scale);
        }
    }
    largest.sort_by(f64::total_cmp);
    let rank = ((1.0 - method.level) * largest.len() as f64).ceil() as usize;
    largest[rank.clamp(1, largest.len()) - 1]
}

/// Data with B's values scaled, ready to be swapped many times.
enum Scaled<'a> {
    Sums { over: [Vec<f64>; 2], under: &'a [Vec<f64>; 2] },
    /// Values in ascending order with round and version, and the number of values by round and version.
    Quantile { share: f64, sorted: Vec<(f64, u32)>, counts: Vec<[usize; 2]> },
}

impl Data {
    /// The figure of a version; `None` without values.
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
    fn thinned(&self) -> std::borrow::Cow<'_, Data> {
        match self {
            Data::Quantile { share, values } if values.len() > MOST_VALUES => {
                let step = values.len().div_ceil(MOST_VALUES);
                let values = values.iter().step_by(step).copied().collect();
                std::borrow::Cow::Owned(Data::Quantile { share: *share, values })
            }
            _ => std::borrow::Cow::Borrowed(self),
        }
    }

    fn scaled(&self, of_b: f64, rounds: usize) -> Scaled<'_> {
        match self {
            Data::Sums { over, under } => {
                let [a, b] = over;
                let over = [a.clone(), b.iter().map(|x| x * of_b).collect()];
                Scaled::Sums { over, under }
            }
            Data::Quantile { share, values } => {
                let mut counts = vec![[0; 2]; rounds];
                let one = |value: &Value| {
                    counts[value.round][value.version] += 1;
                    let factor = if value.version == 1 { of_b } else { 1.0 };
                    (factor * value.value, (2 * value.round + value.version) as u32)
                };
                let mut sorted: Vec<(f64, u32)> = values.iter().map(one).collect();
                sorted.sort_by(|a, b| a.0.total_cmp(&b.0));
                Scaled::Quantile { share: *share, sorted, counts }
            }
        }
    }

    /// Sum of the squares of the rounds' shares in the figure.
    fn concentration(&self, rounds: usize) -> f64 {
        let mut weights = vec![0.0; rounds];
        match self {
            Data::Sums { over: [a, b], .. } => {
                let (of_a, of_b) = (a.iter().sum::<f64>(), b.iter().sum::<f64>());
                for ((weight, a), b) in weights.iter_mut().zip(a).zip(b) {
                    *weight = 0.5 * (a / of_a + b / of_b);
                }
            }
            Data::Quantile { values, .. } => {
                values.iter().for_each(|value| weights[value.round] += 1.0 / values.len() as f64);
            }
        }
        weights.iter().map(|weight| weight * weight).sum()
    }
}

impl Scaled<'_> {
    /// ln of B's figure over A's, with the versions of some rounds swapped.
    fn log_ratio(&self, swapped: &[bool]) -> f64 {
        let [a, b] = match self {
            Scaled::Sums { over, under } => {
                let sum = |of: &[Vec<f64>; 2], version: usize| -> f64 {
                    let one = |(round, swap): (usize, &bool)| of[version ^ usize::from(*swap)][round];
                    swapped.iter().enumerate().map(one).sum()
                };
                [0, 1].map(|version| sum(over, version) / sum(under, version))
            }
            Scaled::Quantile { share, sorted, counts } => {
                quantiles(sorted, counts, *share, swapped)
            }
        };
        (b / a).ln()
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
    let place = total.map(|total| share * (total - 1) as f64);
    let (mut seen, mut found, mut before) = ([0usize; 2], [f64::NAN; 2], [0.0; 2]);
    let mut open = 2;
    for &(value, tag) in sorted {
        let version = (tag & 1) as usize ^ usize::from(swapped[(tag >> 1) as usize]);
        let (rank, part) = (place[version].floor(), place[version].fract());
        let at = seen[version] as f64;
        let last = rank + f64::from(u8::from(part > 0.0));
        if at == rank {
            before[version] = value;
        }
        if at == last {
            found[version] = before[version] + part * (value - before[version]);
            open -= 1;
            if open == 0 {
                break;
            }
        }
        seen[version] += 1;
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
