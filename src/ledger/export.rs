//! Export: the ledger as JSON Lines, one row per line, for other tools.
//!
//! Each line has the row's hash, so an exported file proves as much as the ledger itself. Batches of the
//! journal are left out, exported as hex, or decoded into events.

use std::io::Write;
use std::time::Duration;

use rusqlite::types::ValueRef;
use serde_json::{Value, json};

use super::chain::{Hash, JOURNAL, to_hex};
use super::codec;
use super::error::LedgerError;
use super::read::{Reader, unsigned};
use crate::rollout::{Event, Flag, Origin, Outcome, Weight};

/// How the journal's batches are exported.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Bodies {
    /// Left out.
    Entries,
    /// As stored, in hex: the hashes can be recomputed.
    Raw,
    /// Decoded into events.
    Expanded,
}

/// Writes the rows in order; returns their number. Fails if the ledger cannot be read or is damaged, or if `out` fails.
pub fn export(reader: &Reader, bodies: Bodies, out: &mut impl Write) -> Result<u64, LedgerError> {
    let view = reader.view();
    let sqlite = |error| view.sqlite(error);
    let query = "SELECT seq, at_unix_ms, kind, rollout, hash, body FROM ledger ORDER BY seq";
    let mut statement = view.conn.prepare(query).map_err(sqlite)?;
    let mut rows = statement.query([]).map_err(sqlite)?;
    let mut count = 0;
    while let Some(row) = rows.next().map_err(sqlite)? {
        let seq = unsigned(row, 0).map_err(sqlite)?;
        let (at, kind): (i64, String) = (row.get(1).map_err(sqlite)?, row.get(2).map_err(sqlite)?);
        let (rollout, hash): (String, Hash) =
            (row.get(3).map_err(sqlite)?, row.get(4).map_err(sqlite)?);
        if kind == JOURNAL && bodies == Bodies::Entries {
            continue;
        }
        let body = body(row.get_ref(5).map_err(sqlite)?, bodies)
            .map_err(|why| LedgerError::damaged(view.path, format!("row {seq}: {why}")))?;
        let line = json!({
            "seq": seq, "at_unix_ms": at, "kind": kind, "rollout": rollout, "body": body,
            "hash": to_hex(&hash),
        });
        let written = writeln!(out, "{line}");
        written.map_err(|error| LedgerError::NotExported { why: error.to_string() })?;
        count += 1;
    }
    Ok(count)
}

fn body(stored: ValueRef<'_>, bodies: Bodies) -> Result<Value, String> {
    match stored {
        ValueRef::Text(text) => serde_json::from_slice(text).map_err(|error| error.to_string()),
        ValueRef::Blob(bytes) if bodies == Bodies::Raw => Ok(Value::String(to_hex(bytes))),
        ValueRef::Blob(bytes) => {
            let batch = codec::decode(bytes).map_err(|error| error.to_string())?;
            let numbered = (batch.first..).zip(batch.events);
            let events = numbered.map(|(number, (at, event))| expanded(number, at, &event));
            Ok(Value::Array(events.collect()))
        }
        _ => Err("its body is neither text nor bytes".to_owned()),
    }
}

fn expanded(number: u64, at: Duration, event: &Event) -> Value {
    let (kind, fields) = match event {
        Event::Start { rollout, self_test } => {
            ("start", json!({"rollout": rollout, "self_test": self_test}))
        }
        Event::Outcome(outcome) => ("outcome", outcome_fields(outcome)),
        Event::Feedback { arm, stage, positive, origin } => {
            let fields = json!({"arm": arm.as_str(), "stage": stage, "positive": positive});
            ("feedback", with_origin(fields, origin))
        }
        Event::Retry { arm, stage, origin } => {
            ("retry", with_origin(json!({"arm": arm.as_str(), "stage": stage}), origin))
        }
        Event::Reading(reading) => {
            let read = reading.read.map(|read| json!([read.nats, read.implausible]));
            let both = reading
                .agreement
                .map(|both| json!([both.kl, both.differing, both.sharper, both.excess]));
            let fields = json!({
                "writer": reading.writer.as_str(),
                "stage": reading.stage,
                "by_stable": read[0],
                "by_canary": read[1],
                "agreement": both,
                "asked_otherwise": reading.asked_otherwise,
            });
            ("reading", with_origin(fields, &reading.origin))
        }
        Event::Fault { arm, what } => ("fault", json!({"arm": arm.as_str(), "what": what})),
        Event::Throttled { time } => ("throttled", json!({"time": time.as_secs_f64()})),
        Event::Tick => ("tick", Value::Null),
        Event::Operator(order) => ("operator", json!(order)),
    };
    json!({"number": number, "at": at.as_secs_f64(), kind: fields})
}

/// Adds who sent a request and how it was routed; hashes as text, since JSON readers keep 53 bits of a number.
fn with_origin(mut fields: Value, origin: &Origin) -> Value {
    let hash = |hash: Option<u64>| hash.map(|hash| format!("{hash:016x}"));
    fields["session"] = json!(hash(origin.cluster));
    fields["key"] = json!(hash(origin.party));
    fields["routed"] = json!(origin.routed.map(Weight::percent));
    fields
}

fn outcome_fields(outcome: &Outcome) -> Value {
    let seconds = |time: Option<Duration>| time.map(|time| time.as_secs_f64());
    let fields = json!({
        "arm": outcome.arm.as_str(),
        "class": outcome.class.as_str(),
        "stage": outcome.stage,
        "judged": outcome.judged,
        "ttft": seconds(outcome.ttft),
        "tpot": seconds(outcome.tpot),
        "e2e": outcome.e2e.as_secs_f64(),
        "crowd": outcome.crowd,
        "censored": outcome.censored,
        "prompt_tokens": outcome.prompt_tokens,
        "cached_tokens": outcome.cached_tokens,
        "output_tokens": outcome.output_tokens,
        "flags": outcome.flags.iter().map(Flag::as_str).collect::<Vec<_>>(),
        "matched": outcome.matched,
    });
    with_origin(fields, &outcome.origin)
}
