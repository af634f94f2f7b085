//! The demo's screen: both arms side by side, the gates with their figures, the decisions.
//!
//! [`draw`] is a function of the status only. On a terminal it fills the screen; elsewhere a short line is
//! printed every second.

use super::super::operate::{mib, number};
use super::load::Tally;
use crate::control::{ArmStatus, GateStatus, Status};
use crate::rollout::GateName;
use ratatui::crossterm::event::{self, Event, KeyCode, KeyModifiers};
use ratatui::layout::{Constraint, Layout};
use ratatui::style::{Color, Modifier, Style};
use ratatui::text::{Line, Span};
use ratatui::widgets::{Block, Gauge, Paragraph};
use ratatui::{DefaultTerminal, Frame};
use std::io::IsTerminal;
use std::time::Duration;

pub(super) enum Screen {
    Live { terminal: Box<DefaultTerminal>, page: String },
    Lines { printed: Duration },
}

impl Screen {
    /// `page`: the address of the server's page, shown all the time.
    pub fn open(plain: bool, page: String) -> Screen {
        if plain || !std::io::stdout().is_terminal() {
            return Screen::Lines { printed: Duration::ZERO };
        }
        match ratatui::try_init() {
            Ok(terminal) => Screen::Live { terminal: Box::new(terminal), page },
            Err(_) => Screen::Lines { printed: Duration::ZERO },
        }
    }

    /// Shows the status; returns true when the user wants to quit.
    pub fn show(&mut self, status: &Status, tally: &Tally, elapsed: Duration) -> bool {
        match self {
            Screen::Live { terminal, page } => {
                let _ = terminal.draw(|frame| draw(frame, status, tally, page));
                wants_to_leave()
            }
            Screen::Lines { printed } => {
                if elapsed >= *printed + Duration::from_secs(1) {
                    *printed = elapsed;
                    println!("{}", line(status, tally, elapsed));
                }
                false
            }
        }
    }
}

/// Restores the terminal however the demo ends; `try_init` handles panics.
impl Drop for Screen {
    fn drop(&mut self) {
        if let Screen::Live { .. } = self {
            ratatui::restore();
        }
    }
}

fn wants_to_leave() -> bool {
    if !event::poll(Duration::ZERO).unwrap_or(false) {
        return false;
    }
    match event::read() {
        Ok(Event::Key(key)) => {
            let interrupt = key.modifiers.contains(KeyModifiers::CONTROL);
            key.code == KeyCode::Char('q') || (interrupt && key.code == KeyCode::Char('c'))
        }
        _ => false,
    }
}

/// One compact line: stable's figures, a slash, the canary's.
fn line(status: &Status, tally: &Tally, elapsed: Duration) -> String {
    let both = |figure: fn(&ArmStatus) -> String| {
        let of = |arm: usize| match status.arms.get(arm) {
            Some(arm) if arm.loaded => figure(arm),
            _ => "-".to_owned(),
        };
        format!("{}/{}", of(0), of(1))
    };
    format!(
        "{:5.1} s {:>11} {:>3} %  req {}  err {}  TTFT p99 {} ms  failed {}",
        elapsed.as_secs_f64(),
        status.phase,
        status.weight,
        both(|arm| arm.figures.requests.to_string()),
        both(|arm| arm.figures.errors.to_string()),
        both(|arm| number(arm.figures.ttft_p99_ms)),
        tally.failed
    )
}

pub(super) fn draw(frame: &mut Frame<'_>, status: &Status, tally: &Tally, page: &str) {
    let gates = shown(&status.gates);
    let rows = Layout::vertical([
        Constraint::Length(3),
        Constraint::Length(8),
        Constraint::Max(gates.len() as u16 + 2),
        Constraint::Min(3),
    ]);
    let [head, arms, middle, foot] = rows.areas(frame.area());
    frame.render_widget(weight_bar(status, page), head);
    let [left, right] = Layout::horizontal([Constraint::Percentage(50); 2]).areas(arms);
    for (i, area) in [left, right].into_iter().enumerate() {
        if let Some(arm) = status.arms.get(i) {
            frame.render_widget(arm_box(arm, tally, i), area);
        }
    }
    let lines = gate_lines(&gates, usize::from(middle.height.saturating_sub(2)));
    frame.render_widget(Paragraph::new(lines).block(Block::bordered().title(" gates ")), middle);
    let room = usize::from(foot.height.saturating_sub(2));
    let skip = status.decisions.len().saturating_sub(room);
    let lines: Vec<Line<'_>> = status.decisions[skip..]
        .iter()
        .map(|d| Line::from(format!("{:>6.1} s  {}", d.at_s, d.brief)))
        .collect();
    let title = format!(" decisions - failed for clients: {} - q quits ", tally.failed);
    frame.render_widget(Paragraph::new(lines).block(Block::bordered().title(title)), foot);
}

/// The gates that are shown: those that hold the weight first.
fn shown(gates: &[GateStatus]) -> Vec<&GateStatus> {
    let mut shown: Vec<&GateStatus> = gates.iter().filter(|gate| is_shown(gate)).collect();
    shown.sort_by_key(|gate| match gate.state.as_str() {
        "fail" => 0,
        "inconclusive" => 1,
        _ => 2,
    });
    shown
}

/// One line a gate; where there is no room for all, the last line says how many more there are.
fn gate_lines(gates: &[&GateStatus], room: usize) -> Vec<Line<'static>> {
    let fits = if gates.len() <= room { gates.len() } else { room.saturating_sub(1) };
    let more = gates.len() - fits;
    let rest = (more > 0).then(|| Line::from(format!("     {more} more")));
    gates[..fits].iter().map(|gate| gate_line(gate)).chain(rest).collect()
}

/// Gates without anything to judge are not shown, and neither are signs of poor replies that nobody has seen.
fn is_shown(gate: &GateStatus) -> bool {
    let sign = !GateName::PLAIN.iter().any(|name| name.as_str() == gate.name);
    !(gate.state == "not_judged" || (sign && gate.state == "pass"))
}

fn weight_bar(status: &Status, page: &str) -> Gauge<'static> {
    let title = format!(
        " {} - {} - {:.0} s at this weight, at least {:.0} ",
        status.model, status.phase, status.stage_age_s, status.bake_s
    );
    let steps: Vec<String> = status.steps.iter().map(u8::to_string).collect();
    let label = format!("canary weight {} %   ({})", status.weight, steps.join(" > "));
    Gauge::default()
        .block(Block::bordered().title(title).title_bottom(format!(" {page} ")))
        .gauge_style(Style::default().fg(Color::Cyan))
        .percent(u16::from(status.weight.min(100)))
        .label(label)
}

fn arm_box(arm: &ArmStatus, tally: &Tally, index: usize) -> Paragraph<'static> {
    let f = &arm.figures;
    let right = match tally.answered[index] {
        0 => "-".to_owned(),
        n => format!("{:.1} %", 100.0 * tally.right[index] as f64 / n as f64),
    };
    let rate = f.error_rate.map_or_else(|| "-".to_owned(), |r| format!("{:.2} %", r * 100.0));
    let memory = arm.lane.as_ref().map_or(0, |lane| lane.figures.arena_used);
    let times = |p50, p99| format!("{} / {} ms", number(p50), number(p99));
    let lines = vec![
        Line::from(format!("requests  {} here, {} in all", f.requests, f.total_requests)),
        Line::from(format!("errors    {} ({rate})", f.errors)),
        Line::from(format!("TTFT      {}", times(f.ttft_p50_ms, f.ttft_p99_ms))),
        Line::from(format!("per token {}", times(f.tpot_p50_ms, f.tpot_p99_ms))),
        Line::from(format!("tokens/s  {}, {:.1} MiB", number(f.tokens_per_second), mib(memory))),
        Line::from(format!("right     {right}, votes +{} -{}", f.feedback_up, f.feedback_down)),
    ];
    let version = arm.version.as_deref().unwrap_or("none");
    let title = Span::styled(
        format!(" {}: {version} (p50 / p99) ", arm.arm),
        Style::default().add_modifier(Modifier::BOLD),
    );
    Paragraph::new(lines).block(Block::bordered().title(title))
}

/// The state in letters as well as in colour, the gate's name, and its figure.
fn gate_line(gate: &GateStatus) -> Line<'static> {
    let (glyph, color) = match gate.state.as_str() {
        "pass" => ("ok  ", Color::Green),
        "fail" => ("FAIL", Color::Red),
        "inconclusive" => ("... ", Color::Yellow),
        _ => ("-   ", Color::DarkGray),
    };
    let text = format!(" {:<24}  {}", gate.title, gate.brief);
    Line::from(vec![Span::styled(glyph, Style::default().fg(color)), Span::raw(text)])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::status_for_tests as status;
    use ratatui::Terminal;
    use ratatui::backend::TestBackend;
    use serde_json::json;

    const PAGE: &str = "http://127.0.0.1:45678/#token=0123456789abcdef0123456789abcdef";

    fn drawn(width: u16, height: u16) -> String {
        let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
        let status = status(json!({}));
        terminal.draw(|frame| draw(frame, &status, &Tally::default(), PAGE)).unwrap();
        terminal.backend().to_string()
    }

    #[test]
    fn the_screen_shows_both_arms_the_gates_and_the_decisions_in_80_columns() {
        let screen = drawn(80, 24);
        for shown in [
            "canary weight 25 %   (5 > 25 > 50 > 100)",
            "4 s at this weight, at least 15",
            PAGE,
            "stable: tiny-v1",
            "canary: tiny-v2",
            "690 here, 700 in all",
            "3 (0.43 %)",
            "2.5 / 9.8 ms",
            "800.0, 0.0 MiB",
            "+7 -1",
            "...  time at this weight       4s of 15s",
            "ok   errors                    1.00 x stable's, limit 1.50",
            "19.1 s  raised to 25 %",
        ] {
            assert!(screen.contains(shown), "no {shown:?} in\n{screen}");
        }
    }

    #[test]
    fn what_holds_the_weight_is_on_the_smallest_screen() {
        let gate = |n: usize, state: &str| {
            json!({
                "name": "errors", "title": format!("gate {n}"), "state": state, "value": null,
                "threshold": null, "evidence": null, "interval": null, "samples": [0, 0],
                "brief": "", "text": "",
            })
        };
        let mut gates: Vec<_> = (0..12).map(|n| gate(n, "pass")).collect();
        gates.push(gate(12, "fail"));
        let status = status(json!({"gates": gates}));
        let mut terminal = Terminal::new(TestBackend::new(80, 24)).unwrap();
        terminal.draw(|frame| draw(frame, &status, &Tally::default(), PAGE)).unwrap();
        let screen = terminal.backend().to_string();
        assert!(screen.contains("FAIL gate 12") && screen.contains(" more"), "{screen}");
        let shown = (0..13).filter(|n| screen.contains(&format!(" gate {n} "))).count();
        assert!(screen.contains(&format!("{} more", 13 - shown)), "{screen}");
    }

    #[test]
    fn gates_without_anything_to_say_are_left_out() {
        let gate = |name: &str, state: &str| {
            let status = status(json!({"gates": [{
                "name": name, "state": state, "value": null, "threshold": null, "evidence": null,
                "interval": null, "samples": [0, 0], "text": "",
            }]}));
            is_shown(&status.gates[0])
        };
        assert!(gate("errors", "pass") && gate("empty", "fail") && gate("empty", "inconclusive"));
        assert!(!gate("empty", "pass") && !gate("feedback", "not_judged"));
    }

    #[test]
    fn a_small_window_is_no_reason_to_fail() {
        for (width, height) in [(1, 1), (20, 5), (40, 12)] {
            drawn(width, height);
        }
    }

    #[test]
    fn a_line_says_the_same_in_short() {
        let status = status(json!({"phase": "rolled_back"}));
        let line = line(&status, &Tally::default(), Duration::from_secs(30));
        let whole =
            " 30.0 s rolled_back  25 %  req 690/690  err 3/3  TTFT p99 9.8/9.8 ms  failed 0";
        assert_eq!(line, whole);
        assert!(line.len() <= 80, "{line}");
    }
}
