//! A report as JSON: everything that the other formats show, and the samples.
//!
//! Names are those of llama-bench and vLLM where these have the same figure. Pure.

use super::{PointReport, Report, limit_lines, llama_bench_rows, verdict};
use crate::bench::figures::Figure;
use crate::bench::limits::overall;
use crate::bench::plan::{Load, Version};
use crate::bench::sample::Measured;
use serde_json::{Value, json};

/// The whole report.
pub fn json(report: &Report) -> Value {
    let setup = &report.setup;
    json!({
        "conclusion": report.conclusion(),
        "versions": report.models,
        "backends": setup.backend,
        "n_threads": setup.threads,
        "n_ubatch": setup.n_ubatch,
        "prompts": setup.prompts,
        "n_prompt": setup.prompt_tokens,
        "n_gen": setup.output_tokens,
        "seed": setup.seed,
        "noise_threshold_percent": setup.noise_threshold,
        "resident_bytes": setup.resident,
        "points": report.points.iter().map(|one| point(report, one)).collect::<Vec<_>>(),
        "replies": report.changes.as_ref().map(|changes| changes.as_json()),
        "limits": limits(report),
    })
}

fn limits(report: &Report) -> Value {
    let lines = limit_lines(report);
    let one = |(judged, text): (&crate::bench::limits::Judged, &String)| {
        json!({
            "limit": text, "point": judged.point, "bound": judged.limit.bound,
            "verdict": judged.verdict.as_str(),
        })
    };
    match report.limits.is_empty() {
        true => Value::Null,
        false => json!({
            "overall": overall(&report.limits).as_str(),
            "limits": report.limits.iter().zip(&lines).map(one).collect::<Vec<_>>(),
        }),
    }
}

fn point(report: &Report, point: &PointReport) -> Value {
    let (kept, setting) = (point.run.kept(), &point.run.point);
    let (concurrency, rate) = match setting.load {
        Load::Concurrency(concurrency) => (Some(concurrency), None),
        Load::Rate(rate) => (None, Some(rate)),
    };
    let rows = llama_bench_rows(report, point);
    let row = |(version, test, rate): &(usize, String, f64)| json!({"version": Version::ALL[*version].as_str(), "test": test, "avg_ts": rate});
    json!({
        "concurrency": concurrency,
        "rate": rate,
        "n_depth": setting.depth,
        "prefix_cache": setting.prefix_cache,
        "rounds": kept.rounds,
        "failed": kept.failed,
        "blocks_throttled": kept.throttled,
        "blocks_dropped": kept.dropped,
        "figures": point.figures.iter().map(figure).collect::<Vec<_>>(),
        "llama_bench": rows.iter().map(row).collect::<Vec<_>>(),
        "blocks": point.run.blocks.iter().map(block).collect::<Vec<_>>(),
    })
}

fn figure(figure: &Figure) -> Value {
    let interval = figure.interval();
    json!({
        "name": figure.metric.key(),
        "statistic": figure.statistic.as_str(),
        "a": figure.of[0],
        "b": figure.of[1],
        "ratio": interval.map(|one| one.ratio),
        "low": interval.map(|one| one.low),
        "high": interval.map(|one| one.high),
        "differs": interval.map(|one| one.differs),
        "verdict": figure.ratio.map(|_| verdict(figure)),
    })
}

fn block(block: &Measured) -> Value {
    let sample = |sample: &Result<crate::bench::sample::Sample, String>| match sample {
        Err(error) => json!({"error": error}),
        Ok(one) => json!({
            "ttft": one.ttft, "tpot": one.tpot(), "e2el": one.end_to_end,
            "prompt_tokens": one.prompt_tokens, "cached_tokens": one.cached_tokens,
            "output_tokens": one.output_tokens,
        }),
    };
    json!({
        "version": block.version.as_str(),
        "round": block.round,
        "begun": block.begun,
        "seconds": block.seconds,
        "watts": block.watts,
        "throttled": block.throttled,
        "requests": block.samples.iter().map(sample).collect::<Vec<_>>(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::report::testing::report;

    #[test]
    fn figures_and_samples_are_there() {
        let found = json(&report(2, 2, 1.25));
        assert_eq!(found["points"].as_array().unwrap().len(), 2);
        let point = &found["points"][1];
        assert_eq!((&point["concurrency"], &point["rounds"]), (&json!(2), &json!(8)));
        let ttft = &point["figures"][0];
        assert_eq!((&ttft["name"], &ttft["statistic"]), (&json!("ttft_ms"), &json!("mean")));
        assert_eq!((&ttft["differs"], &ttft["verdict"]), (&json!(true), &json!("B is worse")));
        assert!((ttft["ratio"].as_f64().unwrap() - 1.25).abs() < 0.01, "{ttft}");
        assert_eq!(point["blocks"].as_array().unwrap().len(), 32);
        assert!(point["blocks"][0]["requests"][0]["ttft"].is_number());
        assert!(found["replies"]["distributions"]["Mean KLD"].is_number());
        assert!(json(&report(1, 1, 1.0))["points"][0]["figures"][0]["ratio"].is_null());
    }
}
