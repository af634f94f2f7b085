//! Which arm answers a request: a deterministic function of (rollout, key, weight).
//!
//! No I/O, no state, no randomness of its own: the caller provides the key or the random draw. A sticky key
//! is hashed together with the rollout's id to a point in [0, 1), and goes to the canary if the point is
//! below the weight.
//!
//! So raising the weight only ever adds sessions to the canary, nothing has to be remembered, a replay routes in the
//! same way, and another rollout picks other sessions first.

use xxhash_rust::xxh3::{xxh3_64, xxh3_64_with_seed};

use crate::rollout::{Arm, Weight};

/// The input of the choice.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct RouteInput<'a> {
    /// The rollout's id.
    pub rollout: &'a str,
    /// The session key. `None` and the empty key mean no session: `draw` decides.
    pub key: Option<&'a str>,
    /// An arm that the client requests by name.
    pub pin: Option<Arm>,
    /// Uniform in [0, 1), used when there is no key.
    pub draw: f64,
    /// The canary's current share.
    pub weight: Weight,
    /// Whether the canary is loaded and takes requests.
    pub canary_up: bool,
}

/// Where a request goes and why.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Route {
    /// The arm that answers.
    pub arm: Arm,
    /// Whether the session key decided: while the weight stays, the same key gets the same arm.
    pub sticky: bool,
    /// Whether the client requested the arm; its outcome is then not part of any verdict.
    pub pinned: bool,
}

/// The canary was requested by name, but there is none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the request asks for the canary, but no canary is up")]
pub struct NoCanary;

/// Chooses the arm: a pin first, then stable if no canary is up, then the key, then the draw.
///
/// Fails if the canary is pinned and not up: there is no silent switch. Stable is never refused.
pub fn pick(input: &RouteInput<'_>) -> Result<Route, NoCanary> {
    if let Some(arm) = input.pin {
        return match arm {
            Arm::Canary if !input.canary_up => Err(NoCanary),
            arm => Ok(Route { arm, sticky: false, pinned: true }),
        };
    }
    let key = input.key.filter(|key| !key.is_empty());
    let point = key.map_or(input.draw, |key| point(input.rollout, key));
    // A NaN draw compares as false and goes to stable.
    let arm =
        if input.canary_up && point < input.weight.fraction() { Arm::Canary } else { Arm::Stable };
    Ok(Route { arm, sticky: key.is_some(), pinned: false })
}

/// The hash of a session key, as outcomes carry it; the same for every rollout.
pub fn session_hash(key: &str) -> u64 {
    xxh3_64(key.as_bytes())
}

/// The point of a key in [0, 1) for a rollout: 53 bits of a hash, so that every value is exact.
fn point(rollout: &str, key: &str) -> f64 {
    let hash = xxh3_64_with_seed(key.as_bytes(), xxh3_64(rollout.as_bytes()));
    (hash >> 11) as f64 / (1u64 << 53) as f64
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn input<'a>(rollout: &'a str, key: Option<&'a str>, percent: u8) -> RouteInput<'a> {
        let weight = Weight::new(percent).expect("at most 100");
        RouteInput { rollout, key, pin: None, draw: 0.5, weight, canary_up: true }
    }

    fn arm(input: &RouteInput<'_>) -> Arm {
        pick(input).expect("nothing is pinned").arm
    }

    /// Within four standard deviations of a binomial share; the inputs are fixed, and so is the result.
    fn assert_share(hits: u64, of: u64, share: f64) {
        let (of, hits) = (of as f64, hits as f64);
        let sigma = (of * share * (1.0 - share)).sqrt();
        assert!((hits - of * share).abs() <= 4.0 * sigma, "{hits} of {of}, share {share}");
    }

    /// A simple generator for draws (splitmix64), so that the tests need no dependency.
    fn draws(seed: u64) -> impl Iterator<Item = f64> {
        (1u64..).map(move |i| {
            let mut z = seed.wrapping_add(i.wrapping_mul(0x9E37_79B9_7F4A_7C15));
            z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
            z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
            ((z ^ (z >> 31)) >> 11) as f64 / (1u64 << 53) as f64
        })
    }

    #[test]
    fn a_pin_decides_and_a_missing_canary_is_an_error() {
        for up in [true, false] {
            let stable =
                RouteInput { pin: Some(Arm::Stable), canary_up: up, ..input("r", None, 100) };
            let route = Route { arm: Arm::Stable, sticky: false, pinned: true };
            assert_eq!(pick(&stable), Ok(route));
            let canary =
                RouteInput { pin: Some(Arm::Canary), canary_up: up, ..input("r", None, 0) };
            let route = Route { arm: Arm::Canary, ..route };
            assert_eq!(pick(&canary), if up { Ok(route) } else { Err(NoCanary) });
        }
    }

    #[test]
    fn without_a_canary_everything_goes_to_stable() {
        let down = RouteInput { canary_up: false, draw: 0.0, ..input("r", None, 100) };
        assert_eq!(arm(&down), Arm::Stable);
        assert_eq!(arm(&RouteInput { key: Some("k"), ..down }), Arm::Stable);
    }

    #[test]
    fn an_empty_key_is_no_session() {
        let empty = RouteInput { draw: 0.04, ..input("r", Some(""), 5) };
        assert_eq!(pick(&empty), Ok(Route { arm: Arm::Canary, sticky: false, pinned: false }));
        assert_eq!(arm(&RouteInput { draw: 0.05, ..empty }), Arm::Stable);
        assert_eq!(arm(&RouteInput { draw: f64::NAN, ..empty }), Arm::Stable);
    }

    #[test]
    fn five_percent_of_the_draws_go_to_the_canary() {
        for seed in 0..32 {
            let hits = draws(seed).take(10_000).filter(|draw| {
                arm(&RouteInput { draw: *draw, ..input("r", None, 5) }) == Arm::Canary
            });
            assert_share(hits.count() as u64, 10_000, 0.05);
        }
    }

    #[test]
    fn five_percent_of_the_keys_go_to_the_canary() {
        for rollout in ["r1", "r2", "", "2026-01-01T00:00:00Z", "a-very-long-rollout-name"] {
            let keys = (0..10_000).map(|i| format!("user-{i}"));
            let hits = keys.filter(|key| arm(&input(rollout, Some(key), 5)) == Arm::Canary).count();
            assert_share(hits as u64, 10_000, 0.05);
        }
    }

    #[test]
    fn rollouts_pick_their_sessions_independently() {
        let ids = ["r1", "r2", "r3", "s1"];
        for (i, one) in ids.iter().enumerate() {
            for two in &ids[i + 1..] {
                let both = (0..10_000).filter(|i| {
                    let key = format!("user-{i}");
                    arm(&input(one, Some(&key), 50)) == Arm::Canary
                        && arm(&input(two, Some(&key), 50)) == Arm::Canary
                });
                assert_share(both.count() as u64, 10_000, 0.25);
            }
        }
    }

    proptest! {
        #[test]
        fn raising_the_weight_only_adds_sessions(
            rollout in ".{0,20}", key in ".{1,40}", low in 0u8..=100, high in 0u8..=100,
        ) {
            let (low, high) = (low.min(high), low.max(high));
            let at = |percent| pick(&input(&rollout, Some(&key), percent)).expect("no pin");
            if at(low).arm == Arm::Canary {
                prop_assert_eq!(at(high).arm, Arm::Canary);
            }
            prop_assert_eq!(at(low), at(low));
            prop_assert!(at(low).sticky && !at(low).pinned);
        }

        #[test]
        fn the_ends_of_the_scale_are_exact(key in ".{1,40}", draw in 0.0f64..1.0) {
            let at = |key, percent| arm(&RouteInput { draw, ..input("r", key, percent) });
            prop_assert_eq!(at(Some(key.as_str()), 0), Arm::Stable);
            prop_assert_eq!(at(Some(key.as_str()), 100), Arm::Canary);
            prop_assert_eq!(at(None, 0), Arm::Stable);
            prop_assert_eq!(at(None, 100), Arm::Canary);
        }
    }
}
