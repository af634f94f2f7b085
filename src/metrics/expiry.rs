//! Leaves out the series of versions that are no longer loaded, some time after their last change.
//!
//! Without it, a process that has loaded a hundred canaries would show a hundred sets of histograms. The recorder can
//! drop idle series itself, but it would also drop those of a loaded version without traffic, and lose samples that a
//! running request records in a dropped histogram. So the recorder keeps everything, and this filter decides what is
//! shown; a version that is loaded again continues where its counters were. It works on the rendered text. Time is an
//! argument.

use super::Who;
use std::collections::{HashMap, HashSet};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::time::{Duration, Instant};

/// How long the series of a version that is gone are shown after their last change.
const GRACE: Duration = Duration::from_secs(300);
/// How many scrapes must have shown them unchanged, however rare scrapes are.
const SCRAPES: u32 = 3;
/// Quotation marks around the values of the three labels that name an arm's version.
const QUOTES: usize = 6;

/// The versions that are gone and still have series, by their labels.
#[derive(Debug, Default)]
pub struct Expiry {
    gone: HashMap<String, Gone>,
}

#[derive(Debug)]
struct Gone {
    /// Of all its lines, in any order.
    digest: u64,
    /// When they last changed, and how many scrapes have shown them since.
    since: Instant,
    scrapes: u32,
}

impl Expiry {
    /// The text without the series of versions that left their arm long ago. `loaded`: those in service.
    pub fn filter(&mut self, text: &str, loaded: &[Who<'_>], now: Instant) -> String {
        let loaded: HashSet<String> = loaded.iter().map(labels).collect();
        let mut digests: HashMap<&str, u64> = HashMap::new();
        for line in text.lines() {
            if let Some(version) = version_of(line).filter(|version| !loaded.contains(*version)) {
                let digest = digests.entry(version).or_default();
                *digest = digest.wrapping_add(hash(line));
            }
        }
        self.gone.retain(|version, _| digests.contains_key(version.as_str()));
        let expired: HashSet<&str> = digests
            .into_iter()
            .filter(|(version, digest)| self.expired(version, *digest, now))
            .map(|(version, _)| version)
            .collect();
        let shown = |line: &&str| version_of(line).is_none_or(|one| !expired.contains(one));
        let mut out = String::with_capacity(text.len());
        for line in text.lines().filter(shown) {
            out.push_str(line);
            out.push('\n');
        }
        out
    }

    fn expired(&mut self, version: &str, digest: u64, now: Instant) -> bool {
        let fresh = Gone { digest, since: now, scrapes: 0 };
        let gone = self.gone.entry(version.to_owned()).or_insert(fresh);
        if gone.digest != digest {
            *gone = Gone { digest, since: now, scrapes: 0 };
        }
        gone.scrapes = gone.scrapes.saturating_add(1);
        gone.scrapes > SCRAPES && now.saturating_duration_since(gone.since) >= GRACE
    }
}

fn hash(line: &str) -> u64 {
    let mut hasher = DefaultHasher::new();
    line.hash(&mut hasher);
    hasher.finish()
}

/// The labels of an arm's version, as the recorder writes them.
fn labels(who: &Who<'_>) -> String {
    let escaped = |(name, value): (&str, String)| {
        let value = value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
        format!("{name}=\"{value}\"")
    };
    who.labels().map(escaped).join(",")
}

/// The part of a line that names an arm's version; `None` for series that have none, and for comments.
fn version_of(line: &str) -> Option<&str> {
    let (_, labels) = line.split_once('{')?;
    if line.starts_with('#') || !labels.starts_with("model_name=\"") {
        return None;
    }
    let (mut quotes, mut escaped) = (0, false);
    let end = labels.char_indices().find(|(_, c)| {
        quotes += usize::from(*c == '"' && !escaped);
        escaped = *c == '\\' && !escaped;
        quotes == QUOTES
    });
    end.and_then(|(at, _)| labels.get(..=at))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rollout::Arm;

    const V1: Who<'static> = Who { model: "m", arm: Arm::Stable, version: "v1" };
    const V2: Who<'static> = Who { model: "m", arm: Arm::Canary, version: "v2" };

    fn text(count: u32) -> String {
        format!(
            "# TYPE a counter\na{{model_name=\"m\",arm=\"stable\",version=\"v1\"}} 1\n\
             a{{model_name=\"m\",arm=\"canary\",version=\"v2\",class=\"ok\"}} {count}\nb 2\n"
        )
    }

    fn at(start: Instant, seconds: u64) -> Instant {
        start + Duration::from_secs(seconds)
    }

    #[test]
    fn the_labels_of_a_version_are_found_whatever_they_contain() {
        let odd = Who { model: "a\"b{", arm: Arm::Canary, version: "v\"2\"" };
        let line = format!("x_bucket{{{},le=\"0.1\"}} 3", labels(&odd));
        assert_eq!(version_of(&line), Some(&*labels(&odd)));
        for other in ["# HELP x {model_name=\"", "x 1", "x{gate=\"bake\"} 1", ""] {
            assert_eq!(version_of(other), None, "{other}");
        }
    }

    #[test]
    fn a_version_that_is_gone_is_shown_for_a_grace_and_then_no_longer() {
        let (mut expiry, start) = (Expiry::default(), Instant::now());
        assert_eq!(expiry.filter(&text(5), &[V1, V2], start), text(5));
        let shown = |expiry: &mut Expiry, seconds| {
            expiry.filter(&text(6), &[V1], at(start, seconds)).contains("v2")
        };
        let times = [10, 100, 200, 309, 310, 400];
        let seen: Vec<bool> = times.iter().map(|t| shown(&mut expiry, *t)).collect();
        assert_eq!(seen, [true, true, true, true, false, false]);
        let rest = expiry.filter(&text(6), &[V1], at(start, 500));
        let without =
            "# TYPE a counter\na{model_name=\"m\",arm=\"stable\",version=\"v1\"} 1\nb 2\n";
        assert_eq!(rest, without, "everything else stays");
    }

    #[test]
    fn what_still_changes_or_was_hardly_scraped_is_shown() {
        let (mut expiry, start) = (Expiry::default(), Instant::now());
        let mut shown =
            |count, seconds| expiry.filter(&text(count), &[V1], at(start, seconds)).contains("v2");
        assert!(shown(1, 0) && shown(2, 400) && shown(2, 600), "a late increment starts anew");
        assert!(shown(2, 700), "the third scrape since then");
        assert!(!shown(2, 900));
        assert!(shown(3, 901), "a change shows it again");
    }

    #[test]
    fn a_version_that_is_loaded_again_is_shown_at_once() {
        let (mut expiry, start) = (Expiry::default(), Instant::now());
        for seconds in [0, 100, 200, 300] {
            expiry.filter(&text(5), &[V1], at(start, seconds));
        }
        assert!(!expiry.filter(&text(5), &[V1], at(start, 400)).contains("v2"));
        assert!(expiry.filter(&text(5), &[V1, V2], at(start, 401)).contains("v2"));
        assert!(expiry.filter(&text(5), &[V1], at(start, 402)).contains("v2"), "a new grace");
    }
}
