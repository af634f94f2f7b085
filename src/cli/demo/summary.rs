//! The demo's last screen: the decision, a table of the steps, and the figures of both arms.

use super::super::operate::{mib, unload_text};
use super::load::Tally;
use crate::control::{DecisionStatus, Status, Unload};
use std::time::Duration;

/// `full`: with the evidence of every decision.
pub(super) fn text(status: &Status, tally: &Tally, took: Duration, full: bool) -> String {
    let mut out =
        format!("\nserin demo: {} after {:.0} s\n\n", verdict(status), took.as_secs_f64());
    out += &table(&status.decisions);
    if full {
        out.push('\n');
        for decision in &status.decisions {
            out += &wrapped(&format!("  {:>6.1} s  {}", decision.at_s, decision.text));
        }
    } else if let Some(reason) = &status.reason {
        out += &format!("\n{}", wrapped(&format!("  why: {reason}")));
    }
    out.push('\n');
    for (i, arm) in ["stable", "canary"].iter().enumerate() {
        let (answered, right) = (tally.answered[i], tally.right[i]);
        let share = 100.0 * right as f64 / answered.max(1) as f64;
        let errors = status.arms.get(i).map_or(0, |a| a.figures.total_errors);
        out += &format!(
            "  {arm:<7} {answered} replies, {share:.1} % right, {errors} errors charged\n"
        );
    }
    out += &format!("  clients saw {} failed requests\n", tally.failed);
    if tally.left > 0 {
        out += &format!("  clients left {} requests because no text came\n", tally.left);
    }
    if let Some(what) = tally.last_failure.as_ref().filter(|_| tally.failed > 0) {
        out += &format!("  the last one: {what}\n");
    }
    for unload in &status.unloads {
        let text = if full { unload_text(unload) } else { memory_back(unload) };
        out += &wrapped(&format!("  {text}"));
    }
    if !full {
        out += "  all figures of every decision: --full\n";
    }
    out
}

/// One line a decision.
fn table(decisions: &[DecisionStatus]) -> String {
    let mut out =
        "      at  weight  decision          requests     errors    TTFT  per token\n".to_owned();
    out += "                         (counted: stable/canary)           (p99, canary/stable)\n";
    for decision in decisions {
        let DecisionStatus { at_s, weight, kind, requests, errors, .. } = decision;
        let ratio = |ratio: Option<f64>| ratio.map_or("-".to_owned(), |x| format!("{x:.2} x"));
        let both = |(stable, canary): (u64, u64)| format!("{stable}/{canary}");
        out += &format!(
            "  {at_s:>4.1} s  {weight:>4} %  {:<14}  {:>10}  {:>9}  {:>6}  {:>9}\n",
            kind.replace('_', " "),
            both(*requests),
            both(*errors),
            ratio(decision.ttft_ratio),
            ratio(decision.tpot_ratio),
        );
    }
    out
}

fn memory_back(unload: &Unload) -> String {
    let (report, card) = (&unload.report, unload.report.card.unwrap_or_default());
    let used = report.used_before + card.used_before;
    let left = report.used_after + card.used_after;
    format!(
        "{} unloaded ({}): {:.1} MiB back, {left} B left, {:.0} ms after the decision",
        unload.version,
        unload.reason,
        mib(used - left.min(used)),
        unload.since_decision_ms
    )
}

/// Width of a line; longer ones are wrapped with an indent.
const COLUMNS: usize = 80;
const INDENT: &str = "            ";

fn wrapped(text: &str) -> String {
    let (mut out, mut column) = (String::new(), 0);
    for word in text.split_inclusive(' ') {
        let length = word.trim_end().chars().count();
        if column + length > COLUMNS && column > INDENT.len() {
            out.truncate(out.trim_end().len());
            out += "\n";
            out += INDENT;
            column = INDENT.len();
        }
        out += word;
        column += word.chars().count();
    }
    out + "\n"
}

fn verdict(status: &Status) -> String {
    match status.phase.as_str() {
        "promoted" => "the canary was promoted".to_owned(),
        "rolled_back" => "the canary was rolled back and unloaded".to_owned(),
        other => {
            let missing: Vec<&str> = status
                .gates
                .iter()
                .filter(|gate| gate.state == "fail" || gate.state == "inconclusive")
                .map(|gate| gate.title.as_str())
                .collect();
            format!("undecided ({other}); missing: {}", missing.join("; "))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::status_for_tests;
    use serde_json::json;

    #[test]
    fn long_lines_go_on_under_an_indent_and_no_word_is_lost() {
        let text = format!("  1.0 s  {}", "rate 0.5 % ".repeat(40).trim_end());
        let wrapped = wrapped(&text);
        assert!(wrapped.lines().all(|line| line.chars().count() <= COLUMNS), "{wrapped}");
        assert!(wrapped.lines().skip(1).all(|line| line.starts_with(INDENT)), "{wrapped}");
        let words = |text: &str| text.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
        assert_eq!(words(&wrapped), words(&text));
    }

    #[test]
    fn a_word_longer_than_a_line_stays_whole() {
        let long = "x".repeat(COLUMNS + 5);
        assert!(wrapped(&format!("a {long} b")).contains(&long));
    }

    #[test]
    fn the_steps_are_a_table_of_80_columns_and_the_evidence_is_one_flag_away() {
        let step = |at: f64, kind: &str, weight: u8| {
            json!({
                "at_s": at, "kind": kind, "weight": weight, "brief": kind,
                "text": format!("{kind}: with all of the evidence"),
                "requests": [12345, 6789], "errors": [1234, 0], "ttft_ratio": 1.024,
                "tpot_ratio": null,
            })
        };
        let steps = [step(4.0, "started", 5), step(119.1, "awaiting_confirm", 100)];
        let status = status_for_tests(json!({"phase": "promoted", "decisions": steps}));
        let of = |full| text(&status, &Tally::default(), Duration::from_secs(60), full);
        let brief = of(false);
        assert!(brief.lines().all(|line| line.chars().count() <= COLUMNS), "{brief}");
        assert!(brief.contains("1.02 x") && brief.contains("12345/6789"), "{brief}");
        assert!(!brief.contains("evidence") && of(true).contains("all of the evidence"));
    }
}
