//! The demo's last screen: the decision, its figures, and its cost.

use super::super::operate::unload_text;
use super::load::Tally;
use crate::control::Status;
use std::time::Duration;

pub(super) fn text(status: &Status, tally: &Tally, took: Duration) -> String {
    let mut out =
        format!("\nserin demo: {} after {:.0} s\n\n", verdict(status), took.as_secs_f64());
    for decision in &status.decisions {
        out += &wrapped(&format!("  {:>6.1} s  {}", decision.at_s, decision.text));
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
        out += &wrapped(&format!("  {}", unload_text(unload)));
    }
    out
}

/// Width of a line; longer ones are wrapped with an indent.
const COLUMNS: usize = 100;
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
                .map(|gate| gate.text.as_str())
                .collect();
            format!("undecided ({other}); missing: {}", missing.join("; "))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
}
