//! A report as text for a terminal of 80 columns.
//!
//! Pure.

use super::{
    Model, PointReport, Report, change_lines, limit_lines, number, ratio_and_interval, remarks,
    verdict,
};
use crate::bench::plan::Version;
use crate::progress::size;
use std::fmt::Write;

/// The whole report.
pub fn table(report: &Report) -> String {
    let mut text = String::new();
    for (version, model) in Version::ALL.iter().zip(&report.models) {
        let _ = writeln!(text, "{}  {}", version.as_str(), model_line(model));
    }
    let _ = writeln!(text, "{}", setup_line(report));
    for point in &report.points {
        text += "\n";
        text += &point_table(point, report.is_pair());
    }
    if let Some(changes) = &report.changes {
        let _ = writeln!(text, "\nreplies to {} prompts", changes.prompts);
        change_lines(changes).iter().for_each(|line| text += &format!("  {line}\n"));
    }
    if !report.limits.is_empty() {
        text += "\nlimits\n";
        limit_lines(report).iter().for_each(|line| text += &format!("  {line}\n"));
    }
    if let Some(conclusion) = report.conclusion() {
        let _ = writeln!(text, "\n{conclusion}");
    }
    text
}

fn model_line(model: &Model) -> String {
    let mut parts = vec![model.name.clone()];
    parts.extend(model.params.map(|params| format!("{:.2} M parameters", params as f64 / 1e6)));
    parts.extend(model.size.map(|bytes| format!("weights {}", size(bytes))));
    parts.extend(model.memory.arena_used.map(|bytes| format!("arena {}", size(bytes))));
    parts.extend(model.memory.pool_used.map(|bytes| format!("GPU pool {}", size(bytes))));
    parts.join(", ")
}

fn setup_line(report: &Report) -> String {
    let setup = &report.setup;
    let mut parts =
        vec![setup.prompts.clone(), format!("replies of {} tokens", setup.output_tokens)];
    parts.extend((!setup.backend.is_empty()).then(|| setup.backend.clone()));
    parts.extend(setup.threads.map(|threads| format!("{threads} threads")));
    parts.extend(setup.resident.map(|bytes| format!("resident {}", size(bytes))));
    parts.join(", ")
}

fn point_table(point: &PointReport, pair: bool) -> String {
    let mut text = format!("{}\n", point.run.point);
    for line in remarks(&point.run.kept(), pair) {
        let _ = writeln!(text, "{line}");
    }
    if pair {
        text += "                           A         B    B/A  95 % interval\n";
    }
    for figure in &point.figures {
        let name = format!("{} {}", figure.name(), figure.metric.unit());
        let [a, b] = figure.of.map(number);
        if !pair {
            let _ = writeln!(text, "{name:<18} {a:>9}");
            continue;
        }
        let (of, interval) = ratio_and_interval(figure, "-");
        let verdict = verdict(figure);
        let _ = writeln!(text, "{name:<18} {a:>9} {b:>9} {of:>6}  {interval:<12}  {verdict}");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::report::testing::report;

    #[test]
    fn tables_fit_80_columns() {
        for (versions, factor) in [(1, 1.0), (2, 1.0), (2, 1.25), (2, 80.0)] {
            let text = table(&report(versions, 2, factor));
            for line in text.lines() {
                assert!(line.chars().count() <= 80, "{} columns: {line}", line.chars().count());
            }
        }
    }

    #[test]
    fn equal_versions_differ_by_less_than_noise_and_others_do_not() {
        let same = table(&report(2, 1, 1.0));
        assert!(same.contains("smaller than noise"), "{same}");
        assert!(same.ends_with("no difference beyond noise\n"), "{same}");
        let slower = table(&report(2, 1, 1.25));
        assert!(slower.contains("B is worse") && slower.contains("1.25"), "{slower}");
        assert!(!slower.contains("no difference"), "{slower}");
        let one = table(&report(1, 1, 1.0));
        assert!(!one.contains("noise") && one.contains("TTFT p99 ms"), "{one}");
    }
}
