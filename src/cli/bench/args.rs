//! The arguments of `serin bench`, as typed and as resolved.
//!
//! Pure. It does not know about models or servers.

use super::super::prompts::temperature;
use crate::bench::figures::{Metric, Slo, Statistic};
use crate::bench::limits::Limit;
use crate::bench::plan::{Load, Point, points};
use crate::bench::statistics::ALLOWANCE;
use crate::bench::target::{Endpoint, Server};
use crate::model::LoadFormat;
use clap::{Args, ValueEnum};
use std::path::PathBuf;

/// What to measure, and how.
#[derive(Debug, Clone, Args)]
pub(in crate::cli) struct BenchArgs {
    /// The version to measure: a folder, a GGUF file or an `hf:` reference. The base of all ratios.
    #[arg(required_unless_present = "url", conflicts_with = "url")]
    a: Option<PathBuf>,
    /// The version to compare with it.
    b: Option<PathBuf>,
    /// Config file (TOML): its `[engine]` and `[model]` tables are used.
    #[arg(long, conflicts_with = "url")]
    pub config: Option<PathBuf>,
    /// Overrides model.load_format: `auto`, or `dummy:FORM` for random weights of the real shape.
    #[arg(long, conflicts_with = "url", value_parser = LoadFormat::parse)]
    pub load_format: Option<LoadFormat>,

    /// Measure a running OpenAI-compatible server instead of a model in this process.
    #[arg(long, value_name = "URL", help_heading = "Servers")]
    pub url: Option<String>,
    /// Compare it with this server.
    #[arg(long, value_name = "URL", requires = "url", help_heading = "Servers")]
    url_b: Option<String>,
    /// Compare stable with the canary of the serin server at --url (header x-serin-variant).
    #[arg(long, requires = "url", conflicts_with = "url_b", help_heading = "Servers")]
    canary: bool,
    /// Name of the model at --url; default: the first that the server lists.
    #[arg(long, value_name = "NAME", requires = "url", help_heading = "Servers")]
    model: Option<String>,
    /// Name of the model at --url-b; default: as for --model.
    #[arg(long, value_name = "NAME", requires = "url_b", help_heading = "Servers")]
    model_b: Option<String>,
    /// The route to use: chat or completions.
    #[arg(long, default_value = "chat", requires = "url", help_heading = "Servers")]
    endpoint: Endpoint,
    /// API key of the servers.
    #[arg(
        long,
        value_name = "KEY",
        env = "OPENAI_API_KEY",
        hide_env_values = true,
        help_heading = "Servers"
    )]
    api_key: Option<String>,

    /// File of prompts: one per line, or JSON (a list, or one value per line) of texts, or of objects with `prompt`,
    /// `question` or `messages`, and optionally `answer` or `expected`, and `max_tokens`.
    #[arg(long, value_name = "FILE", help_heading = "Prompts")]
    pub prompts: Option<PathBuf>,
    /// Number of tokens of a synthetic prompt.
    #[arg(long, value_name = "N", default_value_t = 128, conflicts_with = "prompts", value_parser = count(), help_heading = "Prompts")]
    pub prompt_tokens: u32,
    /// Maximum number of tokens of a reply; the exact number if prompts are synthetic.
    #[arg(long, value_name = "N", default_value_t = 64, value_parser = count(), help_heading = "Prompts")]
    pub output_tokens: u32,
    /// Ignore end-of-sequence tokens in replies to prompts from a file.
    #[arg(long, help_heading = "Prompts")]
    pub ignore_eos: bool,
    /// Temperature; default: 0 for synthetic prompts, otherwise what each model's makers recommend.
    #[arg(long, value_parser = temperature, help_heading = "Prompts")]
    pub temperature: Option<f32>,
    /// Seed of everything random.
    #[arg(long, default_value_t = 1, help_heading = "Prompts")]
    pub seed: u64,

    /// Number of requests in flight at a time; one value or several: `1,8,32`.
    #[arg(long, value_name = "N,..", value_delimiter = ',', default_value = "1", conflicts_with = "rate", value_parser = count(), help_heading = "Load")]
    concurrency: Vec<u32>,
    /// Requests per second, at random times (Poisson); one value or several: `2,4`.
    #[arg(long, value_name = "R,..", value_delimiter = ',', value_parser = rate, help_heading = "Load")]
    rate: Vec<f64>,
    /// Number of context tokens before each prompt; one value or several: `0,4096`.
    #[arg(
        long,
        value_name = "N,..",
        value_delimiter = ',',
        default_value = "0",
        help_heading = "Load"
    )]
    depth: Vec<u32>,
    /// Whether tokens may be reused from the prefix cache.
    #[arg(long, value_enum, default_value = "off", help_heading = "Load")]
    prefix_cache: PrefixCache,
    /// Number of rounds at each load point; a round has four blocks, ABBA or BAAB.
    #[arg(long, value_name = "N", default_value_t = 16, value_parser = clap::value_parser!(u32).range(1..=10_000), help_heading = "Load")]
    pub rounds: u32,
    /// Number of requests in a block; default: twice the concurrency but at least 4; with --rate, those of 4 s.
    #[arg(long, value_name = "N", value_parser = count(), help_heading = "Load")]
    pub requests: Option<u32>,
    /// By how many per cent two loaded copies of one model may differ in speed; intervals are widened by this.
    #[arg(long, value_name = "PERCENT", default_value_t = 100.0 * ALLOWANCE, value_parser = percent, help_heading = "Load")]
    pub noise_threshold: f64,
    /// Limits that a request must meet to count for goodput, in ms: `ttft=200,tpot=50,e2e=5000`.
    #[arg(long, value_name = "LIMITS", value_parser = slo, help_heading = "Load")]
    pub slo: Option<Slo>,

    /// Number of prompts whose replies are compared; default: 40 from a file, or 8 synthetic ones; 0: none.
    #[arg(long, value_name = "N", help_heading = "Replies")]
    pub replies: Option<usize>,
    /// Count right answers to all prompts of the file.
    #[arg(long, requires = "prompts", conflicts_with = "replies", help_heading = "Replies")]
    pub answers: bool,

    /// Print the report as JSON.
    #[arg(long, help_heading = "Report")]
    pub json: bool,
    /// Also write the report as Markdown.
    #[arg(long, value_name = "FILE", help_heading = "Report")]
    pub md: Option<PathBuf>,
    /// Also write the report as one HTML file with plots.
    #[arg(long, value_name = "FILE", help_heading = "Report")]
    pub html: Option<PathBuf>,

    /// Exit with 1 if B exceeds a limit with confidence, and with 3 if this cannot be decided.
    #[arg(long, help_heading = "Limits on B over A, for CI")]
    pub ci: bool,
    /// Exit with 0 and a warning instead of 3.
    #[arg(long, requires = "ci", help_heading = "Limits on B over A, for CI")]
    pub allow_inconclusive: bool,
    /// Largest ratio of the median time to first token.
    #[arg(long, value_name = "RATIO", requires = "ci", value_parser = above_zero, help_heading = "Limits on B over A, for CI")]
    max_ttft: Option<f64>,
    /// Largest ratio of the median time per output token.
    #[arg(long, value_name = "RATIO", requires = "ci", value_parser = above_zero, help_heading = "Limits on B over A, for CI")]
    max_tpot: Option<f64>,
    /// Largest ratio of the median inter-token latency.
    #[arg(long, value_name = "RATIO", requires = "ci", value_parser = above_zero, help_heading = "Limits on B over A, for CI")]
    max_itl: Option<f64>,
    /// Largest ratio of the median end-to-end latency.
    #[arg(long, value_name = "RATIO", requires = "ci", value_parser = above_zero, help_heading = "Limits on B over A, for CI")]
    max_e2e: Option<f64>,
    /// Largest ratio of the energy per token.
    #[arg(long, value_name = "RATIO", requires = "ci", value_parser = above_zero, help_heading = "Limits on B over A, for CI")]
    max_energy: Option<f64>,
    /// Smallest ratio of the output tokens per second.
    #[arg(long, value_name = "RATIO", requires = "ci", value_parser = above_zero, help_heading = "Limits on B over A, for CI")]
    min_throughput: Option<f64>,
    /// Smallest ratio of the goodput; needs --slo.
    #[arg(long, value_name = "RATIO", requires = "ci", requires = "slo", value_parser = above_zero, help_heading = "Limits on B over A, for CI")]
    min_goodput: Option<f64>,

    /// Slow each step of B down by this factor: a known difference, to test this command.
    #[cfg(any(test, debug_assertions, feature = "testing"))]
    #[arg(long, value_name = "FACTOR", hide = true, value_parser = above_zero)]
    pub slow_b: Option<f64>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum PrefixCache {
    /// All tokens of every request are computed.
    Off,
    /// Tokens of earlier requests are reused: the context, and repeated prompts.
    On,
    /// Both, one after the other.
    Both,
}

impl BenchArgs {
    /// The models in this process.
    pub fn models(&self) -> impl Iterator<Item = &PathBuf> {
        self.a.iter().chain(&self.b)
    }

    /// The servers, one or two.
    pub fn servers(&self) -> Vec<Server> {
        let server = |url: &String, model: &Option<String>, variant| Server {
            url: url.clone(),
            model: model.clone(),
            endpoint: self.endpoint,
            api_key: self.api_key.clone(),
            variant,
        };
        let Some(url) = &self.url else { return Vec::new() };
        if self.canary {
            return ["stable", "canary"].map(|arm| server(url, &self.model, Some(arm))).to_vec();
        }
        let model_b = self.model_b.clone().or_else(|| self.model.clone());
        let b = self.url_b.as_ref().map(|url| server(url, &model_b, None));
        std::iter::once(server(url, &self.model, None)).chain(b).collect()
    }

    /// Settings of the prefix cache, in order.
    pub fn caches(&self) -> &'static [bool] {
        match self.prefix_cache {
            PrefixCache::Off => &[false],
            PrefixCache::On => &[true],
            PrefixCache::Both => &[false, true],
        }
    }

    /// All load points. Fails if the arguments do not fit together.
    pub fn plan(&self) -> Result<Vec<Point>, String> {
        let pair = self.b.is_some() || self.url_b.is_some() || self.canary;
        // `requires` says nothing where the required argument conflicts with one that is there.
        let of_servers = self.url_b.is_some() || self.canary || self.model.is_some();
        if of_servers && self.url.is_none() {
            return Err("--url-b, --canary and --model are for servers: they need --url".to_owned());
        }
        if self.ci && !pair {
            return Err("--ci compares two versions: name a second one".to_owned());
        }
        if self.ci && self.limits().is_empty() {
            return Err("--ci needs a limit, such as --max-ttft 1.1".to_owned());
        }
        if pair && self.url == self.url_b && self.url.is_some() && self.model == self.model_b {
            let why =
                "--url and --url-b are the same server and model; for its canary use --canary";
            return Err(why.to_owned());
        }
        let loads: Vec<Load> = match self.rate.is_empty() {
            true => self.concurrency.iter().map(|n| Load::Concurrency(*n as usize)).collect(),
            false => self.rate.iter().map(|rate| Load::Rate(*rate)).collect(),
        };
        let depths: Vec<usize> = self.depth.iter().map(|depth| *depth as usize).collect();
        Ok(points(&loads, &depths, self.caches()))
    }

    /// The limits, in the order of their options.
    pub fn limits(&self) -> Vec<Limit> {
        let all = [
            (self.max_ttft, Metric::Ttft, Statistic::P50),
            (self.max_tpot, Metric::Tpot, Statistic::P50),
            (self.max_itl, Metric::Itl, Statistic::P50),
            (self.max_e2e, Metric::EndToEnd, Statistic::P50),
            (self.max_energy, Metric::Energy, Statistic::Mean),
            (self.min_throughput, Metric::OutputTokens, Statistic::Mean),
            (self.min_goodput, Metric::Goodput, Statistic::Mean),
        ];
        let limit = |(bound, metric, statistic): (Option<f64>, Metric, Statistic)| {
            bound.map(|bound| Limit { metric, statistic, bound })
        };
        all.into_iter().filter_map(limit).collect()
    }
}

fn count() -> clap::builder::RangedI64ValueParser<u32> {
    clap::value_parser!(u32).range(1..=1_000_000)
}

fn above_zero(text: &str) -> Result<f64, String> {
    let value: f64 = text.parse().map_err(|_| format!("`{text}` is not a number"))?;
    match value.is_finite() && value > 0.0 {
        true => Ok(value),
        false => Err(format!("{value} is not above 0")),
    }
}

fn rate(text: &str) -> Result<f64, String> {
    let rate = above_zero(text)?;
    match rate <= 100_000.0 {
        true => Ok(rate),
        false => Err(format!("{rate} is more than 100000 requests per second")),
    }
}

fn percent(text: &str) -> Result<f64, String> {
    let value: f64 = text.parse().map_err(|_| format!("`{text}` is not a number"))?;
    match (0.0..=50.0).contains(&value) {
        true => Ok(value),
        false => Err(format!("{value} is not from 0 to 50")),
    }
}

fn slo(text: &str) -> Result<Slo, String> {
    let mut slo = Slo::default();
    for part in text.split(',') {
        let (name, limit) = part
            .split_once('=')
            .ok_or_else(|| format!("`{part}` is not NAME=MS, such as ttft=200"))?;
        let limit = Some(above_zero(limit)? / 1e3);
        match name {
            "ttft" => slo.ttft = limit,
            "tpot" => slo.tpot = limit,
            "e2e" => slo.end_to_end = limit,
            _ => return Err(format!("`{name}` is none of ttft, tpot, e2e")),
        }
    }
    Ok(slo)
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Debug, Parser)]
    struct Line {
        #[command(flatten)]
        bench: BenchArgs,
    }

    fn parse(line: &str) -> Result<BenchArgs, String> {
        let words = std::iter::once("bench").chain(line.split_whitespace());
        let args = Line::try_parse_from(words).map_err(|error| error.to_string())?.bench;
        args.plan().map(|_| args)
    }

    #[test]
    fn what_is_meant() {
        let args = parse("a b --concurrency 1,8 --depth 0,64 --prefix-cache both").unwrap();
        assert_eq!((args.plan().unwrap().len(), args.models().count()), (8, 2));
        let args = parse("a --rate 2.5 --slo ttft=200,tpot=50").unwrap();
        assert_eq!(args.plan().unwrap()[0].load, Load::Rate(2.5));
        let slo = args.slo.unwrap();
        assert_eq!((slo.ttft, slo.tpot, slo.end_to_end), (Some(0.2), Some(0.05), None));
        let args = parse("--url http://x --canary --model m").unwrap();
        let variants: Vec<_> = args.servers().iter().map(|server| server.variant).collect();
        assert_eq!(variants, [Some("stable"), Some("canary")]);
        let args = parse("--url x --url-b y --model m").unwrap();
        let models: Vec<_> = args.servers().into_iter().map(|server| server.model).collect();
        assert_eq!(models, [Some("m".to_owned()), Some("m".to_owned())]);
        let args = parse("a b --ci --max-ttft 1.1 --min-throughput 0.95").unwrap();
        let bounds: Vec<f64> = args.limits().iter().map(|limit| limit.bound).collect();
        assert_eq!(bounds, [1.1, 0.95]);
    }

    #[test]
    fn wrong_arguments_are_named() {
        for (line, why) in [
            ("", "<A>"),
            ("a --url http://x", "--url"),
            ("a b c", "unexpected argument 'c'"),
            ("a b --rate 1 --concurrency 2", "--concurrency"),
            ("a --concurrency 0", "0 is not in 1.."),
            ("a --rate 0", "0 is not above 0"),
            ("a --rate x", "`x` is not a number"),
            ("a --rate 1e9", "100000 requests"),
            ("a --slo ttft", "NAME=MS"),
            ("a --slo itl=3", "none of ttft, tpot, e2e"),
            ("a --slo ttft=-1", "not above 0"),
            ("a --prompts f --prompt-tokens 3", "--prompt-tokens"),
            ("a --answers", "--prompts"),
            ("a --prefix-cache maybe", "possible values: off, on, both"),
            ("a --temperature 3", "not from 0 to 2"),
            ("a b --max-ttft 1.1", "--ci"),
            ("a b --ci", "--ci needs a limit"),
            ("a --ci --max-ttft 1.1", "name a second one"),
            ("a b --ci --min-goodput 0.9", "--slo"),
            ("a b --ci --max-ttft 0", "not above 0"),
            ("a --url-b http://x", "--url"),
            ("--url http://x --url-b http://x", "same server and model"),
            ("--url http://x --url-b http://y --canary", "--canary"),
            ("--url http://x --endpoint responses", "chat or completions"),
            ("a --rounds 0", "0 is not in 1.."),
            ("a b --noise-threshold 60", "not from 0 to 50"),
        ] {
            let error = parse(line).expect_err(line);
            assert!(error.contains(why), "{line}: {error}");
        }
    }
}
