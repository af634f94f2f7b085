//! Entries in plain words: what happened, who ordered it, and why.
//!
//! For display only; the record itself is the entry.

use super::ends::HowEnded;
use super::entry::Entry;
use super::opening::Model;
use crate::rollout::Operator;
use serde::Serialize;

/// An entry for people.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct EntrySummary {
    /// From a bounded set: the entry's kind, for decisions with the decision's own after a dot.
    pub kind: String,
    /// One line; of a decision, what was decided.
    pub text: String,
    /// A decision with all of its figures, where there are any.
    pub details: Option<String>,
    /// Who gave the order.
    pub by: Option<String>,
    /// The order's reason.
    pub reason: Option<String>,
}

impl Entry {
    /// The entry in words.
    pub fn summary(&self) -> EntrySummary {
        let (kind, text) = self.kind_and_text();
        let (by, reason) = match self {
            Entry::Order { order, .. } => (Some(order.by.clone()), order.reason.clone()),
            Entry::LoadOrdered { by, reason, .. } => (Some(by.clone()), reason.clone()),
            Entry::Pardoned { by, reason, .. } => (Some(by.clone()), Some(reason.clone())),
            _ => (None, None),
        };
        let details = match self {
            Entry::Decision(decision) => (decision.text != text).then(|| decision.text.clone()),
            _ => None,
        };
        EntrySummary { kind, text, details, by, reason }
    }

    fn kind_and_text(&self) -> (String, String) {
        let (kind, text) = match self {
            Entry::ServerStarted { version, configured } => (
                "started",
                format!("serin {version} started; {configured} is configured as stable"),
            ),
            Entry::RolloutOpened(opening) => {
                let (stable, canary) = (&opening.stable.version, &opening.canary.version);
                ("rollout", format!("a rollout begins: {stable} -> {canary}"))
            }
            Entry::RolloutResumed { weight, events, .. } => (
                "resumed",
                format!(
                    "the rollout continues after a restart at {weight}, {events} events replayed"
                ),
            ),
            Entry::RolloutAbandoned { why } => ("abandoned", format!("the rollout ends: {why}")),
            Entry::Decision(decision) => {
                let kind = format!("decision.{}", decision.kind.as_str());
                let text = decision.text.split([':', ';']).next().unwrap_or_default();
                return (kind, text.to_owned());
            }
            Entry::Order { order, refused } => {
                ("order", ordered(order.command, refused.as_deref()))
            }
            Entry::LoadOrdered { path, self_test, allowed, refused, .. } => {
                let what = if *self_test { "a second copy of" } else { "the canary" };
                let allowed = match allowed.is_empty() {
                    true => String::new(),
                    false => format!(", although: {}", allowed.join("; ")),
                };
                ("order", with_refusal(format!("load {what} {path}{allowed}"), refused.as_deref()))
            }
            Entry::ModelLoaded { arm, model } => {
                ("loaded", format!("{} loaded as {}", named(model), arm.as_str()))
            }
            Entry::ModelUnloaded { model, why, freed, kept } => {
                let mib = |bytes: u64| bytes as f64 / f64::from(1 << 20);
                let leak = match kept {
                    0 => String::new(),
                    kept => format!(", {:.1} MiB NOT freed", mib(*kept)),
                };
                let model = named(model);
                (
                    "unloaded",
                    format!("{model} unloaded ({why}), {:.1} MiB freed{leak}", mib(*freed)),
                )
            }
            Entry::ModelsSwapped { stable, former } => {
                ("swapped", format!("{} is stable, {} was", named(stable), named(former)))
            }
            Entry::WeightChanged { weight, .. } => {
                ("weight", format!("the canary gets {weight} of the requests"))
            }
            Entry::Fault { arm, what } => ("fault", format!("fault on {}: {what}", arm.as_str())),
            other => other.of_housekeeping(),
        };
        (kind.to_owned(), text)
    }

    /// What concerns the record and the process rather than a rollout.
    fn of_housekeeping(&self) -> (&'static str, String) {
        match self {
            Entry::AlertSent { to, text, error: None } => {
                ("alert", format!("alert to {to}: {text}"))
            }
            Entry::AlertSent { to, text, error: Some(error) } => {
                ("alert", format!("alert to {to} NOT delivered ({error}): {text}"))
            }
            Entry::Rejected { digest, reason } => {
                ("rejected", format!("{} must not be tried again: {reason}", short(digest)))
            }
            Entry::Pardoned { digest, .. } => {
                ("pardoned", format!("{} may be tried again", short(digest)))
            }
            Entry::JournalEnded { why, events } => {
                ("journal", format!("after {events} events, recording stopped: {why}"))
            }
            Entry::UncleanEnd { how, canary, .. } => ("ended", unclean(how, canary.as_ref())),
            Entry::CanaryWell { digest } => (
                "well",
                format!("{} has served well; earlier crashes no longer count", short(digest)),
            ),
            Entry::Pruned(pruned) => {
                let (journals, forgotten) = (pruned.journals.len(), pruned.forgotten.len());
                let text = format!("old rows deleted: {journals} journals, {forgotten} rollouts");
                ("pruned", text)
            }
            _ => ("other", String::new()),
        }
    }
}

fn ordered(command: Operator, refused: Option<&str>) -> String {
    let what = match command.percent() {
        Some(percent) => format!("set the weight to {percent} %"),
        None => command.as_str().replace('_', " "),
    };
    with_refusal(what, refused)
}

fn with_refusal(what: String, refused: Option<&str>) -> String {
    match refused {
        Some(why) => format!("{what}: REFUSED, {why}"),
        None => what,
    }
}

fn unclean(how: &HowEnded, canary: Option<&Model>) -> String {
    let how = serde_json::to_value(how).map(|how| how.to_string()).unwrap_or_default();
    let trial = canary.map(|model| format!("; on trial: {}", named(model))).unwrap_or_default();
    format!("the previous process did not shut down properly: {}{trial}", how.trim_matches('"'))
}

fn named(model: &Model) -> String {
    format!("{} ({})", model.version, short(&model.digest))
}

/// The first characters of a digest.
fn short(digest: &str) -> &str {
    let hex = digest.rsplit(':').next().unwrap_or(digest);
    hex.char_indices().nth(8).map_or(hex, |(end, _)| &hex[..end])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rollout::{Arm, Order, Weight};

    #[test]
    fn summaries_say_what_who_and_why() {
        let order = |command| Entry::Order {
            order: Order { command, by: "ann".to_owned(), reason: Some("too slow".to_owned()) },
            refused: None,
        };
        let summary = order(Operator::SetWeight(Weight::new(25).unwrap())).summary();
        assert_eq!((&*summary.kind, &*summary.text), ("order", "set the weight to 25 %"));
        assert_eq!(
            (summary.by.as_deref(), summary.reason.as_deref()),
            (Some("ann"), Some("too slow"))
        );
        assert_eq!(order(Operator::PromoteNow).summary().text, "promote now");
        let weight = Entry::WeightChanged { weight: Weight::new(5).unwrap(), stage: 1 }.summary();
        assert_eq!(weight.text, "the canary gets 5 % of the requests");
        let fault = Entry::Fault { arm: Arm::Canary, what: "NaN".to_owned() }.summary();
        assert_eq!((&*fault.text, fault.by), ("fault on canary: NaN", None));
        let refused = Entry::LoadOrdered {
            path: "m".to_owned(),
            by: "ann".to_owned(),
            reason: None,
            retry: false,
            self_test: false,
            allowed: vec!["a shorter context".to_owned()],
            refused: Some("one is loaded".to_owned()),
        };
        let text = "load the canary m, although: a shorter context: REFUSED, one is loaded";
        assert_eq!(refused.summary().text, text);
    }

    #[test]
    fn a_digest_is_shortened_between_characters() {
        assert_eq!(short("sha256:0123456789abcdef"), "01234567");
        assert_eq!(short("äöüäöüäöüäöü"), "äöüäöüäö");
        assert_eq!(short("ab"), "ab");
    }
}
