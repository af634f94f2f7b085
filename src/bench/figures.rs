//! The figures of a load point, from its samples: latencies, rates, energy, and B's over A's with intervals.
//!
//! The names are the usual ones (vLLM, llama-bench): TTFT, TPOT, ITL, goodput. Pure; it does not know how figures are
//! shown.

use super::plan::Version;
use super::sample::{Kept, PointRun, Sample};
use super::statistics::{self, Data, Group, Interval, Method, NoInterval, Value};

named! {
    /// What a figure is of.
    #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
    pub enum Metric {
        /// Time to first token, in ms.
        Ttft = "TTFT",
        /// Mean time per output token after the first, by request, in ms.
        Tpot = "TPOT",
        /// Inter-token latency, by token, in ms.
        Itl = "ITL",
        /// From a request's arrival to its last token, in ms.
        EndToEnd = "E2E",
        /// Requests per second.
        Requests = "requests",
        /// Tokens of replies per second.
        OutputTokens = "output",
        /// Tokens of prompts and replies per second.
        TotalTokens = "total",
        /// Requests per second that met every limit of the service level objective.
        Goodput = "goodput",
        /// Power draw, in W.
        Power = "power",
        /// Energy per token of a reply, in J.
        Energy = "energy",
    }
}

named! {
    /// Which statistic of it.
    #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
    pub enum Statistic {
        /// The mean, or a rate.
        Mean = "mean",
        /// The median.
        P50 = "p50",
        /// The 90 % quantile.
        P90 = "p90",
        /// The 99 % quantile.
        P99 = "p99",
    }
}

/// Limits of a service level objective, in seconds.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Slo {
    /// Longest time to first token.
    pub ttft: Option<f64>,
    /// Longest mean time per output token.
    pub tpot: Option<f64>,
    /// Longest time to the last token.
    pub end_to_end: Option<f64>,
}

/// One figure of one load point.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Figure {
    /// What it is of.
    pub metric: Metric,
    /// Which statistic of it.
    pub statistic: Statistic,
    /// By version, in the metric's unit; `None` if there was nothing to measure.
    pub of: [Option<f64>; 2],
    /// B's over A's; `None` if there is one version.
    pub ratio: Option<Result<Interval, NoInterval>>,
}

impl Metric {
    /// Its unit.
    pub fn unit(self) -> &'static str {
        match self {
            Metric::Ttft | Metric::Tpot | Metric::Itl | Metric::EndToEnd => "ms",
            Metric::Requests | Metric::Goodput => "req/s",
            Metric::OutputTokens | Metric::TotalTokens => "t/s",
            Metric::Power => "W",
            Metric::Energy => "J/t",
        }
    }

    /// The name in JSON, as vLLM's benchmark has it where it has one.
    pub fn key(self) -> &'static str {
        match self {
            Metric::Ttft => "ttft_ms",
            Metric::Tpot => "tpot_ms",
            Metric::Itl => "itl_ms",
            Metric::EndToEnd => "e2el_ms",
            Metric::Requests => "request_throughput",
            Metric::OutputTokens => "output_throughput",
            Metric::TotalTokens => "total_token_throughput",
            Metric::Goodput => "request_goodput",
            Metric::Power => "power_watts",
            Metric::Energy => "joules_per_token",
        }
    }

    /// Whether less is better; `None` if neither is.
    pub fn less_is_better(self) -> Option<bool> {
        match self {
            Metric::Requests | Metric::OutputTokens | Metric::TotalTokens | Metric::Goodput => {
                Some(false)
            }
            Metric::Power => None,
            _ => Some(true),
        }
    }

    /// The values of a request, in ms; empty for rates.
    fn values(self, sample: &Sample) -> Vec<f64> {
        match self {
            Metric::Ttft => vec![1e3 * sample.ttft],
            Metric::Tpot => sample.tpot().map(|tpot| 1e3 * tpot).into_iter().collect(),
            Metric::Itl => sample.gaps.iter().map(|gap| 1e3 * f64::from(*gap)).collect(),
            Metric::EndToEnd => vec![1e3 * sample.end_to_end],
            _ => Vec::new(),
        }
    }
}

impl Statistic {
    fn share(self) -> Option<f64> {
        [None, Some(0.5), Some(0.9), Some(0.99)][self as usize]
    }
}

impl Slo {
    /// Whether a request kept all limits.
    pub fn met(&self, sample: &Sample) -> bool {
        let within = |limit: Option<f64>, value: f64| limit.is_none_or(|limit| value <= limit);
        within(self.ttft, sample.ttft)
            && within(self.tpot, sample.tpot().unwrap_or(0.0))
            && within(self.end_to_end, sample.end_to_end)
    }
}

impl Figure {
    /// Metric and statistic, such as `TTFT p50`; of a rate the metric alone.
    pub fn name(&self) -> String {
        match self.metric.unit() == "ms" {
            true => format!("{} {}", self.metric.as_str(), self.statistic.as_str()),
            false => self.metric.as_str().to_owned(),
        }
    }

    /// The interval, if there is one.
    pub fn interval(&self) -> Option<Interval> {
        self.ratio.and_then(Result::ok)
    }

    /// Whether B is worse than A by more than noise; `None`: no difference beyond noise, or no interval.
    pub fn worse(&self) -> Option<bool> {
        let interval = self.interval().filter(|interval| interval.differs)?;
        let more = interval.ratio > 1.0;
        self.metric.less_is_better().map(|less| less == more)
    }
}

/// The figures of all points. With two versions, their intervals hold simultaneously over all figures of all points.
pub fn figures(points: &[PointRun], slo: &Slo, method: &Method) -> Vec<Vec<Figure>> {
    let kept: Vec<Kept<'_>> = points.iter().map(PointRun::kept).collect();
    let data: Vec<Vec<(Metric, Statistic, Data)>> =
        kept.iter().map(|kept| data(kept, slo)).collect();
    let two = points.iter().flat_map(|run| &run.blocks).any(|block| block.version == Version::B);
    let group = |(kept, data): (&Kept<'_>, &Vec<(Metric, Statistic, Data)>)| Group {
        rounds: kept.rounds,
        figures: data.iter().map(|(_, _, data)| data.clone()).collect(),
    };
    let ratios = match two {
        true => {
            statistics::intervals(&kept.iter().zip(&data).map(group).collect::<Vec<_>>(), method)
        }
        false => Vec::new(),
    };
    let point = |(number, all): (usize, &Vec<(Metric, Statistic, Data)>)| {
        let figure =
            |(at, (metric, statistic, data)): (usize, &(Metric, Statistic, Data))| Figure {
                metric: *metric,
                statistic: *statistic,
                of: [data.of(0), data.of(1)],
                ratio: ratios.get(number).map(|ratios| ratios[at]),
            };
        all.iter().enumerate().map(figure).collect()
    };
    data.iter().enumerate().map(point).collect()
}

/// What each figure of a point is computed from.
fn data(kept: &Kept<'_>, slo: &Slo) -> Vec<(Metric, Statistic, Data)> {
    let samples = kept.samples();
    let mut all = Vec::new();
    for metric in [Metric::Ttft, Metric::Tpot, Metric::Itl, Metric::EndToEnd] {
        let values: Vec<Value> = samples
            .iter()
            .flat_map(|(round, version, sample)| {
                let value = |value| Value { value, round: *round, version: *version };
                metric.values(sample).into_iter().map(value)
            })
            .collect();
        if !values.is_empty() {
            all.extend(Statistic::ALL.map(|statistic| {
                let data = match statistic.share() {
                    Some(share) => Data::Quantile { share, values: values.clone() },
                    None => mean(&values, kept.rounds),
                };
                (metric, statistic, data)
            }));
        }
    }
    let rates = rates(kept, &samples, slo);
    all.extend(rates.into_iter().map(|(metric, data)| (metric, Statistic::Mean, data)));
    all
}

fn mean(values: &[Value], rounds: usize) -> Data {
    let (mut over, mut under) = (zeros(rounds), zeros(rounds));
    for value in values {
        over[value.version][value.round] += value.value;
        under[value.version][value.round] += 1.0;
    }
    Data::Sums { over, under }
}

fn zeros(rounds: usize) -> [Vec<f64>; 2] {
    [vec![0.0; rounds], vec![0.0; rounds]]
}

/// Rates and energy, by round: sums over the requests, and over the time of the blocks.
fn rates(kept: &Kept<'_>, samples: &[(usize, usize, &Sample)], slo: &Slo) -> Vec<(Metric, Data)> {
    let rounds = kept.rounds;
    let sum = |amount: &dyn Fn(&Sample) -> f64| {
        let mut sums = zeros(rounds);
        samples.iter().for_each(|(round, version, one)| sums[*version][*round] += amount(one));
        sums
    };
    let (mut seconds, mut joules, mut measured) = (zeros(rounds), zeros(rounds), true);
    for (round, block) in &kept.blocks {
        seconds[block.version.index()][*round] += block.seconds;
        joules[block.version.index()][*round] += block.watts.unwrap_or(0.0) * block.seconds;
        measured &= block.watts.is_some();
    }
    let output = sum(&|sample| sample.output_tokens as f64);
    let total = sum(&|sample| (sample.prompt_tokens + sample.output_tokens) as f64);
    let per_second = |over| Data::Sums { over, under: seconds.clone() };
    let mut all = vec![
        (Metric::Requests, per_second(sum(&|_| 1.0))),
        (Metric::OutputTokens, per_second(output.clone())),
        (Metric::TotalTokens, per_second(total)),
    ];
    if *slo != Slo::default() {
        let good = sum(&|sample| f64::from(u8::from(slo.met(sample))));
        all.push((Metric::Goodput, per_second(good)));
    }
    if measured && !kept.blocks.is_empty() {
        all.push((Metric::Power, per_second(joules.clone())));
        all.push((Metric::Energy, Data::Sums { over: joules, under: output }));
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::plan::{Load, Point};
    use crate::bench::sample::Measured;

    /// Eight rounds; B's times are `factor` times A's.
    fn run(factor: f64, watts: Option<f64>) -> PointRun {
        let point = Point { load: Load::Concurrency(1), depth: 0, prefix_cache: false };
        let block = |round: usize, position: usize| {
            let b = (position == 1 || position == 2) != round.is_multiple_of(3);
            let slow = if b { factor } else { 1.0 } * (1.0 + 0.01 * round as f64);
            let sample = Sample {
                ttft: 0.1 * slow,
                gaps: vec![0.01 * slow as f32; 9],
                end_to_end: 0.19 * slow,
                prompt_tokens: 90,
                cached_tokens: 0,
                output_tokens: 10,
            };
            Measured {
                version: if b { Version::B } else { Version::A },
                round,
                pair: 2 * round + position / 2,
                begun: 0.0,
                seconds: 0.2 * slow,
                samples: vec![Ok(sample)],
                watts,
                throttled: None,
            }
        };
        let blocks = (0..8).flat_map(|round| (0..4).map(move |at| block(round, at))).collect();
        PointRun { point, blocks }
    }

    fn find(all: &[Figure], metric: Metric, statistic: Statistic) -> Figure {
        *all.iter().find(|one| (one.metric, one.statistic) == (metric, statistic)).unwrap()
    }

    #[test]
    fn figures_of_a_slower_version() {
        let slo = Slo { ttft: Some(0.11), tpot: Some(0.011), end_to_end: None };
        let all = &figures(&[run(1.25, Some(200.0))], &slo, &Method::default())[0];
        let ttft = find(all, Metric::Ttft, Statistic::Mean);
        assert!((ttft.of[0].unwrap() - 103.5).abs() < 1e-9, "{ttft:?}");
        assert!((ttft.interval().unwrap().ratio - 1.25).abs() < 1e-9);
        assert_eq!((ttft.worse(), ttft.name().as_str()), (Some(true), "TTFT mean"));
        let output = find(all, Metric::OutputTokens, Statistic::Mean);
        assert!((output.interval().unwrap().ratio - 0.8).abs() < 1e-9);
        assert_eq!((output.worse(), output.name().as_str()), (Some(true), "output"));
        let tpot = find(all, Metric::Tpot, Statistic::P50);
        assert!((tpot.of[0].unwrap() - 10.35).abs() < 1e-6, "{tpot:?}");
        let goodput = find(all, Metric::Goodput, Statistic::Mean);
        assert!(goodput.of[0].unwrap() > 4.0 && goodput.of[1] == Some(0.0), "{goodput:?}");
        assert_eq!(goodput.ratio, Some(Err(NoInterval::NoRatio)));
        let energy = find(all, Metric::Energy, Statistic::Mean);
        assert!((energy.of[0].unwrap() - 200.0 * 0.2 * 1.035 / 10.0).abs() < 1e-9, "{energy:?}");
        let power = find(all, Metric::Power, Statistic::Mean);
        assert_eq!((power.worse(), power.of[0].map(f64::round)), (None, Some(200.0)));
    }

    #[test]
    fn equal_versions_do_not_differ_and_power_is_shown_only_if_told() {
        let all = &figures(&[run(1.0, None)], &Slo::default(), &Method::default())[0];
        assert!(all.iter().all(|one| one.worse().is_none() && one.interval().is_some()));
        assert!(all.iter().all(|one| one.metric < Metric::Goodput));
    }

    #[test]
    fn one_version_has_figures_without_ratios() {
        let mut alone = run(1.0, None);
        alone.blocks.retain(|block| block.version == Version::A);
        let all = &figures(&[alone], &Slo::default(), &Method::default())[0];
        assert!(all.iter().all(|one| one.ratio.is_none() && one.of[0].is_some()));
    }
}
