//! The demo's last screen: what was decided, on which figures, and what it cost.

use super::super::operate::unload_text;
use super::load::Tally;
use crate::http::admin_wire::StatusWire;
use std::time::Duration;

pub(super) fn text(status: &StatusWire, tally: &Tally, took: Duration) -> String {
    let mut out =
        format!("\nserin demo: {} after {:.0} s\n\n", verdict(status), took.as_secs_f64());
    for decision in &status.decisions {
        out += &format!("  {:>6.1} s  {}\n", decision.at_s, decision.text);
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
    if let Some(what) = tally.last_failure.as_ref().filter(|_| tally.failed > 0) {
        out += &format!("  the last one: {what}\n");
    }
    for unload in &status.unloads {
        out += &format!("  {}\n", unload_text(unload));
    }
    out
}

fn verdict(status: &StatusWire) -> String {
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
