//! Records a finished request: its metrics, its flags, its outcome for the rollout, and which arm wrote the reply.
//!
//! It is called once for each attempt, however the attempt ends. `class` classifies the end, and `quality` finds the
//! flags.

use super::attempt::Played;
use super::quality;
use super::traffic::{RequestSample, Traffic};
use super::types::{Finish, GenerateRequest};
use crate::control::Control;
use crate::metrics;
use crate::rollout::{Arm, Class, Flags, Outcome};
use crate::routing::{Assignment, Deployment};
use std::time::Instant;

/// A request that its arm could not even begin.
pub(super) fn not_begun(
    control: &Control,
    traffic: &Traffic,
    arrived: Instant,
    assignment: &Assignment,
    class: Class,
    now: Instant,
) {
    let who = who(control, assignment.arm, &assignment.deployment);
    metrics::request(who, class.as_str(), &Default::default());
    traffic.note(assignment.deployment.lane, unread(class, now));
    let flags = match compared(control, assignment.arm) {
        true => quality::unanswered(class, false),
        false => Flags::NONE,
    };
    metrics::reply_flags(who, flags);
    control.record(Outcome {
        judged: assignment.judged,
        origin: assignment.origin,
        e2e: now.saturating_duration_since(arrived),
        flags,
        ..Outcome::new(assignment.arm, class, assignment.stage)
    });
}

/// A request that stable has no room for, refused before it was read.
pub(super) fn refused(control: &Control, traffic: &Traffic, stable: &Deployment, now: Instant) {
    let who = who(control, Arm::Stable, stable);
    metrics::request(who, Class::Rejected.as_str(), &Default::default());
    traffic.note(stable.lane, unread(Class::Rejected, now));
}

/// A request of which no token was computed.
fn unread(class: Class, at: Instant) -> RequestSample {
    RequestSample { at, class, finish: None, ttft: None, tpot: None, output_tokens: 0 }
}

/// An attempt that has ended. The rollout acts on it before this returns.
pub(super) fn played(
    control: &Control,
    traffic: &Traffic,
    request: &GenerateRequest,
    conversation: u64,
    played: &Played,
    class: Class,
    now: Instant,
) {
    let Assignment { arm, stage, judged, origin, deployment, .. } = &played.assignment;
    let who = who(control, *arm, deployment);
    metrics::request(who, class.as_str(), &played.timings);
    let Played { timings, collected, .. } = played;
    let sample = RequestSample {
        at: now,
        class,
        finish: collected.finish(),
        ttft: timings.first_token,
        tpot: timings.per_token(),
        output_tokens: timings.output_tokens,
    };
    traffic.note(deployment.lane, sample);
    if played.served.rescued && class == Class::Ok {
        metrics::rescued(who);
    }
    if let Some(reason) =
        played.collected.finish().map(Finish::as_str).filter(|_| class == Class::Ok)
    {
        metrics::finished(who, reason);
    }
    // Only then is there something that a person could judge.
    if class == Class::Ok {
        control.remember_author(request.id.clone(), conversation, &played.assignment);
    }
    let count = |tokens: usize| u32::try_from(tokens).unwrap_or(u32::MAX);
    let left = class == Class::ClientCancel && played.ttft.is_none();
    let flags = flags(control, request, played, class);
    metrics::reply_flags(who, flags);
    control.record(Outcome {
        judged: *judged,
        origin: *origin,
        ttft: played.ttft.or(left.then_some(played.waited)),
        crowd: played.crowd,
        censored: left,
        tpot: played.tpot,
        e2e: played.timings.total,
        prompt_tokens: count(played.timings.prompt_tokens),
        cached_tokens: count(played.timings.cached_tokens),
        output_tokens: count(played.timings.output_tokens),
        matched: played.matched,
        flags,
        ..Outcome::new(*arm, class, *stage)
    });
}

/// The flags of an attempt; none while there is nothing to compare them with.
fn flags(control: &Control, request: &GenerateRequest, played: &Played, class: Class) -> Flags {
    let Assignment { arm, deployment, .. } = &played.assignment;
    if !compared(control, *arm) {
        return Flags::NONE;
    }
    match class {
        Class::Ok => {
            let (codec, manner) = (&deployment.codec, &played.served.manner);
            played.collected.flags(request, &played.tokens, codec, manner)
        }
        class => quality::unanswered(class, played.started),
    }
}

/// Whether what this arm does is compared with another's: the canary's always, stable's while there is a canary.
fn compared(control: &Control, arm: Arm) -> bool {
    arm == Arm::Canary || control.models().canary.is_some()
}

fn who<'a>(control: &'a Control, arm: Arm, deployment: &'a Deployment) -> metrics::Who<'a> {
    metrics::Who { model: control.name(), arm, version: &deployment.version }
}
