//! Every metric is recorded as its row of the table says, and the documentation lists exactly these rows.

use super::*;
use metrics_exporter_prometheus::PrometheusRecorder;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

const STABLE: Who<'static> = Who { model: "m", arm: Arm::Stable, version: "v1" };

/// What `record` leaves in a recorder of its own, rendered.
fn rendered(record: impl FnOnce()) -> String {
    let recorder: PrometheusRecorder = builder().unwrap().build_recorder();
    ::metrics::with_local_recorder(&recorder, || {
        describe();
        record();
    });
    render(&recorder.handle())
}

fn everything() -> String {
    rendered(|| {
        begin_process();
        serving(STABLE);
        lane(STABLE, &LaneStats::default(), Totals::default());
        let gate = GateGauge {
            name: "errors".into(),
            state: 1,
            value: Some(1.0),
            limit: Some(1.5),
            evidence: Some(1.0),
            evidence_limit: Some(20.0),
            decides_in: None,
        };
        rollout(&RolloutGauges { gates: vec![gate], ..RolloutGauges::default() });
        device(&Readings::default());
        alerts("0 ops.example.com", &[("sent", 1)], 0);
    })
}

/// Name, kind and label names of each family of a text.
fn families(text: &str) -> BTreeMap<String, (String, BTreeSet<String>)> {
    let mut found: BTreeMap<String, (String, BTreeSet<String>)> = BTreeMap::new();
    for line in text.lines() {
        if let Some((name, kind)) = line.strip_prefix("# TYPE ").and_then(|l| l.split_once(' ')) {
            found.insert(name.to_owned(), (kind.to_owned(), BTreeSet::new()));
        } else if !line.is_empty() && !line.starts_with('#') {
            let (name, labels) = line.split_once('{').unwrap_or((line, ""));
            let name = name.split(' ').next().unwrap();
            let parts = ["_bucket", "_sum", "_count"];
            let base = parts.iter().find_map(|part| name.strip_suffix(part));
            let base = base.filter(|base| found.contains_key(*base)).unwrap_or(name);
            let labels = labels.rsplit_once('}').map_or("", |(labels, _)| labels);
            let names = labels.split("\",").filter_map(|label| label.split_once('='));
            let family = found.get_mut(base).unwrap_or_else(|| panic!("{line} has no type"));
            family.1.extend(names.map(|(name, _)| name.to_owned()).filter(|name| name != "le"));
        }
    }
    found
}

#[test]
fn every_metric_is_recorded_as_the_table_says() {
    let found = families(&everything());
    let kind = |kind: Kind| format!("{kind:?}").to_lowercase();
    let names = |labels: &[&str]| labels.iter().map(|label| (*label).to_owned()).collect();
    let table: BTreeMap<String, (String, BTreeSet<String>)> = TABLE
        .iter()
        .map(|(name, of, labels, _)| ((*name).to_owned(), (kind(*of), names(labels))))
        .collect();
    assert_eq!(found, table);
}

#[test]
fn names_follow_the_conventions() {
    for (name, kind, _, help) in TABLE {
        assert_eq!(*kind == Counter, name.ends_with("_total"), "{name}");
        assert!(name.starts_with("vllm:") || name.starts_with("serin_"), "{name}");
        assert!(help.ends_with('.') && !help.contains('|'), "{name}: {help}");
    }
}

#[test]
fn series_of_bounded_sets_exist_before_anything_is_counted() {
    let text = everything();
    for series in [
        "serin_requests_total{model_name=\"m\",arm=\"stable\",version=\"v1\",class=\"timeout\"} 0",
        "vllm:time_to_first_token_seconds_count{model_name=\"m\",arm=\"stable\",version=\"v1\"} 0",
        "serin_rollout_decisions_total{kind=\"rolled_back\"} 0",
        "serin_connections_closed_total{reason=\"full\"} 0",
        "serin_unload_seconds_count 0",
    ] {
        assert!(text.contains(series), "no {series} in\n{text}");
    }
}

#[test]
fn label_values_without_a_type_are_those_of_the_code() {
    let sockets = include_str!("../http/sockets/mod.rs");
    for reason in CLOSED_REASONS {
        assert!(sockets.contains(&format!("connection_closed(\"{reason}\")")), "{reason}");
    }
}

#[test]
fn a_version_that_is_loaded_twice_continues() {
    let stats = LaneStats::default();
    stats.0.lock().steps = 7;
    stats.0.lock().step_micros = 1_500_000;
    let text = rendered(|| {
        lane(STABLE, &stats, Totals::default());
        let earlier = Totals::of(&stats);
        stats.0.lock().steps = 2;
        lane(STABLE, &stats, earlier);
        lane_gone(STABLE);
    });
    let of = "{model_name=\"m\",arm=\"stable\",version=\"v1\"}";
    assert!(text.contains(&format!("serin_steps_total{of} 9")), "{text}");
    assert!(text.contains(&format!("serin_step_seconds_total{of} 3\n")), "{text}");
    assert!(text.contains("# TYPE serin_step_seconds_total counter"), "{text}");
}

/// `SERIN_WRITE_DOCS=1 cargo test --lib metrics` writes the list.
#[test]
fn the_documentation_lists_every_metric() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/metrics.md");
    let text = std::fs::read_to_string(&path).unwrap();
    let begin = "| metric | kind | labels | meaning |\n|---|---|---|---|\n";
    let mut list = begin.to_owned();
    for (name, kind, labels, help) in TABLE {
        let labels: Vec<String> = labels.iter().map(|label| format!("`{label}`")).collect();
        let kind = format!("{kind:?}").to_lowercase();
        list += &format!("| `{name}` | {kind} | {} | {help} |\n", labels.join(", "));
    }
    let (before, rest) = text.split_once(begin).expect("docs/metrics.md has the list");
    let after = rest.find("\n\n").map_or("", |at| &rest[at + 1..]);
    let wanted = format!("{before}{list}{after}");
    if std::env::var_os("SERIN_WRITE_DOCS").is_some() {
        std::fs::write(&path, wanted).unwrap();
    } else {
        assert_eq!(text, wanted, "SERIN_WRITE_DOCS=1 cargo test --lib metrics");
    }
}
