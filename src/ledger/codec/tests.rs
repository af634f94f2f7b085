//! Encoding and decoding give back the same bits; anything else is an error.

use proptest::prelude::*;

use super::*;
use crate::rollout::Flag;

fn arm() -> impl Strategy<Value = Arm> {
    prop_oneof![Just(Arm::Stable), Just(Arm::Canary)]
}

fn time() -> impl Strategy<Value = Duration> {
    prop_oneof![
        8 => (0u64..100_000_000_000).prop_map(Duration::from_nanos),
        2 => (any::<u64>(), 0u32..1_000_000_000).prop_map(|(s, n)| Duration::new(s, n)),
        1 => Just(Duration::MAX),
        1 => Just(Duration::ZERO),
    ]
}

fn outcome() -> impl Strategy<Value = Outcome> {
    let tokens = || prop_oneof![4 => 0u32..300, 1 => any::<u32>()];
    let flags = any::<u16>().prop_map(Flags::from_bits);
    let more = (any::<bool>(), (origin(), tokens(), tokens(), flags));
    let class = prop::sample::select(&Class::ALL[..]);
    let who = (arm(), class, prop_oneof![0u64..3, any::<u64>()], any::<bool>(), more);
    let times = (prop::option::of(time()), prop::option::of(time()), time());
    let rest = (prop_oneof![0u32..300, any::<u32>()], any::<bool>());
    (who, times, rest).prop_map(|(who, (ttft, tpot, e2e), (output_tokens, matched))| {
        let (arm, class, stage, judged, (censored, more)) = who;
        let (origin, prompt_tokens, cached_tokens, flags) = more;
        let outcome = Outcome {
            judged,
            origin,
            ttft,
            censored,
            tpot,
            e2e,
            output_tokens,
            matched,
            ..Outcome::new(arm, class, stage)
        };
        // Without a prompt there is nothing that could be cached.
        let cached_tokens = if prompt_tokens == 0 { 0 } else { cached_tokens };
        let crowd = (output_tokens % 7) as u8;
        Outcome { prompt_tokens, cached_tokens, flags, crowd, ..outcome }
    })
}

fn origin() -> impl Strategy<Value = Origin> {
    let hash = || prop::option::of(prop_oneof![any::<u64>(), Just(7u64)]);
    let share = prop::option::of(
        (0u8..=100).prop_map(|percent| Weight::new(percent).expect("at most 100")),
    );
    (hash(), hash(), share).prop_map(|(party, cluster, routed)| Origin { party, cluster, routed })
}

fn order() -> impl Strategy<Value = Order> {
    let weight = |percent| Weight::new(percent).expect("at most 100");
    let command = prop_oneof![
        Just(Operator::Pause),
        Just(Operator::Resume),
        (0u8..=100).prop_map(move |percent| Operator::SetWeight(weight(percent))),
        Just(Operator::Promote),
        Just(Operator::PromoteNow),
        Just(Operator::Rollback),
        Just(Operator::Undo),
        Just(Operator::Confirm),
    ];
    (command, any::<String>(), prop::option::of(any::<String>()))
        .prop_map(|(command, by, reason)| Order { command, by, reason })
}

fn reading() -> impl Strategy<Value = Reading> {
    let figure = || -1e6f32..1e6;
    let read =
        move || (figure(), figure()).prop_map(|(nats, implausible)| Read { nats, implausible });
    let both = (figure(), figure(), figure(), figure())
        .prop_map(|(kl, differing, sharper, excess)| Agreement { kl, differing, sharper, excess });
    (arm(), any::<u64>(), origin(), [read(), read()], prop::option::of(both), any::<bool>())
        .prop_map(|(writer, stage, origin, read, agreement, asked_otherwise)| Reading {
            writer,
            stage,
            origin,
            read,
            agreement,
            asked_otherwise,
        })
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        8 => outcome().prop_map(Event::Outcome),
        1 => (arm(), any::<u64>(), any::<bool>(), origin()).prop_map(
            |(arm, stage, positive, origin)| Event::Feedback { arm, stage, positive, origin }
        ),
        1 => (arm(), any::<u64>(), origin())
            .prop_map(|(arm, stage, origin)| Event::Retry { arm, stage, origin }),
        2 => reading().prop_map(Event::Reading),
        1 => (arm(), any::<String>()).prop_map(|(arm, what)| Event::Fault { arm, what }),
        1 => Just(Event::Tick),
        1 => time().prop_map(|time| Event::Throttled { time }),
        1 => (any::<String>(), any::<bool>())
            .prop_map(|(rollout, self_test)| Event::Start { rollout, self_test }),
        2 => order().prop_map(Event::Operator),
    ]
}

fn encode(first: u64, events: &[(Duration, Event)]) -> Vec<u8> {
    let mut batch = Batch::new(first);
    for (at, event) in events {
        batch.push(*at, event);
    }
    assert_eq!(batch.next(), first + events.len() as u64);
    batch.into_bytes()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn events_return_exactly(
        first in 0u64..1 << 40,
        events in prop::collection::vec((time(), event()), 0..40),
    ) {
        let read = decode(&encode(first, &events));
        prop_assert_eq!(read, Ok(Events { first, events }));
    }

    #[test]
    fn cut_short_or_too_long_is_an_error(
        events in prop::collection::vec((time(), event()), 1..6),
        cut in any::<prop::sample::Index>(),
    ) {
        let mut bytes = encode(0, &events);
        let short = &bytes[..cut.index(bytes.len())];
        prop_assert!(decode(short).is_err());
        bytes.push(0);
        prop_assert_eq!(decode(&bytes), Err(CodecError::Trailing(1)));
    }

    #[test]
    fn hostile_bytes_do_no_harm(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        // The version and a small count, so that random bytes often get past the header.
        let framed: Vec<u8> = [VERSION, 0, 5].into_iter().chain(bytes.iter().copied()).collect();
        for bytes in [&bytes, &framed] {
            if let Ok(read) = decode(bytes) {
                prop_assert!(read.events.len() <= bytes.len() / 2);
            }
        }
    }

    #[test]
    fn a_flipped_bit_does_no_harm(
        events in prop::collection::vec((time(), event()), 1..6),
        at in any::<prop::sample::Index>(),
        bit in 0u8..8,
    ) {
        let mut bytes = encode(0, &events);
        let at = at.index(bytes.len());
        bytes[at] ^= 1 << bit;
        prop_assert_ne!(decode(&bytes), Ok(Events { first: 0, events }));
    }
}

#[test]
fn a_false_count_asks_for_no_memory() {
    let mut bytes = vec![VERSION, 0];
    bytes.extend([0xff; 8]);
    bytes.push(0x7f);
    assert_eq!(decode(&bytes), Err(CodecError::Short));
    assert_eq!(decode(&[9]), Err(CodecError::Version(9)));
}

/// Files on users' disks must stay readable: this format may get a successor, but must not change.
#[test]
fn the_form_is_fixed() {
    let hash = Some(0x0102_0304_0506_0708);
    let outcome = Outcome {
        origin: Origin { party: hash, cluster: hash, routed: None },
        ttft: Some(Duration::from_nanos(300)),
        e2e: Duration::from_nanos(301),
        output_tokens: 2,
        ..Outcome::new(Arm::Canary, Class::Timeout, 3)
    };
    let at = Duration::from_nanos(5);
    let old = [1, 1, 1, 0x50, 10, 0x67, 3, 8, 7, 6, 5, 4, 3, 2, 1, 2, 0xac, 2, 2];
    let read = decode(&old).expect("version 1 is read");
    assert_eq!(read.events, [(at, Event::Outcome(outcome.clone()))]);
    let more = Outcome {
        origin: Origin { routed: Weight::new(90), ..outcome.origin },
        censored: true,
        prompt_tokens: 300,
        cached_tokens: 5,
        flags: Flags::NONE.with(Flag::Loop),
        crowd: 3,
        ..outcome
    };
    let bytes = encode(1, &[(at, Event::Outcome(more))]);
    let new = [
        2, 1, 1, 0x50, 10, 0x67, 3, 8, 7, 6, 5, 4, 3, 2, 1, 2, 0xac, 2, 2, 0x1f, 90, 0xac, 2, 5, 4,
        3,
    ];
    assert_eq!(bytes, new);
}

#[test]
fn an_outcome_takes_some_twenty_bytes() {
    let mut batch = Batch::new(0);
    let count = 1000;
    for number in 0..count {
        let mut outcome = crate::ledger::testing::outcome(Arm::Stable, 1, number);
        outcome.origin = Origin::default();
        batch.push(Duration::from_nanos(number * 10_123_457), &Event::Outcome(outcome));
    }
    let each = batch.into_bytes().len() as u64 / count;
    assert!(each <= 20, "{each} bytes");
}
