//! The figures of the last hours, for plots: one point per second for 15 minutes, and one per 30 seconds for 8 hours.
//!
//! Memory is bounded. A point is computed from two consecutive statuses; time is passed in. It does not know about its
//! readers.

use crate::control::{ArmStatus, Status};
use crate::engine::LaneFigures;
use crate::rollout::{Arm, GateName};
use serde::Serialize;
use std::collections::VecDeque;
use std::sync::OnceLock;

/// Points kept at full resolution.
const FINE: usize = 900;
/// Points kept for longer, and how many fine ones each stands for.
const COARSE: usize = 960;
const STRIDE: u64 = 30;

const SHARED: [&str; 10] = [
    "weight",
    "routed",
    "share",
    "resident",
    "device_used",
    "device_total",
    "watts",
    "sm_clock",
    "throttled",
    "busy",
];
const OF_AN_ARM: [&str; 12] = [
    "requests_per_second",
    "errors_per_second",
    "tokens_per_second",
    "ttft_p50",
    "ttft_p99",
    "tpot_p50",
    "tpot_p99",
    "running",
    "waiting",
    "kv_used",
    "kv_total",
    "memory",
];

/// The names of a point's values: what is common, each arm's (`stable.` or `canary.` before it), each gate's
/// (`gate.` before it).
pub(super) fn names() -> &'static [String] {
    static NAMES: OnceLock<Vec<String>> = OnceLock::new();
    NAMES.get_or_init(|| {
        let of_arms = Arm::BOTH
            .into_iter()
            .flat_map(|arm| OF_AN_ARM.iter().map(move |name| format!("{}.{name}", arm.as_str())));
        let gates = GateName::all().map(|gate| format!("gate.{}", gate.as_str()));
        SHARED.iter().map(|name| (*name).to_owned()).chain(of_arms).chain(gates).collect()
    })
}

/// The figures of one moment, in the order of [`names`]; `NaN` (in JSON `null`) where there is none. Times are
/// milliseconds, sizes bytes.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(super) struct Point {
    /// Rises by one from point to point, from 1.
    pub number: u64,
    /// Milliseconds since 1970.
    pub at: u64,
    pub values: Vec<f32>,
}

/// A point's values: of this status, with rates since the one before, `seconds` ago.
pub(super) fn values(now: &Status, before: Option<&Status>, seconds: f64) -> Vec<f32> {
    let device = now.device.as_ref();
    let of_device = |value: Option<f64>| value.map_or(f32::NAN, |value| value as f32);
    let mut values = vec![
        f32::from(now.weight),
        f32::from(now.routed),
        if now.share_of == 0 { f32::NAN } else { 100.0 * now.share as f32 },
        now.resident_bytes as f32,
        of_device(device.and_then(|device| device.memory_used).map(|bytes| bytes as f64)),
        of_device(device.and_then(|device| device.memory_total).map(|bytes| bytes as f64)),
        of_device(device.and_then(|device| device.power_watts)),
        of_device(device.and_then(|device| device.sm_clock_mhz).map(f64::from)),
        of_device(device.map(|device| f64::from(u8::from(device.throttled.is_some())))),
        of_device(device.and_then(|device| device.utilisation).map(|share| 100.0 * share)),
    ];
    for arm in Arm::BOTH.map(Arm::index) {
        let earlier = before.and_then(|before| before.arms.get(arm));
        values.extend(of_arm(now.arms.get(arm), earlier, seconds));
    }
    // The curve of a rollout begins with it and ends with it.
    let running = matches!(now.phase.as_str(), "running" | "paused");
    let same = before.is_none_or(|before| before.rollout == now.rollout);
    for name in GateName::all() {
        let gate = now.gates.iter().find(|gate| gate.name == name.as_str());
        let value = gate.and_then(|gate| gate.value).filter(|_| running && same);
        values.push(of_device(value));
    }
    values.into_iter().map(short).collect()
}

/// To four digits, which is finer than any plot, and half as long to send.
fn short(value: f32) -> f32 {
    if value == 0.0 || !value.is_finite() {
        return value;
    }
    let unit = 10f64.powi(f64::from(value.abs()).log10().floor() as i32 - 3);
    ((f64::from(value) / unit).round() * unit) as f32
}

fn of_arm(now: Option<&ArmStatus>, before: Option<&ArmStatus>, seconds: f64) -> [f32; 12] {
    let Some(arm) = now.filter(|arm| arm.loaded) else { return [f32::NAN; 12] };
    // Of another version: the curve has a gap.
    if before.is_some_and(|before| before.loaded && before.digest != arm.digest) {
        return [f32::NAN; 12];
    }
    let before = before.filter(|before| before.loaded);
    let rate = |count: fn(&ArmStatus) -> Option<u64>| {
        let risen = before.and_then(count).zip(count(arm)).map(|(old, new)| new.checked_sub(old));
        risen.flatten().map_or(f32::NAN, |risen| (risen as f64 / seconds.max(1e-3)) as f32)
    };
    let traffic = arm.traffic.as_ref();
    let time = |time: Option<f64>| time.map_or(f32::NAN, |time| time as f32);
    let lane = |figure: fn(&LaneFigures) -> u64| {
        arm.lane.as_ref().map_or(f32::NAN, |lane| figure(&lane.figures) as f32)
    };
    [
        rate(|arm| arm.traffic.as_ref().map(|traffic| traffic.classes.values().sum())),
        rate(|arm| arm.traffic.as_ref().map(errors)),
        rate(|arm| arm.lane.as_ref().map(|lane| lane.figures.tokens_generated)),
        time(traffic.and_then(|traffic| traffic.ttft_p50_ms)),
        time(traffic.and_then(|traffic| traffic.ttft_p99_ms)),
        time(traffic.and_then(|traffic| traffic.tpot_p50_ms)),
        time(traffic.and_then(|traffic| traffic.tpot_p99_ms)),
        lane(|lane| lane.running),
        lane(|lane| lane.waiting),
        lane(|lane| lane.blocks_used),
        lane(|lane| lane.blocks_total),
        lane(|lane| lane.arena_reserved + lane.card_reserved),
    ]
}

fn errors(traffic: &crate::control::TrafficStatus) -> u64 {
    let of = |class: &str| traffic.classes.get(class).copied().unwrap_or(0);
    of("model_error") + of("timeout")
}

/// Points in columns, as plots take them: `values[series][point]`.
#[derive(Debug, Default, PartialEq, Serialize)]
pub(super) struct Columns {
    pub at: Vec<u64>,
    pub values: Vec<Vec<f32>>,
}

#[derive(Debug, Default)]
pub(super) struct History {
    /// Points since the start.
    pub count: u64,
    fine: VecDeque<Point>,
    coarse: VecDeque<Point>,
}

impl History {
    /// Adds a point and returns it.
    pub fn push(&mut self, at: u64, values: Vec<f32>) -> Point {
        self.count += 1;
        let point = Point { number: self.count, at, values };
        if self.count.is_multiple_of(STRIDE) {
            keep(&mut self.coarse, COARSE, point.clone());
        }
        keep(&mut self.fine, FINE, point.clone());
        point
    }

    /// The coarse points after `seen`, and the fine ones.
    pub fn since(&self, seen: u64) -> (Columns, Columns) {
        let fine: Vec<&Point> = self.fine.iter().filter(|point| point.number > seen).collect();
        let coarse = self.coarse.iter().filter(|point| point.number > seen).collect();
        (columns(coarse), columns(fine))
    }
}

fn keep(ring: &mut VecDeque<Point>, most: usize, point: Point) {
    if ring.len() == most {
        ring.pop_front();
    }
    ring.push_back(point);
}

fn columns(points: Vec<&Point>) -> Columns {
    let series = |at: usize| points.iter().map(|point| point.values[at]).collect();
    Columns {
        at: points.iter().map(|point| point.at).collect(),
        values: (0..names().len()).map(series).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::status_for_tests as status;
    use proptest::prelude::*;
    use serde_json::json;

    fn point(history: &mut History, at: u64) {
        history.push(at, vec![at as f32; names().len()]);
    }

    proptest! {
        #[test]
        fn memory_is_bounded_and_a_listener_gets_every_point_once(
            points in 0u64..3000, seen in 0u64..3000
        ) {
            let mut history = History::default();
            (1..=points).for_each(|at| point(&mut history, at));
            let (coarse, fine) = history.since(seen);
            prop_assert!(history.fine.len() <= FINE && history.coarse.len() <= COARSE);
            for column in [&coarse.at, &fine.at] {
                prop_assert!(column.is_sorted_by(|a, b| a < b));
                prop_assert!(column.iter().all(|at| *at > seen));
            }
            let strided = (seen + 1..=points).filter(|at| at.is_multiple_of(STRIDE)).count();
            prop_assert_eq!(coarse.at.len(), strided, "none is missing when the fine ones are gone");
            let latest = points.saturating_sub(seen).min(FINE as u64);
            prop_assert_eq!(fine.at.len() as u64, latest);
            prop_assert_eq!(fine.values.len(), names().len());
        }
    }

    #[test]
    fn values_are_kept_to_four_digits() {
        for (value, kept) in [(33_554_432.0, 33_550_000.0), (0.0123456, 0.01235), (-7.0, -7.0)] {
            assert_eq!(short(value), kept);
        }
        assert!(short(f32::NAN).is_nan() && short(0.0) == 0.0);
    }

    #[test]
    fn eight_hours_are_kept() {
        let mut history = History::default();
        let hours = 9 * 3600;
        (1..=hours).for_each(|at| point(&mut history, at));
        let (coarse, _) = history.since(0);
        assert!(coarse.at[0] <= hours - 8 * 3600 + STRIDE, "{}", coarse.at[0]);
    }

    #[test]
    fn a_point_has_a_value_for_every_name_and_rates_since_the_one_before() {
        let at = |name: &str| names().iter().position(|one| one == name).unwrap();
        let arm = |tokens: u64, ok: u64, digest: &str| {
            let mut arm = serde_json::to_value(&status(json!({})).arms[0]).unwrap();
            arm["digest"] = json!(digest);
            arm["traffic"] = json!({
                "window_s": 60.0, "requests": ok, "requests_per_second": 1.0,
                "tokens_per_second": 2.0, "ttft_p50_ms": 3.0, "ttft_p99_ms": 4.0,
                "tpot_p50_ms": null, "tpot_p99_ms": null,
                "classes": {"ok": ok, "timeout": 4}, "finish_reasons": {},
            });
            let mut lane = serde_json::Map::new();
            for name in [
                "running",
                "waiting",
                "blocks_used",
                "blocks_total",
                "blocks_cached",
                "blocks_evicted",
                "prefix_lookup_tokens",
                "prefix_hit_tokens",
                "preemptions",
                "cancelled",
                "tokens_prefilled",
                "arena_used",
                "arena_reserved",
            ] {
                lane.insert(name.to_owned(), json!(1));
            }
            lane.insert("prefix_hit_rate".to_owned(), json!(null));
            lane.insert("tokens_generated".to_owned(), json!(tokens));
            arm["lane"] = lane.into();
            status(json!({"arms": [arm, status(json!({})).arms[1]]}))
        };
        let (before, now) = (arm(100, 10, "a"), arm(300, 16, "a"));
        let found = values(&now, Some(&before), 2.0);
        assert_eq!(found.len(), names().len());
        for (name, value) in [
            ("weight", 25.0),
            ("share", 24.0),
            ("stable.tokens_per_second", 100.0),
            ("stable.requests_per_second", 3.0),
            ("stable.errors_per_second", 0.0),
            ("stable.ttft_p99", 4.0),
            ("gate.errors", 1.0),
        ] {
            assert_eq!(found[at(name)], value, "{name}");
        }
        for name in ["watts", "stable.tpot_p50", "canary.running", "gate.ttft"] {
            assert!(found[at(name)].is_nan(), "{name}");
        }
        let other = values(&now, Some(&arm(100, 10, "another")), 2.0);
        assert!(other[at("stable.ttft_p99")].is_nan(), "another version");
        let ended = values(&status(json!({"phase": "promoted"})), None, 1.0);
        assert!(ended[at("gate.errors")].is_nan(), "no gate is judged");
        assert!(serde_json::to_string(&found).unwrap().contains("null"));
    }
}
