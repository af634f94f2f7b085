//! What changed in the replies of two versions to the same prompts with the same seeds.
//!
//! Figures about distributions have the names that `llama-perplexity --kl-divergence` prints; A is the base, B is Q.
//! Pure; it does not know who wrote or read the replies.

use super::statistics::{quantile, sign_test};
use serde_json::{Map, Value, json};

/// One reply.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Reply {
    /// What identifies its tokens; empty if they are not known.
    pub tokens: Vec<u64>,
    /// Its text.
    pub text: String,
    /// Number of its tokens.
    pub length: usize,
    /// It ended without any text.
    pub empty: bool,
    /// It reached the maximum length in a loop.
    pub looping: bool,
    /// Whether the answer is right, if the prompt has one.
    pub right: Option<bool>,
}

/// One token of A's reply, as both versions predict it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Place {
    /// Its log-probability by version; `None` if it is not known to both.
    pub logprob: Option<[f64; 2]>,
    /// Whether both have the same most likely token here.
    pub same_top: bool,
    /// KL divergence of B's distribution from A's, in nats; only where it was asked for.
    pub kld: Option<f64>,
}

/// The replies to one prompt.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Answered {
    /// By version; B's is missing if there is one version.
    pub replies: Vec<Reply>,
    /// Places of A's reply; empty if nothing is known of them.
    pub places: Vec<Place>,
}

/// What can be counted of one version's replies.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Counts {
    /// Mean length in tokens.
    pub mean_length: f64,
    /// Empty replies.
    pub empty: usize,
    /// Replies that ended in a loop.
    pub loops: usize,
    /// Right answers, of `Changes::with_answer`.
    pub right: usize,
}

/// The differences over all prompts.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Changes {
    /// Prompts.
    pub prompts: usize,
    /// Prompts that a version could not answer, of which nothing is counted, and why it could not answer the first.
    pub failed: (usize, Option<String>),
    /// Prompts with a right answer.
    pub with_answer: usize,
    /// By version; one if there is one version.
    pub counts: Vec<Counts>,
    /// Replies that are the same in both; `None` if there is one version.
    pub identical: Option<usize>,
    /// Median place of the first token that differs, from 0, over the replies that differ.
    pub first_divergence: Option<f64>,
    /// Answers that were right of A and wrong of B, and the other way round.
    pub turned: [u64; 2],
    /// Probability of so uneven a turn if both are equally good.
    pub turned_p: Option<f64>,
    /// Whether KLD is a lower bound, computed from the most likely tokens alone.
    pub kld_is_bound: bool,
    /// Figures of distributions: name and value.
    pub distributions: Vec<(&'static str, f64)>,
}

/// The first index at which two sequences differ; `None` if they are the same.
pub fn first_difference(a: &[u64], b: &[u64]) -> Option<usize> {
    let same = a.iter().zip(b).take_while(|(a, b)| a == b).count();
    (same < a.len() || same < b.len()).then_some(same)
}

/// The differences over all prompts.
pub fn changes(all: &[Answered], kld_is_bound: bool) -> Changes {
    let versions = all.iter().map(|one| one.replies.len()).min().unwrap_or(0);
    let mut changes = Changes {
        prompts: all.len(),
        with_answer: all.iter().filter(|one| one.replies.iter().any(|r| r.right.is_some())).count(),
        counts: (0..versions).map(|version| counts(all, version)).collect(),
        kld_is_bound,
        ..Changes::default()
    };
    if versions < 2 {
        return changes;
    }
    let pairs = || all.iter().map(|one| (&one.replies[0], &one.replies[1]));
    changes.identical = Some(pairs().filter(|(a, b)| same(a, b)).count());
    let known = pairs().filter(|(a, b)| !a.tokens.is_empty() && !b.tokens.is_empty());
    let mut places: Vec<f64> = known
        .filter_map(|(a, b)| first_difference(&a.tokens, &b.tokens))
        .map(|at| at as f64)
        .collect();
    places.sort_by(f64::total_cmp);
    changes.first_divergence = quantile(&places, 0.5);
    for (a, b) in pairs() {
        changes.turned[0] += u64::from(a.right == Some(true) && b.right == Some(false));
        changes.turned[1] += u64::from(a.right == Some(false) && b.right == Some(true));
    }
    let [worse, better] = changes.turned;
    changes.turned_p = (changes.with_answer > 0).then(|| sign_test(worse, better));
    changes.distributions = distributions(all);
    changes
}

fn same(a: &Reply, b: &Reply) -> bool {
    match a.tokens.is_empty() || b.tokens.is_empty() {
        true => a.text == b.text && a.length == b.length,
        false => a.tokens == b.tokens,
    }
}

fn counts(all: &[Answered], version: usize) -> Counts {
    let own = || all.iter().map(|one| &one.replies[version]);
    Counts {
        mean_length: own().map(|reply| reply.length as f64).sum::<f64>() / all.len() as f64,
        empty: own().filter(|reply| reply.empty).count(),
        loops: own().filter(|reply| reply.looping).count(),
        right: own().filter(|reply| reply.right == Some(true)).count(),
    }
}

/// As llama-perplexity names them: over all tokens of A's replies, divergences over the places that have one.
fn distributions(all: &[Answered]) -> Vec<(&'static str, f64)> {
    let places: Vec<&Place> = all.iter().flat_map(|one| &one.places).collect();
    let mut found = Vec::new();
    if places.is_empty() {
        return found;
    }
    let known: Vec<[f64; 2]> = places.iter().filter_map(|place| place.logprob).collect();
    let mean =
        |of: &dyn Fn(&[f64; 2]) -> f64| known.iter().map(of).sum::<f64>() / known.len() as f64;
    if !known.is_empty() {
        let [base, q] = [0, 1].map(|version| (-mean(&|both| both[version])).exp());
        let change = |both: &[f64; 2]| both[1].exp() - both[0].exp();
        found.extend([
            ("Mean PPL(Q)", q),
            ("Mean PPL(base)", base),
            ("Mean ln(PPL(Q)/PPL(base))", (q / base).ln()),
            ("Mean PPL(Q)/PPL(base)", q / base),
            ("Mean Δp", mean(&change)),
            ("RMS Δp", mean(&|both| change(both).powi(2)).sqrt()),
        ]);
    }
    let mut divergences: Vec<f64> = places.iter().filter_map(|place| place.kld).collect();
    divergences.sort_by(f64::total_cmp);
    if let (Some(median), Some(high), Some(largest)) =
        (quantile(&divergences, 0.5), quantile(&divergences, 0.99), divergences.last())
    {
        let mean = divergences.iter().sum::<f64>() / divergences.len() as f64;
        found.extend([
            ("Mean KLD", mean),
            ("Maximum KLD", *largest),
            ("99.0% KLD", high),
            ("Median KLD", median),
        ]);
    }
    let same = places.iter().filter(|place| place.same_top).count();
    found.push(("Same top p", same as f64 / places.len() as f64));
    found
}

/// A lower bound of the KL divergence from A's most likely tokens and B's, each with its log-probability: tokens that are
/// not in both lists count as one (the data-processing inequality).
pub fn kld_of_tops(a: &[(u64, f64)], b: &[(u64, f64)]) -> f64 {
    let both = a.iter().filter_map(|(token, p)| {
        b.iter().find(|(other, _)| other == token).map(|(_, q)| (p.exp(), q.exp()))
    });
    let (mut sum, mut rest) = (0.0, [1.0f64, 1.0]);
    for (p, q) in both {
        sum += p * (p / q).ln();
        rest = [rest[0] - p, rest[1] - q];
    }
    let [p, q] = rest.map(|rest| rest.max(1e-9));
    (sum + p * (p / q).ln()).max(0.0)
}

impl Changes {
    /// As JSON.
    pub fn as_json(&self) -> Value {
        let distributions: Map<String, Value> = self
            .distributions
            .iter()
            .map(|(name, value)| ((*name).to_owned(), json!(value)))
            .collect();
        let counts = |one: &Counts| {
            json!({
                "mean_length": one.mean_length, "empty": one.empty, "loops": one.loops,
                "right": (self.with_answer > 0).then_some(one.right),
            })
        };
        json!({
            "prompts": self.prompts,
            "failed": self.failed.0,
            "first_failure": self.failed.1,
            "with_answer": self.with_answer,
            "versions": self.counts.iter().map(counts).collect::<Vec<_>>(),
            "identical": self.identical,
            "first_divergence": self.first_divergence,
            "right_to_wrong": self.turned[0],
            "wrong_to_right": self.turned[1],
            "turned_p": self.turned_p,
            "kld_is_lower_bound": self.kld_is_bound,
            "distributions": distributions,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn reply(tokens: &[u64], right: Option<bool>) -> Reply {
        let (length, text) = (tokens.len(), format!("{tokens:?}"));
        Reply {
            tokens: tokens.to_vec(),
            text,
            length,
            empty: tokens.is_empty(),
            looping: false,
            right,
        }
    }

    fn figure(changes: &Changes, name: &str) -> f64 {
        changes
            .distributions
            .iter()
            .find(|(one, _)| *one == name)
            .map_or(f64::NAN, |(_, value)| *value)
    }

    #[test]
    fn differences_are_counted() {
        let place =
            |a: f64, b: f64| Place { logprob: Some([a, b]), same_top: a == b, kld: Some(a - b) };
        let all = [
            Answered {
                replies: vec![reply(&[1, 2, 3], Some(true)), reply(&[1, 2, 3], Some(true))],
                places: vec![place(-1.0, -1.0)],
            },
            Answered {
                replies: vec![reply(&[1, 2, 3], Some(true)), reply(&[1, 9], Some(false))],
                places: vec![place(-1.0, -3.0)],
            },
            Answered { replies: vec![reply(&[4], None), reply(&[], None)], places: vec![] },
        ];
        let found = changes(&all, false);
        assert_eq!((found.prompts, found.with_answer, found.identical), (3, 2, Some(1)));
        assert_eq!(
            (found.first_divergence, found.turned, found.turned_p),
            (Some(1.0), [1, 0], Some(1.0))
        );
        assert_eq!(
            (found.counts[0].right, found.counts[1].right, found.counts[1].empty),
            (2, 1, 1)
        );
        assert!((figure(&found, "Mean PPL(base)") - 1f64.exp()).abs() < 1e-9);
        assert!((figure(&found, "Mean PPL(Q)") - 2f64.exp()).abs() < 1e-9);
        assert!((figure(&found, "Mean KLD") - 1.0).abs() < 1e-9);
        assert_eq!(figure(&found, "Same top p"), 0.5);
        let one =
            changes(&[Answered { replies: vec![reply(&[1], Some(false))], places: vec![] }], false);
        assert_eq!((one.identical, one.counts.len(), one.counts[0].right), (None, 1, 0));
    }

    proptest! {
        #[test]
        fn the_divergence_of_tops_is_no_more_than_the_whole(
            logits in prop::collection::vec((-4.0f64..4.0, -4.0f64..4.0), 3..12), kept in 1usize..12,
        ) {
            let normal = |logits: Vec<f64>| {
                let sum: f64 = logits.iter().map(|x| x.exp()).sum();
                logits.iter().map(|x| x - sum.ln()).collect::<Vec<f64>>()
            };
            let [p, q] = [normal(logits.iter().map(|x| x.0).collect()), normal(logits.iter().map(|x| x.1).collect())];
            let whole: f64 = p.iter().zip(&q).map(|(p, q)| p.exp() * (p - q)).sum();
            let top = |of: &[f64]| {
                let mut all: Vec<(u64, f64)> = of.iter().enumerate().map(|(at, p)| (at as u64, *p)).collect();
                all.sort_by(|a, b| b.1.total_cmp(&a.1));
                all.truncate(kept);
                all
            };
            let found = kld_of_tops(&top(&p), &top(&q));
            prop_assert!(found >= 0.0 && found <= whole + 1e-6, "{} {}", found, whole);
            prop_assert!(kld_of_tops(&top(&p), &top(&p)) < 1e-9);
        }

        #[test]
        fn the_first_difference_is_where_the_common_beginning_ends(
            common in prop::collection::vec(0u64..5, 0..20), a in prop::collection::vec(5u64..9, 0..5),
            b in prop::collection::vec(10u64..14, 0..5),
        ) {
            let [one, two] = [[common.clone(), a.clone()].concat(), [common.clone(), b.clone()].concat()];
            let expected = (!a.is_empty() || !b.is_empty()).then_some(common.len());
            prop_assert_eq!(first_difference(&one, &two), expected);
        }
    }
}
