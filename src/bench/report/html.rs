//! A report as a single HTML file that needs no network: figures, and plots drawn by the embedded uPlot.
//!
//! Pure. The data are in the document as JSON; `html/plots.js` draws the plots.

use super::{
    PointReport, Report, change_lines, limit_lines, number, ratio_and_interval, remarks, verdict,
};
use crate::bench::figures::{Metric, Statistic};
use crate::bench::plan::Load;
use crate::bench::statistics::quantile;
use crate::web::{PLOT_SCRIPT, PLOT_STYLE, escaped};
use serde_json::{Value, json};
use std::fmt::Write;

const STYLE: &str = include_str!("html/style.css");
const PLOTS: &str = include_str!("html/plots.js");
/// Points of a distribution that is plotted.
const STEPS: usize = 100;

/// The whole document.
pub fn html(report: &Report) -> String {
    let data = json!({
        "versions": report.models.iter().map(|model| &model.name).collect::<Vec<_>>(),
        "sweep": sweep(report),
        "points": report.points.iter().map(plots).collect::<Vec<_>>(),
    });
    // A `</script>` in a name must not end the script.
    let data = data.to_string().replace('<', "\\u003c");
    let mut body = "<h1>serin bench</h1>\n<ul>\n".to_owned();
    for (name, model) in ["A", "B"].iter().zip(&report.models) {
        let _ = writeln!(body, "<li>{name}: {}</li>", escaped(&model.name));
    }
    let _ = writeln!(
        body,
        "<li>{}, seed {}</li></ul>",
        escaped(&report.setup.prompts),
        report.setup.seed
    );
    if let Some(conclusion) = report.conclusion() {
        let _ = writeln!(body, "<p><strong>{}</strong></p>", escaped(&conclusion));
    }
    body += "<div id=\"sweep\"></div>\n";
    for (number, point) in report.points.iter().enumerate() {
        body += &section(number, point, report.is_pair());
    }
    if let Some(changes) = &report.changes {
        let _ = writeln!(body, "<h2>Replies to {} prompts</h2>", changes.prompts);
        body += &list(&change_lines(changes));
    }
    if !report.limits.is_empty() {
        body += "<h2>Limits</h2>\n";
        body += &list(&limit_lines(report));
    }
    format!(
        "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <title>serin bench</title>\n<style>{PLOT_STYLE}</style>\n<style>{STYLE}</style>\n</head>\n\
         <body>\n{body}<script>{PLOT_SCRIPT}</script>\n<script>const DATA = {data};\n{PLOTS}</script>\n\
         </body>\n</html>\n"
    )
}

fn list(lines: &[String]) -> String {
    let items: String = lines.iter().map(|line| format!("<li>{}</li>", escaped(line))).collect();
    format!("<ul>{items}</ul>\n")
}

fn section(number_of_point: usize, point: &PointReport, pair: bool) -> String {
    let mut text = format!("<h2>{}</h2>\n", escaped(&point.run.point.to_string()));
    text += &list(&remarks(&point.run.kept(), pair));
    text += "<table><thead><tr><th>figure</th><th>A</th>";
    text += if pair { "<th>B</th><th>B/A</th><th>95 % interval</th><th></th>" } else { "" };
    text += "</tr></thead><tbody>\n";
    for figure in &point.figures {
        let [a, b] = figure.of.map(number);
        let _ =
            write!(text, "<tr><td>{}, {}</td><td>{a}</td>", figure.name(), figure.metric.unit());
        if pair {
            let (of, interval) = ratio_and_interval(figure, " to ");
            let class = match figure.worse() {
                Some(true) => "worse",
                Some(false) => "better",
                None => "",
            };
            let verdict = verdict(figure);
            let _ = write!(
                text,
                "<td>{b}</td><td>{of}</td><td>{interval}</td><td class=\"{class}\">{verdict}</td>"
            );
        }
        text += "</tr>\n";
    }
    text += "</tbody></table>\n";
    for plot in ["ttft", "tpot", "time"] {
        let _ = writeln!(text, "<div class=\"plot\" id=\"{plot}-{number_of_point}\"></div>");
    }
    text
}

/// Throughput and latency by concurrency or rate, if there are several.
fn sweep(report: &Report) -> Value {
    let load = |point: &PointReport| match point.run.point.load {
        Load::Concurrency(concurrency) => concurrency as f64,
        Load::Rate(rate) => rate,
    };
    let by_version = |metric: Metric, statistic: Statistic| {
        let of = |version: usize| {
            let value = |point: &PointReport| {
                let own =
                    point.figures.iter().find(|f| (f.metric, f.statistic) == (metric, statistic));
                own.and_then(|figure| figure.of[version])
            };
            report.points.iter().map(value).collect::<Vec<_>>()
        };
        (0..report.models.len()).map(of).collect::<Vec<_>>()
    };
    let first = report.points.first().map(|one| (one.run.point.depth, one.run.point.prefix_cache));
    let same = |one: &PointReport| Some((one.run.point.depth, one.run.point.prefix_cache)) == first;
    match report.points.len() > 1 && report.points.iter().all(same) {
        false => Value::Null,
        true => json!({
            "load": report.points.iter().map(load).collect::<Vec<_>>(),
            "output": by_version(Metric::OutputTokens, Statistic::Mean),
            "ttft": by_version(Metric::Ttft, Statistic::P50),
        }),
    }
}

/// Distributions of a point by version, and its throughput over time.
fn plots(point: &PointReport) -> Value {
    let kept = point.run.kept();
    let samples = kept.samples();
    let distribution = |of: fn(&crate::bench::sample::Sample) -> Option<f64>| {
        let one = |version: usize| {
            let own = samples.iter().filter(|one| one.1 == version);
            let mut values: Vec<f64> = own.filter_map(|one| of(one.2)).map(|x| 1e3 * x).collect();
            values.sort_by(f64::total_cmp);
            let at = |step: usize| quantile(&values, step as f64 / STEPS as f64);
            (0..=STEPS).filter_map(at).collect::<Vec<f64>>()
        };
        [one(0), one(1)]
    };
    let time = kept.blocks.iter().map(|(_, block)| {
        let tokens: usize = block.samples.iter().flatten().map(|one| one.output_tokens).sum();
        json!([block.begun, block.version.index(), tokens as f64 / block.seconds])
    });
    json!({
        "ttft": distribution(|sample| Some(sample.ttft)),
        "tpot": distribution(|sample| sample.tpot()),
        "time": time.collect::<Vec<_>>(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::report::testing::report;

    #[test]
    fn the_document_stands_alone_and_names_are_no_markup() {
        for (versions, points) in [(1, 1), (2, 3)] {
            let text = html(&report(versions, points, 1.2));
            assert!(text.starts_with("<!doctype html>") && text.ends_with("</html>\n"));
            assert!(text.contains("uPlot") && text.contains("one &lt;1&gt;"));
            assert!(!text.contains("one <1>") && text.contains("one \\u003c1>"));
            let own = text.replace(PLOT_SCRIPT, "").replace(PLOT_STYLE, "");
            for outside in ["http://", "https://", "src=", "<link", "@import", "fetch("] {
                assert!(!own.contains(outside), "{outside}");
            }
            assert_eq!(text.matches("<script>").count(), text.matches("</script>").count());
        }
    }

    #[test]
    fn plots_have_the_samples() {
        let report = report(2, 3, 1.5);
        let plots = plots(&report.points[0]);
        assert_eq!(plots["ttft"][1].as_array().unwrap().len(), STEPS + 1);
        assert_eq!(plots["time"].as_array().unwrap().len(), 32);
        assert_eq!(sweep(&report)["load"], json!([1.0, 2.0, 3.0]));
    }
}
