//! A report as Markdown, with llama-bench's columns for the figures that it also has.
//!
//! Pure.

use super::{
    PointReport, Report, change_lines, limit_lines, llama_bench_rows, number, ratio_and_interval,
    remarks, verdict,
};
use crate::bench::plan::Version;
use crate::progress::size;
use std::fmt::Write;

/// The whole report.
pub fn markdown(report: &Report) -> String {
    let mut text = "# serin bench\n\n".to_owned();
    for (version, model) in Version::ALL.iter().zip(&report.models) {
        let _ = writeln!(text, "- {}: {}", version.as_str(), escaped(&model.name));
    }
    let _ = writeln!(text, "- {}, seed {}\n", escaped(&report.setup.prompts), report.setup.seed);
    if let Some(conclusion) = report.conclusion() {
        let _ = writeln!(text, "**{conclusion}**\n");
    }
    text += &models(report);
    for point in &report.points {
        text += &figures(point, report.is_pair());
    }
    if let Some(changes) = &report.changes {
        let _ = writeln!(text, "\n## Replies to {} prompts\n", changes.prompts);
        change_lines(changes).iter().for_each(|line| text += &format!("- {line}\n"));
    }
    if !report.limits.is_empty() {
        text += "\n## Limits\n\n";
        limit_lines(report).iter().for_each(|line| text += &format!("- {line}\n"));
    }
    text
}

/// Text that is no markup.
fn escaped(text: &str) -> String {
    let mut out = String::new();
    for c in text.chars() {
        if matches!(c, '|' | '<' | '>' | '*' | '_' | '`' | '[' | ']' | '\\') {
            out.push('\\');
        }
        out.push(c);
    }
    out
}

/// As llama-bench prints it.
fn models(report: &Report) -> String {
    let mut text =
        "| model | size | params | backend | threads | n_ubatch | test | t/s |\n".to_owned();
    text += "|---|---:|---:|---|---:|---:|---:|---:|\n";
    let or_dash = |value: Option<String>| value.unwrap_or_else(|| "-".to_owned());
    for point in &report.points {
        for (version, test, rate) in llama_bench_rows(report, point) {
            let (model, setup) = (&report.models[version], &report.setup);
            let letter = match report.is_pair() {
                true => format!("{} ", Version::ALL[version].as_str()),
                false => String::new(),
            };
            let _ = writeln!(
                text,
                "| {letter}{} | {} | {} | {} | {} | {} | {test} | {} |",
                escaped(&model.name),
                or_dash(model.size.map(size)),
                or_dash(model.params.map(|params| format!("{:.2} M", params as f64 / 1e6))),
                escaped(if setup.backend.is_empty() { "-" } else { &setup.backend }),
                or_dash(setup.threads.map(|threads| threads.to_string())),
                or_dash(setup.n_ubatch.map(|tokens| tokens.to_string())),
                number(Some(rate)),
            );
        }
    }
    text
}

fn figures(point: &PointReport, pair: bool) -> String {
    let mut text = format!("\n## {}\n\n", point.run.point);
    remarks(&point.run.kept(), pair)
        .iter()
        .for_each(|line| text += &format!("{}  \n", escaped(line)));
    text += match pair {
        true => "\n| figure | A | B | B/A | 95 % interval | |\n|---|---:|---:|---:|---|---|\n",
        false => "\n| figure | |\n|---|---:|\n",
    };
    for figure in &point.figures {
        let name = format!("{}, {}", figure.name(), figure.metric.unit());
        let [a, b] = figure.of.map(number);
        if !pair {
            let _ = writeln!(text, "| {name} | {a} |");
            continue;
        }
        let (of, interval) = ratio_and_interval(figure, " to ");
        let _ = writeln!(text, "| {name} | {a} | {b} | {of} | {interval} | {} |", verdict(figure));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::report::testing::report;

    #[test]
    fn every_table_has_as_many_cells_in_each_row() {
        for versions in [1, 2] {
            let text = markdown(&report(versions, 2, 1.1));
            let mut cells = None;
            for line in text.lines() {
                if !line.starts_with('|') {
                    cells = None;
                    continue;
                }
                let own = line.matches('|').count() - line.matches("\\|").count();
                assert_eq!(*cells.get_or_insert(own), own, "{line}");
            }
            assert!(
                text.contains("| CPU | 2 | 512 | pp128 | ") && text.contains("tg32 @ c2"),
                "{text}"
            );
            assert!(text.contains("one \\<1\\>"), "{text}");
        }
    }
}
