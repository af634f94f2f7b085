//! The journal's binary format: batches of events with their times, without loss.
//!
//! It knows the rollout's events and bytes, but not files. Times are nanoseconds, stored as the difference to
//! the previous event, so that a replay sees exactly the numbers that the machine saw.
//!
//! A request takes about 25 bytes. The decoder trusts nothing: a damaged journal must be an error, not a panic and
//! not a gigabyte of memory.
//!
//! A batch is: version, index of its first event in the rollout, count, events. An event is a tag byte whose
//! high bits hold small fields, the time difference, then the fields of its kind.

mod bytes;

#[cfg(test)]
mod tests;

use std::time::Duration;

use crate::rollout::{
    Agreement, Arm, Class, Event, Flags, Operator, Order, Origin, Outcome, Read, Reading, Weight,
};
use bytes::{Reader, Writer};

/// The format that [`Batch`] writes. Version 1 has no origin of votes and retries, and of outcomes neither the
/// routed share nor prompt tokens, quality flags and censored times.
const VERSION: u8 = 2;
/// The oldest format that is read.
const OLDEST: u8 = 1;

/// Why bytes are not a valid batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum CodecError {
    /// This build does not know the format version.
    #[error("batch version {0} is not known to this build")]
    Version(u8),
    /// The bytes end too early.
    #[error("the batch ends in the middle of an event")]
    Short,
    /// A value that no encoder writes.
    #[error("the batch has no valid {0}")]
    Invalid(&'static str),
    /// There are bytes after the last event.
    #[error("{0} bytes follow the batch's last event")]
    Trailing(usize),
}

const OUTCOME: u8 = 0;
const FEEDBACK: u8 = 1;
const RETRY: u8 = 2;
const FAULT: u8 = 3;
const TICK: u8 = 4;
const START: u8 = 5;
const OPERATOR: u8 = 6;
const THROTTLED: u8 = 7;
const READING: u8 = 8;

const JUDGED: u8 = 1;
const SESSION: u8 = 1 << 1;
const TTFT: u8 = 1 << 2;
const TPOT: u8 = 1 << 3;
const MATCHED: u8 = 1 << 4;
const KEY: u8 = 1 << 5;
const KEY_IS_SESSION: u8 = 1 << 6;
const SAME_STAGE: u8 = 1 << 7;

// The second byte of flags of an outcome.
const ROUTED: u8 = 1;
const CENSORED: u8 = 1 << 1;
const PROMPT: u8 = 1 << 2;
const QUALITY: u8 = 1 << 3;
const CROWD: u8 = 1 << 4;

// The flags of an origin.
const ORIGIN_PARTY: u8 = 1;
const ORIGIN_CLUSTER: u8 = 1 << 1;
const ORIGIN_ROUTED: u8 = 1 << 2;

// The flags of a reading; the first bit is the arm.
const AGREEMENT: u8 = 1 << 1;
const OTHERWISE: u8 = 1 << 2;

/// The state that the next event is encoded relative to.
#[derive(Debug, Clone, Copy, Default)]
struct Context {
    version: u8,
    at: Duration,
    stage: u64,
}

/// Events being collected; they become one row of the journal.
#[derive(Debug)]
pub struct Batch {
    first: u64,
    count: u64,
    context: Context,
    events: Writer,
}

impl Batch {
    /// An empty batch whose first event has number `first` in its rollout, counted from 0.
    pub fn new(first: u64) -> Batch {
        let events = Writer::with_capacity(4096);
        Batch {
            first,
            count: 0,
            context: Context { version: VERSION, ..Context::default() },
            events,
        }
    }

    /// How many events there are so far.
    pub fn count(&self) -> u64 {
        self.count
    }

    /// How many bytes there are so far.
    pub fn len(&self) -> usize {
        self.events.0.len()
    }

    /// Whether no event is in it.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// The number of the first event after this batch.
    pub fn next(&self) -> u64 {
        self.first + self.count
    }

    /// Adds an event.
    pub fn push(&mut self, at: Duration, event: &Event) {
        let (out, context) = (&mut self.events, &mut self.context);
        match event {
            Event::Outcome(outcome) => write_outcome(out, context, at, outcome),
            Event::Feedback { arm, stage, positive, origin } => {
                let fields = arm.index() as u8 | u8::from(*positive) << 1;
                head(out, context, at, FEEDBACK, fields);
                out.varint(u128::from(*stage));
                write_origin(out, origin);
            }
            Event::Retry { arm, stage, origin } => {
                head(out, context, at, RETRY, arm.index() as u8);
                out.varint(u128::from(*stage));
                write_origin(out, origin);
            }
            Event::Fault { arm, what } => {
                head(out, context, at, FAULT, arm.index() as u8);
                out.text(what);
            }
            Event::Throttled { time } => {
                head(out, context, at, THROTTLED, 0);
                out.varint(time.as_nanos());
            }
            Event::Reading(reading) => write_reading(out, context, at, reading),
            Event::Tick => head(out, context, at, TICK, 0),
            Event::Start { rollout, self_test } => {
                head(out, context, at, START, u8::from(*self_test));
                out.text(rollout);
            }
            Event::Operator(order) => write_order(out, context, at, order),
        }
        self.count += 1;
    }

    /// The batch in its stored form.
    pub fn into_bytes(self) -> Vec<u8> {
        let mut out = Writer::with_capacity(self.events.0.len() + 24);
        out.byte(VERSION);
        out.varint(u128::from(self.first));
        out.varint(u128::from(self.count));
        out.0.extend(self.events.0);
        out.0
    }
}

/// A batch read back.
#[derive(Debug, Clone, PartialEq)]
pub struct Events {
    /// The number of the first event in its rollout.
    pub first: u64,
    /// The events with their times.
    pub events: Vec<(Duration, Event)>,
}

/// Reads the output of [`Batch::into_bytes`]. Fails on any other bytes.
pub fn decode(bytes: &[u8]) -> Result<Events, CodecError> {
    let mut input = Reader(bytes);
    let version = match input.byte()? {
        known @ OLDEST..=VERSION => known,
        other => return Err(CodecError::Version(other)),
    };
    let first = input.u64("index")?;
    let count = input.u64("count")?;
    // No event is shorter than two bytes, so a false count cannot request much memory.
    if count > input.0.len() as u64 / 2 {
        return Err(CodecError::Short);
    }
    let mut events = Vec::with_capacity(count as usize);
    let mut context = Context { version, ..Context::default() };
    for _ in 0..count {
        events.push(read_event(&mut input, &mut context)?);
    }
    match input.0.len() {
        0 => Ok(Events { first, events }),
        left => Err(CodecError::Trailing(left)),
    }
}

fn head(out: &mut Writer, context: &mut Context, at: Duration, tag: u8, fields: u8) {
    out.byte(tag | fields << 4);
    out.signed(nanos(at) - nanos(context.at));
    context.at = at;
}

/// The flags that are set.
fn flags(all: &[(u8, bool)]) -> u8 {
    all.iter().fold(0, |flags, (flag, set)| if *set { flags | flag } else { flags })
}

/// Fits easily: the longest duration is below 2^94 nanoseconds.
fn nanos(duration: Duration) -> i128 {
    duration.as_nanos() as i128
}

fn write_outcome(out: &mut Writer, context: &mut Context, at: Duration, outcome: &Outcome) {
    head(out, context, at, OUTCOME, outcome.arm.index() as u8 | (outcome.class as u8) << 1);
    let Origin { party, cluster, routed } = outcome.origin;
    let key_is_session = party.is_some() && party == cluster;
    out.byte(flags(&[
        (JUDGED, outcome.judged),
        (SESSION, cluster.is_some()),
        (TTFT, outcome.ttft.is_some()),
        (TPOT, outcome.tpot.is_some()),
        (MATCHED, outcome.matched),
        (KEY, party.is_some()),
        (KEY_IS_SESSION, key_is_session),
        (SAME_STAGE, outcome.stage == context.stage),
    ]));
    if outcome.stage != context.stage {
        out.varint(u128::from(outcome.stage));
        context.stage = outcome.stage;
    }
    for hash in [cluster, party.filter(|_| !key_is_session)].into_iter().flatten() {
        out.fixed(hash);
    }
    out.varint(u128::from(outcome.output_tokens));
    for time in [outcome.ttft, outcome.tpot].into_iter().flatten() {
        out.varint(time.as_nanos());
    }
    out.signed(nanos(outcome.e2e) - expected(outcome.ttft, outcome.tpot, outcome.output_tokens));
    let (prompt, quality) = (outcome.prompt_tokens > 0, !outcome.flags.is_empty());
    out.byte(flags(&[
        (ROUTED, routed.is_some()),
        (CENSORED, outcome.censored),
        (PROMPT, prompt),
        (QUALITY, quality),
        (CROWD, outcome.crowd > 0),
    ]));
    if let Some(routed) = routed {
        out.byte(routed.percent());
    }
    if prompt {
        out.varint(u128::from(outcome.prompt_tokens));
        out.varint(u128::from(outcome.cached_tokens));
    }
    if quality {
        out.varint(u128::from(outcome.flags.bits()));
    }
    if outcome.crowd > 0 {
        out.byte(outcome.crowd);
    }
}

fn write_origin(out: &mut Writer, origin: &Origin) {
    let Origin { party, cluster, routed } = *origin;
    out.byte(flags(&[
        (ORIGIN_PARTY, party.is_some()),
        (ORIGIN_CLUSTER, cluster.is_some()),
        (ORIGIN_ROUTED, routed.is_some()),
    ]));
    [party, cluster].into_iter().flatten().for_each(|hash| out.fixed(hash));
    if let Some(routed) = routed {
        out.byte(routed.percent());
    }
}

fn write_reading(out: &mut Writer, context: &mut Context, at: Duration, reading: &Reading) {
    let Reading { writer, stage, origin, read, agreement, asked_otherwise } = reading;
    let flags = flags(&[(AGREEMENT, agreement.is_some()), (OTHERWISE, *asked_otherwise)]);
    head(out, context, at, READING, writer.index() as u8 | flags);
    out.varint(u128::from(*stage));
    write_origin(out, origin);
    let of_both = agreement.map(|both| [both.kl, both.differing, both.sharper, both.excess]);
    let of_each = read.iter().flat_map(|read| [read.nats, read.implausible]);
    of_each.chain(of_both.into_iter().flatten()).for_each(|figure| out.float(figure));
}

fn read_reading(
    input: &mut Reader<'_>,
    context: &Context,
    arm: Arm,
    fields: u8,
) -> Result<Reading, CodecError> {
    let stage = input.u64("stage")?;
    let origin = read_origin(input, context)?;
    let mut one = || Ok(Read { nats: input.float()?, implausible: input.float()? });
    let read = [one()?, one()?];
    let agreement = match fields & AGREEMENT {
        0 => None,
        _ => {
            let mut one = || input.float();
            Some(Agreement { kl: one()?, differing: one()?, sharper: one()?, excess: one()? })
        }
    };
    let asked_otherwise = fields & OTHERWISE != 0;
    Ok(Reading { writer: arm, stage, origin, read, agreement, asked_otherwise })
}

/// The end as predicted from the other figures; only the difference is stored.
fn expected(ttft: Option<Duration>, tpot: Option<Duration>, tokens: u32) -> i128 {
    let rest = tpot.map_or(0, nanos) * i128::from(tokens.saturating_sub(1));
    ttft.map_or(0, nanos) + rest
}

fn write_order(out: &mut Writer, context: &mut Context, at: Duration, order: &Order) {
    let (command, operand) = match order.command {
        Operator::Pause => (0, None),
        Operator::Resume => (1, None),
        Operator::SetWeight(weight) => (2, Some(weight.percent())),
        Operator::Promote => (3, Some(0)),
        Operator::PromoteNow => (3, Some(1)),
        Operator::Rollback => (4, None),
        Operator::Undo => (5, None),
        Operator::Confirm => (6, None),
    };
    head(out, context, at, OPERATOR, command | u8::from(order.reason.is_some()) << 3);
    if let Some(operand) = operand {
        out.byte(operand);
    }
    out.text(&order.by);
    if let Some(reason) = &order.reason {
        out.text(reason);
    }
}

fn read_event(
    input: &mut Reader<'_>,
    context: &mut Context,
) -> Result<(Duration, Event), CodecError> {
    let first = input.byte()?;
    let (tag, fields) = (first & 0xf, first >> 4);
    let at = duration(nanos(context.at).checked_add(input.signed()?), "time")?;
    context.at = at;
    let used = match tag {
        OUTCOME | OPERATOR => 0xf,
        FEEDBACK => 3,
        READING => 7,
        TICK | THROTTLED => 0,
        _ => 1,
    };
    if fields & !used != 0 {
        return Err(CodecError::Invalid("event head"));
    }
    let arm = Arm::BOTH[usize::from(fields & 1)];
    let event = match tag {
        OUTCOME => Event::Outcome(read_outcome(input, context, arm, fields >> 1)?),
        FEEDBACK => {
            let (positive, stage) = (fields & 2 != 0, input.u64("stage")?);
            Event::Feedback { arm, stage, positive, origin: read_origin(input, context)? }
        }
        RETRY => {
            let stage = input.u64("stage")?;
            Event::Retry { arm, stage, origin: read_origin(input, context)? }
        }
        READING => Event::Reading(read_reading(input, context, arm, fields)?),
        FAULT => Event::Fault { arm, what: input.text()? },
        THROTTLED => {
            let time = duration(i128::try_from(input.varint()?).ok(), "time")?;
            Event::Throttled { time }
        }
        TICK => Event::Tick,
        START => Event::Start { self_test: fields & 1 != 0, rollout: input.text()? },
        OPERATOR => Event::Operator(read_order(input, fields)?),
        _ => return Err(CodecError::Invalid("event kind")),
    };
    Ok((at, event))
}

fn read_outcome(
    input: &mut Reader<'_>,
    context: &mut Context,
    arm: Arm,
    class: u8,
) -> Result<Outcome, CodecError> {
    let class = Class::ALL.get(usize::from(class)).ok_or(CodecError::Invalid("class"))?;
    let flags = input.byte()?;
    let has = |flag: u8| flags & flag != 0;
    if !has(SAME_STAGE) {
        context.stage = input.u64("stage")?;
    }
    let cluster = if has(SESSION) { Some(input.fixed()?) } else { None };
    let party = match (has(KEY), has(KEY_IS_SESSION)) {
        (false, false) => None,
        (true, true) if cluster.is_some() => cluster,
        (true, false) => Some(input.fixed()?),
        _ => return Err(CodecError::Invalid("key")),
    };
    let tokens = u32::try_from(input.varint()?).map_err(|_| CodecError::Invalid("token count"))?;
    let mut time = |flag: u8| match has(flag) {
        true => duration(i128::try_from(input.varint()?).ok(), "latency").map(Some),
        false => Ok(None),
    };
    let (ttft, tpot) = (time(TTFT)?, time(TPOT)?);
    let e2e = duration(expected(ttft, tpot, tokens).checked_add(input.signed()?), "latency")?;
    let outcome = Outcome {
        judged: has(JUDGED),
        origin: Origin { party, cluster, routed: None },
        ttft,
        tpot,
        e2e,
        output_tokens: tokens,
        matched: has(MATCHED),
        ..Outcome::new(arm, *class, context.stage)
    };
    if context.version == OLDEST { Ok(outcome) } else { read_more(input, outcome) }
}

/// The fields that version 1 does not have.
fn read_more(input: &mut Reader<'_>, mut outcome: Outcome) -> Result<Outcome, CodecError> {
    let flags = input.byte()?;
    let has = |flag: u8| flags & flag != 0;
    if flags & !(ROUTED | CENSORED | PROMPT | QUALITY | CROWD) != 0 {
        return Err(CodecError::Invalid("outcome flags"));
    }
    let mut count =
        |what| input.varint().and_then(|n| u32::try_from(n).map_err(|_| CodecError::Invalid(what)));
    outcome.censored = has(CENSORED);
    if has(ROUTED) {
        let percent = u8::try_from(count("share")?).ok().and_then(Weight::new);
        outcome.origin.routed = Some(percent.ok_or(CodecError::Invalid("share"))?);
    }
    if has(PROMPT) {
        outcome.prompt_tokens = count("token count")?;
        outcome.cached_tokens = count("token count")?;
    }
    if has(QUALITY) {
        let bits = count("quality flags")?;
        let known = u16::try_from(bits).map(Flags::from_bits).unwrap_or_default();
        if u32::from(known.bits()) != bits || known.is_empty() {
            return Err(CodecError::Invalid("quality flags"));
        }
        outcome.flags = known;
    }
    if has(CROWD) {
        outcome.crowd = input.byte()?;
    }
    if has(CROWD) && outcome.crowd == 0 {
        return Err(CodecError::Invalid("step size"));
    }
    if has(PROMPT) && outcome.prompt_tokens == 0 {
        return Err(CodecError::Invalid("token count"));
    }
    Ok(outcome)
}

fn read_origin(input: &mut Reader<'_>, context: &Context) -> Result<Origin, CodecError> {
    if context.version == OLDEST {
        return Ok(Origin::default());
    }
    let flags = input.byte()?;
    let has = |flag: u8| flags & flag != 0;
    if flags & !(ORIGIN_PARTY | ORIGIN_CLUSTER | ORIGIN_ROUTED) != 0 {
        return Err(CodecError::Invalid("origin"));
    }
    let party = if has(ORIGIN_PARTY) { Some(input.fixed()?) } else { None };
    let cluster = if has(ORIGIN_CLUSTER) { Some(input.fixed()?) } else { None };
    let routed = match has(ORIGIN_ROUTED) {
        true => Some(Weight::new(input.byte()?).ok_or(CodecError::Invalid("share"))?),
        false => None,
    };
    Ok(Origin { party, cluster, routed })
}

fn read_order(input: &mut Reader<'_>, fields: u8) -> Result<Order, CodecError> {
    let command = match fields & 7 {
        0 => Operator::Pause,
        1 => Operator::Resume,
        2 => {
            let weight = Weight::new(input.byte()?).ok_or(CodecError::Invalid("weight"))?;
            Operator::SetWeight(weight)
        }
        3 => match input.byte()? {
            0 => Operator::Promote,
            1 => Operator::PromoteNow,
            _ => return Err(CodecError::Invalid("command")),
        },
        4 => Operator::Rollback,
        5 => Operator::Undo,
        6 => Operator::Confirm,
        _ => return Err(CodecError::Invalid("command")),
    };
    let by = input.text()?;
    let reason = if fields & 8 != 0 { Some(input.text()?) } else { None };
    Ok(Order { command, by, reason })
}

fn duration(nanos: Option<i128>, what: &'static str) -> Result<Duration, CodecError> {
    const SECOND: u128 = 1_000_000_000;
    let nanos = nanos.and_then(|n| u128::try_from(n).ok()).ok_or(CodecError::Invalid(what))?;
    let seconds = u64::try_from(nanos / SECOND).map_err(|_| CodecError::Invalid(what))?;
    Ok(Duration::new(seconds, (nanos % SECOND) as u32))
}
