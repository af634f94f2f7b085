//! A finished run, ready to be shown, and the texts that all formats share.
//!
//! Pure. It does not know where a report goes.

pub mod html;
pub mod json;
pub mod markdown;
pub mod table;

use super::figures::{Figure, Metric, Statistic};
use super::limits::Judged;
use super::plan::{Point, Version};
use super::replies::Changes;
use super::sample::{Kept, Memory, PointRun};
use super::statistics::NoInterval;
use serde::Serialize;

/// One version, as the report names it.
#[derive(Debug, Clone, PartialEq, Default, Serialize)]
pub struct Model {
    /// Name and digest, or name and address of the server.
    pub name: String,
    /// Architecture; empty if it is not known.
    #[serde(rename = "model_type")]
    pub architecture: String,
    /// Bytes of the weights as loaded.
    #[serde(rename = "model_size")]
    pub size: Option<u64>,
    /// Parameters.
    #[serde(rename = "model_n_params")]
    pub params: Option<u64>,
    /// Its memory at the end of the run.
    #[serde(rename = "memory_bytes")]
    pub memory: Memory,
}

/// What was run, and where.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Setup {
    /// `CPU` or `CUDA`, with the device's name; empty for a server.
    pub backend: String,
    /// Threads of the CPU's pool.
    pub threads: Option<usize>,
    /// Most tokens of a step: llama-bench's `n_ubatch`.
    pub n_ubatch: Option<usize>,
    /// The prompts in words, such as `synthetic, 128 tokens`.
    pub prompts: String,
    /// Tokens of a synthetic prompt.
    pub prompt_tokens: Option<usize>,
    /// Most tokens of a reply.
    pub output_tokens: usize,
    /// Seed of everything that is random.
    pub seed: u64,
    /// Per cent by which intervals are widened.
    pub noise_threshold: f64,
    /// Resident memory of the process at the end, in bytes.
    pub resident: Option<u64>,
}

/// One load point.
#[derive(Debug, Clone, PartialEq)]
pub struct PointReport {
    /// What was measured.
    pub run: PointRun,
    /// Its figures.
    pub figures: Vec<Figure>,
}

/// A finished run.
#[derive(Debug, Clone, PartialEq)]
pub struct Report {
    /// A, and B if there are two.
    pub models: Vec<Model>,
    /// What was run, and where.
    pub setup: Setup,
    /// In the order in which they were run.
    pub points: Vec<PointReport>,
    /// What changed in the replies; `None` if they were not compared.
    pub changes: Option<Changes>,
    /// Limits, if there are any.
    pub limits: Vec<Judged>,
}

impl Report {
    /// Whether two versions were compared.
    pub fn is_pair(&self) -> bool {
        self.models.len() == 2
    }

    /// The result in one line; `None` for one version.
    pub fn conclusion(&self) -> Option<String> {
        if !self.is_pair() {
            return None;
        }
        let all = || self.points.iter().flat_map(|point| &point.figures);
        let known = all().filter(|figure| figure.interval().is_some()).count();
        if known == 0 {
            let why = "too few rounds for intervals: raise --rounds, or show fewer load points";
            return Some(why.to_owned());
        }
        let count = |worse| all().filter(|figure| figure.worse() == Some(worse)).count();
        let differ = all().filter(|one| one.interval().is_some_and(|one| one.differs)).count();
        Some(match differ {
            0 => "no difference beyond noise".to_owned(),
            _ => format!(
                "beyond noise, of {known} figures: {} worse, {} better in B",
                count(true),
                count(false)
            ),
        })
    }
}

/// What the ratio of a figure says, in words.
pub fn verdict(figure: &Figure) -> &'static str {
    match figure.ratio {
        None => "",
        Some(Err(NoInterval::FewRounds)) => "too few rounds",
        Some(Err(NoInterval::NoRatio)) => "no ratio",
        Some(Ok(interval)) if !interval.differs => "smaller than noise",
        Some(Ok(interval)) => match (figure.worse(), interval.ratio > 1.0) {
            (Some(true), _) => "B is worse",
            (Some(false), _) => "B is better",
            (None, true) => "B is higher",
            (None, false) => "B is lower",
        },
    }
}

/// A figure with four significant digits.
pub fn number(value: Option<f64>) -> String {
    let Some(value) = value else { return "-".to_owned() };
    let magnitude = value.abs();
    let decimals = match magnitude {
        _ if magnitude >= 1000.0 => 0,
        _ if magnitude >= 100.0 => 1,
        _ if magnitude >= 10.0 => 2,
        _ if magnitude >= 1.0 || magnitude == 0.0 => 3,
        _ => 4,
    };
    format!("{value:.decimals$}")
}

/// A ratio with three decimals, fewer if it is large.
pub fn ratio(value: f64) -> String {
    match value {
        _ if value >= 1000.0 => format!("{value:.0}"),
        _ if value >= 10.0 => format!("{value:.1}"),
        _ => format!("{value:.3}"),
    }
}

/// B's figure over A's and the interval of that, with `to` between its bounds; dashes without an interval.
pub fn ratio_and_interval(figure: &Figure, to: &str) -> (String, String) {
    match figure.interval() {
        Some(one) => (ratio(one.ratio), format!("{}{to}{}", ratio(one.low), ratio(one.high))),
        None => ("-".to_owned(), "-".to_owned()),
    }
}

/// The lines about a point that are not figures: requests, failures, dropped blocks.
pub fn remarks(kept: &Kept<'_>, pair: bool) -> Vec<String> {
    let samples = kept.samples();
    let of = |version: Version| samples.iter().filter(|one| one.1 == version.index()).count();
    let rounds = match pair {
        true => format!("{} rounds of ABBA, {} requests each", kept.rounds, of(Version::A)),
        false => format!("{} requests", of(Version::A)),
    };
    let prompt: usize = samples.iter().map(|one| one.2.prompt_tokens).sum();
    let cached: usize = samples.iter().map(|one| one.2.cached_tokens).sum();
    let share = if prompt > 0 { 100.0 * cached as f64 / prompt as f64 } else { 0.0 };
    let mut lines = vec![format!("{rounds}; {share:.1} % of the prompt tokens were cached")];
    for version in Version::ALL {
        if let Some(error) = kept.first_error(version) {
            let failed = kept.failed[version.index()];
            lines.push(format!("{failed} requests of {} failed: {error}", version.as_str()));
        }
    }
    if kept.dropped > 0 {
        lines.push(format!(
            "{} blocks dropped: the device was throttled in {}",
            kept.dropped, kept.throttled
        ));
    }
    lines
}

/// What limits say at a point, one line each.
pub fn limit_lines(report: &Report) -> Vec<String> {
    let line = |judged: &Judged| {
        let at = match report.points.len() {
            1 => String::new(),
            _ => format!(" ({})", report.points[judged.point].run.point),
        };
        format!("{}{at}: {}", judged.limit.text(), judged.verdict.as_str())
    };
    report.limits.iter().map(line).collect()
}

/// What changed in the replies, one line each.
pub fn change_lines(changes: &Changes) -> Vec<String> {
    let mut lines = Vec::new();
    if let (failed, Some(first)) = &changes.failed {
        lines.push(format!("{failed} more could not be answered by both"));
        lines.push(format!("the first: {first}"));
    }
    let name = |at: usize| Version::ALL[at].as_str();
    for (at, counts) in changes.counts.iter().enumerate() {
        let right = match changes.with_answer {
            0 => String::new(),
            n => format!(", {} of {n} right", counts.right),
        };
        lines.push(format!(
            "{}: {} tokens on average, {} empty, {} loops{right}",
            name(at),
            number(Some(counts.mean_length)),
            counts.empty,
            counts.loops
        ));
    }
    if let Some(identical) = changes.identical {
        let first = changes.first_divergence;
        let first = first.map(|at| format!("; median first divergence at token {at:.0}"));
        lines.push(format!(
            "{identical} of {} the same{}",
            changes.prompts,
            first.unwrap_or_default()
        ));
    }
    if let Some(p) = changes.turned_p {
        let [worse, better] = changes.turned;
        lines.push(format!(
            "right to wrong {worse}, wrong to right {better} (sign test p = {p:.3})"
        ));
    }
    let bound = |name: &str| match changes.kld_is_bound && name.contains("KLD") {
        true => " at least",
        false => "",
    };
    let figures = changes.distributions.iter();
    lines.extend(figures.map(|(name, value)| match *name {
        "Same top p" => format!("{name}: {:.3} %", 100.0 * value),
        _ => format!("{name}:{} {value:.6}", bound(name)),
    }));
    lines
}

/// llama-bench's two rows for a point: `pp` (prompt tokens over TTFT) and `tg` (tokens of replies per second), with the
/// version's number, the name of the test and tokens per second.
pub fn llama_bench_rows(report: &Report, point: &PointReport) -> Vec<(usize, String, f64)> {
    let figure = |metric, statistic| {
        let own = |one: &&Figure| (one.metric, one.statistic) == (metric, statistic);
        point.figures.iter().find(own)
    };
    let kept = point.run.kept();
    let samples = kept.samples();
    let mut rows = Vec::new();
    for version in 0..report.models.len() {
        let own: Vec<_> = samples.iter().filter(|one| one.1 == version).collect();
        let mean = |of: fn(&super::sample::Sample) -> usize| {
            own.iter().map(|one| of(one.2) as f64).sum::<f64>() / own.len().max(1) as f64
        };
        let [prompt, output] =
            [mean(|one| one.prompt_tokens - one.cached_tokens), mean(|one| one.output_tokens)];
        let after = after(&point.run.point);
        if let Some(ttft) = figure(Metric::Ttft, Statistic::Mean).and_then(|one| one.of[version]) {
            rows.push((version, format!("pp{prompt:.0}{after}"), prompt / (ttft / 1e3)));
        }
        let rate = figure(Metric::OutputTokens, Statistic::Mean).and_then(|one| one.of[version]);
        rows.extend(rate.map(|rate| (version, format!("tg{output:.0}{after}"), rate)));
    }
    rows
}

fn after(point: &Point) -> String {
    let depth = if point.depth > 0 { format!(" @ d{}", point.depth) } else { String::new() };
    let load = match point.load {
        super::plan::Load::Concurrency(1) => String::new(),
        super::plan::Load::Concurrency(n) => format!(" @ c{n}"),
        super::plan::Load::Rate(rate) => format!(" @ {rate}/s"),
    };
    format!("{depth}{load}")
}

#[cfg(test)]
pub mod testing;
